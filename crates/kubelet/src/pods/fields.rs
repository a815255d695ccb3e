//! The downward API: fields of a pod and resources of its containers, for environment variables and volumes.

use super::resources;
use super::spec;
use crate::quantity;
use k8s_openapi::api::core::v1::{Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// What the node offers, where a container has no limit of its own.
#[derive(Clone, Copy, Debug)]
pub struct Allocatable {
    /// Millicores.
    pub cpu_millis: i64,
    /// Bytes.
    pub memory_bytes: i64,
    /// Bytes.
    pub storage_bytes: i64,
}

/// The value of a field such as `metadata.labels['app']`. `addresses` are what is known already of
/// `status.podIPs` and `status.hostIPs`. `None` when there is no such field.
pub fn field(pod: &Pod, path: &str, pod_ips: &[String], host_ips: &[String]) -> Option<String> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => metadata.labels.as_ref(),
            "metadata.annotations" => metadata.annotations.as_ref(),
            _ => return None,
        };
        return Some(map.and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let first = |list: &[String]| list.first().cloned().unwrap_or_default();
    Some(match path {
        "metadata.name" => metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(metadata.labels.as_ref()),
        "metadata.annotations" => lines(metadata.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec
            .and_then(|s| s.service_account_name.clone())
            .unwrap_or_default(),
        "status.hostIP" => first(host_ips),
        "status.hostIPs" => host_ips.join(","),
        "status.podIP" => first(pod_ips),
        "status.podIPs" => pod_ips.join(","),
        _ => return None,
    })
}

/// `map['key']` in pieces.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once('[')?;
    let key = rest.strip_suffix(']')?;
    let key = key
        .strip_prefix('\'')
        .and_then(|k| k.strip_suffix('\''))
        .unwrap_or(key);
    Some((map, key))
}

/// One `key="value"` a line, the value quoted as in Go.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let quoted = |value: &str| serde_json::to_string(value).unwrap_or_default();
    let lines: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", quoted(value)))
        .collect();
    lines.join("\n")
}

/// The value of a `resourceFieldRef`. `default_container` is the container that asks, if one does.
pub fn resource(
    pod: &Pod,
    selector: &ResourceFieldSelector,
    default_container: Option<&str>,
    allocatable: &Allocatable,
) -> Option<String> {
    let name = selector
        .container_name
        .as_deref()
        .filter(|n| !n.is_empty())
        .or(default_container)?;
    let spec = pod.spec.as_ref()?;
    let containers = spec::containers(spec);
    let container = containers.iter().find(|(_, c)| c.name == name).map(|(_, c)| c)?;
    let usage = resources::of_container(container);
    let one = Quantity("1".into());
    let divisor = selector
        .divisor
        .as_ref()
        .filter(|d| quantity::milli(d) != Some(0))
        .unwrap_or(&one);
    let storage = |map: Option<&BTreeMap<String, Quantity>>| {
        map.and_then(|m| m.get("ephemeral-storage"))
            .and_then(quantity::value)
    };
    let own = container.resources.as_ref();
    let (amount, divisor) = match selector.resource.as_str() {
        "limits.cpu" => (
            usage.cpu_limit.unwrap_or(allocatable.cpu_millis),
            quantity::milli(divisor)?,
        ),
        "requests.cpu" => (usage.cpu_request, quantity::milli(divisor)?),
        "limits.memory" => (
            usage.memory_limit.unwrap_or(allocatable.memory_bytes),
            quantity::value(divisor)?,
        ),
        "requests.memory" => (usage.memory_request, quantity::value(divisor)?),
        "limits.ephemeral-storage" => (
            storage(own.and_then(|r| r.limits.as_ref())).unwrap_or(allocatable.storage_bytes),
            quantity::value(divisor)?,
        ),
        "requests.ephemeral-storage" => (
            storage(own.and_then(|r| r.requests.as_ref())).unwrap_or(0),
            quantity::value(divisor)?,
        ),
        _ => return None,
    };
    // Rounded up, as upstream.
    let divisor = divisor.max(1);
    Some((amount / divisor + i64::from(amount % divisor != 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"app": "a\"b", "b": "2"}},
            "spec": {"nodeName": "w", "containers": [{"name": "c", "resources": {
                "limits": {"cpu": "1500m"}, "requests": {"memory": "100Mi"}}}]},
        }))
        .expect("a pod")
    }

    #[test]
    fn fields_of_a_pod() {
        let pod = pod();
        let get = |path| {
            field(
                &pod,
                path,
                &["10.0.0.2".into(), "fd::2".into()],
                &["10.1.0.1".into()],
            )
        };
        assert_eq!(get("metadata.labels['app']").as_deref(), Some("a\"b"));
        assert_eq!(get("metadata.labels").as_deref(), Some("app=\"a\\\"b\"\nb=\"2\""));
        assert_eq!(get("status.podIPs").as_deref(), Some("10.0.0.2,fd::2"));
        assert_eq!(get("spec.nodeName").as_deref(), Some("w"));
        assert_eq!(get("spec.nothing"), None);
    }

    #[test]
    fn resources_of_a_container() {
        let pod = pod();
        let allocatable = Allocatable {
            cpu_millis: 4000,
            memory_bytes: 1 << 30,
            storage_bytes: 1 << 40,
        };
        let get = |name: &str, divisor: &str| {
            let selector = ResourceFieldSelector {
                resource: name.into(),
                divisor: Some(Quantity(divisor.into())),
                ..ResourceFieldSelector::default()
            };
            resource(&pod, &selector, Some("c"), &allocatable)
        };
        assert_eq!(get("limits.cpu", "1").as_deref(), Some("2"));
        assert_eq!(get("limits.cpu", "1m").as_deref(), Some("1500"));
        assert_eq!(get("requests.memory", "1Mi").as_deref(), Some("100"));
        assert_eq!(get("limits.memory", "1Mi").as_deref(), Some("1024"));
        assert_eq!(get("limits.memory", "0").as_deref(), Some("1073741824"));
    }
}
