//! Networking.

use serde_json::json;

use super::{Object, empty, ensure, object, objects, set, set_absent};

/// `EndpointSlice`.
pub(super) fn endpoint_slice(o: &mut Object) {
    for port in objects(o, "ports") {
        set_absent(port, "name", "");
        set(port, "protocol", "TCP");
    }
}

/// `NetworkPolicy`.
pub(super) fn network_policy(o: &mut Object) {
    let Some(spec) = ensure(o, "spec") else { return };
    for direction in ["ingress", "egress"] {
        for rule in objects(spec, direction) {
            for port in objects(rule, "ports") {
                set(port, "protocol", "TCP");
            }
        }
    }
    if empty(spec, "policyTypes") {
        let types = if empty(spec, "egress") {
            json!(["Ingress"])
        } else {
            json!(["Ingress", "Egress"])
        };
        spec.insert("policyTypes".to_owned(), types);
    }
}

/// `IngressClass`.
pub(super) fn ingress_class(o: &mut Object) {
    if let Some(parameters) = object(o, "spec").and_then(|spec| object(spec, "parameters")) {
        set(parameters, "scope", "Cluster");
    }
}
