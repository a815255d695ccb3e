//! What all requests share.

use crate::Config;
use crate::authn::issuer::Issuer;
use crate::authz::Authorizer;
use crate::services::network::ServiceNetwork;
use crate::store::Store;
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// The server's parts.
pub struct Server {
    /// How it was started.
    pub config: Config,
    /// Objects.
    pub store: Arc<Store>,
    /// Who may do what.
    pub authorizer: Authorizer,
    /// Service-account tokens.
    pub issuer: Issuer,
    /// TLS towards kubelets.
    pub kubelet_tls: Arc<rustls::ClientConfig>,
    /// Cluster IPs and node ports.
    pub services: ServiceNetwork,
    /// Ends watches and other streams when the server stops.
    pub shutdown: CancellationToken,
    /// When it was started.
    pub started: Instant,
    /// The default objects have been written.
    pub bootstrapped: std::sync::atomic::AtomicBool,
    /// How many requests may be under way at once, long-running ones apart.
    pub limits: crate::limits::Limits,
    /// Figures for `/metrics`.
    pub metrics: crate::metrics::Metrics,
}
