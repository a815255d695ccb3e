//! Bringing up, the demo, logs, and removing.

use crate::cluster::{Cluster, REGIONS, is_ready};
use crate::processes;
use crate::shell::{ensure, eventually, output, text};
use crate::steps::workloads;
use crate::traces;
use anyhow::{Context, Result};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// `hikube up`: three Ready nodes with their labels, `/readyz`, status; a second `up` changes nothing.
pub fn up(cluster: &Cluster) -> Result<()> {
    cluster.delete_quietly();
    let took = cluster.up()?;
    println!("from built binary to all Ready: {:.1} s", took.as_secs_f64());
    let nodes = cluster.json(&["get", "nodes"])?;
    let nodes = nodes["items"].as_array().context("nodes")?;
    ensure(nodes.len() == 3, || format!("{} nodes instead of 3", nodes.len()))?;
    for node in nodes {
        let (name, labels) = (&node["metadata"]["name"], &node["metadata"]["labels"]);
        ensure(is_ready(node), || format!("node {name} is not Ready"))?;
        ensure(labels["hikube.io/node-group"].is_string(), || {
            format!("node {name} has no node group label")
        })?;
    }
    let mut regions: Vec<&str> = nodes
        .iter()
        .filter_map(|n| n["metadata"]["labels"]["topology.kubernetes.io/region"].as_str())
        .collect();
    regions.sort_unstable();
    ensure(regions == REGIONS, || {
        format!("regions of the nodes are {regions:?}")
    })?;
    let ready = cluster.kube(&["get", "--raw", "/readyz"])?;
    ensure(ready.trim() == "ok", || format!("/readyz says {ready:?}"))?;
    let status = cluster.status()?;
    ensure(status["etcd"].as_array().is_some_and(|m| m.len() == 3), || {
        format!("status: {status}")
    })?;
    ensure(
        status["controlPlanes"].as_array().is_some_and(|m| m.len() == 2),
        || format!("status: {status}"),
    )?;
    let yaml = output(&mut cluster.hikube(&["status", "-o", "yaml"]))?;
    ensure(
        yaml.starts_with("etcd:\n- member:") || yaml.contains("\netcd:\n"),
        || format!("status as YAML: {yaml}"),
    )?;
    let printed = cluster.dir.join("kubeconfig");
    std::fs::write(&printed, output(&mut cluster.hikube(&["kubeconfig"]))?)?;
    output(
        Command::new("kubectl")
            .args(["get", "nodes", "--kubeconfig"])
            .arg(&printed),
    )?;
    let before = processes::of_cluster(&cluster.name).len();
    let begin = Instant::now();
    cluster.up()?;
    println!("a second up: {:.1} s", begin.elapsed().as_secs_f64());
    let after = processes::of_cluster(&cluster.name).len();
    ensure(before == after, || {
        format!("a second up left {after} processes instead of {before}")
    })?;
    // `hikube up | head -1`: the reader goes, the work does not.
    let mut child = cluster
        .hikube_up(&[])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    drop(child.stdout.take());
    let ended = child.wait_with_output()?;
    ensure(ended.status.success(), || {
        format!("without a reader: {}", text(&ended.stderr))
    })
}

/// `hikube demo`, a region lost, `hikube demo check`.
pub fn demo(cluster: &Cluster) -> Result<()> {
    print!("{}", output(&mut cluster.hikube(&["demo"]))?);
    let pod = cluster.json(&["get", "pod", "demo-0", "-n", "demo"])?;
    let home = cluster.region_of_node(pod["spec"]["nodeName"].as_str().context("demo-0 has no node")?)?;
    std::thread::sleep(Duration::from_secs(3));
    output(&mut cluster.hikube(&["region", "fail", &home]))?;
    let moved = eventually("demo-0 elsewhere", Duration::from_secs(60), || {
        let pod = cluster.json(&["get", "pod", "demo-0", "-n", "demo", "--request-timeout=3s"])?;
        let region = cluster.region_of_node(pod["spec"]["nodeName"].as_str().context("no node")?)?;
        ensure(is_ready(&pod) && region != home, || {
            format!("demo-0 is in {region}")
        })
    });
    output(&mut cluster.hikube(&["region", "restore", &home]))?;
    moved?;
    let said = output(&mut cluster.hikube(&["demo", "check"]))?;
    print!("{said}");
    cluster.wait_healthy(Duration::from_secs(60))?;
    cluster.wait_replicated(Duration::from_secs(60))
}

/// Every certificate has run out by now, and been replaced, while everything above went on. What is left to show is
/// that new connections of each kind are made: to the API server, a kubelet, etcd and the stores.
pub fn certificates(cluster: &Cluster) -> Result<()> {
    let lifetime = cluster
        .certificate_lifetime
        .context("this run has the usual lifetime")?;
    let authority = cluster.state_dir().join("pki/cluster/ca.crt");
    let made = std::fs::metadata(&authority)
        .with_context(|| format!("read {}", authority.display()))?
        .modified()?;
    // The first ones are as old as their authority.
    std::thread::sleep((lifetime + Duration::from_secs(1)).saturating_sub(made.elapsed()?));
    cluster.wait_healthy(Duration::from_secs(60))?;
    cluster.apply(&workloads::deployment("renewed", 1))?;
    cluster.rolled_out("deployment/renewed", Duration::from_secs(60))?;
    cluster.kube(&["exec", "deployment/renewed", "--", "true"])?;
    cluster.kube(&["delete", "deployment", "renewed", "--wait=false"])?;
    cluster.verify_volumes().map(drop)
}

/// Lines at WARN or ERROR that a killed or cut peer does not explain.
pub fn logs(cluster: &Cluster) -> Result<()> {
    let dir = cluster.state_dir().join("log");
    let (mut bad, mut read) = (Vec::new(), 0);
    for entry in std::fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        // etcd and containerd have their own habits.
        if name.contains("etcd") || name.contains("containerd") {
            continue;
        }
        let content = text(&std::fs::read(&path)?);
        read += content.lines().filter(|l| l.contains(" INFO ")).count();
        let lines = content.lines().filter(|l| {
            let head: String = l.chars().take(80).collect();
            head.contains("ERROR") || head.contains(" WARN") || head.contains("panicked")
        });
        bad.extend(lines.map(|l| format!("{name}: {l}")));
    }
    for line in bad.iter().take(20) {
        println!("{line}");
    }
    ensure(read > 50, || {
        format!("only {read} lines of log in {}", dir.display())
    })?;
    ensure(bad.is_empty(), || {
        format!("{} unexpected warnings and errors", bad.len())
    })
}

/// `hikube delete`: no namespace, mount, loop device, rule, process or directory is left.
pub fn delete(cluster: &Cluster) -> Result<()> {
    // What was there before this run, another cluster's for example, is not ours.
    let ours = || {
        traces::find(&cluster.name).map(|found| -> Vec<_> {
            found
                .into_iter()
                .filter(|t| !cluster.before.contains(t))
                .collect()
        })
    };
    ensure(!ours()?.is_empty(), || {
        "the search for traces finds none in a running cluster".into()
    })?;
    output(&mut cluster.hikube(&["delete", "--yes"]))?;
    let left = ours()?;
    ensure(left.is_empty(), || format!("left behind:\n{}", left.join("\n")))
}
