//! Nodes.

use serde_json::Value;

use super::{AGE, Column, NAME, age, condition, name, or, text, wide};
use crate::value::ValueExt as _;

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    text("Status", "Whether the node is ready, and whether it takes pods"),
    text("Roles", "Roles, from its labels"),
    AGE,
    text("Version", "Version of its kubelet"),
    wide("Internal-IP", "Address inside the cluster"),
    wide("External-IP", "Address outside the cluster"),
    wide("OS-Image", "Operating system"),
    wide("Kernel-Version", "Kernel"),
    wide("Container-Runtime", "Container runtime with its version"),
];

pub(super) fn row(node: &Value, now: i64) -> Vec<Value> {
    let info = |field| or(node.text(&["status", "nodeInfo", field]), "<unknown>");
    vec![
        name(node),
        status(node).into(),
        roles(node).into(),
        age(node, now),
        node.text(&["status", "nodeInfo", "kubeletVersion"]).into(),
        address(node, "InternalIP"),
        address(node, "ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn status(node: &Value) -> String {
    let ready = match condition(node, "Ready").map(|c| c.text(&["status"])) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if node.flag(&["spec", "unschedulable"]) {
        format!("{ready},SchedulingDisabled")
    } else {
        ready.to_owned()
    }
}

fn roles(node: &Value) -> String {
    let labels = node.at(&["metadata", "labels"]).and_then(Value::as_object);
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix(ROLE_PREFIX) {
            Some(role) => Some(role),
            None if key == ROLE_LABEL => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() {
        "<none>".to_owned()
    } else {
        roles.join(",")
    }
}

fn address(node: &Value, kind: &str) -> Value {
    let addresses = node.items(&["status", "addresses"]);
    let found = addresses.iter().find(|a| a.text(&["type"]) == kind);
    or(found.map_or("", |a| a.text(&["address"])), "<none>")
}
