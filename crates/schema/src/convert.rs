//! Conversion between the versions of a resource that share their storage.
//!
//! Two built-in resources are served in two versions: events (core and `events.k8s.io`, stored as core) and
//! autoscalers (`autoscaling/v1` and `v2`, stored as `v2`).

use serde_json::{Map, Value, json};

use crate::registry::Resource;
use crate::value::ValueExt as _;

/// Core name, `events.k8s.io` name.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Annotation that carries what `autoscaling/v1` has no field for.
const METRICS_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// Whether the resource's own version differs from the stored one, so that a caller can pass stored bytes on.
pub fn is_needed(resource: &Resource) -> bool {
    resource.group != resource.storage_version.0 || resource.version != resource.storage_version.1
}

/// Turns an object from the version that it is stored in into the resource's own.
pub fn from_storage(resource: &Resource, object: &mut Value) {
    if !is_needed(resource) {
        return;
    }
    let api_version = resource.api_version();
    let Some(o) = object.as_object_mut() else { return };
    o.insert("apiVersion".to_owned(), api_version.into());
    match &*resource.plural {
        "events" => rename(o, EVENT_FIELDS.iter().copied()),
        "horizontalpodautoscalers" => autoscaler_to_v1(object),
        _ => {}
    }
}

/// Turns an object of the resource's own version into the one that it is stored in.
pub fn to_storage(resource: &Resource, object: &mut Value) {
    if !is_needed(resource) {
        return;
    }
    let (group, version) = &resource.storage_version;
    let api_version = if group.is_empty() {
        version.to_string()
    } else {
        format!("{group}/{version}")
    };
    let Some(o) = object.as_object_mut() else { return };
    o.insert("apiVersion".to_owned(), api_version.into());
    match &*resource.plural {
        "events" => rename(o, EVENT_FIELDS.iter().map(|(a, b)| (*b, *a))),
        "horizontalpodautoscalers" => autoscaler_to_v2(object),
        _ => {}
    }
}

fn rename<'a>(o: &mut Map<String, Value>, names: impl Iterator<Item = (&'a str, &'a str)>) {
    for (from, to) in names {
        if let Some(value) = o.shift_remove(from) {
            o.insert(to.to_owned(), value);
        }
    }
}

fn is_cpu_utilization(metric: &Value) -> bool {
    metric.text(&["type"]) == "Resource" && metric.text(&["resource", "name"]) == "cpu"
}

fn autoscaler_to_v1(object: &mut Value) {
    let cpu = |list: &[Value], what: &str| {
        let metric = list.iter().find(|m| is_cpu_utilization(m))?;
        metric.int(&["resource", what, "averageUtilization"])
    };
    let target = cpu(object.items(&["spec", "metrics"]), "target");
    let current = cpu(object.items(&["status", "currentMetrics"]), "current");
    let others: Vec<Value> = object
        .items(&["spec", "metrics"])
        .iter()
        .filter(|m| !is_cpu_utilization(m))
        .cloned()
        .collect();
    let mut annotations: Vec<(&str, String)> = Vec::new();
    if !others.is_empty() {
        annotations.push((METRICS_ANNOTATION, Value::Array(others).to_string()));
    }
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        spec.shift_remove("metrics");
        if let Some(behavior) = spec.shift_remove("behavior") {
            annotations.push((BEHAVIOR_ANNOTATION, behavior.to_string()));
        }
        if let Some(target) = target {
            spec.insert("targetCPUUtilizationPercentage".to_owned(), target.into());
        }
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        status.shift_remove("currentMetrics");
        status.shift_remove("conditions");
        if let Some(current) = current {
            status.insert("currentCPUUtilizationPercentage".to_owned(), current.into());
        }
    }
    if !annotations.is_empty()
        && let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
        && let Some(map) = metadata
            .entry("annotations")
            .or_insert_with(|| json!({}))
            .as_object_mut()
    {
        for (name, value) in annotations {
            map.insert(name.to_owned(), value.into());
        }
    }
}

fn autoscaler_to_v2(object: &mut Value) {
    let mut take = |name: &str| -> Option<Value> {
        let annotations = object
            .get_mut("metadata")?
            .get_mut("annotations")?
            .as_object_mut()?;
        serde_json::from_str(annotations.shift_remove(name)?.as_str()?).ok()
    };
    let (others, behavior) = (take(METRICS_ANNOTATION), take(BEHAVIOR_ANNOTATION));
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        let mut metrics = match others {
            Some(Value::Array(metrics)) => metrics,
            _ => Vec::new(),
        };
        if let Some(percent) = spec.shift_remove("targetCPUUtilizationPercentage") {
            let target = json!({"type": "Utilization", "averageUtilization": percent});
            metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
        }
        if !metrics.is_empty() {
            spec.insert("metrics".to_owned(), metrics.into());
        }
        if let Some(behavior) = behavior {
            spec.insert("behavior".to_owned(), behavior);
        }
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut)
        && let Some(percent) = status.shift_remove("currentCPUUtilizationPercentage")
    {
        let current = json!({"averageUtilization": percent});
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", "current": current}});
        status.insert("currentMetrics".to_owned(), json!([metric]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;

    #[test]
    fn events_have_two_vocabularies() {
        let resource = registry().find("events.k8s.io", "v1", "events").unwrap();
        let sent = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "regarding": {"kind": "Pod"},
                          "note": "n", "reportingController": "c", "reason": "r"});
        let mut object = sent.clone();
        to_storage(resource, &mut object);
        assert_eq!(
            object,
            json!({"apiVersion": "v1", "kind": "Event", "involvedObject": {"kind": "Pod"},
                   "message": "n", "reportingComponent": "c", "reason": "r"})
        );
        from_storage(resource, &mut object);
        assert_eq!(object, sent);
        assert!(!is_needed(registry().find("", "v1", "events").unwrap()));
    }

    #[test]
    fn autoscalers_round_trip() {
        let resource = registry()
            .find("autoscaling", "v1", "horizontalpodautoscalers")
            .unwrap();
        let sent = json!({"apiVersion": "autoscaling/v1", "metadata": {"name": "a"},
                          "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 70}});
        let mut object = sent.clone();
        to_storage(resource, &mut object);
        assert_eq!(
            object["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"],
            70
        );
        from_storage(resource, &mut object);
        assert_eq!(object, sent);
    }
}
