//! The forwarder in front of two API servers: which it takes, and what happens when one is not ready, refuses,
//! or falls silent.

#![allow(clippy::unwrap_used)]

use hikube_network as network;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// An API server: `/readyz` over TLS, everything else is answered with its name.
struct Api {
    address: SocketAddr,
    ready: Arc<AtomicBool>,
    /// Accepts and then says nothing, as behind a cut cable.
    silent: Arc<AtomicBool>,
    checks: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Api {
    async fn start(name: &'static str, authority: &tls::Authority, address: &str) -> Self {
        let subject = tls::Subject {
            common_name: name.into(),
            ips: vec!["127.0.0.1".parse().unwrap()],
            server: true,
            validity: Duration::from_secs(3600),
            ..tls::Subject::default()
        };
        let files = authority.issue_files(name, &subject).unwrap();
        let config = tls::server_config(&files, tls::ClientAuth::Optional, &[]).unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ready, silent) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let checks = Arc::new(AtomicUsize::new(0));
        let state = (ready.clone(), silent.clone(), checks.clone());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (state, config) = (state.clone(), config.clone());
                connections.spawn(async move {
                    if state.1.load(Ordering::SeqCst) {
                        std::future::pending::<()>().await;
                    }
                    if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                        serve(name, stream, state).await;
                    }
                });
            }
        });
        Self {
            address,
            ready,
            silent,
            checks,
            task,
        }
    }
}

type Flags = (Arc<AtomicBool>, Arc<AtomicBool>, Arc<AtomicUsize>);

async fn serve(name: &'static str, stream: TlsStream<TcpStream>, (ready, silent, checks): Flags) {
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let (ready, silent, checks) = (ready.clone(), silent.clone(), checks.clone());
        async move {
            if silent.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            let mut response = Response::new(Full::<bytes::Bytes>::from(name));
            if request.uri().path() == "/readyz" {
                checks.fetch_add(1, Ordering::SeqCst);
                if !ready.load(Ordering::SeqCst) {
                    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                }
            }
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

struct Setup {
    near: Api,
    far: Api,
    listen: SocketAddr,
    ca: std::path::PathBuf,
    authority: tls::Authority,
    shutdown: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Setup {
    async fn new() -> Self {
        tls::install_provider();
        let dir = tempfile::Builder::new().prefix("hkn-forward-").tempdir().unwrap();
        let authority = tls::Authority::open(dir.path(), "test").unwrap();
        let near = Api::start("near", &authority, "127.0.0.1:0").await;
        let far = Api::start("far", &authority, "127.0.0.1:0").await;
        let listen = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let shutdown = CancellationToken::new();
        let config = network::ForwardConfig {
            api_listen: listen,
            api_backends: vec![near.address, far.address],
            api_ca: authority.certificate_path(),
        };
        tokio::spawn(network::forward(config, shutdown.clone()));
        let setup = Self {
            near,
            far,
            listen,
            ca: authority.certificate_path(),
            authority,
            shutdown,
            _dir: dir,
        };
        // The forwarder listens a moment after it was started.
        assert_eq!(setup.reach().await, "near");
        setup
    }

    /// A connection through the forwarder, and which server is behind it.
    async fn connect(&self) -> Option<(tokio_rustls::client::TlsStream<TcpStream>, String)> {
        use rustls::pki_types::pem::PemObject;
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(rustls::pki_types::CertificateDer::from_pem_file(&self.ca).unwrap())
            .unwrap();
        let config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.listen).await.ok()?;
        let name = "127.0.0.1".try_into().unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await.ok()?;
        let server = request(&mut stream).await?;
        Some((stream, server))
    }

    async fn reach(&self) -> String {
        let start = Instant::now();
        loop {
            if let Some((_, server)) = self.connect().await {
                return server;
            }
            assert!(start.elapsed() < Duration::from_secs(5), "no server reached");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn request(stream: &mut tokio_rustls::client::TlsStream<TcpStream>) -> Option<String> {
    stream
        .write_all(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .ok()?;
    let mut reply = vec![0; 1000];
    let length = stream.read(&mut reply).await.ok().filter(|n| *n > 0)?;
    let reply = String::from_utf8_lossy(&reply[..length]).into_owned();
    reply.rsplit("\r\n").next().map(str::to_owned)
}

/// How long it takes until the connection ends.
async fn ends(mut stream: tokio_rustls::client::TlsStream<TcpStream>) -> Duration {
    let start = Instant::now();
    let mut byte = [0];
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut byte)).await;
    assert!(!matches!(read, Ok(Ok(1..))), "unexpected data");
    read.expect("the connection stays open").ok();
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nearest_ready_server_is_taken_and_others_are_left() {
    let setup = Setup::new().await;
    assert_eq!(setup.reach().await, "near");

    // Not ready: its connections end, new ones go elsewhere.
    let (open, _) = setup.connect().await.unwrap();
    setup.near.ready.store(false, Ordering::SeqCst);
    let took = ends(open).await;
    assert!(took < Duration::from_millis(1500), "{took:?}");
    assert_eq!(setup.reach().await, "far");

    // Ready again: new connections return within about a second, old ones stay.
    let (mut open, _) = setup.connect().await.unwrap();
    setup.near.ready.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(1300)).await;
    assert_eq!(setup.reach().await, "near");
    assert_eq!(request(&mut open).await.unwrap(), "far");

    // Silent: noticed by the timeout.
    let (open, _) = setup.connect().await.unwrap();
    setup.near.silent.store(true, Ordering::SeqCst);
    let took = ends(open).await;
    assert!(took < Duration::from_millis(3500), "{took:?}");
    assert_eq!(setup.reach().await, "far");
    setup.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_is_replaced_at_once_and_found_again() {
    let mut setup = Setup::new().await;
    let (open, _) = setup.connect().await.unwrap();
    let address = setup.near.address.to_string();
    setup.near.task.abort();
    ends(open).await;
    let start = Instant::now();
    assert_eq!(setup.reach().await, "far");
    assert!(
        start.elapsed() < Duration::from_millis(300),
        "{:?}",
        start.elapsed()
    );
    setup.far.task.abort();
    assert!(setup.connect().await.is_none(), "no server, no connection");
    setup.near = Api::start("near", &setup.authority, &address).await;
    assert_eq!(setup.reach().await, "near");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_nobody_uses_are_not_asked() {
    let setup = Setup::new().await;
    setup.reach().await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let counts = || {
        (
            setup.near.checks.load(Ordering::SeqCst),
            setup.far.checks.load(Ordering::SeqCst),
        )
    };
    let before = counts();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(counts(), before);
    let _open = setup.connect().await.unwrap();
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let after = counts();
    assert!((3..=5).contains(&(after.0 - before.0)), "{before:?} {after:?}");
    assert_eq!(after.1, before.1);
}
