//! The statuses of a pod's containers as the API shows them. Pure.

use super::resize::Resources;
use super::spec::{self, Kind};
use crate::runtime::{ContainerRecord, RuntimePod, State};
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, Pod, PodSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::HashMap;

/// Why a container does not run yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// For example `ImagePullBackOff`.
    pub reason: String,
    /// Explanation.
    pub message: String,
}

/// What the probes found about a running container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// It has started.
    pub started: bool,
    /// It may be sent requests.
    pub ready: bool,
}

/// All that is known of a pod's containers.
pub struct View<'a> {
    /// The pod as the API has it.
    pub pod: &'a Pod,
    /// What the runtime has.
    pub observed: &'a RuntimePod,
    /// Why containers could not be started, by name.
    pub waiting: &'a HashMap<String, Waiting>,
    /// Last words of exited containers, by the runtime's ID.
    pub messages: &'a HashMap<String, String>,
    /// What the probes found, by the runtime's ID.
    pub health: &'a dyn Fn(&str) -> Health,
    /// No container will be started any more.
    pub stopping: bool,
    /// What the containers were promised, and have.
    pub resources: &'a Resources,
    /// Prefix of container IDs, for example `containerd`.
    pub runtime_name: &'a str,
}

/// Exit code that stands for a container of which nothing is known any more.
const EXIT_CODE_UNKNOWN: i32 = 137;

/// Statuses of the containers of one kind, sorted by name as upstream does for app containers; init containers
/// keep their order.
pub fn statuses(view: &View<'_>, spec: &PodSpec, kind: Kind) -> Vec<ContainerStatus> {
    let mut statuses: Vec<ContainerStatus> = spec::containers(spec)
        .iter()
        .filter(|(k, _)| *k == kind)
        .map(|(_, container)| status(view, spec, kind, container))
        .collect();
    if kind != Kind::Init {
        statuses.sort_by(|a, b| a.name.cmp(&b.name));
    }
    statuses
}

/// The status that the API has of a container.
pub fn reported<'a>(pod: &'a Pod, kind: Kind, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let list = match kind {
        Kind::Init => &status.init_container_statuses,
        Kind::App => &status.container_statuses,
        Kind::Ephemeral => &status.ephemeral_container_statuses,
    };
    list.as_ref()?.iter().find(|s| s.name == name)
}

fn status(view: &View<'_>, spec: &PodSpec, kind: Kind, container: &Container) -> ContainerStatus {
    let records: Vec<&ContainerRecord> = view
        .observed
        .containers
        .iter()
        .filter(|c| c.name == container.name)
        .map(AsRef::as_ref)
        .collect();
    let Some(newest) = records.first() else {
        return absent(view, spec, kind, container);
    };
    let health = if newest.state == State::Running {
        (view.health)(&newest.id)
    } else {
        Health::default()
    };
    let finished_init = kind == Kind::Init
        && !spec::is_sidecar(container)
        && newest.state == State::Exited
        && newest.exit_code == 0;
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: Some(newest.image.clone())
            .filter(|i| !i.is_empty() && !i.starts_with("sha256:"))
            .or_else(|| container.image.clone())
            .unwrap_or_default(),
        image_id: newest.image_ref.clone(),
        container_id: Some(container_id(view, newest)),
        restart_count: i32::try_from(newest.restart_count).unwrap_or(i32::MAX),
        started: Some(health.started),
        // An init container is ready once it has done its work, not while it does it.
        ready: if kind == Kind::Init && !spec::is_sidecar(container) {
            finished_init
        } else {
            health.ready
        },
        state: Some(state(view, newest)),
        last_state: Some(ContainerState::default()),
        ..ContainerStatus::default()
    };
    if kind == Kind::Ephemeral {
        status.started = None;
        status.ready = false;
    } else {
        view.resources.show(&mut status, Some(&newest.id));
    }
    let previous = records.iter().skip(1).find(|r| r.state == State::Exited);
    status.last_state = match previous {
        Some(previous) => Some(state(view, previous)),
        // The runtime has forgotten it, the API has not.
        None if newest.restart_count > 0 => {
            reported(view.pod, kind, &container.name).and_then(|s| s.last_state.clone())
        }
        None => status.last_state,
    };
    // An exited container that is to be started again shows why it waits.
    let again = !view.stopping
        && newest.state != State::Running
        && (newest.state != State::Exited || spec::restarts(spec, kind, container, newest.exit_code));
    if let Some(waiting) = view.waiting.get(&container.name).filter(|_| again) {
        if newest.state == State::Exited {
            status.last_state = status.state.take();
        }
        status.state = Some(waiting_state(&waiting.reason, &waiting.message));
    }
    status
}

fn waiting_state(reason: &str, message: &str) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.into()),
            message: Some(message.to_owned()).filter(|m| !m.is_empty()),
        }),
        ..ContainerState::default()
    }
}

/// A container that the runtime does not have.
fn absent(view: &View<'_>, spec: &PodSpec, kind: Kind, container: &Container) -> ContainerStatus {
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        started: (kind != Kind::Ephemeral).then_some(false),
        last_state: Some(ContainerState::default()),
        ..ContainerStatus::default()
    };
    if kind != Kind::Ephemeral {
        view.resources.show(&mut status, None);
    }
    let old = reported(view.pod, kind, &container.name);
    let ended = old
        .and_then(|s| s.state.as_ref())
        .and_then(|s| s.terminated.clone());
    let ran = old.is_some_and(|s| s.container_id.as_ref().is_some_and(|id| !id.is_empty()));
    if let Some(old) = old {
        status.restart_count = old.restart_count;
        status.last_state.clone_from(&old.last_state);
        if ran {
            status.image_id.clone_from(&old.image_id);
            status.container_id.clone_from(&old.container_id);
        }
    }
    let lost = ContainerState {
        terminated: Some(ended.clone().unwrap_or_else(|| ContainerStateTerminated {
            exit_code: EXIT_CODE_UNKNOWN,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some("The container could not be located when the pod was terminated".into()),
            ..ContainerStateTerminated::default()
        })),
        ..ContainerState::default()
    };
    if ran && (view.stopping || ended.is_some()) {
        status.ready = kind == Kind::Init && ended.is_some_and(|e| e.exit_code == 0);
        status.state = Some(lost);
        return status;
    }
    if ran {
        status.last_state = Some(lost);
    }
    let has_init = spec.init_containers.as_ref().is_some_and(|c| !c.is_empty());
    let (reason, message) = match view.waiting.get(&container.name) {
        Some(waiting) => (waiting.reason.as_str(), waiting.message.as_str()),
        None if has_init => ("PodInitializing", ""),
        None => ("ContainerCreating", ""),
    };
    status.state = Some(waiting_state(reason, message));
    status
}

fn container_id(view: &View<'_>, record: &ContainerRecord) -> String {
    format!("{}://{}", view.runtime_name, record.id)
}

/// A time of the runtime as the API's, which has whole seconds.
pub fn time(nanos: i64) -> Option<Time> {
    let seconds = nanos / 1_000_000_000;
    (nanos > 0)
        .then(|| k8s_openapi::jiff::Timestamp::from_second(seconds).ok().map(Time))
        .flatten()
}

fn state(view: &View<'_>, record: &ContainerRecord) -> ContainerState {
    match record.state {
        State::Running => ContainerState {
            running: Some(ContainerStateRunning {
                started_at: time(record.started_at),
            }),
            ..ContainerState::default()
        },
        State::Created => waiting_state("ContainerCreating", ""),
        State::Exited => ContainerState {
            terminated: Some(terminated(view, record)),
            ..ContainerState::default()
        },
        State::Unknown => ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: EXIT_CODE_UNKNOWN,
                reason: Some("ContainerStatusUnknown".into()),
                message: Some("The container could not be located".into()),
                container_id: Some(container_id(view, record)),
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        },
    }
}

fn terminated(view: &View<'_>, record: &ContainerRecord) -> ContainerStateTerminated {
    let reason = match (record.reason.as_str(), record.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    let message = view
        .messages
        .get(&record.id)
        .cloned()
        .or_else(|| Some(record.message.clone()))
        .filter(|m| !m.is_empty());
    ContainerStateTerminated {
        exit_code: record.exit_code,
        signal: None,
        reason: Some(reason.into()),
        message,
        started_at: time(record.started_at),
        finished_at: time(record.finished_at),
        container_id: Some(container_id(view, record)),
    }
}
