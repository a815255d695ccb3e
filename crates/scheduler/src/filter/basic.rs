//! What one node and one pod decide between themselves: name, selector, taints, ports, resources.

use super::Reason;
use crate::state::{NodeInfo, PodInfo};
use client::{pods, select};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};

const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// Checks everything; the reasons of the first kind that fails (of resources, all that are short).
pub fn check(pod: &PodInfo, info: &NodeInfo) -> Result<(), Vec<Reason>> {
    let Some(node) = &info.node else {
        return Err(vec![Reason::fixed("node(s) were not ready")]);
    };
    let one = |reason: Option<Reason>| reason.map_or(Ok(()), |reason| Err(vec![reason]));
    one(unschedulable(&pod.pod, node))?;
    one(name(&pod.pod, node))?;
    one(taints(&pod.pod, node))?;
    one(selector(&pod.pod, node))?;
    one(ports(pod, info))?;
    let short = resources(pod, info);
    if short.is_empty() { Ok(()) } else { Err(short) }
}

fn unschedulable(pod: &Pod, node: &Node) -> Option<Reason> {
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let taint = Taint {
        key: UNSCHEDULABLE_TAINT.into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    let tolerated = tolerations
        .iter()
        .any(|toleration| select::tolerates(toleration, &taint));
    (cordoned && !tolerated).then(|| Reason::fixed("node(s) were unschedulable"))
}

fn name(pod: &Pod, node: &Node) -> Option<Reason> {
    let wanted = client::pods::node_name(pod);
    let other = !wanted.is_empty() && node.metadata.name.as_deref() != Some(wanted);
    other.then(|| Reason::fixed("node(s) didn't match the requested node name"))
}

fn taints(pod: &Pod, node: &Node) -> Option<Reason> {
    let taints = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    let taint = select::untolerated(taints, tolerations, &["NoSchedule", "NoExecute"])?;
    let value = taint.value.as_deref().unwrap_or_default();
    Some(Reason::fixed(format!(
        "node(s) had untolerated taint {{{}: {value}}}",
        taint.key
    )))
}

fn selector(pod: &Pod, node: &Node) -> Option<Reason> {
    (!selected(pod, node)).then(|| Reason::fixed("node(s) didn't match Pod's node affinity/selector"))
}

/// Do the pod's node selector and required node affinity allow the node?
pub fn selected(pod: &Pod, node: &Node) -> bool {
    pod.spec
        .as_ref()
        .is_none_or(|spec| select::pod_allows_node(spec, node))
}

fn ports(pod: &PodInfo, info: &NodeInfo) -> Option<Reason> {
    let clash = pod.ports.iter().any(|wanted| {
        let used = info
            .pods
            .values()
            .filter(|other| other.uid() != pod.uid())
            .flat_map(|other| &other.ports);
        used.into_iter().any(|used| pods::ports_clash(wanted, used))
    });
    clash.then(|| Reason::curable("node(s) didn't have free ports for the requested pod ports"))
}

fn resources(pod: &PodInfo, info: &NodeInfo) -> Vec<Reason> {
    let mut short = Vec::new();
    let count = i64::try_from(info.pods.len()).unwrap_or(i64::MAX);
    if count + 1 > info.most_pods {
        short.push(Reason::curable("Too many pods"));
    }
    let (wanted, used, has) = (&pod.requested, &info.requested, &info.allocatable);
    let mut check = |name: &str, wanted: i64, used: i64, has: i64| {
        if wanted > 0 && wanted > has - used {
            // More than the node has at all cannot be cured.
            short.push(Reason {
                text: format!("Insufficient {name}"),
                curable: wanted <= has,
            });
        }
    };
    check("cpu", wanted.milli_cpu, used.milli_cpu, has.milli_cpu);
    check("memory", wanted.memory, used.memory, has.memory);
    check(
        "ephemeral-storage",
        wanted.ephemeral,
        used.ephemeral,
        has.ephemeral,
    );
    let amount = |of: &crate::resources::Amounts, name: &str| of.other.get(name).copied().unwrap_or(0);
    for (name, wanted) in &wanted.other {
        check(name, *wanted, amount(used, name), amount(has, name));
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use std::sync::Arc;

    fn node(spec: serde_json::Value) -> NodeInfo {
        let node: Arc<Node> = Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": "n", "labels": {"disk": "ssd"}}, "spec": spec,
                "status": {"allocatable": {"cpu": "2", "memory": "2Gi", "pods": "3"}}
            }))
            .unwrap(),
        );
        let mut state = crate::state::State::default();
        state.set_node(&node);
        state.nodes.remove("n").unwrap()
    }

    fn pod(spec: serde_json::Value) -> PodInfo {
        let value = json!({"metadata": {"name": "p", "uid": "p"}, "spec": spec});
        PodInfo::new(Arc::new(serde_json::from_value(value).unwrap()))
    }

    fn reasons(spec: serde_json::Value, on: serde_json::Value) -> Vec<String> {
        match check(&pod(spec), &node(on)) {
            Ok(()) => Vec::new(),
            Err(reasons) => reasons.into_iter().map(|reason| reason.text).collect(),
        }
    }

    #[test]
    fn reasons_of_each_kind() {
        let nothing = Vec::<String>::new();
        assert_eq!(reasons(json!({"containers": []}), json!({})), nothing);
        assert_eq!(
            reasons(json!({"containers": []}), json!({"unschedulable": true})),
            ["node(s) were unschedulable"]
        );
        let tainted = json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]});
        assert_eq!(
            reasons(json!({"containers": []}), tainted.clone()),
            ["node(s) had untolerated taint {k: v}"]
        );
        let tolerant = json!({"containers": [], "tolerations": [{"key": "k", "operator": "Exists"}]});
        assert_eq!(reasons(tolerant, tainted), nothing);
        assert_eq!(
            reasons(
                json!({"containers": [], "nodeSelector": {"disk": "hdd"}}),
                json!({})
            ),
            ["node(s) didn't match Pod's node affinity/selector"]
        );
        let big =
            json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "3", "memory": "3Gi"}}}]});
        assert_eq!(
            reasons(big, json!({})),
            ["Insufficient cpu", "Insufficient memory"]
        );
    }

    #[test]
    fn host_ports_clash_by_address() {
        let mut on = node(json!({}));
        let with = |ip: &str, uid: &str| {
            let value = json!({"metadata": {"name": uid, "uid": uid}, "spec": {"containers": [
                {"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": ip}]}]}});
            PodInfo::new(Arc::new(serde_json::from_value(value).unwrap()))
        };
        on.add(Arc::new(with("10.0.0.1", "a")));
        assert!(ports(&with("10.0.0.2", "b"), &on).is_none());
        assert!(ports(&with("10.0.0.1", "b"), &on).is_some());
        assert!(ports(&with("", "b"), &on).is_some());
    }

    proptest! {
        /// A pod that passes never brings a node above what it has.
        #[test]
        fn nothing_is_overcommitted(sizes in prop::collection::vec((0..1500i64, 0..1500i64), 0..20)) {
            let mut info = node(json!({}));
            for (index, (cpu, memory)) in sizes.into_iter().enumerate() {
                let value = json!({"metadata": {"name": "p", "uid": index.to_string()}, "spec": {"containers": [
                    {"name": "c", "resources": {"requests": {"cpu": format!("{cpu}m"), "memory": format!("{memory}Mi")}}}]}});
                let pod = Arc::new(PodInfo::new(Arc::new(serde_json::from_value(value).unwrap())));
                if check(&pod, &info).is_ok() {
                    info.add(pod);
                }
                prop_assert!(info.requested.milli_cpu <= info.allocatable.milli_cpu);
                prop_assert!(info.requested.memory <= info.allocatable.memory);
                prop_assert!(info.pods.len() <= 3);
            }
        }
    }
}
