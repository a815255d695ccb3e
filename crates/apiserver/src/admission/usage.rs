//! What an object uses of what a quota counts.

use crate::json::items;
use schema::Resource;
use schema::quantity::Quantity;
use serde_json::Value;
use std::collections::BTreeMap;

/// Amounts by the name that a quota gives them.
pub type Amounts = BTreeMap<String, Quantity>;

fn add(to: &mut Amounts, name: &str, amount: &Quantity) {
    let sum = match to.get(name) {
        Some(before) => before.plus(amount),
        None => amount.clone(),
    };
    to.insert(name.to_owned(), sum);
}

fn each(resources: &Value, mut found: impl FnMut(&str, Quantity)) {
    for (name, amount) in resources.as_object().into_iter().flatten() {
        if let Some(amount) = amount.as_str().and_then(|text| Quantity::parse(text).ok()) {
            found(name, amount);
        }
    }
}

/// Requests and limits of a pod: the sum of its containers, or what its init containers need at some moment where
/// that is more, and its overhead.
pub fn of_pod(pod: &Value) -> (Amounts, Amounts) {
    let spec = &pod["spec"];
    let total = |field: &str| {
        let mut sum = Amounts::new();
        for container in items(spec, "containers") {
            each(&container["resources"][field], |name, amount| {
                add(&mut sum, name, &amount)
            });
        }
        // Init containers that go on run beside all that come after them.
        let mut beside = Amounts::new();
        let mut most = Amounts::new();
        for container in items(spec, "initContainers") {
            let mut now = beside.clone();
            each(&container["resources"][field], |name, amount| {
                add(&mut now, name, &amount)
            });
            if container["restartPolicy"] == "Always" {
                each(&container["resources"][field], |name, amount| {
                    add(&mut sum, name, &amount)
                });
                beside = now.clone();
            }
            for (name, amount) in now {
                if most.get(&name).is_none_or(|m| *m < amount) {
                    most.insert(name, amount);
                }
            }
        }
        for (name, amount) in most {
            if sum.get(&name).is_none_or(|s| *s < amount) {
                sum.insert(name, amount);
            }
        }
        each(&spec["overhead"], |name, amount| add(&mut sum, name, &amount));
        sum
    };
    (total("requests"), total("limits"))
}

/// Whether a pod has ended: it uses nothing any more.
fn has_ended(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// What an object counts for.
pub fn of(resource: &Resource, object: &Value) -> Amounts {
    let one = Quantity::from_units(1);
    let mut used = Amounts::new();
    add(&mut used, &format!("count/{}", resource.qualified_name()), &one);
    if !resource.group.is_empty() {
        return used;
    }
    match resource.plural.as_ref() {
        "pods" if !has_ended(object) => {
            add(&mut used, "pods", &one);
            let (requests, limits) = of_pod(object);
            for (name, amount) in &requests {
                if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
                    add(&mut used, name, amount);
                }
                add(&mut used, &format!("requests.{name}"), amount);
            }
            for (name, amount) in &limits {
                add(&mut used, &format!("limits.{name}"), amount);
            }
        }
        "services" => {
            add(&mut used, "services", &one);
            let spec = &object["spec"];
            let ports = items(spec, "ports").len();
            let kind = spec["type"].as_str().unwrap_or("ClusterIP");
            let balanced = kind == "LoadBalancer";
            if balanced {
                add(&mut used, "services.loadbalancers", &one);
            }
            if kind == "NodePort" || (balanced && spec["allocateLoadBalancerNodePorts"] != false) {
                let ports = Quantity::from_units(i64::try_from(ports).unwrap_or(i64::MAX));
                add(&mut used, "services.nodeports", &ports);
            }
        }
        "persistentvolumeclaims" => {
            add(&mut used, "persistentvolumeclaims", &one);
            let class = object["spec"]["storageClassName"].as_str().unwrap_or_default();
            let of_class = |what: &str| format!("{class}.storageclass.storage.k8s.io/{what}");
            if !class.is_empty() {
                add(&mut used, &of_class("persistentvolumeclaims"), &one);
            }
            let asked = object["spec"]["resources"]["requests"]["storage"].as_str();
            if let Some(storage) = asked.and_then(|text| Quantity::parse(text).ok()) {
                add(&mut used, "requests.storage", &storage);
                if !class.is_empty() {
                    add(&mut used, &of_class("requests.storage"), &storage);
                }
            }
        }
        plural @ ("configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas") => {
            add(&mut used, plural, &one);
        }
        _ => {}
    }
    used
}

/// What containers must say for a quota of computing resources to be able to count them: names by container.
pub fn unsaid(pod: &Value, counted: &[&str]) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let spec = &pod["spec"];
    for container in items(spec, "containers")
        .iter()
        .chain(items(spec, "initContainers"))
    {
        let name = container["name"].as_str().unwrap_or_default();
        for counted in counted {
            let (field, resource) = match counted.split_once('.') {
                Some((field @ ("requests" | "limits"), resource)) => (field, resource),
                _ => ("requests", *counted),
            };
            // Others are counted where they are asked for.
            let must = matches!(resource, "cpu" | "memory" | "ephemeral-storage")
                && (counted.contains('.') || matches!(*counted, "cpu" | "memory"));
            if must && container["resources"][field][resource].is_null() {
                found
                    .entry((*counted).to_owned())
                    .or_default()
                    .push(name.to_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(amounts: &Amounts, name: &str) -> String {
        amounts.get(name).map(ToString::to_string).unwrap_or_default()
    }

    #[test]
    fn pods_count_what_they_need_at_most() {
        let pods = schema::registry().find("", "v1", "pods").unwrap();
        let container =
            |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": "1"}}});
        let mut pod = json!({"spec": {
            "containers": [container("100m"), container("200m")],
            "initContainers": [container("500m")],
        }});
        let used = of(pods, &pod);
        assert_eq!(
            (
                text(&used, "cpu"),
                text(&used, "requests.cpu"),
                text(&used, "limits.cpu"),
                text(&used, "pods")
            ),
            ("500m".into(), "500m".into(), "2".into(), "1".into())
        );
        pod["spec"]["initContainers"][0]["restartPolicy"] = "Always".into();
        assert_eq!(text(&of(pods, &pod), "cpu"), "800m");
        pod["status"] = json!({"phase": "Succeeded"});
        assert_eq!(
            (text(&of(pods, &pod), "pods"), text(&of(pods, &pod), "count/pods")),
            (String::new(), "1".into())
        );
        let missing = unsaid(
            &json!({"spec": {"containers": [{"name": "a"}]}}),
            &["limits.cpu", "pods"],
        );
        assert_eq!(
            missing.into_iter().collect::<Vec<_>>(),
            [("limits.cpu".to_owned(), vec!["a".to_owned()])]
        );
    }

    #[test]
    fn services_and_claims() {
        let find = |plural: &str| schema::registry().find("", "v1", plural).unwrap();
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}});
        let used = of(find("services"), &service);
        assert_eq!(
            (
                text(&used, "services.nodeports"),
                text(&used, "services.loadbalancers")
            ),
            ("2".into(), "1".into())
        );
        let claim =
            json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
        let used = of(find("persistentvolumeclaims"), &claim);
        assert_eq!(
            text(&used, "gold.storageclass.storage.k8s.io/requests.storage"),
            "1Gi"
        );
    }
}
