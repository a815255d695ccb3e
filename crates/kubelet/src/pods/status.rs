//! The status of a pod as the API shows it: phase and conditions. Pure; the rules are upstream's.

use super::containers::{self, View};
use super::resize::Progress;
use super::spec::{self, Kind, RestartPolicy};
use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// A decision that overrides what the containers say: the deadline passed, for example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Short word.
    pub reason: String,
    /// Explanation.
    pub message: String,
}

/// What the status is made of besides the containers' view.
pub struct Input<'a> {
    /// The pod as the API has it.
    pub pod: &'a Pod,
    /// What is known of its containers.
    pub view: View<'a>,
    /// Addresses of the node, the one of the pod's family first.
    pub host_ips: Vec<String>,
    /// Set when the kubelet ended the pod.
    pub verdict: Option<&'a Verdict>,
    /// All containers are dead and will stay so.
    pub terminal: bool,
    /// Now.
    pub now: Time,
}

/// The status to report.
pub fn status(input: &Input<'_>) -> PodStatus {
    let spec = spec::spec(input.pod);
    let old = input.pod.status.clone().unwrap_or_default();
    let init = containers::statuses(&input.view, &spec, Kind::Init);
    let app = containers::statuses(&input.view, &spec, Kind::App);
    let ephemeral = containers::statuses(&input.view, &spec, Kind::Ephemeral);
    let mut phase = if input.verdict.is_some() {
        "Failed"
    } else {
        phase(&spec, &init, &app, input.terminal)
    };
    // A pod that is over stays as it ended.
    if let Some(ended @ ("Succeeded" | "Failed")) = old.phase.as_deref() {
        phase = ended;
    }
    let mut status = PodStatus {
        phase: Some(phase.into()),
        observed_generation: input.pod.metadata.generation,
        start_time: old.start_time.clone().or_else(|| Some(input.now.clone())),
        qos_class: Some(
            old.qos_class
                .clone()
                .unwrap_or_else(|| spec::qos(&spec).name().into()),
        ),
        host_ip: input.host_ips.first().cloned(),
        host_ips: Some(
            input
                .host_ips
                .iter()
                .map(|ip| HostIP { ip: ip.clone() })
                .collect(),
        ),
        reason: input.verdict.map(|v| v.reason.clone()).or(old.reason.clone()),
        message: input.verdict.map(|v| v.message.clone()).or(old.message.clone()),
        nominated_node_name: old.nominated_node_name.clone(),
        resize: old.resize.clone(),
        ..PodStatus::default()
    };
    addresses(&mut status, input, &spec, &old);
    let conditions = conditions(input, &spec, phase, &init, &app);
    status.conditions = Some(merge_conditions(&old, conditions, input));
    status.init_container_statuses = Some(init).filter(|s| !s.is_empty());
    status.container_statuses = Some(app).filter(|s| !s.is_empty());
    status.ephemeral_container_statuses = Some(ephemeral).filter(|s| !s.is_empty());
    status
}

fn addresses(status: &mut PodStatus, input: &Input<'_>, spec: &PodSpec, old: &PodStatus) {
    let sandbox = input.view.observed.sandboxes.first();
    let ips = if spec.host_network == Some(true) {
        input.host_ips.clone()
    } else {
        sandbox.map(|s| s.ips.clone()).unwrap_or_default()
    };
    if ips.is_empty() {
        // A sandbox that stopped has given its address back, but its owner may still ask which it was.
        if input.terminal || sandbox.is_some_and(|s| !s.ready) {
            status.pod_ip.clone_from(&old.pod_ip);
            status.pod_ips.clone_from(&old.pod_ips);
        }
        return;
    }
    status.pod_ip = ips.first().cloned();
    status.pod_ips = Some(ips.into_iter().map(|ip| PodIP { ip }).collect());
}

#[derive(Default)]
struct Count {
    waiting: usize,
    running: usize,
    stopped: usize,
    succeeded: usize,
    unknown: usize,
}

fn last_exit(status: &ContainerStatus) -> Option<i32> {
    Some(status.last_state.as_ref()?.terminated.as_ref()?.exit_code)
}

fn count(statuses: &[ContainerStatus], expected: usize) -> Count {
    let mut count = Count {
        unknown: expected.saturating_sub(statuses.len()),
        ..Count::default()
    };
    for status in statuses {
        let state = status.state.clone().unwrap_or_default();
        if state.running.is_some() {
            count.running += 1;
        } else if let Some(terminated) = state.terminated {
            count.stopped += 1;
            count.succeeded += usize::from(terminated.exit_code == 0);
        } else if last_exit(status).is_some() {
            count.stopped += 1;
        } else {
            count.waiting += 1;
        }
    }
    count
}

/// (init containers that have still to do their work, those that failed).
fn pending_init(spec: &PodSpec, statuses: &[ContainerStatus]) -> (usize, usize) {
    let (mut pending, mut failed) = (0, 0);
    for container in spec.init_containers.iter().flatten() {
        let Some(status) = statuses.iter().find(|s| s.name == container.name) else {
            pending += 1;
            continue;
        };
        let state = status.state.clone().unwrap_or_default();
        if spec::is_sidecar(container) {
            let up = state.running.is_some() && status.started == Some(true);
            let ran = state.terminated.is_some() || last_exit(status).is_some();
            pending += usize::from(!up && !ran);
        } else if let Some(terminated) = state.terminated {
            failed += usize::from(terminated.exit_code != 0);
        } else if state.running.is_none() && last_exit(status).is_some_and(|code| code != 0) {
            failed += 1;
        } else {
            pending += 1;
        }
    }
    (pending, failed)
}

/// Where the pod stands in its life.
pub fn phase(
    spec: &PodSpec,
    init: &[ContainerStatus],
    app: &[ContainerStatus],
    terminal: bool,
) -> &'static str {
    let (pending, failed) = pending_init(spec, init);
    let count = count(app, spec.containers.len());
    let policy = spec::restart_policy(spec);
    if failed > 0 && (policy == RestartPolicy::Never || terminal) {
        return "Failed";
    }
    let started = count.running + count.stopped > 0;
    if !terminal && (!started && (pending > 0 || failed > 0) || count.waiting > 0) {
        return "Pending";
    }
    if count.running > 0 && count.unknown == 0 {
        return "Running";
    }
    if terminal {
        let all = count.succeeded == spec.containers.len();
        return if all { "Succeeded" } else { "Failed" };
    }
    if count.stopped == 0 || count.unknown > 0 {
        return "Pending";
    }
    match policy {
        RestartPolicy::Always => "Running",
        _ if count.stopped == count.succeeded => "Succeeded",
        RestartPolicy::Never => "Failed",
        RestartPolicy::OnFailure => "Running",
    }
}

fn condition(type_: &str, ok: bool, reason: Option<&str>, message: Option<String>) -> PodCondition {
    PodCondition {
        type_: type_.into(),
        status: if ok { "True" } else { "False" }.into(),
        reason: reason.map(Into::into),
        message,
        ..PodCondition::default()
    }
}

fn conditions(
    input: &Input<'_>,
    spec: &PodSpec,
    phase: &str,
    init: &[ContainerStatus],
    app: &[ContainerStatus],
) -> Vec<PodCondition> {
    let host_network = spec.host_network == Some(true);
    let sandbox = input.view.observed.ready_sandbox();
    let networked = sandbox.is_some_and(|s| host_network || !s.ips.is_empty());
    let containers_ready = containers_ready(spec, phase, init, app);
    let ready = ready(input, spec, &containers_ready);
    let mut conditions = vec![
        condition("PodReadyToStartContainers", networked, None, None),
        initialized(spec, phase, init, app),
        ready,
        containers_ready,
        condition("PodScheduled", true, None, None),
    ];
    conditions.extend(resize(&input.view.resources.progress));
    conditions
}

/// Conditions of a resize: they exist only while it is not done.
const RESIZE: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

fn resize(progress: &Progress) -> Option<PodCondition> {
    match progress {
        Progress::Done => None,
        Progress::Pending { reason, message } => {
            Some(condition(RESIZE[0], true, Some(reason), Some(message.clone())))
        }
        Progress::Applying { error } => {
            let reason = error.as_ref().map(|_| "Error");
            Some(condition(RESIZE[1], true, reason, error.clone()))
        }
    }
}

fn initialized(
    spec: &PodSpec,
    phase: &str,
    init: &[ContainerStatus],
    app: &[ContainerStatus],
) -> PodCondition {
    if phase == "Succeeded" {
        return condition("Initialized", true, Some("PodCompleted"), None);
    }
    let count = count(app, spec.containers.len());
    let app_started = count.running + count.stopped > 0;
    let incomplete: Vec<&str> = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| {
            let status = init.iter().find(|s| s.name == container.name);
            let done = status.is_some_and(|status| {
                if spec::is_sidecar(container) {
                    status.started == Some(true) || app_started
                } else {
                    status.ready || app_started
                }
            });
            !done
        })
        .map(|c| c.name.as_str())
        .collect();
    if incomplete.is_empty() {
        return condition("Initialized", true, None, None);
    }
    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
    condition(
        "Initialized",
        false,
        Some("ContainersNotInitialized"),
        Some(message),
    )
}

fn containers_ready(
    spec: &PodSpec,
    phase: &str,
    init: &[ContainerStatus],
    app: &[ContainerStatus],
) -> PodCondition {
    let name = "ContainersReady";
    match phase {
        "Succeeded" => return condition(name, false, Some("PodCompleted"), None),
        "Failed" => return condition(name, false, Some("PodFailed"), None),
        _ => {}
    }
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| spec::is_sidecar(c));
    let wanted: Vec<(&str, Option<&ContainerStatus>)> = sidecars
        .map(|c| (c.name.as_str(), init.iter().find(|s| s.name == c.name)))
        .chain(
            spec.containers
                .iter()
                .map(|c| (c.name.as_str(), app.iter().find(|s| s.name == c.name))),
        )
        .collect();
    let unready: Vec<&str> = wanted
        .iter()
        .filter(|(_, status)| status.is_none_or(|s| !s.ready))
        .map(|(name, _)| *name)
        .collect();
    if unready.is_empty() {
        return condition(name, true, None, None);
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    condition(name, false, Some("ContainersNotReady"), Some(message))
}

fn ready(input: &Input<'_>, spec: &PodSpec, containers_ready: &PodCondition) -> PodCondition {
    if containers_ready.status != "True" {
        return PodCondition {
            type_: "Ready".into(),
            ..containers_ready.clone()
        };
    }
    let given = input.pod.status.as_ref().and_then(|s| s.conditions.as_deref());
    let given = given.unwrap_or_default();
    let unmet: Vec<String> = spec
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            match given.iter().find(|c| &c.type_ == kind) {
                None => Some(format!(
                    "corresponding condition of pod readiness gate {kind:?} does not exist."
                )),
                Some(c) if c.status != "True" => Some(format!(
                    "the status of pod readiness gate {kind:?} is not \"True\", but {}",
                    c.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if unmet.is_empty() {
        return condition("Ready", true, None, None);
    }
    condition(
        "Ready",
        false,
        Some("ReadinessGatesNotReady"),
        Some(unmet.join(", ")),
    )
}

/// Ours, with the time of the last change kept where nothing changed, and the others' untouched.
fn merge_conditions(old: &PodStatus, ours: Vec<PodCondition>, input: &Input<'_>) -> Vec<PodCondition> {
    let before = old.conditions.as_deref().unwrap_or_default();
    let generation = input.pod.metadata.generation;
    let mut merged: Vec<PodCondition> = ours
        .into_iter()
        .map(|mut condition| {
            let same = before.iter().find(|c| c.type_ == condition.type_);
            condition.last_transition_time = match same {
                Some(c) if c.status == condition.status => c.last_transition_time.clone(),
                _ => None,
            }
            .or_else(|| Some(input.now.clone()));
            condition.observed_generation = generation;
            condition
        })
        .collect();
    for condition in before {
        let over = RESIZE.contains(&condition.type_.as_str());
        if !over && !merged.iter().any(|c| c.type_ == condition.type_) {
            merged.push(condition.clone());
        }
    }
    merged
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
