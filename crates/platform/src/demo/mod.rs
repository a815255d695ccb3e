//! The demo: a StatefulSet whose volume must lose nothing, and a client outside of every region that keeps the books.
//!
//! The server (in the pod) appends numbered, checksummed, fsynced records to its volume. The client (a process of
//! the host, supervised like every other, so it outlives the command that started it) sends one record after the
//! other and notes each acknowledgement in a file. The check compares the two.

mod check;
mod client;
mod deploy;
mod http;
mod record;
mod server;

pub use check::{Report, check};
pub use client::run as run_client;
pub use deploy::{Deployed, deploy};
pub use server::{ServerConfig, run as run_server};

use crate::layout::Layout;
use crate::plan::Plan;
use crate::supervisor::Component;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Namespace of the demo.
pub const NAMESPACE: &str = "demo";

/// Where the client finds the Service: the demo's node port on every node.
pub(crate) fn endpoints(plan: &Plan, port: u16) -> Vec<SocketAddr> {
    plan.nodes.iter().map(|n| (n.address, port).into()).collect()
}

/// File with the Service's node port; the client runs while it exists.
fn target_path(layout: &Layout) -> PathBuf {
    layout.demo().join("port")
}

/// File with one line for each acknowledged record.
fn ledger_path(layout: &Layout) -> PathBuf {
    layout.demo().join("acknowledged.log")
}

/// The port of the demo's Service, once it was deployed.
pub(crate) fn port(layout: &Layout) -> Option<u16> {
    let text = std::fs::read_to_string(target_path(layout)).ok()?;
    text.trim().parse().ok()
}

/// The client as a component of the host, once the demo was deployed.
pub(crate) fn component(layout: &Layout, plan: &Plan, binary: &Path) -> Option<Component> {
    let port = port(layout)?;
    let addresses: Vec<String> = endpoints(plan, port).iter().map(ToString::to_string).collect();
    Some(Component {
        name: "demo-client".into(),
        command: vec![
            binary.to_string_lossy().into_owned(),
            "demo-client".into(),
            format!("--ledger={}", ledger_path(layout).display()),
            format!("--endpoints={}", addresses.join(",")),
        ],
        cgroup: format!("{}/host", layout.cgroup()),
        stop_grace_ms: 3000,
        ..Component::default()
    })
}
