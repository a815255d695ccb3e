//! Stops containers and sandboxes.

use super::hooks;
use super::spec;
use crate::context::Context;
use crate::probes::object_reference;
use crate::runtime::{ContainerRecord, Error, RuntimePod};
use k8s_openapi::api::core::v1::{Container, Pod};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Left for the stop signal when the hook used the whole grace period, as upstream.
const MIN_GRACE_SECS: i64 = 2;
/// Grace of a container of which nothing is known any more.
pub const ORPHAN_GRACE_SECS: i64 = 2;

/// How containers are stopped.
pub struct Killer<'a> {
    /// Shared parts.
    pub context: &'a Context,
    /// The pod, if the API or a worker still knows it.
    pub pod: Option<&'a Pod>,
    /// The pod's address, for hooks.
    pub pod_ip: String,
}

impl Killer<'_> {
    /// Stops one container: preStop hook, stop signal, SIGKILL; `grace` seconds for all of it.
    pub async fn container(&self, record: &ContainerRecord, grace: i64, why: &str) -> Result<(), Error> {
        let found = self.pod.and_then(|pod| {
            let spec = spec::spec(pod);
            let found = spec::containers(&spec)
                .into_iter()
                .find(|(_, c)| c.name == record.name);
            found.map(|(kind, c)| (pod, kind, c.into_owned()))
        });
        let mut grace = grace.max(0);
        if let Some((pod, kind, container)) = &found {
            let reference = object_reference(pod, *kind, &container.name);
            let message = if why.is_empty() {
                format!("Stopping container {}", container.name)
            } else {
                why.to_owned()
            };
            self.context
                .recorder
                .event(&reference, "Normal", "Killing", message);
            if grace > 0 {
                grace = self.pre_stop(container, record, grace, &reference).await;
            }
        }
        self.context.runtime.stop_container(&record.id, grace).await
    }

    /// Runs the preStop hook and returns what is left of the grace period.
    async fn pre_stop(
        &self,
        container: &Container,
        record: &ContainerRecord,
        grace: i64,
        reference: &k8s_openapi::api::core::v1::ObjectReference,
    ) -> i64 {
        let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) else {
            return grace;
        };
        let start = Instant::now();
        let limit = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        let run = hooks::run(self.context, container, &record.id, &self.pod_ip, hook);
        match tokio::time::timeout(limit, run).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let message = format!("PreStopHook failed: {error}");
                self.context
                    .recorder
                    .event(reference, "Warning", "FailedPreStopHook", message);
            }
            Err(_) => tracing::debug!(
                container = container.name,
                "preStop hook took the whole grace period"
            ),
        }
        let used = i64::try_from(start.elapsed().as_secs()).unwrap_or(grace);
        (grace - used).max(MIN_GRACE_SECS)
    }

    /// Stops every container of the pod, sidecars after the others and in reverse order, then its sandboxes.
    pub async fn pod(&self, observed: &RuntimePod, grace: i64) -> Result<(), Error> {
        let start = Instant::now();
        let left = || grace - i64::try_from(start.elapsed().as_secs()).unwrap_or(grace);
        let sidecars: Vec<String> = self
            .pod
            .and_then(|p| p.spec.as_ref())
            .and_then(|s| s.init_containers.as_ref())
            .map(|list| {
                list.iter()
                    .filter(|c| spec::is_sidecar(c))
                    .map(|c| c.name.clone())
                    .collect()
            })
            .unwrap_or_default();
        let is_sidecar = |record: &Arc<ContainerRecord>| sidecars.contains(&record.name);
        let mut alive: Vec<Arc<ContainerRecord>> = observed.alive().cloned().collect();
        let mut side: Vec<_> = alive.extract_if(.., |r| is_sidecar(r)).collect();
        let stops = alive.iter().map(|record| self.container(record, grace, ""));
        for result in futures::future::join_all(stops).await {
            result?;
        }
        side.sort_by_key(|r| std::cmp::Reverse(sidecars.iter().position(|n| *n == r.name)));
        for record in &side {
            self.container(record, left().max(MIN_GRACE_SECS.min(grace)), "")
                .await?;
        }
        for sandbox in &observed.sandboxes {
            self.context.runtime.stop_sandbox(&sandbox.id).await?;
        }
        Ok(())
    }
}
