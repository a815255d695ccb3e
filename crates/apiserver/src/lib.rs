//! The Kubernetes API server. It serves objects as the JSON bytes that the state store holds; it never decodes
//! them into structs, and it knows nothing of schedulers or kubelets.

mod admission;
mod authn;
mod authz;
mod bootstrap;
mod call;
mod compact;
mod custom;
mod eviction;
pub mod fuzz;
mod health;
mod http;
mod impersonate;
mod json;
mod kubelet;
mod limits;
mod links;
mod listen;
mod logs;
mod metrics;
mod plain;
mod proxy;
mod rest;
mod reviews;
mod router;
mod server;
mod services;
mod store;
mod time;
mod tokens;
mod yaml;

use server::Server;
use state::StateStore;
use state::embedded::EmbeddedStore;
use state::etcd::EtcdStore;
use std::path::PathBuf;
use std::sync::Arc;
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
    #[arg(long, value_delimiter = ',', required_unless_present = "embedded_store")]
    pub etcd_servers: Vec<String>,
    /// Client certificate for etcd.
    #[arg(long, required_unless_present = "embedded_store")]
    pub etcd_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, required_unless_present = "embedded_store")]
    pub etcd_key: Option<PathBuf>,
    /// Authority of the etcd members.
    #[arg(long, required_unless_present = "embedded_store")]
    pub etcd_ca: Option<PathBuf>,
    /// File of the embedded state store, in place of etcd. One API server at a time can use it.
    #[arg(long, conflicts_with_all = ["etcd_servers", "etcd_cert", "etcd_key", "etcd_ca"])]
    pub embedded_store: Option<PathBuf>,
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
    /// The etcd endpoints cannot be used.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The address cannot be listened on.
    #[error("listen on {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The key of service-account tokens cannot be used.
    #[error(transparent)]
    TokenKey(#[from] authn::issuer::KeyError),
    /// The Service subnet or node ports are wrong.
    #[error(transparent)]
    Services(#[from] services::network::RangeError),
    /// The key of Secrets cannot be used.
    #[error(transparent)]
    Encryption(#[from] store::cipher::CipherError),
}

/// Runs until `shutdown`, then finishes the requests in flight. It starts before etcd does and answers
/// `/readyz` with 500 until it has reached it.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let metrics = metrics::Metrics::default();
    let backend = open_store(&config)?;
    let backend = Arc::new(metrics::TimedStore::new(backend, metrics.storage.clone()));
    let cipher = config
        .encryption_key
        .as_deref()
        .map(store::cipher::Cipher::open_file)
        .transpose()?;
    let serving = tls::IdentityFiles {
        cert: config.tls_cert.clone(),
        key: config.tls_key.clone(),
        ca: config.client_ca.clone(),
    };
    let alpn: [&[u8]; 2] = [b"h2", b"http/1.1"];
    let serving = tls::server_config(&serving, tls::ClientAuth::Optional, &alpn)?;
    let kubelet = tls::IdentityFiles {
        cert: config.kubelet_client_cert.clone(),
        key: config.kubelet_client_key.clone(),
        ca: config.client_ca.clone(),
    };
    let address = config.bind;
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen { address, source })?;
    // A child token: the server's own streams end with it, the caller's token stays the caller's.
    let stopping = shutdown.child_token();
    let server = Arc::new(Server {
        store: store::Store::new(backend, cipher),
        authorizer: authz::Authorizer::new(),
        issuer: authn::issuer::Issuer::open(&config.service_account_key, &config.service_account_issuer)?,
        kubelet_tls: tls::client_config(&kubelet, &[b"http/1.1"])?,
        services: services::network::ServiceNetwork::parse(
            &config.service_cidr,
            &config.service_node_port_range,
        )?,
        shutdown: stopping.clone(),
        started: std::time::Instant::now(),
        bootstrapped: false.into(),
        limits: limits::Limits::new(),
        metrics,
        config,
    });
    let mut background = tokio::task::JoinSet::new();
    background.spawn(server.store.clone().run());
    background.spawn(compact::run(server.clone()));
    let published = tokio::spawn(after_bootstrap(server.clone()));
    tracing::info!(%address, "listening");
    listen::serve(server.clone(), listener, serving, stopping).await;
    // This server takes itself out of the endpoints; without the state store its lease does.
    if tokio::time::timeout(LEAVE_TIMEOUT, published).await.is_err() {
        tracing::debug!("did not leave the endpoints in time");
    }
    // The feed runs for ever.
    background.shutdown().await;
    Ok(())
}

/// The state store that the configuration names.
fn open_store(config: &Config) -> Result<Arc<dyn StateStore>, state::Error> {
    if let Some(file) = &config.embedded_store {
        return Ok(Arc::new(EmbeddedStore::open(file)?));
    }
    let identity = match (&config.etcd_cert, &config.etcd_key, &config.etcd_ca) {
        (Some(cert), Some(key), Some(ca)) => Some(tls::IdentityFiles {
            cert: cert.clone(),
            key: key.clone(),
            ca: ca.clone(),
        }),
        _ => None,
    };
    Ok(Arc::new(EtcdStore::new(&config.etcd_servers, identity.as_ref())?))
}

/// How long the server tries to take itself out of the endpoints when it stops.
const LEAVE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

async fn after_bootstrap(server: Arc<Server>) {
    bootstrap::run(server.clone()).await;
    tokio::join!(
        services::endpoints::run(server.clone()),
        custom::controller::run(server.clone()),
        services::repair::run(server.clone()),
        bootstrap::aggregate::run(server)
    );
}
