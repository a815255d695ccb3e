//! The connection to the API server. Differs from `kube::Client::try_default` in one thing: the client
//! certificate is read again when its file changes, since certificates renew while a component runs.

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
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
    let https = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config((*tls_config).clone())
        .https_only()
        .enable_http1()
        .wrap_connector(http);
    let pool = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(4)
        .build::<_, Body>(https);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(|e| failed(e.to_string()))?)
        .map_err(tower::BoxError::from)
        .service(pool);
    let client = kube::Client::new(service, config.default_namespace.clone());
    Ok(Connection { client, server })
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
