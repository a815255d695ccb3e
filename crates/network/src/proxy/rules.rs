//! The rules for a list of Service ports: a pure function, tested by golden files and in real namespaces.
//!
//! A packet to a Service is found by one lookup of (address, protocol, port) in a map of verdicts, however many
//! Services there are. It goes to chains named by what they do for one Service port:
//!
//! | chain | does |
//! |---|---|
//! | `i-…` | entry from within, by cluster address |
//! | `x-…` | entry from outside, by NodePort and external address |
//! | `w-…` | checks a load balancer's source ranges, then `x-…` |
//! | `c-…` | picks one of all endpoints |
//! | `l-…` | picks one of the endpoints on this node |
//! | `e-…` | one endpoint, where it has to be remembered for a client |
//!
//! A masquerade is asked for by a mark, as upstream does, and done after routing.

use super::model::{Protocol, ServicePort};
use super::ruleset::{Chain, Ruleset, Set};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

/// Bit of the packet mark that asks for a masquerade; the one that upstream uses.
const MARK: &str = "0x4000";
/// Longest name of a chain that is built here; the kernel takes 127 bytes.
const NAME_LIMIT: usize = 100;
/// Clients remembered per endpoint of a sticky Service; the kernel's memory bounds it.
const AFFINITY_CLIENTS: u32 = 65_536;
/// The address family and port of DNS, which is served on this node.
const DNS_PORT: u16 = 53;

/// What the rules need to know of the node.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) node_ip: Ipv4Addr,
    /// Subnet of all pods, checked to be one.
    pub(crate) cluster_cidr: String,
    pub(crate) service_cidr: String,
    pub(crate) cluster_dns: Ipv4Addr,
}

/// The whole table for these ports.
pub(crate) fn ruleset(ports: &[ServicePort], place: &Place) -> Ruleset {
    let mut table = base(place);
    for port in ports {
        // This node answers DNS itself, on that very address.
        if port.cluster_ip == place.cluster_dns && port.port == DNS_PORT {
            continue;
        }
        Builder {
            table: &mut table,
            place,
            port,
        }
        .add();
    }
    table
}

fn chain(hook: &str, rules: &[String]) -> Chain {
    Chain {
        hook: hook.into(),
        rules: rules.to_vec(),
    }
}

fn set(kind: &'static str, declaration: &str) -> Set {
    Set {
        kind,
        declaration: declaration.into(),
        ..Set::default()
    }
}

/// Everything that does not depend on Services.
fn base(place: &Place) -> Ruleset {
    let Place {
        node_ip,
        cluster_cidr,
        service_cidr,
        cluster_dns,
    } = place;
    let address = "type ipv4_addr . inet_proto . inet_service : verdict ;";
    let port = "type inet_proto . inet_service : verdict ;";
    let sets = [
        ("services", set("map", address)),
        ("nodeports", set("map", port)),
        ("refused", set("map", address)),
        ("refused-nodeports", set("map", port)),
        ("hairpins", set("set", "type ipv4_addr . ipv4_addr ;")),
    ];
    let nat = |hook: &str, priority: &str| format!("type nat hook {hook} priority {priority} ;");
    let filter = |hook: &str| format!("type filter hook {hook} priority filter ;");
    let services = [
        "ip daddr . meta l4proto . th dport vmap @services".to_owned(),
        format!("ip daddr {node_ip} meta l4proto . th dport vmap @nodeports"),
    ];
    // Evaluated after translation: what still bears a Service's address has nowhere to go.
    let refuse = [
        "ip daddr . meta l4proto . th dport vmap @refused".to_owned(),
        format!("ip daddr {node_ip} meta l4proto . th dport vmap @refused-nodeports"),
        format!("ip daddr {service_cidr} ip daddr != {cluster_dns} goto reject-it"),
    ];
    let guard_dns = format!("ip daddr {cluster_dns} iifname != \"lo\" ip saddr != {cluster_cidr} drop");
    // What belongs to no connection that is known is not translated: an answer out of its window would reach a
    // client from an address that it never asked, and its reset would end the connection for both sides.
    let unknown = "ct state invalid drop".to_owned();
    let jump = |to: &str| format!("jump {to}");
    let new = |to: &str| format!("ct state new jump {to}");
    let chains = [
        (
            "prerouting",
            chain(&nat("prerouting", "dstnat"), &[jump("dispatch")]),
        ),
        ("nat-output", chain(&nat("output", "-100"), &[jump("dispatch")])),
        (
            "postrouting",
            chain(
                &nat("postrouting", "srcnat"),
                &[
                    format!("meta mark & {MARK} == {MARK} meta mark set meta mark ^ {MARK} masquerade"),
                    "ct status dnat ip saddr . ip daddr @hairpins masquerade".into(),
                    format!("ip saddr {cluster_cidr} ip daddr != {cluster_cidr} masquerade"),
                ],
            ),
        ),
        ("input", chain(&filter("input"), &[guard_dns, new("refuse")])),
        ("forward", chain(&filter("forward"), &[unknown, new("refuse")])),
        ("output", chain(&filter("output"), &[new("refuse")])),
        ("dispatch", chain("", &services)),
        ("refuse", chain("", &refuse)),
        // A reset is not rate-limited, as ICMP is.
        (
            "reject-it",
            chain(
                "",
                &["meta l4proto tcp reject with tcp reset".into(), "reject".into()],
            ),
        ),
        (
            "mark-it",
            chain("", &[format!("meta mark set meta mark | {MARK}")]),
        ),
    ];
    Ruleset {
        chains: chains.into_iter().map(|(name, c)| (name.to_owned(), c)).collect(),
        sets: sets.into_iter().map(|(name, s)| (name.to_owned(), s)).collect(),
    }
}

/// Adds one Service port.
struct Builder<'a> {
    table: &'a mut Ruleset,
    place: &'a Place,
    port: &'a ServicePort,
}

/// What happens to traffic of one kind.
enum Fate {
    /// Goes to this chain.
    Chain(String),
    /// Nobody serves it: the client is told.
    Reject,
    /// Served, but not on this node, and it must not leave: upstream drops it, so that a balancer's check times out.
    Drop,
}

impl Builder<'_> {
    fn add(&mut self) {
        let port = self.port;
        for endpoint in &port.local {
            let ip = endpoint.ip();
            self.insert("hairpins", format!("{ip} . {ip}"), String::new());
        }
        let inside = self.inside();
        self.entry(port.cluster_ip, inside);
        if port.node_port.is_none() && port.external_ips.is_empty() && port.balancer_ips.is_empty() {
            return;
        }
        let (outside, guarded) = match self.outside() {
            Fate::Chain(chain) => {
                let guarded = self.guard(&chain);
                (Fate::Chain(chain), Fate::Chain(guarded))
            }
            Fate::Reject => (Fate::Reject, Fate::Reject),
            Fate::Drop => (Fate::Drop, Fate::Drop),
        };
        let protocol = port.protocol.name();
        if let Some(number) = port.node_port {
            let (map, verdict) = verdict("nodeports", "refused-nodeports", &outside);
            self.insert(map, format!("{protocol} . {number}"), verdict);
        }
        for ip in &port.external_ips {
            self.entry(*ip, &outside);
        }
        for ip in &port.balancer_ips {
            self.entry(*ip, &guarded);
        }
    }

    fn entry(&mut self, ip: Ipv4Addr, fate: impl std::borrow::Borrow<Fate>) {
        let (map, verdict) = verdict("services", "refused", fate.borrow());
        let key = format!("{ip} . {} . {}", self.port.protocol.name(), self.port.port);
        self.insert(map, key, verdict);
    }

    /// Traffic to the cluster address.
    fn inside(&mut self) -> Fate {
        let port = self.port;
        let target = match (
            port.endpoints.is_empty(),
            port.internal_local,
            port.local.is_empty(),
        ) {
            (true, _, _) => return Fate::Reject,
            (false, true, true) => return Fate::Drop,
            (false, true, false) => self.pick('l', &port.local),
            (false, false, _) => self.pick('c', &port.endpoints),
        };
        let mut rules = Vec::new();
        if !port.internal_local {
            // The answer of an endpoint elsewhere must come back through this node.
            rules.push(format!("ip saddr != {} jump mark-it", self.place.cluster_cidr));
        }
        rules.push(format!("goto {target}"));
        Fate::Chain(self.chain('i', "", rules))
    }

    /// Traffic to a NodePort or an external address.
    fn outside(&mut self) -> Fate {
        let port = self.port;
        if port.endpoints.is_empty() {
            return Fate::Reject;
        }
        let all = self.pick('c', &port.endpoints);
        if !port.external_local {
            return Fate::Chain(self.chain('x', "", vec!["jump mark-it".into(), format!("goto {all}")]));
        }
        // Pods and the node itself are no outside: for them the Service is whole.
        let cidr = &self.place.cluster_cidr;
        let mut rules = vec![
            format!("ip saddr {cidr} goto {all}"),
            "fib saddr type local jump mark-it".into(),
            format!("fib saddr type local goto {all}"),
        ];
        if port.local.is_empty() {
            rules.push("drop".into());
        } else {
            let near = self.pick('l', &port.local);
            rules.push(format!("goto {near}"));
        }
        Fate::Chain(self.chain('x', "", rules))
    }

    /// Lets only the source ranges of a load balancer through.
    fn guard(&mut self, target: &str) -> String {
        if self.port.source_ranges.is_empty() || self.port.balancer_ips.is_empty() {
            return target.to_owned();
        }
        let ranges: Vec<&str> = self.port.source_ranges.iter().map(String::as_str).collect();
        let mut rules: Vec<String> = ranges
            .iter()
            .map(|r| format!("ip saddr {r} goto {target}"))
            .collect();
        rules.push("drop".into());
        self.chain('w', "", rules)
    }

    /// A chain that translates to one of the endpoints; there is at least one.
    fn pick(&mut self, kind: char, endpoints: &BTreeSet<SocketAddrV4>) -> String {
        let protocol = self.port.protocol.name();
        let rules = if let Some(seconds) = self.port.affinity {
            self.sticky(endpoints, seconds)
        } else if let (1, Some(only)) = (endpoints.len(), endpoints.first()) {
            vec![format!("meta l4proto {protocol} dnat to {only}")]
        } else {
            let list: Vec<String> = endpoints
                .iter()
                .enumerate()
                .map(|(i, e)| format!("{i} : {} . {}", e.ip(), e.port()))
                .collect();
            let (count, list) = (endpoints.len(), list.join(", "));
            vec![format!(
                "meta l4proto {protocol} dnat ip addr . port to numgen random mod {count} map {{ {list} }}"
            )]
        };
        self.chain(kind, "", rules)
    }

    /// Clients that were here lately go where they went; the others to anyone.
    fn sticky(&mut self, endpoints: &BTreeSet<SocketAddrV4>, seconds: u32) -> Vec<String> {
        let protocol = self.port.protocol.name();
        let mut known = Vec::new();
        let mut any = Vec::new();
        for (i, endpoint) in endpoints.iter().enumerate() {
            // The timeout is part of the name, since a set's cannot be changed.
            let clients = self.name('a', &format!("{endpoint}/{seconds}"));
            let declaration = format!(
                "type ipv4_addr ; size {AFFINITY_CLIENTS} ; flags dynamic,timeout ; timeout {seconds}s ;"
            );
            let mut remembered = set("set", &declaration);
            remembered.dynamic = true;
            self.table.sets.insert(clients.clone(), remembered);
            let rules = vec![
                format!("update @{clients} {{ ip saddr }}"),
                format!("meta l4proto {protocol} dnat to {endpoint}"),
            ];
            let one = self.chain('e', &endpoint.to_string(), rules);
            known.push(format!("ip saddr @{clients} goto {one}"));
            any.push(format!("{i} : goto {one}"));
        }
        known.push(format!(
            "numgen random mod {} vmap {{ {} }}",
            endpoints.len(),
            any.join(", ")
        ));
        known
    }

    fn insert(&mut self, map: &str, key: String, value: String) {
        if let Some(set) = self.table.sets.get_mut(map) {
            // Two Services can claim one external address and port; the first by name has it, on every node.
            set.elements.entry(key).or_insert(value);
        }
    }

    fn chain(&mut self, kind: char, detail: &str, rules: Vec<String>) -> String {
        let name = self.name(kind, detail);
        self.table.chains.insert(name.clone(), chain("", &rules));
        name
    }

    /// A name that is unique by its hash and readable for humans.
    fn name(&self, kind: char, detail: &str) -> String {
        let id = &self.port.id;
        let mut name = format!("{kind}-{:08x}-{id}", hash(&format!("{id} {detail}")));
        let end = detail.split('/').next().unwrap_or_default().replace(':', "/");
        if !end.is_empty() {
            name = format!("{name}/{end}");
        }
        name.truncate(NAME_LIMIT);
        name.trim_end_matches(['/', '-']).to_owned()
    }
}

fn verdict<'a>(served: &'a str, refused: &'a str, fate: &Fate) -> (&'a str, String) {
    match fate {
        Fate::Chain(chain) => (served, format!("goto {chain}")),
        Fate::Reject => (refused, "goto reject-it".into()),
        Fate::Drop => (refused, "drop".into()),
    }
}

/// FNV-1a, folded to 32 bits: stable, so that rules do not change with the program.
fn hash(text: &str) -> u32 {
    let full = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The cast keeps the low half, on purpose.
    (full ^ (full >> 32)) as u32
}

/// The translations that hold for UDP: (address or none for NodePorts, port) to endpoints. Connections of
/// endpoints that leave this list have to be forgotten, since UDP clients never close them.
pub(crate) fn udp_targets(ports: &[ServicePort]) -> BTreeMap<(Ipv4Addr, u16), BTreeSet<SocketAddrV4>> {
    let mut targets = BTreeMap::<_, BTreeSet<_>>::new();
    for port in ports.iter().filter(|p| p.protocol == Protocol::Udp) {
        let addresses = port.external_ips.iter().chain(&port.balancer_ips);
        let mut keys: Vec<_> = addresses.map(|ip| (*ip, port.port)).collect();
        keys.push((port.cluster_ip, port.port));
        keys.extend(port.node_port.map(|number| (Ipv4Addr::UNSPECIFIED, number)));
        for key in keys {
            targets
                .entry(key)
                .or_default()
                .extend(port.endpoints.iter().chain(&port.local));
        }
    }
    targets
}
