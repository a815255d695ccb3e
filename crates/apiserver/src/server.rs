//! What all requests share.

use crate::Config;
use crate::authn::issuer::Issuer;
use crate::authz::Authorizer;
use crate::http::status::Status;
use crate::services::network::ServiceNetwork;
use crate::store::Store;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
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
    /// Requests that may be under way at once, long-running ones apart.
    pub slots: Arc<Semaphore>,
    /// Figures for `/metrics`.
    pub metrics: crate::metrics::Metrics,
}

/// Requests under way at once; upstream's limits for reading and writing together. More would only queue, and take
/// memory.
pub const MAX_IN_FLIGHT: usize = 600;
/// When a refused client should come again.
const RETRY_AFTER_SECONDS: u32 = 1;

impl Server {
    /// A place among the requests under way. Without a free one the client is sent away for a second.
    pub fn slot(&self) -> Result<OwnedSemaphorePermit, Status> {
        self.slots.clone().try_acquire_owned().map_err(|_| {
            Status::too_many_requests(
                "The server has received too many requests and has asked us to try again later",
                RETRY_AFTER_SECONDS,
            )
        })
    }
}
