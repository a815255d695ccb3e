//! In-place resize (KEP-1287): a pod's CPU and memory change while its containers run. The node promises what the
//! spec asks for if it has room ([`Promised`]), then the runtime is told, or the container started anew where its
//! resize policy says so. Until then the pod goes on with what it was promised before.

use super::containers;
use super::plan::{Plan, Stop, Why};
use super::resources::{self, Use};
use super::spec::{self, Kind};
use super::worker::Worker;
use crate::context::Context;
use crate::pods::fields::Allocatable;
use crate::runtime::{ContainerRecord, RuntimePod, State};
use client::pods::{HostPort, ports_clash};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, ResourceRequirements};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Pause after the runtime refused: memory in use above the new limit, for example.
const RETRY: Duration = Duration::from_secs(10);

/// Where a resize stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// The pod has what it asks for.
    #[default]
    Done,
    /// The node does not promise it.
    Pending {
        /// `Infeasible`: it never can. `Deferred`: not now.
        reason: &'static str,
        /// Explanation.
        message: String,
    },
    /// Promised, not yet so.
    Applying {
        /// Why not yet, if something failed.
        error: Option<String>,
    },
}

/// What the pods of this node were promised, by UID.
#[derive(Debug, Default)]
pub struct Promised(Mutex<Promises>);

#[derive(Debug, Default)]
struct Promises {
    pods: HashMap<String, Use>,
    ports: HashMap<String, Vec<HostPort>>,
    /// Pods that wait for others to go or to shrink.
    deferred: HashMap<String, Arc<Notify>>,
}

impl Promised {
    /// Notes what a pod has that the node took in before.
    pub(super) fn know(&self, uid: &str, has: Use, ports: Vec<HostPort>) {
        let mut promises = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        promises.pods.entry(uid.to_owned()).or_insert(has);
        promises.ports.insert(uid.to_owned(), ports);
    }

    /// Promises a new pod what it wants, if the node has it. `most_pods`: so many may be here. Says what is
    /// missing: the resource, or `None` for a port, with an explanation.
    pub(super) fn take_in(
        &self,
        uid: &str,
        wanted: Use,
        ports: Vec<HostPort>,
        node: Allocatable,
        most_pods: usize,
    ) -> Result<(), (Option<&'static str>, String)> {
        let mut promises = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let others = promises.ports.keys().filter(|other| *other != uid).count();
        if others >= most_pods {
            let message = format!("pods, requested: 1, used: {others}, capacity: {most_pods}");
            return Err((Some("pods"), message));
        }
        if let Some((resource, message)) = excess(&wanted, promises.left(uid, node)) {
            return Err((Some(resource), message));
        }
        let mut taken = promises.ports.iter().filter(|(other, _)| *other != uid);
        if taken.any(|(_, theirs)| {
            theirs
                .iter()
                .any(|their| ports.iter().any(|own| ports_clash(own, their)))
        }) {
            return Err((None, String::new()));
        }
        promises.ports.insert(uid.to_owned(), ports);
        promises.pods.insert(uid.to_owned(), wanted);
        Ok(())
    }

    /// Notes what a pod has.
    fn keep(&self, uid: &str, usage: Use) {
        let mut promises = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        promises.deferred.remove(uid);
        let before = promises.pods.insert(uid.to_owned(), usage);
        if before.is_some_and(|b| shrinks(&b, &usage)) {
            promises.wake();
        }
    }

    /// Promises a pod what it wants, if the node has it. Else it is woken when there may be more.
    fn ask(&self, uid: &str, wanted: Use, node: Allocatable, wake: &Arc<Notify>) -> Progress {
        let mut promises = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, message)) = excess(&wanted, node) {
            promises.deferred.remove(uid);
            return Progress::Pending {
                reason: "Infeasible",
                message: format!("Node didn't have enough capacity: {message}"),
            };
        }
        if let Some((_, message)) = excess(&wanted, promises.left(uid, node)) {
            promises.deferred.insert(uid.to_owned(), wake.clone());
            return Progress::Pending {
                reason: "Deferred",
                message: format!("Node didn't have enough resource: {message}"),
            };
        }
        promises.deferred.remove(uid);
        let before = promises.pods.insert(uid.to_owned(), wanted);
        if before.is_some_and(|b| shrinks(&b, &wanted)) {
            promises.wake();
        }
        Progress::Applying { error: None }
    }

    /// A pod's containers have ended.
    pub fn release(&self, uid: &str) {
        let mut promises = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        promises.deferred.remove(uid);
        promises.ports.remove(uid);
        if promises.pods.remove(uid).is_some() {
            promises.wake();
        }
    }
}

impl Promises {
    /// What the node has left beside all pods but one.
    fn left(&self, uid: &str, node: Allocatable) -> Allocatable {
        let others = self.pods.iter().filter(|(other, _)| *other != uid);
        let (cpu, memory) = others.fold((0, 0), |(cpu, memory), (_, usage)| {
            (cpu + usage.cpu_request, memory + usage.memory_request)
        });
        Allocatable {
            cpu_millis: node.cpu_millis - cpu,
            memory_bytes: node.memory_bytes - memory,
            ..node
        }
    }

    fn wake(&self) {
        for waiting in self.deferred.values() {
            waiting.notify_one();
        }
    }
}

fn shrinks(before: &Use, after: &Use) -> bool {
    after.cpu_request < before.cpu_request || after.memory_request < before.memory_request
}

/// What is asked for beyond what there is: the resource, and an explanation.
fn excess(wanted: &Use, left: Allocatable) -> Option<(&'static str, String)> {
    let short = |resource, wanted, left| {
        // A pod that asks for nothing finds room on a full node.
        let excess = wanted > 0 && wanted > left;
        excess.then(|| {
            (
                resource,
                format!("{resource}, requested: {wanted}, capacity: {left}"),
            )
        })
    };
    short("cpu", wanted.cpu_request, left.cpu_millis)
        .or_else(|| short("memory", wanted.memory_request, left.memory_bytes))
}

/// The resources of one pod's containers.
#[derive(Debug, Default)]
pub struct Resources {
    /// What each container was promised, by name.
    promised: BTreeMap<String, ResourceRequirements>,
    /// What each container has, by the runtime's ID.
    applied: HashMap<String, ResourceRequirements>,
    /// The limits of the pod's cgroup, once known.
    cgroup: Option<Use>,
    /// Where the resize stands.
    pub progress: Progress,
}

impl Resources {
    /// The pod with what it is promised: itself, unless it asks for more than the node has.
    fn admit(&mut self, pod: &Arc<Pod>, context: &Context, uid: &str, wake: &Arc<Notify>) -> Arc<Pod> {
        let spec = spec::spec(pod);
        let first = self.promised.is_empty();
        let mut same = true;
        for (kind, container) in lasting(&spec) {
            let now = given(&container);
            let promised = self
                .promised
                .entry(container.name.clone())
                .or_insert_with(|| told(pod, kind, &container.name, None).unwrap_or_else(|| now.clone()));
            same &= amounts(promised) == amounts(&now);
        }
        if same {
            context.promised.keep(uid, resources::of_pod(&spec));
            if matches!(self.progress, Progress::Pending { .. }) {
                self.progress = Progress::Done;
            }
        } else {
            let before = with(pod, &self.promised);
            if first {
                context
                    .promised
                    .keep(uid, resources::of_pod(&spec::spec(&before)));
            }
            let usage = resources::of_pod(&spec);
            self.progress = context.promised.ask(uid, usage, context.allocatable, wake);
            if matches!(self.progress, Progress::Pending { .. }) {
                return Arc::new(before);
            }
        }
        for (_, container) in lasting(&spec) {
            self.promised.insert(container.name.clone(), given(&container));
        }
        pod.clone()
    }

    /// Running containers that do not have what they were promised, with what they have.
    fn outdated(&mut self, pod: &Pod, spec: &PodSpec, observed: &RuntimePod) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut positions: HashMap<Kind, usize> = HashMap::new();
        for (kind, container) in lasting(spec) {
            let position = positions.entry(kind).or_default();
            let index = *position;
            *position += 1;
            if kind == Kind::Init && !spec::is_sidecar(&container) {
                continue;
            }
            let Some(record) = observed
                .newest(&container.name)
                .filter(|r| r.state == State::Running)
            else {
                continue;
            };
            let want = given(&container);
            let has = self.applied.entry(record.id.clone()).or_insert_with(|| {
                told(pod, kind, &container.name, Some(&record.id)).unwrap_or(want.clone())
            });
            if amounts(has) == amounts(&want) {
                *has = want;
                continue;
            }
            changes.push(Change {
                restart: restarts(&container, &amounts(has), &amounts(&want)),
                kind,
                index,
                container,
                record: record.clone(),
            });
        }
        let exists = |id: &String| observed.containers.iter().any(|c| c.id == *id);
        self.applied.retain(|id, _| exists(id));
        changes
    }

    /// Adds to a container's status what it was promised and what it has.
    pub fn show(&self, status: &mut ContainerStatus, id: Option<&str>) {
        let Some(promised) = self.promised.get(&status.name) else {
            return;
        };
        status.allocated_resources = promised.requests.clone().filter(|r| !r.is_empty());
        let has = id.and_then(|id| self.applied.get(id));
        status.resources = Some(has.unwrap_or(promised).clone());
    }
}

/// A container whose resources are to change.
struct Change {
    kind: Kind,
    index: usize,
    container: Container,
    record: Arc<ContainerRecord>,
    restart: bool,
}

impl Worker {
    /// The pod as it is to run: with what this node promises it.
    pub(super) fn admitted(&mut self, pod: &Arc<Pod>) -> Arc<Pod> {
        let context = self.context.clone();
        self.resources.admit(pod, &context, &self.id.uid, &self.wake)
    }

    /// Gives running containers what they were promised, through the runtime, or by what it adds to the plan.
    /// Returns when to look again, if something failed.
    pub(super) async fn resize(
        &mut self,
        pod: &Pod,
        spec: &PodSpec,
        observed: &RuntimePod,
        plan: &mut Plan,
    ) -> Option<Duration> {
        let mut changes = self.resources.outdated(pod, spec, observed);
        // What is stopped anyway comes back with its new resources.
        changes.retain(|c| plan.stop.iter().all(|s| s.id != c.record.id));
        let usage = resources::of_pod(spec);
        if changes.is_empty() {
            self.resources.cgroup = Some(usage);
            if matches!(self.resources.progress, Progress::Applying { .. }) {
                self.resources.progress = Progress::Done;
            }
            return None;
        }
        // The pod's own limits give way before its containers grow, and follow when they have shrunk.
        let wide = self
            .resources
            .cgroup
            .map_or(Use::default(), |old| wider(&old, &usage));
        let mut error = self.limit_pod(spec, &wide).err();
        let mut restarting = false;
        for change in changes {
            if change.restart {
                restarting = true;
                plan.stop.push(Stop {
                    id: change.record.id.clone(),
                    name: change.container.name.clone(),
                    message: format!("Container {} resize requires restart", change.container.name),
                    why: Why::Resized,
                });
                plan.start.push((change.kind, change.index));
                continue;
            }
            let settings = resources::update(&change.container, &self.context.allocatable);
            let told = self
                .context
                .runtime
                .update_resources(&change.record.id, settings)
                .await;
            match told {
                Ok(()) => {
                    let given = given(&change.container);
                    self.resources.applied.insert(change.record.id.clone(), given);
                }
                Err(failed) => error = Some(failed.to_string()),
            }
        }
        if error.is_none() && !restarting {
            error = self.limit_pod(spec, &usage).err();
        }
        if error.is_none() && !restarting {
            self.resources.cgroup = Some(usage);
            self.resources.progress = Progress::Done;
            return None;
        }
        let failed = error.is_some();
        self.resources.progress = Progress::Applying { error };
        failed.then_some(RETRY)
    }

    fn limit_pod(&self, spec: &PodSpec, usage: &Use) -> Result<(), String> {
        let cgroups = &self.context.cgroups;
        let path = cgroups.pod_path(spec::qos(spec), &self.id.uid);
        cgroups
            .ensure(&path, &usage.on_node(self.context.allocatable.cpu_millis))
            .map_err(|error| format!("limits of the pod not set: {error}"))
    }
}

/// Containers that can have resources of their own.
fn lasting(spec: &PodSpec) -> Vec<(Kind, Container)> {
    let containers = spec::containers(spec).into_iter();
    containers
        .filter(|(kind, _)| *kind != Kind::Ephemeral)
        .map(|(kind, container)| (kind, container.into_owned()))
        .collect()
}

/// What the spec gives a container, without what a resize cannot change.
fn given(container: &Container) -> ResourceRequirements {
    ResourceRequirements {
        claims: None,
        ..container.resources.clone().unwrap_or_default()
    }
}

fn amounts(resources: &ResourceRequirements) -> Use {
    resources::of_requirements(resources)
}

/// What we told the API that a container has: all that is left of it after a restart of the kubelet.
fn told(pod: &Pod, kind: Kind, name: &str, id: Option<&str>) -> Option<ResourceRequirements> {
    let status = containers::reported(pod, kind, name)?;
    let known = status.container_id.as_deref().unwrap_or_default();
    if id.is_some_and(|id| !known.ends_with(id)) {
        return None;
    }
    status.resources.clone()
}

/// The pod with other resources.
fn with(pod: &Pod, promised: &BTreeMap<String, ResourceRequirements>) -> Pod {
    let mut pod = pod.clone();
    if let Some(spec) = &mut pod.spec {
        let init = spec.init_containers.iter_mut().flatten();
        for container in spec.containers.iter_mut().chain(init) {
            if let Some(resources) = promised.get(&container.name) {
                container.resources = Some(ResourceRequirements {
                    claims: container.resources.take().and_then(|r| r.claims),
                    ..resources.clone()
                });
            }
        }
    }
    pod
}

/// Whether what changes asks for a restart of the container.
fn restarts(container: &Container, has: &Use, want: &Use) -> bool {
    let policy = |resource: &str| {
        let mut policies = container.resize_policy.iter().flatten();
        policies.any(|p| p.resource_name == resource && p.restart_policy == "RestartContainer")
    };
    let cpu = (has.cpu_request, has.cpu_limit) != (want.cpu_request, want.cpu_limit);
    let memory = (has.memory_request, has.memory_limit) != (want.memory_request, want.memory_limit);
    cpu && policy("cpu") || memory && policy("memory")
}

/// The larger of both in everything.
fn wider(a: &Use, b: &Use) -> Use {
    let limit = |a: Option<i64>, b: Option<i64>| Some(a?.max(b?));
    Use {
        cpu_request: a.cpu_request.max(b.cpu_request),
        cpu_limit: limit(a.cpu_limit, b.cpu_limit),
        memory_request: a.memory_request.max(b.memory_request),
        memory_limit: limit(a.memory_limit, b.memory_limit),
    }
}

#[cfg(test)]
#[path = "resize_tests.rs"]
mod tests;
