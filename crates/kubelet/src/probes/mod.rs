//! Liveness, readiness and startup probes: one task for each probe of each running container.

mod check;
pub mod http;
mod machine;

use crate::context::Context;
use crate::pods::containers::Health;
use crate::pods::plan::Findings;
use crate::pods::spec::{self, Kind};
use crate::runtime::{RuntimePod, State};
use crate::sync::lock;
use check::Target;
use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, Probe};
use machine::{Machine, Thresholds};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

/// What the probes say about a running container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on running.
    #[default]
    Fine,
    /// Its liveness probe failed.
    NotAlive,
    /// Its startup probe failed.
    NotStarted,
}

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Liveness,
    Readiness,
    Startup,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
            Self::Startup => "Startup",
        }
    }

    fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Startup => container.startup_probe.as_ref(),
        }
    }
}

/// What is known about one running container.
struct Known {
    verdict: Verdict,
    ready: bool,
    started: watch::Sender<bool>,
}

type Shared = Arc<Mutex<HashMap<String, Known>>>;

/// The probes of one pod.
pub struct Probes {
    context: Arc<Context>,
    wake: Arc<Notify>,
    known: Shared,
    tasks: HashMap<String, Vec<AbortOnDropHandle<()>>>,
    stopped: bool,
}

impl Probes {
    /// No probe runs yet; `wake` is notified at each change.
    pub fn new(context: Arc<Context>, wake: Arc<Notify>) -> Self {
        Self {
            context,
            wake,
            known: Arc::default(),
            tasks: HashMap::new(),
            stopped: false,
        }
    }

    /// Starts probes of containers that run and ends those of containers that do not.
    pub fn update(&mut self, pod: &Arc<Pod>, observed: &RuntimePod) {
        if self.stopped {
            return;
        }
        let running = |id: &str| {
            observed
                .containers
                .iter()
                .any(|c| c.id == id && c.state == State::Running)
        };
        self.tasks.retain(|id, _| running(id));
        lock(&self.known).retain(|id, _| running(id));
        let spec = spec::spec(pod);
        let ips = observed
            .ready_sandbox()
            .map(|s| s.ips.clone())
            .unwrap_or_default();
        let host = self.context.host_ips();
        let ip = ips.first().or(host.first()).cloned().unwrap_or_default();
        for (kind, container) in spec::containers(&spec) {
            let Some(record) = observed
                .newest(&container.name)
                .filter(|r| r.state == State::Running)
            else {
                continue;
            };
            if self.tasks.contains_key(&record.id) {
                continue;
            }
            let probed = kind == Kind::App || (kind == Kind::Init && spec::is_sidecar(&container));
            self.add(&record.id, probed.then_some(&*container));
            let target = Target {
                runtime: self.context.runtime.clone(),
                container_id: record.id.clone(),
                container: container.clone().into_owned(),
                pod_ip: ip.clone(),
            };
            let started_at = crate::runtime::at(record.started_at);
            let mut tasks = Vec::new();
            for role in [Role::Startup, Role::Liveness, Role::Readiness] {
                let Some(probe) = role.of(&container).filter(|_| probed) else {
                    continue;
                };
                let task = Task {
                    context: self.context.clone(),
                    pod: object_reference(pod, kind, &container.name),
                    target: target.clone(),
                    probe: probe.clone(),
                    role,
                    started_at,
                    known: self.known.clone(),
                    wake: self.wake.clone(),
                };
                tasks.push(AbortOnDropHandle::new(tokio::spawn(task.run())));
            }
            self.tasks.insert(record.id.clone(), tasks);
        }
    }

    fn add(&self, id: &str, probed: Option<&Container>) {
        let has_startup = probed.is_some_and(|c| c.startup_probe.is_some());
        let has_readiness = probed.is_some_and(|c| c.readiness_probe.is_some());
        lock(&self.known).entry(id.to_owned()).or_insert_with(|| Known {
            verdict: Verdict::Fine,
            ready: !has_readiness,
            started: watch::Sender::new(!has_startup),
        });
    }

    /// The pod is being stopped: nothing is probed any more, and what was found stays.
    pub fn stop(&mut self) {
        self.stopped = true;
        self.tasks.clear();
    }

    /// What the status shows of a running container.
    pub fn health(&self, id: &str) -> Health {
        let known = lock(&self.known);
        known.get(id).map_or_else(Health::default, |k| {
            let started = *k.started.borrow();
            Health {
                started,
                ready: started && k.ready && k.verdict == Verdict::Fine,
            }
        })
    }
}

impl Findings for Probes {
    fn verdict(&self, container_id: &str) -> Verdict {
        lock(&self.known)
            .get(container_id)
            .map_or(Verdict::Fine, |k| k.verdict)
    }

    fn started(&self, container_id: &str) -> bool {
        self.health(container_id).started
    }
}

/// The reference by which events name a container of a pod.
pub fn object_reference(pod: &Pod, kind: Kind, container: &str) -> ObjectReference {
    let list = match kind {
        Kind::Init => "initContainers",
        Kind::App => "containers",
        Kind::Ephemeral => "ephemeralContainers",
    };
    ObjectReference {
        field_path: Some(format!("spec.{list}{{{container}}}")),
        ..client::events::reference(pod)
    }
}

struct Task {
    context: Arc<Context>,
    pod: ObjectReference,
    target: Target,
    probe: Probe,
    role: Role,
    started_at: SystemTime,
    known: Shared,
    wake: Arc<Notify>,
}

fn positive(value: Option<i32>, default: u32) -> u32 {
    value
        .and_then(|v| u32::try_from(v).ok())
        .filter(|v| *v > 0)
        .unwrap_or(default)
}

impl Task {
    async fn run(self) {
        if self.role != Role::Startup {
            let started = lock(&self.known)
                .get(&self.target.container_id)
                .map(|k| k.started.subscribe());
            let Some(mut started) = started else { return };
            if started.wait_for(|s| *s).await.is_err() {
                return;
            }
        }
        let delay = Duration::from_secs(u64::from(positive(self.probe.initial_delay_seconds, 0)));
        let passed = SystemTime::now()
            .duration_since(self.started_at)
            .unwrap_or_default();
        tokio::time::sleep(delay.saturating_sub(passed)).await;
        let thresholds = Thresholds {
            success: positive(self.probe.success_threshold, 1),
            failure: positive(self.probe.failure_threshold, 3),
        };
        let period = Duration::from_secs(u64::from(positive(self.probe.period_seconds, 10)));
        let mut interval = tokio::time::interval(period);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut machine = Machine::default();
        loop {
            interval.tick().await;
            let result = check::check(&self.target, &self.probe).await;
            if let Err(output) = &result {
                let message = format!("{} probe failed: {output}", self.role.name());
                self.context
                    .recorder
                    .event(&self.pod, "Warning", "Unhealthy", message);
            }
            let Some(decided) = machine.observe(result.is_ok(), thresholds) else {
                continue;
            };
            if self.decide(decided) {
                return;
            }
        }
    }

    /// Takes over a decision; true when there is nothing more to find out.
    fn decide(&self, ok: bool) -> bool {
        let mut known = lock(&self.known);
        let Some(known) = known.get_mut(&self.target.container_id) else {
            return true;
        };
        let (changed, done) = match (self.role, ok) {
            (Role::Readiness, ok) => (std::mem::replace(&mut known.ready, ok) != ok, false),
            (Role::Startup, true) => (!known.started.send_replace(true), true),
            (Role::Liveness, true) => (false, false),
            // What failed is restarted: it is not asked again.
            (Role::Startup, false) => {
                known.verdict = Verdict::NotStarted;
                (true, true)
            }
            (Role::Liveness, false) => {
                known.verdict = Verdict::NotAlive;
                (true, true)
            }
        };
        if changed {
            self.wake.notify_one();
        }
        done
    }
}
