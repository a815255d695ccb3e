//! Which volume a claim gets, as pure functions.

use client::{quantity, select};
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use std::sync::Arc;

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_CLASS: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];

/// The class of a claim; empty for none.
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> String {
    let annotation = claim
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get(CLASS_ANNOTATION))
        .cloned();
    annotation
        .or_else(|| claim.spec.as_ref()?.storage_class_name.clone())
        .unwrap_or_default()
}

/// The class of a volume; empty for none.
pub fn class_of_volume(volume: &PersistentVolume) -> String {
    let annotation = volume
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get(CLASS_ANNOTATION))
        .cloned();
    annotation
        .or_else(|| volume.spec.as_ref()?.storage_class_name.clone())
        .unwrap_or_default()
}

/// The class for claims that name none: the newest of those marked so.
pub fn default_class(classes: &[Arc<StorageClass>]) -> Option<Arc<StorageClass>> {
    let marked = |class: &&Arc<StorageClass>| {
        let annotations = class.metadata.annotations.as_ref();
        DEFAULT_CLASS.iter().any(|key| {
            annotations
                .and_then(|a| a.get(*key))
                .is_some_and(|value| value == "true")
        })
    };
    let age = |class: &&Arc<StorageClass>| {
        let created = class.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (created, std::cmp::Reverse(class.metadata.name.clone()))
    };
    classes.iter().filter(marked).max_by_key(age).cloned()
}

/// The claim that a volume is reserved for.
pub fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// Is the volume reserved for this claim, by name or by uid?
pub fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(volume).is_some_and(|reference| {
        reference.name == claim.metadata.name
            && reference.namespace == claim.metadata.namespace
            && reference
                .uid
                .as_ref()
                .is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_ref())
    })
}

fn capacity(volume: &PersistentVolume) -> i64 {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
    capacity
        .and_then(|c| c.get("storage"))
        .and_then(|q| quantity::whole(&q.0))
        .unwrap_or(0)
}

/// How much a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> i64 {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    requests
        .and_then(|r| r.get("storage"))
        .and_then(|q| quantity::whole(&q.0))
        .unwrap_or(0)
}

/// Has the volume the size, modes and kind that the claim asks for?
pub fn satisfies(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(has), Some(wants)) = (&volume.spec, &claim.spec) else {
        return false;
    };
    let offered = has.access_modes.as_deref().unwrap_or_default();
    let block = |mode: &Option<String>| mode.as_deref() == Some("Block");
    wants
        .access_modes
        .iter()
        .flatten()
        .all(|mode| offered.contains(mode))
        && block(&has.volume_mode) == block(&wants.volume_mode)
        && capacity(volume) >= requested(claim)
}

/// The best volume for a claim: one reserved for it, or else the smallest free one that satisfies it.
/// `reserved_only` for classes that wait for the first consumer.
pub fn best<'a>(
    volumes: &'a [Arc<PersistentVolume>],
    claim: &PersistentVolumeClaim,
    reserved_only: bool,
) -> Option<&'a Arc<PersistentVolume>> {
    let living = |volume: &&Arc<PersistentVolume>| volume.metadata.deletion_timestamp.is_none();
    let class = class_of_claim(claim);
    let reserved = volumes
        .iter()
        .filter(living)
        .find(|volume| is_for(volume, claim) && satisfies(volume, claim));
    if reserved.is_some() || reserved_only {
        return reserved;
    }
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let free = volumes.iter().filter(living).filter(|volume| {
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        claim_ref(volume).is_none()
            && phase == Some("Available")
            && class_of_volume(volume) == class
            && satisfies(volume, claim)
            && selector.is_none_or(|s| select::labels_match(s, volume.metadata.labels.as_ref()))
    });
    free.min_by_key(|volume| (capacity(volume), volume.metadata.name.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn volume(name: &str, size: &str, class: &str, claim: Value) -> Arc<PersistentVolume> {
        let value = json!({"metadata": {"name": name}, "spec": {
            "capacity": {"storage": size}, "storageClassName": class, "accessModes": ["ReadWriteOnce"],
            "claimRef": claim}, "status": {"phase": "Available"}});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn claim(class: &str) -> PersistentVolumeClaim {
        serde_json::from_value(
            json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": {
            "storageClassName": class, "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "2Gi"}}}}),
        )
        .unwrap()
    }

    fn pick(volumes: &[Arc<PersistentVolume>], class: &str) -> Option<String> {
        best(volumes, &claim(class), false).and_then(|volume| volume.metadata.name.clone())
    }

    #[test]
    fn the_smallest_that_satisfies() {
        let volumes = [
            volume("tiny", "1Gi", "s", Value::Null),
            volume("large", "9Gi", "s", Value::Null),
            volume("right", "3Gi", "s", Value::Null),
            volume("other", "2Gi", "t", Value::Null),
        ];
        assert_eq!(pick(&volumes, "s").as_deref(), Some("right"));
        assert_eq!(pick(&volumes, "u"), None);
        let reserved = volume("mine", "50Gi", "s", json!({"name": "c", "namespace": "n"}));
        let foreign = volume(
            "theirs",
            "2Gi",
            "s",
            json!({"name": "c", "namespace": "n", "uid": "x"}),
        );
        let all = [volumes[2].clone(), reserved, foreign];
        assert_eq!(pick(&all, "s").as_deref(), Some("mine"));
    }
}
