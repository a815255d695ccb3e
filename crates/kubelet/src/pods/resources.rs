//! Requests and limits as cgroup settings.

use super::fields::Allocatable;
use super::spec::{self, Kind, Qos};
use crate::quantity;
use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use protos::cri::LinuxContainerResources;
use std::collections::BTreeMap;

/// Period of the CPU quota, microseconds.
pub const CPU_PERIOD_US: i64 = 100_000;
const SHARES_PER_CPU: i64 = 1024;
const MIN_SHARES: i64 = 2;
/// Largest value that the kernel takes for `cpu.shares`.
const MAX_SHARES: i64 = 262_144;
/// Smallest quota that the kernel takes.
const MIN_QUOTA_US: i64 = 1000;

/// What a container, or a whole pod, may use. `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Requested CPU, millicores.
    pub cpu_request: i64,
    /// CPU limit, millicores.
    pub cpu_limit: Option<i64>,
    /// Requested memory, bytes.
    pub memory_request: i64,
    /// Memory limit, bytes.
    pub memory_limit: Option<i64>,
}

impl Use {
    /// `cpu.shares`.
    pub fn shares(&self) -> i64 {
        (self.cpu_request.saturating_mul(SHARES_PER_CPU) / 1000).clamp(MIN_SHARES, MAX_SHARES)
    }

    /// The same on a node with so many millicores. A limit above that is none: the node's own limit holds, and the
    /// kernel refuses a quota that is larger than the one around it.
    pub fn on_node(self, cpu_millis: i64) -> Self {
        Self {
            cpu_limit: self.cpu_limit.filter(|limit| *limit <= cpu_millis),
            ..self
        }
    }

    /// `cpu.cfs_quota_us`, if limited.
    pub fn quota_us(&self) -> Option<i64> {
        let limit = self.cpu_limit?;
        Some((limit.saturating_mul(CPU_PERIOD_US) / 1000).max(MIN_QUOTA_US))
    }
}

/// What one container may use; a request that is not given is the limit.
pub fn of_container(container: &Container) -> Use {
    container
        .resources
        .as_ref()
        .map_or_else(Use::default, of_requirements)
}

/// The same of what a container asks for.
pub fn of_requirements(resources: &ResourceRequirements) -> Use {
    let of = |map: &Option<BTreeMap<String, Quantity>>, name: &str| map.as_ref()?.get(name).cloned();
    let milli = |map, name| of(map, name).as_ref().and_then(quantity::milli);
    let value = |map, name| of(map, name).as_ref().and_then(quantity::value);
    let cpu_limit = milli(&resources.limits, "cpu").filter(|v| *v > 0);
    let memory_limit = value(&resources.limits, "memory").filter(|v| *v > 0);
    let cpu_request = milli(&resources.requests, "cpu");
    let memory_request = value(&resources.requests, "memory");
    Use {
        cpu_request: cpu_request.or(cpu_limit).unwrap_or(0),
        cpu_limit,
        memory_request: memory_request.or(memory_limit).unwrap_or(0),
        memory_limit,
    }
}

/// What the whole pod may use: app containers and sidecars together, or the largest init container if that is
/// more. It has a limit only if all its containers have one.
pub fn of_pod(spec: &PodSpec) -> Use {
    let add = |a: Option<i64>, b: Option<i64>| Some(a?.saturating_add(b?));
    let max = |a: Option<i64>, b: Option<i64>| Some(a?.max(b?));
    let mut total = Use {
        cpu_limit: Some(0),
        memory_limit: Some(0),
        ..Use::default()
    };
    let mut init = total;
    for (kind, container) in spec::containers(spec) {
        let one = of_container(&container);
        match kind {
            Kind::Ephemeral => {}
            Kind::Init if !spec::is_sidecar(&container) => {
                init.cpu_request = init.cpu_request.max(one.cpu_request);
                init.memory_request = init.memory_request.max(one.memory_request);
                init.cpu_limit = max(init.cpu_limit, one.cpu_limit);
                init.memory_limit = max(init.memory_limit, one.memory_limit);
            }
            _ => {
                total.cpu_request += one.cpu_request;
                total.memory_request += one.memory_request;
                total.cpu_limit = add(total.cpu_limit, one.cpu_limit);
                total.memory_limit = add(total.memory_limit, one.memory_limit);
            }
        }
    }
    Use {
        cpu_request: total.cpu_request.max(init.cpu_request),
        cpu_limit: max(total.cpu_limit, init.cpu_limit).filter(|v| *v > 0),
        memory_request: total.memory_request.max(init.memory_request),
        memory_limit: max(total.memory_limit, init.memory_limit).filter(|v| *v > 0),
    }
}

/// How readily the kernel kills a container's processes when the node is out of memory, as upstream.
pub fn oom_score_adj(qos: Qos, usage: &Use, memory_capacity: i64) -> i64 {
    match qos {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let share = usage.memory_request.saturating_mul(1000) / memory_capacity.max(1);
            (1000 - share).clamp(3, 999)
        }
    }
}

/// The settings of a container's cgroup.
pub fn linux(container: &Container, qos: Qos, node: &Allocatable) -> LinuxContainerResources {
    let usage = of_container(container).on_node(node.cpu_millis);
    LinuxContainerResources {
        cpu_shares: usage.shares(),
        cpu_period: if usage.cpu_limit.is_some() {
            CPU_PERIOD_US
        } else {
            0
        },
        cpu_quota: usage.quota_us().unwrap_or(0),
        memory_limit_in_bytes: usage.memory_limit.unwrap_or(0),
        oom_score_adj: oom_score_adj(qos, &usage, node.memory_bytes),
    }
}

/// The settings for a container that runs: what is zero stays as it is, and a CPU limit that is gone is -1.
pub fn update(container: &Container, node: &Allocatable) -> LinuxContainerResources {
    let usage = of_container(container).on_node(node.cpu_millis);
    LinuxContainerResources {
        cpu_shares: usage.shares(),
        cpu_period: CPU_PERIOD_US,
        cpu_quota: usage.quota_us().unwrap_or(-1),
        memory_limit_in_bytes: usage.memory_limit.unwrap_or(0),
        oom_score_adj: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_are_limited_when_all_their_containers_are() {
        let limited = |cpu: &str, memory: &str| json!({"limits": {"cpu": cpu, "memory": memory}});
        let spec: PodSpec = serde_json::from_value(json!({
            "initContainers": [{"name": "i", "resources": limited("3", "10Mi")}],
            "containers": [{"name": "a", "resources": limited("500m", "64Mi")},
                           {"name": "b", "resources": limited("1", "64Mi")}],
        }))
        .expect("a spec");
        let usage = of_pod(&spec);
        assert_eq!(
            (usage.cpu_limit, usage.memory_limit),
            (Some(3000), Some(128 << 20))
        );
        assert_eq!((usage.shares(), usage.quota_us()), (3072, Some(300_000)));
        assert_eq!(usage.on_node(3000).quota_us(), Some(300_000));
        assert_eq!(usage.on_node(2000).quota_us(), None, "more than there is");
        let mut open = spec;
        open.containers[0].resources = None;
        assert_eq!(of_pod(&open).memory_limit, None);
        assert_eq!(of_container(&open.containers[0]).shares(), MIN_SHARES);
    }

    #[test]
    fn burstable_scores_fall_with_the_request() {
        let usage = |memory_request| Use {
            memory_request,
            ..Use::default()
        };
        assert_eq!(oom_score_adj(Qos::Burstable, &usage(0), 1000), 999);
        assert_eq!(oom_score_adj(Qos::Burstable, &usage(500), 1000), 500);
        assert_eq!(oom_score_adj(Qos::Burstable, &usage(1000), 1000), 3);
    }
}
