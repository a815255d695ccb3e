//! The engine of a node: the writing side of every volume attached there.
//!
//! - [`service`]: the gRPC API; [`node`]: what it works on; [`create`] and [`attach`]: the operations;
//! - [`volume`]: one open volume; `worker`: what drives its core; [`device`]: its block device; [`crypt`]: encryption
//!   of it; [`expose`]: to the kernel or to NBD clients;
//! - [`link`]: the connection to a store; [`gather`]: one question to all stores; [`quorum`]: contact with them;
//! - [`placement`]: which replicas stores that were away lack; [`mend`]: what replicas of volumes lack that nobody has
//!   attached; [`scrub`]: scrubs at an operator's wish; [`describe`]: answers of the API.

pub mod attach;
mod clone;
pub mod create;
pub mod crypt;
pub mod describe;
pub mod device;
pub mod expose;
pub mod gather;
pub mod keep;
pub mod link;
pub mod mend;
pub mod node;
pub mod placement;
pub mod quorum;
mod resume;
pub mod scrub;
pub mod service;
mod snapshots;
pub mod volume;
mod worker;

use crate::EngineConfig;
use crate::net::client::{Dialer, StoreAddress};
use crate::net::identity::Role;
use keep::Keeper;
use link::Link;
use node::Node;
use protos::engine::engine_server::EngineServer;
use quorum::Quorum;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;

/// How long the flush at the end of the process may take.
const LAST_FLUSH: Duration = Duration::from_secs(3);

/// Why an engine cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage network cannot be used.
    #[error(transparent)]
    Network(#[from] crate::net::Error),
    /// What a killed engine left cannot be removed.
    #[error(transparent)]
    Device(#[from] blockdev::Error),
    /// A file or the socket cannot be used.
    #[error("{action} {path}: {source}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Another engine runs with this directory.
    #[error("another engine is using {0}")]
    Running(PathBuf),
    /// The certificate belongs to something else.
    #[error("the certificate is that of {found}, not of the engine of node {node:?}")]
    Identity {
        /// Whose it is.
        found: String,
        /// Who we are.
        node: String,
    },
    /// The API ended.
    #[error("engine API: {0}")]
    Api(#[from] tonic::transport::Error),
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { action, path, source }
}

/// Runs until `shutdown`.
pub async fn run(config: EngineConfig, shutdown: CancellationToken) -> Result<(), Error> {
    let dialer = Dialer::new(&config.storage)?;
    if dialer.identity.role != Role::Engine(config.node_name.clone()) {
        return Err(Error::Identity {
            found: dialer.identity.to_string(),
            node: config.node_name,
        });
    }
    let addresses: Result<Vec<_>, _> = config
        .storage
        .stores
        .iter()
        .map(|text| StoreAddress::parse(text))
        .collect();
    private_dir(&config.state_dir)?;
    let _lock = lock(&config.state_dir)?;
    let mounts = config.state_dir.join("volumes");
    private_dir(&mounts)?;
    let keeper = Keeper::from_env();
    let waiting = keeper.waiting();
    let stale = mounts.clone();
    let kept: Vec<_> = waiting.iter().map(|id| mounts.join(id)).collect();
    let cleaned = tokio::task::spawn_blocking(move || blockdev::clean_stale(&stale, &kept)).await;
    match cleaned {
        Ok(result) => {
            result?;
        }
        Err(error) => tracing::info!(%error, "could not look for stale devices"),
    }
    // The kernel may need us to free memory: then we must not wait for it to be freed.
    if let Err(error) = rustix::process::configure_io_flusher_behavior(true) {
        tracing::debug!(%error, "not an I/O flusher");
    }
    let changed = Arc::new(Notify::new());
    let links: Vec<_> = addresses?
        .into_iter()
        .map(|address| Link::new(address, dialer.clone(), changed.clone()))
        .collect();
    let fence_after = Duration::from_millis(config.fence_after_ms);
    let quorum = Quorum::new(links.clone(), fence_after, changed);
    let files = tls::IdentityFiles {
        cert: config.storage.storage_cert.clone(),
        key: config.storage.storage_key.clone(),
        ca: config.storage.storage_ca.clone(),
    };
    let nbd_tls = expose::nbd_tls(&files, &dialer.identity.cluster).map_err(crate::net::Error::from)?;
    let node = Node::new(
        config.node_name,
        config.region,
        mounts,
        links,
        quorum,
        nbd_tls,
        keeper,
    );
    let mut tasks = JoinSet::new();
    start(&node, &mut tasks);
    for id in waiting {
        tasks.spawn(node.clone().resume_in_time(id));
    }
    let served = serve(&node, &config.socket, shutdown).await;
    node.flush_all(LAST_FLUSH).await;
    tasks.abort_all();
    served
}

fn start(node: &Arc<Node>, tasks: &mut JoinSet<()>) {
    for link in &node.links {
        let (link, node) = (link.clone(), node.clone());
        tasks.spawn(async move {
            let region = link.address.region.clone();
            link.run(|| {
                let (node, region) = (node.clone(), region.clone());
                tokio::spawn(async move { node.store_appeared(&region).await });
            })
            .await;
        });
    }
    let quorum = node.quorum.clone();
    tasks.spawn(async move { quorum.run().await });
    tasks.spawn(node.clone().report());
}

async fn serve(node: &Arc<Node>, socket: &Path, shutdown: CancellationToken) -> Result<(), Error> {
    if let Some(parent) = socket.parent() {
        private_dir(parent)?;
    }
    match std::fs::remove_file(socket) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(file("remove", socket)(e)),
        _ => {}
    }
    let listener = UnixListener::bind(socket).map_err(file("listen on", socket))?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))
        .map_err(file("change the mode of", socket))?;
    tracing::info!(socket = %socket.display(), node = %node.name, "the engine serves");
    let service = EngineServer::new(service::Service::new(node.clone()));
    let server = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(UnixListenerStream::new(listener));
    // Without waiting for callers: a watch of the quorum never ends by itself.
    let served = shutdown.run_until_cancelled(server).await;
    let _ = std::fs::remove_file(socket);
    served.unwrap_or(Ok(())).map_err(Error::from)
}

fn private_dir(dir: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    // Only a directory that we make ourselves gets our mode.
    if dir.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(file("create", dir))
}

fn lock(dir: &Path) -> Result<std::fs::File, Error> {
    let path = dir.join("lock");
    let lock = std::fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(file("open", &path))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| Error::Running(dir.into()))?;
    Ok(lock)
}
