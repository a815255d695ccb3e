//! One task per pod: brings it to what its spec asks for while it lives, and takes it down when it is deleted,
//! finished or failed. It is woken by changes of the pod in the API, of its containers in the runtime, of its
//! ConfigMaps and Secrets, by its probes, and when a back-off or a token ends; never otherwise.

use super::containers::{View, Waiting};
use super::images::Pulls;
use super::plan;
use super::report::Reporter;
use super::resize::Resources;
use super::spec::{self, PodId};
use super::status::{self, Input, Verdict};
use super::{env, terminate};
use crate::backoff::Backoff;
use crate::context::Context;
use crate::probes::Probes;
use crate::runtime::{Cache, RuntimePod};
use crate::volumes;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, watch};

/// Pause after the runtime did not answer.
pub(super) const RUNTIME_RETRY: Duration = Duration::from_secs(2);
/// Pause after volumes were not ready: the first one, and the longest.
pub(super) const VOLUME_RETRY_FIRST: Duration = Duration::from_millis(300);
pub(super) const VOLUME_RETRY_MAX: Duration = Duration::from_secs(10);
/// Without any event a pod is looked at again after this; a safety net.
pub(super) const RESYNC: Duration = Duration::from_secs(300);

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
    pub(super) backoff: Backoff<String>,
    pub(super) pulls: Pulls,
    pub(super) volumes_since: Option<tokio::time::Instant>,
    pub(super) volumes_pause: Duration,
    pub(super) resources: Resources,
    /// The node has taken it in.
    pub(super) accepted: bool,
    /// When its containers were last ended because of a volume.
    pub(super) repaired: Option<tokio::time::Instant>,
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
            resources: Resources::default(),
            accepted: false,
            repaired: None,
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
        if let Some(verdict) = context.evictions.take(&self.id.uid) {
            self.verdict = Some(verdict);
            return Next::Finished;
        }
        if let Err(refusal) = self.accept(pod) {
            self.verdict = Some(refusal);
            return Next::Finished;
        }
        let pod = &self.admitted(pod);
        let spec = spec::spec(pod);
        let mut keys = volumes::references(pod);
        keys.extend(env::references(&spec, &self.id.namespace));
        context.objects.refer(&self.id.uid, &keys, &self.wake);
        let observed = match self.look(pod, &spec).await {
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
        let mut plan = plan::plan(&spec, &observed, &self.probes);
        if plan.finished {
            return Next::Finished;
        }
        let resize = self.resize(pod, &spec, &observed, &mut plan).await;
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
        let soonest = [pause, resize, deadline, refresh].into_iter().flatten().min();
        Next::Wait(soonest.unwrap_or(RESYNC))
    }

    /// What the runtime has of the pod, once nothing runs on a volume that is gone.
    async fn look(&mut self, pod: &Arc<Pod>, spec: &PodSpec) -> Result<RuntimePod, crate::runtime::Error> {
        let context = self.context.clone();
        let observed = self.cache.observe(&context.runtime, &self.id.uid).await?;
        if self.leave_broken_volumes(pod, spec, &observed).await? {
            return self.cache.observe(&context.runtime, &self.id.uid).await;
        }
        Ok(observed)
    }

    /// What is left of `activeDeadlineSeconds`.
    fn deadline(&self, pod: &Pod, spec: &PodSpec) -> Option<Duration> {
        let limit = u64::try_from(spec.active_deadline_seconds?).ok()?;
        let start = SystemTime::from(pod.status.as_ref()?.start_time.as_ref()?.0);
        let ran = SystemTime::now().duration_since(start).unwrap_or_default();
        Some(Duration::from_secs(limit).saturating_sub(ran))
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
                resources: &self.resources,
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
