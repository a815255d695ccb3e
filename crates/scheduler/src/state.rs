//! The nodes with the pods on them, kept up to date by the watches and, ahead of them, by the scheduler's own
//! decisions: a pod counts on its node from the moment it was chosen, long before the server shows it.

use crate::resources::{self, Amounts};
use client::pods::{self, HostPort};
use k8s_openapi::api::core::v1::{Node, Pod};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// A pod with what is asked of it often.
#[derive(Debug)]
pub struct PodInfo {
    /// The pod.
    pub pod: Arc<Pod>,
    /// What it takes of a node.
    pub requested: Amounts,
    /// What it is taken to use, for scoring.
    pub assumed: Amounts,
    /// The ports it needs on the host.
    pub ports: Vec<HostPort>,
}

impl PodInfo {
    /// Works out what is asked often.
    pub fn new(pod: Arc<Pod>) -> Self {
        Self {
            requested: resources::taken(&pod),
            assumed: resources::assumed(&pod),
            ports: pods::host_ports(&pod),
            pod,
        }
    }

    /// The pod's uid.
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The pod's priority.
    pub fn priority(&self) -> i32 {
        self.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
    }
}

/// A node with the pods on it.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    /// The node; none while pods are known on a node that is not.
    pub node: Option<Arc<Node>>,
    /// What it has.
    pub allocatable: Amounts,
    /// How many pods it takes.
    pub most_pods: i64,
    /// The pods on it, by uid.
    pub pods: BTreeMap<String, Arc<PodInfo>>,
    /// What they ask for together.
    pub requested: Amounts,
    /// What they are taken to use together.
    pub assumed: Amounts,
}

impl NodeInfo {
    /// Puts a pod on the node.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requested, 1);
        self.assumed.add(&pod.assumed, 1);
        if let Some(old) = self.pods.insert(pod.uid().to_owned(), pod) {
            self.requested.add(&old.requested, -1);
            self.assumed.add(&old.assumed, -1);
        }
    }

    /// Takes a pod from the node.
    pub fn remove(&mut self, uid: &str) {
        if let Some(old) = self.pods.remove(uid) {
            self.requested.add(&old.requested, -1);
            self.assumed.add(&old.assumed, -1);
        }
    }

    /// One of the node's labels.
    pub fn label(&self, key: &str) -> Option<&str> {
        let labels = self.node.as_ref()?.metadata.labels.as_ref()?;
        labels.get(key).map(String::as_str)
    }
}

/// All nodes.
#[derive(Default)]
pub struct State {
    /// By name.
    pub nodes: BTreeMap<String, NodeInfo>,
    /// The node of each pod that counts.
    placed: HashMap<String, String>,
    /// Pods that count on a node before the server shows them there.
    ahead: HashSet<String>,
    /// Pods that wait on a node for others to make room, by uid.
    pub nominated: HashMap<String, (String, Arc<PodInfo>)>,
}

impl State {
    /// The node that a pod counts on.
    pub fn node_of(&self, uid: &str) -> Option<&str> {
        self.placed.get(uid).map(String::as_str)
    }

    /// A node was added or changed.
    pub fn set_node(&mut self, node: &Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let (allocatable, most_pods) = resources::allocatable(node);
        let info = self.nodes.entry(name).or_default();
        info.node = Some(node.clone());
        info.allocatable = allocatable;
        info.most_pods = most_pods;
    }

    /// A node is gone.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(info) = self.nodes.get_mut(name) {
            info.node = None;
            if info.pods.is_empty() {
                self.nodes.remove(name);
            }
        }
    }

    /// A pod was added or changed.
    pub fn set_pod(&mut self, pod: &Arc<Pod>) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let node = pods::node_name(pod);
        if pods::is_terminal(pod) {
            self.remove_pod(uid);
        } else if !node.is_empty() {
            self.ahead.remove(uid);
            self.nominated.remove(uid);
            self.place(node, Arc::new(PodInfo::new(pod.clone())));
        } else if !self.ahead.contains(uid) {
            self.unplace(uid);
        }
    }

    /// A pod is gone.
    pub fn remove_pod(&mut self, uid: &str) {
        self.ahead.remove(uid);
        self.nominated.remove(uid);
        self.unplace(uid);
    }

    /// The scheduler has chosen a node: the pod counts there from now on.
    pub fn assume(&mut self, node: &str, pod: Arc<PodInfo>) {
        self.ahead.insert(pod.uid().to_owned());
        self.place(node, pod);
    }

    /// The choice came to nothing.
    pub fn retract(&mut self, uid: &str) {
        if self.ahead.remove(uid) {
            self.unplace(uid);
        }
    }

    fn place(&mut self, node: &str, pod: Arc<PodInfo>) {
        let uid = pod.uid().to_owned();
        if self.placed.get(&uid).is_some_and(|old| old != node) {
            self.unplace(&uid);
        }
        self.placed.insert(uid, node.to_owned());
        self.nodes.entry(node.to_owned()).or_default().add(pod);
    }

    fn unplace(&mut self, uid: &str) {
        let Some(node) = self.placed.remove(uid) else {
            return;
        };
        if let Some(info) = self.nodes.get_mut(&node) {
            info.remove(uid);
            if info.node.is_none() && info.pods.is_empty() {
                self.nodes.remove(&node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn pod(uid: u8, node: Option<u8>, phase: &str) -> Arc<Pod> {
        let value = json!({
            "metadata": {"name": uid.to_string(), "uid": uid.to_string()},
            "spec": {"nodeName": node.map(|n| n.to_string()), "containers": [
                {"name": "c", "resources": {"requests": {"cpu": "100m", "memory": "1Mi"}}}]},
            "status": {"phase": phase}
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    proptest! {
        /// Whatever happens in whatever order, each node's sums are those of the pods on it, and a pod is on
        /// one node at most.
        #[test]
        fn sums_agree_with_pods(steps in prop::collection::vec((0..5u8, 0..6u8, 0..3u8), 0..60)) {
            let mut state = State::default();
            for (action, uid, node) in steps {
                match action {
                    0 => state.set_pod(&pod(uid, Some(node), "Running")),
                    1 => state.set_pod(&pod(uid, None, "Pending")),
                    2 => state.assume(&node.to_string(), Arc::new(PodInfo::new(pod(uid, None, "Pending")))),
                    3 => state.retract(&uid.to_string()),
                    _ => state.remove_pod(&uid.to_string()),
                }
                let mut seen = HashSet::new();
                for info in state.nodes.values() {
                    let count = i64::try_from(info.pods.len()).unwrap();
                    prop_assert_eq!(info.requested.milli_cpu, 100 * count);
                    prop_assert_eq!(info.requested.memory, (1 << 20) * count);
                    for uid in info.pods.keys() {
                        prop_assert!(seen.insert(uid.clone()));
                    }
                }
                prop_assert_eq!(seen.len(), state.placed.len());
            }
        }
    }
}
