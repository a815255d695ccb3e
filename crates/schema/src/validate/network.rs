//! Endpoints, ingresses and policies.

use serde_json::Value;

use super::cause::Causes;
use super::{meta, spec};
use crate::names;
use crate::value::ValueExt as _;

/// Most endpoints of a slice.
const ENDPOINTS_MAX: usize = 1000;
/// Most addresses of an endpoint.
const ADDRESSES_MAX: usize = 100;

/// Rules of these groups.
pub(super) fn rules(c: &mut Causes, plural: &str, o: &Value) {
    match plural {
        "endpointslices" => endpoint_slice(c, o),
        "networkpolicies" => c.at("spec", |c| network_policy(c, spec(o))),
        "ingresses" => c.at("spec", |c| ingress(c, spec(o))),
        "ingressclasses" => c.at("spec", |c| {
            c.text_required(spec(o), "controller");
            c.field(spec(o), "parameters", |c, parameters| {
                c.text_required(parameters, "kind");
                c.text_required(parameters, "name");
                c.one_of(parameters, "scope", &["Cluster", "Namespace"], true);
            });
        }),
        "servicecidrs" => c.at("spec", |c| {
            let ranges = spec(o).items(&["cidrs"]);
            c.at("cidrs", |c| {
                if ranges.is_empty() {
                    c.required("at least one CIDR required");
                }
                for (index, range) in ranges.iter().filter_map(Value::as_str).enumerate() {
                    c.index(index, |c| c.invalid_each(range, names::cidr(range)));
                }
            });
        }),
        "ipaddresses" => {
            let name = o.text(&["metadata", "name"]);
            c.at("metadata.name", |c| c.invalid_each(name, names::ip(name)));
            if spec(o).at(&["parentRef"]).is_none() {
                c.at("spec.parentRef", |c| c.required(""));
            }
        }
        _ => {}
    }
}

/// An address that something outside the node can be reached at.
fn reachable_ip(c: &mut Causes, address: &str) {
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

fn endpoint_slice(c: &mut Causes, o: &Value) {
    let kind = o.text(&["addressType"]);
    let kinds = ["FQDN", "IPv4", "IPv6"];
    c.one_of(o, "addressType", &kinds, true);
    let count = o.items(&["endpoints"]).len();
    if count > ENDPOINTS_MAX {
        c.at("endpoints", |c| c.too_many(count, ENDPOINTS_MAX));
    }
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
    });
}

fn network_policy(c: &mut Causes, spec: &Value) {
    c.field(spec, "podSelector", meta::label_selector);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        c.each(spec, direction, |c, _, rule| {
            c.each(rule, "ports", |c, _, port| {
                c.one_of(port, "protocol", &["SCTP", "TCP", "UDP"], false);
                if port.at(&["port"]).is_some() {
                    super::probe::port(c, port);
                }
                if let (Some(end), Some(start)) = (port.int(&["endPort"]), port.int(&["port"]))
                    && end < start
                {
                    c.at("endPort", |c| {
                        c.invalid(end, "must be greater than or equal to `port`")
                    });
                }
            });
            c.each(rule, peers, |c, _, peer| policy_peer(c, peer));
        });
    }
    let types = spec.items(&["policyTypes"]);
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
            c.at("except", |c| {
                for (index, range) in block
                    .items(&["except"])
                    .iter()
                    .filter_map(Value::as_str)
                    .enumerate()
                {
                    c.index(index, |c| c.invalid_each(range, names::cidr(range)));
                }
            });
        }),
        None => {}
    }
}

fn ingress(c: &mut Causes, spec: &Value) {
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
                    c.invalid_each(
                        host,
                        names::dns_subdomain(host.strip_prefix("*.").unwrap_or(host)),
                    );
                }
            });
        }
        c.field(rule, "http", |c, http| {
            if http.items(&["paths"]).is_empty() {
                c.at("paths", |c| c.required(""));
            }
            c.each(http, "paths", |c, _, path| {
                let kinds = ["Exact", "ImplementationSpecific", "Prefix"];
                if path.text(&["pathType"]).is_empty() {
                    c.at("pathType", |c| c.required("pathType must be specified"));
                } else {
                    c.one_of(path, "pathType", &kinds, true);
                }
                let text = path.text(&["path"]);
                if !text.starts_with('/')
                    && (!text.is_empty() || path.text(&["pathType"]) != "ImplementationSpecific")
                {
                    c.at("path", |c| c.invalid(text, "must be an absolute path"));
                }
                c.field(path, "backend", ingress_backend);
            });
        });
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
        _ => {}
    }
}
