//! The workload of `cargo xtask bench api`: the API server in a process of its own against one durable etcd, with
//! wrk and bare etcd clients beside it, over TLS and with RBAC. Prints a table in Markdown.
#![allow(clippy::print_stdout)]

mod http;
mod process;
mod setup;
mod watchers;
mod wrk;

use anyhow::Result;
use clap::Parser;
use setup::Bench;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// As in the `hikube` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Objects of the large list.
const OBJECTS: usize = 20_000;
/// Bytes of data in each.
const DATA_BYTES: usize = 512;
/// How long the server is left alone before its memory and processor time count.
const IDLE: Duration = Duration::from_secs(20);

#[derive(Parser)]
enum Arguments {
    /// Runs the API server (the bench starts this by itself).
    Serve {
        /// Where certificates are.
        #[arg(long)]
        dir: PathBuf,
        /// Port.
        #[arg(long)]
        port: u16,
        /// URL of etcd.
        #[arg(long)]
        etcd: String,
    },
    /// Measures.
    Run {
        /// Length of each load, in seconds.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Connected watchers.
        #[arg(long, default_value_t = 1000)]
        watchers: usize,
        /// Only these loads, for work on one of them: gets, lists, watchers, creates.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
    },
}

/// One line of the table.
struct Row {
    name: String,
    ours: f64,
    target: f64,
    /// What bare etcd does in the same run.
    etcd: Option<f64>,
    /// Processor time of server and etcd for each request, in microseconds.
    cost: Option<[f64; 2]>,
    /// More is better.
    more: bool,
    limit: &'static str,
}

fn main() -> Result<()> {
    tls::install_provider();
    match Arguments::parse() {
        Arguments::Serve { dir, port, etcd } => setup::serve(&dir, port, etcd),
        Arguments::Run {
            seconds,
            watchers,
            only,
        } => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            let rows = runtime.block_on(measure(Duration::from_secs(seconds), watchers, &only))?;
            println!("{}", table(&rows));
            Ok(())
        }
    }
}

async fn measure(length: Duration, watchers: usize, only: &[String]) -> Result<Vec<Row>> {
    let wanted = |load: &str| only.is_empty() || only.iter().any(|o| o == load);
    let (bench, mut rows) = start(only.is_empty()).await?;
    if wanted("gets") {
        rows.push(gets(&bench, length).await?);
    }
    if wanted("lists") {
        rows.push(lists(&bench, length).await?);
        rows.push(memory(&bench, "after the lists, MB resident", 150.0)?);
    }
    if wanted("watchers") {
        rows.push(fan(&bench, watchers, length).await?);
    }
    if wanted("creates") {
        rows.push(creates(&bench, length).await?);
    }
    Ok(rows)
}

/// A server with its objects, and what its start and its rest cost.
async fn start(idle: bool) -> Result<(Bench, Vec<Row>)> {
    let mut rows = Vec::new();
    let (mut bench, first) = Bench::start().await?;
    rows.push(row(
        "start on an empty etcd, s",
        first.as_secs_f64(),
        0.3,
        false,
        "writes of the default objects",
    ));
    let again = bench.restart().await?;
    rows.push(row(
        "start again, s",
        again.as_secs_f64(),
        0.3,
        false,
        "reading etcd; TLS handshake of the first probe",
    ));
    bench.prepare().await?;
    rows.push(memory(&bench, "idle, MB resident", 40.0)?);
    if idle {
        let before = bench.server.cpu()?;
        tokio::time::sleep(IDLE).await;
        let busy = (bench.server.cpu()? - before).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
        rows.push(row(
            "idle, % of a core",
            busy,
            0.5,
            false,
            "keep-alives and lease renewal",
        ));
    }
    let started = Instant::now();
    bench.fill(OBJECTS).await?;
    eprintln_progress(&format!("filled in {:.1} s", started.elapsed().as_secs_f64()));
    rows.push(memory(&bench, "with 20,000 ConfigMaps, MB resident", 150.0)?);
    Ok((bench, rows))
}

async fn gets(bench: &Bench, length: Duration) -> Result<Row> {
    let etcd = bench.etcd_gets(length).await?;
    let path = "/api/v1/namespaces/load/configmaps/c00007";
    let (gets, cost) = costing(bench, length, || wrk::get(bench, length, 32, path))?;
    Ok(Row {
        etcd: Some(etcd),
        cost: Some(cost),
        ..row(
            "GETs of one object/s, linearizable",
            gets,
            8.0 * 4750.0,
            true,
            "processor: TLS and system calls, shared with wrk and etcd",
        )
    })
}

async fn lists(bench: &Bench, length: Duration) -> Result<Row> {
    let etcd = bench.etcd_lists(length).await?;
    let path = "/api/v1/namespaces/load/configmaps";
    let (lists, cost) = costing(bench, length, || wrk::get(bench, length, 4, path))?;
    Ok(Row {
        etcd: Some(etcd),
        cost: Some(cost),
        ..row(
            "full lists of 20,000/s",
            lists,
            8.0 * 5.6,
            true,
            "TLS and copies of the kernel, shared with wrk",
        )
    })
}

async fn fan(bench: &Bench, watchers: usize, length: Duration) -> Result<Row> {
    let fan = watchers::run(bench, watchers, length).await?;
    // A slow machine does not reach the pace, and then the delay is of fewer changes than the aim's.
    let name = format!(
        "{watchers} watchers, {:.0} changes/s (of 200 wanted): p99 delivery, ms",
        fan.changes_per_second
    );
    Ok(row(
        &name,
        fan.p99_ms,
        50.0,
        false,
        "processor: a write to a socket for each watcher and batch",
    ))
}

async fn creates(bench: &Bench, length: Duration) -> Result<Row> {
    let etcd = bench.etcd_creates(length).await?;
    let (creates, cost) = costing(bench, length, || wrk::create(bench, length, 32))?;
    let target = (2.0 * 1970.0f64).max(0.8 * etcd);
    Ok(Row {
        etcd: Some(etcd),
        cost: Some(cost),
        ..row("creates/s", creates, target, true, "etcd's disk and processor")
    })
}

/// A load's rate, and what each of its requests cost the server and etcd in microseconds of processor time. Unlike the
/// rate, the cost hardly depends on what else the machine does.
fn costing(bench: &Bench, length: Duration, load: impl FnOnce() -> Result<f64>) -> Result<(f64, [f64; 2])> {
    let before = bench.cpu()?;
    let rate = load()?;
    let after = bench.cpu()?;
    let requests = rate * length.as_secs_f64();
    let cost = [0, 1].map(|i| (after[i] - before[i]).as_secs_f64() * 1e6 / requests);
    eprintln_progress(&format!(
        "for each request: server {:.1} us, etcd {:.1} us",
        cost[0], cost[1]
    ));
    Ok((rate, cost))
}

fn row(name: &str, ours: f64, target: f64, more: bool, limit: &'static str) -> Row {
    Row {
        name: name.into(),
        ours,
        target,
        etcd: None,
        cost: None,
        more,
        limit,
    }
}

fn memory(bench: &Bench, name: &str, target: f64) -> Result<Row> {
    Ok(row(
        name,
        bench.server.resident_mb()?,
        target,
        false,
        "objects, buffers of connections, the program itself",
    ))
}

fn table(rows: &[Row]) -> String {
    let mut out = String::from(
        "| | measured | aim | reached | bare etcd | of bare etcd | CPU of server + etcd, µs each | limit |\n|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let reached = if row.more {
            row.ours / row.target
        } else {
            row.target / row.ours.max(0.001)
        };
        let etcd = row.etcd.map_or_else(
            || "|".to_owned(),
            |e| format!("{} | {:.0} %", number(e), row.ours / e * 100.0),
        );
        let cost = row.cost.map_or_else(String::new, |[server, etcd]| {
            format!("{} + {}", number(server), number(etcd))
        });
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "| {} | {} | {} | {:.2} x | {etcd} | {cost} | {} |",
            row.name,
            number(row.ours),
            number(row.target),
            reached,
            row.limit
        );
    }
    out
}

fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 1.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// Says on standard error how far it is.
fn eprintln_progress(text: &str) {
    use std::io::Write;
    // Nobody has to read it.
    let _ = writeln!(std::io::stderr(), "bench api: {text}");
}
