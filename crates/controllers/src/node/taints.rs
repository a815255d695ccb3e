//! Which taints a node should have, as pure functions of its conditions.

use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// The node's pods and volumes are certainly not in use there any more (KEP-2268).
pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// Value of the taint that the fail-over sets.
pub const OUT_OF_SERVICE_VALUE: &str = "nodeshutdown";
/// Marks a node whose out-of-service taint was set by the fail-over, which therefore may take it away again.
pub const SET_BY_US: &str = "hikube.io/out-of-service-since";

/// Conditions that keep new pods away while they are True.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// The status of one of the node's conditions.
pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == kind)
        .map(|condition| condition.status.as_str())
}

/// Is the node Ready?
pub fn is_ready(node: &Node) -> bool {
    condition(node, "Ready") == Some("True")
}

/// The node's taints.
pub fn of(node: &Node) -> &[Taint] {
    node.spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default()
}

/// Is the node marked as out of service, by us or by an operator?
pub fn is_out_of_service(node: &Node) -> bool {
    of(node).iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

/// Was that mark set by us?
pub fn is_ours(node: &Node) -> bool {
    node.metadata
        .annotations
        .as_ref()
        .is_some_and(|annotations| annotations.contains_key(SET_BY_US))
}

/// The taints that the node should have; those of others are kept. `evict` is false when nearly everything
/// looks dead, so that it is more likely that we are the ones cut off: then nobody is sent away.
pub fn wanted(node: &Node, evict: bool, now: Timestamp) -> Vec<Taint> {
    let ready = condition(node, "Ready");
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    let state = match ready {
        Some("True") => None,
        Some("Unknown") => Some(UNREACHABLE),
        Some(_) | None => Some(NOT_READY),
    };
    if let Some(key) = state {
        wanted.push((key, "NoSchedule"));
    }
    for (kind, key) in PRESSURES {
        if condition(node, kind) == Some("True") {
            wanted.push((key, "NoSchedule"));
        }
    }
    if cordoned {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    // A node that has not reported yet keeps what it has: it may just be starting.
    if let Some(key) = state
        && ready.is_some()
    {
        let present = of(node)
            .iter()
            .any(|taint| taint.key == key && taint.effect == "NoExecute");
        if evict || present {
            wanted.push((key, "NoExecute"));
        }
    }
    let managed = |taint: &Taint| {
        let of_condition = PRESSURES.iter().any(|(_, key)| *key == taint.key) || taint.key == UNSCHEDULABLE;
        (of_condition && taint.effect == "NoSchedule") || taint.key == NOT_READY || taint.key == UNREACHABLE
    };
    let present = of(node);
    let mut taints: Vec<Taint> = present.iter().filter(|taint| !managed(taint)).cloned().collect();
    for (key, effect) in wanted {
        let known = present
            .iter()
            .find(|taint| taint.key == key && taint.effect == effect);
        taints.push(known.cloned().unwrap_or_else(|| Taint {
            key: key.into(),
            value: None,
            effect: effect.into(),
            time_added: Some(Time(now)),
        }));
    }
    taints
}

/// Do two lists hold the same taints, in whatever order?
pub fn same(a: &[Taint], b: &[Taint]) -> bool {
    a.len() == b.len() && a.iter().all(|taint| b.contains(taint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(ready: &str, taints: serde_json::Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n"}, "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}
        }))
        .unwrap()
    }

    fn keys(node: &Node, evict: bool) -> Vec<String> {
        let taints = wanted(node, evict, Timestamp::UNIX_EPOCH);
        taints
            .iter()
            .map(|taint| format!("{}:{}", taint.key.rsplit('/').next().unwrap(), taint.effect))
            .collect()
    }

    #[test]
    fn taints_follow_readiness() {
        let own = json!([{"key": "mine", "effect": "NoSchedule"}]);
        assert_eq!(keys(&node("True", own.clone()), true), ["mine:NoSchedule"]);
        assert_eq!(
            keys(&node("Unknown", own), true),
            [
                "mine:NoSchedule",
                "unreachable:NoSchedule",
                "unreachable:NoExecute"
            ]
        );
        let before = json!([{"key": UNREACHABLE, "effect": "NoExecute"}]);
        assert_eq!(
            keys(&node("False", before.clone()), true),
            ["not-ready:NoSchedule", "not-ready:NoExecute"]
        );
        assert_eq!(
            keys(&node("Unknown", json!([])), false),
            ["unreachable:NoSchedule"]
        );
        assert!(keys(&node("True", before), true).is_empty());
    }
}
