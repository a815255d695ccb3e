//! DefaultStorageClass and StorageObjectInUseProtection.

use crate::call::Call;
use crate::rest::meta;
use serde_json::Value;

/// Keeps a claim while a pod uses it.
pub const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// Keeps a volume while a claim is bound to it.
pub const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// Adds a protecting finalizer.
pub fn protect(value: &mut Value, finalizer: &str) {
    let mut finalizers = meta::finalizers(value);
    if !finalizers.iter().any(|f| f == finalizer) {
        finalizers.push(finalizer.into());
        meta::of(value).insert("finalizers".into(), finalizers.into());
    }
}

/// A claim that names no class gets the default one, if there is one.
pub fn default_class(call: &Call, claim: &mut Value) {
    let annotated = !claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].is_null();
    if annotated || !claim["spec"]["storageClassName"].is_null() {
        return;
    }
    let classes = call
        .server
        .store
        .cached_list("storage.k8s.io", "storageclasses", "");
    let defaults = classes
        .iter()
        .map(|c| c.value())
        .filter(|class| class["metadata"]["annotations"][DEFAULT_CLASS] == "true");
    // Of several the newest counts, then the first by name.
    let newest = defaults.max_by(|a, b| {
        let time = |v: &Value| meta::text(v, "creationTimestamp").to_owned();
        time(a)
            .cmp(&time(b))
            .then_with(|| meta::text(b, "name").cmp(meta::text(a, "name")))
    });
    if let Some(class) = newest {
        claim["spec"]["storageClassName"] = meta::text(&class, "name").into();
    }
}
