//! Does what a plan says: sandbox, volumes, stops, starts. Each step may be cut off by the end of the pod, so
//! none leaves anything that the next look at the pod would not find.

use super::containers::Waiting;
use super::kill::Killer;
use super::plan::{self, Plan};
use super::spec::{self, Kind, Qos};
use super::start::{Failed, Starter};
use super::worker::{RESYNC, RUNTIME_RETRY, VOLUME_RETRY_FIRST, VOLUME_RETRY_MAX, Worker};
use super::{build, resources};
use crate::backoff::Backoff;
use crate::fence::Gate;
use crate::runtime::RuntimePod;
use crate::volumes::{self, Mounted, PodView};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A volume that is not ready is worth an event only after so long.
const VOLUME_PATIENCE: Duration = Duration::from_secs(5);
/// A sandbox that could not be made is tried again after this.
const SANDBOX_RETRY: Duration = Duration::from_secs(3);
/// How long the API may take to confirm a pod that was fenced, and when it is asked again.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
const CONFIRM_RETRY: Duration = Duration::from_secs(1);

/// Where containers are started.
struct Place<'a> {
    sandbox_id: &'a str,
    attempt: u32,
    ips: &'a [String],
    volumes: &'a BTreeMap<String, Mounted>,
    qos: Qos,
}

impl Worker {
    /// Does what the plan says; returns when to look again, if something failed.
    pub(super) async fn execute(
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
        let place = Place {
            sandbox_id: &sandbox_id,
            attempt,
            ips: &ips,
            volumes: &volumes,
            qos,
        };
        failures.extend(self.start(pod, spec, &starts, &place).await);
        failures.into_iter().min()
    }

    /// Starts containers one after the other; returns when to try those again that failed.
    async fn start(
        &mut self,
        pod: &Pod,
        spec: &PodSpec,
        starts: &[(Kind, usize)],
        place: &Place<'_>,
    ) -> Vec<Duration> {
        let context = self.context.clone();
        let sandbox = build::sandbox(&context, pod, &self.id, place.attempt, place.qos);
        // The newest instances decide counts and back-offs, those that were just stopped included.
        let Ok(current) = self.cache.observe(&context.runtime, &self.id.uid).await else {
            return vec![RUNTIME_RETRY];
        };
        let starter = Starter {
            context: &context,
            pod,
            id: &self.id,
            qos: place.qos,
            observed: &current,
            sandbox_id: place.sandbox_id,
            sandbox: &sandbox,
            ips: place.ips,
            volumes: place.volumes,
            pulls: &self.pulls,
        };
        let containers = spec::containers(spec);
        let mut failures = Vec::new();
        for (kind, index) in starts {
            let of_kind = containers.iter().filter(|(k, _)| k == kind).nth(*index);
            let Some((_, container)) = of_kind else { continue };
            match starter.start(*kind, container, &mut self.backoff).await {
                Ok(()) => {
                    self.waiting.remove(&container.name);
                }
                Err(Failed { waiting, retry }) => {
                    self.waiting.insert(container.name.clone(), waiting);
                    failures.push(retry);
                }
            }
        }
        failures
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
        let usage = resources::of_pod(spec).on_node(context.allocatable.cpu_millis);
        context.cgroups.ensure(&path, &usage)
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

    /// How the runtime is to run the pod: the handler of its RuntimeClass.
    async fn handler(&self, pod: &Pod) -> Result<String, crate::runtime::Error> {
        let class = pod.spec.as_ref().and_then(|s| s.runtime_class_name.clone());
        let Some(class) = class.filter(|c| !c.is_empty()) else {
            return Ok(String::new());
        };
        let api: Api<RuntimeClass> = Api::all(self.context.client.clone());
        let answer = tokio::time::timeout(CONFIRM_TIMEOUT, api.get(&class)).await;
        let why = match answer {
            Ok(Ok(found)) => return Ok(found.handler),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        Err(crate::runtime::Error {
            call: "RunPodSandbox",
            status: tonic::Status::failed_precondition(format!(
                "failed to get sandbox runtime: RuntimeClass {class:?}: {why}"
            )),
            subject: self.id.to_string(),
        })
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
        let made = match self.handler(pod).await {
            Ok(handler) => context.runtime.run_sandbox(config, handler).await,
            Err(error) => Err(error),
        };
        let made = match made {
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
        plan::Why::Changed | plan::Why::Lost | plan::Why::Resized => None,
    });
    probe
        .and_then(|p| p.termination_grace_period_seconds)
        .unwrap_or_else(|| spec::grace_secs(pod))
}
