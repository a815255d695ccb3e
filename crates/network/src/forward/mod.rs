//! TCP pass-through in front of the API servers. TLS ends at the API server, so the forwarder needs no key; it only
//! decides which server a connection goes to, and ends connections whose server is no longer ready, so that
//! clients come again and reach another one.

mod health;

use crate::{Error, ForwardConfig};
use health::{Backend, User};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Connections at one time. A node has some tens; this bounds what a broken client can take.
const CONNECTIONS: usize = 2048;
/// Longest wait for one server's answer to a SYN before the next server is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long data may wait for its acknowledgement, and how long an idle connection may be dead, before it is
/// closed. A connection that was made in the moment before a link failed gets no news from the checks, and TCP by
/// itself repeats for a quarter of an hour, ever more seldom.
const DEAD_AFTER: Duration = Duration::from_secs(5);
/// Probes of an idle connection within [`DEAD_AFTER`].
const PROBES: u32 = 3;
/// Pause after `accept` failed, which it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long to wait for an address that is not there yet, or still in use by a forwarder that is ending.
const BIND_PATIENCE: Duration = Duration::from_secs(5);

/// Forwards until `shutdown`.
pub(crate) async fn run(config: ForwardConfig, shutdown: CancellationToken) -> Result<(), Error> {
    tls::install_provider();
    let listener = bind(config.api_listen).await.map_err(|error| Error::Forward {
        listen: config.api_listen,
        reason: error.to_string(),
    })?;
    let backends: Arc<[Arc<Backend>]> = config
        .api_backends
        .iter()
        .map(|a| Arc::new(Backend::new(*a)))
        .collect();
    let mut tasks = JoinSet::new();
    for backend in backends.iter() {
        tasks.spawn(health::keep_checking(backend.clone(), config.api_ca.clone()));
    }
    tokio::select! {
        () = accept(&listener, &backends) => {}
        () = shutdown.cancelled() => {}
    }
    Ok(())
}

async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let deadline = tokio::time::Instant::now() + BIND_PATIENCE;
    loop {
        match TcpListener::bind(address).await {
            Err(error)
                if matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable)
                    && tokio::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            result => return result,
        }
    }
}

/// Serves every connection in a task of its own; they end with this future.
async fn accept(listener: &TcpListener, backends: &Arc<[Arc<Backend>]>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(permit) = permits.clone().acquire_owned().await else {
            return;
        };
        let client = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match client {
            Ok((client, _)) => {
                let backends = backends.clone();
                connections.spawn(async move {
                    let _permit = permit;
                    serve(client, &backends).await;
                });
            }
            Err(error) => {
                tracing::info!(%error, "cannot accept a connection to the API");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(mut client: TcpStream, backends: &[Arc<Backend>]) {
    let Some((mut user, address, mut server)) = reach(backends).await else {
        tracing::debug!("no API server can be reached");
        return;
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    tokio::select! {
        // How a connection ends is the business of its two ends.
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        () = user.lost() => {
            tracing::debug!(server = %address, "closing a connection to a server that is not ready");
        }
    }
}

/// Connects to the nearest server that is ready; failing that, to any that answers.
async fn reach(backends: &[Arc<Backend>]) -> Option<(User, SocketAddr, TcpStream)> {
    let mut order: Vec<_> = backends.iter().collect();
    // Stable: within a state the order is that of the configuration.
    order.sort_by_key(|b| b.rank());
    for backend in order {
        let user = User::of(backend);
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(backend.address)).await {
            Ok(Ok(stream)) => {
                if let Err(error) = give_up_early(&stream) {
                    tracing::debug!(%error, "no keepalive");
                }
                return Some((user, backend.address, stream));
            }
            Ok(Err(_)) | Err(_) => backend.suspect(),
        }
    }
    None
}

/// Makes the kernel end the connection once its server has been silent for [`DEAD_AFTER`].
fn give_up_early(stream: &TcpStream) -> rustix::io::Result<()> {
    use rustix::net::sockopt;
    let millis = u32::try_from(DEAD_AFTER.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, millis)?;
    sockopt::set_tcp_keepidle(stream, DEAD_AFTER / (PROBES + 2))?;
    sockopt::set_tcp_keepintvl(stream, DEAD_AFTER / (PROBES + 2))?;
    sockopt::set_tcp_keepcnt(stream, PROBES)?;
    sockopt::set_socket_keepalive(stream, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::sockopt;

    #[tokio::test]
    async fn the_kernel_gives_up_a_silent_server_within_the_bound() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let backends = [Arc::new(Backend::new(address))];
        let (_, reached, stream) = reach(&backends).await.expect("connected");
        assert_eq!(reached, address);
        let user_timeout = sockopt::tcp_user_timeout(&stream).expect("option");
        assert_eq!(u128::from(user_timeout), DEAD_AFTER.as_millis());
        assert!(sockopt::socket_keepalive(&stream).expect("option"));
        let idle = sockopt::tcp_keepidle(&stream).expect("option");
        let probes =
            sockopt::tcp_keepintvl(&stream).expect("option") * sockopt::tcp_keepcnt(&stream).expect("option");
        assert!(idle + probes <= DEAD_AFTER);
    }
}
