//! The scheduler: binds pods to nodes. An ordinary API client with the identity `system:kube-scheduler`.

mod bind;
mod filter;
mod preempt;
mod queue;
mod scheduler;
mod score;
mod state;

use client::resources;

use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// Name of the Lease for the leader election.
const LEASE: &str = "kube-scheduler";

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
    let connection = client::connect(&config.kubeconfig).await?;
    let election = client::Election {
        client: connection.client.clone(),
        name: LEASE.into(),
        identity: config.identity.clone(),
    };
    let work = || scheduler::Scheduler::new(connection.client.clone(), &config.identity).run();
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = client::lead(&election, work) => {}
    }
    Ok(())
}
