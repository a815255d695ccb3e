//! A client of PostgreSQL outside of every region that knows which of its transactions were acknowledged, and
//! when. It goes on through failures, as an application with a reconnect loop does.

use crate::cluster::Cluster;
use crate::shell::{ensure, output};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// NodePort of the database.
pub const PORT: u16 = 30432;
/// A transaction without an answer for so long is given up, its outcome unknown.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

#[derive(Default)]
struct Book {
    acknowledged: Vec<(u64, Instant)>,
    attempted: u64,
}

/// A running writer.
pub struct Ledger {
    book: Arc<Mutex<Book>>,
    hosts: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ledger {
    /// Makes the table and begins to write. `hosts` are node addresses, the preferred one first.
    pub fn start(hosts: Vec<String>) -> Result<Self> {
        let host = hosts.first().context("no host")?;
        query(
            host,
            "create table if not exists ledger (n bigint primary key, at timestamptz default now())",
        )?;
        let last: u64 = query(host, "select coalesce(max(n), 0) from ledger")?
            .trim()
            .parse()
            .context("max(n)")?;
        let mut ledger = Self {
            book: Arc::new(Mutex::new(Book {
                acknowledged: Vec::new(),
                attempted: last,
            })),
            hosts: Arc::new(Mutex::new(hosts)),
            stop: Arc::new(AtomicBool::new(false)),
            thread: None,
        };
        let (book, hosts, stop) = (ledger.book.clone(), ledger.hosts.clone(), ledger.stop.clone());
        ledger.thread = Some(std::thread::spawn(move || write(&book, &hosts, &stop)));
        Ok(ledger)
    }

    /// Which addresses to try from now on when a connection breaks.
    pub fn prefer(&self, hosts: Vec<String>) {
        *lock(&self.hosts) = hosts;
    }

    /// How many transactions were acknowledged.
    pub fn count(&self) -> usize {
        lock(&self.book).acknowledged.len()
    }

    /// Longest time without an acknowledgement since `from`, up to now.
    pub fn longest_pause(&self, from: Instant) -> Duration {
        let book = lock(&self.book);
        let times = book
            .acknowledged
            .iter()
            .map(|(_, at)| *at)
            .filter(|at| *at >= from);
        let mut last = from;
        let mut longest = Duration::ZERO;
        for at in times.chain([Instant::now()]) {
            longest = longest.max(at.saturating_duration_since(last));
            last = at;
        }
        longest
    }

    /// Waits until transactions are acknowledged again, since now.
    pub fn wait_progress(&self, limit: Duration) -> Result<()> {
        let (before, start) = (self.count(), Instant::now());
        while self.count() < before + 3 {
            if start.elapsed() > limit {
                bail!("no transaction was acknowledged for {} s", limit.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Compares what was acknowledged with what the table holds: nothing lost, nothing that was never written.
    pub fn check(&self, host: &str) -> Result<usize> {
        // First what was acknowledged, then the table: the writer goes on meanwhile.
        let acknowledged: Vec<u64> = lock(&self.book).acknowledged.iter().map(|(n, _)| *n).collect();
        let rows = query(host, "select n from ledger")?;
        let attempted = lock(&self.book).attempted;
        let stored: BTreeSet<u64> = rows.lines().filter_map(|l| l.trim().parse().ok()).collect();
        let lost: Vec<u64> = acknowledged
            .iter()
            .copied()
            .filter(|n| !stored.contains(n))
            .collect();
        ensure(lost.is_empty(), || {
            format!(
                "{} acknowledged transactions are lost: {:?}",
                lost.len(),
                &lost[..lost.len().min(10)]
            )
        })?;
        let invented = stored.iter().filter(|n| **n > attempted).count();
        ensure(invented == 0, || format!("{invented} rows were never written"))?;
        Ok(acknowledged.len())
    }

    /// Ends the writer.
    pub fn stop(self) {
        drop(self);
    }
}

/// Also when a step fails: another writer of the same numbers would make the next steps fail, too.
impl Drop for Ledger {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// One connection: a psql fed with one statement at a time.
struct Connection {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Connection {
    fn open(host: &str) -> Result<Self> {
        let mut child = psql(host)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start psql")?;
        let input = child.stdin.take().context("standard input")?;
        let stdout = BufReader::new(child.stdout.take().context("standard output")?);
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, input, lines })
    }

    /// Inserts `n`; Ok only when the server said that it is committed.
    fn insert(&mut self, n: u64) -> Result<()> {
        writeln!(self.input, "insert into ledger (n) values ({n}) returning n;")?;
        self.input.flush()?;
        let line = self.lines.recv_timeout(ANSWER_LIMIT)?;
        ensure(line.trim() == n.to_string(), || {
            format!("unexpected answer {line:?}")
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write(book: &Mutex<Book>, hosts: &Mutex<Vec<String>>, stop: &AtomicBool) {
    let mut attempt = 0;
    let mut connection: Option<Connection> = None;
    while !stop.load(Ordering::Relaxed) {
        let host = {
            let hosts = lock(hosts);
            hosts
                .get(attempt % hosts.len().max(1))
                .cloned()
                .unwrap_or_default()
        };
        let Some(open) = connection.as_mut() else {
            connection = Connection::open(&host).ok();
            continue;
        };
        let n = {
            let mut book = lock(book);
            book.attempted += 1;
            book.attempted
        };
        if open.insert(n).is_ok() {
            lock(book).acknowledged.push((n, Instant::now()));
            // Leaves processor time to the cluster: two cores carry everything.
            std::thread::sleep(Duration::from_millis(5));
        } else {
            connection = None;
            attempt += 1;
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn psql(host: &str) -> Command {
    let mut command = Command::new("psql");
    command.args([
        "-qAtX",
        "-v",
        "ON_ERROR_STOP=1",
        "-h",
        host,
        "-p",
        &PORT.to_string(),
        "-U",
        "postgres",
    ]);
    command
        .env("PGCONNECT_TIMEOUT", "2")
        .env("PGDATABASE", "postgres");
    command
}

/// The rows that a query gives, one a line.
pub fn query(host: &str, sql: &str) -> Result<String> {
    output(psql(host).args(["-c", sql]))
}

/// Addresses of the nodes, that of `first` before the others.
pub fn hosts(cluster: &Cluster, first: &str) -> Result<Vec<String>> {
    let nodes = cluster.json(&["get", "nodes"])?;
    let mut hosts = Vec::new();
    for node in nodes["items"].as_array().context("nodes")? {
        let addresses = node["status"]["addresses"].as_array().context("addresses")?;
        let internal = addresses
            .iter()
            .find(|a| a["type"] == "InternalIP")
            .context("no InternalIP")?;
        let address = internal["address"].as_str().context("address")?.to_owned();
        if node["metadata"]["name"] == first {
            hosts.insert(0, address)
        } else {
            hosts.push(address)
        }
    }
    Ok(hosts)
}
