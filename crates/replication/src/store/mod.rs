//! A region's store: the replicas of many volumes in one directory, served on the storage network.
//!
//! - [`superblock`]: what makes a directory this store;
//! - [`catalog`]: which replicas there are, making and deleting them;
//! - [`host`]: one replica's thread, over [`files`];
//! - [`server`]: connections; [`contacts`]: when each node's engine was last heard.

pub mod catalog;
pub mod contacts;
pub mod files;
pub mod host;
pub mod server;
pub mod superblock;

use crate::StoreConfig;
use catalog::Catalog;
use contacts::Contacts;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// How long a clean stop may take before the process gives it up, which costs no data.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a store cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its directory cannot be used.
    #[error(transparent)]
    Directory(#[from] superblock::Error),
    /// Its certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// It cannot listen.
    #[error("listen on {address}: {source}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// What connections share.
pub struct Store {
    /// Name of the cluster.
    pub cluster: String,
    /// The replicas.
    pub catalog: Arc<Catalog>,
    /// When engines were heard.
    pub contacts: Contacts,
}

/// Runs until `shutdown`.
pub async fn run(config: StoreConfig, shutdown: CancellationToken) -> Result<(), Error> {
    let files = tls::IdentityFiles {
        cert: config.storage_cert.clone(),
        key: config.storage_key.clone(),
        ca: config.storage_ca.clone(),
    };
    let acceptor = TlsAcceptor::from(tls::server_config(&files, tls::ClientAuth::Required, &[])?);
    let superblock = superblock::open(&config.data_dir, &config.cluster, &config.region)?;
    let scrub_period = Duration::from_secs(config.scrub_hours.saturating_mul(3600));
    let catalog = Catalog::open(&config.data_dir, &config.region, superblock.store, scrub_period)?;
    let store = Arc::new(Store {
        cluster: config.cluster.clone(),
        catalog: Arc::new(catalog),
        contacts: Contacts::new(Instant::now()),
    });
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|source| Error::Listen {
            address: config.listen,
            source,
        })?;
    tracing::info!(region = %config.region, address = %config.listen, "the store serves");
    let connections = tokio_util::task::TaskTracker::new();
    let closing = shutdown.child_token();
    let mut watch = tokio::time::interval(contacts::WATCH_INTERVAL);
    watch.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            _ = watch.tick() => {
                store.contacts.check(Instant::now());
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (store, acceptor, closing) = (store.clone(), acceptor.clone(), closing.clone());
                connections.spawn(async move {
                    let served = server::serve(store, acceptor, stream);
                    if let Some(Err(error)) = closing.run_until_cancelled(served).await {
                        tracing::debug!(%peer, %error, "connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::info!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    let stopped = async {
        connections.wait().await;
        store.catalog.stop().await;
    };
    if tokio::time::timeout(STOP_TIMEOUT, stopped).await.is_err() {
        tracing::info!("stopped without waiting for every replica");
    }
    drop(superblock);
    Ok(())
}
