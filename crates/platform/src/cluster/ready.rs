//! Waiting until a cluster is Ready, with a line of progress for each part, and the reason if it does not become so.

use super::{Cluster, Error, Say, addons};
use crate::api;
use crate::components::HOST;
use crate::pki::{Signer, identity};
use crate::plan::Datastore;
use crate::supervisor::Status;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Pause between two looks. A person waits.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest wait for one answer.
const REQUEST: Duration = Duration::from_secs(3);
/// A component that ended so often, and does not run now, is broken rather than waiting for another.
const TOO_MANY_RESTARTS: u32 = 7;

/// Waits until all of the cluster that is not failed on purpose is Ready, and applies the cluster's own objects.
pub(super) async fn wait(
    cluster: &Cluster,
    patience: Duration,
    start: Instant,
    say: Say<'_>,
) -> Result<(), Error> {
    let deadline = Instant::now() + patience;
    let done = |what: String| say(&format!("{what} ({:.1} s)", start.elapsed().as_secs_f64()));
    let etcd = async {
        if cluster.plan.datastore == Datastore::Embedded {
            return Ok(());
        }
        let members = cluster.whole_regions().count();
        poll(cluster, deadline, "etcd-", "is not healthy", || {
            etcd_is_healthy(cluster)
        })
        .await?;
        done(format!("etcd: {members} members healthy"));
        Ok::<(), Error>(())
    };
    let control = async {
        poll(cluster, deadline, "control-plane-", "is not ready", || {
            planes_are_ready(cluster)
        })
        .await?;
        let planes: usize = cluster.whole_regions().map(|r| r.control_planes.len()).sum();
        done(format!("control planes: {planes} ready"));
        let client = cluster.api(REQUEST)?;
        poll(cluster, deadline, "forward", "does not reach the API", || async {
            client.is_ready().await
        })
        .await?;
        addons(cluster, &client, deadline).await?;
        done("addons: applied".into());
        poll(
            cluster,
            deadline,
            "kubelet-",
            "has not made its node Ready",
            || nodes_are_ready(cluster, &client),
        )
        .await?;
        done(format!("nodes: {} Ready", expected_nodes(cluster).len()));
        Ok(())
    };
    let images = async {
        poll(cluster, deadline, "images-", "has not finished", || async {
            images_are_there(cluster)
        })
        .await?;
        done("images: imported".into());
        Ok(())
    };
    futures::try_join!(etcd, control, images)?;
    Ok(())
}

/// Looks until `good`, a component breaks, or time is up. `prefix` names the components to blame.
async fn poll<F, Fut>(
    cluster: &Cluster,
    deadline: Instant,
    prefix: &str,
    complaint: &str,
    good: F,
) -> Result<(), Error>
where
    F: Fn() -> Fut,
    Fut: Future<Output = bool>,
{
    loop {
        if good().await {
            return Ok(());
        }
        if let Some(broken) = broken(cluster) {
            return Err(blame(cluster, &broken, "does not stay up"));
        }
        if Instant::now() > deadline {
            let name = components(cluster).into_iter().find(|n| n.starts_with(prefix));
            return Err(blame(cluster, &name.unwrap_or(prefix.into()), complaint));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn blame(cluster: &Cluster, component: &str, reason: &str) -> Error {
    let log = cluster.layout.log(component);
    Error::Component {
        component: component.into(),
        reason: reason.into(),
        tail: crate::files::tail(&log, 15),
        log,
    }
}

fn statuses(cluster: &Cluster) -> Vec<Status> {
    let regions = cluster.living_regions().map(|r| r.name.as_str());
    let units = regions.chain([HOST]);
    units
        .filter_map(|u| Status::load(&cluster.layout.processes(u)))
        .collect()
}

fn components(cluster: &Cluster) -> Vec<String> {
    let names = statuses(cluster)
        .into_iter()
        .flat_map(|s| s.components.into_keys());
    names.collect()
}

/// A component that was started again and again and is down.
fn broken(cluster: &Cluster) -> Option<String> {
    let all = statuses(cluster).into_iter().flat_map(|s| s.components);
    let mut bad = all.filter(|(_, s)| s.restarts >= TOO_MANY_RESTARTS && s.process.is_none() && !s.done);
    bad.next().map(|(name, _)| name)
}

/// Whether every node has its images: a pod that is created right after `hikube up` must find them.
fn images_are_there(cluster: &Cluster) -> bool {
    let statuses = statuses(cluster);
    let has_images = |node: &str| {
        let name = format!("images-{node}");
        let mut states = statuses.iter().filter_map(|s| s.components.get(&name));
        states.any(|s| s.done)
    };
    let nodes = cluster
        .living_regions()
        .flat_map(|r| cluster.plan.nodes_in(&r.name));
    nodes.into_iter().all(|n| has_images(&n.name))
}

async fn etcd_is_healthy(cluster: &Cluster) -> bool {
    let files = identity(&cluster.layout, Signer::Etcd, "status");
    let members = cluster.whole_regions().map(|r| {
        let url = format!("https://{}:2379", r.address);
        let files = files.clone();
        async move {
            state::etcd::status(&url, Some(&files))
                .await
                .is_ok_and(|s| s.healthy)
        }
    });
    futures::future::join_all(members)
        .await
        .into_iter()
        .all(|healthy| healthy)
}

async fn planes_are_ready(cluster: &Cluster) -> bool {
    let Ok(client) = cluster.api(REQUEST) else {
        return false;
    };
    let planes = cluster.whole_regions().flat_map(|r| {
        let at = |port: &u16| client.at((r.address, *port).into());
        r.control_planes.iter().map(at).collect::<Vec<_>>()
    });
    let ready = planes.map(|c| async move { c.is_ready().await });
    futures::future::join_all(ready)
        .await
        .into_iter()
        .all(|ready| ready)
}

async fn addons(cluster: &Cluster, client: &api::Client, deadline: Instant) -> Result<(), Error> {
    loop {
        match addons::apply(cluster, client).await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(error) => tracing::debug!(%error, "addons are applied again"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn expected_nodes(cluster: &Cluster) -> BTreeSet<String> {
    let nodes = cluster
        .whole_regions()
        .flat_map(|r| cluster.plan.nodes_in(&r.name));
    nodes.map(|n| n.name.clone()).collect()
}

async fn nodes_are_ready(cluster: &Cluster, client: &api::Client) -> bool {
    let Ok(list) = client.get("/api/v1/nodes").await else {
        return false;
    };
    let ready = ready_nodes(&list);
    expected_nodes(cluster).is_subset(&ready)
}

/// Names of the nodes whose Ready condition is True.
pub(super) fn ready_nodes(list: &Value) -> BTreeSet<String> {
    let items = list["items"].as_array().into_iter().flatten();
    let is_ready = |node: &&Value| {
        let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
        conditions
            .into_iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let names = items
        .filter(is_ready)
        .filter_map(|n| n["metadata"]["name"].as_str());
    names.map(str::to_owned).collect()
}
