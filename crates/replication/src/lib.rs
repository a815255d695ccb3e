//! The replication data layer: every volume in several regions, one engine that writes it, a quorum that decides.
//! See `docs/architecture.md` and the module headers for the protocol. Nothing here knows Kubernetes.

pub mod admin;
pub mod api;
mod clock;
pub mod core;
pub mod engine;
pub mod fuzz;
mod inbox;
mod memory;
pub mod net;
pub mod sim;
pub mod store;
pub mod view;

use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// Where the stores are and who we are to them. Addresses are `region=host:port`.
#[derive(Clone, Debug, clap::Args)]
pub struct StorageConfig {
    /// Stores of all regions, `region=host:port`.
    #[arg(long, value_delimiter = ',')]
    pub stores: Vec<String>,
    /// Certificate on the storage network: URI `hikube://<cluster>/engine/<node>`, `.../store/<region>`, or
    /// `.../control-plane` and `.../admin` for readers.
    #[arg(long)]
    pub storage_cert: PathBuf,
    /// Its key.
    #[arg(long)]
    pub storage_key: PathBuf,
    /// Authority of the storage network.
    #[arg(long)]
    pub storage_ca: PathBuf,
}

/// How to run an engine: the writing side of every volume attached to one node.
#[derive(Clone, Debug, clap::Args)]
pub struct EngineConfig {
    /// Name of the node.
    #[arg(long)]
    pub node_name: String,
    /// Region of the node; reads go to its store first.
    #[arg(long)]
    pub region: String,
    /// Unix socket of the engine API.
    #[arg(long)]
    pub socket: PathBuf,
    /// Directory for device mount points and what survives a restart.
    #[arg(long)]
    pub state_dir: PathBuf,
    /// Without a majority of stores for so long, the node counts as fenced, milliseconds.
    #[arg(long, default_value_t = 8000)]
    pub fence_after_ms: u64,
    /// The stores.
    #[command(flatten)]
    pub storage: StorageConfig,
}

/// How to run a region's store.
#[derive(Clone, Debug, clap::Args)]
pub struct StoreConfig {
    /// Region of this store.
    #[arg(long)]
    pub region: String,
    /// Name of the cluster; a directory of another cluster is refused.
    #[arg(long)]
    pub cluster: String,
    /// Directory of the replicas. It must have been formatted with [`store_format`].
    #[arg(long)]
    pub data_dir: PathBuf,
    /// Where to listen for engines and admins (mutual TLS).
    #[arg(long)]
    pub listen: std::net::SocketAddr,
    /// Certificate with URI `hikube://<cluster>/store/<region>`.
    #[arg(long)]
    pub storage_cert: PathBuf,
    /// Its key.
    #[arg(long)]
    pub storage_key: PathBuf,
    /// Authority of the storage network.
    #[arg(long)]
    pub storage_ca: PathBuf,
    /// Hours from one scrub of a replica to the next; 0: only when told to. A volume's label `scrub-hours` counts more.
    #[arg(long, default_value_t = 168)]
    pub scrub_hours: u64,
}

/// Why an engine or a store stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The engine cannot run.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The store cannot run.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The directory cannot be formatted.
    #[error(transparent)]
    Format(#[from] store::superblock::Error),
}

/// Runs the engine of a node until `shutdown`, then flushes and detaches nothing: devices stay until detached.
pub async fn run_engine(config: EngineConfig, shutdown: CancellationToken) -> Result<(), Error> {
    memory::configure();
    Ok(engine::run(config, shutdown).await?)
}

/// Runs a region's store until `shutdown`, which leaves a clean-stop mark.
pub async fn run_store(config: StoreConfig, shutdown: CancellationToken) -> Result<(), Error> {
    memory::configure();
    Ok(store::run(config, shutdown).await?)
}

/// Formats an empty directory as the store of a region: draws its random id and writes its superblock. Refuses
/// a directory that is not empty. A store never formats by itself (R7).
pub fn store_format(data_dir: &std::path::Path, cluster: &str, region: &str) -> Result<(), Error> {
    Ok(store::superblock::format(data_dir, cluster, region)?)
}
