//! Endpoints, ingresses and policies.

use serde_json::Value;

use super::cause::Causes;
use super::checks::domain_prefixed_path;
use super::{meta, spec};
use crate::names;
use crate::value::ValueExt as _;

/// Most endpoints of a slice.
const ENDPOINTS_MAX: usize = 1000;
/// Most addresses of an endpoint.
const ADDRESSES_MAX: usize = 100;

/// Longest name of an ingress controller.
const CONTROLLER_MAX: usize = 250;
/// Most ports of a slice.
const PORTS_MAX: usize = 20_000;

/// `IngressClass`.
pub(super) fn ingress_class(c: &mut Causes, o: &Value) {
    let spec = spec(o);
    c.at("spec", |c| {
        let controller = spec.text(&["controller"]);
        c.text_required(spec, "controller");
        c.name_rule(spec, "controller", domain_prefixed_path);
        c.at("controller", |c| {
            if controller.len() > CONTROLLER_MAX {
                c.too_long(CONTROLLER_MAX);
            }
        });
        c.field(spec, "parameters", |c, parameters| {
            c.name_required(parameters, "kind", names::path_segment);
            c.name_required(parameters, "name", names::path_segment);
            c.name_rule(parameters, "apiGroup", names::dns_subdomain);
            match (parameters.text(&["scope"]), parameters.text(&["namespace"])) {
                ("", _) => c.at("scope", |c| c.required("")),
                ("Namespace", "") => c.at("namespace", |c| {
                    c.required("`parameters.scope` is set to 'Namespace'")
                }),
                ("Namespace", _) => c.name_rule(parameters, "namespace", names::dns_label),
                ("Cluster", "") => {}
                ("Cluster", _) => c.at("namespace", |c| {
                    c.forbidden("`parameters.scope` is set to 'Cluster'")
                }),
                (other, _) => c.at("scope", |c| c.not_supported(other, &["Cluster", "Namespace"])),
            }
        });
    });
}

/// `ServiceCIDR`.
pub(super) fn service_cidr(c: &mut Causes, o: &Value) {
    let spec = spec(o);
    let ranges = spec.items(&["cidrs"]);
    c.at("spec.cidrs", |c| {
        if ranges.is_empty() {
            c.required("at least one CIDR required");
        }
        if ranges.len() > 2 {
            c.invalid(ranges.to_vec(), "may only hold up to 2 values");
        }
        if let [Value::String(a), Value::String(b)] = ranges
            && a.contains(':') == b.contains(':')
        {
            c.invalid(
                ranges.to_vec(),
                "may specify no more than one IP for each IP family, i.e. 192.168.0.0/24 and 2001:db8::/64",
            );
        }
    });
    c.at("spec", |c| c.text_rules(spec, "cidrs", names::cidr));
}

/// `IPAddress`, whose name is the address.
pub(super) fn ip_address(c: &mut Causes, o: &Value) {
    let name = o.text(&["metadata", "name"]);
    c.at("metadata.name", |c| match name.parse::<std::net::IpAddr>() {
        Ok(ip) if ip.to_string() != name => {
            c.invalid(name, &format!("must be in canonical form ({:?})", ip.to_string()));
        }
        _ => c.invalid_each(name, names::ip(name)),
    });
    c.at("spec.parentRef", |c| match spec(o).at(&["parentRef"]) {
        None => c.required(""),
        Some(parent) => {
            c.name_rule(parent, "group", names::dns_subdomain);
            c.name_required(parent, "resource", names::path_segment);
            c.name_required(parent, "name", names::path_segment);
            c.name_rule(parent, "namespace", names::path_segment);
        }
    });
}

/// An address that something outside the node can be reached at.
pub(super) fn reachable_ip(c: &mut Causes, address: &str) {
    let problems = names::ip(address);
    if !problems.is_empty() {
        c.invalid_each(address, problems);
        return;
    }
    let Ok(ip) = address.parse::<std::net::IpAddr>() else {
        return;
    };
    if ip.is_unspecified() {
        c.invalid(address, &format!("may not be unspecified ({address})"));
    }
    if ip.is_loopback() {
        c.invalid(address, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let (link_local, link_local_multicast) = match ip {
        std::net::IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        std::net::IpAddr::V6(ip) => (
            ip.segments()[0] & 0xffc0 == 0xfe80,
            ip.segments()[0] & 0xff0f == 0xff02,
        ),
    };
    if link_local {
        c.invalid(
            address,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        );
    }
    if link_local_multicast {
        c.invalid(
            address,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        );
    }
}

/// `Endpoints`.
pub(super) fn endpoints(c: &mut Causes, o: &Value) {
    c.each(o, "subsets", |c, _, subset| {
        let lists = ["addresses", "notReadyAddresses"];
        if lists.iter().all(|list| subset.items(&[list]).is_empty()) {
            c.required("must specify `addresses` or `notReadyAddresses`");
        }
        for list in lists {
            c.each(subset, list, |c, _, address| {
                let ip = address.text(&["ip"]);
                c.at("ip", |c| reachable_ip(c, ip));
                c.name_rule(address, "hostname", names::dns_label);
                c.name_rule(address, "nodeName", names::dns_subdomain);
            });
        }
        let many = subset.items(&["ports"]).len() > 1;
        c.each(subset, "ports", |c, _, port| {
            if many && port.text(&["name"]).is_empty() {
                c.at("name", |c| c.required(""));
            }
            c.name_rule(port, "name", names::dns_label);
            let number = port.int(&["port"]).unwrap_or_default();
            c.at("port", |c| {
                for problem in names::port_number(number) {
                    c.invalid(number, &problem);
                }
            });
            c.one_of(port, "protocol", &["SCTP", "TCP", "UDP"], true);
        });
    });
}

/// `EndpointSlice`.
pub(super) fn endpoint_slice(c: &mut Causes, o: &Value) {
    let kind = o.text(&["addressType"]);
    let kinds = ["FQDN", "IPv4", "IPv6"];
    c.one_of(o, "addressType", &kinds, true);
    let count = o.items(&["endpoints"]).len();
    if count > ENDPOINTS_MAX {
        c.at("endpoints", |c| c.too_many(count, ENDPOINTS_MAX));
    }
    c.at_most(o, "ports", PORTS_MAX);
    c.each(o, "endpoints", |c, _, endpoint| {
        let addresses = endpoint.items(&["addresses"]);
        c.at("addresses", |c| {
            if addresses.is_empty() {
                c.required("must contain at least 1 address");
            } else if addresses.len() > ADDRESSES_MAX {
                c.too_many(addresses.len(), ADDRESSES_MAX);
            }
            for (index, address) in addresses.iter().filter_map(Value::as_str).enumerate() {
                c.index(index, |c| match kind {
                    "IPv4" if address.parse::<std::net::Ipv4Addr>().is_err() => {
                        c.invalid(address, "must be a valid IPv4 address");
                    }
                    "IPv6" if address.parse::<std::net::Ipv6Addr>().is_err() => {
                        c.invalid(address, "must be a valid IPv6 address");
                    }
                    "FQDN" => c.invalid_each(address, names::dns_subdomain(address)),
                    _ => reachable_ip(c, address),
                });
            }
        });
        c.name_rule(endpoint, "hostname", names::dns_label);
        c.name_rule(endpoint, "nodeName", names::dns_subdomain);
        c.field(endpoint, "hints", hints);
    });
    let mut seen: Vec<&str> = Vec::new();
    c.each_ref(o, "ports", |c, port| {
        let name = port.text(&["name"]);
        c.name_rule(port, "name", names::dns_label);
        if seen.contains(&name) {
            c.at("name", |c| c.duplicate(name));
        }
        seen.push(name);
        c.one_of(port, "protocol", &["SCTP", "TCP", "UDP"], true);
        c.name_rule(port, "appProtocol", names::qualified_name);
    });
}

/// Zones and nodes that an endpoint is best used from.
fn hints(c: &mut Causes, hints: &Value) {
    /// Most zones or nodes.
    const COUNT_MAX: usize = 8;
    for list in ["forZones", "forNodes"] {
        c.at_most(hints, list, COUNT_MAX);
        c.unique(hints, list, "name");
        let rule = if list == "forZones" {
            names::label_value
        } else {
            names::dns_subdomain
        };
        c.each(hints, list, |c, _, place| c.name_rule(place, "name", rule));
    }
}

/// `NetworkPolicy`.
pub(super) fn network_policy(c: &mut Causes, o: &Value) {
    c.at("spec", |c| network_policy_spec(c, spec(o)));
}

fn network_policy_spec(c: &mut Causes, spec: &Value) {
    c.field(spec, "podSelector", meta::label_selector);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        c.each(spec, direction, |c, _, rule| {
            c.each(rule, "ports", |c, _, port| {
                c.one_of(port, "protocol", &["SCTP", "TCP", "UDP"], false);
                if port.at(&["port"]).is_some() {
                    super::probe::port(c, port);
                }
                if let Some(end) = port.int(&["endPort"]) {
                    c.at("endPort", |c| match port.at(&["port"]) {
                        None => c.invalid(end, "may not be specified when `port` is not specified"),
                        Some(Value::String(_)) => {
                            c.invalid(end, "may not be specified when `port` is non-numeric");
                        }
                        Some(start) => {
                            if start.as_i64().is_some_and(|start| end < start) {
                                c.invalid(end, "must be greater than or equal to `port`");
                            }
                            for problem in names::port_number(end) {
                                c.invalid(end, &problem);
                            }
                        }
                    });
                }
            });
            c.each(rule, peers, |c, _, peer| policy_peer(c, peer));
        });
    }
    let types = spec.items(&["policyTypes"]);
    if types.len() > 2 {
        c.at("policyTypes", |c| {
            c.invalid(types.to_vec(), "may not specify more than two policyTypes")
        });
        return;
    }
    c.at("policyTypes", |c| {
        for (index, kind) in types.iter().filter_map(Value::as_str).enumerate() {
            if !matches!(kind, "Ingress" | "Egress") {
                c.index(index, |c| c.not_supported(kind, &["Egress", "Ingress"]));
            }
        }
    });
}

fn policy_peer(c: &mut Causes, peer: &Value) {
    let selects = peer.at(&["podSelector"]).is_some() || peer.at(&["namespaceSelector"]).is_some();
    c.field(peer, "podSelector", meta::label_selector);
    c.field(peer, "namespaceSelector", meta::label_selector);
    match peer.at(&["ipBlock"]) {
        None if !selects => c.required("must specify a peer"),
        Some(_) if selects => {
            c.forbidden("may not specify both ipBlock and another peer");
        }
        Some(block) => c.at("ipBlock", |c| {
            let range = block.text(&["cidr"]);
            c.at("cidr", |c| match range {
                "" => c.required(""),
                range => c.invalid_each(range, names::cidr(range)),
            });
            c.texts(block, "except", |c, hole| {
                c.invalid_each(hole, names::cidr(hole));
                if names::cidr(hole).is_empty() && names::cidr(range).is_empty() && !within(hole, range) {
                    c.invalid(hole, "must be a strict subset of `cidr`");
                }
            });
        }),
        None => {}
    }
}

/// Whether the first range is a proper part of the second.
fn within(part: &str, whole: &str) -> bool {
    let parse = |range: &str| -> Option<(u128, u32, bool)> {
        let (address, length) = range.split_once('/')?;
        let length: u32 = length.parse().ok()?;
        Some(match address.parse::<std::net::IpAddr>().ok()? {
            std::net::IpAddr::V4(ip) => (u128::from(ip.to_bits()) << 96, length, true),
            std::net::IpAddr::V6(ip) => (ip.to_bits(), length, false),
        })
    };
    let (Some((a, a_length, a_v4)), Some((b, b_length, b_v4))) = (parse(part), parse(whole)) else {
        return false;
    };
    let first = |bits: u128| {
        if b_length == 0 {
            0
        } else {
            bits >> (128 - b_length)
        }
    };
    a_v4 == b_v4 && a_length > b_length && first(a) == first(b)
}

/// `Ingress`.
pub(super) fn ingress(c: &mut Causes, o: &Value) {
    const ANNOTATION: &str = "kubernetes.io/ingress.class";
    let spec = spec(o);
    let annotated = o.text(&["metadata", "annotations", ANNOTATION]);
    if !annotated.is_empty() && spec.at(&["ingressClassName"]).is_some() {
        c.at("annotations", |c| {
            c.key(ANNOTATION, |c| {
                c.invalid(annotated, "can not be set when the class field is also set");
            });
        });
    }
    c.at("spec", |c| ingress_spec(c, spec));
}

fn hosts(c: &mut Causes, host: &str) {
    c.invalid_each(
        host,
        names::dns_subdomain(host.strip_prefix("*.").unwrap_or(host)),
    );
}

fn ingress_path(c: &mut Causes, path: &Value) {
    let (kind, text) = (path.text(&["pathType"]), path.text(&["path"]));
    match kind {
        "" => c.at("pathType", |c| c.required("pathType must be specified")),
        "Exact" | "Prefix" => c.at("path", |c| {
            if !text.starts_with('/') {
                c.invalid(text, "must be an absolute path");
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"] {
                if text.contains(part) {
                    c.invalid(text, &format!("must not contain '{part}'"));
                }
            }
            for end in ["/..", "/."] {
                if text.ends_with(end) {
                    c.invalid(text, &format!("cannot end with '{end}'"));
                }
            }
        }),
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.starts_with('/') {
                c.at("path", |c| c.invalid(text, "must be an absolute path"));
            }
        }
        other => c.at("pathType", |c| {
            c.not_supported(other, &["Exact", "ImplementationSpecific", "Prefix"]);
        }),
    }
    match path.at(&["backend"]) {
        None => c.at("backend", |c| {
            c.required("resource or service backend is required")
        }),
        Some(backend) => c.at("backend", |c| ingress_backend(c, backend)),
    }
}

fn ingress_spec(c: &mut Causes, spec: &Value) {
    if spec.items(&["rules"]).is_empty() && spec.at(&["defaultBackend"]).is_none() {
        c.invalid(
            spec.items(&["rules"]).to_vec(),
            "either `defaultBackend` or `rules` must be specified",
        );
    }
    c.field(spec, "defaultBackend", ingress_backend);
    c.name_rule(spec, "ingressClassName", names::dns_subdomain);
    c.each(spec, "rules", |c, _, rule| {
        let host = rule.text(&["host"]);
        if !host.is_empty() {
            c.at("host", |c| {
                if host.parse::<std::net::IpAddr>().is_ok() {
                    c.invalid(host, "must be a DNS name, not an IP address");
                } else {
                    hosts(c, host);
                }
            });
        }
        c.field(rule, "http", |c, http| {
            if http.items(&["paths"]).is_empty() {
                c.at("paths", |c| c.required(""));
            }
            c.each(http, "paths", |c, _, path| ingress_path(c, path));
        });
    });
    c.each(spec, "tls", |c, _, tls| c.texts(tls, "hosts", hosts));
    c.each(spec, "tls", |c, _, tls| {
        c.name_rule(tls, "secretName", names::dns_subdomain)
    });
}

fn ingress_backend(c: &mut Causes, backend: &Value) {
    match (backend.at(&["service"]), backend.at(&["resource"])) {
        (None, None) => c.required("resource or service backend is required"),
        (Some(_), Some(_)) => c.invalid("", "cannot set both resource and service backends"),
        (Some(service), None) => c.at("service", |c| {
            c.text_required(service, "name");
            c.name_rule(service, "name", names::dns1035_label);
            let port = service.at(&["port"]).unwrap_or(&Value::Null);
            match (port.text(&["name"]), port.int(&["number"]).unwrap_or_default()) {
                ("", 0) => c.required("port name or number is required"),
                (name, 0) => c.at("port.name", |c| c.invalid_each(name, names::port_name(name))),
                ("", number) => c.at("port.number", |c| {
                    for problem in names::port_number(number) {
                        c.invalid(number, &problem);
                    }
                }),
                _ => c.invalid("", "cannot set both port name & port number"),
            }
        }),
        (None, Some(resource)) => c.at("resource", |c| {
            c.name_required(resource, "kind", names::path_segment);
            c.name_required(resource, "name", names::path_segment);
            c.name_rule(resource, "apiGroup", names::dns_subdomain);
        }),
    }
}
