//! A store or an engine as a process of its own, for the integration tests and for trying things out.
#![allow(clippy::unwrap_used)]

use clap::Parser;
use hikube_replication::{EngineConfig, StoreConfig, run_engine, run_store, store_format};
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[derive(Parser)]
enum Command {
    /// Formats a store's directory.
    Format {
        /// The directory.
        dir: PathBuf,
        /// Name of the cluster.
        cluster: String,
        /// Name of the region.
        region: String,
    },
    /// Runs a store.
    Store(StoreConfig),
    /// Runs an engine.
    Engine(EngineConfig),
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    tls::install_provider();
    let command = Command::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let shutdown = CancellationToken::new();
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let token = shutdown.clone();
        tokio::spawn(async move {
            terminate.recv().await;
            token.cancel();
        });
        match command {
            Command::Format { dir, cluster, region } => store_format(&dir, &cluster, &region)?,
            Command::Store(config) => run_store(config, shutdown).await?,
            Command::Engine(config) => run_engine(config, shutdown).await?,
        }
        Ok(())
    })
}
