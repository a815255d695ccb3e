//! The cluster's own objects: what the network and the storage driver need. They come in from the binary, since
//! `platform` does not know those components.

use super::Cluster;
use crate::api;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::OnceLock;

static PARTS: OnceLock<Parts> = OnceLock::new();

/// What other components contribute to a cluster.
pub struct Parts {
    /// YAML documents that every cluster gets.
    pub manifests: Vec<&'static str>,
    /// Makes a node's CNI configuration from its network's name, the pods' subnet, the MTU and a directory.
    pub conflist: fn(&str, &str, u32, &Path) -> String,
}

/// Called once, by the binary.
pub fn set_parts(parts: Parts) {
    let _ = PARTS.set(parts);
}

/// A node's CNI configuration.
pub(crate) fn conflist(name: &str, pod_cidr: &str, mtu: u32, data_dir: &Path) -> Option<String> {
    PARTS
        .get()
        .map(|parts| (parts.conflist)(name, pod_cidr, mtu, data_dir))
}

/// Creates the objects or brings them up to date.
pub(super) async fn apply(cluster: &Cluster, client: &api::Client) -> Result<(), api::Error> {
    let default_class = cluster.plan.manifest.storage_class.clone();
    for manifest in PARTS.get().into_iter().flat_map(|p| &p.manifests) {
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
