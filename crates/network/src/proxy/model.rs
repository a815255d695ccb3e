//! What Services ask for, without the API's generality: one entry per Service and port, with the endpoints that are
//! to receive its traffic on this node. Follows upstream's rules for readiness (KEP-1672: while an endpoint is
//! ready only ready ones are used; otherwise those that still serve while they terminate).

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

/// Label of a slice: name of its Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of a Service that another proxy serves.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// Stickiness that is not stated: upstream's three hours, in seconds.
const DEFAULT_AFFINITY: u32 = 10_800;

/// A transport protocol, named as nftables does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// From the API's name; absent means TCP.
    fn parse(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// One port of one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePort {
    /// `namespace/name/protocol/port name`: unique.
    pub(crate) id: String,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) cluster_ip: Ipv4Addr,
    pub(crate) node_port: Option<u16>,
    pub(crate) external_ips: BTreeSet<Ipv4Addr>,
    pub(crate) balancer_ips: BTreeSet<Ipv4Addr>,
    /// Who may use `balancer_ips`; empty: everybody.
    pub(crate) source_ranges: BTreeSet<String>,
    /// Seconds for which a client stays with its endpoint.
    pub(crate) affinity: Option<u32>,
    /// Traffic from within stays on the node.
    pub(crate) internal_local: bool,
    /// Traffic from outside stays on the node and keeps its source address.
    pub(crate) external_local: bool,
    /// Endpoints anywhere.
    pub(crate) endpoints: BTreeSet<SocketAddrV4>,
    /// Endpoints on this node.
    pub(crate) local: BTreeSet<SocketAddrV4>,
}

/// Slices by the Service they belong to: (namespace, name).
pub(crate) type SlicesByService<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>;

/// Sorts slices by Service.
pub(crate) fn group(slices: &[Arc<EndpointSlice>]) -> SlicesByService<'_> {
    let mut groups = SlicesByService::new();
    for slice in slices {
        let service = slice.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_NAME));
        if let (Some(service), Some(namespace)) = (service, &slice.metadata.namespace) {
            groups.entry((namespace, service)).or_default().push(slice);
        }
    }
    groups
}

/// All ports that this node has to serve.
pub(crate) fn build(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    node: &str,
) -> Vec<ServicePort> {
    let groups = group(slices);
    let mut ports = Vec::new();
    for service in services {
        let meta = &service.metadata;
        let key = (
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        );
        let slices = groups.get(&key).map_or(&[][..], Vec::as_slice);
        ports.extend(ports_of(service, key, slices, node));
    }
    ports.sort_by(|a, b| a.id.cmp(&b.id));
    ports
}

fn ports_of(
    service: &Service,
    (namespace, name): (&str, &str),
    slices: &[&EndpointSlice],
    node: &str,
) -> Vec<ServicePort> {
    let labels = service.metadata.labels.as_ref();
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let cluster_ip = spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok());
    // Headless and external Services have no address; theirs is the business of DNS.
    let Some(cluster_ip) = cluster_ip else {
        return Vec::new();
    };
    if spec.type_.as_deref() == Some("ExternalName") || labels.is_some_and(|l| l.contains_key(OTHER_PROXY)) {
        return Vec::new();
    }
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec
            .session_affinity_config
            .as_ref()
            .and_then(|c| c.client_ip.as_ref());
        let seconds = config.and_then(|c| c.timeout_seconds);
        seconds
            .and_then(|s| u32::try_from(s).ok())
            .unwrap_or(DEFAULT_AFFINITY)
    });
    let ingress = service
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref())
        .and_then(|b| b.ingress.as_deref())
        .unwrap_or_default();
    let balancer_ips: BTreeSet<Ipv4Addr> = ingress
        .iter()
        // An address in mode "Proxy" is a balancer's that sends to the NodePort itself.
        .filter(|i| i.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|i| i.ip.as_deref()?.parse().ok())
        .collect();
    let port_of = |port: &k8s_openapi::api::core::v1::ServicePort| {
        let protocol = Protocol::parse(port.protocol.as_deref())?;
        let port_name = port.name.as_deref().unwrap_or_default();
        let (endpoints, local) = endpoints_of(slices, port_name, protocol, node);
        Some(ServicePort {
            id: format!("{namespace}/{name}/{}/{port_name}", protocol.name()),
            protocol,
            port: u16::try_from(port.port).ok()?,
            cluster_ip,
            node_port: port
                .node_port
                .and_then(|p| u16::try_from(p).ok())
                .filter(|p| *p != 0),
            external_ips: addresses(spec.external_ips.as_deref()),
            balancer_ips: balancer_ips.clone(),
            source_ranges: ranges(spec.load_balancer_source_ranges.as_deref()),
            affinity,
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
            endpoints,
            local,
        })
    };
    spec.ports.iter().flatten().filter_map(port_of).collect()
}

fn addresses(texts: Option<&[String]>) -> BTreeSet<Ipv4Addr> {
    texts
        .unwrap_or_default()
        .iter()
        .filter_map(|a| a.parse().ok())
        .collect()
}

/// IPv4 ranges, checked, since they become text in a rule.
fn ranges(texts: Option<&[String]>) -> BTreeSet<String> {
    let parse = |text: &String| {
        let (address, length) = text.trim().split_once('/')?;
        let (address, length): (Ipv4Addr, u8) = (address.parse().ok()?, length.parse().ok()?);
        let mask = u32::MAX
            .checked_shl(32_u32.checked_sub(length.into())?)
            .unwrap_or(0);
        Some(format!("{}/{length}", Ipv4Addr::from(u32::from(address) & mask)))
    };
    texts.unwrap_or_default().iter().filter_map(parse).collect()
}

type Addresses = BTreeSet<SocketAddrV4>;

/// The endpoints to use for a port, and those of them that are on `node`.
fn endpoints_of(
    slices: &[&EndpointSlice],
    port: &str,
    protocol: Protocol,
    node: &str,
) -> (Addresses, Addresses) {
    let mut all = Chosen::default();
    let mut local = Chosen::default();
    for slice in slices.iter().filter(|s| s.address_type == "IPv4") {
        let matching = slice.ports.iter().flatten().find(|p| {
            p.name.as_deref().unwrap_or_default() == port
                && Protocol::parse(p.protocol.as_deref()) == Some(protocol)
        });
        let Some(number) = matching.and_then(|p| p.port).and_then(|p| u16::try_from(p).ok()) else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            let addresses = endpoint.addresses.iter().filter_map(|a| a.parse().ok());
            for address in addresses.map(|ip| SocketAddrV4::new(ip, number)) {
                all.add(endpoint, address);
                if endpoint.node_name.as_deref() == Some(node) {
                    local.add(endpoint, address);
                }
            }
        }
    }
    (all.take(), local.take())
}

/// Endpoints by their state.
#[derive(Default)]
struct Chosen {
    ready: Addresses,
    ending: Addresses,
}

impl Chosen {
    fn add(&mut self, endpoint: &Endpoint, address: SocketAddrV4) {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        // Unknown means ready, and what is ready serves.
        if conditions.ready.unwrap_or(true) {
            self.ready.insert(address);
        } else if conditions.serving.unwrap_or(false) && conditions.terminating.unwrap_or(false) {
            self.ending.insert(address);
        }
    }

    fn take(self) -> Addresses {
        if self.ready.is_empty() {
            self.ending
        } else {
            self.ready
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn slices(endpoints: serde_json::Value) -> Vec<Arc<EndpointSlice>> {
        let slice = json!({
            "metadata": {"name": "web-1", "namespace": "a", "labels": {SERVICE_NAME: "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": endpoints,
        });
        vec![Arc::new(serde_json::from_value(slice).unwrap())]
    }

    fn service(spec: serde_json::Value) -> Vec<Arc<Service>> {
        let service = json!({"metadata": {"name": "web", "namespace": "a"}, "spec": spec});
        vec![Arc::new(serde_json::from_value(service).unwrap())]
    }

    fn web() -> Vec<Arc<Service>> {
        service(json!({"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80}]}))
    }

    #[test]
    fn ready_endpoints_come_before_terminating_ones_and_each_side_decides_for_itself() {
        let two = json!([
            {"addresses": ["10.128.1.2"], "nodeName": "n1", "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.128.2.2"], "nodeName": "n2", "conditions": {"ready": true}},
            {"addresses": ["10.128.2.3"], "nodeName": "n2", "conditions": {"ready": false, "serving": false}},
        ]);
        let ports = build(&web(), &slices(two), "n1");
        assert_eq!(ports.len(), 1);
        assert_eq!(ports[0].id, "a/web/tcp/http");
        assert_eq!(
            ports[0].endpoints,
            BTreeSet::from(["10.128.2.2:8080".parse().unwrap()])
        );
        assert_eq!(
            ports[0].local,
            BTreeSet::from(["10.128.1.2:8080".parse().unwrap()])
        );
    }

    #[test]
    fn unknown_readiness_is_ready() {
        let ports = build(&web(), &slices(json!([{"addresses": ["10.128.1.2"]}])), "n1");
        assert_eq!(ports[0].endpoints.len(), 1);
        assert!(ports[0].local.is_empty());
    }

    #[test]
    fn services_without_an_address_are_not_proxied() {
        for spec in [
            json!({"clusterIP": "None", "ports": [{"port": 80}]}),
            json!({"type": "ExternalName", "externalName": "x.example"}),
            json!({"clusterIP": "fd00::1", "ports": [{"port": 80}]}),
        ] {
            assert!(build(&service(spec), &[], "n1").is_empty());
        }
    }

    #[test]
    fn odd_source_ranges_never_reach_a_rule() {
        let given = ["10.1.2.3/8", "0.0.0.0/0", "x; drop", "1.2.3.4/33", "fd00::/8"].map(String::from);
        assert_eq!(
            ranges(Some(&given)),
            BTreeSet::from(["10.0.0.0/8".to_owned(), "0.0.0.0/0".to_owned()])
        );
    }
}
