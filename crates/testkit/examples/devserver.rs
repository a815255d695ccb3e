//! Starts etcd and the API server and stays: for development of everything that talks to the API.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;
use std::path::PathBuf;

/// etcd and the API server for development.
#[derive(clap::Parser)]
struct Arguments {
    /// Where certificates, kubeconfigs and etcd's data are kept; a temporary directory by default.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Port of the API server; a free one by default.
    #[arg(long)]
    port: Option<u16>,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    listen: IpAddr,
    /// Address to publish and to write into the kubeconfigs.
    #[arg(long, default_value = "127.0.0.1")]
    advertise: IpAddr,
    /// etcd members.
    #[arg(long, default_value_t = 1)]
    etcd: usize,
    /// Nodes to write kubeconfigs for (`DIR/node-NAME.kubeconfig`).
    #[arg(long, value_delimiter = ',')]
    nodes: Vec<String>,
    /// More addresses for the serving certificate.
    #[arg(long, value_delimiter = ',')]
    addresses: Vec<IpAddr>,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    use clap::Parser;
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let mut cluster = hikube_testkit::Cluster::start_with(hikube_testkit::Options {
        dir: arguments.dir,
        port: arguments.port,
        listen: arguments.listen,
        advertise: arguments.advertise,
        etcd_members: arguments.etcd,
        addresses: arguments.addresses,
    })
    .await?;
    for node in &arguments.nodes {
        cluster.node(node)?;
    }
    let mut out = String::new();
    for entry in std::fs::read_dir(&cluster.dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "kubeconfig") {
            out += &format!("{}\n", path.display());
        }
    }
    tracing::info!("ready on https://{}; kubeconfigs:\n{out}", cluster.address);
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    cluster.stop_server().await
}
