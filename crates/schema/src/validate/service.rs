//! Services.

use serde_json::Value;

use super::cause::Causes;
use super::meta;
use crate::names;
use crate::value::ValueExt as _;

/// The spec of a Service.
pub(super) fn spec(c: &mut Causes, spec: &Value) {
    let kind = spec.text(&["type"]);
    let address = spec.text(&["clusterIP"]);
    let headless = address == "None";
    c.one_of(
        spec,
        "type",
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
        true,
    );
    let ports = spec.items(&["ports"]);
    if ports.is_empty() && !headless && kind != "ExternalName" {
        c.at("ports", |c| c.required(""));
    }
    match kind {
        "LoadBalancer" if headless => {
            c.at("clusterIPs", |c| {
                c.index(0, |c| {
                    c.invalid(address, "may not be set to 'None' for LoadBalancer services")
                });
            });
        }
        "NodePort" if headless => {
            c.at("clusterIPs", |c| {
                c.index(0, |c| {
                    c.invalid(address, "may not be set to 'None' for NodePort services")
                });
            });
        }
        "ExternalName" => external_name(c, spec),
        _ => {}
    }
    if kind != "ExternalName" {
        cluster_ips(c, spec);
    }
    c.field(spec, "selector", meta::labels);
    c.one_of(spec, "sessionAffinity", &["ClientIP", "None"], true);
    self::ports(c, spec, kind);
    c.at("externalIPs", |c| {
        for (index, ip) in spec
            .items(&["externalIPs"])
            .iter()
            .filter_map(Value::as_str)
            .enumerate()
        {
            c.index(index, |c| c.invalid_each(ip, names::ip(ip)));
        }
    });
    policies(c, spec, kind);
    let timeout = spec.int(&["sessionAffinityConfig", "clientIP", "timeoutSeconds"]);
    if let Some(seconds) = timeout.filter(|s| !(1..=86_400).contains(s)) {
        c.at("sessionAffinityConfig.clientIP.timeoutSeconds", |c| {
            c.invalid(seconds, "must be greater than 0 and less than 86400");
        });
    }
    if kind != "LoadBalancer" && spec.at(&["loadBalancerClass"]).is_some() {
        c.at("loadBalancerClass", |c| {
            c.forbidden("may only be used when `type` is 'LoadBalancer'");
        });
    }
}

fn external_name(c: &mut Causes, spec: &Value) {
    if !spec.items(&["clusterIPs"]).is_empty() {
        c.at("clusterIPs", |c| {
            c.forbidden("may not be set for ExternalName services")
        });
    }
    let name = spec.text(&["externalName"]);
    let bare = name.strip_suffix('.').unwrap_or(name);
    c.at("externalName", |c| {
        if bare.is_empty() {
            c.required("");
        } else {
            c.invalid_each(name, names::dns_subdomain(bare));
        }
    });
}

fn cluster_ips(c: &mut Causes, spec: &Value) {
    let (first, list) = (spec.text(&["clusterIP"]), spec.items(&["clusterIPs"]));
    if let Some(listed) = list.first().and_then(Value::as_str)
        && listed != first
    {
        c.at("clusterIPs", |c| {
            c.invalid(list.to_vec(), "first value must match `clusterIP`");
        });
    }
    let check = |c: &mut Causes, ip: &str| {
        if ip != "None" && !names::ip(ip).is_empty() {
            c.invalid(
                ip,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            );
        }
    };
    if list.is_empty() && !first.is_empty() {
        c.at("clusterIPs", |c| c.index(0, |c| check(c, first)));
    }
    c.at("clusterIPs", |c| {
        for (index, ip) in list.iter().filter_map(Value::as_str).enumerate() {
            c.index(index, |c| check(c, ip));
        }
    });
    c.one_of(
        spec,
        "ipFamilyPolicy",
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
        false,
    );
    c.at("ipFamilies", |c| {
        for (index, family) in spec
            .items(&["ipFamilies"])
            .iter()
            .filter_map(Value::as_str)
            .enumerate()
        {
            if !matches!(family, "IPv4" | "IPv6") {
                c.index(index, |c| c.not_supported(family, &["IPv4", "IPv6"]));
            }
        }
    });
}

fn ports(c: &mut Causes, spec: &Value, kind: &str) {
    let many = spec.items(&["ports"]).len() > 1;
    let mut seen_names: Vec<&str> = Vec::new();
    let mut seen: Vec<(i64, &str)> = Vec::new();
    let mut seen_nodes: Vec<(i64, &str)> = Vec::new();
    c.each_ref(spec, "ports", |c, port| {
        let name = port.text(&["name"]);
        c.at("name", |c| {
            if name.is_empty() {
                if many {
                    c.required("");
                }
            } else {
                c.invalid_each(name, names::dns_label(name));
                if seen_names.contains(&name) {
                    c.duplicate(name);
                }
            }
        });
        seen_names.push(name);
        let number = port.int(&["port"]).unwrap_or_default();
        c.at("port", |c| {
            for problem in names::port_number(number) {
                c.invalid(number, &problem);
            }
        });
        let protocol = port.text(&["protocol"]);
        c.one_of(port, "protocol", &["SCTP", "TCP", "UDP"], true);
        match port.at(&["targetPort"]) {
            Some(Value::String(name)) => {
                c.at("targetPort", |c| c.invalid_each(name, names::port_name(name)));
            }
            target => {
                let target = target.and_then(Value::as_i64).unwrap_or_default();
                c.at("targetPort", |c| {
                    for problem in names::port_number(target) {
                        c.invalid(target, &problem);
                    }
                });
            }
        }
        c.name_rule(port, "appProtocol", names::qualified_name);
        if seen.contains(&(number, protocol)) {
            let mut value = serde_json::Map::new();
            value.insert("port".into(), number.into());
            value.insert("protocol".into(), protocol.into());
            c.duplicate(Value::Object(value));
        }
        seen.push((number, protocol));
        let node = port.int(&["nodePort"]).unwrap_or_default();
        if node != 0 {
            if !matches!(kind, "NodePort" | "LoadBalancer") {
                c.at("nodePort", |c| {
                    c.forbidden("may not be used when `type` is 'ClusterIP'")
                });
            } else if seen_nodes.contains(&(node, protocol)) {
                c.at("nodePort", |c| c.duplicate(node));
            }
            seen_nodes.push((node, protocol));
        }
    });
}

fn policies(c: &mut Causes, spec: &Value, kind: &str) {
    let external = spec.text(&["externalTrafficPolicy"]);
    let reachable = matches!(kind, "NodePort" | "LoadBalancer")
        || (kind == "ClusterIP" && !spec.items(&["externalIPs"]).is_empty());
    c.at("externalTrafficPolicy", |c| {
        if !reachable && !external.is_empty() {
            c.invalid(external, "may only be set for externally-accessible services");
        } else if reachable && !matches!(external, "Cluster" | "Local") {
            c.not_supported(external, &["Cluster", "Local"]);
        }
    });
    if kind != "ExternalName" {
        let internal = spec.text(&["internalTrafficPolicy"]);
        c.at("internalTrafficPolicy", |c| {
            if internal.is_empty() {
                c.required("");
            } else if !matches!(internal, "Cluster" | "Local") {
                c.not_supported(internal, &["Cluster", "Local"]);
            }
        });
    }
}
