//! What a pod asks for and what a node has.

use crate::quantity;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Node, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// For scoring only: what a container without requests is taken to use (upstream's numbers).
const ASSUMED_MILLI_CPU: i64 = 100;
const ASSUMED_MEMORY_BYTES: i64 = 200 << 20;

/// Amounts of resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of local storage.
    pub ephemeral: i64,
    /// Everything else, by name.
    pub other: BTreeMap<String, i64>,
}

impl Amounts {
    fn parse(list: Option<&BTreeMap<String, Quantity>>) -> Self {
        let mut amounts = Self::default();
        for (name, Quantity(text)) in list.into_iter().flatten() {
            match name.as_str() {
                "cpu" => amounts.milli_cpu = quantity::milli(text).unwrap_or(0),
                "memory" => amounts.memory = quantity::whole(text).unwrap_or(0),
                "ephemeral-storage" => amounts.ephemeral = quantity::whole(text).unwrap_or(0),
                _ => {
                    amounts
                        .other
                        .insert(name.clone(), quantity::whole(text).unwrap_or(0));
                }
            }
        }
        amounts
    }

    /// Adds `sign` times the other amounts.
    pub fn add(&mut self, other: &Self, sign: i64) {
        self.milli_cpu += sign * other.milli_cpu;
        self.memory += sign * other.memory;
        self.ephemeral += sign * other.ephemeral;
        for (name, amount) in &other.other {
            *self.other.entry(name.clone()).or_default() += sign * amount;
        }
    }

    fn raise_to(&mut self, other: &Self) {
        self.milli_cpu = self.milli_cpu.max(other.milli_cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral = self.ephemeral.max(other.ephemeral);
        for (name, amount) in &other.other {
            let own = self.other.entry(name.clone()).or_default();
            *own = (*own).max(*amount);
        }
    }
}

fn requests(resources: Option<&ResourceRequirements>) -> Amounts {
    Amounts::parse(resources.and_then(|resources| resources.requests.as_ref()))
}

/// What a pod may use at most; what a container does not limit is not in it.
pub fn limited(pod: &Pod) -> Amounts {
    let limits = |resources: Option<&ResourceRequirements>| {
        Amounts::parse(resources.and_then(|resources| resources.limits.as_ref()))
    };
    requested_by(
        pod,
        |container| limits(container.resources.as_ref()),
        |own| own.limits.as_ref(),
    )
}

/// What a pod asks for: its containers together with its sidecars, or the largest of its init containers
/// (with the sidecars started before it), whichever is more; then the overhead of its runtime.
pub fn requested(pod: &Pod) -> Amounts {
    requested_by(
        pod,
        |container| requests(container.resources.as_ref()),
        |own| own.requests.as_ref(),
    )
}

/// What a pod takes of its node: as [`requested`], and while it is being resized the larger of what it asks for and
/// what it has (KEP-1287). What the node can never give does not count.
pub fn taken(pod: &Pod) -> Amounts {
    let never = crate::pods::condition(pod, "PodResizePending")
        .is_some_and(|condition| condition.reason.as_deref() == Some("Infeasible"));
    requested_by(
        pod,
        |container| {
            let asked = requests(container.resources.as_ref());
            let Some(status) = status_of(pod, &container.name) else {
                return asked;
            };
            let promised = status
                .allocated_resources
                .as_ref()
                .map(|map| Amounts::parse(Some(map)));
            let mut taken = match &promised {
                Some(promised) if never => promised.clone(),
                _ => asked,
            };
            taken.raise_to(&promised.unwrap_or_default());
            taken.raise_to(&requests(status.resources.as_ref()));
            taken
        },
        |own| own.requests.as_ref(),
    )
}

fn status_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let mut all = status
        .container_statuses
        .iter()
        .chain(&status.init_container_statuses)
        .flatten();
    all.find(|status| status.name == name)
}

/// As [`requested`], for scoring: containers that ask for nothing count as using something.
pub fn assumed(pod: &Pod) -> Amounts {
    let of = |container: &Container| {
        let mut amounts = requests(container.resources.as_ref());
        if amounts.milli_cpu == 0 {
            amounts.milli_cpu = ASSUMED_MILLI_CPU;
        }
        if amounts.memory == 0 {
            amounts.memory = ASSUMED_MEMORY_BYTES;
        }
        amounts
    };
    requested_by(pod, of, |own| own.requests.as_ref())
}

/// `of` says what a container counts, `of_pod` which list of the pod as a whole takes the place of their sum.
fn requested_by(
    pod: &Pod,
    of: impl Fn(&Container) -> Amounts,
    of_pod: impl Fn(&ResourceRequirements) -> Option<&BTreeMap<String, Quantity>>,
) -> Amounts {
    let Some(spec) = &pod.spec else {
        return Amounts::default();
    };
    let mut total = Amounts::default();
    for container in &spec.containers {
        total.add(&of(container), 1);
    }
    let mut sidecars = Amounts::default();
    let mut peak = Amounts::default();
    for container in spec.init_containers.iter().flatten() {
        let own = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&own, 1);
            total.add(&own, 1);
            peak.raise_to(&sidecars);
        } else {
            let mut while_running = sidecars.clone();
            while_running.add(&own, 1);
            peak.raise_to(&while_running);
        }
    }
    total.raise_to(&peak);
    if let Some(own) = spec.resources.as_ref().and_then(of_pod) {
        let pod_level = Amounts::parse(Some(own));
        if own.contains_key("cpu") {
            total.milli_cpu = pod_level.milli_cpu;
        }
        if own.contains_key("memory") {
            total.memory = pod_level.memory;
        }
    }
    total.add(&Amounts::parse(spec.overhead.as_ref()), 1);
    total
}

/// What a node has for pods, and how many pods it takes.
pub fn allocatable(node: &Node) -> (Amounts, i64) {
    let list = node
        .status
        .as_ref()
        .and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
    let mut amounts = Amounts::parse(list);
    let pods = amounts.other.remove("pods").unwrap_or(0);
    (amounts, pods)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_takes_what_it_has_until_it_has_given_it_back() {
        let pod = |asks: &str, promised: &str, has: &str, pending: &str| -> Amounts {
            let pod = json!({"metadata": {}, "spec": {"containers": [
                {"name": "a", "resources": {"requests": {"cpu": asks}}}]},
                "status": {"conditions": [{"type": "PodResizePending", "status": "True", "reason": pending}],
                    "containerStatuses": [{"name": "a", "ready": true, "restartCount": 0, "image": "", "imageID": "",
                        "allocatedResources": {"cpu": promised}, "resources": {"requests": {"cpu": has}}}]}});
            taken(&serde_json::from_value(pod).unwrap())
        };
        assert_eq!(pod("100m", "500m", "500m", "Deferred").milli_cpu, 500, "shrinks");
        assert_eq!(
            pod("900m", "500m", "500m", "Deferred").milli_cpu,
            900,
            "waits to grow"
        );
        assert_eq!(
            pod("900m", "500m", "500m", "Infeasible").milli_cpu,
            500,
            "never will"
        );
        assert_eq!(pod("100m", "100m", "500m", "").milli_cpu, 500, "is being shrunk");
    }

    #[test]
    fn init_containers_sidecars_and_overhead() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {}, "spec": {
                "overhead": {"cpu": "10m"},
                "initContainers": [
                    {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                    {"name": "big", "resources": {"requests": {"cpu": "900m", "memory": "1Gi"}}}
                ],
                "containers": [
                    {"name": "a", "resources": {"requests": {"cpu": "300m", "memory": "128Mi"}}},
                    {"name": "b", "resources": {"requests": {"cpu": "200m", "example.com/gpu": "2"}}}
                ]
            }
        }))
        .unwrap();
        let amounts = requested(&pod);
        assert_eq!(amounts.milli_cpu, 1010);
        assert_eq!(amounts.memory, 1 << 30);
        assert_eq!(amounts.other["example.com/gpu"], 2);
        assert_eq!(limited(&pod).memory, 0);
        assert_eq!(
            assumed(&Pod {
                spec: Some(Default::default()),
                ..pod.clone()
            })
            .milli_cpu,
            0
        );
    }
}
