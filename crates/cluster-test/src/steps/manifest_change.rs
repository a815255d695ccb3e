//! A changed manifest is applied in place, and `hikube down` keeps what `up` then finds again.

use crate::cluster::{Cluster, is_ready};
use crate::shell::{ensure, eventually, output};
use anyhow::{Context, Result};
use std::time::Duration;

/// One group grows, the other shrinks to nothing: pods and volumes move, no data is lost, and the way back works.
pub fn resize(cluster: &Cluster) -> Result<()> {
    let applied = std::fs::read_to_string(cluster.state_dir().join("cluster.yaml"))?;
    let changed = applied
        .replace("minReplicas: 2", "minReplicas: 3")
        .replace("minReplicas: 1", "minReplicas: 0");
    ensure(changed != applied, || format!("nothing to change in\n{applied}"))?;
    for pod in ["store-0", "store-1"] {
        cluster.kube(&["exec", pod, "--", "sh", "-c", "hostname > /data/marker && sync"])?;
    }
    apply(cluster, &changed, &["general-1", "general-2", "general-3"])?;
    everything_runs(cluster)?;
    let node = output(&mut cluster.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}"]))?;
    ensure(!node.contains("compute"), || format!("pods are left on {node}"))?;
    apply(cluster, &applied, &["compute-1", "general-1", "general-2"])?;
    everything_runs(cluster)
}

fn apply(cluster: &Cluster, manifest: &str, nodes: &[&str]) -> Result<()> {
    let file = cluster
        .write("changed.yaml", manifest)?
        .to_string_lossy()
        .into_owned();
    output(&mut cluster.hikube_up(&["-f", &file]))?;
    let listed = cluster.json(&["get", "nodes"])?;
    let mut found: Vec<&str> = listed["items"]
        .as_array()
        .context("nodes")?
        .iter()
        .filter(|n| is_ready(n))
        .filter_map(|n| n["metadata"]["name"].as_str())
        .collect();
    found.sort_unstable();
    ensure(found == nodes, || format!("nodes {found:?} instead of {nodes:?}"))
}

/// Deployment and StatefulSet are complete, and the volumes hold what was written.
fn everything_runs(cluster: &Cluster) -> Result<()> {
    cluster.rolled_out("deployment/web", Duration::from_secs(60))?;
    cluster.rolled_out("statefulset/store", Duration::from_secs(60))?;
    for pod in ["store-0", "store-1"] {
        let marker = eventually("the volume's content", Duration::from_secs(20), || {
            cluster.kube(&["exec", pod, "--", "cat", "/data/marker"])
        })?;
        ensure(marker.trim() == pod, || format!("{pod} reads {marker:?}"))?;
    }
    Ok(())
}

/// `down` leaves no process; `up` brings the same objects and the same data back.
pub fn down_and_up(cluster: &Cluster) -> Result<()> {
    output(&mut cluster.hikube(&["down"]))?;
    let left = crate::processes::of_cluster(&cluster.name);
    ensure(left.is_empty(), || format!("{} processes are left", left.len()))?;
    let took = cluster.up()?;
    println!("up after down: {:.1} s", took.as_secs_f64());
    everything_runs(cluster)
}
