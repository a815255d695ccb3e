//! A cluster without etcd: `hikube up --datastore embedded`.

use crate::cluster::Cluster;
use crate::processes;
use crate::shell::{attempt, ensure, output, text};
use crate::steps::{lifecycle, workloads};
use crate::traces;
use anyhow::Result;
use std::time::Duration;

/// From nothing to a workload; killed as a whole, and up again with all of it; then removed without a trace.
pub fn life(cluster: &Cluster) -> Result<()> {
    let mut small = cluster.clone();
    small.name.push_str("-small");
    small.delete_quietly();
    // With `--keep` the other cluster is still there.
    small.before = traces::find(&small.name)?;
    let result = begin(&small).and_then(|()| lifecycle::delete(&small));
    if result.is_err() {
        small.show_failure();
        small.delete_quietly();
    }
    result
}

fn begin(small: &Cluster) -> Result<()> {
    let up = || output(&mut small.hikube_up(&["--datastore=embedded"]));
    print!("{}", up()?);
    let etcd = small.processes_with(&["etcd", "--data-dir"]);
    ensure(etcd.is_empty(), || format!("etcd runs: {etcd:?}"))?;
    let status = small.status()?;
    ensure(status["datastore"] == "embedded", || format!("status: {status}"))?;
    ensure(
        status["controlPlanes"]
            .as_array()
            .is_some_and(|p| p.len() == 1 && p[0]["ready"] == true),
        || format!("status: {status}"),
    )?;
    // The choice is for the cluster's life.
    let other = attempt(&mut small.hikube_up(&["--datastore=etcd"]))?;
    let said = text(&other.stderr);
    ensure(
        !other.status.success() && said.contains("cannot be changed"),
        || format!("--datastore=etcd on an embedded cluster: {said}"),
    )?;
    small.apply(&workloads::deployment("kept", 2))?;
    small.rolled_out("deployment/kept", Duration::from_secs(60))?;
    let uid = || small.kube(&["get", "deployment", "kept", "-o", "jsonpath={.metadata.uid}"]);
    let before = uid()?;
    processes::kill(&processes::of_cluster(&small.name))?;
    std::thread::sleep(Duration::from_millis(500));
    let _ = processes::kill(&processes::of_cluster(&small.name));
    // Not told again: the cluster knows what it has.
    small.up()?;
    let after = uid()?;
    ensure(before == after, || {
        format!("the Deployment was {before}, and is {after}")
    })?;
    small.rolled_out("deployment/kept", Duration::from_secs(60))
}
