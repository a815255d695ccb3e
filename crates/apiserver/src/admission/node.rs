//! NodeRestriction: a kubelet changes only its own node and the pods on it.

use super::{Operation, pod};
use crate::call::Call;
use crate::http::status::Status;
use crate::json::{items, push};
use schema::Resource;
use serde_json::{Value, json};

/// Labels below these prefixes are for others to set: workloads are kept apart by them.
const RESTRICTED_LABELS: &str = "node-restriction.kubernetes.io/";

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
    if let Some(key) = keys.filter(changed).find(|key| is_restricted(key)) {
        return refuse(format!("is not allowed to modify label {key:?}"));
    }
    if let Some(old) = old
        && old["spec"]["taints"] != new["spec"]["taints"]
    {
        return refuse(format!("node {node:?} is not allowed to modify taints"));
    }
    Ok(())
}

fn is_restricted(key: &str) -> bool {
    let prefix = key.split('/').next().unwrap_or_default();
    let restricted = RESTRICTED_LABELS.trim_end_matches('/');
    key.contains('/') && (prefix == restricted || prefix.ends_with(&format!(".{restricted}")))
}

fn name_of(value: &Value) -> &str {
    value["metadata"]["name"].as_str().unwrap_or_default()
}
