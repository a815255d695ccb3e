//! Whether an API server is ready, by `GET /readyz` over one kept-alive connection. A server that nobody uses and
//! that was ready when last asked is not asked again.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

/// Pause between checks of a server in use.
const INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a failed check: at first short, to be sure soon; then as long as clients tolerate until they find
/// the server again.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(1);
/// Longest wait for one check. Counts as failed then.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Failed checks in a row after which a server is not ready; a refused connection needs no second one.
const FAILURES: u32 = 2;

/// What is known of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Ready,
    Unknown,
    Down,
}

/// One API server.
pub(super) struct Backend {
    pub(super) address: SocketAddr,
    state: watch::Sender<State>,
    users: AtomicUsize,
    /// Asks for a check now.
    wake: Notify,
}

/// A connection, from before it is made, so that no news about its server is missed.
pub(super) struct User {
    backend: Arc<Backend>,
    news: watch::Receiver<State>,
}

impl User {
    /// Marks a connection; the first makes the checks begin.
    pub(super) fn of(backend: &Arc<Backend>) -> Self {
        let news = backend.state.subscribe();
        if backend.users.fetch_add(1, Ordering::Relaxed) == 0 {
            backend.wake.notify_one();
        }
        Self {
            backend: backend.clone(),
            news,
        }
    }

    /// Returns when the server goes down. One that was believed to be down was reached nevertheless; only news
    /// counts.
    pub(super) async fn lost(&mut self) {
        while self.news.changed().await.is_ok() {
            if *self.news.borrow_and_update() == State::Down {
                return;
            }
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.backend.users.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Backend {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            state: watch::Sender::new(State::Unknown),
            users: AtomicUsize::new(0),
            wake: Notify::new(),
        }
    }

    /// Smaller is better.
    pub(super) fn rank(&self) -> u8 {
        *self.state.borrow() as u8
    }

    /// A connection could not be made: find out why.
    pub(super) fn suspect(&self) {
        self.wake.notify_one();
    }

    fn set(&self, state: State) {
        let changed = self
            .state
            .send_if_modified(|old| std::mem::replace(old, state) != state);
        if changed {
            tracing::info!(server = %self.address, ?state, "API server");
        }
    }

    fn in_use(&self) -> bool {
        self.users.load(Ordering::Relaxed) > 0
    }
}

type Connection = SendRequest<Empty<Bytes>>;

/// Keeps the state of one server up to date, for ever.
pub(super) async fn keep_checking(backend: Arc<Backend>, ca: PathBuf) {
    let mut connection: Option<Connection> = None;
    let mut failures = 0_u32;
    loop {
        let checked = tokio::time::timeout(TIMEOUT, check(&mut connection, backend.address, &ca)).await;
        let result = checked.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
        let pause = match result {
            Ok(()) => {
                failures = 0;
                backend.set(State::Ready);
                if !backend.in_use() {
                    connection = None;
                    backend.wake.notified().await;
                    continue;
                }
                INTERVAL
            }
            Err(error) => {
                tracing::debug!(server = %backend.address, %error, "not ready");
                connection = None;
                failures = failures.saturating_add(1);
                if failures >= FAILURES || error.kind() == ErrorKind::ConnectionRefused {
                    backend.set(State::Down);
                    RETRY_LAST
                } else {
                    RETRY_FIRST
                }
            }
        };
        if failures == 0 {
            // Connections come and go while it is checked anyway.
            tokio::time::sleep(pause).await;
        } else {
            let _ = tokio::time::timeout(pause, backend.wake.notified()).await;
            // Suspicions of a server that is down already must not turn into a storm of checks.
            tokio::time::sleep(RETRY_FIRST).await;
        }
    }
}

/// One check, over the connection at hand or a new one.
async fn check(connection: &mut Option<Connection>, address: SocketAddr, ca: &Path) -> std::io::Result<()> {
    let sender = match connection {
        Some(open) if !open.is_closed() => open,
        _ => connection.insert(connect(address, ca).await?),
    };
    sender.ready().await.map_err(Error::other)?;
    let request = Request::get("/readyz")
        .header(header::HOST, address.to_string())
        .header(header::USER_AGENT, "hikube-forwarder")
        .body(Empty::new())
        .map_err(Error::other)?;
    let response = sender.send_request(request).await.map_err(Error::other)?;
    let status = response.status();
    response.into_body().collect().await.map_err(Error::other)?;
    // A server that wants to know who asks (401, 403) is up; one that is not ready says 500.
    if status.is_server_error() {
        return Err(Error::other(format!("/readyz: {status}")));
    }
    Ok(())
}

async fn connect(address: SocketAddr, ca: &Path) -> std::io::Result<Connection> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    // Read anew for each connection, since authorities can change.
    let mut roots = rustls::RootCertStore::empty();
    let pem = tokio::fs::read(ca).await?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(Error::other)?;
        roots.add(certificate).map_err(Error::other)?;
    }
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::IpAddress(address.ip().into());
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    let (sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(tls))
        .await
        .map_err(Error::other)?;
    tokio::spawn(async move {
        // Its end shows in the sender.
        let _ = driver.await;
    });
    Ok(sender)
}
