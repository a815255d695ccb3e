//! The scheduler: binds pods to nodes. An ordinary API client with the identity `system:kube-scheduler`.

use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// How to run the scheduler.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Kubeconfig of `system:kube-scheduler`.
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Name of this candidate in the leader election.
    #[arg(long)]
    pub identity: String,
}

/// Why the component stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API client cannot be made.
    #[error(transparent)]
    Client(#[from] client::Error),
}

/// Runs until `shutdown`; schedules while it leads.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let _connection = client::connect(&config.kubeconfig).await?;
    shutdown.cancelled().await;
    Ok(())
}
