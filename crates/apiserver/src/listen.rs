//! Accepting connections: TLS, HTTP/1.1 and HTTP/2.

use crate::authn::client::Client;
use crate::router;
use crate::server::Server;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections open at once; a cluster's components keep a few each.
const MAX_CONNECTIONS: usize = 4096;
/// A handshake that takes longer is an attack or a dead peer.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests under way on one HTTP/2 connection: client-go opens one connection for all its watches.
const MAX_STREAMS: u32 = 1000;
/// Requests under way get this long when the server stops.
const DRAIN: Duration = Duration::from_secs(10);
/// How long a connection over HTTP/1.1 may wait for its next request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Dead peers are found by pings.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(15));

/// Serves until `shutdown`, then lets the requests under way finish.
pub async fn serve(
    server: Arc<Server>,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    shutdown: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let tracker = TaskTracker::new();
    loop {
        let permit = tokio::select! {
            permit = connections.clone().acquire_owned() => permit,
            () = shutdown.cancelled() => break,
        };
        let Ok(permit) = permit else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: let some be closed.
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (server, acceptor, shutdown) = (server.clone(), acceptor.clone(), shutdown.clone());
        tracker.spawn(async move {
            if let Err(error) = connection(server, acceptor, stream, shutdown).await {
                tracing::debug!(error, "connection ended");
            }
            drop(permit);
        });
    }
    tracker.close();
    if tokio::time::timeout(DRAIN, tracker.wait()).await.is_err() {
        tracing::info!("requests were cut off after {DRAIN:?}");
    }
}

async fn connection(
    server: Arc<Server>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    shutdown: CancellationToken,
) -> Result<(), String> {
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream))
        .await
        .map_err(|_| "handshake timed out".to_owned())?
        .map_err(|e| e.to_string())?;
    let peer = tls::peer_of(stream.get_ref().1.peer_certificates());
    let client = Arc::new(Client::new(peer.as_ref()));
    let service = service_fn(move |request| {
        let (server, client) = (server.clone(), client.clone());
        async move { Ok::<_, Infallible>(router::handle(server, client, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .half_close(true)
        .header_read_timeout(IDLE_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    result.map_err(|e| e.to_string())
}
