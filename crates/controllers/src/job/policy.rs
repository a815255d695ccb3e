//! What a Job's own rules say about pods that ended: which failures count (KEP-3329), which indexes have failed for
//! good (KEP-3850), and whether enough has succeeded (KEP-3998). Pure.

use super::plan::parse_indexes;
use super::pods_of;
use client::pods;
use k8s_openapi::api::batch::v1::{JobSpec, PodFailurePolicyOnExitCodesRequirement};
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What comes of a failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is one failure more.
    Count,
    /// As if it had never been.
    Ignore,
    /// Its index is not tried again.
    FailIndex,
    /// The whole Job has failed; why.
    FailJob(String),
}

/// What the first rule that fits says about a failed pod.
pub fn judge(spec: &JobSpec, pod: &Pod) -> Verdict {
    let rules = spec.pod_failure_policy.iter().flat_map(|policy| &policy.rules);
    for (number, rule) in rules.enumerate() {
        let found = match (&rule.on_exit_codes, &rule.on_pod_conditions) {
            (Some(codes), _) => exit_code(codes, pod),
            (None, Some(patterns)) => {
                let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
                let mut met = conditions.filter(|condition| {
                    patterns.iter().any(|pattern| {
                        pattern.type_ == condition.type_
                            && pattern.status.as_deref().unwrap_or("True") == condition.status
                    })
                });
                met.next()
                    .map(|c| format!("Pod {} has condition {}", full_name(pod), c.type_))
            }
            (None, None) => None,
        };
        let Some(found) = found else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(format!("{found} matching FailJob rule at index {number}")),
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

fn full_name(pod: &Pod) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}/{}", part(&pod.metadata.namespace), part(&pod.metadata.name))
}

fn exit_code(rule: &PodFailurePolicyOnExitCodesRequirement, pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let init = status.init_container_statuses.iter().flatten();
    let mut containers = status.container_statuses.iter().flatten().chain(init);
    containers.find_map(|container| {
        let named = rule
            .container_name
            .as_ref()
            .is_none_or(|name| *name == container.name);
        let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
        let listed = rule.values.contains(&code);
        let fits = if rule.operator == "NotIn" { !listed } else { listed };
        (named && code != 0 && fits).then(|| {
            format!(
                "Container {} for pod {} failed with exit code {code}",
                container.name,
                full_name(pod)
            )
        })
    })
}

/// How often an index has failed, as far as its pods that are still there tell.
pub fn failures_of(spec: &JobSpec, index: i32, mine: &[Arc<Pod>]) -> i32 {
    let failed = mine
        .iter()
        .filter(|pod| pods::phase(pod) == "Failed" && pods_of::index_of(pod) == Some(index));
    failed
        .map(|pod| pods_of::failures_before(pod) + i32::from(judge(spec, pod) != Verdict::Ignore))
        .max()
        .unwrap_or(0)
}

/// Indexes that have failed for good: those known, and what the pods say.
pub fn failed_indexes(spec: &JobSpec, known: &str, mine: &[Arc<Pod>]) -> BTreeSet<i32> {
    let completions = spec.completions.unwrap_or(0);
    let mut failed = parse_indexes(known, completions);
    let Some(limit) = spec.backoff_limit_per_index else {
        return failed;
    };
    for pod in mine.iter().filter(|pod| pods::phase(pod) == "Failed") {
        let Some(index) = pods_of::index_of(pod).filter(|index| *index < completions) else {
            continue;
        };
        let over = match judge(spec, pod) {
            Verdict::FailIndex => true,
            Verdict::Ignore => false,
            _ => pods_of::failures_before(pod) >= limit,
        };
        if over {
            failed.insert(index);
        }
    }
    failed
}

/// Why the Job has failed, if one of its pods says so.
pub fn failure(spec: &JobSpec, mine: &[Arc<Pod>]) -> Option<String> {
    let mut failed = mine.iter().filter(|pod| pods::phase(pod) == "Failed");
    failed.find_map(|pod| match judge(spec, pod) {
        Verdict::FailJob(message) => Some(message),
        _ => None,
    })
}

/// The first rule of the success policy that is met, by its number.
pub fn success(spec: &JobSpec, done: &BTreeSet<i32>) -> Option<usize> {
    let completions = spec.completions.unwrap_or(0);
    let policy = spec.success_policy.as_ref()?;
    policy.rules.iter().position(|rule| {
        let wanted = rule.succeeded_indexes.as_deref();
        let wanted = wanted.map(|text| parse_indexes(text, completions));
        let met = wanted
            .as_ref()
            .map_or(done.len(), |w| w.intersection(done).count());
        let enough = rule.succeeded_count.and_then(|count| usize::try_from(count).ok());
        match (enough, wanted) {
            (Some(enough), _) => met >= enough,
            (None, Some(wanted)) => met == wanted.len(),
            (None, None) => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(more: &Value) -> JobSpec {
        let mut spec = json!({"template": {}, "completions": 4, "completionMode": "Indexed"});
        for (key, value) in more.as_object().expect("fields") {
            spec[key] = value.clone();
        }
        serde_json::from_value(spec).expect("a spec")
    }

    fn failed(index: i32, before: i32, code: i32) -> Arc<Pod> {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "n", "annotations": {
                "batch.kubernetes.io/job-completion-index": index.to_string(),
                "batch.kubernetes.io/job-index-failure-count": before.to_string()}},
            "status": {"phase": "Failed",
                "conditions": [{"type": "DisruptionTarget", "status": if code == 0 { "True" } else { "False" }}],
                "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": code}}}]},
        });
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let spec = spec(&json!({"podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [3, 42]}},
            {"action": "FailIndex", "onExitCodes": {"containerName": "c", "operator": "NotIn", "values": [1]}},
        ]}}));
        assert_eq!(judge(&spec, &failed(0, 0, 0)), Verdict::Ignore);
        let why = "Container c for pod n/p failed with exit code 42 matching FailJob rule at index 1";
        assert_eq!(judge(&spec, &failed(0, 0, 42)), Verdict::FailJob(why.into()));
        assert_eq!(judge(&spec, &failed(0, 0, 2)), Verdict::FailIndex);
        assert_eq!(judge(&spec, &failed(0, 0, 1)), Verdict::Count);
        assert_eq!(
            failure(&spec, &[failed(0, 0, 1), failed(0, 0, 42)]).as_deref(),
            Some(why)
        );
    }

    #[test]
    fn an_index_fails_once_its_failures_exceed_its_limit() {
        let spec = spec(&json!({"backoffLimitPerIndex": 1}));
        let pods = [failed(0, 0, 1), failed(1, 0, 1), failed(1, 1, 1)];
        assert_eq!(failed_indexes(&spec, "3", &pods), BTreeSet::from([1, 3]));
        assert_eq!(
            (failures_of(&spec, 0, &pods), failures_of(&spec, 1, &pods)),
            (1, 2)
        );
        assert_eq!(failures_of(&spec, 2, &pods), 0);
    }

    #[test]
    fn enough_successes_are_a_rule_of_their_own() {
        let done = BTreeSet::from([0, 2]);
        let met = |rule: Value| success(&spec(&json!({"successPolicy": {"rules": [rule]}})), &done).is_some();
        assert!(met(json!({"succeededCount": 2})) && !met(json!({"succeededCount": 3})));
        assert!(met(json!({"succeededIndexes": "0,2"})) && !met(json!({"succeededIndexes": "0-2"})));
        assert!(met(json!({"succeededIndexes": "0-2", "succeededCount": 2})));
        assert!(!met(json!({"succeededIndexes": "1-3", "succeededCount": 2})));
        assert_eq!(success(&spec(&json!({})), &done), None);
    }
}
