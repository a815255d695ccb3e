//! Services.

use serde_json::Value;

use super::cause::Causes;
use super::meta;
use super::network::reachable_ip;
use crate::names;
use crate::value::{ValueExt as _, is_empty};

/// The port of every kubelet, which no balancer may take.
const KUBELET_PORT: i64 = 10_250;
/// Longest time that a client stays with a pod.
const AFFINITY_SECONDS_MAX: i64 = 86_400;

const ONLY_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";

/// `Service`.
pub(super) fn service(c: &mut Causes, o: &Value) {
    c.at("spec", |c| spec(c, super::spec(o)));
}

fn spec(c: &mut Causes, spec: &Value) {
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
        "LoadBalancer" | "NodePort" if headless => {
            c.at("clusterIPs", |c| {
                c.index(0, |c| {
                    c.invalid(address, &format!("may not be set to 'None' for {kind} services"))
                });
            });
        }
        "ExternalName" => external_name(c, spec),
        _ => {}
    }
    if kind == "LoadBalancer" {
        c.each(spec, "ports", |c, _, port| {
            if port.int(&["port"]) == Some(KUBELET_PORT) {
                c.at("port", |c| {
                    c.invalid(
                        KUBELET_PORT,
                        &format!("may not expose port {KUBELET_PORT} externally since it is used by kubelet"),
                    );
                });
            }
        });
    }
    if kind != "ExternalName" {
        cluster_ips(c, spec);
    }
    c.field(spec, "selector", meta::labels);
    affinity(c, spec);
    self::ports(c, spec, kind);
    c.texts(spec, "externalIPs", reachable_ip);
    policies(c, spec, kind);
    balancer(c, spec, kind);
    let distributions = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    c.one_of(spec, "trafficDistribution", &distributions, false);
}

fn affinity(c: &mut Causes, spec: &Value) {
    c.one_of(spec, "sessionAffinity", &["ClientIP", "None"], true);
    let config = spec.at(&["sessionAffinityConfig"]);
    match spec.text(&["sessionAffinity"]) {
        "ClientIP" => c.at("sessionAffinityConfig", |c| {
            let Some(client) = config.and_then(|config| config.at(&["clientIP"])) else {
                c.required("when session affinity type is ClientIP");
                return;
            };
            c.at("clientIP.timeoutSeconds", |c| {
                match client.int(&["timeoutSeconds"]) {
                    None => c.required("when session affinity type is ClientIP"),
                    Some(seconds) if !(1..=AFFINITY_SECONDS_MAX).contains(&seconds) => c.invalid(
                        seconds,
                        &format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}"),
                    ),
                    Some(_) => {}
                }
            });
        }),
        "None" if config.is_some() => c.at("sessionAffinityConfig", |c| {
            c.forbidden("must not be set when session affinity is None");
        }),
        _ => {}
    }
}

fn external_name(c: &mut Causes, spec: &Value) {
    if !spec.items(&["clusterIPs"]).is_empty() || !spec.text(&["clusterIP"]).is_empty() {
        c.at("clusterIPs", |c| {
            c.forbidden("may not be set for ExternalName services")
        });
    }
    for name in ["ipFamilies", "ipFamilyPolicy"] {
        c.forbidden_field(spec, name, "may not be set for ExternalName services");
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

/// The family of an address.
fn family(ip: &str) -> Option<&'static str> {
    Some(match ip.parse::<std::net::IpAddr>().ok()? {
        std::net::IpAddr::V4(_) => "IPv4",
        std::net::IpAddr::V6(_) => "IPv6",
    })
}

fn cluster_ips(c: &mut Causes, spec: &Value) {
    let (first, list) = (spec.text(&["clusterIP"]), spec.items(&["clusterIPs"]));
    if first.is_empty() && !list.is_empty() {
        c.at("clusterIPs", |c| {
            c.forbidden("must be empty when `clusterIP` is not specified")
        });
    } else if let Some(listed) = list.first().and_then(Value::as_str)
        && listed != first
    {
        c.at("clusterIPs", |c| {
            c.invalid(list.to_vec(), "first value must match `clusterIP`");
        });
    }
    if list.len() > 2 {
        c.at("clusterIPs", |c| {
            c.invalid(list.to_vec(), "may only hold up to 2 values")
        });
    }
    let families: Vec<&str> = spec
        .items(&["ipFamilies"])
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let check = |c: &mut Causes, index: usize, ip: &str| {
        if ip == "None" {
            if list.len() > 1 {
                c.invalid(ip, "'None' must be the first and only value");
            }
        } else if !names::ip(ip).is_empty() {
            c.invalid_each(ip, names::ip(ip));
        } else if let (Some(wanted), Some(found)) = (families.get(index), family(ip))
            && *wanted != found
        {
            c.invalid(
                ip,
                &format!("expected an {wanted} value as indicated by `ipFamilies[{index}]`"),
            );
        }
    };
    c.at("clusterIPs", |c| {
        if list.is_empty() && !first.is_empty() {
            c.index(0, |c| check(c, 0, first));
        }
        for (index, ip) in list.iter().filter_map(Value::as_str).enumerate() {
            c.index(index, |c| check(c, index, ip));
        }
        let found: Vec<&str> = list.iter().filter_map(Value::as_str).filter_map(family).collect();
        if let [a, b] = found[..]
            && a == b
        {
            c.invalid(
                list.to_vec(),
                "may specify no more than one IP for each IP family",
            );
        }
    });
    c.one_of(
        spec,
        "ipFamilyPolicy",
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
        false,
    );
    c.text_set(spec, "ipFamilies", &["IPv4", "IPv6"]);
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
        c.port_number(port, "port");
        let protocol = port.text(&["protocol"]);
        c.one_of(port, "protocol", &["SCTP", "TCP", "UDP"], true);
        match port.at(&["targetPort"]) {
            Some(Value::String(name)) => {
                c.at("targetPort", |c| c.invalid_each(name, names::port_name(name)));
            }
            _ => c.port_number(port, "targetPort"),
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
            if kind == "ClusterIP" {
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
        } else if reachable && external.is_empty() {
            c.required("for externally-accessible services");
        } else if reachable && !matches!(external, "Cluster" | "Local") {
            c.not_supported(external, &["Cluster", "Local"]);
        }
    });
    if let Some(port) = spec.int(&["healthCheckNodePort"]).filter(|port| *port != 0)
        && !(kind == "LoadBalancer" && external == "Local")
    {
        c.at("healthCheckNodePort", |c| {
            c.invalid(
                port,
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            );
        });
    }
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

/// What only balancers have.
fn balancer(c: &mut Causes, spec: &Value, kind: &str) {
    if kind != "LoadBalancer" {
        for name in [
            "loadBalancerClass",
            "loadBalancerSourceRanges",
            "allocateLoadBalancerNodePorts",
        ] {
            if !is_empty(spec.get(name)) {
                c.at(name, |c| c.forbidden(ONLY_BALANCER));
            }
        }
        return;
    }
    if spec.at(&["allocateLoadBalancerNodePorts"]).is_none() {
        c.at("allocateLoadBalancerNodePorts", |c| c.required(""));
    }
    c.name_rule(spec, "loadBalancerClass", names::qualified_name);
    c.texts(spec, "loadBalancerSourceRanges", |c, range| {
        c.invalid_each(range, names::cidr(range.trim()));
    });
}
