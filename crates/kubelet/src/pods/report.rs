//! Writes a pod's status to the API, and deletes the pod there when it is over. One task per pod: only the
//! newest status counts, and an API that is away delays it, nothing else.

use super::spec::PodId;
use super::worker::Update;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Pause after a failed write: the first one, and the longest.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// When somebody else writes a condition that is ours, as the node controller does when the node was silent, it is
/// written again after so long: not at once, since who does not hear the node would answer at once, too.
const CORRECTION: Duration = Duration::from_secs(1);
/// Conditions that the kubelet owns; the others are kept as the API has them.
const OWN: [&str; 7] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
];

#[derive(Clone, Debug, Default)]
struct Wanted {
    number: u64,
    status: Option<PodStatus>,
    delete: bool,
}

/// Reports one pod.
pub struct Reporter {
    wanted: watch::Sender<Wanted>,
    done: watch::Receiver<u64>,
    _task: AbortOnDropHandle<()>,
}

impl Reporter {
    /// Starts the task. `updates` is what the API says about the pod.
    pub fn new(api: Api<Pod>, id: PodId, updates: watch::Receiver<Update>) -> Self {
        let (wanted, receiver) = watch::channel(Wanted::default());
        let (sender, done) = watch::channel(0);
        let writer = Writer { api, id, updates };
        let task = tokio::spawn(writer.run(receiver, sender));
        Self {
            wanted,
            done,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Reports a status; returns at once.
    pub fn report(&self, status: PodStatus) {
        self.wanted.send_if_modified(|wanted| {
            if wanted.status.as_ref() == Some(&status) {
                return false;
            }
            wanted.number += 1;
            wanted.status = Some(status);
            true
        });
    }

    /// Deletes the pod for good once its last status is written; returns at once.
    pub fn delete(&self) {
        self.wanted.send_modify(|wanted| {
            wanted.number += 1;
            wanted.delete = true;
        });
    }

    /// Waits until everything so far has reached the API, or the pod is gone there.
    pub async fn flush(&self) {
        let number = self.wanted.borrow().number;
        // The task lives as long as self.
        let _ = self.done.clone().wait_for(|done| *done >= number).await;
    }
}

struct Writer {
    api: Api<Pod>,
    id: PodId,
    updates: watch::Receiver<Update>,
}

/// Writes into the status of a pod that the kubelet ends that it is not the pod's own failure, for whoever counts
/// those. Best effort, once.
pub async fn note_disruption(client: &kube::Client, pod: &Pod, message: &str) {
    let meta = &pod.metadata;
    let api: Api<Pod> = Api::namespaced(client.clone(), meta.namespace.as_deref().unwrap_or_default());
    let now = k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": message,
        "lastTransitionTime": now.to_string(),
    });
    let patch = json!({"metadata": {"uid": meta.uid}, "status": {"conditions": [condition]}});
    let name = meta.name.as_deref().unwrap_or_default();
    let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
    let written = api.patch_status(name, &params, &patch);
    if let Ok(Err(error)) = tokio::time::timeout(TIMEOUT, written).await {
        tracing::debug!(pod = name, %error, "disruption not noted");
    }
}

enum Outcome {
    Written,
    Again,
}

impl Writer {
    async fn run(self, mut wanted: watch::Receiver<Wanted>, done: watch::Sender<u64>) {
        let mut pause = RETRY_FIRST;
        let mut fresh: Option<Pod> = None;
        let mut updates = self.updates.clone();
        let mut correct = false;
        loop {
            let now = wanted.borrow_and_update().clone();
            if now.number > *done.borrow() || correct {
                match tokio::time::timeout(TIMEOUT, self.write(&now, &mut fresh)).await {
                    Ok(Ok(Outcome::Written)) => {
                        done.send_replace(now.number);
                        correct = false;
                        pause = RETRY_FIRST;
                    }
                    Ok(Ok(Outcome::Again)) => {}
                    other => {
                        match other {
                            // The API is there and does not want it.
                            Ok(Err(error @ kube::Error::Api(_))) => {
                                tracing::info!(pod = %self.id, %error, "status refused");
                            }
                            Ok(Err(error)) => tracing::debug!(pod = %self.id, %error, "status not written"),
                            _ => {}
                        }
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(RETRY_MAX);
                    }
                }
                continue;
            }
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                // Its sender may be gone while the last status is still to be written.
                Ok(()) = updates.changed() => {
                    if self.is_overruled(&now, fresh.as_ref()) {
                        tokio::time::sleep(CORRECTION).await;
                        correct = self.is_overruled(&now, fresh.as_ref());
                    }
                }
            }
        }
    }

    /// Whether a condition of ours is in the API otherwise than we want it, of a pod that goes on.
    fn is_overruled(&self, wanted: &Wanted, fresh: Option<&Pod>) -> bool {
        let Some(status) = wanted.status.as_ref().filter(|_| !wanted.delete) else {
            return false;
        };
        let known = self.newest(fresh);
        known.metadata.uid.as_deref() == Some(&self.id.uid)
            && !self.updates.borrow().gone
            && overruled(&known, status)
    }

    /// `fresh` is the pod as the last request returned it; what the watch says is often older.
    async fn write(&self, wanted: &Wanted, fresh: &mut Option<Pod>) -> kube::Result<Outcome> {
        let known = self.newest(fresh.as_ref());
        if known.metadata.uid.as_deref() != Some(&self.id.uid) || self.updates.borrow().gone {
            return Ok(Outcome::Written);
        }
        if let Some(status) = &wanted.status {
            let patch = patch(&known, status);
            if let Some(patch) = patch {
                let params = PatchParams::default();
                match self
                    .api
                    .patch_status(&self.id.name, &params, &Patch::Merge(patch))
                    .await
                {
                    Ok(pod) => *fresh = Some(pod),
                    Err(kube::Error::Api(error)) if error.code == 404 => return Ok(Outcome::Written),
                    Err(kube::Error::Api(error)) if error.code == 409 => {
                        match self.api.get_opt(&self.id.name).await? {
                            Some(pod) if pod.metadata.uid.as_deref() == Some(&self.id.uid) => {
                                *fresh = Some(pod)
                            }
                            _ => return Ok(Outcome::Written),
                        }
                        return Ok(Outcome::Again);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        if wanted.delete {
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions {
                    uid: Some(self.id.uid.clone()),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            match self.api.delete(&self.id.name, &params).await {
                Ok(_) => {}
                // Gone already, or replaced by another pod of this name.
                Err(kube::Error::Api(error)) if error.code == 404 || error.code == 409 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Outcome::Written)
    }

    fn newest(&self, fresh: Option<&Pod>) -> Arc<Pod> {
        let watched = self.updates.borrow().pod.clone();
        let version = |pod: &Pod| {
            let text = pod.metadata.resource_version.as_deref().unwrap_or_default();
            text.parse::<u64>().unwrap_or(0)
        };
        match fresh {
            Some(fresh) if version(fresh) > version(&watched) => Arc::new(fresh.clone()),
            _ => watched,
        }
    }
}

/// Whether `known` has conditions of ours with another status. What others have ended stays ended.
fn overruled(known: &Pod, status: &PodStatus) -> bool {
    let Some(old) = &known.status else { return true };
    if matches!(old.phase.as_deref(), Some("Failed" | "Succeeded")) {
        return false;
    }
    let there = |own: &PodCondition| {
        let mut known = old.conditions.iter().flatten();
        known.any(|c| c.type_ == own.type_ && c.status == own.status)
    };
    let mut ours = status.conditions.iter().flatten();
    !ours.all(|c| !OWN.contains(&c.type_.as_str()) || there(c))
}

/// The patch that makes the status of `known` the given one; `None` when it is already. It names the version
/// that it was made from, so that nothing which somebody else wrote meanwhile is lost.
fn patch(known: &Pod, status: &PodStatus) -> Option<Value> {
    let old = known.status.clone().unwrap_or_default();
    let mut new = status.clone();
    let others = old
        .conditions
        .iter()
        .flatten()
        .filter(|c| !OWN.contains(&c.type_.as_str()));
    let mut conditions = new.conditions.take().unwrap_or_default();
    conditions.retain(|c| OWN.contains(&c.type_.as_str()));
    conditions.extend(others.cloned());
    new.conditions = Some(conditions);
    new.nominated_node_name.clone_from(&old.nominated_node_name);
    new.resize.clone_from(&old.resize);
    new.resource_claim_statuses
        .clone_from(&old.resource_claim_statuses);
    let (old, new) = (serde_json::to_value(old).ok()?, serde_json::to_value(new).ok()?);
    let difference = difference(&old, &new)?;
    Some(json!({
        "metadata": {"uid": known.metadata.uid, "resourceVersion": known.metadata.resource_version},
        "status": difference,
    }))
}

/// The JSON merge patch (RFC 7386) from `old` to `new`; `None` when they are equal.
fn difference(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut patch = Map::new();
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in after {
        match before.get(key) {
            None => {
                patch.insert(key.clone(), value.clone());
            }
            Some(old) => {
                if let Some(difference) = difference(old, value) {
                    patch.insert(key.clone(), difference);
                }
            }
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keeps_the_conditions_of_others() {
        let known: Pod = serde_json::from_value(json!({
            "metadata": {"uid": "u", "resourceVersion": "7"},
            "status": {"phase": "Pending", "message": "x", "conditions": [
                {"type": "Ready", "status": "False"}, {"type": "x/y", "status": "True"}]},
        }))
        .expect("a pod");
        let status: PodStatus = serde_json::from_value(json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True"}, {"type": "x/y", "status": "False"}]}))
        .expect("a status");
        let patch = patch(&known, &status).expect("a difference");
        assert_eq!(
            patch,
            json!({"metadata": {"uid": "u", "resourceVersion": "7"}, "status": {"phase": "Running", "message": null,
                "conditions": [{"type": "Ready", "status": "True"}, {"type": "x/y", "status": "True"}]}})
        );
    }

    #[test]
    fn what_others_say_of_our_conditions_is_noticed() {
        let pod = |phase: &str, ready: &str, other: &str| -> Pod {
            serde_json::from_value(
                json!({"metadata": {"uid": "u"}, "status": {"phase": phase, "conditions": [
                {"type": "Ready", "status": ready}, {"type": "x/y", "status": other}]}}),
            )
            .expect("a pod")
        };
        let ours = pod("Running", "True", "True").status.expect("a status");
        assert!(!overruled(&pod("Running", "True", "True"), &ours));
        assert!(!overruled(&pod("Running", "True", "False"), &ours));
        assert!(overruled(&pod("Running", "False", "True"), &ours));
        // Whoever ended the pod has the last word.
        assert!(!overruled(&pod("Failed", "False", "True"), &ours));
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            (0u8..4).prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            proptest::collection::btree_map("[a-c]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect()))
        })
    }

    fn apply(target: &mut Value, patch: &Value) {
        let Value::Object(patch) = patch else {
            *target = patch.clone();
            return;
        };
        if !target.is_object() {
            *target = json!({});
        }
        let map = target.as_object_mut().expect("just made one");
        for (key, value) in patch {
            if value.is_null() {
                map.remove(key);
            } else {
                apply(map.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }

    proptest! {
        #[test]
        fn the_patch_leads_from_old_to_new(old in values(), new in values()) {
            let mut result = old.clone();
            if let Some(patch) = difference(&old, &new) {
                apply(&mut result, &patch);
            }
            prop_assert_eq!(result, new);
        }
    }
}
