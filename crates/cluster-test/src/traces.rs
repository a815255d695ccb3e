//! What of a cluster can be seen on the machine.

use crate::processes;
use crate::shell::{attempt, output, text};
use anyhow::Result;
use std::process::Command;

/// One line for each trace of the cluster; namespaces, links and tables of any cluster, since their names are
/// hashed.
pub fn find(name: &str) -> Result<Vec<String>> {
    let paths = [format!("/var/lib/hikube/{name}"), format!("/run/hikube/{name}")];
    let mut found = Vec::new();
    for path in &paths {
        if std::path::Path::new(path).exists() {
            found.push(format!("directory {path}"));
        }
    }
    let about_us = |line: &str| {
        paths
            .iter()
            .any(|p| line.contains(&format!("{p}/")) || line.ends_with(p.as_str()))
    };
    for command in [&["mount"][..], &["losetup", "-a"]] {
        let listed = output(Command::new(command[0]).args(&command[1..]))?;
        found.extend(
            listed
                .lines()
                .filter(|l| about_us(l))
                .map(|l| format!("{}: {l}", command[0])),
        );
    }
    // Namespaces, links and rules of any cluster begin with the product's prefix.
    let listed = output(Command::new("ip").args(["netns", "list"]))?;
    found.extend(
        listed
            .lines()
            .filter(|l| l.starts_with("hk"))
            .map(|l| format!("netns: {l}")),
    );
    let listed = output(Command::new("ip").args(["-o", "link"]))?;
    found.extend(
        listed
            .lines()
            .filter(|l| l.contains(": hk"))
            .map(|l| format!("link: {l}")),
    );
    let listed = text(&attempt(Command::new("nft").args(["list", "tables"]))?.stdout);
    found.extend(
        listed
            .lines()
            .filter(|l| l.contains("hikube"))
            .map(|l| format!("nft: {l}")),
    );
    found.extend(
        processes::of_cluster(name)
            .iter()
            .map(|p| format!("process {}: {}", p.pid, p.command)),
    );
    // Each hierarchy has its own tree, in some of which only the container runtime makes groups.
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup")?.flatten() {
        let group = hierarchy.path().join("hikube").join(name);
        if group.exists() {
            found.push(format!("cgroup {}", group.display()));
        }
    }
    let unified = std::path::Path::new("/sys/fs/cgroup/hikube").join(name);
    if unified.exists() {
        found.push(format!("cgroup {}", unified.display()));
    }
    Ok(found)
}
