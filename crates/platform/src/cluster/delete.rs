//! `hikube delete`: removes a cluster and everything that it left on the machine. It needs nothing to be intact.

use super::drain::remove_dir;
use super::{Error, Say, exclusive};
use crate::host::{cgroup, mounts, net};
use crate::layout::Layout;
use crate::{node, registry};

/// Removes a cluster, in whatever state it is. Returns whether there was anything.
pub fn delete(name: &str, say: Say<'_>) -> Result<bool, Error> {
    let layout = Layout::new(name)?;
    let existed = registry::existing(&layout)?.is_some()
        || layout.state().exists()
        || layout.run().exists()
        || !crate::host::netns::list(&layout.netns_prefix()).is_empty();
    if !existed {
        return Ok(false);
    }
    let lock = exclusive(&layout)?;
    say("killing all processes");
    cgroup::kill(&layout.cgroup())?;
    say("removing mounts and loop devices");
    let nodes = nodes(&layout);
    for one in &nodes {
        node::forget_shims(&layout, one);
    }
    mounts::clear(&[layout.state(), layout.run()])?;
    say("removing namespaces, links and rules");
    net::remove(&layout)?;
    cgroup::remove(&layout.cgroup())?;
    for one in &nodes {
        node::forget(&layout, one);
    }
    say("removing data");
    remove_dir(&layout.state())?;
    drop(lock);
    remove_dir(&layout.run())?;
    if let Some(parent) = layout.run().parent() {
        // Only if no other cluster has sockets there.
        let _ = std::fs::remove_dir(parent);
    }
    if let Some(before) = registry::release(&layout)? {
        let _ = std::fs::write("/proc/sys/net/ipv4/ip_forward", before);
    }
    Ok(true)
}

/// Names of the nodes that left directories.
fn nodes(layout: &Layout) -> Vec<String> {
    let entries = std::fs::read_dir(layout.node("")).into_iter().flatten().flatten();
    entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}
