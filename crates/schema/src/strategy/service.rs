//! Services: what the server has allocated stays unless the client changes it.

use serde_json::{Map, Value};

use crate::value::ValueExt as _;

/// Fields that an update may leave out: addresses and families, node ports, the health check port.
pub(super) fn keep_allocated(old: &Value, new: &mut Value) {
    let old_type = old.text(&["spec", "type"]);
    let new_type = new.text(&["spec", "type"]).to_owned();
    let Some(Value::Object(spec)) = new.get_mut("spec") else {
        return;
    };
    let has_address = |kind: &str| matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer");
    let has_node_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    if has_address(old_type) && has_address(&new_type) {
        fill(spec, "clusterIP", old);
        if spec.get("clusterIP") == old.at(&["spec", "clusterIP"]) {
            fill(spec, "clusterIPs", old);
        }
        fill(spec, "ipFamilies", old);
        fill(spec, "ipFamilyPolicy", old);
    }
    if has_node_ports(old_type) && has_node_ports(&new_type) {
        keep_node_ports(old, spec);
    }
    let checks_health = |kind: &str, policy: &str| kind == "LoadBalancer" && policy == "Local";
    let policy = spec
        .get("externalTrafficPolicy")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if checks_health(old_type, old.text(&["spec", "externalTrafficPolicy"]))
        && checks_health(&new_type, policy)
        && spec
            .get("healthCheckNodePort")
            .and_then(Value::as_i64)
            .unwrap_or_default()
            == 0
    {
        fill(spec, "healthCheckNodePort", old);
    }
    drop_unused(old, spec, &new_type);
}

/// What only the old type needed goes, unless the client changed it: then validation says why it must not be there.
fn drop_unused(old: &Value, spec: &mut Map<String, Value>, new_type: &str) {
    let old_type = old.text(&["spec", "type"]);
    let mut gone: Vec<&str> = Vec::new();
    if old_type != "ExternalName" && new_type == "ExternalName" {
        gone.extend([
            "clusterIP",
            "clusterIPs",
            "ipFamilies",
            "ipFamilyPolicy",
            "internalTrafficPolicy",
        ]);
    }
    if old_type == "LoadBalancer" && new_type != "LoadBalancer" {
        gone.extend([
            "allocateLoadBalancerNodePorts",
            "loadBalancerClass",
            "healthCheckNodePort",
        ]);
    }
    let has_node_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    let loses_node_ports = has_node_ports(old_type) && !has_node_ports(new_type);
    if loses_node_ports && crate::value::is_empty(spec.get("externalIPs")) {
        gone.push("externalTrafficPolicy");
    }
    for name in gone {
        if spec.get(name) == old.at(&["spec", name]) {
            spec.shift_remove(name);
        }
    }
    if !loses_node_ports {
        return;
    }
    let old_ports: Vec<i64> = old
        .items(&["spec", "ports"])
        .iter()
        .filter_map(|p| p.int(&["nodePort"]))
        .collect();
    for port in spec
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if port
            .int(&["nodePort"])
            .is_some_and(|number| old_ports.contains(&number))
            && let Value::Object(port) = port
        {
            port.shift_remove("nodePort");
        }
    }
}

fn fill(spec: &mut Map<String, Value>, name: &str, old: &Value) {
    if crate::value::is_empty(spec.get(name))
        && let Some(value) = old.at(&["spec", name])
    {
        spec.insert(name.to_owned(), value.clone());
    }
}

/// A port is the same one if its protocol and number are.
fn keep_node_ports(old: &Value, spec: &mut Map<String, Value>) {
    let old_ports = old.items(&["spec", "ports"]);
    let taken: Vec<i64> = spec
        .get("ports")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|p| p.int(&["nodePort"]))
        .collect();
    for port in spec
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if port.int(&["nodePort"]).unwrap_or_default() != 0 {
            continue;
        }
        let same = |other: &&Value| {
            other.text(&["protocol"]) == port.text(&["protocol"])
                && other.int(&["port"]) == port.int(&["port"])
        };
        let number = old_ports.iter().find(same).and_then(|p| p.int(&["nodePort"]));
        if let (Some(number), Value::Object(port)) = (number.filter(|n| !taken.contains(n)), port) {
            port.insert("nodePort".to_owned(), number.into());
        }
    }
}
