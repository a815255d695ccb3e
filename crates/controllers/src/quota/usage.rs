//! What counts against a quota: names of resources, scopes, and the sums. Pure.

use client::resources::{Amounts, limited, requested};
use client::{pods, quantity};
use k8s_openapi::api::core::v1::{
    Affinity, PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaSpec, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

const CLASS_SUFFIX: &str = ".storageclass.storage.k8s.io/";

/// The objects of a namespace.
pub struct Population<'a> {
    /// Its pods.
    pub pods: &'a [&'a Pod],
    /// Its Services.
    pub services: &'a [&'a Service],
    /// Its claims.
    pub claims: &'a [&'a PersistentVolumeClaim],
    /// How many objects of a kind (group, plural) there are, if that is known.
    pub count: &'a dyn Fn(&str, &str) -> Option<usize>,
}

/// A sum, and in which unit it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sum {
    Milli(i64),
    Whole(i64),
}

/// The use of everything that the quota limits and that is known.
pub fn used(quota: &ResourceQuota, population: &Population<'_>) -> BTreeMap<String, Quantity> {
    let spec = quota.spec.clone().unwrap_or_default();
    let counted: Vec<&Pod> = population
        .pods
        .iter()
        .copied()
        .filter(|pod| !pods::is_terminal(pod) && in_scopes(&spec, pod))
        .collect();
    let mut requests = Amounts::default();
    let mut limits = Amounts::default();
    for pod in &counted {
        requests.add(&requested(pod), 1);
        limits.add(&limited(pod), 1);
    }
    let scoped = spec.scopes.iter().flatten().next().is_some()
        || spec
            .scope_selector
            .as_ref()
            .is_some_and(|s| s.match_expressions.iter().flatten().next().is_some());
    let mut used = BTreeMap::new();
    for (name, hard) in spec.hard.iter().flatten() {
        let of_pods = sum_of_pods(name, counted.len(), &requests, &limits);
        // Scopes choose among pods, and nothing else.
        let sum = of_pods.or_else(|| {
            if scoped {
                None
            } else {
                sum_of_others(name, population)
            }
        });
        if let Some(sum) = sum {
            used.insert(name.clone(), written(sum, hard));
        }
    }
    used
}

fn count(n: usize) -> Sum {
    Sum::Whole(i64::try_from(n).unwrap_or(i64::MAX))
}

fn sum_of_pods(name: &str, pods: usize, requests: &Amounts, limits: &Amounts) -> Option<Sum> {
    if name == "pods" || name == "count/pods" {
        return Some(count(pods));
    }
    let (amounts, resource) = match name.split_once('.') {
        Some(("limits", resource)) => (limits, resource),
        Some(("requests", "storage")) => return None,
        Some(("requests", resource)) => (requests, resource),
        _ => (requests, name),
    };
    match resource {
        "cpu" => Some(Sum::Milli(amounts.milli_cpu)),
        "memory" => Some(Sum::Whole(amounts.memory)),
        "ephemeral-storage" => Some(Sum::Whole(amounts.ephemeral)),
        _ if resource.starts_with("hugepages-") || (resource != name && !resource.contains(CLASS_SUFFIX)) => {
            Some(Sum::Whole(amounts.other.get(resource).copied().unwrap_or(0)))
        }
        _ => None,
    }
}

fn sum_of_others(name: &str, population: &Population<'_>) -> Option<Sum> {
    if let Some((class, what)) = name.split_once(CLASS_SUFFIX) {
        let of_class = |claim: &&PersistentVolumeClaim| class_of(claim) == class;
        let claims: Vec<_> = population.claims.iter().copied().filter(of_class).collect();
        return sum_of_claims(what, &claims);
    }
    if let Some(sum) = sum_of_claims(name, population.claims) {
        return Some(sum);
    }
    let services = |test: &dyn Fn(&Service) -> i64| {
        Sum::Whole(population.services.iter().map(|service| test(service)).sum())
    };
    let kind = |service: &Service| {
        let spec = service.spec.as_ref();
        spec.and_then(|s| s.type_.clone()).unwrap_or_default()
    };
    match name {
        "services.loadbalancers" => Some(services(&|s| i64::from(kind(s) == "LoadBalancer"))),
        "services.nodeports" => Some(services(&node_ports)),
        // Older names for counts.
        "services" | "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => {
            (population.count)("", name).map(count)
        }
        _ => {
            let (plural, group) = match name.strip_prefix("count/")?.split_once('.') {
                Some((plural, group)) => (plural, group),
                None => (name.strip_prefix("count/")?, ""),
            };
            (population.count)(group, plural).map(count)
        }
    }
}

fn sum_of_claims(name: &str, claims: &[&PersistentVolumeClaim]) -> Option<Sum> {
    match name {
        "persistentvolumeclaims" | "count/persistentvolumeclaims" => Some(count(claims.len())),
        "requests.storage" => {
            let request = |claim: &&PersistentVolumeClaim| {
                let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
                let asked = quantity::whole(&requests.get("storage")?.0)?;
                // What is being enlarged counts as large as it is going to be.
                let allocated = claim.status.as_ref().and_then(|s| s.allocated_resources.as_ref());
                let allocated = allocated.and_then(|a| quantity::whole(&a.get("storage")?.0));
                Some(asked.max(allocated.unwrap_or(0)))
            };
            Some(Sum::Whole(claims.iter().filter_map(request).sum()))
        }
        _ => None,
    }
}

fn class_of(claim: &PersistentVolumeClaim) -> &str {
    let annotations = claim.metadata.annotations.as_ref();
    let old = annotations.and_then(|a| a.get("volume.beta.kubernetes.io/storage-class"));
    let new = claim.spec.as_ref().and_then(|s| s.storage_class_name.as_ref());
    old.or(new).map(String::as_str).unwrap_or_default()
}

/// Node ports that a Service takes: a load balancer needs them too, unless it says otherwise.
fn node_ports(service: &Service) -> i64 {
    let spec = service.spec.clone().unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    let n = match spec.type_.as_deref() {
        Some("NodePort") => ports.len(),
        Some("LoadBalancer") if spec.allocate_load_balancer_node_ports == Some(false) => ports
            .iter()
            .filter(|port| port.node_port.is_some_and(|n| n > 0))
            .count(),
        Some("LoadBalancer") => ports.len(),
        _ => 0,
    };
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn in_scopes(spec: &ResourceQuotaSpec, pod: &Pod) -> bool {
    let plain = spec.scopes.iter().flatten();
    let selected = spec.scope_selector.iter();
    plain.into_iter().all(|scope| in_scope(scope, "Exists", &[], pod))
        && selected
            .flat_map(|s| s.match_expressions.iter().flatten())
            .all(|e| {
                let values = e.values.as_deref().unwrap_or_default();
                in_scope(&e.scope_name, &e.operator, values, pod)
            })
}

fn in_scope(scope: &str, operator: &str, values: &[String], pod: &Pod) -> bool {
    let spec = pod.spec.clone().unwrap_or_default();
    let limited_in_time = spec.active_deadline_seconds.is_some_and(|s| s >= 0);
    match scope {
        "Terminating" => limited_in_time,
        "NotTerminating" => !limited_in_time,
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "CrossNamespacePodAffinity" => spec.affinity.as_ref().is_some_and(crosses_namespaces),
        "PriorityClass" => {
            let class = spec.priority_class_name.unwrap_or_default();
            match operator {
                "In" => values.contains(&class),
                "NotIn" => !values.contains(&class),
                "Exists" => !class.is_empty(),
                "DoesNotExist" => class.is_empty(),
                _ => false,
            }
        }
        _ => false,
    }
}

fn is_best_effort(pod: &Pod) -> bool {
    let has = |amounts: &Amounts| amounts.milli_cpu > 0 || amounts.memory > 0;
    !has(&requested(pod)) && !has(&limited(pod))
}

fn crosses_namespaces(affinity: &Affinity) -> bool {
    let (near, far) = (
        affinity.pod_affinity.as_ref(),
        affinity.pod_anti_affinity.as_ref(),
    );
    let hard = [
        near.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
        far.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
    ];
    let soft = [
        near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
        far.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
    ];
    let soft = soft.into_iter().flatten().flatten().map(|w| &w.pod_affinity_term);
    hard.into_iter().flatten().flatten().chain(soft).any(|term| {
        term.namespaces.as_ref().is_some_and(|n| !n.is_empty()) || term.namespace_selector.is_some()
    })
}

/// Writes a sum in the kind of unit that the limit is written in.
fn written(sum: Sum, like: &Quantity) -> Quantity {
    let value = match sum {
        Sum::Milli(n) if n % 1000 != 0 => return Quantity(format!("{n}m")),
        Sum::Milli(n) => n / 1000,
        Sum::Whole(n) => n,
    };
    let units = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
    let binary = like.0.ends_with('i');
    let fits = |shift: u32| value != 0 && value % (1_i64 << shift) == 0;
    match units.iter().find(|(_, shift)| binary && fits(*shift)) {
        Some((suffix, shift)) => Quantity(format!("{}{suffix}", value >> shift)),
        None => Quantity(value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(spec: Value) -> Value {
        let quota: ResourceQuota = serde_json::from_value(json!({"spec": spec})).unwrap();
        let pod = |value: Value| serde_json::from_value::<Pod>(value).unwrap();
        let pods = [
            pod(json!({"spec": {"containers": [{"name": "c", "resources": {
                "requests": {"cpu": "250m", "memory": "64Mi", "example.com/gpu": "2"}, "limits": {"cpu": "1"}}}]}})),
            pod(
                json!({"spec": {"activeDeadlineSeconds": 5, "priorityClassName": "high",
                "containers": [{"name": "c"}]}}),
            ),
            pod(
                json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "8"}}}]},
                "status": {"phase": "Succeeded"}}),
            ),
        ];
        let services: Vec<Service> = [json!("ClusterIP"), json!("NodePort"), json!("LoadBalancer")]
            .into_iter()
            .map(|t| {
                serde_json::from_value(json!({"spec": {"type": t, "ports": [{"port": 1}, {"port": 2}]}}))
                    .unwrap()
            })
            .collect();
        let claim: PersistentVolumeClaim =
            serde_json::from_value(json!({"spec": {"storageClassName": "gold",
            "resources": {"requests": {"storage": "3Gi"}}}}))
            .unwrap();
        let population = Population {
            pods: &pods.iter().collect::<Vec<_>>(),
            services: &services.iter().collect::<Vec<_>>(),
            claims: &[&claim],
            count: &|group, plural| match (group, plural) {
                ("", "services") => Some(3),
                ("apps", "deployments") => Some(7),
                ("", "secrets") => Some(4),
                _ => None,
            },
        };
        json!(used(&quota, &population))
    }

    #[test]
    fn everything_that_can_be_limited_is_counted() {
        let used = check(json!({"hard": {
            "pods": "9", "cpu": "9", "requests.cpu": "9", "requests.memory": "9Gi", "limits.cpu": "9",
            "requests.example.com/gpu": "9", "services": "9", "services.nodeports": "9",
            "services.loadbalancers": "9", "secrets": "9", "count/deployments.apps": "9",
            "count/unknown.example.com": "9", "persistentvolumeclaims": "9", "requests.storage": "9Gi",
            "gold.storageclass.storage.k8s.io/requests.storage": "9Gi",
            "lead.storageclass.storage.k8s.io/persistentvolumeclaims": "9"}}));
        assert_eq!(
            used,
            json!({
                "pods": "2", "cpu": "250m", "requests.cpu": "250m", "requests.memory": "64Mi", "limits.cpu": "1",
                "requests.example.com/gpu": "2", "services": "3", "services.nodeports": "4",
                "services.loadbalancers": "1", "secrets": "4", "count/deployments.apps": "7",
                "persistentvolumeclaims": "1", "requests.storage": "3Gi",
                "gold.storageclass.storage.k8s.io/requests.storage": "3Gi",
                "lead.storageclass.storage.k8s.io/persistentvolumeclaims": "0"})
        );
    }

    #[test]
    fn scopes_choose_pods() {
        let pods = |spec: Value| check(spec)["pods"].clone();
        let scope = |name: &str| json!({"hard": {"pods": "9"}, "scopes": [name]});
        assert_eq!(pods(scope("Terminating")), "1");
        assert_eq!(pods(scope("NotTerminating")), "1");
        assert_eq!(pods(scope("BestEffort")), "1");
        assert_eq!(pods(scope("NotBestEffort")), "1");
        let class = |operator: &str, values: Value| {
            json!({"hard": {"pods": "9"}, "scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": operator, "values": values}]}})
        };
        assert_eq!(pods(class("In", json!(["high"]))), "1");
        assert_eq!(pods(class("In", json!(["low"]))), "0");
        assert_eq!(pods(class("Exists", Value::Null)), "1");
    }
}
