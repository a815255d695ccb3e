//! The fields around the address: families, policies, and what an update inherits.

use crate::http::status::Status;
use crate::json::items_mut;
use schema::{Cause, Reason, Resource};
use serde_json::{Value, json};

/// Clients that do not know an allocated field leave it out of updates; it stays then.
pub fn inherit(old: Option<&Value>, new: &mut Value) {
    let Some(old) = old else { return };
    if super::kind(new) == "ExternalName" || super::kind(old) == "ExternalName" {
        return;
    }
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let empty = match &new["spec"][field] {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => false,
        };
        if empty && !old["spec"][field].is_null() {
            new["spec"][field] = old["spec"][field].clone();
        }
    }
    if !matches!(super::kind(new), "NodePort" | "LoadBalancer") {
        // The ports of a type that has none any more go, unless the client changed them itself.
        let ports = items_mut(new, &["spec", "ports"]);
        for port in ports.iter_mut().filter_map(Value::as_object_mut) {
            port.remove("nodePort");
        }
        return;
    }
    let old_ports = old["spec"]["ports"].as_array().cloned().unwrap_or_default();
    for port in items_mut(new, &["spec", "ports"]) {
        let before = old_ports
            .iter()
            .find(|p| p["port"] == port["port"] && p["protocol"] == port["protocol"]);
        let unset = port["nodePort"].as_u64().unwrap_or(0) == 0;
        if let Some(number) = before.map(|p| &p["nodePort"]).filter(|n| unset && !n.is_null()) {
            port["nodePort"] = number.clone();
        }
    }
}

/// An address, once given, stays for the life of the Service, unless its type changes from or to ExternalName.
pub fn check_immutable(resource: &Resource, old: Option<&Value>, new: &Value) -> Result<(), Status> {
    let Some(old) = old else { return Ok(()) };
    if super::kind(new) == "ExternalName" || super::kind(old) == "ExternalName" {
        return Ok(());
    }
    let (before, after) = (&old["spec"]["clusterIP"], &new["spec"]["clusterIP"]);
    if before.as_str().is_some_and(|ip| !ip.is_empty()) && before != after {
        let message = format!("Invalid value: {}: field is immutable", json!([after]));
        let cause = Cause {
            reason: Reason::Invalid,
            field: "spec.clusterIPs[0]".into(),
            message,
        };
        let name = new["metadata"]["name"].as_str().unwrap_or_default();
        return Err(Status::invalid(resource, name, vec![cause]));
    }
    Ok(())
}

/// An ExternalName has no address.
pub fn clear(new: &mut Value) {
    if let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) {
        for field in [
            "clusterIP",
            "clusterIPs",
            "ipFamilies",
            "ipFamilyPolicy",
            "internalTrafficPolicy",
        ] {
            spec.remove(field);
        }
    }
}

/// The lists that go with `clusterIP`.
pub fn complete(new: &mut Value) {
    let ip = new["spec"]["clusterIP"].clone();
    new["spec"]["clusterIPs"] = json!([ip]);
    let spec = &mut new["spec"];
    if spec["ipFamilies"].as_array().is_none_or(Vec::is_empty) {
        spec["ipFamilies"] = json!(["IPv4"]);
    }
    if spec["ipFamilyPolicy"].is_null() {
        spec["ipFamilyPolicy"] = "SingleStack".into();
    }
    if spec["internalTrafficPolicy"].is_null() {
        spec["internalTrafficPolicy"] = "Cluster".into();
    }
}
