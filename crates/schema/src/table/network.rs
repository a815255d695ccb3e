//! Services, endpoints, ingresses and policies.

use serde_json::Value;

use super::{
    AGE, BY_AGE, Column, NAME, Printer, SELECTOR, age, at_most, labels, name, or, scalar, selector, text,
};
use crate::value::ValueExt as _;

/// How many endpoints, hosts or ports are shown.
const SHOWN: usize = 3;

/// The printer of a resource of these groups.
pub(super) fn printer(plural: &str) -> Printer {
    match plural {
        "endpointslices" => Printer {
            columns: SLICE,
            row: slice,
        },
        "ingresses" => Printer {
            columns: INGRESS,
            row: ingress,
        },
        "ingressclasses" => Printer {
            columns: CLASS,
            row: class,
        },
        "networkpolicies" => Printer {
            columns: POLICY,
            row: |o, now| {
                vec![
                    name(o),
                    selector(o.at(&["spec", "podSelector"])).into(),
                    age(o, now),
                ]
            },
        },
        "ipaddresses" => Printer {
            columns: ADDRESS,
            row: address,
        },
        "servicecidrs" => Printer {
            columns: CIDR,
            row: |o, now| vec![name(o), joined(o.items(&["spec", "cidrs"])).into(), age(o, now)],
        },
        _ => BY_AGE,
    }
}

fn joined(list: &[Value]) -> String {
    list.iter()
        .filter_map(Value::as_str)
        .collect::<Vec<_>>()
        .join(",")
}

pub(super) const SERVICE: &[Column] = &[
    NAME,
    text("Type", "How the Service is exposed"),
    text("Cluster-IP", "Address inside the cluster"),
    text("External-IP", "Addresses outside the cluster"),
    text("Port(s)", "Ports, with their node ports"),
    AGE,
    SELECTOR,
];

pub(super) fn service(o: &Value, now: i64) -> Vec<Value> {
    let address = match o.items(&["spec", "clusterIPs"]).first().and_then(Value::as_str) {
        Some(address) => address,
        None => o.text(&["spec", "clusterIP"]),
    };
    let ports: Vec<String> = o
        .items(&["spec", "ports"])
        .iter()
        .map(|port| {
            let (number, protocol) = (port.int(&["port"]).unwrap_or_default(), port.text(&["protocol"]));
            match port.int(&["nodePort"]).unwrap_or_default() {
                0 => format!("{number}/{protocol}"),
                node => format!("{number}:{node}/{protocol}"),
            }
        })
        .collect();
    vec![
        name(o),
        o.text(&["spec", "type"]).into(),
        or(address, "<none>"),
        external_address(o).into(),
        or(&ports.join(","), "<none>"),
        age(o, now),
        labels(o.at(&["spec", "selector"])).into(),
    ]
}

fn external_address(o: &Value) -> String {
    let external = joined(o.items(&["spec", "externalIPs"]));
    match o.text(&["spec", "type"]) {
        "ExternalName" => o.text(&["spec", "externalName"]).to_owned(),
        "LoadBalancer" => {
            let balancer = balancer_addresses(o);
            match (balancer.is_empty(), external.is_empty()) {
                (true, true) => "<pending>".to_owned(),
                (false, true) => balancer,
                (true, false) => external,
                (false, false) => format!("{balancer},{external}"),
            }
        }
        _ if external.is_empty() => "<none>".to_owned(),
        _ => external,
    }
}

fn balancer_addresses(o: &Value) -> String {
    let mut list: Vec<&str> = Vec::new();
    for ingress in o.items(&["status", "loadBalancer", "ingress"]) {
        let address = match ingress.text(&["ip"]) {
            "" => ingress.text(&["hostname"]),
            address => address,
        };
        if !address.is_empty() && !list.contains(&address) {
            list.push(address);
        }
    }
    list.join(",")
}

pub(super) const ENDPOINTS: &[Column] = &[NAME, text("Endpoints", "Addresses with ports"), AGE];

pub(super) fn endpoints(o: &Value, now: i64) -> Vec<Value> {
    let mut list = Vec::new();
    for subset in o.items(&["subsets"]) {
        let ports = subset.items(&["ports"]);
        for address in subset.items(&["addresses"]) {
            let ip = address.text(&["ip"]);
            if ports.is_empty() {
                list.push(ip.to_owned());
            }
            for port in ports {
                let number = port.int(&["port"]).unwrap_or_default();
                list.push(if ip.contains(':') {
                    format!("[{ip}]:{number}")
                } else {
                    format!("{ip}:{number}")
                });
            }
        }
    }
    vec![name(o), at_most(&list, SHOWN, "<none>").into(), age(o, now)]
}

const SLICE: &[Column] = &[
    NAME,
    text("AddressType", "IPv4, IPv6 or FQDN"),
    text("Ports", "Ports of every endpoint"),
    text("Endpoints", "Addresses"),
    AGE,
];

fn slice(o: &Value, now: i64) -> Vec<Value> {
    let ports: Vec<String> = o
        .items(&["ports"])
        .iter()
        .map(|p| scalar(p.at(&["port"]), "*"))
        .collect();
    let addresses: Vec<String> = o
        .items(&["endpoints"])
        .iter()
        .flat_map(|endpoint| endpoint.items(&["addresses"]))
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    vec![
        name(o),
        o.text(&["addressType"]).into(),
        at_most(&ports, SHOWN, "<unset>").into(),
        at_most(&addresses, SHOWN, "<unset>").into(),
        age(o, now),
    ]
}

const INGRESS: &[Column] = &[
    NAME,
    text("Class", "Class that serves it"),
    text("Hosts", "Hosts that its rules match"),
    text("Address", "Addresses that it is reached at"),
    text("Ports", "Ports that it listens on"),
    AGE,
];

fn ingress(o: &Value, now: i64) -> Vec<Value> {
    let hosts: Vec<String> = o
        .items(&["spec", "rules"])
        .iter()
        .map(|rule| rule.text(&["host"]).to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    let ports = if o.items(&["spec", "tls"]).is_empty() {
        "80"
    } else {
        "80, 443"
    };
    vec![
        name(o),
        or(o.text(&["spec", "ingressClassName"]), "<none>"),
        at_most(&hosts, SHOWN, "*").into(),
        balancer_addresses(o).into(),
        ports.into(),
        age(o, now),
    ]
}

const CLASS: &[Column] = &[
    NAME,
    text("Controller", "Controller that serves the class"),
    text("Parameters", "Object with more configuration"),
    AGE,
];

fn class(o: &Value, now: i64) -> Vec<Value> {
    let parameters = o.at(&["spec", "parameters"]).map_or_else(String::new, |p| {
        let group = match p.text(&["apiGroup"]) {
            "" => String::new(),
            group => format!(".{group}"),
        };
        format!("{}{group}/{}", p.text(&["kind"]), p.text(&["name"]))
    });
    vec![
        name(o),
        o.text(&["spec", "controller"]).into(),
        or(&parameters, "<none>"),
        age(o, now),
    ]
}

const POLICY: &[Column] = &[NAME, text("Pod-Selector", "Pods that it applies to"), AGE];

const ADDRESS: &[Column] = &[NAME, text("ParentRef", "Object that holds the address"), AGE];

fn address(o: &Value, now: i64) -> Vec<Value> {
    let parent = |field| o.text(&["spec", "parentRef", field]);
    let mut holder = parent("resource").to_owned();
    for part in [parent("group"), parent("namespace"), parent("name")] {
        if !part.is_empty() {
            holder.push(if part == parent("group") { '.' } else { '/' });
            holder.push_str(part);
        }
    }
    vec![name(o), holder.into(), age(o, now)]
}

const CIDR: &[Column] = &[NAME, text("CIDRs", "Ranges of Service addresses"), AGE];
