//! Nodes that a changed manifest no longer wants: their pods are deleted with their grace period, so that they run
//! elsewhere, then the node leaves the API and the machine.

use super::{Cluster, Error, Say, file};
use crate::api::Client;
use crate::host::{cgroup, net};
use crate::node;
use crate::plan::Node;
use http::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long pods may take to leave.
const PATIENCE: Duration = Duration::from_secs(60);
const REQUEST: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(300);

/// Nodes of `before` that `after` lacks.
pub(super) fn removed(before: &Cluster, after: &Cluster) -> Vec<Node> {
    let kept = |n: &&Node| !after.plan.nodes.iter().any(|a| a.name == n.name);
    before.plan.nodes.iter().filter(kept).cloned().collect()
}

/// Moves the pods away. When the API does not answer, nothing is removed.
pub(super) async fn drain(cluster: &Cluster, nodes: &[Node], say: Say<'_>) -> Result<(), Error> {
    if nodes.is_empty() {
        return Ok(());
    }
    let client = cluster.api(REQUEST)?;
    for node in nodes {
        say(&format!("draining node {}", node.name));
        let path = format!("/api/v1/nodes/{}", node.name);
        let patch = json!({"spec": {"unschedulable": true}});
        let sent = client
            .send(Method::PATCH, &path, "application/merge-patch+json", &patch)
            .await;
        match sent {
            Err(error) if error.status() == Some(404) => continue,
            result => drop(result?),
        }
    }
    let deadline = Instant::now() + PATIENCE;
    let names: Vec<&str> = nodes.iter().map(|n| n.name.as_str()).collect();
    loop {
        let pods = client.get("/api/v1/pods").await?;
        let on_nodes = |pod: &&Value| {
            let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
            let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
            names.contains(&node) && !ended
        };
        let items = pods["items"].as_array().into_iter().flatten();
        let left: Vec<&Value> = items.filter(on_nodes).collect();
        if left.is_empty() || Instant::now() > deadline {
            return Ok(());
        }
        for pod in left
            .iter()
            .filter(|p| p["metadata"]["deletionTimestamp"].is_null())
        {
            delete_pod(&client, pod).await?;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn delete_pod(client: &Client, pod: &Value) -> Result<(), Error> {
    let text = |key: &str| pod["metadata"][key].as_str().unwrap_or_default();
    let path = format!("/api/v1/namespaces/{}/pods/{}", text("namespace"), text("name"));
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
    match client
        .send(Method::DELETE, &path, "application/json", &options)
        .await
    {
        Err(error) if error.status() == Some(404) => Ok(()),
        result => Ok(result.map(drop)?),
    }
}

/// Removes the nodes, whose components have been stopped, from the API and from the machine.
pub(super) async fn remove(cluster: &Cluster, nodes: &[Node], say: Say<'_>) -> Result<(), Error> {
    if nodes.is_empty() {
        return Ok(());
    }
    let client = cluster.api(REQUEST)?;
    for gone in nodes {
        let path = format!("/api/v1/nodes/{}", gone.name);
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
        match client
            .send(Method::DELETE, &path, "application/json", &options)
            .await
        {
            Err(error) if error.status() == Some(404) => {}
            result => drop(result?),
        }
        clear(cluster, gone)?;
        say(&format!("removed node {}", gone.name));
    }
    Ok(())
}

/// Removes what a node has on the machine.
pub(super) fn clear(cluster: &Cluster, gone: &Node) -> Result<(), Error> {
    let layout = &cluster.layout;
    node::finish(layout, &gone.region, &gone.name)?;
    net::remove_node(layout, &gone.name)?;
    cgroup::remove(&layout.node_cgroup(&gone.region, &gone.name))?;
    node::forget(layout, &gone.name);
    for dir in [layout.node(&gone.name), layout.node_run(&gone.name)] {
        remove_dir(&dir)?;
    }
    Ok(())
}

/// Removes a directory if it is there.
pub(super) fn remove_dir(dir: &std::path::Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(file("remove", dir)),
    }
}
