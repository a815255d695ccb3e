//! `hikube down`: stops everything in an order that loses nothing, and keeps all data.

use super::{Cluster, Error, Say, exclusive};
use crate::components::{HOST, STOP_LEVELS};
use crate::host::cgroup;
use crate::node;
use crate::supervisor::{self, Request};
use std::time::Duration;

/// How long one level of one region may take: containers and volumes have their own limits within it.
const LEVEL_PATIENCE: Duration = Duration::from_secs(120);

/// What each level is, for the user.
const STEPS: [&str; 5] = [
    "stopping kubelets",
    "stopping containers, unmounting volumes",
    "stopping engines",
    "stopping control planes",
    "stopping etcd and stores",
];

/// Stops a cluster.
pub fn down(name: &str, say: Say<'_>) -> Result<(), Error> {
    let cluster = Cluster::open(name)?;
    let _lock = exclusive(&cluster.layout)?;
    stop(&cluster, say)
}

fn stop(cluster: &Cluster, say: Say<'_>) -> Result<(), Error> {
    let layout = &cluster.layout;
    for (level, step) in STOP_LEVELS.into_iter().zip(STEPS) {
        say(step);
        // All regions at the same time: an engine that flushes needs the stores of the others.
        std::thread::scope(|scope| {
            for region in &cluster.plan.regions {
                let control = layout.control(&region.name);
                scope.spawn(move || {
                    let request = Request::Stop { through: level };
                    if let Err(error) = supervisor::call(&control, &request, LEVEL_PATIENCE) {
                        tracing::debug!(region = region.name, %error, "no supervisor to ask");
                    }
                });
            }
        });
    }
    if let Err(error) = supervisor::call(&layout.control(HOST), &Request::Exit, LEVEL_PATIENCE) {
        tracing::debug!(%error, "no supervisor of the host to ask");
    }
    // What no supervisor knew of: the rest of a crash.
    for one in &cluster.plan.nodes {
        node::finish(layout, &one.region, &one.name)?;
    }
    cgroup::kill(&layout.cgroup())?;
    say("everything is stopped; all data is kept");
    Ok(())
}
