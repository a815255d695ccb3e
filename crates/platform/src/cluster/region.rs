//! `hikube region fail` and `restore`: a region is lost as a region is lost, by the death of all its processes and
//! the loss of its link, and by no switch inside any component.

use super::{Cluster, Error, Say, exclusive, file};
use crate::components::{HOST, cut_mark, killed_mark};
use crate::host::{cgroup, net};
use crate::supervisor::{self, Request};
use crate::{files, node};
use std::time::Duration;

/// How a region fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailMode {
    /// SIGKILL to everything in it.
    pub kill: bool,
    /// Its uplink goes down.
    pub cut: bool,
}

const PATIENCE: Duration = Duration::from_secs(30);

/// Fails a region until it is restored; `hikube up` leaves it failed.
pub fn fail(name: &str, region: &str, mode: FailMode) -> Result<(), Error> {
    let cluster = Cluster::open(name)?;
    let _lock = exclusive(&cluster.layout)?;
    let layout = &cluster.layout;
    check(&cluster, region)?;
    let mark = |path: std::path::PathBuf| {
        files::private_dir(&layout.failed("")).map_err(file("create", layout.failed("")))?;
        files::replace(&path, b"").map_err(file("write", &path))
    };
    // The link first: what dies must not say goodbye to the others.
    if mode.cut {
        mark(cut_mark(layout, region))?;
        net::set_uplink(layout, region, false)?;
    }
    if mode.kill {
        mark(killed_mark(layout, region))?;
        cgroup::kill(&layout.region_cgroup(region))?;
    }
    Ok(())
}

/// Undoes [`fail`]: cleans up behind dead processes, takes the link up, and starts the region's supervisor.
pub fn restore(name: &str, region: &str, say: Say<'_>) -> Result<(), Error> {
    let cluster = Cluster::open(name)?;
    let _lock = exclusive(&cluster.layout)?;
    let layout = &cluster.layout;
    check(&cluster, region)?;
    let (killed, cut) = (killed_mark(layout, region), cut_mark(layout, region));
    if killed.exists() {
        // Nothing runs there; the supervisor would do the same, but only when it starts.
        for one in cluster.plan.nodes_in(region) {
            node::clean(layout, region, &one.name)?;
        }
    }
    net::set_uplink(layout, region, true)?;
    for path in [cut, killed] {
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(file("remove", path)(e)),
            _ => {}
        }
    }
    if supervisor::call(&layout.control(HOST), &Request::Reload, PATIENCE).is_err() {
        say("the cluster is down; `hikube up` starts it with this region");
    }
    Ok(())
}

fn check(cluster: &Cluster, region: &str) -> Result<(), Error> {
    match cluster.plan.region(region) {
        Some(_) => Ok(()),
        None => Err(Error::NoRegion(region.into())),
    }
}
