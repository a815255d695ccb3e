//! What the cluster's domain answers, after Kubernetes' DNS specification 1.1.0. Read straight from the caches of
//! Services and slices at each query: nothing to keep in step, nothing to keep in memory.

use crate::net::Subnet;
use crate::proxy::model::SERVICE_NAME;
use crate::watches::Watches;
use hickory_proto::rr::rdata::{A, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// How long answers may be kept, in seconds; short, since endpoints move.
const TTL: u32 = 5;
/// Version of the specification that is followed.
const SPECIFICATION: &str = "1.1.0";

/// What is known of a name.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Records, and records that go with them.
    Found(Vec<Record>, Vec<Record>),
    /// Another name stands for it.
    Alias(Box<(Record, Name)>),
    /// It exists, without records of this type.
    Empty,
    /// It does not exist.
    Missing,
    /// It is not the cluster's.
    Elsewhere,
}

/// The cluster's domain and the addresses whose names it knows.
pub(crate) struct Zone {
    name: Name,
    labels: Vec<String>,
    serial: u32,
    subnets: [Subnet; 2],
}

/// A Service and its endpoints.
struct Found {
    service: Arc<Service>,
    slices: Vec<Arc<EndpointSlice>>,
}

impl Zone {
    /// `domain` is the cluster's, for example `cluster.local`; `subnets` those of pods and Services; `serial` grows
    /// from start to start.
    pub(crate) fn new(domain: &str, subnets: [Subnet; 2], serial: u32) -> Result<Self, String> {
        let mut name = Name::from_ascii(domain).map_err(|e| format!("cluster domain {domain}: {e}"))?;
        name.set_fqdn(true);
        Ok(Self {
            labels: labels(&name),
            name,
            serial,
            subnets,
        })
    }

    /// The record that tells for how long a negative answer holds.
    pub(crate) fn authority(&self) -> Record {
        let sub = |labels: &[&str]| {
            labels
                .iter()
                .rev()
                .try_fold(self.name.clone(), |name, label| name.prepend_label(*label))
                .unwrap_or_else(|_| self.name.clone())
        };
        let soa = SOA::new(
            sub(&["ns", "dns"]),
            sub(&["hostmaster"]),
            self.serial,
            7200,
            1800,
            86_400,
            TTL,
        );
        Record::from_rdata(self.name.clone(), TTL, RData::SOA(soa))
    }

    /// Looks a name up.
    pub(crate) fn resolve(&self, watches: &Watches, name: &Name, kind: RecordType) -> Outcome {
        let all = labels(name);
        if let Some(address) = reverse(&all) {
            return self.pointer(watches, name, kind, address);
        }
        let Some(inner) = all.strip_suffix(self.labels.as_slice()) else {
            return Outcome::Elsewhere;
        };
        let inner: Vec<&str> = inner.iter().map(String::as_str).collect();
        match inner.as_slice() {
            [] if kind == RecordType::SOA => Outcome::Found(vec![self.authority()], Vec::new()),
            [] | ["svc" | "pod"] => Outcome::Empty,
            ["dns-version"] => only(kind, RecordType::TXT, || {
                vec![record(name, RData::TXT(TXT::new(vec![SPECIFICATION.into()])))]
            }),
            [namespace, "svc" | "pod"] => match watches.services.list_in(namespace).is_empty() {
                true => Outcome::Missing,
                false => Outcome::Empty,
            },
            [address, _, "pod"] => match undash(address) {
                Some(ip) => only(kind, RecordType::A, || vec![a(name, ip)]),
                None => Outcome::Missing,
            },
            [rest @ .., service, namespace, "svc"] => match find(watches, namespace, service) {
                Some(found) => self.in_service(&found, rest, name, kind),
                None => Outcome::Missing,
            },
            _ => Outcome::Missing,
        }
    }

    fn in_service(&self, found: &Found, rest: &[&str], name: &Name, kind: RecordType) -> Outcome {
        let spec = found.service.spec.as_ref();
        if spec.and_then(|s| s.type_.as_deref()) == Some("ExternalName") {
            let target = spec.and_then(|s| s.external_name.as_deref()).unwrap_or_default();
            return match (rest, Name::from_utf8(target)) {
                ([], Ok(mut target)) => {
                    target.set_fqdn(true);
                    Outcome::Alias(Box::new((
                        record(name, RData::CNAME(CNAME(target.clone()))),
                        target,
                    )))
                }
                _ => Outcome::Missing,
            };
        }
        match rest {
            [] => match found.addresses() {
                addresses if addresses.is_empty() => Outcome::Missing,
                addresses => only(kind, RecordType::A, || {
                    addresses.iter().map(|ip| a(name, *ip)).collect()
                }),
            },
            [host] if host.starts_with('_') => match found.ports("", host.trim_start_matches('_')) {
                ports if ports.is_empty() => Outcome::Missing,
                _ => Outcome::Empty,
            },
            [host] => {
                let addresses: Vec<Ipv4Addr> = found
                    .endpoints()
                    .filter(|(label, _)| label == host)
                    .map(|(_, ip)| ip)
                    .collect();
                if addresses.is_empty() {
                    return Outcome::Missing;
                }
                only(kind, RecordType::A, || {
                    addresses.iter().map(|ip| a(name, *ip)).collect()
                })
            }
            [port, protocol] => match (port.strip_prefix('_'), protocol.strip_prefix('_')) {
                (Some(port), Some(protocol)) => self.service_records(found, (port, protocol), name, kind),
                _ => Outcome::Missing,
            },
            _ => Outcome::Missing,
        }
    }

    /// `_port._protocol.service…`
    fn service_records(
        &self,
        found: &Found,
        (port, protocol): (&str, &str),
        name: &Name,
        kind: RecordType,
    ) -> Outcome {
        let numbers = found.ports(port, protocol);
        // Two labels in front of the Service's own name.
        let own = name.base_name().base_name();
        let mut answers = Vec::new();
        let mut more = Vec::new();
        if found.is_headless() {
            for (number, label, ip) in found.ports_of_endpoints(port, protocol) {
                let Ok(target) = own.prepend_label(label.as_str()) else {
                    continue;
                };
                answers.push(record(name, RData::SRV(SRV::new(0, 100, number, target.clone()))));
                more.push(a(&target, ip));
            }
        } else {
            for number in numbers {
                answers.push(record(name, RData::SRV(SRV::new(0, 100, number, own.clone()))));
            }
            more = found.addresses().iter().map(|ip| a(&own, *ip)).collect();
        }
        match (answers.is_empty(), kind) {
            (true, _) => Outcome::Missing,
            (false, RecordType::SRV | RecordType::ANY) => Outcome::Found(answers, more),
            (false, _) => Outcome::Empty,
        }
    }

    /// The name of an address.
    fn pointer(&self, watches: &Watches, name: &Name, kind: RecordType, ip: Ipv4Addr) -> Outcome {
        if !self.subnets.iter().any(|s| s.contains(ip)) {
            return Outcome::Elsewhere;
        }
        let text = ip.to_string();
        let holds = |s: &Service| s.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some(&text);
        let mut names: Vec<Name> = watches
            .services
            .select(holds)
            .iter()
            .filter_map(|s| {
                self.name_of(
                    s.metadata.namespace.as_deref()?,
                    s.metadata.name.as_deref()?,
                    None,
                )
            })
            .collect();
        let headless = |slice: &EndpointSlice| {
            slice
                .endpoints
                .iter()
                .flatten()
                .any(|e| e.addresses.contains(&text))
        };
        for slice in watches.slices.select(headless) {
            names.extend(self.names_in(watches, &slice, &text));
        }
        names.sort();
        names.dedup();
        if names.is_empty() {
            return Outcome::Missing;
        }
        only(kind, RecordType::PTR, || {
            names
                .into_iter()
                .map(|n| record(name, RData::PTR(PTR(n))))
                .collect()
        })
    }

    /// Names of the endpoints of one slice that have this address; only those of headless Services have names.
    fn names_in(&self, watches: &Watches, slice: &EndpointSlice, address: &str) -> Vec<Name> {
        let labels = slice.metadata.labels.as_ref();
        let service = labels
            .and_then(|l| l.get(SERVICE_NAME))
            .map(String::as_str)
            .unwrap_or_default();
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        let found = Found {
            service: match watches.services.get(namespace, service) {
                Some(service) => service,
                None => return Vec::new(),
            },
            slices: Vec::new(),
        };
        let here = slice
            .endpoints
            .iter()
            .flatten()
            .filter(|e| e.addresses.iter().any(|a| a == address));
        here.filter(|e| e.hostname.is_some() && found.is_headless())
            .filter_map(|e| self.name_of(namespace, service, e.hostname.as_deref()))
            .collect()
    }

    fn name_of(&self, namespace: &str, service: &str, host: Option<&str>) -> Option<Name> {
        let name = self.name.prepend_label("svc").ok()?;
        let name = name.prepend_label(namespace).ok()?.prepend_label(service).ok()?;
        match host {
            Some(host) => name.prepend_label(host).ok(),
            None => Some(name),
        }
    }
}

impl Found {
    fn is_headless(&self) -> bool {
        self.service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
    }

    /// Addresses of the Service's own name.
    fn addresses(&self) -> Vec<Ipv4Addr> {
        if !self.is_headless() {
            let ip = self.service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref());
            return ip.and_then(|ip| ip.parse().ok()).into_iter().collect();
        }
        let mut addresses: Vec<Ipv4Addr> = self.endpoints().map(|(_, ip)| ip).collect();
        addresses.sort();
        addresses.dedup();
        addresses
    }

    /// Labels and addresses of the endpoints to show.
    fn endpoints(&self) -> impl Iterator<Item = (String, Ipv4Addr)> {
        self.slices.iter().flat_map(|slice| self.shown(slice))
    }

    fn shown<'a>(&'a self, slice: &'a EndpointSlice) -> impl Iterator<Item = (String, Ipv4Addr)> + 'a {
        let spec = self.service.spec.as_ref();
        let unready_too = spec.and_then(|s| s.publish_not_ready_addresses).unwrap_or(false);
        let ready = |e: &Endpoint| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
        let endpoints = slice
            .endpoints
            .iter()
            .flatten()
            .filter(move |e| unready_too || ready(e));
        endpoints.flat_map(|e| {
            let addresses = e.addresses.iter().filter_map(|a| a.parse::<Ipv4Addr>().ok());
            addresses.map(|ip| (e.hostname.clone().unwrap_or_else(|| dash(ip)), ip))
        })
    }

    /// Numbers of the Service's ports of this name (empty: any) and protocol.
    fn ports(&self, port: &str, protocol: &str) -> Vec<u16> {
        let ports = self
            .service
            .spec
            .as_ref()
            .and_then(|s| s.ports.as_deref())
            .unwrap_or_default();
        let matches = ports.iter().filter(|p| {
            p.protocol
                .as_deref()
                .unwrap_or("TCP")
                .eq_ignore_ascii_case(protocol)
                && p.name
                    .as_deref()
                    .is_some_and(|n| port.is_empty() || n.eq_ignore_ascii_case(port))
        });
        matches.filter_map(|p| u16::try_from(p.port).ok()).collect()
    }

    /// For headless Services: port number, label and address of each endpoint.
    fn ports_of_endpoints(&self, port: &str, protocol: &str) -> Vec<(u16, String, Ipv4Addr)> {
        let mut found = Vec::new();
        for slice in &self.slices {
            let matching = slice.ports.iter().flatten().find(|p| {
                p.name.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(port))
                    && p.protocol
                        .as_deref()
                        .unwrap_or("TCP")
                        .eq_ignore_ascii_case(protocol)
            });
            let number = matching.and_then(|p| p.port).and_then(|p| u16::try_from(p).ok());
            if let Some(number) = number {
                found.extend(self.shown(slice).map(|(label, ip)| (number, label, ip)));
            }
        }
        found
    }
}

fn find(watches: &Watches, namespace: &str, service: &str) -> Option<Found> {
    let of_service = |slice: &EndpointSlice| {
        let labels = slice.metadata.labels.as_ref();
        slice.address_type == "IPv4"
            && labels
                .and_then(|l| l.get(SERVICE_NAME))
                .is_some_and(|s| s == service)
    };
    Some(Found {
        service: watches.services.get(namespace, service)?,
        slices: watches.slices.select_in(namespace, of_service),
    })
}

/// The labels of a name in lower case; names are compared without regard to case.
fn labels(name: &Name) -> Vec<String> {
    let lower = |label: &[u8]| String::from_utf8_lossy(label).to_ascii_lowercase();
    name.iter().map(lower).collect()
}

/// The address that a name under `in-addr.arpa` stands for.
fn reverse(labels: &[String]) -> Option<Ipv4Addr> {
    let [d, c, b, a, zone, top] = labels else {
        return None;
    };
    if zone != "in-addr" || top != "arpa" {
        return None;
    }
    format!("{a}.{b}.{c}.{d}").parse().ok()
}

fn dash(ip: Ipv4Addr) -> String {
    ip.to_string().replace('.', "-")
}

fn undash(label: &str) -> Option<Ipv4Addr> {
    label.replace('-', ".").parse().ok()
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn a(name: &Name, ip: Ipv4Addr) -> Record {
    record(name, RData::A(A(ip)))
}

/// Records of one type, for who asks for it.
fn only(asked: RecordType, kind: RecordType, records: impl FnOnce() -> Vec<Record>) -> Outcome {
    if asked == kind || asked == RecordType::ANY {
        Outcome::Found(records(), Vec::new())
    } else {
        Outcome::Empty
    }
}
