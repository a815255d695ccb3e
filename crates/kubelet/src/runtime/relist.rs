//! Finds out which pods changed in the runtime. A runtime with `GetContainerEvents` (containerd 1.7 and later)
//! pushes its events; for the others, one `ListPodSandbox` and one `ListContainers` a second are compared with
//! the previous ones. Both are answered from the runtime's memory.

use super::{Runtime, labels};
use crate::sync::lock;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Pause between lists while the runtime has no events.
const INTERVAL: Duration = Duration::from_secs(1);
/// With events, lists are only a safety net.
const INTERVAL_WITH_EVENTS: Duration = Duration::from_secs(60);
/// After a broken event stream or a runtime that does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// What the last list said about a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Namespace and name, from the labels.
    pub namespace: String,
    /// See `namespace`.
    pub name: String,
    /// (ID, state) of its sandboxes.
    pub sandboxes: BTreeSet<(String, i32)>,
    /// (ID, state) of its containers.
    pub containers: BTreeSet<(String, i32)>,
}

/// The task's shared state.
#[derive(Default)]
pub struct Relist {
    pods: Mutex<HashMap<String, Seen>>,
    listeners: Mutex<HashMap<String, std::sync::Arc<Notify>>>,
    healthy: watch::Sender<bool>,
    changed: watch::Sender<u64>,
}

impl Relist {
    /// Wakes `listener` at each change of the pod.
    pub fn listen(&self, uid: &str, listener: std::sync::Arc<Notify>) {
        lock(&self.listeners).insert(uid.into(), listener);
    }

    /// The pod has no worker any more.
    pub fn forget(&self, uid: &str) {
        lock(&self.listeners).remove(uid);
    }

    /// Wakes the pod's listener for a reason that the runtime does not know.
    pub fn wake(&self, uid: &str) {
        if let Some(listener) = lock(&self.listeners).get(uid) {
            listener.notify_one();
        }
    }

    /// Whether the last list succeeded.
    pub fn health(&self) -> watch::Receiver<bool> {
        self.healthy.subscribe()
    }

    /// Counts lists that found a change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The last list, by pod UID.
    pub fn pods(&self) -> HashMap<String, Seen> {
        lock(&self.pods).clone()
    }

    /// Runs until `shutdown`.
    pub async fn run(&self, runtime: Runtime, shutdown: CancellationToken) {
        tokio::select! {
            () = self.follow(runtime) => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn follow(&self, runtime: Runtime) {
        let mut events = None;
        let mut unimplemented = false;
        loop {
            let healthy = self.relist(&runtime).await;
            self.healthy
                .send_if_modified(|old| std::mem::replace(old, healthy) != healthy);
            if !healthy {
                events = None;
                tokio::time::sleep(RETRY).await;
                continue;
            }
            if events.is_none() && !unimplemented {
                match runtime.container_events().await {
                    Ok(stream) => events = Some(stream),
                    Err(error) => unimplemented = error.status.code() == tonic::Code::Unimplemented,
                }
            }
            let Some(stream) = &mut events else {
                tokio::time::sleep(INTERVAL).await;
                continue;
            };
            match tokio::time::timeout(INTERVAL_WITH_EVENTS, stream.message()).await {
                Ok(Ok(Some(_))) | Err(_) => {}
                Ok(Err(status)) if status.code() == tonic::Code::Unimplemented => {
                    unimplemented = true;
                    events = None;
                }
                Ok(_) => {
                    events = None;
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Lists now and wakes the listeners of what changed. False when the runtime does not answer.
    pub async fn relist(&self, runtime: &Runtime) -> bool {
        let (sandboxes, containers) =
            match tokio::join!(runtime.list_sandboxes(None), runtime.list_containers(None)) {
                (Ok(sandboxes), Ok(containers)) => (sandboxes, containers),
                (Err(error), _) | (_, Err(error)) => {
                    tracing::debug!(%error, "the runtime does not answer");
                    return false;
                }
            };
        let mut new: HashMap<String, Seen> = HashMap::new();
        for item in sandboxes {
            let Some(metadata) = item.metadata else { continue };
            let seen = new.entry(metadata.uid).or_default();
            seen.namespace = metadata.namespace;
            seen.name = metadata.name;
            seen.sandboxes.insert((item.id, item.state));
        }
        for mut item in containers {
            let Some(uid) = item.labels.remove(labels::POD_UID) else {
                continue;
            };
            let seen = new.entry(uid).or_default();
            seen.namespace = item.labels.remove(labels::POD_NAMESPACE).unwrap_or_default();
            seen.name = item.labels.remove(labels::POD_NAME).unwrap_or_default();
            seen.containers.insert((item.id, item.state));
        }
        let mut pods = lock(&self.pods);
        let uids: HashSet<&String> = pods.keys().chain(new.keys()).collect();
        let changed: Vec<String> = uids
            .into_iter()
            .filter(|uid| pods.get(*uid) != new.get(*uid))
            .cloned()
            .collect();
        *pods = new;
        drop(pods);
        if !changed.is_empty() {
            let listeners = lock(&self.listeners);
            for listener in changed.iter().filter_map(|uid| listeners.get(uid)) {
                listener.notify_one();
            }
            self.changed.send_modify(|count| *count += 1);
        }
        true
    }
}
