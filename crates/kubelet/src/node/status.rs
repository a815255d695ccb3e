//! Registers the node and keeps its status: at each change, and every five minutes.

use super::facts::{self, Capacity};
use crate::context::Context;
use crate::eviction::{LEAST_DISK, LEAST_MEMORY};
use crate::sync::lock;
use client::Informer;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec,
    NodeStatus as Status,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// The status is written at least so often, as upstream.
const HEARTBEAT: Duration = Duration::from_secs(300);
/// Pressure and the runtime's conditions are looked at so often: a few file reads and one call.
const LOOK: Duration = Duration::from_secs(10);
/// Pods that the API has deleted are stopped before the node reports anything; it waits no longer than this, and
/// then says why it is not ready.
const SETTLE_PATIENCE: Duration = Duration::from_secs(15);
/// A runtime that is away for less is being restarted: no reason to be not ready.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a failed write: the first one, and the longest.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(3);
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Most images that are listed, as upstream.
const MAX_IMAGES: usize = 50;

/// What other parts contribute to the status.
pub struct NodeStatus {
    in_use: Mutex<BTreeSet<String>>,
    reported: watch::Sender<BTreeSet<String>>,
    wake: Notify,
    uid: watch::Sender<Option<String>>,
    topology: Mutex<BTreeMap<String, String>>,
    node: Informer<Node>,
}

impl NodeStatus {
    /// A status with these volumes in use.
    pub fn new(in_use: Vec<String>) -> Self {
        Self {
            in_use: Mutex::new(in_use.into_iter().collect()),
            reported: watch::Sender::new(BTreeSet::new()),
            wake: Notify::new(),
            uid: watch::Sender::new(None),
            topology: Mutex::default(),
            node: Informer::new(),
        }
    }

    /// Declares a volume in use, and returns once the API knows: only then it may be mounted, since the
    /// attach/detach controller detaches what is not in use.
    pub async fn use_volume(&self, name: &str) {
        if lock(&self.in_use).insert(name.to_owned()) {
            self.wake.notify_one();
        }
        // The sender lives in self.
        let _ = self
            .reported
            .subscribe()
            .wait_for(|names| names.contains(name))
            .await;
    }

    /// The volume was unstaged.
    pub fn release_volume(&self, name: &str) {
        if lock(&self.in_use).remove(name) {
            self.wake.notify_one();
        }
    }

    /// The Node as the API has it; `None` before it was first read.
    pub fn node(&self) -> Option<Arc<Node>> {
        self.node.list().into_iter().next()
    }

    /// UID of the Node object, once registered.
    pub fn uid(&self) -> Option<String> {
        self.uid.borrow().clone()
    }

    /// Follows the UID of the Node object.
    pub fn uids(&self) -> watch::Receiver<Option<String>> {
        self.uid.subscribe()
    }

    /// Labels that CSI drivers give the node.
    pub fn add_labels(&self, labels: BTreeMap<String, String>) {
        let mut known = lock(&self.topology);
        let before = known.len();
        known.extend(labels);
        if known.len() != before {
            self.wake.notify_one();
        }
    }
}

/// Registers the node and keeps its status for ever. `settled`: no pod runs that the API says is gone.
pub async fn run(context: Arc<Context>, capacity: Capacity, settled: watch::Receiver<bool>) {
    let own = context.node.clone();
    let waker = own.clone();
    // Somebody deleted the Node: it registers again. Or took it for dead: it says that it lives.
    own.node.on_change(move |change| {
        if change.current().is_none_or(|node| is_given_up(node)) {
            waker.wake.notify_one();
        }
    });
    let api: Api<Node> = Api::all(context.client.clone());
    let config = watcher::Config::default().fields(&format!("metadata.name={}", context.config.node_name));
    let follow = own.node.run(api.clone(), config);
    let writer = Writer {
        api,
        context,
        capacity,
        settled,
        written: None,
        at: Instant::now(),
        images: Vec::new(),
        down: Mutex::new(None),
    };
    tokio::join!(follow, writer.run());
}

struct Writer {
    api: Api<Node>,
    context: Arc<Context>,
    capacity: Capacity,
    settled: watch::Receiver<bool>,
    written: Option<Value>,
    at: Instant,
    images: Vec<ContainerImage>,
    /// Since when the runtime does not answer.
    down: Mutex<Option<Instant>>,
}

impl Writer {
    async fn run(mut self) {
        let mut health = self.context.relist.health();
        let mut changes = self.context.relist.changes();
        let mut settled = self.settled.clone();
        let mut pause = RETRY_FIRST;
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let _ = tokio::time::timeout(SETTLE_PATIENCE, settled.wait_for(|s| *s)).await;
        self.images().await;
        loop {
            match tokio::time::timeout(TIMEOUT, self.write()).await {
                Ok(Ok(())) => pause = RETRY_FIRST,
                other => {
                    if let Ok(Err(error)) = other {
                        tracing::debug!(%error, "node status not written");
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                    continue;
                }
            }
            tokio::select! {
                _ = health.changed() => {}
                _ = settled.changed() => {}
                () = self.context.node.wake.notified() => {}
                // Pods come and go with their images.
                _ = changes.changed() => self.images().await,
                _ = tick.tick() => {}
            }
        }
    }

    async fn images(&mut self) {
        let Ok(mut images) = self.context.runtime.list_images().await else {
            return;
        };
        images.sort_by_key(|image| std::cmp::Reverse(image.size));
        self.images = images
            .into_iter()
            .take(MAX_IMAGES)
            .map(|image| ContainerImage {
                names: Some(image.repo_digests.into_iter().chain(image.repo_tags).collect()),
                size_bytes: i64::try_from(image.size).ok(),
            })
            .collect();
    }

    /// Registers if needed, and writes the status if it changed or the last time is long ago.
    async fn write(&mut self) -> kube::Result<()> {
        let name = self.context.config.node_name.clone();
        let in_use = lock(&self.context.node.in_use).clone();
        let known = self.context.node.node.get("", &name);
        let known = match known {
            Some(node) => node,
            None => match self.api.get_opt(&name).await? {
                Some(node) => Arc::new(node),
                None => {
                    self.written = None;
                    Arc::new(self.register(&in_use).await?)
                }
            },
        };
        let uid = &self.context.node.uid;
        if uid
            .send_if_modified(|old| std::mem::replace(old, known.metadata.uid.clone()) != known.metadata.uid)
        {
            self.written = None;
        }
        self.reconcile_labels(&known).await?;
        let old = known
            .status
            .as_ref()
            .and_then(|s| s.conditions.clone())
            .unwrap_or_default();
        let status = self.status(&old, &in_use).await;
        let comparable = comparable(&status);
        let due = self.at.elapsed() >= HEARTBEAT;
        if self.written.as_ref() == Some(&comparable) && !due && !overruled(&old, &status) {
            return Ok(());
        }
        let mut body = serde_json::to_value(&status).unwrap_or_default();
        // A merge patch keeps lists that are not named: an empty one must be.
        body["volumesInUse"] = json!(in_use);
        body["images"] = json!(self.images);
        merge_foreign_conditions(&mut body, &old);
        let patch = json!({"status": body});
        let node = self
            .api
            .patch_status(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        match node {
            // What is known from now on is not older than what was written.
            Ok(node) => self.context.node.node.observe(node),
            Err(kube::Error::Api(error)) if error.code == 404 => {
                // Deleted since: the next look registers it again.
                self.context.node.node.forget(&known);
                self.context.node.wake.notify_one();
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        self.written = Some(comparable);
        self.at = Instant::now();
        self.context.node.reported.send_replace(in_use);
        Ok(())
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let config = &self.context.config;
        let arch = facts::system_info("", "").architecture;
        let mut labels: BTreeMap<String, String> = [
            ("kubernetes.io/hostname", config.node_name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", arch.as_str()),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", arch.as_str()),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        for label in &config.node_labels {
            if let Some((key, value)) = label.split_once('=') {
                labels.insert(key.into(), value.into());
            }
        }
        labels.extend(lock(&self.context.node.topology).clone());
        labels
    }

    async fn register(&self, in_use: &BTreeSet<String>) -> kube::Result<Node> {
        let config = &self.context.config;
        let node = Node {
            metadata: ObjectMeta {
                name: Some(config.node_name.clone()),
                labels: Some(self.labels()),
                annotations: Some(
                    [(
                        "volumes.kubernetes.io/controller-managed-attach-detach".to_owned(),
                        "true".to_owned(),
                    )]
                    .into(),
                ),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                pod_cidr: Some(config.pod_cidr.clone()),
                pod_cidrs: Some(vec![config.pod_cidr.clone()]),
                ..NodeSpec::default()
            }),
            status: Some(self.status(&[], in_use).await),
        };
        let node = self.api.create(&PostParams::default(), &node).await?;
        tracing::info!(node = config.node_name, "registered");
        Ok(node)
    }

    async fn reconcile_labels(&self, known: &Node) -> kube::Result<()> {
        let have = known.metadata.labels.clone().unwrap_or_default();
        let mut missing = self.labels();
        missing.retain(|key, value| have.get(key) != Some(value));
        let cidr = known
            .spec
            .as_ref()
            .and_then(|s| s.pod_cidr.clone())
            .unwrap_or_default();
        let mut patch = json!({});
        if !missing.is_empty() {
            patch["metadata"] = json!({"labels": missing});
        }
        if cidr.is_empty() {
            let cidr = &self.context.config.pod_cidr;
            patch["spec"] = json!({"podCIDR": cidr, "podCIDRs": [cidr]});
        }
        if patch.as_object().is_none_or(serde_json::Map::is_empty) {
            return Ok(());
        }
        let name = &self.context.config.node_name;
        self.api
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map(drop)
    }

    async fn status(&self, old: &[NodeCondition], in_use: &BTreeSet<String>) -> Status {
        let config = &self.context.config;
        let version = match self.context.runtime.version().await {
            Ok(version) => format!("{}://{}", version.runtime_name, version.runtime_version),
            Err(_) => format!("{}://unknown", self.context.runtime_name),
        };
        let address = |type_: &str, address: String| NodeAddress {
            type_: type_.into(),
            address,
        };
        let quantities = self.capacity.quantities();
        Status {
            addresses: Some(vec![
                address("InternalIP", config.node_ip.to_string()),
                address("Hostname", config.node_name.clone()),
            ]),
            allocatable: Some(quantities.clone()),
            capacity: Some(quantities),
            conditions: Some(self.conditions(old).await),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint {
                    port: i32::from(config.port),
                }),
            }),
            images: Some(self.images.clone()),
            node_info: Some(facts::system_info(&version, &config.node_name)),
            volumes_in_use: Some(in_use.iter().cloned().collect()),
            ..Status::default()
        }
    }

    async fn conditions(&self, old: &[NodeCondition]) -> Vec<NodeCondition> {
        let disk = facts::filesystem(&self.context.config.root_dir);
        let disk_pressure = disk.is_some_and(|f| f.available < LEAST_DISK);
        let capacity = u64::try_from(self.capacity.amounts.memory_bytes).unwrap_or(u64::MAX);
        let used = self.context.cgroups.memory_working_set().unwrap_or(0);
        let memory_pressure = capacity.saturating_sub(used) < LEAST_MEMORY;
        let ready = self.ready().await;
        let (is_ready, reason, message) = match ready {
            Ok(()) => (true, "KubeletReady", "kubelet is posting ready status".to_owned()),
            Err(why) => (false, "KubeletNotReady", why),
        };
        let pressure = |type_, yes, good: (&'static str, &str), bad: (&'static str, &str)| {
            let (reason, message) = if yes { bad } else { good };
            (type_, yes, reason, message.to_owned())
        };
        let list = [
            pressure(
                "MemoryPressure",
                memory_pressure,
                (
                    "KubeletHasSufficientMemory",
                    "kubelet has sufficient memory available",
                ),
                (
                    "KubeletHasInsufficientMemory",
                    "kubelet has insufficient memory available",
                ),
            ),
            pressure(
                "DiskPressure",
                disk_pressure,
                ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ),
            pressure(
                "PIDPressure",
                false,
                ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                (
                    "KubeletHasInsufficientPID",
                    "kubelet has insufficient PID available",
                ),
            ),
            ("Ready", is_ready, reason, message),
        ];
        let now = Time(Timestamp::now());
        let condition = |(type_, yes, reason, message): (&str, bool, &str, String)| {
            let status = if yes { "True" } else { "False" };
            let same = old.iter().find(|c| c.type_ == type_ && c.status == status);
            NodeCondition {
                last_heartbeat_time: Some(now.clone()),
                last_transition_time: same
                    .and_then(|c| c.last_transition_time.clone())
                    .or_else(|| Some(now.clone())),
                type_: type_.into(),
                status: status.into(),
                reason: Some(reason.into()),
                message: Some(message),
            }
        };
        list.into_iter().map(condition).collect()
    }

    /// Whether pods can run, or why not.
    async fn ready(&self) -> Result<(), String> {
        let conditions = match self.context.runtime.conditions().await {
            Ok(conditions) => conditions,
            Err(error) => {
                let since = lock(&self.down).get_or_insert_with(Instant::now).elapsed();
                if since < RUNTIME_PATIENCE && self.written.is_some() {
                    return Ok(());
                }
                return Err(format!("container runtime is down: {}", error.status.message()));
            }
        };
        *lock(&self.down) = None;
        for condition in conditions {
            if !condition.status && ["RuntimeReady", "NetworkReady"].contains(&condition.r#type.as_str()) {
                let (reason, message) = (condition.reason, condition.message);
                return Err(format!(
                    "container runtime {} is false: {reason} {message}",
                    condition.r#type
                ));
            }
        }
        if !*self.settled.borrow() {
            return Err("pods that the API has deleted are still being stopped".into());
        }
        Ok(())
    }
}

/// Whether somebody (the node controller, after a silence) has declared what this kubelet reports to be unknown.
fn is_given_up(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|c| c.type_ == "Ready" && c.status == "Unknown")
}

/// Whether the API has conditions of ours otherwise than we report them, or not at all.
fn overruled(known: &[NodeCondition], ours: &Status) -> bool {
    let same = |own: &NodeCondition| {
        known
            .iter()
            .any(|c| c.type_ == own.type_ && c.status == own.status)
    };
    !ours.conditions.iter().flatten().all(same)
}

/// The status without what changes all the time.
fn comparable(status: &Status) -> Value {
    let mut status = status.clone();
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_heartbeat_time = None;
        condition.last_transition_time = None;
    }
    serde_json::to_value(status).unwrap_or_default()
}

/// Conditions that others wrote are kept: a merge patch replaces the whole list.
fn merge_foreign_conditions(body: &mut Value, old: &[NodeCondition]) {
    let Some(list) = body["conditions"].as_array_mut() else {
        return;
    };
    for condition in old {
        if !list.iter().any(|c| c["type"] == condition.type_) {
            list.extend(serde_json::to_value(condition));
        }
    }
}
