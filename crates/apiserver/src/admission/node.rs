//! NodeRestriction: a kubelet changes only its own node and the pods on it.

use super::{Operation, pod};
use crate::call::Call;
use crate::http::status::Status;
use crate::json::{items, push};
use schema::Resource;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Labels of this namespace are for others to set: workloads are kept apart by them.
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// Namespaces of Kubernetes itself: of their labels, a kubelet sets those that are its own.
const KUBERNETES: [&str; 2] = ["kubernetes.io", "k8s.io"];
/// Namespaces of a kubelet's labels. Upstream leaves roles to others; here the roles of a node group reach its nodes
/// through their kubelets.
const OF_KUBELETS: [&str; 3] = [
    "kubelet.kubernetes.io",
    "node.kubernetes.io",
    "node-role.kubernetes.io",
];
/// Labels of a kubelet in other namespaces.
const KUBELET_LABELS: [&str; 10] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// TaintNodesByCondition: a new node takes no pods until it is ready.
pub fn not_ready_taint(node: &mut Value) {
    const KEY: &str = "node.kubernetes.io/not-ready";
    let taint = json!({"key": KEY, "effect": "NoSchedule"});
    let present = items(&node["spec"], "taints")
        .iter()
        .any(|t| t["key"] == KEY && t["effect"] == "NoSchedule");
    if !present {
        if node.get("spec").is_none() {
            node["spec"] = json!({});
        }
        push(&mut node["spec"], "taints", taint);
    }
}

/// A kubelet creates only mirror pods, bound to itself, without access to other objects.
pub fn pod_of_kubelet(call: &Call, resource: &Resource, new: &Value) -> Result<(), Status> {
    let Some(node) = call.user.node() else {
        return Ok(());
    };
    let refuse = |why: String| Err(Status::forbidden(resource, name_of(new), why));
    if !pod::is_mirror(new) {
        return refuse(format!(
            "pod does not have {:?} annotation, node {node:?} can only create mirror pods",
            pod::MIRROR
        ));
    }
    if new["spec"]["nodeName"] != node {
        return refuse(format!(
            "node {node:?} can only create pods with spec.nodeName set to itself"
        ));
    }
    Ok(())
}

/// Everything else that a kubelet may not do.
pub fn restrict(
    call: &Call,
    operation: Operation,
    resource: &'static Resource,
    old: Option<&Value>,
    new: &Value,
) -> Result<(), Status> {
    let Some(node) = call.user.node() else {
        return Ok(());
    };
    let refuse = |why: String| Err(Status::forbidden(resource, &call.info.name, why));
    match (resource.group.as_ref(), resource.plural.as_ref()) {
        ("", "pods") if operation != Operation::Create => {
            let bound = old.is_some_and(|pod| pod["spec"]["nodeName"] == node);
            if !bound {
                return refuse(format!(
                    "node {node:?} can only change pods with spec.nodeName set to itself"
                ));
            }
            if operation == Operation::Update && call.info.subresource != "status" {
                return refuse(format!("node {node:?} can only update pod status"));
            }
            if operation == Operation::Update
                && old.is_some_and(|pod| pod["metadata"]["labels"] != new["metadata"]["labels"])
            {
                return refuse(format!("node {node:?} cannot update labels through pod status"));
            }
            Ok(())
        }
        ("", "nodes") => restrict_node(node, operation, resource, old, new, &call.info.name),
        ("coordination.k8s.io", "leases") | ("storage.k8s.io", "csinodes") => {
            let name = if operation == Operation::Delete {
                call.info.name.as_str()
            } else {
                name_of(new)
            };
            if name != node {
                return refuse(format!(
                    "can only access the object with the same name as the requesting node {node:?}"
                ));
            }
            Ok(())
        }
        ("", "persistentvolumeclaims")
            if operation != Operation::Update || call.info.subresource != "status" =>
        {
            refuse(format!("node {node:?} may only update PVC status"))
        }
        _ => Ok(()),
    }
}

fn restrict_node(
    node: &str,
    operation: Operation,
    resource: &Resource,
    old: Option<&Value>,
    new: &Value,
    name: &str,
) -> Result<(), Status> {
    let refuse = |why: String| Err(Status::forbidden(resource, name, why));
    let target = if operation == Operation::Create {
        name_of(new)
    } else {
        name
    };
    if target != node {
        return refuse(format!("node {node:?} is not allowed to modify node {target:?}"));
    }
    if operation == Operation::Delete {
        return Ok(());
    }
    let empty = Value::Null;
    let old_labels = old.map_or(&empty, |o| &o["metadata"]["labels"]);
    let new_labels = &new["metadata"]["labels"];
    let changed = |key: &&String| old_labels[key.as_str()] != new_labels[key.as_str()];
    let keys = [old_labels, new_labels]
        .into_iter()
        .filter_map(Value::as_object)
        .flat_map(|map| map.keys());
    let forbidden: BTreeSet<&str> = keys
        .filter(changed)
        .map(String::as_str)
        .filter(|key| is_restricted(key))
        .collect();
    if !forbidden.is_empty() {
        let list = forbidden.into_iter().collect::<Vec<_>>().join(", ");
        return refuse(match operation {
            Operation::Create => {
                format!("node {node:?} is not allowed to set the following labels: {list}")
            }
            _ => format!("is not allowed to modify labels: {list}"),
        });
    }
    if let Some(old) = old
        && old["metadata"]["ownerReferences"] != new["metadata"]["ownerReferences"]
    {
        // Otherwise it could have itself collected, and come back with other labels and taints.
        return refuse(format!("node {node:?} is not allowed to modify ownerReferences"));
    }
    if let Some(old) = old
        && old["spec"]["taints"] != new["spec"]["taints"]
    {
        return refuse(format!("node {node:?} is not allowed to modify taints"));
    }
    Ok(())
}

fn is_restricted(key: &str) -> bool {
    let Some((namespace, _)) = key.split_once('/') else {
        return false;
    };
    let within = |of: &str| {
        let above = namespace.strip_suffix(of);
        above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
    };
    if within(RESTRICTED) {
        return true;
    }
    let own = KUBELET_LABELS.contains(&key) || OF_KUBELETS.iter().any(|of| within(of));
    KUBERNETES.iter().any(|of| within(of)) && !own
}

fn name_of(value: &Value) -> &str {
    value["metadata"]["name"].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubelets_set_their_own_labels_and_those_of_nobody() {
        for own in [
            "role",
            "hikube.io/node-group",
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
            "node.kubernetes.io/instance-type",
            "a.node.kubernetes.io/b",
            "node-role.kubernetes.io/ingress-nginx",
            "xkubernetes.io/a",
        ] {
            assert!(!is_restricted(own), "{own}");
        }
        for other in [
            "node-restriction.kubernetes.io/a",
            "team.node-restriction.kubernetes.io/a",
            "kubernetes.io/other",
            "topology.kubernetes.io/rack",
            "a.k8s.io/b",
        ] {
            assert!(is_restricted(other), "{other}");
        }
    }
}
