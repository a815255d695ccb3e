//! What a manifest means on this machine: which regions, control planes and nodes there are, and their addresses.
//!
//! In cluster n the bridge between the regions is `10.201.n.0/26` with the host at `.1` and the routers from
//! `.2` on; region r (from 1) has `10.201.n.(64r)/26` behind its router, and its pods `10.(128+n).(64r).0/18`.
//! A node at `10.201.n.x` has the pods `10.(128+n).x.0/24`, so every route is known without knowing the nodes.

use crate::manifest::Manifest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The regions of a cluster.
pub const REGIONS: [&str; 3] = ["geneva", "gland", "lucerne"];
/// Subnet of the Services.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// Address of the `kubernetes` Service.
pub const KUBERNETES_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Address of cluster DNS.
pub const CLUSTER_DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Port of the first control plane in a region, and of the forwarders.
pub const API_PORT: u16 = 6443;
/// Port of a region's store.
pub const STORE_PORT: u16 = 7400;
/// Last host addresses of a /26: 1 is the router, 62 the last usable.
const FIRST_NODE_SLOT: u8 = 2;
const LAST_NODE_SLOT: u8 = 62;

/// Why a manifest does not fit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// All node addresses are taken.
    #[error("no address is free for node {0}: a region holds {slots} nodes", slots = LAST_NODE_SLOT - FIRST_NODE_SLOT + 1)]
    Full(String),
}

/// What holds the cluster's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Datastore {
    /// An etcd member in each region: the state survives the loss of one.
    #[default]
    Etcd,
    /// A file of the only control plane. Smaller and faster, and gone with its region.
    Embedded,
}

impl std::fmt::Display for Datastore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Etcd => "etcd",
            Self::Embedded => "embedded",
        })
    }
}

/// Where a node was placed. Placement outlives changes of the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Its region.
    pub region: String,
    /// Its slot in the region's subnet.
    pub slot: u8,
}

/// Placements of all nodes, by node name.
pub type Placements = BTreeMap<String, Placement>;

/// A region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its name.
    pub name: String,
    /// From 1.
    pub index: u8,
    /// Address of its router on the bridge between regions.
    pub uplink: Ipv4Addr,
    /// Address of its router, etcd member, store and control planes.
    pub address: Ipv4Addr,
    /// Ports of its control planes.
    pub control_planes: Vec<u16>,
}

/// Address of the host on the bridge between regions of the cluster with this number.
pub fn host_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 201, number, 1)
}

/// What the machine offers a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Thousandths of a CPU.
    pub cpu_millis: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `<group>-<n>`.
    pub name: String,
    /// Its group.
    pub group: String,
    /// Its region.
    pub region: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Subnet of its pods.
    pub pod_cidr: String,
    /// Capacity in thousandths of a CPU.
    pub cpu_millis: u64,
    /// Capacity in bytes of memory.
    pub memory_bytes: u64,
    /// Size of its system disk in bytes.
    pub disk_bytes: u64,
    /// Labels that it registers with.
    pub labels: Vec<String>,
}

/// A cluster on this machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Its name.
    pub cluster: String,
    /// Its number.
    pub number: u8,
    /// What holds its state.
    pub datastore: Datastore,
    /// What was asked for.
    pub manifest: Manifest,
    /// Its regions.
    pub regions: Vec<Region>,
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// Groups that got less than their instance type because the machine has no more, one line each.
    pub capped: Vec<String>,
}

impl Plan {
    /// Lays out a cluster on etcd. `placements` gains the new nodes and loses those that are no longer wanted.
    pub fn new(
        cluster: &str,
        number: u8,
        manifest: Manifest,
        machine: Machine,
        placements: &mut Placements,
    ) -> Result<Self, Error> {
        let regions: Vec<Region> = (1u8..)
            .zip(REGIONS)
            .map(|(index, name)| region(number, index, name, manifest.control_planes))
            .collect();
        let mut capped = Vec::new();
        let wanted: Vec<String> = manifest
            .groups
            .iter()
            .flat_map(|g| (1..=g.min).map(move |n| format!("{}-{n}", g.name)))
            .collect();
        placements.retain(|name, _| wanted.contains(name));
        for name in &wanted {
            if !placements.contains_key(name) {
                let place = place(placements, name)?;
                placements.insert(name.clone(), place);
            }
        }
        let mut nodes = Vec::new();
        for group in &manifest.groups {
            let size = &group.size;
            let cpu_millis = size.cpu_millis.min(machine.cpu_millis);
            let memory_bytes = size.memory_bytes.min(machine.memory_bytes);
            if group.min > 0 && (cpu_millis < size.cpu_millis || memory_bytes < size.memory_bytes) {
                capped.push(format!(
                    "node group {}: nodes get {} CPU and {} GiB, all that this machine has",
                    group.name,
                    cpu_millis as f64 / 1000.0,
                    memory_bytes >> 30
                ));
            }
            for n in 1..=group.min {
                let name = format!("{}-{n}", group.name);
                let place = &placements[&name];
                let index = regions
                    .iter()
                    .find(|r| r.name == place.region)
                    .map_or(1, |r| r.index);
                let last = 64 * index + place.slot;
                nodes.push(Node {
                    labels: labels(group, &place.region),
                    name,
                    group: group.name.clone(),
                    region: place.region.clone(),
                    address: Ipv4Addr::new(10, 201, number, last),
                    pod_cidr: format!("10.{}.{last}.0/24", 128 + number),
                    cpu_millis,
                    memory_bytes,
                    disk_bytes: size.disk_bytes,
                });
            }
        }
        Ok(Self {
            cluster: cluster.into(),
            number,
            datastore: Datastore::Etcd,
            manifest,
            regions,
            nodes,
            capped,
        })
    }

    /// Address of the host on the bridge between regions.
    pub fn host(&self) -> Ipv4Addr {
        host_address(self.number)
    }

    /// Where clients on the host reach the API.
    pub fn endpoint(&self) -> SocketAddr {
        (self.host(), API_PORT).into()
    }

    /// Subnet of all infrastructure addresses.
    pub fn infrastructure_cidr(&self) -> String {
        format!("10.201.{}.0/24", self.number)
    }

    /// Subnet of all pods.
    pub fn pod_cidr(&self) -> String {
        format!("10.{}.0.0/16", 128 + self.number)
    }

    /// Subnet of the nodes behind a region's router.
    pub fn region_cidr(&self, region: &Region) -> String {
        format!("10.201.{}.{}/26", self.number, 64 * region.index)
    }

    /// Subnet of the pods in a region.
    pub fn region_pod_cidr(&self, region: &Region) -> String {
        format!("10.{}.{}.0/18", 128 + self.number, 64 * region.index)
    }

    /// The region called `name`.
    pub fn region(&self, name: &str) -> Option<&Region> {
        self.regions.iter().find(|r| r.name == name)
    }

    /// The nodes in a region.
    pub fn nodes_in<'a>(&'a self, region: &'a str) -> impl Iterator<Item = &'a Node> {
        self.nodes.iter().filter(move |n| n.region == region)
    }

    /// The API servers, those of `nearest` first.
    pub fn api_servers(&self, nearest: Option<&str>) -> Vec<SocketAddr> {
        let mut regions: Vec<&Region> = self.regions.iter().collect();
        regions.sort_by_key(|r| Some(r.name.as_str()) != nearest);
        let of = |r: &Region| -> Vec<SocketAddr> {
            let ports = r.control_planes.iter();
            ports.map(|port| (IpAddr::V4(r.address), *port).into()).collect()
        };
        regions.into_iter().flat_map(of).collect()
    }

    /// URLs of the etcd members, the one in `nearest` first.
    pub fn etcd_servers(&self, nearest: &str) -> String {
        let mut regions: Vec<&Region> = self.regions.iter().collect();
        regions.sort_by_key(|r| r.name != nearest);
        let urls: Vec<_> = regions
            .iter()
            .map(|r| format!("https://{}:2379", r.address))
            .collect();
        urls.join(",")
    }

    /// The stores as `region=host:port`, separated by commas.
    pub fn stores(&self) -> String {
        let of = |r: &Region| format!("{}={}:{STORE_PORT}", r.name, r.address);
        self.regions.iter().map(of).collect::<Vec<_>>().join(",")
    }
}

fn region(number: u8, index: u8, name: &str, control_planes: u32) -> Region {
    let regions = REGIONS.len() as u32;
    let mine = (0..control_planes).filter(|i| i % regions == u32::from(index) - 1);
    Region {
        name: name.into(),
        index,
        uplink: Ipv4Addr::new(10, 201, number, 1 + index),
        address: Ipv4Addr::new(10, 201, number, 64 * index + 1),
        control_planes: mine.map(|i| API_PORT + (i / regions) as u16).collect(),
    }
}

/// The region with the fewest nodes of the group, then with the fewest nodes; in it the lowest free slot.
fn place(placements: &Placements, name: &str) -> Result<Placement, Error> {
    let group = name.rsplit_once('-').map_or(name, |(group, _)| group);
    let count = |region: &str, only_group: bool| {
        let in_region = placements.iter().filter(|(_, p)| p.region == region);
        let counted =
            in_region.filter(|(n, _)| !only_group || n.rsplit_once('-').is_some_and(|(g, _)| g == group));
        counted.count()
    };
    let mut candidates: Vec<&str> = REGIONS.to_vec();
    candidates.sort_by_key(|region| (count(region, true), count(region, false)));
    for region in candidates {
        let taken = |slot: &u8| placements.values().any(|p| p.region == region && p.slot == *slot);
        if let Some(slot) = (FIRST_NODE_SLOT..=LAST_NODE_SLOT).find(|slot| !taken(slot)) {
            return Ok(Placement {
                region: region.into(),
                slot,
            });
        }
    }
    Err(Error::Full(name.into()))
}

fn labels(group: &crate::manifest::NodeGroup, region: &str) -> Vec<String> {
    let mut labels = vec![
        format!("hikube.io/node-group={}", group.name),
        format!("topology.kubernetes.io/region={region}"),
        format!("topology.kubernetes.io/zone={region}"),
    ];
    if !group.size.instance_type.is_empty() {
        let kind = &group.size.instance_type;
        labels.push(format!("node.kubernetes.io/instance-type={kind}"));
    }
    for role in &group.roles {
        labels.push(format!("node-role.kubernetes.io/{role}="));
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest;

    const MACHINE: Machine = Machine {
        cpu_millis: 2000,
        memory_bytes: 3 << 30,
    };

    fn plan(text: &str, placements: &mut Placements) -> Plan {
        let manifest = manifest::parse(text).expect("a valid manifest");
        Plan::new("c", 3, manifest, MACHINE, placements).expect("it fits")
    }

    #[test]
    fn the_default_has_a_node_in_each_region() {
        let plan = plan(manifest::DEFAULT, &mut Placements::new());
        let mut regions: Vec<_> = plan.nodes.iter().map(|n| n.region.as_str()).collect();
        regions.sort_unstable();
        assert_eq!(regions, REGIONS);
        assert_eq!(plan.nodes[0].address.to_string(), "10.201.3.66");
        assert_eq!(plan.nodes[0].pod_cidr, "10.131.66.0/24");
        assert_eq!(plan.region_pod_cidr(&plan.regions[2]), "10.131.192.0/18");
        assert_eq!(plan.capped.len(), 2, "{:?}", plan.capped);
        let servers: Vec<_> = plan
            .api_servers(Some("gland"))
            .iter()
            .map(|s| s.to_string())
            .collect();
        assert_eq!(servers, ["10.201.3.129:6443", "10.201.3.65:6443"]);
    }

    #[test]
    fn the_embedded_datastore_has_a_manifest_that_it_can_serve() {
        let text = manifest::default_for(Datastore::Embedded);
        assert_eq!(manifest::parse(&text).expect("valid").control_planes, 1);
        assert_eq!(manifest::default_for(Datastore::Etcd), manifest::DEFAULT);
    }

    #[test]
    fn a_node_keeps_its_place_when_the_manifest_changes() {
        let text = |a: u32, b: u32| {
            format!(
                "{{apiVersion: apps.cozystack.io/v1alpha1, kind: Kubernetes, spec: {{controlPlane: {{replicas: 5}}, \
                 nodeGroups: {{a: {{minReplicas: {a}}}, b: {{minReplicas: {b}}}}}}}}}"
            )
        };
        let mut placements = Placements::new();
        let before = plan(&text(3, 2), &mut placements);
        let after = plan(&text(1, 4), &mut placements);
        let of = |p: &Plan, name: &str| p.nodes.iter().find(|n| n.name == name).cloned();
        assert_eq!(of(&before, "b-2"), of(&after, "b-2"));
        assert_eq!(of(&after, "a-2"), None);
        let mut addresses: Vec<_> = after.nodes.iter().map(|n| n.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), 5);
        assert_eq!(after.regions[0].control_planes, [6443, 6444]);
        assert_eq!(after.regions[2].control_planes, [6443]);
    }
}
