//! Acceptance 4 and 5: loss of etcd members and control planes, and of every process at once.

use crate::cluster::Cluster;
use crate::ledger::{Ledger, hosts, query};
use crate::processes;
use crate::shell::{ensure, eventually, output};
use crate::steps::{regions, workloads};
use anyhow::{Context, Result};
use serde_json::Value;
use std::time::{Duration, Instant};

/// How long a killed engine may keep a database waiting. It takes a second; the rest is for a busy machine.
const ENGINE_PAUSE: Duration = Duration::from_secs(10);

/// SIGKILL of etcd's leader, then of the control plane that leads: the same kubeconfig goes on working, and a
/// new Deployment runs in under 15 s.
pub fn kill_leaders(cluster: &Cluster) -> Result<()> {
    let status = cluster.status()?;
    let leader = of(&status["etcd"], |m| m["leader"] == true, "etcd leader")?;
    let region = leader["region"]
        .as_str()
        .context("region of the etcd leader")?
        .to_owned();
    let state = format!("/etcd/{region}");
    processes::kill(&cluster.processes_with(&["etcd", &state, "--data-dir"]))?;
    println!(
        "killed etcd in {region}; new Deployment in {:.1} s",
        new_deployment(cluster, "after-etcd")?
    );
    cluster.wait_healthy(Duration::from_secs(60))?;

    let status = cluster.status()?;
    let leads = |p: &Value| {
        p["leads"]
            .as_array()
            .is_some_and(|l| l.iter().any(|n| n == "kube-controller-manager"))
    };
    let plane = of(&status["controlPlanes"], leads, "leading control plane")?;
    let region = plane["region"]
        .as_str()
        .context("region of the control plane")?
        .to_owned();
    let identity = format!("apiserver-{region}");
    let victims: Vec<_> = cluster.processes_with(&["hikube", " control-plane "]);
    let victims: Vec<_> = victims
        .into_iter()
        .filter(|p| p.command.contains(&identity))
        .collect();
    processes::kill(&victims)?;
    println!(
        "killed the control plane in {region}; new Deployment in {:.1} s",
        new_deployment(cluster, "after-cp")?
    );
    cluster.wait_healthy(Duration::from_secs(60))
}

/// SIGKILL of the engine under the database, then of its supervisor too, and of the next engine: each costs the database a
/// pause, and no container, connection or transaction.
pub fn kill_engine(cluster: &Cluster) -> Result<()> {
    let home = regions::home_node(cluster)?;
    let ledger = Ledger::start(hosts(cluster, &home)?)?;
    let before = container_ids(cluster)?;
    let node = format!("--node-name={home} ");
    for round in ["an engine", "the engine after it, once its supervisor was too"] {
        ledger.wait_progress(ENGINE_PAUSE)?;
        if round != "an engine" {
            // Those of the regions; the host's starts them again.
            let mut supervisors = cluster.processes_with(&["hikube", " supervisor ", "--spec"]);
            supervisors.retain(|process| !process.command.contains("/host.json"));
            processes::kill(&supervisors)?;
            // The engines tell the new ones what to keep with their next report.
            cluster.wait_healthy(Duration::from_secs(60))?;
            std::thread::sleep(Duration::from_secs(3));
        }
        let start = Instant::now();
        processes::kill(&cluster.processes_with(&["hikube", " engine ", &node]))?;
        ledger.wait_progress(ENGINE_PAUSE)?;
        println!(
            "{round} was killed: the database paused for {:.2} s",
            ledger.longest_pause(start).as_secs_f64()
        );
    }
    cluster.wait_healthy(Duration::from_secs(60))?;
    let checked = ledger.check(&hosts(cluster, &home)?[0])?;
    println!("{checked} transactions are there");
    ledger.stop();
    let after = container_ids(cluster)?;
    ensure(before == after, || {
        format!("containers were restarted: {before:?}, then {after:?}")
    })
}

fn of(list: &Value, wanted: impl Fn(&Value) -> bool, what: &str) -> Result<Value> {
    let found = list.as_array().into_iter().flatten().find(|item| wanted(item));
    found
        .cloned()
        .with_context(|| format!("status shows no {what}: {list}"))
}

/// Seconds from `kubectl create` until the pod is available; kubectl itself is retried as a user would.
fn new_deployment(cluster: &Cluster, name: &str) -> Result<f64> {
    let start = Instant::now();
    let limit = Duration::from_secs(15);
    eventually("create a Deployment", limit, || {
        cluster.apply(&workloads::deployment(name, 1))
    })?;
    eventually("Deployment available", limit, || {
        let deployment = cluster.json(&["get", "deployment", name, "--request-timeout=3s"])?;
        ensure(deployment["status"]["availableReplicas"] == 1, || {
            format!("status {}", deployment["status"])
        })
    })?;
    let took = start.elapsed();
    cluster.kube(&["delete", "deployment", name, "--wait=false"])?;
    ensure(took < limit, || format!("took {:.1} s", took.as_secs_f64()))?;
    Ok(took.as_secs_f64())
}

/// How long all control planes are away.
const OUTAGE: Duration = Duration::from_secs(60);

/// All control planes are stopped for a minute: pods go on, and so do their writes.
pub fn outage(cluster: &Cluster) -> Result<()> {
    let home = regions::home_node(cluster)?;
    let ledger = Ledger::start(hosts(cluster, &home)?)?;
    let before = container_ids(cluster)?;
    let planes = cluster.processes_with(&["hikube", " control-plane "]);
    ensure(!planes.is_empty(), || "no control plane runs".into())?;
    // Stopped rather than killed: the supervisor would start them again at once.
    signal("-STOP", &planes)?;
    let start = Instant::now();
    let shown = picture_without_api(cluster);
    std::thread::sleep(OUTAGE.saturating_sub(start.elapsed()));
    let pause = ledger.longest_pause(start);
    signal("-CONT", &planes)?;
    println!(
        "longest pause of the writer during the outage: {:.2} s",
        pause.as_secs_f64()
    );
    shown?;
    cluster.wait_healthy(Duration::from_secs(60))?;
    ledger.stop();
    ensure(pause < Duration::from_secs(1), || {
        format!("I/O paused for {:.1} s", pause.as_secs_f64())
    })?;
    let after = container_ids(cluster)?;
    ensure(before == after, || {
        "containers were restarted by the outage".into()
    })
}

/// `hikube status` without an API server: within 2 s, with what stores and engines know, and no guess.
fn picture_without_api(cluster: &Cluster) -> Result<()> {
    let start = Instant::now();
    let status = cluster.status()?;
    let took = start.elapsed();
    ensure(took < Duration::from_secs(2), || {
        format!("status took {:.1} s", took.as_secs_f64())
    })?;
    let volumes = status["volumes"].as_array().context("volumes")?;
    let whole = |v: &Value| v["replicas"].as_array().is_some_and(|r| r.len() == 3);
    ensure(!volumes.is_empty() && volumes.iter().all(whole), || {
        format!("volumes {}", status["volumes"])
    })?;
    let planes = status["controlPlanes"].as_array().context("controlPlanes")?;
    ensure(planes.iter().all(|p| p["ready"] == false), || {
        format!("control planes {}", status["controlPlanes"])
    })
}

fn signal(signal: &str, processes: &[processes::Process]) -> Result<()> {
    let pids = processes.iter().map(|p| p.pid.to_string());
    output(std::process::Command::new("kill").arg(signal).args(pids)).map(drop)
}

/// Container ids of all pods of the tests.
fn container_ids(cluster: &Cluster) -> Result<Vec<String>> {
    let pods = cluster.json(&["get", "pods", "-A"])?;
    let mut ids = Vec::new();
    for pod in pods["items"].as_array().context("pods")? {
        for container in pod["status"]["containerStatuses"]
            .as_array()
            .into_iter()
            .flatten()
        {
            ids.push(format!(
                "{} {}",
                pod["metadata"]["name"], container["containerID"]
            ));
        }
    }
    ids.sort();
    Ok(ids)
}

/// Every process that `hikube up` started is killed at once; `hikube up` brings back all state and data.
pub fn kill_all(cluster: &Cluster) -> Result<()> {
    let home = regions::home_node(cluster)?;
    let ledger = Ledger::start(hosts(cluster, &home)?)?;
    std::thread::sleep(Duration::from_secs(2));
    let objects = cluster.kube(&[
        "get",
        "deployments,statefulsets,configmaps,secrets,pvc",
        "-A",
        "-o",
        "name",
    ])?;
    let all = processes::of_cluster(&cluster.name);
    println!("killing {} processes", all.len());
    processes::kill(&all)?;
    std::thread::sleep(Duration::from_millis(500));
    // What a supervisor started between the listing and its own end.
    let _ = processes::kill(&processes::of_cluster(&cluster.name));
    let took = cluster.up()?;
    println!("up again in {:.1} s", took.as_secs_f64());
    let again = cluster.kube(&[
        "get",
        "deployments,statefulsets,configmaps,secrets,pvc",
        "-A",
        "-o",
        "name",
    ])?;
    ensure(objects == again, || {
        format!("objects differ:\n{objects}\nnow\n{again}")
    })?;
    regions::wait_database(cluster, Duration::from_secs(90))?;
    let home = regions::home_node(cluster)?;
    let hosts = hosts(cluster, &home)?;
    ledger.prefer(hosts.clone());
    ledger.wait_progress(Duration::from_secs(30))?;
    println!(
        "{} acknowledged transactions, none lost",
        ledger.check(&hosts[0])?
    );
    query(&hosts[0], "select count(*) from pgbench_accounts")?;
    ledger.stop();
    cluster.wait_replicated(Duration::from_secs(60))
}
