//! Node lifecycle: from a missed Lease over an unready node to fail-over, and back. The timing is in
//! [`health`], the taints in [`taints`], the decision to give a node up in [`failover`]; what then happens to
//! its pods in [`eviction`] and [`pod_gc`].

pub mod eviction;
mod failover;
mod health;
pub mod pod_gc;
pub mod taints;

use crate::StorageContact;
use crate::context::{Context, answered, settle};
use client::events::reference;
use client::{Key, Outcome, Queue, pods};
use failover::Verdict;
use health::{Life, Signs};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The name under which Events are recorded.
const COMPONENT: &str = "node-controller";

/// Where kubelets renew their Leases.
const LEASES: &str = "kube-node-lease";
/// Nodes worked on at once: a whole region may fail together.
const CONCURRENCY: usize = 10;
/// How often the clock is looked at, to notice that this process was stopped.
const LOOK: Duration = Duration::from_secs(1);
/// The conditions that only the kubelet can report.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// The controller.
pub struct Controller {
    context: Arc<Context>,
    storage: Arc<dyn StorageContact>,
    queue: Arc<Queue<Key>>,
    signs: Arc<Mutex<Signs>>,
}

impl Controller {
    /// Registers its handlers.
    pub fn new(context: &Arc<Context>, storage: Arc<dyn StorageContact>) -> Self {
        let queue: Arc<Queue<Key>> = Arc::new(Queue::new());
        let signs = Arc::new(Mutex::new(Signs::default()));
        let (keys, known) = (queue.clone(), signs.clone());
        context.nodes.on_change(move |change| {
            let node = change.object();
            let name = node.metadata.name.as_deref().unwrap_or_default();
            match change.current() {
                Some(current) => {
                    let mut signs = known.lock();
                    signs.expect(name, Instant::now());
                    if change.old().is_some_and(|old| reported(old, current)) {
                        signs.heard(name, Instant::now());
                    }
                }
                None => known.lock().forget(name),
            }
            // Heartbeats of a healthy node are not worth a look.
            let quiet = change
                .old()
                .zip(change.current())
                .is_some_and(|(old, new)| same_for_us(old, new));
            if !quiet {
                keys.add(Key::of(&**node));
            }
        });
        let (keys, known, weak) = (queue.clone(), signs.clone(), Arc::downgrade(context));
        context.leases.on_change(move |change| {
            let Some(lease) = change.current() else { return };
            if lease.metadata.namespace.as_deref() != Some(LEASES) {
                return;
            }
            let name = lease.metadata.name.as_deref().unwrap_or_default();
            let now = Instant::now();
            let silent = {
                let mut signs = known.lock();
                signs.look(now);
                let silent = matches!(signs.life(name, now), Life::Silent { .. });
                signs.note(name, lease, now);
                silent
            };
            let node = weak.upgrade().and_then(|context| context.nodes.get("", name));
            let unwell = node.is_none_or(|node| !taints::is_ready(&node) || taints::is_out_of_service(&node));
            // A living node's renewal only moves its timer, which is set when it fires.
            if silent || unwell || change.old().is_none() {
                keys.add(Key::new("", name));
            }
        });
        // A pod that reaches an unready node's books late must be marked, too.
        let (keys, weak) = (queue.clone(), Arc::downgrade(context));
        context.pods.on_change(move |change| {
            let (Some(context), Some(pod)) = (weak.upgrade(), change.current()) else {
                return;
            };
            let name = pods::node_name(pod);
            if !name.is_empty() && pods::is_ready(pod) {
                let node = context.nodes.get("", name);
                if node.is_some_and(|node| taints::condition(&node, "Ready") == Some("Unknown")) {
                    keys.add(Key::new("", name));
                }
            }
        });
        Self {
            context: context.clone(),
            storage,
            queue,
            signs,
        }
    }

    /// Works until dropped.
    pub async fn run(self) {
        let this = &self;
        let work = self.queue.work(CONCURRENCY, |key| async move {
            let result = this.reconcile(&key).await;
            settle("node", &key, result)
        });
        let looks = async {
            let mut interval = tokio::time::interval(LOOK);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                interval.tick().await;
                this.signs.lock().look(Instant::now());
            }
        };
        tokio::select! {
            () = looks => {}
            _ = work => {}
        }
    }

    /// How the node stands now.
    fn life(&self, name: &str) -> Life {
        let (mut signs, now) = (self.signs.lock(), Instant::now());
        signs.look(now);
        signs.life(name, now)
    }

    async fn reconcile(&self, key: &Key) -> kube::Result<Outcome> {
        let Some(node) = self.context.nodes.by_key(key) else {
            return Ok(Outcome::Done);
        };
        let life = self.life(&key.name);
        let node = match life {
            Life::Silent { .. } => self.mark_unknown(node).await?,
            Life::Alive { .. } => node,
        };
        let node = self.keep_taints(node).await?;
        if !taints::is_ready(&node) {
            self.mark_pods(&node).await?;
        }
        match life {
            Life::Alive { left } => {
                if taints::is_out_of_service(&node)
                    && taints::is_ours(&node)
                    && failover::recovered(life, taints::is_ready(&node))
                {
                    self.take_back(&node).await?;
                }
                Ok(Outcome::After(left + Duration::from_millis(10)))
            }
            Life::Silent { since } => self.consider_giving_up(&node, since).await,
        }
    }

    /// Nobody speaks for the node any more: its conditions are unknown.
    async fn mark_unknown(&self, node: Arc<Node>) -> kube::Result<Arc<Node>> {
        let known: Vec<NodeCondition> = node
            .status
            .as_ref()
            .and_then(|status| status.conditions.clone())
            .unwrap_or_default();
        let now = Timestamp::now();
        let mut changed = Vec::new();
        for kind in REPORTED {
            let old = known.iter().find(|condition| condition.type_ == kind);
            if old.is_some_and(|condition| condition.status == "Unknown") {
                continue;
            }
            let (reason, message) = match old {
                Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
                None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
            };
            changed.push(NodeCondition {
                type_: kind.into(),
                status: "Unknown".into(),
                reason: Some(reason.into()),
                message: Some(message.into()),
                last_heartbeat_time: old.and_then(|condition| condition.last_heartbeat_time.clone()),
                last_transition_time: Some(Time(now)),
            });
        }
        if changed.is_empty() {
            return Ok(node);
        }
        let name = node.metadata.name.clone().unwrap_or_default();
        tracing::info!(node = name, "the node's Lease has run out");
        // The resource version: what the kubelet reports meanwhile is newer than this.
        let patch = serde_json::json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "status": {"conditions": changed},
        });
        let api: Api<Node> = self.context.cluster();
        let patched = api
            .patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch))
            .await?;
        self.context.nodes.observe(patched.clone());
        let text = format!("Node {name} status is now: NodeNotReady");
        self.context
            .recorder
            .of(COMPONENT)
            .event(&reference(&*node), "Normal", "NodeNotReady", text);
        Ok(Arc::new(patched))
    }

    async fn keep_taints(&self, node: Arc<Node>) -> kube::Result<Arc<Node>> {
        let names: Vec<String> = self
            .context
            .nodes
            .list()
            .iter()
            .filter_map(|node| node.metadata.name.clone())
            .collect();
        let cut_off = self
            .signs
            .lock()
            .all_silent(names.iter().map(String::as_str), Instant::now());
        let wanted = taints::wanted(&node, !cut_off, Timestamp::now());
        if taints::same(&wanted, taints::of(&node)) {
            return Ok(node);
        }
        self.write_taints(&node, wanted, None).await
    }

    async fn write_taints(
        &self,
        node: &Node,
        taints: Vec<Taint>,
        mark: Option<serde_json::Value>,
    ) -> kube::Result<Arc<Node>> {
        let mut patch = serde_json::json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": taints},
        });
        if let Some(mark) = mark {
            patch["metadata"]["annotations"] = mark;
        }
        let api: Api<Node> = self.context.cluster();
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let patched = self.context.merge(&api, &self.context.nodes, name, patch).await?;
        Ok(Arc::new(patched))
    }

    /// The node's pods are not ready, so that no Service sends traffic there.
    async fn mark_pods(&self, node: &Node) -> kube::Result<()> {
        if taints::condition(node, "Ready") != Some("Unknown") {
            return Ok(());
        }
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let ready = self
            .context
            .pods
            .select(|pod| pods::node_name(pod) == name && pods::is_ready(pod));
        for pod in ready {
            let condition = serde_json::json!({
                "type": "Ready", "status": "False", "lastTransitionTime": Time(Timestamp::now()),
            });
            let meta = &pod.metadata;
            let api: Api<Pod> = self.context.api(meta.namespace.as_deref().unwrap_or_default());
            let patch = serde_json::json!({
                "metadata": {"uid": meta.uid}, "status": {"conditions": [condition]},
            });
            let pod_name = meta.name.as_deref().unwrap_or_default();
            match api
                .patch_status(pod_name, &PatchParams::default(), &Patch::Strategic(patch))
                .await
            {
                Ok(patched) => self.context.pods.observe(patched),
                Err(error) if answered(&error, 404) || answered(&error, 409) => {}
                Err(error) => return Err(error),
            }
            let text = "Node is not ready";
            self.context
                .recorder
                .of(COMPONENT)
                .event(&reference(&*pod), "Warning", "NodeNotReady", text);
        }
        Ok(())
    }

    async fn consider_giving_up(&self, node: &Node, since: Duration) -> kube::Result<Outcome> {
        if taints::is_out_of_service(node) {
            return Ok(Outcome::Done);
        }
        let name = node.metadata.name.clone().unwrap_or_default();
        let contact = self.storage.contact(&name).await;
        match failover::decide(since, contact) {
            Verdict::Wait(time) => {
                tracing::debug!(node = name, ?contact, ?since, "not given up yet");
                Ok(Outcome::After(time))
            }
            Verdict::GiveUp => {
                // A sign of life may have come while the storage was asked.
                if matches!(self.life(&name), Life::Alive { .. }) {
                    return Ok(Outcome::After(Duration::ZERO));
                }
                self.give_up(node, since).await?;
                Ok(Outcome::Done)
            }
        }
    }

    async fn give_up(&self, node: &Node, since: Duration) -> kube::Result<()> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        tracing::info!(
            node = name,
            silent_s = since.as_secs(),
            "fail-over: the node is out of service"
        );
        let now = Timestamp::now();
        let mut taints = taints::of(node).to_vec();
        taints.push(Taint {
            key: taints::OUT_OF_SERVICE.into(),
            value: Some(taints::OUT_OF_SERVICE_VALUE.into()),
            effect: "NoExecute".into(),
            time_added: Some(Time(now)),
        });
        let mark = serde_json::json!({taints::SET_BY_US: now.to_string()});
        self.write_taints(node, taints, Some(mark)).await?;
        let text = format!(
            "Neither the kubelet nor the storage of node {name} has been heard for {} s: its pods and volumes move",
            since.as_secs()
        );
        self.context
            .recorder
            .of(COMPONENT)
            .event(&reference(node), "Warning", "NodeOutOfService", text);
        Ok(())
    }

    async fn take_back(&self, node: &Node) -> kube::Result<()> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        tracing::info!(node = name, "the node is back in service");
        let rest: Vec<Taint> = taints::of(node)
            .iter()
            .filter(|taint| taint.key != taints::OUT_OF_SERVICE)
            .cloned()
            .collect();
        let mark = serde_json::json!({taints::SET_BY_US: null});
        self.write_taints(node, rest, Some(mark)).await?;
        let text = format!("Node {name} is back");
        self.context
            .recorder
            .of(COMPONENT)
            .event(&reference(node), "Normal", "NodeInService", text);
        Ok(())
    }
}

/// Did the kubelet report between these two states? Only it moves the heartbeat, or makes a node ready that was
/// unknown.
fn reported(old: &Node, new: &Node) -> bool {
    let ready = |node: &Node| {
        let conditions = node.status.as_ref()?.conditions.as_ref()?;
        let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
        Some((ready.status.clone(), ready.last_heartbeat_time.clone()))
    };
    let new = ready(new);
    new.as_ref().is_some_and(|(status, _)| status != "Unknown") && ready(old) != new
}

/// Is the difference between two states of a node none of this controller's business?
fn same_for_us(old: &Node, new: &Node) -> bool {
    let kinds = [
        "Ready",
        "MemoryPressure",
        "DiskPressure",
        "PIDPressure",
        "NetworkUnavailable",
    ];
    let cordon = |node: &Node| {
        node.spec
            .as_ref()
            .and_then(|spec| spec.unschedulable)
            .unwrap_or(false)
    };
    kinds
        .iter()
        .all(|kind| taints::condition(old, kind) == taints::condition(new, kind))
        && taints::of(old) == taints::of(new)
        && cordon(old) == cordon(new)
        && taints::is_ours(old) == taints::is_ours(new)
}
