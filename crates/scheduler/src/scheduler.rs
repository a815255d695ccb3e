//! The scheduling loop: one pod at a time is placed on the cached nodes; everything that talks to the server
//! happens aside, so that a hundred pods take no longer than the server does.

use crate::bind;
use crate::filter::volumes::{Claims, Decision, Lookup};
use crate::filter::{Cycle, Reason, name_of, summary};
use crate::queue::Queue;
use crate::state::{NodeInfo, PodInfo, State};
use crate::{preempt, score};
use client::events::{Recorder, reference};
use client::{Change, Informer, pods};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::runtime::watcher;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Pods with another `schedulerName` are none of ours.
const SCHEDULER_NAME: &str = "default-scheduler";
/// Requests to the server at once.
const REQUESTS: usize = 32;
/// Events about one failed attempt are at most this long (the server refuses longer ones).
const MESSAGE_CHARACTERS: usize = 1000;

/// The scheduler's view of the cluster.
#[derive(Default)]
pub struct Caches {
    /// All pods.
    pub pods: Informer<Pod>,
    nodes: Informer<Node>,
    namespaces: Informer<Namespace>,
    /// All volumes.
    pub volumes: Informer<PersistentVolume>,
    /// All claims.
    pub claims: Informer<PersistentVolumeClaim>,
    classes: Informer<StorageClass>,
}

impl Lookup for Caches {
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.claims.get(namespace, name)
    }

    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.get("", name)
    }

    fn volumes_of(&self, class: &str) -> Vec<Arc<PersistentVolume>> {
        self.volumes.select(|volume| {
            volume
                .spec
                .as_ref()
                .and_then(|spec| spec.storage_class_name.as_deref())
                .unwrap_or_default()
                == class
        })
    }

    fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.classes.get("", name)
    }
}

/// One term of leadership.
pub struct Scheduler {
    /// Client with the scheduler's identity.
    pub client: kube::Client,
    /// Writes Events in the background.
    pub recorder: Recorder,
    /// What the watches show.
    pub caches: Caches,
    /// Told on each change of a claim.
    pub claims_changed: watch::Sender<()>,
    state: Mutex<State>,
    queue: Queue,
    requests: Semaphore,
}

/// What became of one attempt.
enum Verdict {
    Placed {
        node: String,
        decisions: Vec<Decision>,
    },
    Nowhere {
        message: String,
        room: Option<preempt::Plan>,
    },
}

impl Scheduler {
    /// With empty caches.
    pub fn new(client: kube::Client, identity: &str) -> Arc<Self> {
        Arc::new(Self {
            recorder: Recorder::new(client.clone(), SCHEDULER_NAME, identity),
            client,
            caches: Caches::default(),
            claims_changed: watch::Sender::new(()),
            state: Mutex::default(),
            queue: Queue::default(),
            requests: Semaphore::new(REQUESTS),
        })
    }

    /// Schedules until dropped.
    pub async fn run(self: Arc<Self>) {
        self.listen();
        // Dropped with this future when leadership is lost, which ends all tasks.
        let mut tasks = JoinSet::new();
        self.follow(&mut tasks);
        let caches = &self.caches;
        caches.pods.synced().await;
        caches.nodes.synced().await;
        caches.namespaces.synced().await;
        caches.volumes.synced().await;
        caches.claims.synced().await;
        caches.classes.synced().await;
        tracing::info!(nodes = caches.nodes.len(), pods = caches.pods.len(), "scheduling");
        loop {
            tokio::select! {
                pod = self.queue.next() => self.schedule(pod, &mut tasks),
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended {
                        // A bug: a new term starts with fresh caches.
                        tracing::error!(%error, "a task of the scheduler failed");
                        return;
                    }
                }
            }
        }
    }

    fn follow(self: &Arc<Self>, tasks: &mut JoinSet<()>) {
        macro_rules! follow {
            ($($field:ident),*) => {$({
                let this = self.clone();
                tasks.spawn(async move {
                    let api = Api::all(this.client.clone());
                    this.caches.$field.run(api, watcher::Config::default()).await;
                });
            })*};
        }
        follow!(pods, nodes, namespaces, volumes, claims, classes);
    }

    fn listen(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        self.caches.pods.on_change(move |change| {
            if let Some(this) = weak.upgrade() {
                this.pod_changed(change);
            }
        });
        let weak = Arc::downgrade(self);
        self.caches.nodes.on_change(move |change| {
            if let Some(this) = weak.upgrade() {
                this.node_changed(change);
            }
        });
        macro_rules! stir {
            ($($field:ident),*) => {$({
                let weak = Arc::downgrade(self);
                self.caches.$field.on_change(move |_| {
                    if let Some(this) = weak.upgrade() {
                        this.claims_changed.send_replace(());
                        this.queue.stir();
                    }
                });
            })*};
        }
        stir!(volumes, claims, classes);
    }

    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let Some(pod) = change.current() else {
            let pod = change.object();
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            self.queue.remove(uid);
            let placed = {
                let mut state = self.state.lock();
                let placed = state.node_of(uid).is_some();
                state.remove_pod(uid);
                placed
            };
            // Its room is free now.
            if placed {
                self.queue.stir();
            }
            return;
        };
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let counted = {
            let mut state = self.state.lock();
            let before = state.node_of(uid).map(str::to_owned);
            state.set_pod(pod);
            (before, state.node_of(uid).map(str::to_owned))
        };
        if waits(pod) {
            self.queue.upsert(Arc::new(PodInfo::new(pod.clone())));
        } else {
            self.queue.remove(uid);
        }
        let relabelled = change
            .old()
            .is_some_and(|old| old.metadata.labels != pod.metadata.labels);
        // Freed room, a new neighbour for affinity, other labels.
        if counted.0 != counted.1 || relabelled {
            self.queue.stir();
        }
    }

    fn node_changed(&self, change: &Change<'_, Node>) {
        match change {
            Change::Added(node) | Change::Updated(_, node) => self.state.lock().set_node(node),
            Change::Deleted(node) => {
                self.state
                    .lock()
                    .remove_node(node.metadata.name.as_deref().unwrap_or_default());
            }
        }
        // Heartbeats change nothing for scheduling.
        let same = |a: &Node, b: &Node| {
            let resources = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
            let spec = |n: &Node| n.spec.as_ref().map(|s| (s.taints.clone(), s.unschedulable));
            a.metadata.labels == b.metadata.labels && spec(a) == spec(b) && resources(a) == resources(b)
        };
        if !matches!(change, Change::Updated(old, new) if same(old, new)) {
            self.queue.stir();
        }
    }

    /// Tries one pod.
    fn schedule(self: &Arc<Self>, pod: Arc<PodInfo>, tasks: &mut JoinSet<()>) {
        let verdict = self.place(&pod);
        let this = self.clone();
        match verdict {
            Verdict::Placed { node, decisions } => {
                tasks.spawn(async move {
                    let permit = if decisions.is_empty() {
                        this.requests.acquire().await.ok()
                    } else {
                        None
                    };
                    let result = bind::bind(&this, &pod, &node, decisions).await;
                    drop(permit);
                    if let Err(error) = result {
                        this.not_bound(&pod, &error).await;
                    }
                });
            }
            Verdict::Nowhere { message, room } => {
                tracing::debug!(pod = name_of(&pod.pod), message, "not schedulable");
                self.recorder.event(
                    &reference(&*pod.pod),
                    "Warning",
                    "FailedScheduling",
                    message.chars().take(MESSAGE_CHARACTERS).collect::<String>(),
                );
                self.queue.give_back(pod.uid(), true);
                tasks.spawn(async move { this.not_placed(&pod, message, room).await });
            }
        }
    }

    async fn not_bound(&self, pod: &Arc<PodInfo>, error: &bind::Error) {
        self.state.lock().retract(pod.uid());
        // Gone, or bound by somebody else: the watch tells.
        let gone = matches!(error, bind::Error::Server(kube::Error::Api(status)) if matches!(status.code, 404 | 409));
        if gone {
            tracing::debug!(pod = name_of(&pod.pod), %error, "not bound");
        } else {
            tracing::info!(pod = name_of(&pod.pod), %error, "not bound");
            self.recorder.event(
                &reference(&*pod.pod),
                "Warning",
                "FailedScheduling",
                error.to_string(),
            );
            bind::report(self, pod, "SchedulerError", &error.to_string(), None).await;
        }
        self.queue.give_back(pod.uid(), false);
        self.queue.stir();
    }

    async fn not_placed(&self, pod: &Arc<PodInfo>, message: String, room: Option<preempt::Plan>) {
        let _permit = self.requests.acquire().await.ok();
        let node = room.as_ref().map(|plan| plan.node.clone());
        bind::report(self, pod, "Unschedulable", &message, node.as_deref()).await;
        let Some(plan) = room else { return };
        self.state
            .lock()
            .nominated
            .insert(pod.uid().to_owned(), (plan.node.clone(), pod.clone()));
        for victim in &plan.victims {
            if pods::is_terminating(&victim.pod) {
                continue;
            }
            if let Err(error) = bind::evict(self, victim, pod, &plan.node).await {
                tracing::info!(pod = name_of(&victim.pod), %error, "not evicted");
            }
        }
    }

    /// Finds the best node and counts the pod on it.
    fn place(&self, pod: &Arc<PodInfo>) -> Verdict {
        let mut state = self.state.lock();
        let total = state.nodes.values().filter(|info| info.node.is_some()).count();
        let claims = match Claims::gather(&pod.pod, &state, &self.caches) {
            Ok(claims) => claims,
            Err(reason) => {
                let message = format!("0/{total} nodes are available: {reason}. {}", unhelpful(total));
                return Verdict::Nowhere { message, room: None };
            }
        };
        let namespaces = |name: &str| {
            self.caches
                .namespaces
                .get("", name)
                .and_then(|n| n.metadata.labels.clone())
        };
        let cycle = Cycle::new(pod, &state, &namespaces, claims);
        let mut fitting: Vec<(&str, &NodeInfo)> = Vec::new();
        let mut failures: BTreeMap<String, Vec<Reason>> = BTreeMap::new();
        for (name, info) in state.nodes.iter().filter(|(_, info)| info.node.is_some()) {
            match self.check(&cycle, &state, name, info) {
                Ok(()) => fitting.push((name, info)),
                Err(reasons) => {
                    failures.insert(name.clone(), reasons);
                }
            }
        }
        let all: Vec<&NodeInfo> = state.nodes.values().collect();
        let Some(node) = score::best(&cycle, &fitting, &all).map(str::to_owned) else {
            let room = preempt::plan(&cycle, &state.nodes, &failures);
            let mut message = summary(total, &failures);
            if total > 0 && room.is_none() {
                message = format!("{message} {}", preemption_note(total, &failures));
            }
            return Verdict::Nowhere { message, room };
        };
        let decisions = state.nodes.get(&node).map(|info| cycle.volumes.decide(info));
        // The node passed the same check a moment ago, under the same lock.
        let decisions = decisions.and_then(Result::ok).unwrap_or_default();
        state.assume(&node, pod.clone());
        Verdict::Placed { node, decisions }
    }

    /// Checks one node, with the pods that are about to come there counted in.
    fn check(
        &self,
        cycle: &Cycle<'_>,
        state: &State,
        name: &str,
        info: &NodeInfo,
    ) -> Result<(), Vec<Reason>> {
        let coming: Vec<&Arc<PodInfo>> = state
            .nominated
            .values()
            .filter(|(node, pod)| {
                node == name && pod.uid() != cycle.pod.uid() && pod.priority() >= cycle.pod.priority()
            })
            .map(|(_, pod)| pod)
            .collect();
        if coming.is_empty() {
            return cycle.check(info);
        }
        let mut crowded = info.clone();
        for pod in coming {
            crowded.add(pod.clone());
        }
        cycle.check(&crowded)
    }
}

fn unhelpful(total: usize) -> String {
    format!("preemption: 0/{total} nodes are available: {total} Preemption is not helpful for scheduling.")
}

fn preemption_note(total: usize, failures: &BTreeMap<String, Vec<Reason>>) -> String {
    let curable = failures
        .values()
        .filter(|reasons| reasons.iter().all(|reason| reason.curable))
        .count();
    let fixed = total - curable;
    let mut parts = Vec::new();
    if curable > 0 {
        parts.push(format!("{curable} No preemption victims found for incoming pod"));
    }
    if fixed > 0 {
        parts.push(format!("{fixed} Preemption is not helpful for scheduling"));
    }
    format!("preemption: 0/{total} nodes are available: {}.", parts.join(", "))
}

/// Is this pod to be scheduled, by us?
fn waits(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let ours = spec.scheduler_name.as_deref().unwrap_or(SCHEDULER_NAME) == SCHEDULER_NAME;
    let gated = spec
        .scheduling_gates
        .as_ref()
        .is_some_and(|gates| !gates.is_empty());
    ours && !gated && pods::node_name(pod).is_empty() && pods::is_active(pod)
}
