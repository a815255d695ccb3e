//! The connection to the API server. Differs from `kube::Client::try_default` in two things: the client
//! certificate is read again when its file changes, since certificates renew while a component runs; and all
//! requests share one HTTP/2 connection, watches included, which otherwise take a connection each with its TLS
//! state and buffers on both sides.

use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tower::ServiceBuilder;

/// Why a kubeconfig does not lead to a client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig cannot be read or is incomplete.
    #[error("kubeconfig {path}: {reason}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate that it names cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::Error),
}

/// A client and where it leads.
#[derive(Clone)]
pub struct Connection {
    /// The client; clones share the connection pool.
    pub client: kube::Client,
    /// The server's URL.
    pub server: http::Uri,
}

/// How long to wait for a TCP connection. The forwarder in front of the API servers is on the same node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections kept open without a request, towards a server that speaks only HTTP/1.1.
const IDLE_CONNECTIONS: usize = 4;

/// A connection on which nothing comes for so long is tested, and given up when the answer stays out: a server
/// behind a cut cable must not hold back a component whose leases last seconds.
const PING: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// What the server may send ahead on one stream, and on all together, in bytes. A stream that is read late holds
/// back the others only beyond the latter.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Makes a client from the current context of a kubeconfig whose certificates are given as files
/// (`certificate-authority`, `client-certificate`, `client-key`), or from one with embedded data or a token.
/// It does not wait for the server to be up.
pub async fn connect(kubeconfig: &Path) -> Result<Connection, Error> {
    tls::install_provider();
    let failed = |reason: String| Error::Kubeconfig {
        path: kubeconfig.into(),
        reason,
    };
    let parsed = Kubeconfig::read_from(kubeconfig).map_err(|e| failed(e.to_string()))?;
    let files = identity_files(&parsed);
    let mut config = kube::Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default())
        .await
        .map_err(|e| failed(e.to_string()))?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    let server = config.cluster_url.clone();
    let Some(files) = files else {
        let client = kube::Client::try_from(config).map_err(|e| failed(e.to_string()))?;
        return Ok(Connection { client, server });
    };
    let tls_config = tls::client_config(&files, &[])?;
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT_TIMEOUT));
    http.set_keepalive(Some(Duration::from_secs(5)));
    let pool = Pools::new(&tls_config, http);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(|e| failed(e.to_string()))?)
        .map_err(tower::BoxError::from)
        .service(pool);
    let client = kube::Client::new(service, config.default_namespace.clone());
    Ok(Connection { client, server })
}

type Pool = hyper_util::client::legacy::Client<HttpsConnector<HttpConnector>, Body>;

/// Requests that become a stream of their own (exec, attach, port-forward) need HTTP/1.1; all others share a
/// connection where the server speaks HTTP/2.
#[derive(Clone)]
struct Pools {
    shared: Pool,
    upgraded: Pool,
}

impl Pools {
    fn new(tls_config: &rustls::ClientConfig, http: HttpConnector) -> Self {
        let https = || {
            hyper_rustls::HttpsConnectorBuilder::new()
                .with_tls_config(tls_config.clone())
                .https_only()
        };
        let mut builder = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PING_TIMEOUT);
        Self {
            shared: builder.build(https().enable_http1().enable_http2().wrap_connector(http.clone())),
            upgraded: builder.build(https().enable_http1().wrap_connector(http)),
        }
    }
}

impl tower::Service<http::Request<Body>> for Pools {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper_util::client::legacy::Error;
    type Future = hyper_util::client::legacy::ResponseFuture;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.headers().contains_key(http::header::UPGRADE) {
            self.upgraded.request(request)
        } else {
            self.shared.request(request)
        }
    }
}

/// The three files of the current context, when it names files.
fn identity_files(config: &Kubeconfig) -> Option<tls::IdentityFiles> {
    let current = config.current_context.as_ref()?;
    let context = config
        .contexts
        .iter()
        .find(|c| &c.name == current)?
        .context
        .as_ref()?;
    let cluster = config
        .clusters
        .iter()
        .find(|c| c.name == context.cluster)?
        .cluster
        .as_ref()?;
    let user = context.user.as_ref()?;
    let auth = config
        .auth_infos
        .iter()
        .find(|a| &a.name == user)?
        .auth_info
        .as_ref()?;
    Some(tls::IdentityFiles {
        cert: auth.client_certificate.as_ref()?.into(),
        key: auth.client_key.as_ref()?.into(),
        ca: cluster.certificate_authority.as_ref()?.into(),
    })
}
