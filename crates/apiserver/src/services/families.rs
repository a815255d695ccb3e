//! The fields around the address: families, policies, and what an update inherits.

use crate::http::status::Status;
use crate::json::items_mut;
use schema::{Cause, Reason, Resource};
use serde_json::{Value, json};

/// Clients that do not know an allocated field leave it out of updates; it stays then. What the new type has no use
/// for goes, unless the client changed it itself.
pub fn inherit(old: &Value, new: &mut Value) {
    let (before, after) = (super::kind(old).to_owned(), super::kind(new).to_owned());
    if after == "ExternalName" {
        if before != "ExternalName" && new["spec"]["clusterIP"] == old["spec"]["clusterIP"] {
            clear(new);
        }
        return;
    }
    if before != "ExternalName" {
        inherit_addresses(old, new);
    }
    let old_ports = old["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let has_ports = matches!(after.as_str(), "NodePort" | "LoadBalancer");
    for port in items_mut(new, &["spec", "ports"]) {
        let before = old_ports
            .iter()
            .find(|p| p["port"] == port["port"] && p["protocol"] == port["protocol"]);
        let number = before.and_then(|p| p["nodePort"].as_u64()).unwrap_or(0);
        let given = port["nodePort"].as_u64().unwrap_or(0);
        let Some(fields) = port.as_object_mut() else {
            continue;
        };
        if has_ports && given == 0 && number > 0 {
            fields.insert("nodePort".into(), number.into());
        } else if !has_ports && given == number {
            fields.remove("nodePort");
        }
    }
    let local = after == "LoadBalancer" && new["spec"]["externalTrafficPolicy"] == "Local";
    if let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) {
        let unchanged = |field: &str| spec.get(field) == old["spec"].get(field);
        let (health, policy, balancer) = (
            !local && unchanged("healthCheckNodePort"),
            !has_ports && unchanged("externalTrafficPolicy"),
            after != "LoadBalancer" && unchanged("allocateLoadBalancerNodePorts"),
        );
        for (field, gone) in [
            ("healthCheckNodePort", health),
            ("externalTrafficPolicy", policy),
            ("allocateLoadBalancerNodePorts", balancer),
        ] {
            if gone {
                spec.remove(field);
            }
        }
    }
}

fn inherit_addresses(old: &Value, new: &mut Value) {
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
