//! What a node needs of the network: Services through nftables, cluster DNS, the forwarder in front of the API
//! servers, and the CNI configuration.

mod cni;
mod dns;
mod forward;
mod net;
mod proxy;
mod watches;

pub use cni::conflist;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

/// How to run the proxy of a node.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Kubeconfig of `system:kube-proxy`.
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Name of the node.
    #[arg(long)]
    pub node_name: String,
    /// Address of the node; NodePorts listen here.
    #[arg(long)]
    pub node_ip: std::net::Ipv4Addr,
    /// Subnet of all pods; traffic leaving it is masqueraded.
    #[arg(long)]
    pub cluster_cidr: String,
    /// Subnet of the Services.
    #[arg(long)]
    pub service_cidr: String,
    /// Address of the `kube-dns` Service.
    #[arg(long)]
    pub cluster_dns: std::net::Ipv4Addr,
    /// Domain of the cluster.
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// The forwarder to the API servers on this node.
    #[command(flatten)]
    pub forward: ForwardConfig,
}

/// How to run a TLS pass-through forwarder to the API servers.
#[derive(Clone, Debug, clap::Args)]
pub struct ForwardConfig {
    /// Where clients connect, for example 127.0.0.1:6443.
    #[arg(long)]
    pub api_listen: std::net::SocketAddr,
    /// The API servers, nearest first.
    #[arg(long, value_delimiter = ',')]
    pub api_backends: Vec<std::net::SocketAddr>,
    /// Authority of the API servers, to check `/readyz` with.
    #[arg(long)]
    pub api_ca: PathBuf,
}

/// Why the component stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API client cannot be made.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// The forwarder cannot run.
    #[error("API forwarder on {listen}: {reason}")]
    Forward {
        /// Where it was to listen.
        listen: std::net::SocketAddr,
        /// Why it failed.
        reason: String,
    },
    /// An argument is wrong.
    #[error("{0}")]
    Argument(String),
}

/// Pause after the node could not be prepared.
const PREPARE_RETRY: Duration = Duration::from_secs(5);

/// Runs the proxy, DNS and forwarder of a node until `shutdown`. Rules stay in place when it ends.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let pods: net::Subnet = config.cluster_cidr.parse().map_err(Error::Argument)?;
    let services: net::Subnet = config.service_cidr.parse().map_err(Error::Argument)?;
    let serial = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    // A serial number may wrap around.
    let zone =
        dns::Zone::new(&config.cluster_domain, [pods, services], serial as u32).map_err(Error::Argument)?;
    let place = proxy::rules::Place {
        node_ip: config.node_ip,
        cluster_cidr: pods.to_string(),
        service_cidr: services.to_string(),
        cluster_dns: config.cluster_dns,
    };
    let client = client::connect(&config.kubeconfig).await?.client;
    let watches = Arc::new(watches::Watches::new());
    let server = Arc::new(dns::Server {
        zone,
        watches: watches.clone(),
        upstream: dns::upstream(config.cluster_dns),
    });
    let node = async {
        while let Err(error) = proxy::apply::prepare(config.cluster_dns).await {
            tracing::warn!(%error, "the node is not prepared");
            tokio::time::sleep(PREPARE_RETRY).await;
        }
        futures::join!(
            proxy::run(&watches, &place, &config.node_name),
            dns::run(server, config.cluster_dns, dns::PORT),
        );
    };
    tokio::select! {
        ((), ()) = async { futures::join!(watches.run(client), node) } => Ok(()),
        result = forward::run(config.forward.clone(), shutdown) => result,
    }
}

/// Runs only a forwarder, as the host does, until `shutdown`.
pub async fn forward(config: ForwardConfig, shutdown: CancellationToken) -> Result<(), Error> {
    forward::run(config, shutdown).await
}

/// Objects that the cluster needs for its network (the `kube-dns` Service and the proxy's role), as YAML documents.
/// They name the usual address of cluster DNS, 10.96.0.10; `platform` applies them.
pub const MANIFESTS: &str = include_str!("manifests.yaml");
