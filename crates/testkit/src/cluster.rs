//! etcd and the API server together, and kubeconfigs for everybody.

use crate::{Etcd, Pki, free_port};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long everything may take to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// What is wanted of a test cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything is kept; a temporary directory by default.
    pub dir: Option<PathBuf>,
    /// Port of the API server; a free one by default.
    pub port: Option<u16>,
    /// Address that the API server listens on.
    pub listen: IpAddr,
    /// Address that it publishes.
    pub advertise: IpAddr,
    /// etcd members. With none, the API server keeps its state in the embedded store.
    pub etcd_members: usize,
    /// More addresses for the serving certificate.
    pub addresses: Vec<IpAddr>,
}

impl Default for Options {
    fn default() -> Self {
        let local = IpAddr::from([127, 0, 0, 1]);
        Self {
            dir: None,
            port: None,
            listen: local,
            advertise: local,
            etcd_members: 1,
            addresses: Vec::new(),
        }
    }
}

/// A running control plane without scheduler and controllers. Everything ends when it is dropped.
pub struct Cluster {
    /// Where everything is kept.
    pub dir: PathBuf,
    /// Kubeconfig of an administrator.
    pub admin: PathBuf,
    /// Where the API server listens.
    pub address: SocketAddr,
    /// Certificates.
    pub pki: Pki,
    /// The state store.
    pub etcd: Etcd,
    config: apiserver::Config,
    shutdown: CancellationToken,
    server: Option<JoinHandle<Result<(), apiserver::Error>>>,
    _temporary: Option<tempfile::TempDir>,
}

impl Cluster {
    /// One etcd member and an API server in a temporary directory.
    pub async fn start() -> Result<Self> {
        Self::start_with(Options::default()).await
    }

    /// The same with options. Returns when the API server is ready.
    pub async fn start_with(options: Options) -> Result<Self> {
        tls::install_provider();
        let (dir, temporary) = match &options.dir {
            Some(dir) => (dir.clone(), None),
            None => {
                let temporary = tempfile::Builder::new().prefix("hikube-testkit-").tempdir()?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        std::fs::create_dir_all(&dir)?;
        let pki = Pki::open(&dir.join("pki"))?;
        let etcd = Etcd::start(&dir.join("etcd"), &pki, options.etcd_members)?;
        let port = match options.port {
            Some(port) => port,
            None => free_port()?,
        };
        let address = SocketAddr::new(options.listen, port);
        let mut config = server_config(&pki, &options, address, etcd.endpoints())?;
        if options.etcd_members == 0 {
            config = apiserver::Config {
                etcd_cert: None,
                etcd_key: None,
                etcd_ca: None,
                embedded_store: Some(dir.join("state.db")),
                ..config
            };
        }
        let mut cluster = Self {
            admin: dir.join("admin.kubeconfig"),
            dir,
            address: SocketAddr::new(options.advertise, port),
            pki,
            etcd,
            config,
            shutdown: CancellationToken::new(),
            server: None,
            _temporary: temporary,
        };
        cluster.write_kubeconfigs()?;
        cluster.start_server();
        cluster.wait_ready().await?;
        Ok(cluster)
    }

    fn write_kubeconfigs(&self) -> Result<()> {
        self.kubeconfig("admin", "kubernetes-admin", &["system:masters"])?;
        self.kubeconfig("scheduler", "system:kube-scheduler", &[])?;
        self.kubeconfig("controller-manager", "system:kube-controller-manager", &[])?;
        self.kubeconfig("proxy", "system:kube-proxy", &["system:node-proxier"])?;
        Ok(())
    }

    /// Starts the API server again after [`Cluster::stop_server`].
    pub fn start_server(&mut self) {
        self.shutdown = CancellationToken::new();
        self.server = Some(tokio::spawn(apiserver::run(
            self.config.clone(),
            self.shutdown.clone(),
        )));
    }

    /// Stops the API server as a signal would.
    pub async fn stop_server(&mut self) -> Result<()> {
        self.shutdown.cancel();
        if let Some(server) = self.server.take() {
            server.await??;
        }
        Ok(())
    }

    /// How the API server is run, to run a second one.
    pub fn config(&self) -> &apiserver::Config {
        &self.config
    }

    /// Waits until the API server accepts connections and says that it is ready.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let started = tokio::time::Instant::now();
        while started.elapsed() < READY_TIMEOUT {
            if self.server.as_ref().is_some_and(JoinHandle::is_finished)
                && let Some(server) = self.server.take()
            {
                server.await?.context("the API server ended")?;
                bail!("the API server ended");
            }
            if let Ok((200, _)) = self.get_raw("/readyz").await {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("the API server is not ready after {READY_TIMEOUT:?}")
    }

    /// GET without credentials: code and body.
    pub async fn get_raw(&self, path: &str) -> Result<(u16, String)> {
        self.request("GET", path, &[], "").await
    }

    /// A request without a client certificate: code and body.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<(u16, String)> {
        crate::raw::request(&self.pki, self.address, None, method, path, headers, body).await
    }

    /// A request with the certificate of an administrator: code and body.
    pub async fn admin_request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<(u16, String)> {
        let files = self.pki.cluster.files("admin");
        crate::raw::request(&self.pki, self.address, Some(&files), method, path, headers, body).await
    }

    /// The same to another API server of this cluster.
    pub async fn admin_request_at(
        &self,
        address: std::net::SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<(u16, String)> {
        let files = self.pki.cluster.files("admin");
        crate::raw::request(&self.pki, address, Some(&files), method, path, headers, body).await
    }

    /// A GET with the certificate of an administrator: code, headers as they came, body.
    pub async fn admin_exchange(
        &self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<(u16, String, String)> {
        let files = self.pki.cluster.files("admin");
        crate::raw::exchange(&self.pki, self.address, Some(&files), "GET", path, headers, "").await
    }

    /// Writes `DIR/NAME.kubeconfig` for a user, with certificates as files.
    pub fn kubeconfig(&self, name: &str, user: &str, groups: &[&str]) -> Result<PathBuf> {
        let files = self.pki.client(name, user, groups)?;
        let path = self.dir.join(format!("{name}.kubeconfig"));
        write_kubeconfig(&path, &format!("https://{}", self.address), &files)?;
        Ok(path)
    }

    /// Kubeconfig of a kubelet: `DIR/node-NAME.kubeconfig`.
    pub fn node(&self, name: &str) -> Result<PathBuf> {
        self.kubeconfig(
            &format!("node-{name}"),
            &format!("system:node:{name}"),
            &["system:nodes"],
        )
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

/// How an API server at `bind` is run on these etcd members.
pub fn server_config(
    pki: &Pki,
    options: &Options,
    bind: SocketAddr,
    etcd_servers: Vec<String>,
) -> Result<apiserver::Config> {
    let mut names = vec![
        IpAddr::from([127, 0, 0, 1]),
        IpAddr::from([10, 96, 0, 1]),
        options.advertise,
    ];
    names.extend(&options.addresses);
    let serving = pki.server("apiserver", &names)?;
    let etcd = pki.etcd("apiserver")?;
    let kubelet = pki.client("kubelet-client", "kube-apiserver-kubelet-client", &[])?;
    Ok(apiserver::Config {
        bind,
        advertise_address: options.advertise,
        tls_cert: serving.cert,
        tls_key: serving.key,
        client_ca: serving.ca,
        etcd_servers,
        etcd_cert: Some(etcd.cert),
        etcd_key: Some(etcd.key),
        etcd_ca: Some(etcd.ca),
        embedded_store: None,
        service_account_key: pki.token_key()?,
        service_account_issuer: "https://kubernetes.default.svc.cluster.local".into(),
        service_cidr: "10.96.0.0/16".into(),
        service_node_port_range: "30000-32767".into(),
        kubelet_client_cert: kubelet.cert,
        kubelet_client_key: kubelet.key,
        encryption_key: Some(pki.encryption_key()?),
    })
}

/// Writes a kubeconfig as JSON, which is YAML.
fn write_kubeconfig(path: &Path, server: &str, files: &tls::IdentityFiles) -> Result<()> {
    let value = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "testkit",
        "clusters": [{"name": "testkit", "cluster": {"server": server, "certificate-authority": files.ca}}],
        "users": [{"name": "user", "user": {"client-certificate": files.cert, "client-key": files.key}}],
        "contexts": [{"name": "testkit", "context": {"cluster": "testkit", "user": "user"}}],
    });
    std::fs::write(path, serde_json::to_vec_pretty(&value)?)?;
    Ok(())
}
