//! Whether the node takes a pod in. The scheduler has looked already, but pods are also put on a node by name, and two
//! schedulers may not know of each other; what does not fit is refused at once, as upstream's kubelet does, instead of
//! starving what runs here.

use super::resources;
use super::spec;
use super::status::Verdict;
use super::worker::Worker;
use crate::context::Context;
use client::{pods, select};
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};

impl Worker {
    /// Takes the pod in, once; a pod that this node took in before, maybe in an earlier life of the kubelet, stays.
    pub(super) fn accept(&mut self, pod: &Pod) -> Result<(), Verdict> {
        if self.accepted {
            return Ok(());
        }
        if !know(&self.context, pod) {
            take_in(&self.context, pod)?;
        }
        self.accepted = true;
        Ok(())
    }
}

/// Counts a pod that this node took in before; not so a new one.
pub fn know(context: &Context, pod: &Pod) -> bool {
    let old = pod
        .status
        .as_ref()
        .is_some_and(|status| status.start_time.is_some());
    if old && !pods::is_terminal(pod) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let has = resources::of_pod(&spec::spec(pod));
        context.promised.know(uid, has, pods::host_ports(pod));
    }
    old
}

fn take_in(context: &Context, pod: &Pod) -> Result<(), Verdict> {
    let spec = spec::spec(pod);
    if let Some(node) = context.node.node() {
        fits(&spec, &node)?;
    }
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let (wanted, ports) = (resources::of_pod(&spec), pods::host_ports(pod));
    let most = usize::try_from(context.config.max_pods).unwrap_or(usize::MAX);
    let taken = context
        .promised
        .take_in(uid, wanted, ports, context.allocatable, most);
    taken.map_err(|(resource, message)| match resource {
        Some(resource) => {
            let why = format!("Node didn't have enough resource: {message}");
            refusal(format!("OutOf{resource}"), &why)
        }
        None => {
            let why = "node(s) didn't have free ports for the requested pod ports";
            failed("NodePorts", why)
        }
    })
}

/// Whether pod and node want each other.
fn fits(spec: &PodSpec, node: &Node) -> Result<(), Verdict> {
    if !select::pod_allows_node(spec, node) {
        let why = "node(s) didn't match Pod's node affinity/selector";
        return Err(failed("NodeAffinity", why));
    }
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref());
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    match select::untolerated(taints.unwrap_or_default(), tolerations, &["NoExecute"]) {
        Some(_) => Err(failed("TaintToleration", "node(s) had untolerated taint(s)")),
        None => Ok(()),
    }
}

fn failed(predicate: &str, why: &str) -> Verdict {
    refusal(predicate.into(), &format!("Predicate {predicate} failed: {why}"))
}

fn refusal(reason: String, message: &str) -> Verdict {
    Verdict {
        reason,
        message: format!("Pod was rejected: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn reason(spec: Value) -> Option<String> {
        let node = json!({"metadata": {"name": "n", "labels": {"disk": "ssd"}},
            "spec": {"taints": [{"key": "sick", "effect": "NoExecute"}, {"key": "full", "effect": "NoSchedule"}]}});
        let node: Node = serde_json::from_value(node).expect("a node");
        let spec: PodSpec = serde_json::from_value(spec).expect("a spec");
        fits(&spec, &node).err().map(|verdict| verdict.reason)
    }

    #[test]
    fn a_node_that_the_pod_does_not_want_or_that_does_not_want_it() {
        let tolerant = json!([{"key": "sick", "operator": "Exists"}]);
        let fine = json!({"containers": [], "tolerations": tolerant, "nodeSelector": {"disk": "ssd"}});
        assert_eq!(reason(fine), None);
        let other = json!({"containers": [], "tolerations": tolerant, "nodeSelector": {"disk": "hdd"}});
        assert_eq!(reason(other).as_deref(), Some("NodeAffinity"));
        assert_eq!(
            reason(json!({"containers": []})).as_deref(),
            Some("TaintToleration")
        );
    }
}
