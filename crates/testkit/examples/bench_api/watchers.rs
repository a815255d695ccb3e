//! Many watchers of one resource, each on a connection of its own as kubelets are, while it changes.

use crate::eprintln_progress;
use crate::http::Connection;
use crate::setup::{Bench, config_map};
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Time between two changes: 200 a second.
const PACE: Duration = Duration::from_millis(5);
/// Marks the time at which a change was sent, in the object.
const MARK: &str = "\"sent\":\"";
/// Connections that open at once.
const OPENING: usize = 50;
/// Connections that make the changes.
const WRITERS: usize = 8;

/// What was measured.
pub struct Fan {
    /// 99th percentile of the time from sending a change to its arrival at a watcher.
    pub p99_ms: f64,
    /// Changes made per second.
    pub changes_per_second: f64,
}

/// Lets so many watchers watch while ConfigMaps change for a time.
pub async fn run(bench: &Bench, watchers: usize, length: Duration) -> Result<Fan> {
    let epoch = Instant::now();
    let mut tasks: JoinSet<Result<Vec<u32>>> = JoinSet::new();
    let end = epoch + length + Duration::from_secs(60);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    for batch in (0..watchers).collect::<Vec<_>>().chunks(OPENING) {
        let opened = batch
            .iter()
            .map(|_| Connection::open(bench.address, &bench.tls, &bench.token));
        for connection in futures_join(opened).await {
            let (connection, stopped) = (connection?, stopped.clone());
            tasks.spawn(watch(connection, epoch, end, stopped));
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    eprintln_progress(&format!("{watchers} watchers"));
    let before = bench.cpu()?;
    let (changes, took) = change(bench, epoch, length).await?;
    let after = bench.cpu()?;
    eprintln_progress(&format!(
        "server {:.0} %, etcd {:.0} % of a core",
        (after[0] - before[0]).as_secs_f64() / took.as_secs_f64() * 100.0,
        (after[1] - before[1]).as_secs_f64() / took.as_secs_f64() * 100.0
    ));
    // What is under way still arrives.
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.send_replace(true);
    let mut all = Vec::new();
    while let Some(result) = tasks.join_next().await {
        all.extend(result??);
    }
    all.sort_unstable();
    eprintln_progress(&format!(
        "{changes} changes, {} deliveries of {}",
        all.len(),
        changes * watchers
    ));
    ensure!(
        all.len() == changes * watchers,
        "deliveries are missing: {} of {}",
        all.len(),
        changes * watchers
    );
    eprintln_progress(&format!(
        "delivery: median {:.1} ms, p99 {:.1} ms",
        f64::from(all[all.len() / 2]) / 1000.0,
        f64::from(all[all.len() * 99 / 100]) / 1000.0
    ));
    Ok(Fan {
        p99_ms: f64::from(all[all.len() * 99 / 100]) / 1000.0,
        changes_per_second: changes as f64 / took.as_secs_f64(),
    })
}

async fn futures_join<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut out = Vec::new();
    // One after the other is quick enough: a handshake takes a millisecond.
    for future in futures {
        out.push(future.await);
    }
    out
}

/// Changes ConfigMaps at the pace, from several connections in turn; how many, and how long it took.
async fn change(bench: &Bench, epoch: Instant, length: Duration) -> Result<(usize, Duration)> {
    let started = Instant::now();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let mut connection = Connection::open(bench.address, &bench.tls, &bench.token).await?;
        writers.spawn(async move {
            let name = format!("c{writer:05}");
            let path = format!("/api/v1/namespaces/load/configmaps/{name}");
            let mut changes = 0;
            let mut next = started + PACE * u32::try_from(writer)?;
            while started.elapsed() < length {
                tokio::time::sleep_until(next.into()).await;
                next += PACE * u32::try_from(WRITERS)?;
                let sent = epoch.elapsed().as_micros();
                let object = config_map(&name).replace("\"data\":{", &format!("\"data\":{{{MARK}{sent}\","));
                let (code, body) = connection.request("PUT", &path, &object).await?;
                ensure!(code == 200, "{code} {}", String::from_utf8_lossy(&body));
                changes += 1;
            }
            Ok(changes)
        });
    }
    let mut changes = 0;
    while let Some(result) = writers.join_next().await {
        changes += result??;
    }
    Ok((changes, started.elapsed()))
}

/// Watches until it is stopped; the delays of what came, in microseconds.
async fn watch(
    mut connection: Connection,
    epoch: Instant,
    end: Instant,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) -> Result<Vec<u32>> {
    let path = "/api/v1/namespaces/load/configmaps?watch=1&resourceVersion=0&sendInitialEvents=false&resourceVersionMatch=NotOlderThan";
    connection.send("GET", path, "").await?;
    let mut delays = Vec::new();
    let mut text: Vec<u8> = Vec::with_capacity(16 << 10);
    loop {
        tokio::select! {
            read = connection.read(&mut text) => read?,
            _ = stopped.wait_for(|s| *s) => return Ok(delays),
            () = tokio::time::sleep_until(end.into()) => return Ok(delays),
        }
        let now = epoch.elapsed().as_micros();
        // Whole lines; the rest stays for the next read.
        let Some(last) = text.iter().rposition(|b| *b == b'\n') else {
            continue;
        };
        let lines = String::from_utf8_lossy(&text[..last]);
        for (at, _) in lines.match_indices(MARK) {
            let digits = lines[at + MARK.len()..].split('"').next().unwrap_or_default();
            let sent: u128 = digits.parse()?;
            delays.push(u32::try_from(now.saturating_sub(sent)).unwrap_or(u32::MAX));
        }
        drop(lines);
        text.drain(..=last);
    }
}
