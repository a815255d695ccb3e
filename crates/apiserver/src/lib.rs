//! The Kubernetes API server. It serves objects as the JSON bytes that the state store holds; it never decodes
//! them into structs, and it knows nothing of schedulers or kubelets.

use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// How to run the API server.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Where to listen.
    #[arg(long, default_value = "0.0.0.0:6443")]
    pub bind: std::net::SocketAddr,
    /// Address published in the endpoints of the `kubernetes` Service.
    #[arg(long)]
    pub advertise_address: std::net::IpAddr,
    /// Serving certificate.
    #[arg(long)]
    pub tls_cert: PathBuf,
    /// Key of the serving certificate.
    #[arg(long)]
    pub tls_key: PathBuf,
    /// Authority of client certificates; it signs the kubelets' serving certificates too.
    #[arg(long)]
    pub client_ca: PathBuf,
    /// URLs of the etcd members (`https://...`).
    #[arg(long, value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// Client certificate for etcd.
    #[arg(long)]
    pub etcd_cert: PathBuf,
    /// Its key.
    #[arg(long)]
    pub etcd_key: PathBuf,
    /// Authority of the etcd members.
    #[arg(long)]
    pub etcd_ca: PathBuf,
    /// Private key (PKCS#8 PEM, ECDSA P-256) that signs service-account tokens.
    #[arg(long)]
    pub service_account_key: PathBuf,
    /// Issuer of service-account tokens.
    #[arg(long, default_value = "https://kubernetes.default.svc.cluster.local")]
    pub service_account_issuer: String,
    /// Subnet of cluster IPs; its first address is the `kubernetes` Service.
    #[arg(long, default_value = "10.96.0.0/16")]
    pub service_cidr: String,
    /// Ports for NodePort Services.
    #[arg(long, default_value = "30000-32767")]
    pub service_node_port_range: String,
    /// Client certificate for kubelets (logs, exec, port-forward).
    #[arg(long)]
    pub kubelet_client_cert: PathBuf,
    /// Its key.
    #[arg(long)]
    pub kubelet_client_key: PathBuf,
    /// 32 random bytes, base64: Secrets are encrypted with it in etcd (AES-GCM). Without it they are not.
    #[arg(long)]
    pub encryption_key: Option<PathBuf>,
}

/// Why the API server stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::Error),
}

/// Runs until `shutdown`, then finishes the requests in flight. It starts before etcd does and answers
/// `/readyz` with 500 until it has reached it.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let _ = config;
    shutdown.cancelled().await;
    Ok(())
}
