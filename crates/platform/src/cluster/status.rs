//! `hikube status`: the picture of a cluster, from whatever still answers. All parts are asked at the same time, each
//! with a deadline, so that it takes no longer when everything is down; what does not answer is unknown.

use super::{Cluster, Error, ready};
use crate::api::Client;
use crate::components::{HOST, control_plane_name, cut_mark, killed_mark};
use crate::pki::{Signer, identity};
use crate::plan::{Datastore, Region, STORE_PORT};
use crate::supervisor::{self, Request};
use crate::{manifest, storage};
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Every probe ends by then; the whole must be there within two seconds.
const DEADLINE: Duration = Duration::from_millis(1400);
/// A lease that was not renewed for so long leads nothing.
const LEASE: i64 = 8;

/// A cluster as it is now.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Its name.
    pub cluster: String,
    /// The Kubernetes version that runs.
    pub version: String,
    /// `up`, `down`, or `partly up` by its supervisors.
    pub state: String,
    /// What holds the cluster's state.
    pub datastore: Datastore,
    /// etcd members; none with another datastore.
    pub etcd: Vec<Member>,
    /// Control planes.
    pub control_planes: Vec<ControlPlane>,
    /// Node groups.
    pub node_groups: Vec<Group>,
    /// Regions.
    pub regions: Vec<RegionState>,
    /// Volumes, as stores and engines see them.
    pub volumes: Vec<storage::Volume>,
}

/// What could not be asked is `None`: `unknown` for people, `false` in JSON.
type Known = Option<bool>;

fn known<S: Serializer>(value: &Known, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bool(value.unwrap_or(false))
}

/// An etcd member.
#[derive(Clone, Debug, Serialize)]
pub struct Member {
    /// Its name.
    pub member: String,
    /// Its region.
    pub region: String,
    /// It answers and knows a leader.
    #[serde(serialize_with = "known")]
    pub healthy: Known,
    /// It leads.
    #[serde(serialize_with = "known")]
    pub leader: Known,
}

/// A control plane.
#[derive(Clone, Debug, Serialize)]
pub struct ControlPlane {
    /// Its name.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Its API server is ready.
    #[serde(serialize_with = "known")]
    pub ready: Known,
    /// What it leads.
    pub leads: Vec<String>,
}

/// A node group.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Nodes at least.
    pub min: u32,
    /// Nodes at most.
    pub max: u32,
    /// Its nodes.
    pub nodes: Vec<NodeState>,
}

/// A node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// Its region.
    pub region: String,
    /// The API says that it is Ready.
    #[serde(serialize_with = "known")]
    pub ready: Known,
}

/// A region.
#[derive(Clone, Debug, Serialize)]
pub struct RegionState {
    /// Its name.
    pub name: String,
    /// `up`, `down`, `cut` or `failed`.
    pub state: String,
    /// Its stores.
    pub stores: Vec<storage::Store>,
}

/// Looks at a cluster.
pub async fn status(name: &str) -> Result<Status, Error> {
    let cluster = Cluster::open(name)?;
    let (etcd, planes, api, stored, supervised) = tokio::join!(
        etcd(&cluster),
        planes(&cluster),
        from_api(&cluster),
        storage::look(&cluster.layout, &cluster.plan),
        supervisors(&cluster),
    );
    let all = cluster.plan.regions.len() + 1;
    let state = match supervised.len() {
        0 => "down",
        n if n == all => "up",
        _ => "partly up",
    };
    Ok(Status {
        cluster: name.into(),
        version: manifest::RUNNING_VERSION.into(),
        state: state.into(),
        datastore: cluster.plan.datastore,
        etcd,
        control_planes: with_leases(planes, &api.leases),
        node_groups: groups(&cluster, api.ready.as_ref()),
        regions: regions(&cluster, stored.stores, &supervised),
        volumes: stored.volumes,
    })
}

async fn etcd(cluster: &Cluster) -> Vec<Member> {
    if cluster.plan.datastore == Datastore::Embedded {
        return Vec::new();
    }
    let files = identity(&cluster.layout, Signer::Etcd, "status");
    let members = cluster.plan.regions.iter().map(|r| {
        let url = format!("https://{}:2379", r.address);
        let files = files.clone();
        async move {
            let asked = tokio::time::timeout(DEADLINE, state::etcd::status(&url, Some(&files))).await;
            // A member that does not answer at all is reported as the default.
            let said = asked.ok().and_then(Result::ok).filter(|s| !s.version.is_empty());
            Member {
                member: r.name.clone(),
                region: r.name.clone(),
                healthy: said.as_ref().map(|s| s.healthy),
                leader: said.as_ref().map(|s| s.leader),
            }
        }
    });
    futures::future::join_all(members).await
}

async fn planes(cluster: &Cluster) -> Vec<ControlPlane> {
    let Ok(client) = cluster.api(DEADLINE) else {
        return Vec::new();
    };
    let one = |region: &Region, index: usize, port: u16| {
        let client = client.at((region.address, port).into());
        let (name, region) = (control_plane_name(region, index), region.name.clone());
        async move {
            let ready = match client.readiness().await {
                Ok(ready) => Some(ready),
                Err(error) => {
                    tracing::debug!(%error, "no answer");
                    None
                }
            };
            ControlPlane {
                name,
                region,
                ready,
                leads: Vec::new(),
            }
        }
    };
    let all = cluster.plan.regions.iter().flat_map(|r| {
        let ports = r.control_planes.iter().enumerate();
        ports.map(|(i, port)| one(r, i, *port)).collect::<Vec<_>>()
    });
    futures::future::join_all(all).await
}

/// What the API knows.
#[derive(Default)]
struct FromApi {
    /// Nodes that are Ready; `None` when no API server answers.
    ready: Option<BTreeSet<String>>,
    /// Who holds which lease.
    leases: BTreeMap<String, String>,
}

/// Asks all API servers at once and takes the first answer.
async fn from_api(cluster: &Cluster) -> FromApi {
    let Ok(client) = cluster.api(DEADLINE) else {
        return FromApi::default();
    };
    let servers = cluster.plan.api_servers(None);
    let asked = servers.into_iter().map(|s| Box::pin(ask(client.at(s))));
    match futures::future::select_ok(asked).await {
        Ok((answer, _)) => answer,
        Err(_) => FromApi::default(),
    }
}

async fn ask(client: Client) -> Result<FromApi, crate::api::Error> {
    let nodes = client.get("/api/v1/nodes");
    let leases = client.get("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases");
    let (nodes, leases) = futures::try_join!(nodes, leases)?;
    Ok(FromApi {
        ready: Some(ready::ready_nodes(&nodes)),
        leases: holders(&leases, jiff::Timestamp::now()),
    })
}

/// Living leases by name, with their holders.
fn holders(leases: &Value, now: jiff::Timestamp) -> BTreeMap<String, String> {
    let items = leases["items"].as_array().into_iter().flatten();
    let holder = |lease: &Value| {
        let spec = &lease["spec"];
        let renewed: jiff::Timestamp = spec["renewTime"].as_str()?.parse().ok()?;
        let lives = now.as_second() - renewed.as_second() <= LEASE;
        let names = (
            lease["metadata"]["name"].as_str()?,
            spec["holderIdentity"].as_str()?,
        );
        lives.then(|| (names.0.to_owned(), names.1.to_owned()))
    };
    items.filter_map(holder).collect()
}

fn with_leases(mut planes: Vec<ControlPlane>, leases: &BTreeMap<String, String>) -> Vec<ControlPlane> {
    for plane in &mut planes {
        let held = leases.iter().filter(|(_, holder)| **holder == plane.name);
        plane.leads = held.map(|(name, _)| name.clone()).collect();
    }
    planes
}

fn groups(cluster: &Cluster, ready: Option<&BTreeSet<String>>) -> Vec<Group> {
    let nodes_of = |group: &str| {
        let nodes = cluster.plan.nodes.iter().filter(|n| n.group == group);
        let state = |n: &crate::plan::Node| NodeState {
            name: n.name.clone(),
            region: n.region.clone(),
            ready: ready.map(|r| r.contains(&n.name)),
        };
        nodes.map(state).collect()
    };
    let groups = cluster.plan.manifest.groups.iter();
    groups
        .map(|g| Group {
            name: g.name.clone(),
            min: g.min,
            max: g.max,
            nodes: nodes_of(&g.name),
        })
        .collect()
}

fn regions(
    cluster: &Cluster,
    stores: BTreeMap<String, Vec<storage::Store>>,
    supervised: &BTreeSet<String>,
) -> Vec<RegionState> {
    let one = |region: &Region| {
        let name = &region.name;
        let state = match (
            killed_mark(&cluster.layout, name).exists(),
            cut_mark(&cluster.layout, name).exists(),
        ) {
            (true, _) => "failed",
            (false, true) => "cut",
            (false, false) if supervised.contains(name) => "up",
            (false, false) => "down",
        };
        let unknown = || storage::Store::unknown(&format!("{}:{STORE_PORT}", region.address));
        RegionState {
            name: name.clone(),
            state: state.into(),
            stores: stores.get(name).cloned().unwrap_or_else(|| vec![unknown()]),
        }
    };
    cluster.plan.regions.iter().map(one).collect()
}

/// The units whose supervisors answer.
async fn supervisors(cluster: &Cluster) -> BTreeSet<String> {
    let regions = cluster.plan.regions.iter().map(|r| r.name.clone());
    let asked = regions.chain([HOST.to_owned()]).map(|unit| {
        let control = cluster.layout.control(&unit);
        tokio::task::spawn_blocking(move || {
            let answer = supervisor::call(&control, &Request::Status, DEADLINE);
            answer.ok().map(|_| unit)
        })
    });
    let answers = futures::future::join_all(asked).await;
    answers.into_iter().filter_map(|a| a.ok().flatten()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_living_leases_lead() {
        let lease = |name: &str, holder: &str, at: &str| json!({"metadata": {"name": name}, "spec": {"holderIdentity": holder, "renewTime": at}});
        let leases = json!({"items": [
            lease("kube-scheduler", "control-plane-gland", "2026-11-23T09:00:00.000000Z"),
            lease("kube-controller-manager", "control-plane-geneva", "2026-11-23T08:59:00.000000Z"),
        ]});
        let now = "2026-11-23T09:00:03Z".parse().expect("a time");
        let held = holders(&leases, now);
        assert_eq!(held.len(), 1);
        assert_eq!(held["kube-scheduler"], "control-plane-gland");
    }

    #[test]
    fn what_is_unknown_is_false_in_json() {
        let member = Member {
            member: "a".into(),
            region: "a".into(),
            healthy: None,
            leader: Some(true),
        };
        let json = serde_json::to_value(member).expect("serializable");
        assert_eq!(
            json,
            json!({"member": "a", "region": "a", "healthy": false, "leader": true})
        );
    }
}
