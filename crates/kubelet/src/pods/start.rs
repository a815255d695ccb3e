//! Starts one container: back-off, image, configuration, creation, start, postStart hook. Whatever fails is
//! told as an event and remembered as the reason why the container waits.

use super::build::{self, Ingredients};
use super::containers::{self, Waiting};
use super::hooks;
use super::images::{self, Missing};
use super::kill::Killer;
use super::spec::{self, Kind, PodId, Qos};
use crate::backoff::Backoff;
use crate::context::Context;
use crate::probes::object_reference;
use crate::runtime::{ContainerRecord, RuntimePod, State};
use crate::volumes::Mounted;
use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod};
use protos::cri;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

/// Pause after a failure that may heal by itself.
const RETRY: Duration = Duration::from_secs(5);

/// What starting a container needs.
pub struct Starter<'a> {
    /// Shared parts.
    pub context: &'a Context,
    /// The pod.
    pub pod: &'a Pod,
    /// Its identity.
    pub id: &'a PodId,
    /// Its class.
    pub qos: Qos,
    /// What the runtime has of it.
    pub observed: &'a RuntimePod,
    /// Its sandbox.
    pub sandbox_id: &'a str,
    /// The sandbox's configuration.
    pub sandbox: &'a cri::PodSandboxConfig,
    /// Its addresses.
    pub ips: &'a [String],
    /// Its volumes.
    pub volumes: &'a BTreeMap<String, Mounted>,
    /// Pulls that failed.
    pub pulls: &'a images::Pulls,
}

/// Why a container was not started, and when to try again.
#[derive(Debug)]
pub struct Failed {
    /// For the status.
    pub waiting: Waiting,
    /// Pause before the next attempt.
    pub retry: Duration,
}

impl From<Missing> for Failed {
    fn from(missing: Missing) -> Self {
        Self {
            waiting: missing.waiting,
            retry: missing.retry,
        }
    }
}

fn failed(reason: &str, message: String) -> Failed {
    Failed {
        waiting: Waiting {
            reason: reason.into(),
            message,
        },
        retry: RETRY,
    }
}

impl Starter<'_> {
    /// Starts a container. `backoff` keeps its crashes.
    pub async fn start(
        &self,
        kind: Kind,
        container: &Container,
        backoff: &mut Backoff<String>,
    ) -> Result<(), Failed> {
        let reference = object_reference(self.pod, kind, &container.name);
        let last = self.observed.newest(&container.name);
        self.wait_for_backoff(container, last.map(AsRef::as_ref), &reference, backoff)?;
        let image = images::ensure(self.context, self.pulls, (self.pod, &reference), container).await?;
        let restart_count = self.restart_count(kind, &container.name, last.map(AsRef::as_ref));
        let id = self.create(container, &image, restart_count, &reference).await?;
        if let Err(error) = self.context.runtime.start_container(&id).await {
            let message = error.status.message().to_owned();
            self.event(&reference, "Warning", "Failed", format!("Error: {message}"));
            return Err(failed("RunContainerError", message));
        }
        self.event(&reference, "Normal", "Started", "Container started".to_owned());
        self.post_start(container, &id, &reference).await
    }

    fn event(&self, reference: &ObjectReference, kind: &'static str, reason: &str, message: String) {
        self.context.recorder.event(reference, kind, reason, message);
    }

    fn wait_for_backoff(
        &self,
        container: &Container,
        last: Option<&ContainerRecord>,
        reference: &ObjectReference,
        backoff: &mut Backoff<String>,
    ) -> Result<(), Failed> {
        let Some(last) = last.filter(|r| r.state == State::Exited) else {
            return Ok(());
        };
        let key = format!("{}/{}", container.name, spec::hash(container));
        let now = SystemTime::now();
        let since = last.finished();
        if let Some((delay, left)) = backoff.waiting(&key, since, now) {
            let name = &container.name;
            let shown = format!("Back-off restarting failed container {name} in pod {}", self.id);
            self.event(reference, "Warning", "BackOff", shown);
            let seconds = delay.as_secs();
            let shown = if seconds >= 60 {
                format!("{}m{}s", seconds / 60, seconds % 60)
            } else {
                format!("{seconds}s")
            };
            return Err(Failed {
                waiting: Waiting {
                    reason: "CrashLoopBackOff".into(),
                    message: format!(
                        "back-off {shown} restarting failed container={name} pod={}",
                        self.id
                    ),
                },
                retry: left,
            });
        }
        backoff.advance(key, since, now);
        Ok(())
    }

    /// How often the container was restarted before the instance to come. The runtime may have lost its memory,
    /// then the API's counts.
    fn restart_count(&self, kind: Kind, name: &str, last: Option<&ContainerRecord>) -> u32 {
        if let Some(last) = last {
            return last.restart_count + 1;
        }
        let reported = containers::reported(self.pod, kind, name);
        let ran = reported.filter(|s| s.container_id.as_ref().is_some_and(|id| !id.is_empty()));
        ran.map_or(0, |s| u32::try_from(s.restart_count).unwrap_or(0) + 1)
    }

    async fn create(
        &self,
        container: &Container,
        image: &cri::Image,
        restart_count: u32,
        reference: &ObjectReference,
    ) -> Result<String, Failed> {
        let targets: HashMap<String, String> = self
            .observed
            .containers
            .iter()
            .filter(|c| c.state == State::Running)
            .map(|c| (c.name.clone(), c.id.clone()))
            .collect();
        let ingredients = Ingredients {
            context: self.context,
            pod: self.pod,
            id: self.id,
            qos: self.qos,
            ips: self.ips,
            volumes: self.volumes,
            container,
            restart_count,
            image,
            targets: &targets,
        };
        let config = match build::container(&ingredients).await {
            Ok(config) => config,
            Err(error) => {
                self.event(reference, "Warning", "Failed", format!("Error: {error}"));
                return Err(failed("CreateContainerConfigError", error.to_string()));
            }
        };
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: self.sandbox_id.into(),
            config: Some(config),
            sandbox_config: Some(self.sandbox.clone()),
        };
        match self.context.runtime.create_container(request).await {
            Ok(id) => {
                self.event(reference, "Normal", "Created", "Container created".to_owned());
                Ok(id)
            }
            Err(error) => {
                let message = error.status.message().to_owned();
                self.event(reference, "Warning", "Failed", format!("Error: {message}"));
                Err(failed("CreateContainerError", message))
            }
        }
    }

    async fn post_start(
        &self,
        container: &Container,
        id: &str,
        reference: &ObjectReference,
    ) -> Result<(), Failed> {
        let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else {
            return Ok(());
        };
        let ip = self.ips.first().cloned().unwrap_or_default();
        let Err(error) = hooks::run(self.context, container, id, &ip, hook).await else {
            return Ok(());
        };
        self.event(
            reference,
            "Warning",
            "FailedPostStartHook",
            format!("PostStartHook failed: {error}"),
        );
        let killer = Killer {
            context: self.context,
            pod: Some(self.pod),
            pod_ip: ip,
        };
        let record = ContainerRecord {
            id: id.to_owned(),
            name: container.name.clone(),
            ..ContainerRecord::default()
        };
        let why = "FailedPostStartHook";
        if let Err(error) = killer.container(&record, spec::grace_secs(self.pod), why).await {
            tracing::info!(%error, "container whose postStart hook failed not stopped");
        }
        Err(failed("PostStartHookError", error))
    }
}
