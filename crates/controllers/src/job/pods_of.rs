//! The pods of a Job: how they are made, and how they are recognised.

use crate::context::{Context, answered};
use crate::pod_control;
use client::pods;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;

/// Holds an ended pod until it is counted.
const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often the pod's index had failed before it was made.
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";

/// Does each pod have an index of its own?
pub fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// A pod's index.
pub fn index_of(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

/// How often the pod's index had failed before.
pub fn failures_before(pod: &Pod) -> i32 {
    let count = pod.metadata.annotations.as_ref().and_then(|a| a.get(FAILURES));
    count.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Notes how often the index of a new pod has failed.
pub fn note_failures(pod: &mut Pod, count: i32) {
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(FAILURES.into(), count.to_string());
}

/// Is the pod not counted yet?
pub fn is_held(pod: &Pod) -> bool {
    pod.metadata
        .finalizers
        .iter()
        .flatten()
        .any(|finalizer| finalizer == FINALIZER)
}

/// Does the pod wait to be counted by a Job of this name that is not the one with this UID?
pub fn is_orphan(pod: &Pod, job: &str, uid: Option<&str>) -> bool {
    is_held(pod)
        && pods::controller_of(&pod.metadata)
            .is_some_and(|owner| owner.kind == "Job" && owner.name == job && Some(owner.uid.as_str()) != uid)
}

/// Has the pod ended, or was it removed before it ever ran?
pub fn has_ended(pod: &Pod) -> bool {
    let removed = pods::is_terminating(pod)
        && (pods::node_name(pod).is_empty() || pod.metadata.deletion_grace_period_seconds == Some(0));
    pods::is_terminal(pod) || removed
}

/// When the last of the pod's containers ended.
pub fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let ends = statuses.filter_map(|status| {
        let terminated = status.state.as_ref()?.terminated.as_ref()?;
        terminated.finished_at.as_ref().map(|time| time.0)
    });
    ends.max()
        .or_else(|| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

/// A new pod.
pub fn new(job: &Job, spec: &JobSpec, index: Option<i32>) -> Pod {
    let mut pod = pod_control::from_template(job, &spec.template);
    let job_name = job.metadata.name.clone().unwrap_or_default();
    let uid = job.metadata.uid.clone().unwrap_or_default();
    let labels = pod.metadata.labels.get_or_insert_default();
    for prefix in ["batch.kubernetes.io/", ""] {
        labels.insert(format!("{prefix}controller-uid"), uid.clone());
        labels.insert(format!("{prefix}job-name"), job_name.clone());
    }
    pod.metadata
        .finalizers
        .get_or_insert_default()
        .push(FINALIZER.into());
    let Some(index) = index else { return pod };
    labels.insert(INDEX.into(), index.to_string());
    pod.metadata
        .annotations
        .get_or_insert_default()
        .insert(INDEX.into(), index.to_string());
    pod.metadata.generate_name = Some(format!("{job_name}-{index}-"));
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.hostname = Some(format!("{job_name}-{index}"));
    let variable = EnvVar {
        name: "JOB_COMPLETION_INDEX".into(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: format!("metadata.labels['{INDEX}']"),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    let init = pod_spec.init_containers.iter_mut().flatten();
    for container in pod_spec.containers.iter_mut().chain(init) {
        let env = container.env.get_or_insert_default();
        if env.iter().all(|known| known.name != variable.name) {
            env.push(variable.clone());
        }
    }
    pod
}

/// Takes the finalizer from a pod that was counted, or whose Job does not count any more.
pub async fn release(context: &Context, pod: &Pod) -> kube::Result<()> {
    if !is_held(pod) {
        return Ok(());
    }
    let meta = &pod.metadata;
    let rest: Vec<&String> = meta
        .finalizers
        .iter()
        .flatten()
        .filter(|finalizer| *finalizer != FINALIZER)
        .collect();
    let patch = serde_json::json!({"metadata": {
        "finalizers": rest, "uid": meta.uid, "resourceVersion": meta.resource_version,
    }});
    let api: Api<Pod> = context.api(meta.namespace.as_deref().unwrap_or_default());
    let name = meta.name.as_deref().unwrap_or_default();
    match context.merge(&api, &context.pods, name, patch).await {
        Ok(_) => Ok(()),
        Err(error) if answered(&error, 404) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_orphan_is_held_for_a_job_that_is_gone() {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"finalizers": [FINALIZER], "ownerReferences": [
            {"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "1", "controller": true}]}}),
        )
        .expect("a pod");
        assert!(is_orphan(&pod, "j", None), "no Job of that name");
        assert!(is_orphan(&pod, "j", Some("2")), "another one since");
        assert!(!is_orphan(&pod, "j", Some("1")) && !is_orphan(&pod, "k", None));
        let mut free = pod;
        free.metadata.finalizers = None;
        assert!(!is_orphan(&free, "j", None));
    }
}
