//! Listening, and the exports of a server.

use super::connection;
use super::negotiate::{ExportInfo, Exports};
use crate::{BlockDevice, Error};
use parking_lot::RwLock;
use rustls::pki_types::CertificateDer;
use std::fmt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Connections at a time. A client opens a few (nbdcopy: four); each may hold [`super::MAX_IN_FLIGHT_BYTES`].
pub const MAX_CONNECTIONS: usize = 64;
/// Pause after the kernel could not accept: it lacks descriptors or memory, and asking again at once helps nobody.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

impl FromStr for Address {
    type Err = String;

    /// What has a slash is a path; everything else is `host:port`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            return Ok(Address::Unix(text.into()));
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Address::Tcp(text.into()))
            }
            _ => Err(format!("{text:?} is neither the path of a socket nor host:port")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => path.display().fmt(f),
            Address::Tcp(text) => text.fmt(f),
        }
    }
}

/// A device under a name.
#[derive(Clone)]
pub struct Export {
    /// Its name.
    pub name: String,
    /// Words for people.
    pub description: String,
    /// Refuse what changes it.
    pub read_only: bool,
    /// The device.
    pub device: Arc<dyn BlockDevice>,
}

/// Judges a client by its certificate chain.
pub type Allow = dyn Fn(Option<&[CertificateDer<'static>]>) -> bool + Send + Sync;

/// Encryption of connections; without it they are plain.
#[derive(Clone)]
pub struct Tls {
    /// With the server's identity and the authority of its clients.
    pub acceptor: TlsAcceptor,
    /// Whether a client with this (verified) certificate chain is let in.
    pub allow: Arc<Allow>,
}

/// The exports of a server; the first is the default one.
pub(super) struct Catalog(RwLock<Vec<Export>>);

impl Catalog {
    fn find(&self, name: &str) -> Option<Export> {
        let exports = self.0.read();
        let found = match name {
            "" => exports.first(),
            _ => exports.iter().find(|export| export.name == name),
        };
        found.cloned()
    }

    pub(super) fn device(&self, name: &str) -> Option<Arc<dyn BlockDevice>> {
        Some(self.find(name)?.device)
    }
}

impl Exports for Catalog {
    fn names(&self) -> Vec<String> {
        self.0.read().iter().map(|export| export.name.clone()).collect()
    }

    fn info(&self, name: &str) -> Option<ExportInfo> {
        let export = self.find(name)?;
        Some(ExportInfo {
            size_bytes: export.device.size_bytes(),
            block_bytes: export.device.block_bytes(),
            fast_zero: export.device.zeroes_fast(),
            name: export.name,
            description: export.description,
            read_only: export.read_only,
        })
    }
}

/// A running server.
pub struct Server {
    address: Address,
    connections: Arc<AtomicUsize>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Server {
    /// Listens at `address` and serves `exports` (at least one) until it is stopped. Needs a tokio runtime.
    pub async fn start(address: &Address, exports: Vec<Export>, tls: Option<Tls>) -> Result<Self, Error> {
        let (listener, address) = bind(address).await?;
        let connections = Arc::new(AtomicUsize::new(0));
        let shutdown = CancellationToken::new();
        let accepting = Accepting {
            listener,
            catalog: Arc::new(Catalog(RwLock::new(exports))),
            tls,
            connections: connections.clone(),
        };
        let stopped = shutdown.clone();
        let task = tokio::spawn(async move {
            stopped.run_until_cancelled(accepting.run()).await;
        });
        Ok(Self {
            address,
            connections,
            shutdown,
            task,
        })
    }

    /// Where it listens; a TCP port 0 has become the real one.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Clients that are connected now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Whether it still accepts clients.
    pub fn is_alive(&self) -> bool {
        !self.task.is_finished()
    }

    /// Stops listening and drops all connections; what clients have not been told is done, may be done or not.
    pub fn stop(&self) {
        self.shutdown.cancel();
        if let Address::Unix(path) = &self.address {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn bind(address: &Address) -> Result<(Listener, Address), Error> {
    let failed = |source| Error::Listen {
        address: address.to_string(),
        source,
    };
    match address {
        Address::Unix(path) => {
            remove_stale(path).map_err(failed)?;
            let listener = UnixListener::bind(path).map_err(failed)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
            Ok((Listener::Unix(listener), address.clone()))
        }
        Address::Tcp(text) => {
            let listener = TcpListener::bind(text).await.map_err(failed)?;
            let bound = listener.local_addr().map_err(failed)?;
            Ok((Listener::Tcp(listener), Address::Tcp(bound.to_string())))
        }
    }
}

/// Removes a socket that nobody listens on any more. Anything else is left, and listening will fail.
fn remove_stale(path: &Path) -> std::io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(std::io::ErrorKind::AddrInUse.into());
            }
            std::fs::remove_file(path)
        }
        _ => Ok(()),
    }
}

struct Accepting {
    listener: Listener,
    catalog: Arc<Catalog>,
    tls: Option<Tls>,
    connections: Arc<AtomicUsize>,
}

impl Accepting {
    async fn run(self) {
        let mut tasks = JoinSet::new();
        loop {
            // Finished connections are forgotten while others come.
            while tasks.try_join_next().is_some() {}
            if tasks.len() >= MAX_CONNECTIONS {
                tracing::info!(limit = MAX_CONNECTIONS, "no more NBD clients until one leaves");
                tasks.join_next().await;
                continue;
            }
            let stream = match self.accept().await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::info!(%error, "could not accept an NBD client");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (catalog, tls) = (self.catalog.clone(), self.tls.clone());
            let present = Present::new(&self.connections);
            tasks.spawn(async move {
                let _present = present;
                match connection::serve(stream, &catalog, tls.as_ref()).await {
                    Ok(()) => tracing::debug!("an NBD client is done"),
                    Err(error) => tracing::debug!(%error, "an NBD client was lost or refused"),
                }
            });
        }
    }

    async fn accept(&self) -> std::io::Result<Box<dyn Stream>> {
        match &self.listener {
            Listener::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
            Listener::Tcp(listener) => {
                let stream = listener.accept().await?.0;
                // Replies are gathered already; waiting for more would only delay them.
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
        }
    }
}

/// Counts a connection while it lives.
struct Present(Arc<AtomicUsize>);

impl Present {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!("/run/a.sock".parse(), Ok(Address::Unix("/run/a.sock".into())));
        assert_eq!("./a:1".parse(), Ok(Address::Unix("./a:1".into())));
        assert_eq!(
            "127.0.0.1:10809".parse(),
            Ok(Address::Tcp("127.0.0.1:10809".into()))
        );
        assert_eq!("[::1]:0".parse(), Ok(Address::Tcp("[::1]:0".into())));
        for wrong in ["", "sock", ":1", "host:", "host:99999"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }
}
