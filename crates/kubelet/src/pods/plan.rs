//! What must be done to bring the containers of a pod to what its spec asks for. Pure: from the spec, what the
//! runtime has, and what the probes found.
//!
//! The rules are upstream's: a pod has one live sandbox; a new sandbox starts everything anew except what
//! succeeded for good; init containers run one after the other, sidecars among them are waited for only until
//! they have started; app containers start together, and are started again as the restart policy says. When no
//! app container runs and none is to be started, the pod is finished.

use super::spec::{self, Kind, RestartPolicy};
use crate::probes::Verdict;
use crate::runtime::{ContainerRecord, RuntimePod, State};
use k8s_openapi::api::core::v1::{Container, PodSpec};

/// A container to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The runtime's ID.
    pub id: String,
    /// Name in the spec.
    pub name: String,
    /// For the event.
    pub message: String,
    /// Which finding decided it.
    pub why: Why,
}

/// Why a container is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its spec changed.
    Changed,
    /// The liveness probe failed.
    Liveness,
    /// The startup probe failed.
    Startup,
    /// The runtime does not know its state.
    Lost,
    /// It gets other resources, and wants to be started anew for that.
    Resized,
}

/// What to do, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Stop every container and sandbox that is left, then make a sandbox with this number.
    pub new_sandbox: Option<u32>,
    /// Nothing will run any more: stop what is left.
    pub finished: bool,
    /// Containers to stop.
    pub stop: Vec<Stop>,
    /// Containers to start, by kind and position in its list.
    pub start: Vec<(Kind, usize)>,
}

/// What the probes say about a running container.
pub trait Findings {
    /// The verdict of the liveness or startup probe that asks for a restart.
    fn verdict(&self, container_id: &str) -> Verdict;
    /// Whether it has started: its startup probe, if any, has succeeded, and its postStart hook is through.
    fn started(&self, container_id: &str) -> bool;
}

/// Makes the plan for a pod that shall run.
pub fn plan(spec: &PodSpec, observed: &RuntimePod, findings: &dyn Findings) -> Plan {
    let host_network = spec.host_network == Some(true);
    let usable = observed
        .ready_sandbox()
        .filter(|s| host_network || !s.ips.is_empty())
        .filter(|_| observed.sandboxes.iter().filter(|s| s.ready).count() == 1);
    let Some(sandbox) = usable else {
        return plan_new_sandbox(spec, observed);
    };
    let mut plan = Plan::default();
    let init = init_containers(spec, observed, &sandbox.id, findings, &mut plan);
    for (index, container) in spec::containers(spec)
        .iter()
        .filter(|(kind, _)| *kind == Kind::Ephemeral)
        .enumerate()
    {
        if observed.newest(&container.1.name).is_none() {
            plan.start.push((Kind::Ephemeral, index));
        }
    }
    match init {
        Init::Failed => plan.finished = true,
        Init::Waiting => {}
        Init::Done => app_containers(spec, observed, findings, &mut plan),
    }
    plan
}

/// Whether an exited or absent container is to be started.
fn wants_start(spec: &PodSpec, kind: Kind, container: &Container, record: Option<&ContainerRecord>) -> bool {
    match record {
        None => true,
        Some(record) => match record.state {
            State::Running => false,
            State::Created | State::Unknown => kind != Kind::Ephemeral,
            State::Exited => spec::restarts(spec, kind, container, record.exit_code),
        },
    }
}

fn plan_new_sandbox(spec: &PodSpec, observed: &RuntimePod) -> Plan {
    let attempt = observed.sandboxes.first().map_or(0, |s| s.attempt + 1);
    let finished = Plan {
        finished: true,
        ..Plan::default()
    };
    let anything = spec.containers.iter().any(|container| {
        let record = observed.newest(&container.name).map(AsRef::as_ref);
        wants_start(spec, Kind::App, container, record)
    });
    let ran = spec.containers.iter().any(|c| observed.newest(&c.name).is_some());
    // A pod that never restarts is over once its sandbox is lost after a container ran in it.
    let never = spec::restart_policy(spec) == RestartPolicy::Never
        && spec.containers.iter().all(|c| c.restart_policy.is_none());
    if !anything || (never && attempt > 0 && ran) {
        return finished;
    }
    Plan {
        new_sandbox: Some(attempt),
        ..Plan::default()
    }
}

enum Init {
    Done,
    Waiting,
    Failed,
}

fn init_containers(
    spec: &PodSpec,
    observed: &RuntimePod,
    sandbox: &str,
    findings: &dyn Findings,
    plan: &mut Plan,
) -> Init {
    let containers = spec.init_containers.as_deref().unwrap_or_default();
    let app_created = spec
        .containers
        .iter()
        .any(|c| observed.newest_in(&c.name, sandbox).is_some());
    // Everything before the last one that was made in this sandbox had its turn.
    let reached = containers
        .iter()
        .rposition(|c| observed.newest_in(&c.name, sandbox).is_some())
        .map_or(0, |i| if app_created { containers.len() } else { i });
    let reached = if app_created { containers.len() } else { reached };
    for (index, container) in containers.iter().enumerate() {
        let record = observed.newest_in(&container.name, sandbox).map(AsRef::as_ref);
        let sidecar = spec::is_sidecar(container);
        if app_created && !sidecar {
            continue;
        }
        match record.map(|r| (r, r.state)) {
            Some((record, State::Running)) => {
                if let Some(stop) = restart_finding(container, record, findings) {
                    plan.stop.push(stop);
                    plan.start.push((Kind::Init, index));
                }
                if !sidecar || (index >= reached && !findings.started(&record.id)) {
                    return Init::Waiting;
                }
            }
            Some((record, State::Exited)) if !sidecar && record.exit_code == 0 => {}
            Some((record, State::Exited))
                if !spec::restarts(spec, Kind::Init, container, record.exit_code) =>
            {
                return Init::Failed;
            }
            other => {
                if let Some((record, State::Unknown)) = other {
                    plan.stop.push(stop_lost(record));
                }
                plan.start.push((Kind::Init, index));
                if index >= reached {
                    return Init::Waiting;
                }
            }
        }
    }
    Init::Done
}

fn stop_lost(record: &ContainerRecord) -> Stop {
    Stop {
        id: record.id.clone(),
        name: record.name.clone(),
        message: "Container is in unknown state, try killing it before restart".into(),
        why: Why::Lost,
    }
}

/// Why a running container must be stopped, if it must.
fn restart_finding(container: &Container, record: &ContainerRecord, findings: &dyn Findings) -> Option<Stop> {
    let name = &container.name;
    let (message, why) = if record.hash != spec::hash(container) {
        (format!("Container {name} definition changed"), Why::Changed)
    } else {
        match findings.verdict(&record.id) {
            Verdict::Fine => return None,
            Verdict::NotAlive => (format!("Container {name} failed liveness probe"), Why::Liveness),
            Verdict::NotStarted => (format!("Container {name} failed startup probe"), Why::Startup),
        }
    };
    Some(Stop {
        id: record.id.clone(),
        name: name.clone(),
        message,
        why,
    })
}

fn app_containers(spec: &PodSpec, observed: &RuntimePod, findings: &dyn Findings, plan: &mut Plan) {
    let mut kept = 0;
    let mut started = 0;
    for (index, container) in spec.containers.iter().enumerate() {
        let record = observed.newest(&container.name).map(AsRef::as_ref);
        match record {
            Some(record) if record.state == State::Running => {
                let Some(mut stop) = restart_finding(container, record, findings) else {
                    kept += 1;
                    continue;
                };
                // What the probe found must not bring a container back that is never restarted.
                if stop.why == Why::Changed || spec::restarts(spec, Kind::App, container, 1) {
                    stop.message.push_str(", will be restarted");
                    plan.start.push((Kind::App, index));
                    started += 1;
                }
                plan.stop.push(stop);
                kept += 1;
            }
            _ if wants_start(spec, Kind::App, container, record) => {
                if let Some(record) = record.filter(|r| r.state == State::Unknown) {
                    plan.stop.push(stop_lost(record));
                }
                plan.start.push((Kind::App, index));
                started += 1;
            }
            _ => {}
        }
    }
    plan.finished = kept == 0 && started == 0;
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
