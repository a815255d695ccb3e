//! Acceptance 3: PostgreSQL on a replicated claim, while each region in turn fails.

use crate::cluster::{Cluster, REGIONS, is_ready};
use crate::image;
use crate::ledger::{self, Ledger, PORT, query};
use crate::shell::{ensure, eventually, output};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The pod must run elsewhere within this time.
const FAILOVER: Duration = Duration::from_secs(30);
/// No pause may be longer where the failed region does not host the pod.
const PAUSE: Duration = Duration::from_secs(1);

fn manifest() -> String {
    format!(
        "apiVersion: v1
kind: Namespace
metadata: {{name: pg}}
---
apiVersion: v1
kind: Service
metadata: {{name: pg, namespace: pg}}
spec:
  type: NodePort
  selector: {{app: pg}}
  ports: [{{port: 5432, nodePort: {PORT}}}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: pg, namespace: pg}}
spec:
  serviceName: pg
  selector: {{matchLabels: {{app: pg}}}}
  template:
    metadata: {{labels: {{app: pg}}}}
    spec:
      securityContext: {{runAsUser: {uid}, runAsGroup: {uid}, fsGroup: {uid}}}
      containers:
      - name: postgres
        image: {image}
        imagePullPolicy: Never
        ports: [{{containerPort: 5432}}]
        readinessProbe: {{exec: {{command: [pg_isready, -h, localhost]}}, periodSeconds: 1}}
        volumeMounts: [{{name: data, mountPath: /data}}]
  volumeClaimTemplates:
  - metadata: {{name: data}}
    spec:
      accessModes: [ReadWriteOnce]
      storageClassName: replicated
      resources: {{requests: {{storage: 2Gi}}}}
",
        uid = image::POSTGRES_UID,
        image = image::POSTGRES
    )
}

/// Builds and loads the image, starts PostgreSQL on a claim, and fills pgbench's tables.
pub fn postgres(cluster: &Cluster) -> Result<()> {
    let archive = image::build_postgres(&cluster.dir)?;
    output(&mut cluster.hikube(&["image", "load", &archive.to_string_lossy()]))?;
    cluster.apply(&manifest())?;
    wait_database(cluster, Duration::from_secs(90))?;
    let hosts = ledger::hosts(cluster, &home_node(cluster)?)?;
    output(pgbench(&hosts[0])?.args(["-i", "-q", "-s", "2"]))?;
    Ok(())
}

fn pgbench(host: &str) -> Result<Command> {
    let mut command = Command::new(image::postgres_dir()?.join("bin/pgbench"));
    command
        .args(["-h", host, "-p", &PORT.to_string(), "-U", "postgres"])
        .env("PGCONNECT_TIMEOUT", "2")
        .env("PGDATABASE", "postgres");
    Ok(command)
}

/// Waits until the database's pod is Ready.
pub fn wait_database(cluster: &Cluster, limit: Duration) -> Result<()> {
    eventually("PostgreSQL Ready", limit, || {
        let pod = cluster.json(&["get", "pod", "pg-0", "-n", "pg", "--request-timeout=3s"])?;
        ensure(is_ready(&pod), || format!("pg-0: {}", pod["status"]["phase"]))
    })
}

/// The node that runs the database.
pub fn home_node(cluster: &Cluster) -> Result<String> {
    let pod = cluster.json(&["get", "pod", "pg-0", "-n", "pg", "--request-timeout=3s"])?;
    pod["spec"]["nodeName"]
        .as_str()
        .map(str::to_owned)
        .context("pg-0 has no node")
}

/// pgbench in the background, started anew when it ends because its server went away.
struct Load {
    child: Option<Child>,
}

impl Load {
    fn start(host: &str) -> Result<Self> {
        let child = pgbench(host)?
            .args(["-n", "-c", "2", "-T", "600", "-R", "60"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start pgbench")?;
        Ok(Self { child: Some(child) })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(child) = self.child.as_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Watches how many regions run a postgres of this cluster at the same moment.
struct CopyWatch {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl CopyWatch {
    fn start(cluster: &Cluster) -> Self {
        let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, highest, name) = (stop.clone(), most.clone(), cluster.name.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                highest.fetch_max(regions_with_postgres(&name).len(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        Self {
            stop,
            most,
            thread: Some(thread),
        }
    }

    fn finish(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.most.load(Ordering::Relaxed)
    }
}

/// Regions in whose cgroup a postgres server of the data directory runs.
fn regions_with_postgres(name: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for process in crate::processes::of_cluster(name) {
        if !process.command.contains("postgres -D /data/pg") {
            continue;
        }
        let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).unwrap_or_default();
        found.extend(
            REGIONS
                .iter()
                .filter(|r| cgroups.contains(&format!("/{r}")))
                .map(|r| (*r).to_owned()),
        );
    }
    found
}

/// Fails each region in turn (those without the pod first, so that the pod's own comes last), restores it, and
/// compares what was acknowledged with what is there.
pub fn each(cluster: &Cluster, flags: &[&str]) -> Result<()> {
    for region in REGIONS {
        one_region(cluster, region, flags)?;
    }
    // The pod may have moved into a region that had its turn already.
    let home = cluster.region_of_node(&home_node(cluster)?)?;
    println!("the pod ends in {home}");
    Ok(())
}

/// Cuts off the region that hosts the pod.
pub fn cut_home(cluster: &Cluster) -> Result<()> {
    let home = cluster.region_of_node(&home_node(cluster)?)?;
    let watch = CopyWatch::start(cluster);
    let result = one_region(cluster, &home, &["--cut"]);
    let most = watch.finish();
    result?;
    ensure(most == 1, || {
        format!("{most} copies of PostgreSQL ran at the same time")
    })
}

fn one_region(cluster: &Cluster, region: &str, flags: &[&str]) -> Result<()> {
    let node = home_node(cluster)?;
    let hosted = cluster.region_of_node(&node)? == region;
    let hosts = ledger::hosts(cluster, &node)?;
    let ledger = Ledger::start(hosts.clone())?;
    let load = Load::start(&hosts[0])?;
    ledger.wait_progress(Duration::from_secs(10))?;
    let start = Instant::now();
    let mut fail = vec!["region", "fail", region];
    fail.extend(flags);
    output(&mut cluster.hikube(&fail))?;
    let outcome = if hosted {
        moved(cluster, &ledger, region)
    } else {
        undisturbed(&ledger, start)
    };
    let restored = output(&mut cluster.hikube(&["region", "restore", region]));
    println!(
        "{region}{}: {}",
        if hosted { " (hosts the pod)" } else { "" },
        outcome?
    );
    restored?;
    cluster.wait_healthy(Duration::from_secs(60))?;
    cluster.wait_replicated(Duration::from_secs(90))?;
    let node = home_node(cluster)?;
    let hosts = ledger::hosts(cluster, &node)?;
    // Equal by checksum while the writer goes on.
    let volumes = cluster.verify_volumes()?;
    println!(
        "{} acknowledged, none lost; {volumes} volumes equal in all regions",
        ledger.check(&hosts[0])?
    );
    drop(load);
    ledger.stop();
    let sums = query(
        &hosts[0],
        "select (select sum(abalance) from pgbench_accounts) - (select sum(tbalance) from pgbench_tellers)",
    )?;
    ensure(sums.trim() == "0", || {
        format!("pgbench's sums differ by {}", sums.trim())
    })
}

/// The region did not host the pod: the writer must not notice.
fn undisturbed(ledger: &Ledger, start: Instant) -> Result<String> {
    // Longer than every timer of fencing and fail-over.
    std::thread::sleep(Duration::from_secs(20));
    let pause = ledger.longest_pause(start);
    ensure(pause < PAUSE, || {
        format!("the writer paused for {:.2} s", pause.as_secs_f64())
    })?;
    Ok(format!("longest pause {:.2} s", pause.as_secs_f64()))
}

/// The region hosted the pod: it must run elsewhere, by itself, in time.
fn moved(cluster: &Cluster, ledger: &Ledger, region: &str) -> Result<String> {
    let start = Instant::now();
    eventually("the pod elsewhere", FAILOVER, || {
        let node = home_node(cluster)?;
        ensure(cluster.region_of_node(&node)? != region, || {
            format!("still on {node}")
        })?;
        wait_database(cluster, Duration::ZERO)?;
        ledger.prefer(ledger::hosts(cluster, &node)?);
        Ok(())
    })?;
    let took = start.elapsed();
    ledger.wait_progress(Duration::from_secs(15))?;
    ensure(took < FAILOVER, || {
        format!("fail-over took {:.1} s", took.as_secs_f64())
    })?;
    Ok(format!("runs elsewhere after {:.1} s", took.as_secs_f64()))
}
