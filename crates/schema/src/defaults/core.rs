//! The core group.

use serde_json::{Map, Value, json};

use super::{Object, empty, ensure, object, objects, pod, set, set_absent, storage, text};

/// Fills in the defaults of an object of the core group.
pub(super) fn default(kind: &str, o: &mut Object) {
    match kind {
        "Pod" => pod::pod(o),
        "PodTemplate" => pod::template(o),
        "ReplicationController" => replication_controller(o),
        "Service" => service(o),
        "Secret" => secret(o),
        "PersistentVolume" => storage::persistent_volume(o),
        "PersistentVolumeClaim" => storage::persistent_volume_claim(o),
        "Namespace" => namespace(o),
        "Node" => node(o),
        "Endpoints" => {
            for subset in objects(o, "subsets") {
                for port in objects(subset, "ports") {
                    set(port, "protocol", "TCP");
                }
            }
        }
        "LimitRange" => {
            if let Some(spec) = object(o, "spec") {
                for limit in objects(spec, "limits") {
                    limit_range_item(limit);
                }
            }
        }
        "ResourceQuota" => {
            if let Some(hard) = object(o, "spec").and_then(|spec| object(spec, "hard")) {
                pod::round_up(hard);
            }
        }
        _ => {}
    }
}

fn replication_controller(o: &mut Object) {
    if let Some(labels) = pod::template_labels(o) {
        if let Some(spec) = object(o, "spec")
            && empty(spec, "selector")
        {
            spec.insert("selector".to_owned(), labels.clone());
        }
        pod::adopt_labels(o, &labels);
    }
    if let Some(spec) = ensure(o, "spec") {
        set_absent(spec, "replicas", 1);
        pod::template(spec);
    }
}

fn service(o: &mut Object) {
    let Some(spec) = ensure(o, "spec") else { return };
    set(spec, "sessionAffinity", "None");
    if text(spec, "sessionAffinity") == "None" {
        spec.shift_remove("sessionAffinityConfig");
    } else if text(spec, "sessionAffinity") == "ClientIP" {
        let timeout = spec
            .get("sessionAffinityConfig")
            .and_then(|c| c.get("clientIP")?.get("timeoutSeconds"));
        if timeout.is_none_or(Value::is_null) {
            spec.insert(
                "sessionAffinityConfig".to_owned(),
                json!({"clientIP": {"timeoutSeconds": 10_800}}),
            );
        }
    }
    set(spec, "type", "ClusterIP");
    for port in objects(spec, "ports") {
        set(port, "protocol", "TCP");
        let unset = match port.get("targetPort") {
            None | Some(Value::Null) => true,
            Some(target) => target.as_i64() == Some(0) || target.as_str() == Some(""),
        };
        if unset && let Some(number) = port.get("port").cloned() {
            port.insert("targetPort".to_owned(), number);
        }
    }
    let kind = text(spec, "type").to_owned();
    let external = matches!(kind.as_str(), "NodePort" | "LoadBalancer")
        || (kind == "ClusterIP" && !empty(spec, "externalIPs"));
    if external {
        set(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind != "ExternalName" {
        set(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set_absent(spec, "allocateLoadBalancerNodePorts", true);
        if let Some(balancer) = object(o, "status").and_then(|status| object(status, "loadBalancer")) {
            for ingress in objects(balancer, "ingress").filter(|i| !text(i, "ip").is_empty()) {
                set_absent(ingress, "ipMode", "VIP");
            }
        }
    }
}

/// The type, and what a client wrote as text moved to where it is kept.
fn secret(o: &mut Object) {
    use base64::Engine as _;
    set(o, "type", "Opaque");
    let Some(Value::Object(texts)) = o.shift_remove("stringData") else {
        return;
    };
    let Some(data) = ensure(o, "data") else { return };
    for (key, value) in texts {
        if let Value::String(text) = value {
            data.insert(key, base64::engine::general_purpose::STANDARD.encode(text).into());
        }
    }
}

fn namespace(o: &mut Object) {
    let name = o
        .get("metadata")
        .and_then(|m| m.get("name"))
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !name.is_empty() {
        let name = name.to_owned();
        if let Some(labels) = ensure(o, "metadata").and_then(|m| ensure(m, "labels")) {
            labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
        }
    }
    if let Some(status) = ensure(o, "status") {
        set(status, "phase", "Active");
    }
}

fn node(o: &mut Object) {
    let Some(status) = object(o, "status") else { return };
    for list in ["capacity", "allocatable"] {
        if let Some(list) = object(status, list) {
            pod::round_up(list);
        }
    }
    if empty(status, "allocatable")
        && let Some(capacity) = status.get("capacity").cloned()
    {
        status.insert("allocatable".to_owned(), capacity);
    }
}

fn limit_range_item(limit: &mut Object) {
    for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        if let Some(list) = object(limit, list) {
            pod::round_up(list);
        }
    }
    if text(limit, "type") != "Container" {
        return;
    }
    // A limit is at most the maximum, a request at most the limit and at least the minimum.
    for (from, to) in [
        ("max", "default"),
        ("default", "defaultRequest"),
        ("min", "defaultRequest"),
    ] {
        let source: Map<String, Value> = limit
            .get(from)
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        if source.is_empty() {
            continue;
        }
        if let Some(target) = ensure(limit, to) {
            for (name, value) in source {
                target.entry(name).or_insert(value);
            }
        }
    }
}
