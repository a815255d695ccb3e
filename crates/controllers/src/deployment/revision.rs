//! The ReplicaSets of a Deployment as its history: which one carries the present template, and the revision
//! numbers by which `kubectl rollout history` and `undo` find the others.

use crate::hash;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::api::ObjectMeta;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The label that tells the pods of one template from those of another.
pub const HASH_LABEL: &str = "pod-template-hash";
/// Revision number of a ReplicaSet, and of the Deployment.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier revision numbers of a ReplicaSet that was rolled back to.
pub const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The Deployment's size when the ReplicaSet was last scaled.
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// The most pods the Deployment allowed then.
pub const MOST: &str = "deployment.kubernetes.io/max-replicas";

/// Annotations of the Deployment that its ReplicaSets do not inherit.
const OWN_ANNOTATIONS: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    HISTORY,
    DESIRED,
    MOST,
];
/// Longest list of earlier revision numbers, in characters (upstream's limit).
const HISTORY_CHARACTERS: usize = 2000;

/// The number in an annotation.
pub fn number(meta: &ObjectMeta, key: &str) -> Option<i64> {
    meta.annotations.as_ref()?.get(key)?.parse().ok()
}

/// Are two templates the same but for the hash label?
pub fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    fn labels(template: &PodTemplateSpec) -> impl Iterator<Item = (&String, &String)> {
        let labels = template
            .metadata
            .iter()
            .flat_map(|meta| meta.labels.iter().flatten());
        labels.filter(|(key, _)| *key != HASH_LABEL)
    }
    fn annotations(template: &PodTemplateSpec) -> impl Iterator<Item = (&String, &String)> {
        template
            .metadata
            .iter()
            .flat_map(|meta| meta.annotations.iter().flatten())
    }
    fn finalizers(template: &PodTemplateSpec) -> &[String] {
        template
            .metadata
            .as_ref()
            .and_then(|meta| meta.finalizers.as_deref())
            .unwrap_or_default()
    }
    a.spec == b.spec
        && labels(a).eq(labels(b))
        && annotations(a).eq(annotations(b))
        && finalizers(a) == finalizers(b)
}

/// The ReplicaSet with the Deployment's present template; of several the oldest.
pub fn find_new(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Option<Arc<ReplicaSet>> {
    let template = &deployment.spec.as_ref()?.template;
    sets.iter()
        .filter(|set| {
            let other = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
            other.is_some_and(|other| same_template(template, other))
        })
        .min_by_key(|set| age_key(set))
        .cloned()
}

/// Orders by creation, then by name.
pub fn age_key(set: &ReplicaSet) -> (Option<k8s_openapi::jiff::Timestamp>, Option<String>) {
    (
        set.metadata.creation_timestamp.as_ref().map(|time| time.0),
        set.metadata.name.clone(),
    )
}

/// The hash of the Deployment's present template.
pub fn template_hash(deployment: &Deployment) -> String {
    let template = deployment.spec.as_ref().map(|spec| &spec.template);
    let collisions = deployment
        .status
        .as_ref()
        .and_then(|status| status.collision_count)
        .unwrap_or(0);
    let value = serde_json::to_value(template).unwrap_or_default();
    hash::short_name(&value, collisions)
}

/// The annotations that the new ReplicaSet should have at this revision. None when it has them.
pub fn annotations_for(
    deployment: &Deployment,
    set: &ReplicaSet,
    revision: i64,
    exists: bool,
) -> Option<BTreeMap<String, String>> {
    let present = set.metadata.annotations.clone().unwrap_or_default();
    let mut wanted = present.clone();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !OWN_ANNOTATIONS.contains(&key.as_str()) {
            wanted.insert(key.clone(), value.clone());
        }
    }
    let old = number(&set.metadata, REVISION).unwrap_or(0);
    if old < revision {
        wanted.insert(REVISION.into(), revision.to_string());
        if exists && old > 0 {
            let history = wanted.get(HISTORY).cloned().unwrap_or_default();
            wanted.insert(HISTORY.into(), extended(&history, old));
        }
    }
    (wanted != present).then_some(wanted)
}

fn extended(history: &str, revision: i64) -> String {
    let mut numbers: Vec<&str> = history.split(',').filter(|part| !part.is_empty()).collect();
    let added = revision.to_string();
    numbers.push(&added);
    while numbers.iter().map(|n| n.len() + 1).sum::<usize>() > HISTORY_CHARACTERS {
        numbers.remove(0);
    }
    numbers.join(",")
}

/// The highest revision number among ReplicaSets.
pub fn highest<'a>(sets: impl Iterator<Item = &'a Arc<ReplicaSet>>) -> i64 {
    sets.filter_map(|set| number(&set.metadata, REVISION))
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(image: &str, hash: Option<&str>) -> PodTemplateSpec {
        let mut labels = json!({"app": "a"});
        if let Some(hash) = hash {
            labels[HASH_LABEL] = json!(hash);
        }
        serde_json::from_value(json!({
            "metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": image}]}
        }))
        .unwrap()
    }

    #[test]
    fn templates_are_compared_without_the_hash() {
        assert!(same_template(&template("a", None), &template("a", Some("x"))));
        assert!(!same_template(&template("a", None), &template("b", None)));
    }

    #[test]
    fn going_back_gives_an_old_set_a_new_number_and_remembers_the_old_one() {
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "d", "annotations": {"note": "x", REVISION: "7"}}
        }))
        .unwrap();
        let set: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"name": "s", "annotations": {REVISION: "3", HISTORY: "1"}}
        }))
        .unwrap();
        let wanted = annotations_for(&deployment, &set, 8, true).unwrap();
        assert_eq!(wanted[REVISION], "8");
        assert_eq!(wanted[HISTORY], "1,3");
        assert_eq!(wanted["note"], "x");
        let mut done = set;
        done.metadata.annotations = Some(wanted);
        assert_eq!(annotations_for(&deployment, &done, 8, true), None);
    }
}
