//! Brings rules and settings into the kernel, with the system's tools: `nft`, `ip`, `conntrack`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Where administrators' tools are, in case the caller's PATH lacks them.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// A transaction of tens of thousands of rules takes seconds.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Flows forgotten per round; more are left to their own timeout of 30 s to 2 min.
const FLOWS_PER_ROUND: usize = 100;

/// Why a tool did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It cannot be run.
    #[error("run {tool}: {source}")]
    Run {
        tool: &'static str,
        source: std::io::Error,
    },
    /// It did not end.
    #[error("{tool} did not end within {} s", TIMEOUT.as_secs())]
    Stuck { tool: &'static str },
    /// It refused.
    #[error("{tool}: {message}")]
    Refused { tool: &'static str, message: String },
}

/// Applies commands as one transaction.
pub(crate) async fn rules(text: &str) -> Result<(), Error> {
    run("nft", &["-f", "-"], text).await
}

/// What the node's network namespace needs besides rules: forwarding, and the address at which DNS is served.
pub(crate) async fn prepare(cluster_dns: Ipv4Addr) -> Result<(), Error> {
    const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
    let forwards = std::fs::read_to_string(FORWARDING).is_ok_and(|v| v.trim() == "1");
    if !forwards {
        std::fs::write(FORWARDING, "1").map_err(|source| Error::Run {
            tool: "sysctl net.ipv4.ip_forward",
            source,
        })?;
    }
    run("ip", &["link", "set", "lo", "up"], "").await?;
    // Local on every node: a query never leaves the node that asks, and is not translated.
    let address = format!("{cluster_dns}/32");
    run(
        "ip",
        &["address", "replace", &address, "dev", "lo", "scope", "host"],
        "",
    )
    .await
}

type Targets = BTreeMap<(Ipv4Addr, u16), BTreeSet<SocketAddrV4>>;

/// Forgets the UDP flows to endpoints that are gone: clients that keep their port would go on sending there.
/// Without the `conntrack` tool they do so until they pause for 30 s.
pub(crate) async fn forget_flows(old: &Targets, new: &Targets) {
    let none = BTreeSet::new();
    let gone = old.iter().flat_map(|(key, endpoints)| {
        let kept = new.get(key).unwrap_or(&none);
        endpoints.difference(kept).map(|e| (*key, *e))
    });
    for ((address, port), endpoint) in gone.take(FLOWS_PER_ROUND) {
        let (address, port, ip) = (address.to_string(), port.to_string(), endpoint.ip().to_string());
        let mut args = vec!["-D", "-p", "udp", "--orig-port-dst", &port, "--reply-src", &ip];
        if address != "0.0.0.0" {
            args.extend(["--orig-dst", &address]);
        }
        // No such flow is an error to this tool, and the usual case.
        if let Err(error) = run("conntrack", &args, "").await {
            tracing::debug!(%error, "no flow forgotten");
        }
    }
}

async fn run(tool: &'static str, args: &[&str], input: &str) -> Result<(), Error> {
    let failed = |source| Error::Run { tool, source };
    let work = async {
        let mut child = Command::new(tool)
            .args(args)
            .env("PATH", PATH)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A tool that ends early says why itself.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        let output = child.wait_with_output().await.map_err(failed)?;
        if output.status.success() {
            return Ok(());
        }
        let message: String = String::from_utf8_lossy(&output.stderr)
            .chars()
            .take(500)
            .collect();
        Err(Error::Refused {
            tool,
            message: message.trim().to_owned(),
        })
    };
    tokio::time::timeout(TIMEOUT, work)
        .await
        .map_err(|_| Error::Stuck { tool })?
}
