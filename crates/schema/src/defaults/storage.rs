//! Volumes, claims and classes.

use serde_json::json;

use super::{Object, ensure, object, pod, set, set_absent};

/// `PersistentVolume`.
pub(super) fn persistent_volume(o: &mut Object) {
    if let Some(spec) = ensure(o, "spec") {
        set(spec, "persistentVolumeReclaimPolicy", "Retain");
        set(spec, "volumeMode", "Filesystem");
        pod::volume_source(spec);
        if let Some(capacity) = object(spec, "capacity") {
            pod::round_up(capacity);
        }
    }
    if let Some(status) = ensure(o, "status") {
        set(status, "phase", "Pending");
    }
}

/// `PersistentVolumeClaim`.
pub(super) fn persistent_volume_claim(o: &mut Object) {
    if let Some(spec) = ensure(o, "spec") {
        set(spec, "volumeMode", "Filesystem");
        for list in ["requests", "limits"] {
            if let Some(list) = object(spec, "resources").and_then(|r| object(r, list)) {
                pod::round_up(list);
            }
        }
    }
    if let Some(status) = ensure(o, "status") {
        set(status, "phase", "Pending");
    }
}

/// `StorageClass`.
pub(super) fn storage_class(o: &mut Object) {
    set(o, "reclaimPolicy", "Delete");
    set(o, "volumeBindingMode", "Immediate");
}

/// `CSIDriver`.
pub(super) fn csi_driver(o: &mut Object) {
    let Some(spec) = ensure(o, "spec") else { return };
    set_absent(spec, "attachRequired", true);
    set_absent(spec, "podInfoOnMount", false);
    set_absent(spec, "storageCapacity", false);
    set(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if super::empty(spec, "volumeLifecycleModes") {
        spec.insert("volumeLifecycleModes".to_owned(), json!(["Persistent"]));
    }
    set_absent(spec, "requiresRepublish", false);
    set_absent(spec, "seLinuxMount", false);
}

/// `VolumeAttachment`: a volume written inline.
pub(super) fn volume_attachment(o: &mut Object) {
    let inline = object(o, "spec")
        .and_then(|s| object(s, "source"))
        .and_then(|s| object(s, "inlineVolumeSpec"));
    if let Some(spec) = inline {
        set(spec, "volumeMode", "Filesystem");
        pod::volume_source(spec);
    }
}
