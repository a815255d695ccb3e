//! One task per pod: brings it to what its spec asks for while it lives, and takes it down when it is deleted,
//! finished or failed. It is woken by changes of the pod in the API, of its containers in the runtime, of its
//! ConfigMaps and Secrets, by its probes, and when a back-off or a token ends; never otherwise.

use super::containers::{View, Waiting};
use super::images::Pulls;
use super::kill::Killer;
use super::plan::{self, Plan};
use super::report::Reporter;
use super::spec::{self, Kind, PodId, Qos};
use super::start::{Failed, Starter};
use super::status::{self, Input, Verdict};
use super::{build, env, resources, terminate};
use crate::backoff::Backoff;
use crate::context::Context;
use crate::fence::Gate;
use crate::probes::Probes;
use crate::runtime::{Cache, RuntimePod};
use crate::volumes::{self, Mounted, PodView};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, watch};

/// Pause after the runtime did not answer.
const RUNTIME_RETRY: Duration = Duration::from_secs(2);
/// Pause after volumes were not ready: the first one, and the longest.
const VOLUME_RETRY_FIRST: Duration = Duration::from_millis(300);
const VOLUME_RETRY_MAX: Duration = Duration::from_secs(10);
/// A volume that is not ready is worth an event only after so long.
const VOLUME_PATIENCE: Duration = Duration::from_secs(5);
/// A sandbox that could not be made is tried again after this.
const SANDBOX_RETRY: Duration = Duration::from_secs(3);
/// How long the API may take to confirm a pod that was fenced, and when it is asked again.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
const CONFIRM_RETRY: Duration = Duration::from_secs(1);
/// Without any event a pod is looked at again after this; a safety net.
const RESYNC: Duration = Duration::from_secs(300);

/// What the API says about a pod.
#[derive(Clone, Debug)]
pub struct Update {
    /// Its newest known state.
    pub pod: Arc<Pod>,
    /// It does not exist any more, or not on this node.
    pub gone: bool,
}

impl Update {
    /// Whether the pod must end.
    pub fn ends(&self) -> bool {
        self.gone || self.pod.metadata.deletion_timestamp.is_some() || self.over()
    }

    /// Whether the API says that the pod has ended.
    pub fn over(&self) -> bool {
        let phase = self.pod.status.as_ref().and_then(|s| s.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }
}

/// What comes after a look at the pod.
pub(super) enum Next {
    /// Nothing before an event or this time.
    Wait(Duration),
    /// It has ended.
    Finished,
}

/// The task of a pod.
pub struct Worker {
    pub(super) context: Arc<Context>,
    pub(super) id: PodId,
    pub(super) updates: watch::Receiver<Update>,
    pub(super) wake: Arc<Notify>,
    pub(super) cache: Cache,
    pub(super) probes: Probes,
    pub(super) reporter: Reporter,
    pub(super) verdict: Option<Verdict>,
    pub(super) waiting: HashMap<String, Waiting>,
    pub(super) messages: HashMap<String, String>,
    backoff: Backoff<String>,
    pulls: Pulls,
    volumes_since: Option<tokio::time::Instant>,
    volumes_pause: Duration,
}

impl Worker {
    /// A worker for the pod of `updates`.
    pub fn new(context: Arc<Context>, updates: watch::Receiver<Update>) -> Self {
        let id = PodId::of(&updates.borrow().pod);
        let wake = Arc::new(Notify::new());
        context.relist.listen(&id.uid, wake.clone());
        let api = Api::namespaced(context.client.clone(), &id.namespace);
        Self {
            probes: Probes::new(context.clone(), wake.clone()),
            reporter: Reporter::new(api, id.clone(), updates.clone()),
            context,
            id,
            updates,
            wake,
            cache: Cache::default(),
            verdict: None,
            waiting: HashMap::new(),
            messages: HashMap::new(),
            backoff: Backoff::default(),
            pulls: Pulls::default(),
            volumes_since: None,
            volumes_pause: VOLUME_RETRY_FIRST,
        }
    }

    /// Runs until the pod is gone from this node and from the API.
    pub async fn run(mut self) {
        let mut updates = self.updates.clone();
        loop {
            let update = updates.borrow_and_update().clone();
            if update.ends() {
                break;
            }
            let mut ending = updates.clone();
            // A look may take long (a pull, a hook); the end of the pod does not wait for it.
            let next = tokio::select! {
                biased;
                next = self.sync(&update.pod) => next,
                _ = ending.wait_for(Update::ends) => continue,
            };
            let Next::Wait(pause) = next else { break };
            let wake = self.wake.clone();
            tokio::select! {
                _ = updates.changed() => {}
                () = wake.notified() => {}
                () = tokio::time::sleep(pause.min(RESYNC)) => {}
            }
        }
        terminate::terminate(&mut self).await;
        self.context.relist.forget(&self.id.uid);
        self.context.objects.release(&self.id.uid);
        self.context.fence.confirmed(&self.id.uid);
    }

    /// Looks at the pod once and does what is to be done.
    async fn sync(&mut self, pod: &Arc<Pod>) -> Next {
        let context = self.context.clone();
        let spec = spec::spec(pod);
        let mut keys = volumes::references(pod);
        keys.extend(env::references(&spec, &self.id.namespace));
        context.objects.refer(&self.id.uid, &keys, &self.wake);
        let observed = match self.cache.observe(&context.runtime, &self.id.uid).await {
            Ok(observed) => observed,
            Err(error) => {
                tracing::debug!(pod = %self.id, %error, "the runtime does not answer");
                return Next::Wait(RUNTIME_RETRY);
            }
        };
        self.probes.update(pod, &observed);
        self.read_messages(&observed);
        let deadline = self.deadline(pod, &spec);
        if deadline == Some(Duration::ZERO) {
            self.verdict = Some(Verdict {
                reason: "DeadlineExceeded".into(),
                message: "Pod was active on the node longer than the specified deadline".into(),
            });
            return Next::Finished;
        }
        let plan = plan::plan(&spec, &observed, &self.probes);
        if plan.finished {
            return Next::Finished;
        }
        self.report(pod, &observed, false);
        let pause = self.execute(pod, &spec, &observed, plan).await;
        if let Ok(after) = self.cache.observe(&context.runtime, &self.id.uid).await {
            self.probes.update(pod, &after);
            self.read_messages(&after);
            self.report(pod, &after, false);
            super::gc::collect(&context, &self.id, &after).await;
        }
        let refresh = volumes::next_refresh(&context, &self.id.uid);
        let refresh = refresh.map(|at| at.duration_since(SystemTime::now()).unwrap_or(VOLUME_RETRY_MAX));
        let soonest = [pause, deadline, refresh].into_iter().flatten().min();
        Next::Wait(soonest.unwrap_or(RESYNC))
    }

    /// What is left of `activeDeadlineSeconds`.
    fn deadline(&self, pod: &Pod, spec: &PodSpec) -> Option<Duration> {
        let limit = u64::try_from(spec.active_deadline_seconds?).ok()?;
        let start = SystemTime::from(pod.status.as_ref()?.start_time.as_ref()?.0);
        let ran = SystemTime::now().duration_since(start).unwrap_or_default();
        Some(Duration::from_secs(limit).saturating_sub(ran))
    }

    /// Does what the plan says; returns when to look again, if something failed.
    async fn execute(
        &mut self,
        pod: &Arc<Pod>,
        spec: &PodSpec,
        observed: &RuntimePod,
        plan: Plan,
    ) -> Option<Duration> {
        let context = self.context.clone();
        let qos = spec::qos(spec);
        let starts = plan.new_sandbox.is_some() || !plan.start.is_empty();
        if starts && let Some(pause) = self.fenced(spec).await {
            return Some(pause);
        }
        if starts && let Err(error) = self.prepare(spec, qos) {
            tracing::info!(pod = %self.id, %error, "cgroup or directories of the pod not made");
            return Some(SANDBOX_RETRY);
        }
        let mut ips = observed
            .ready_sandbox()
            .map(|s| s.ips.clone())
            .unwrap_or_default();
        let mut failures = Vec::new();
        let volumes = match self.volumes(pod, &ips, starts).await {
            Ok(volumes) => volumes,
            Err(pause) if starts => return Some(pause),
            Err(pause) => {
                failures.push(pause);
                BTreeMap::new()
            }
        };
        let killer = Killer {
            context: &context,
            pod: Some(pod),
            pod_ip: ips.first().cloned().unwrap_or_default(),
        };
        let mut sandbox_id = observed.ready_sandbox().map(|s| s.id.clone()).unwrap_or_default();
        let mut attempt = observed.sandboxes.first().map_or(0, |s| s.attempt);
        if let Some(new) = plan.new_sandbox {
            if let Err(error) = killer.pod(observed, spec::grace_secs(pod)).await {
                tracing::info!(pod = %self.id, %error, "old sandbox not stopped");
                return Some(SANDBOX_RETRY);
            }
            (sandbox_id, ips) = match self.new_sandbox(pod, new, qos).await {
                Ok(made) => made,
                Err(pause) => return Some(pause),
            };
            attempt = new;
        }
        for stop in &plan.stop {
            let Some(record) = observed.containers.iter().find(|c| c.id == stop.id) else {
                continue;
            };
            if let Err(error) = killer
                .container(record, grace_for(spec, stop, pod), &stop.message)
                .await
            {
                tracing::info!(pod = %self.id, %error, "container not stopped");
                failures.push(SANDBOX_RETRY);
            }
        }
        let starts = match plan.new_sandbox {
            // What is to be started now depends on the new sandbox alone.
            Some(_) => match self.cache.observe(&context.runtime, &self.id.uid).await {
                Ok(after) => plan::plan(spec, &after, &self.probes).start,
                Err(_) => return Some(RUNTIME_RETRY),
            },
            None => plan.start,
        };
        let sandbox = build::sandbox(&context, pod, &self.id, attempt, qos);
        // The newest instances decide counts and back-offs, those that were just stopped included.
        let Ok(current) = self.cache.observe(&context.runtime, &self.id.uid).await else {
            return Some(RUNTIME_RETRY);
        };
        let starter = Starter {
            context: &context,
            pod,
            id: &self.id,
            qos,
            observed: &current,
            sandbox_id: &sandbox_id,
            sandbox: &sandbox,
            ips: &ips,
            volumes: &volumes,
            pulls: &self.pulls,
        };
        let containers = spec::containers(spec);
        for (kind, index) in starts {
            let of_kind = containers.iter().filter(|(k, _)| *k == kind).nth(index);
            let Some((_, container)) = of_kind else { continue };
            match starter.start(kind, container, &mut self.backoff).await {
                Ok(()) => {
                    self.waiting.remove(&container.name);
                }
                Err(Failed { waiting, retry }) => {
                    self.waiting.insert(container.name.clone(), waiting);
                    failures.push(retry);
                }
            }
        }
        failures.into_iter().min()
    }

    /// Whether the pod must not start now because of its volumes; then, when to look again.
    async fn fenced(&mut self, spec: &PodSpec) -> Option<Duration> {
        let context = self.context.clone();
        let gate = context
            .fence
            .gate(&context.paths.pods(), &self.id.uid, &self.wake);
        if gate == Gate::Closed {
            self.wait_all(
                spec,
                "NodeFenced",
                "the node has no contact with a majority of the stores",
            );
            return Some(RESYNC);
        }
        if gate == Gate::Confirm {
            let api: Api<Pod> = Api::namespaced(context.client.clone(), &self.id.namespace);
            let answer = tokio::time::timeout(CONFIRM_TIMEOUT, api.get_opt(&self.id.name)).await;
            let ours = matches!(answer, Ok(Ok(Some(pod))) if self.is_ours(&pod));
            if !ours {
                self.wait_all(
                    spec,
                    "NodeFenced",
                    "the API has not confirmed that the pod belongs here",
                );
                return Some(CONFIRM_RETRY);
            }
            context.fence.confirmed(&self.id.uid);
            // That it was killed was no failure of its own.
            self.backoff = Backoff::default();
        }
        None
    }

    fn is_ours(&self, pod: &Pod) -> bool {
        let node = pod.spec.as_ref().and_then(|s| s.node_name.as_ref());
        pod.metadata.uid.as_ref() == Some(&self.id.uid)
            && node == Some(&self.context.config.node_name)
            && pod.metadata.deletion_timestamp.is_none()
    }

    fn wait_all(&mut self, spec: &PodSpec, reason: &str, message: &str) {
        for (kind, container) in spec::containers(spec) {
            if kind == Kind::App {
                let waiting = Waiting {
                    reason: reason.into(),
                    message: message.into(),
                };
                self.waiting.insert(container.name.clone(), waiting);
            }
        }
    }

    fn prepare(&self, spec: &PodSpec, qos: Qos) -> std::io::Result<()> {
        let context = &self.context;
        std::fs::create_dir_all(context.paths.volumes(&self.id.uid))?;
        std::fs::create_dir_all(context.paths.pod_logs(&self.id))?;
        let path = context.cgroups.pod_path(qos, &self.id.uid);
        context.cgroups.ensure(&path, &resources::of_pod(spec))
    }

    /// Makes the volumes ready. While everything runs already, a failure is no reason to do anything.
    async fn volumes(
        &mut self,
        pod: &Arc<Pod>,
        ips: &[String],
        needed: bool,
    ) -> Result<BTreeMap<String, Mounted>, Duration> {
        let context = self.context.clone();
        let view = PodView {
            pod,
            id: &self.id,
            ips,
        };
        let failures = match volumes::ensure(&context, &view, needed).await {
            Ok(volumes) => {
                self.volumes_since = None;
                self.volumes_pause = VOLUME_RETRY_FIRST;
                return Ok(volumes);
            }
            Err(failures) => failures,
        };
        let since = *self.volumes_since.get_or_insert_with(tokio::time::Instant::now);
        for failure in &failures {
            tracing::debug!(pod = %self.id, volume = failure.volume, error = %failure.error, "volume not ready");
            let waits = matches!(failure.error, volumes::Error::NotYet(_));
            if needed && (!waits || since.elapsed() > VOLUME_PATIENCE) {
                let message = format!(
                    "MountVolume.SetUp failed for volume {:?} : {}",
                    failure.volume, failure.error
                );
                let reference = client::events::reference(&**pod);
                self.context
                    .recorder
                    .event(&reference, "Warning", "FailedMount", message);
            }
        }
        let pause = self.volumes_pause;
        self.volumes_pause = (pause * 2).min(VOLUME_RETRY_MAX);
        Err(pause)
    }

    /// Makes a sandbox; returns its ID and its addresses.
    async fn new_sandbox(
        &self,
        pod: &Arc<Pod>,
        attempt: u32,
        qos: Qos,
    ) -> Result<(String, Vec<String>), Duration> {
        let context = &self.context;
        let config = build::sandbox(context, pod, &self.id, attempt, qos);
        let reference = client::events::reference(&**pod);
        if attempt > 0 {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            context
                .recorder
                .event(&reference, "Normal", "SandboxChanged", message);
        }
        let made = match context.runtime.run_sandbox(config).await {
            Ok(id) => context
                .runtime
                .sandbox_status(&id)
                .await
                .map(|status| (id, status)),
            Err(error) => Err(error),
        };
        let (id, status) = match made {
            Ok(made) => made,
            Err(error) => {
                let message = format!("Failed to create pod sandbox: {}", error.status.message());
                context
                    .recorder
                    .event(&reference, "Warning", "FailedCreatePodSandBox", message);
                return Err(SANDBOX_RETRY);
            }
        };
        let ips = status.network.map(|n| {
            let more = n.additional_ips.into_iter().map(|ip| ip.ip);
            std::iter::once(n.ip)
                .chain(more)
                .filter(|ip| !ip.is_empty())
                .collect::<Vec<_>>()
        });
        let host_network = pod.spec.as_ref().is_some_and(|s| s.host_network == Some(true));
        let ips = if host_network {
            context.host_ips()
        } else {
            ips.unwrap_or_default()
        };
        Ok((id, ips))
    }

    /// Reads the last words of containers that ended since.
    pub(super) fn read_messages(&mut self, observed: &RuntimePod) {
        self.messages
            .retain(|id, _| observed.containers.iter().any(|c| c.id == *id));
        for record in &observed.containers {
            if record.state == crate::runtime::State::Exited && !self.messages.contains_key(&record.id) {
                let message = super::messages::last_words(&self.context.paths, &self.id, record);
                self.messages.insert(record.id.clone(), message);
            }
        }
    }

    /// Reports what the pod is like.
    pub(super) fn report(&self, pod: &Arc<Pod>, observed: &RuntimePod, terminal: bool) {
        let health = |id: &str| self.probes.health(id);
        let ends = self.updates.borrow().ends();
        let input = Input {
            pod,
            view: View {
                pod,
                observed,
                waiting: &self.waiting,
                messages: &self.messages,
                health: &health,
                stopping: terminal || ends || self.verdict.is_some(),
                runtime_name: &self.context.runtime_name,
            },
            host_ips: self.context.host_ips(),
            verdict: self.verdict.as_ref(),
            terminal,
            now: Time(now()),
        };
        self.reporter.report(status::status(&input));
    }
}

/// Now, in whole seconds, as the API keeps times.
fn now() -> k8s_openapi::jiff::Timestamp {
    let now = k8s_openapi::jiff::Timestamp::now();
    k8s_openapi::jiff::Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// The grace period for a container that is restarted: its probe's own, if it has one.
fn grace_for(spec: &PodSpec, stop: &plan::Stop, pod: &Pod) -> i64 {
    let containers = spec::containers(spec);
    let container = containers
        .iter()
        .find(|(_, c)| c.name == stop.name)
        .map(|(_, c)| c);
    let probe = container.and_then(|c| match stop.why {
        plan::Why::Liveness => c.liveness_probe.as_ref(),
        plan::Why::Startup => c.startup_probe.as_ref(),
        plan::Why::Changed | plan::Why::Lost => None,
    });
    probe
        .and_then(|p| p.termination_grace_period_seconds)
        .unwrap_or_else(|| spec::grace_secs(pod))
}
