//! What replication costs: a replicated volume through its NBD socket, and the disk below it, in one run.
//!
//! Three stores and the engines are processes of their own; all three replicas are on one disk, so the limit of a
//! replicated write is a third of what three writers get that write to three preallocated files at once. Run it with
//! `cargo xtask bench volume`.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

#[path = "../../tests/cluster/mod.rs"]
mod cluster;
mod fio;
mod report;

use clap::Parser;
use cluster::{Cluster, REGIONS, create, get};
use fio::{Figures, Load, finish, start_nbd, start_raw};
use protos::engine as api;
use protos::engine::engine_client::EngineClient;
use report::Row;
use serde_json::json;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tonic::transport::Channel;

const MIB: u64 = 1 << 20;
/// Replicas, and so parallel writers below.
const WRITERS: u32 = 3;
/// Foreground writes a second while a region catches up: something to disturb.
const FOREGROUND_IOPS: u32 = 500;

/// Unit of the times in /proc/<pid>/stat, on every architecture that we run on.
const TICKS_PER_SECOND: f64 = 100.0;
/// Unit of /proc/<pid>/statm here.
const PAGE_BYTES: u64 = 4096;

/// Measures a replicated volume against the disk below it.
#[derive(Parser)]
struct Arguments {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 6)]
    seconds: u32,
    /// Size of volume and files, MiB.
    #[arg(long, default_value_t = 512)]
    size_mib: u64,
    /// Scattered 4 KiB writes that a region misses, MiB, on a volume of twice the size.
    #[arg(long, default_value_t = 1024)]
    catch_up_mib: u64,
    /// Volumes on the idle store.
    #[arg(long, default_value_t = 20)]
    idle_volumes: u32,
    /// Only these rows: write, read, sequential, flush, degraded, failover, catchup, idle.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Directory on the disk to measure; a temporary directory in it is used.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Where to write the figures as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

struct Bench {
    arguments: Arguments,
    cluster: Cluster,
    client: EngineClient<Channel>,
    raw: PathBuf,
    uri: String,
    rows: Vec<Row>,
}

fn main() {
    let arguments = Arguments::parse();
    if let Some(dir) = &arguments.dir {
        // Safe: there are no other threads yet.
        tempfile::env::override_temp_dir(dir).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run(arguments));
}

async fn run(arguments: Arguments) {
    let mut cluster = Cluster::start();
    cluster.start_engine("n1", REGIONS[0]);
    let mut client = cluster.client("n1").await;
    let raw = cluster.dir.path().join("raw");
    std::fs::create_dir(&raw).unwrap();
    let size = arguments.size_mib * MIB;
    create(&mut client, "bench", size).await;
    let uri = serve(&cluster, &mut client, "bench").await;
    let mut bench = Bench {
        arguments,
        cluster,
        client,
        raw,
        uri,
        rows: Vec::new(),
    };
    bench.fill();
    bench.rates();
    bench.flushes();
    bench.degraded().await;
    bench.catch_up().await;
    bench.fail_over().await;
    bench.idle().await;
    report::print(&bench.rows);
    let setup = setup(&bench.arguments);
    println!("\n{setup}");
    if let Some(path) = &bench.arguments.json {
        let text = serde_json::to_string_pretty(&report::json(&bench.rows, setup)).unwrap();
        std::fs::write(path, text + "\n").unwrap();
    }
}

/// Attaches a volume at a socket of its own; returns the URI.
async fn serve(cluster: &Cluster, client: &mut EngineClient<Channel>, id: &str) -> String {
    let request = api::AttachVolumeRequest {
        id: id.into(),
        nbd: socket(cluster, id).display().to_string(),
        ..api::AttachVolumeRequest::default()
    };
    client
        .attach_volume(request)
        .await
        .unwrap()
        .into_inner()
        .device_path
}

fn socket(cluster: &Cluster, id: &str) -> PathBuf {
    cluster.dir.path().join(format!("{id}.nbd"))
}

fn setup(arguments: &Arguments) -> serde_json::Value {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find(|l| l.starts_with("model name"));
    json!({
        "cpu": model.and_then(|l| l.split_once(": ")).map_or("", |l| l.1),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "load": std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim(),
        "kernel": std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "tls": true,
        "seconds": arguments.seconds,
        "sizeMiB": arguments.size_mib,
        "catchUpMiB": arguments.catch_up_mib,
    })
}

impl Bench {
    fn wants(&self, row: &str) -> bool {
        self.arguments.only.is_empty() || self.arguments.only.iter().any(|only| only == row)
    }

    fn load(&self, mode: &'static str, block: &'static str, depth: u32) -> Load {
        let size = self.arguments.size_mib * MIB;
        Load::new(mode, block, depth, self.arguments.seconds, size)
    }

    fn nbd(&self, load: &Load) -> Figures {
        let before = self.cpu_seconds();
        let start = Instant::now();
        let mut figures = finish(start_nbd(&self.uri, load));
        // The seconds before fio begins to count are at the same rate.
        let requests = figures.iops * start.elapsed().as_secs_f64();
        figures.cpu_us = (self.cpu_seconds() - before) * 1e6 / requests.max(1.0);
        figures
    }

    /// CPU time of the engines and stores so far: what a request costs does not depend on who else uses the machine.
    fn cpu_seconds(&self) -> f64 {
        let stores = self.cluster.stores.iter().flatten();
        let all = self.cluster.engines.values().chain(stores);
        all.map(|child| cpu_ticks(child.id()) as f64).sum::<f64>() / TICKS_PER_SECOND
    }

    fn raw(&self, writers: u32, load: &Load) -> Figures {
        finish(start_raw(&self.raw, writers, load))
    }

    /// Writes everything once, so that nothing is measured on holes.
    fn fill(&self) {
        let mut load = self.load("write", "1M", 4);
        load.amount = load.size;
        self.raw(WRITERS, &load);
        self.nbd(&load);
    }

    fn rates(&mut self) {
        if self.wants("write") {
            let load = self.load("randwrite", "4k", 32);
            let limit = self.raw(WRITERS, &load).iops / f64::from(WRITERS);
            let volume = self.nbd(&load);
            let row = Row::rate("4 KiB random write, depth 32", "IOPS", limit, volume.iops, 0.6);
            self.rows.push(details(row, volume));
        }
        if self.wants("read") {
            let load = self.load("randread", "4k", 32);
            let limit = self.raw(1, &load).iops;
            let volume = self.nbd(&load);
            let row = Row::rate(
                "4 KiB random read (warm), depth 32",
                "IOPS",
                limit,
                volume.iops,
                0.8,
            );
            self.rows.push(details(row, volume));
        }
        if self.wants("sequential") {
            let load = self.load("write", "1M", 8);
            let limit = self.raw(WRITERS, &load).bytes_per_second / f64::from(WRITERS) / MIB as f64;
            let volume = self.nbd(&load);
            let rate = volume.bytes_per_second / MIB as f64;
            let row = Row::rate("1 MiB sequential write, depth 8", "MiB/s", limit, rate, 0.7);
            self.rows.push(details(row, volume));
        }
    }

    fn flushes(&mut self) {
        if !self.wants("flush") {
            return;
        }
        let load = self.load("randwrite", "4k", 1).flushing(1);
        let (limit, volume) = (self.raw(WRITERS, &load), self.nbd(&load));
        let whole = |f: Figures| f.p50_us + f.flush_p50_us;
        let name = "4 KiB write + flush, depth 1, median";
        self.rows
            .push(Row::cost(name, "us", whole(limit), whole(volume), 1.5));
    }

    /// The same with one region dead: no slower than with three.
    async fn degraded(&mut self) {
        if !self.wants("degraded") {
            return;
        }
        let write = self.load("randwrite", "4k", 32);
        let flush = self.load("randwrite", "4k", 1).flushing(1);
        let three = (self.nbd(&write), self.nbd(&flush));
        self.cluster.kill_store(2);
        let two = (self.nbd(&write), self.nbd(&flush));
        self.cluster.start_store(2);
        self.wait_complete(Duration::from_secs(120)).await;
        let name = "4 KiB random write, one region dead";
        self.rows
            .push(Row::rate(name, "IOPS", three.0.iops, two.0.iops, 1.0));
        let whole = |f: Figures| f.p50_us + f.flush_p50_us;
        let name = "4 KiB write + flush, one region dead";
        self.rows
            .push(Row::cost(name, "us", whole(three.1), whole(two.1), 1.0));
    }

    async fn wait_complete(&mut self, limit: Duration) -> Duration {
        self.cluster.wait_complete(&mut self.client, "bench", limit).await
    }

    /// A region misses scattered writes and makes up for them, with and without work in the foreground.
    async fn catch_up(&mut self) {
        if !self.wants("catchup") {
            return;
        }
        let missed = self.arguments.catch_up_mib * MIB;
        let size = 2 * missed;
        let load = |mode, block, depth| Load::new(mode, block, depth, self.arguments.seconds, size);
        let mut sequential = load("write", "1M", 4);
        sequential.amount = size;
        let mut foreground = load("randwrite", "4k", 4);
        foreground.rate = FOREGROUND_IOPS;
        let mut scattered = load("randwrite", "4k", 32);
        scattered.amount = missed;
        create(&mut self.client, "catchup", size).await;
        let uri = serve(&self.cluster, &mut self.client, "catchup").await;
        let nbd = |load: &Load| finish(start_nbd(&uri, load));
        // Twice: the first time makes the file.
        self.raw(1, &sequential);
        let disk = self.raw(1, &sequential).bytes_per_second / MIB as f64;
        nbd(&sequential);
        let before = nbd(&foreground);
        self.cluster.kill_store(2);
        nbd(&scattered);
        // Blocks that were hit twice differ once.
        let blocks = (size / 4096) as f64;
        let differing = blocks * (1.0 - (-(missed as f64 / 4096.0) / blocks).exp());
        foreground.seconds = 600;
        foreground.ramp_seconds = 0;
        let running = start_nbd(&uri, &foreground);
        self.cluster.start_store(2);
        let store = Instant::now();
        self.wait_copying("catchup").await;
        let start = Instant::now();
        self.cluster
            .wait_complete(&mut self.client, "catchup", Duration::from_secs(600))
            .await;
        let took = start.elapsed();
        println!(
            "the store was back after {:?}, complete after {:?}",
            start - store,
            store.elapsed()
        );
        // SIGINT makes fio stop and report.
        let pid = rustix::process::Pid::from_child(&running);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let during = finish(running);
        let speed = differing * 4096.0 / MIB as f64 / took.as_secs_f64();
        let name = format!("catch-up of {} MiB of 4 KiB writes", self.arguments.catch_up_mib);
        self.rows.push(Row::rate(&name, "MiB/s", disk, speed, 0.6));
        let name = "p99 of 4 KiB writes meanwhile";
        self.rows
            .push(Row::delay(name, "us", before.p99_us, during.p99_us, 2.0));
    }

    /// Waits until the engine is in contact with the store again.
    async fn wait_copying(&mut self, id: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while get(&mut self.client, id).await.replicas[2].state == "absent" {
            assert!(Instant::now() < deadline, "{}", self.cluster.logs());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The engine is killed, another opens the volume, and a write is done.
    async fn fail_over(&mut self) {
        if !self.wants("failover") {
            return;
        }
        self.cluster.start_engine("n2", REGIONS[1]);
        let mut other = self.cluster.client("n2").await;
        let busy = start_nbd(&self.uri, &self.load("randwrite", "4k", 32));
        tokio::time::sleep(Duration::from_secs(2)).await;
        let start = Instant::now();
        self.cluster.kill_engine("n1");
        self.uri = serve(&self.cluster, &mut other, "bench").await;
        let opened = start.elapsed();
        first_write(&socket(&self.cluster, "bench"));
        let took = start.elapsed();
        let _ = busy.wait_with_output();
        self.client = other;
        let row = Row::cost(
            "fail-over to the first write",
            "ms",
            1000.0,
            took.as_secs_f64() * 1e3,
            1.0,
        );
        self.rows
            .push(row.with("openedMs", json!(opened.as_secs_f64() * 1e3)));
    }

    /// CPU and memory of a store with volumes that nobody uses.
    async fn idle(&mut self) {
        if !self.wants("idle") {
            return;
        }
        // A fresh process: what the rows above left in its memory is not what an idle store has.
        self.cluster.stop_store(1);
        self.cluster.start_store(1);
        for i in 0..self.arguments.idle_volumes {
            let id = format!("idle-{i}");
            create(&mut self.client, &id, 64 * MIB).await;
            serve(&self.cluster, &mut self.client, &id).await;
            first_write(&socket(&self.cluster, &id));
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        let pid = self.cluster.stores[1].as_ref().unwrap().id();
        let (cpu, start) = (cpu_ticks(pid), Instant::now());
        tokio::time::sleep(Duration::from_secs(10)).await;
        let ticks = (cpu_ticks(pid) - cpu) as f64;
        let percent = ticks / TICKS_PER_SECOND / start.elapsed().as_secs_f64() * 100.0;
        let memory = resident_bytes(pid) as f64 / 1e6;
        let count = self.arguments.idle_volumes;
        let mut row = Row::cost(
            &format!("idle store, {count} volumes, CPU"),
            "% core",
            1.0,
            percent,
            1.0,
        );
        row.measured = format!("{percent:.2} % core");
        self.rows.push(row);
        self.rows.push(Row::cost(
            &format!("idle store, {count} volumes, memory"),
            "MB",
            30.0,
            memory,
            1.0,
        ));
    }
}

fn details(row: Row, figures: Figures) -> Row {
    row.with("p50Us", json!(figures.p50_us))
        .with("p99Us", json!(figures.p99_us))
        .with("cpuUs", json!(figures.cpu_us))
}

/// Connects, writes 4 KiB, and waits for the answer: the least that an NBD client can do.
fn first_write(socket: &Path) {
    let mut stream = UnixStream::connect(socket).unwrap();
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).unwrap();
    let mut request = 3u32.to_be_bytes().to_vec();
    // EXPORT_NAME of the default export.
    request.extend(b"IHAVEOPT");
    request.extend([0, 0, 0, 1, 0, 0, 0, 0]);
    stream.write_all(&request).unwrap();
    stream.read_exact(&mut [0; 10]).unwrap();
    let mut write = 0x2560_9513u32.to_be_bytes().to_vec();
    write.extend([0, 0, 0, 1]);
    write.extend([0; 16]);
    write.extend(4096u32.to_be_bytes());
    write.extend([7; 4096]);
    stream.write_all(&write).unwrap();
    let mut reply = [0; 16];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[4..8], [0; 4], "the first write failed");
}

/// User and system time of a process.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn resident_bytes(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * PAGE_BYTES
}
