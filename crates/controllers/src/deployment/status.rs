//! The status of a Deployment: what `kubectl rollout status` waits for, and the deadline of its progress.

use super::plan::Limits;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use std::sync::Arc;

/// Reason of the condition Progressing once all is done.
pub const DONE: &str = "NewReplicaSetAvailable";
/// Reason of the condition Progressing when nothing moved for too long.
pub const TIMED_OUT: &str = "ProgressDeadlineExceeded";
/// No deadline.
const FOREVER_SECONDS: i32 = i32::MAX;
const DEFAULT_DEADLINE_SECONDS: i32 = 600;

/// Numbers over a Deployment's ReplicaSets.
fn total(sets: &[&Arc<ReplicaSet>], field: impl Fn(&ReplicaSet) -> Option<i32>) -> i32 {
    sets.iter().filter_map(|set| field(set)).sum()
}

/// The status without the condition Progressing, which [`progress`] adds.
pub fn calculate(
    deployment: &Deployment,
    limits: Limits,
    new: Option<&Arc<ReplicaSet>>,
    all: &[Arc<ReplicaSet>],
    now: Timestamp,
) -> DeploymentStatus {
    let every: Vec<&Arc<ReplicaSet>> = all.iter().collect();
    let newest: Vec<&Arc<ReplicaSet>> = new.into_iter().collect();
    let old = deployment.status.clone().unwrap_or_default();
    let some = |n: i32| (n > 0).then_some(n);
    let replicas = |set: &ReplicaSet| set.status.as_ref().map(|s| s.replicas);
    let available = total(&every, |set| set.status.as_ref()?.available_replicas);
    let desired = total(&every, |set| set.spec.as_ref()?.replicas);
    let mut conditions = old.conditions.unwrap_or_default();
    let (status, reason, message) = if available >= limits.fewest() {
        (
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        )
    } else {
        (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    };
    set_condition(&mut conditions, "Available", status, reason, message.into(), now);
    let failed = all.iter().find_map(|set| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions
            .iter()
            .find(|c| c.type_ == "ReplicaFailure" && c.status == "True")
            .cloned()
    });
    match failed {
        Some(f) => set_condition(
            &mut conditions,
            "ReplicaFailure",
            "True",
            f.reason.as_deref().unwrap_or_default(),
            f.message.unwrap_or_default(),
            now,
        ),
        None => conditions.retain(|c| c.type_ != "ReplicaFailure"),
    }
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(total(&every, replicas)),
        updated_replicas: some(total(&newest, replicas)),
        ready_replicas: some(total(&every, |set| set.status.as_ref()?.ready_replicas)),
        available_replicas: some(available),
        unavailable_replicas: some(desired - available),
        collision_count: old.collision_count,
        conditions: Some(conditions),
        terminating_replicas: old.terminating_replicas,
    }
}

/// Sets a condition. Its times move only as they should: the transition with the status, the update with
/// anything.
pub fn set_condition(
    conditions: &mut Vec<DeploymentCondition>,
    kind: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    let known = conditions.iter().position(|c| c.type_ == kind);
    let mut transition = Some(Time(now));
    if let Some(index) = known {
        let old = &conditions[index];
        let same = old.status == status && old.reason.as_deref() == Some(reason);
        if same && (kind != "Progressing" || old.message.as_deref() == Some(&message)) {
            return;
        }
        if old.status == status {
            transition.clone_from(&old.last_transition_time);
        }
    }
    let condition = DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_transition_time: transition,
        last_update_time: Some(Time(now)),
    };
    match known {
        Some(index) => conditions[index] = condition,
        None => conditions.push(condition),
    }
}

fn progressing(status: Option<&DeploymentStatus>) -> Option<&DeploymentCondition> {
    status?
        .conditions
        .as_ref()?
        .iter()
        .find(|c| c.type_ == "Progressing")
}

/// True when the update is finished: as many updated, existing and available pods as wanted, and nothing else.
pub fn complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation >= deployment.metadata.generation
}

fn moved(old: Option<&DeploymentStatus>, new: &DeploymentStatus) -> bool {
    let default = DeploymentStatus::default();
    let old = old.unwrap_or(&default);
    let outdated = |s: &DeploymentStatus| s.replicas.unwrap_or(0) - s.updated_replicas.unwrap_or(0);
    new.updated_replicas > old.updated_replicas
        || outdated(new) < outdated(old)
        || new.ready_replicas > old.ready_replicas
        || new.available_replicas > old.available_replicas
}

/// Keeps the condition Progressing and tells after how many seconds to look again at the deadline.
pub fn progress(
    deployment: &Deployment,
    new: Option<&Arc<ReplicaSet>>,
    status: &mut DeploymentStatus,
    now: Timestamp,
) -> Option<u64> {
    let spec = deployment.spec.as_ref()?;
    let deadline = spec.progress_deadline_seconds.unwrap_or(DEFAULT_DEADLINE_SECONDS);
    let old = deployment.status.as_ref();
    let current = progressing(Some(status)).cloned();
    let done_before = current
        .as_ref()
        .is_some_and(|c| c.reason.as_deref() == Some(DONE));
    let finished = complete(deployment, status);
    if deadline == FOREVER_SECONDS || (done_before && finished && !moved(old, status)) {
        return None;
    }
    let subject = match new {
        Some(set) => format!(
            "ReplicaSet \"{}\"",
            set.metadata.name.as_deref().unwrap_or_default()
        ),
        None => format!(
            "Deployment \"{}\"",
            deployment.metadata.name.as_deref().unwrap_or_default()
        ),
    };
    let mut conditions = status.conditions.take().unwrap_or_default();
    let mut again = None;
    if finished {
        let message = format!("{subject} has successfully progressed.");
        set_condition(&mut conditions, "Progressing", "True", DONE, message, now);
    } else if moved(old, status) || current.is_none() {
        let message = format!("{subject} is progressing.");
        // Each step forward starts the deadline anew, so the times must move even if the words do not.
        let transition = current
            .filter(|c| c.status == "True")
            .and_then(|c| c.last_transition_time);
        conditions.retain(|c| c.type_ != "Progressing");
        set_condition(
            &mut conditions,
            "Progressing",
            "True",
            "ReplicaSetUpdated",
            message,
            now,
        );
        if let (Some(last), Some(time)) = (conditions.last_mut(), transition) {
            last.last_transition_time = Some(time);
        }
        again = u64::try_from(deadline).ok();
    } else if let Some(current) = current {
        again = wait_or_time_out(&current, deadline, &mut conditions, &subject, spec.paused, now);
    }
    status.conditions = Some(conditions);
    again
}

fn wait_or_time_out(
    current: &DeploymentCondition,
    deadline: i32,
    conditions: &mut Vec<DeploymentCondition>,
    subject: &str,
    paused: Option<bool>,
    now: Timestamp,
) -> Option<u64> {
    let reason = current.reason.as_deref().unwrap_or_default();
    if paused == Some(true) || matches!(reason, TIMED_OUT | "DeploymentPaused") {
        return None;
    }
    let since = current.last_update_time.as_ref().map_or(now, |time| time.0);
    let left = i64::from(deadline) - now.duration_since(since).as_secs();
    if left > 0 {
        return u64::try_from(left).ok();
    }
    if reason != DONE {
        let message = format!("{subject} has timed out progressing.");
        set_condition(conditions, "Progressing", "False", TIMED_OUT, message, now);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(status: serde_json::Value) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "d", "generation": 1},
            "spec": {"replicas": 2, "progressDeadlineSeconds": 60, "selector": {}, "template": {}},
            "status": status
        }))
        .unwrap()
    }

    #[test]
    fn progress_times_out_and_recovers() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut d = deployment(json!({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2}));
        let mut status = d.status.clone().unwrap();
        assert_eq!(progress(&d, None, &mut status, start), Some(60));
        d.status = Some(status.clone());
        assert_eq!(
            progress(
                &d,
                None,
                &mut status,
                start + k8s_openapi::jiff::SignedDuration::from_secs(20)
            ),
            Some(40)
        );
        let late = start + k8s_openapi::jiff::SignedDuration::from_secs(61);
        assert_eq!(progress(&d, None, &mut status, late), None);
        let condition = progressing(Some(&status)).unwrap();
        assert_eq!(
            (condition.status.as_str(), condition.reason.as_deref()),
            ("False", Some(TIMED_OUT))
        );
        d.status = Some(status.clone());
        status.available_replicas = Some(2);
        status.ready_replicas = Some(2);
        progress(&d, None, &mut status, late);
        let condition = progressing(Some(&status)).unwrap();
        assert_eq!(
            (condition.status.as_str(), condition.reason.as_deref()),
            ("True", Some(DONE))
        );
    }
}
