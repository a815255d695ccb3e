//! What the runtime says about one pod.

use super::{Error, Runtime, labels};
use protos::cri::{self, ContainerState, PodSandboxState};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A sandbox of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// The runtime's ID.
    pub id: String,
    /// Which sandbox of the pod it is, from 0.
    pub attempt: u32,
    /// Whether its namespaces live.
    pub ready: bool,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Its addresses, the primary one first; empty in the node's network.
    pub ips: Vec<String>,
}

/// Life of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Made, not started.
    #[default]
    Created,
    /// It runs.
    Running,
    /// It ended.
    Exited,
    /// The runtime lost track of it.
    Unknown,
}

/// A container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerRecord {
    /// The runtime's ID.
    pub id: String,
    /// Name in the pod's spec.
    pub name: String,
    /// The sandbox it belongs to.
    pub sandbox_id: String,
    /// How often it was restarted before.
    pub restart_count: u32,
    /// Its state.
    pub state: State,
    /// Nanoseconds since 1970, as are the other times.
    pub created_at: i64,
    /// 0: never.
    pub started_at: i64,
    /// 0: not yet.
    pub finished_at: i64,
    /// Meaningful once it exited.
    pub exit_code: i32,
    /// The runtime's word for why it ended.
    pub reason: String,
    /// The runtime's explanation.
    pub message: String,
    /// Image as named in the spec.
    pub image: String,
    /// Image as the runtime identifies it.
    pub image_ref: String,
    /// Hash of the spec that it was made from.
    pub hash: String,
    /// Its termination message policy.
    pub termination_policy: String,
    /// Its log file.
    pub log_path: String,
}

impl ContainerRecord {
    /// When it ended.
    pub fn finished(&self) -> SystemTime {
        at(self.finished_at)
    }
}

/// A time of the runtime.
pub fn at(nanos: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

/// All that the runtime knows of one pod; both lists have the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimePod {
    /// Sandboxes.
    pub sandboxes: Vec<Sandbox>,
    /// Containers.
    pub containers: Vec<Arc<ContainerRecord>>,
}

impl RuntimePod {
    /// The newest instance of a container.
    pub fn newest(&self, name: &str) -> Option<&Arc<ContainerRecord>> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The newest instance of a container within one sandbox.
    pub fn newest_in(&self, name: &str, sandbox: &str) -> Option<&Arc<ContainerRecord>> {
        self.containers
            .iter()
            .find(|c| c.name == name && c.sandbox_id == sandbox)
    }

    /// The newest sandbox, if it is ready.
    pub fn ready_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|s| s.ready)
    }

    /// Containers that may have processes.
    pub fn alive(&self) -> impl Iterator<Item = &Arc<ContainerRecord>> {
        self.containers
            .iter()
            .filter(|c| matches!(c.state, State::Running | State::Unknown))
    }
}

/// Containers of one pod that ended: what the runtime says about them cannot change any more, so it is asked
/// once. Bounded by the containers that the runtime still holds.
#[derive(Debug, Default)]
pub struct Cache {
    exited: HashMap<String, Arc<ContainerRecord>>,
}

impl Cache {
    /// Asks the runtime about a pod.
    pub async fn observe(&mut self, runtime: &Runtime, uid: &str) -> Result<RuntimePod, Error> {
        let mut pod = RuntimePod::default();
        for item in runtime.list_sandboxes(Some(uid)).await? {
            let ready = item.state == PodSandboxState::SandboxReady as i32;
            let mut sandbox = Sandbox {
                id: item.id,
                attempt: item.metadata.map_or(0, |m| m.attempt),
                ready,
                created_at: item.created_at,
                ips: Vec::new(),
            };
            if ready {
                let status = runtime.sandbox_status(&sandbox.id).await?;
                sandbox.ready = status.state == PodSandboxState::SandboxReady as i32;
                sandbox.ips = addresses(status.network);
            }
            pod.sandboxes.push(sandbox);
        }
        pod.sandboxes
            .sort_by_key(|s| std::cmp::Reverse((s.created_at, s.attempt)));
        let mut exited = HashMap::new();
        for item in runtime.list_containers(Some(uid)).await? {
            let record = match self.exited.get(&item.id) {
                Some(record) => record.clone(),
                None => match runtime.container_status(&item.id).await {
                    Ok(status) => Arc::new(record(&item.pod_sandbox_id, status)),
                    // Removed since it was listed.
                    Err(error) if error.not_found() => continue,
                    Err(error) => return Err(error),
                },
            };
            if record.state == State::Exited {
                exited.insert(record.id.clone(), record.clone());
            }
            pod.containers.push(record);
        }
        self.exited = exited;
        pod.containers
            .sort_by_key(|c| std::cmp::Reverse((c.created_at, c.restart_count)));
        Ok(pod)
    }
}

fn addresses(network: Option<cri::PodSandboxNetworkStatus>) -> Vec<String> {
    let Some(network) = network else { return Vec::new() };
    let more = network.additional_ips.into_iter().map(|ip| ip.ip);
    std::iter::once(network.ip)
        .chain(more)
        .filter(|ip| !ip.is_empty())
        .collect()
}

/// The record of a container's status.
pub fn record(sandbox_id: &str, status: cri::ContainerStatus) -> ContainerRecord {
    let state = match ContainerState::try_from(status.state) {
        Ok(ContainerState::ContainerCreated) => State::Created,
        Ok(ContainerState::ContainerRunning) => State::Running,
        Ok(ContainerState::ContainerExited) => State::Exited,
        _ => State::Unknown,
    };
    let annotation = |key: &str| status.annotations.get(key).cloned().unwrap_or_default();
    let attempt = status.metadata.as_ref().map_or(0, |m| m.attempt);
    ContainerRecord {
        name: status
            .labels
            .get(labels::CONTAINER_NAME)
            .cloned()
            .or_else(|| status.metadata.as_ref().map(|m| m.name.clone()))
            .unwrap_or_default(),
        sandbox_id: sandbox_id.into(),
        restart_count: annotation(labels::RESTART_COUNT).parse().unwrap_or(attempt),
        state,
        created_at: status.created_at,
        started_at: status.started_at,
        finished_at: status.finished_at,
        exit_code: status.exit_code,
        image: status.image.map(|i| i.image).unwrap_or_default(),
        image_ref: status.image_ref,
        hash: annotation(labels::HASH),
        termination_policy: annotation(labels::TERMINATION_POLICY),
        id: status.id,
        reason: status.reason,
        message: status.message,
        log_path: status.log_path,
    }
}
