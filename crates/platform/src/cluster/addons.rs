//! The cluster's own objects: what the network and the storage driver need. They come in from the binary, since
//! `platform` does not know those components.

use super::Cluster;
use crate::api;
use serde_json::{Value, json};
use std::sync::OnceLock;

static MANIFESTS: OnceLock<Vec<&'static str>> = OnceLock::new();

/// Sets the YAML documents that every cluster gets. Called once, by the binary.
pub fn set_addons(manifests: Vec<&'static str>) {
    let _ = MANIFESTS.set(manifests);
}

/// Creates the objects or brings them up to date.
pub(super) async fn apply(cluster: &Cluster, client: &api::Client) -> Result<(), api::Error> {
    let default_class = cluster.plan.manifest.storage_class.clone();
    for manifest in MANIFESTS.get().into_iter().flatten() {
        api::apply(client, manifest, |object| mark_default(object, &default_class)).await?;
    }
    Ok(())
}

/// The manifest of the cluster says which StorageClass is the default.
fn mark_default(object: &mut Value, default_class: &str) {
    if object["kind"] != "StorageClass" {
        return;
    }
    let is_default = object["metadata"]["name"] == default_class;
    let annotations = &mut object["metadata"]["annotations"];
    if annotations.is_null() {
        *annotations = json!({});
    }
    annotations["storageclass.kubernetes.io/is-default-class"] = json!(is_default.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_class_is_the_default() {
        let mut class = json!({"kind": "StorageClass", "metadata": {"name": "local"}});
        let key = "storageclass.kubernetes.io/is-default-class";
        mark_default(&mut class, "local");
        assert_eq!(class["metadata"]["annotations"][key], "true");
        mark_default(&mut class, "replicated");
        assert_eq!(class["metadata"]["annotations"][key], "false");
        let mut other = json!({"kind": "Service"});
        mark_default(&mut other, "local");
        assert_eq!(other, json!({"kind": "Service"}));
    }
}
