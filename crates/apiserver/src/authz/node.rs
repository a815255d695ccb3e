//! What a kubelet may read: only what the pods on its own node need.
//!
//! Everything that all kubelets may do alike (create events, ask for reviews...) is the role `system:node`, which no
//! binding names: it holds through this authorizer, for everything that no decision here is about.

use super::{Attributes, Rule};
use crate::bootstrap::roles;
use crate::store::{Object, Store};
use schema::selectors::FieldSelector;
use serde_json::Value;
use std::sync::{Arc, OnceLock};

/// What the authorizer says.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow,
    /// What all kubelets may do alike decides.
    Common,
    /// No; others may still allow it, and this is why not.
    Deny(String),
}

/// The rules of the role `system:node`.
pub fn common() -> &'static [Rule] {
    static RULES: OnceLock<Vec<Rule>> = OnceLock::new();
    RULES.get_or_init(|| roles::rules_of("system:node"))
}

fn deny(why: impl Into<String>) -> Decision {
    Decision::Deny(why.into())
}

/// Decides for the kubelet of `node`.
pub fn decide(store: &Store, node: &str, wanted: &Attributes) -> Decision {
    let pods = || Pods { store, node };
    match (wanted.group.as_str(), wanted.resource.as_str()) {
        ("", "secrets") => read_only(wanted, |ns, name| pods().any(ns, |pod| uses_secret(pod, name))),
        ("", "configmaps") => read_only(wanted, |ns, name| pods().any(ns, |pod| uses_configmap(pod, name))),
        ("", "persistentvolumeclaims") => {
            if wanted.subresource == "status" && matches!(wanted.verb.as_str(), "get" | "update" | "patch") {
                return related(wanted, |ns, name| pods().any(ns, |pod| uses_claim(pod, name)));
            }
            read_only(wanted, |ns, name| pods().any(ns, |pod| uses_claim(pod, name)))
        }
        ("", "persistentvolumes") => read_only(wanted, |_, name| uses_volume(&pods(), name)),
        ("", "serviceaccounts") => service_account(&pods(), wanted),
        ("storage.k8s.io", "volumeattachments") => read_only(wanted, |_, name| {
            let attachment = store.cached_by_name("storage.k8s.io", "volumeattachments", "", name);
            attachment.is_some_and(|a| a.value()["spec"]["nodeName"] == node)
        }),
        ("coordination.k8s.io", "leases") => own_lease(node, wanted),
        ("storage.k8s.io", "csinodes") => own_object(node, wanted),
        ("", "nodes") if !wanted.name.is_empty() => own_node(node, wanted),
        ("", "pods") => own_pod(store, node, wanted),
        _ => Decision::Common,
    }
}

fn read_only(wanted: &Attributes, related_to: impl Fn(&str, &str) -> bool) -> Decision {
    if !matches!(wanted.verb.as_str(), "get" | "list" | "watch") {
        return deny("can only read resources of this type");
    }
    if !wanted.subresource.is_empty() {
        return deny("cannot read subresource");
    }
    related(wanted, related_to)
}

fn related(wanted: &Attributes, related_to: impl Fn(&str, &str) -> bool) -> Decision {
    if wanted.name.is_empty() {
        return deny("No Object name found");
    }
    if related_to(&wanted.namespace, &wanted.name) {
        Decision::Allow
    } else {
        deny(format!(
            "no relationship found between node and this object: {}",
            wanted.name
        ))
    }
}

fn service_account(pods: &Pods<'_>, wanted: &Attributes) -> Decision {
    let token = wanted.subresource == "token" && wanted.verb == "create";
    let read = wanted.subresource.is_empty() && wanted.verb == "get";
    if !token && !read {
        return deny("can only get a service account and create its tokens");
    }
    related(wanted, |ns, name| {
        pods.any(ns, |pod| service_account_of(pod) == name)
    })
}

fn own_lease(node: &str, wanted: &Attributes) -> Decision {
    if wanted.namespace != "kube-node-lease" {
        return deny("can only access leases in the \"kube-node-lease\" system namespace");
    }
    match wanted.verb.as_str() {
        // The name of a new object is not known here; admission compares it.
        "create" => Decision::Allow,
        "get" | "update" | "patch" | "delete" if wanted.name == node => Decision::Allow,
        _ => deny("can only access node lease with the same name as the requesting node"),
    }
}

fn own_object(node: &str, wanted: &Attributes) -> Decision {
    match wanted.verb.as_str() {
        "create" => Decision::Allow,
        "get" | "update" | "patch" | "delete" if wanted.name == node => Decision::Allow,
        _ => deny("can only access the object with the same name as the requesting node"),
    }
}

fn own_node(node: &str, wanted: &Attributes) -> Decision {
    let read = matches!(wanted.verb.as_str(), "get" | "list" | "watch");
    if wanted.subresource.is_empty() && read && wanted.name != node {
        return deny(format!(
            "node {node:?} cannot read {:?}, only its own Node object",
            wanted.name
        ));
    }
    Decision::Common
}

fn own_pod(store: &Store, node: &str, wanted: &Attributes) -> Decision {
    let main = wanted.subresource.is_empty();
    match wanted.verb.as_str() {
        "list" | "watch" => {
            let selector = FieldSelector::parse(&wanted.fields).unwrap_or_default();
            let own = selector.required_value("spec.nodeName") == Some(node);
            if own {
                Decision::Common
            } else {
                deny("can only list pods with spec.nodeName set to itself")
            }
        }
        "get" if main => match store.cached_by_name("", "pods", &wanted.namespace, &wanted.name) {
            Some(pod) if pod.value()["spec"]["nodeName"] != node => deny("the pod is on another node"),
            _ => Decision::Common,
        },
        // Admission compares the node of what is written.
        _ => Decision::Common,
    }
}

/// The pods on a node.
struct Pods<'a> {
    store: &'a Store,
    node: &'a str,
}

impl Pods<'_> {
    fn here(&self, namespace: &str) -> impl Iterator<Item = Arc<Object>> {
        let node = self.node.to_owned();
        let pods = self.store.cached_list("", "pods", namespace);
        // The field is indexed in the cache: only the pods of this node are parsed.
        pods.into_iter()
            .filter(move |pod| pod.field("spec.nodeName").is_some_and(|n| n == node))
    }

    fn any(&self, namespace: &str, test: impl Fn(&Value) -> bool) -> bool {
        self.here(namespace).any(|pod| test(&pod.value()["spec"]))
    }
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["containers", "initContainers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|kind| list(spec, kind))
}

fn uses_secret(spec: &Value, name: &str) -> bool {
    let in_volume = |volume: &Value| {
        volume["secret"]["secretName"] == name
            || list(&volume["projected"], "sources")
                .iter()
                .any(|s| s["secret"]["name"] == name)
            || [
                "csi",
                "flexVolume",
                "cephfs",
                "rbd",
                "iscsi",
                "scaleIO",
                "storageos",
                "azureFile",
            ]
            .iter()
            .any(|kind| {
                let source = &volume[*kind];
                source["nodePublishSecretRef"]["name"] == name
                    || source["secretRef"]["name"] == name
                    || source["secretName"] == name
            })
    };
    list(spec, "imagePullSecrets").iter().any(|s| s["name"] == name)
        || containers(spec).any(|c| from_environment(c, "secretRef", "secretKeyRef", name))
        || list(spec, "volumes").iter().any(in_volume)
}

fn uses_configmap(spec: &Value, name: &str) -> bool {
    let in_volume = |volume: &Value| {
        volume["configMap"]["name"] == name
            || list(&volume["projected"], "sources")
                .iter()
                .any(|s| s["configMap"]["name"] == name)
    };
    containers(spec).any(|c| from_environment(c, "configMapRef", "configMapKeyRef", name))
        || list(spec, "volumes").iter().any(in_volume)
}

fn from_environment(container: &Value, whole: &str, key: &str, name: &str) -> bool {
    list(container, "envFrom")
        .iter()
        .any(|e| e[whole]["name"] == name)
        || list(container, "env")
            .iter()
            .any(|e| e["valueFrom"][key]["name"] == name)
}

fn uses_claim(spec: &Value, name: &str) -> bool {
    list(spec, "volumes").iter().any(|volume| {
        let generic = !volume["ephemeral"].is_null()
            && volume["name"]
                .as_str()
                .is_some_and(|v| name.ends_with(&format!("-{v}")));
        volume["persistentVolumeClaim"]["claimName"] == name || generic
    })
}

fn uses_volume(pods: &Pods<'_>, name: &str) -> bool {
    let Some(volume) = pods.store.cached_by_name("", "persistentvolumes", "", name) else {
        return false;
    };
    let claim = &volume.value()["spec"]["claimRef"];
    let (Some(namespace), Some(claim)) = (claim["namespace"].as_str(), claim["name"].as_str()) else {
        return false;
    };
    pods.any(namespace, |pod| uses_claim(pod, claim))
}

fn service_account_of(spec: &Value) -> &str {
    spec["serviceAccountName"].as_str().unwrap_or("default")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_of_a_pod() {
        let spec = json!({
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "a"}}}], "envFrom": [{"configMapRef": {"name": "c"}}]}],
            "volumes": [
                {"projected": {"sources": [{"secret": {"name": "b"}}, {"configMap": {"name": "d"}}]}},
                {"persistentVolumeClaim": {"claimName": "p"}},
            ],
        });
        assert!(uses_secret(&spec, "a") && uses_secret(&spec, "b") && !uses_secret(&spec, "c"));
        assert!(uses_configmap(&spec, "c") && uses_configmap(&spec, "d") && !uses_configmap(&spec, "a"));
        assert!(uses_claim(&spec, "p") && !uses_claim(&spec, "q"));
        assert_eq!(service_account_of(&spec), "default");
    }
}
