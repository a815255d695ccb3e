//! What a pod of a StatefulSet is: its name, its labels, its claims. A pod's identity is its name, so the API
//! server itself guarantees that there are never two of one identity.

use crate::ownership::controller_reference;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use std::collections::BTreeMap;

/// The label that tells the revision of the template a pod was made from.
pub const REVISION_LABEL: &str = "controller-revision-hash";
const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The ordinal in a pod's name, if it is one of this set's.
pub fn ordinal(set_name: &str, pod_name: &str) -> Option<i32> {
    let digits = pod_name.strip_prefix(set_name)?.strip_prefix('-')?;
    if digits.len() > 1 && digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// The first ordinal.
pub fn start(spec: &StatefulSetSpec) -> i32 {
    spec.ordinals
        .as_ref()
        .and_then(|ordinals| ordinals.start)
        .unwrap_or(0)
}

/// The name of a pod.
pub fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.metadata.name.as_deref().unwrap_or_default())
}

/// The pod of one ordinal, made from a revision's template.
pub fn pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let spec = set.spec.clone().unwrap_or_default();
    let mut pod = crate::pod_control::from_template(set, template);
    let name = pod_name(set, ordinal);
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(NAME_LABEL.into(), name.clone());
    labels.insert(INDEX_LABEL.into(), ordinal.to_string());
    labels.insert(REVISION_LABEL.into(), revision.into());
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.hostname = Some(name);
    pod_spec.subdomain = spec.service_name.clone().filter(|name| !name.is_empty());
    let claims = claims(set, ordinal);
    let mut volumes: Vec<Volume> = Vec::new();
    for (template, claim) in &claims {
        volumes.push(Volume {
            name: template.clone(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.metadata.name.clone().unwrap_or_default(),
                read_only: Some(false),
            }),
            ..Volume::default()
        });
    }
    let others = pod_spec.volumes.take().unwrap_or_default();
    volumes.extend(
        others
            .into_iter()
            .filter(|v| claims.iter().all(|(template, _)| *template != v.name)),
    );
    pod_spec.volumes = (!volumes.is_empty()).then_some(volumes);
    pod
}

/// The claims of one ordinal, each with the name of its template.
pub fn claims(set: &StatefulSet, ordinal: i32) -> Vec<(String, PersistentVolumeClaim)> {
    let spec = set.spec.clone().unwrap_or_default();
    let pod = pod_name(set, ordinal);
    let templates = spec.volume_claim_templates.unwrap_or_default();
    templates
        .into_iter()
        .map(|mut claim| {
            let template = claim.metadata.name.take().unwrap_or_default();
            claim.metadata.name = Some(format!("{template}-{pod}"));
            claim.metadata.namespace.clone_from(&set.metadata.namespace);
            let labels = claim.metadata.labels.get_or_insert_default();
            labels.extend(
                spec.selector
                    .match_labels
                    .iter()
                    .flatten()
                    .map(|(k, v)| (k.clone(), v.clone())),
            );
            claim.status = None;
            (template, claim)
        })
        .collect()
}

/// Does a pod have the name, labels and claims that its identity asks for?
pub fn matches(set: &StatefulSet, pod: &Pod) -> bool {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let Some(ordinal) = ordinal(set.metadata.name.as_deref().unwrap_or_default(), name) else {
        return false;
    };
    let label = |key: &str| pod.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let volumes = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.volumes.as_deref())
        .unwrap_or_default();
    let stored = claims(set, ordinal).iter().all(|(template, claim)| {
        volumes.iter().any(|volume| {
            volume.name == *template
                && volume.persistent_volume_claim.as_ref().map(|c| &c.claim_name)
                    == claim.metadata.name.as_ref()
        })
    });
    label(NAME_LABEL).is_some_and(|value| value == name) && stored
}

/// The labels that a pod lacks.
pub fn identity_labels(name: &str, ordinal: i32) -> BTreeMap<String, String> {
    [
        (NAME_LABEL.to_owned(), name.to_owned()),
        (INDEX_LABEL.to_owned(), ordinal.to_string()),
    ]
    .into()
}

/// Who shall own a claim, by the set's retention policy: deletion of the set, or scaling down, takes the claim
/// along through the garbage collector.
pub fn claim_owners(
    set: &StatefulSet,
    claim: &PersistentVolumeClaim,
    ordinal: i32,
    pod: Option<&Pod>,
) -> Vec<OwnerReference> {
    let spec = set.spec.clone().unwrap_or_default();
    let policy = spec
        .persistent_volume_claim_retention_policy
        .clone()
        .unwrap_or_default();
    let with_set = policy.when_deleted.as_deref() == Some("Delete");
    let with_pod = policy.when_scaled.as_deref() == Some("Delete");
    let first = start(&spec);
    let surplus = ordinal < first || ordinal >= first + spec.replicas.unwrap_or(1);
    let pod_name = pod_name(set, ordinal);
    let set_uid = set.metadata.uid.clone().unwrap_or_default();
    let mut owners: Vec<OwnerReference> = claim.metadata.owner_references.clone().unwrap_or_default();
    owners.retain(|owner| owner.uid != set_uid && !(owner.kind == "Pod" && owner.name == pod_name));
    if let (true, true, Some(pod)) = (with_pod, surplus, pod) {
        owners.push(OwnerReference {
            api_version: "v1".into(),
            kind: "Pod".into(),
            name: pod_name,
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            controller: None,
            block_owner_deletion: None,
        });
    } else if with_set {
        owners.push(OwnerReference {
            controller: None,
            block_owner_deletion: None,
            ..controller_reference(set)
        });
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(policy: serde_json::Value) -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "n", "uid": "s"},
            "spec": {
                "replicas": 2, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
                "persistentVolumeClaimRetentionPolicy": policy,
                "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [],
                    "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]
            }
        }))
        .unwrap()
    }

    #[test]
    fn ordinals() {
        assert_eq!(ordinal("db", "db-0"), Some(0));
        assert_eq!(ordinal("db", "db-12"), Some(12));
        assert_eq!(ordinal("db", "db-01"), None);
        assert_eq!(ordinal("db", "db-x"), None);
        assert_eq!(ordinal("db", "dbx-1"), None);
        assert_eq!(ordinal("db", "db-1-2"), None);
    }

    #[test]
    fn a_pod_has_its_identity_and_its_claim_instead_of_the_template_volume() {
        let set = set(json!({}));
        let template = set.spec.clone().unwrap().template;
        let pod = pod(&set, &template, "rev", 1);
        assert!(matches(&set, &pod));
        let spec = pod.spec.unwrap();
        assert_eq!(spec.hostname.as_deref(), Some("db-1"));
        assert_eq!(spec.subdomain.as_deref(), Some("db"));
        let volumes = spec.volumes.unwrap();
        assert_eq!(volumes.len(), 2);
        assert_eq!(
            volumes[0].persistent_volume_claim.as_ref().unwrap().claim_name,
            "data-db-1"
        );
    }

    #[test]
    fn retention() {
        let claim = PersistentVolumeClaim::default();
        let mut pod = Pod::default();
        pod.metadata.uid = Some("p".into());
        let owner = |policy: serde_json::Value, ordinal: i32| {
            let owners = claim_owners(&set(policy), &claim, ordinal, Some(&pod));
            owners.first().map(|owner| owner.kind.clone())
        };
        assert_eq!(owner(json!({}), 0), None);
        assert_eq!(
            owner(json!({"whenDeleted": "Delete"}), 0).as_deref(),
            Some("StatefulSet")
        );
        assert_eq!(owner(json!({"whenScaled": "Delete"}), 0), None);
        assert_eq!(owner(json!({"whenScaled": "Delete"}), 2).as_deref(), Some("Pod"));
    }
}
