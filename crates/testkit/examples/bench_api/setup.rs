//! etcd, the server, and who may use it.

use crate::http::Connection;
use crate::process::Server;
use crate::{DATA_BYTES, eprintln_progress};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hikube_testkit::{Etcd, Options, Pki, free_port, server_config};
use serde_json::{Value, json};
use state::etcd::EtcdStore;
use state::{Range, StateStore};
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Requests at once, as wrk's connections.
const CONCURRENCY: usize = 32;
/// Full lists at once.
const LIST_CONCURRENCY: usize = 4;
/// How long the server may take to start.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Everything that is measured.
pub struct Bench {
    dir: tempfile::TempDir,
    pki: Pki,
    etcd: Etcd,
    /// The API server.
    pub server: Server,
    /// Where it listens.
    pub address: SocketAddr,
    /// Of a service account that may do what it needs, by RBAC.
    pub token: String,
    /// Trusts the server.
    pub tls: Arc<rustls::ClientConfig>,
}

/// Runs the API server until it is killed.
pub fn serve(dir: &Path, port: u16, etcd: String) -> Result<()> {
    let pki = Pki::open(&dir.join("pki"))?;
    let bind = SocketAddr::from(([127, 0, 0, 1], port));
    let config = server_config(&pki, &Options::default(), bind, vec![etcd])?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    Ok(runtime.block_on(apiserver::run(config, tokio_util::sync::CancellationToken::new()))?)
}

impl Bench {
    /// Starts etcd and the server; also the time from the server's start to its readiness.
    pub async fn start() -> Result<(Self, Duration)> {
        let dir = tempfile::Builder::new().prefix("hikube-bench-api-").tempdir()?;
        let pki = Pki::open(&dir.path().join("pki"))?;
        let etcd = Etcd::start_with(&dir.path().join("etcd"), &pki, 1, true)?;
        wait_for_etcd(&store(&pki, &etcd)?).await?;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        // Certificates are made before the clock runs, as an operator's are.
        server_config(&pki, &Options::default(), address, etcd.endpoints())?;
        let mut roots = rustls::RootCertStore::empty();
        for cert in rustls_pemfile::certs(&mut pki.cluster.certificate().as_bytes()) {
            roots.add(cert?)?;
        }
        let tls = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let started = Instant::now();
        let server = spawn(dir.path(), address.port(), &etcd)?;
        let bench = Self {
            dir,
            pki,
            etcd,
            server,
            address,
            token: String::new(),
            tls: Arc::new(tls),
        };
        bench.wait_ready().await?;
        Ok((bench, started.elapsed()))
    }

    /// Processor time of the server and of etcd so far.
    pub fn cpu(&self) -> Result<[Duration; 2]> {
        let etcd = self.etcd.pid(0).context("etcd does not run")?;
        Ok([self.server.cpu()?, crate::process::cpu(etcd)?])
    }

    /// Kills the server and starts it again.
    pub async fn restart(&mut self) -> Result<Duration> {
        self.server.kill();
        let started = Instant::now();
        self.server = spawn(self.dir.path(), self.address.port(), &self.etcd)?;
        self.wait_ready().await?;
        Ok(started.elapsed())
    }

    async fn wait_ready(&self) -> Result<()> {
        let started = Instant::now();
        loop {
            if let Ok(mut connection) = Connection::open(self.address, &self.tls, "").await
                && let Ok((200, _)) = connection.request("GET", "/readyz", "").await
            {
                return Ok(());
            }
            ensure!(
                started.elapsed() < READY_TIMEOUT,
                "the server is not ready after {READY_TIMEOUT:?}"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// A namespace and a service account with a role, made by an administrator.
    pub async fn prepare(&mut self) -> Result<()> {
        let files = self
            .pki
            .client("admin", "kubernetes-admin", &["system:masters"])?;
        let admin = tls::client_config(&files, &[b"http/1.1"])?;
        let mut connection = Connection::open(self.address, &admin, "").await?;
        let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/load";
        let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}]);
        let reference = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "bench"});
        for (path, object) in [
            (
                "/api/v1/namespaces".to_owned(),
                json!({"metadata": {"name": "load"}}),
            ),
            (
                "/api/v1/namespaces/load/serviceaccounts".into(),
                json!({"metadata": {"name": "bench"}}),
            ),
            (
                format!("{rbac}/roles"),
                json!({"metadata": {"name": "bench"}, "rules": rules}),
            ),
            (
                format!("{rbac}/rolebindings"),
                json!({"metadata": {"name": "bench"}, "roleRef": reference, "subjects": [
                    {"kind": "ServiceAccount", "name": "bench", "namespace": "load"}]}),
            ),
        ] {
            let (code, body) = connection.request_as_admin(&path, &object).await?;
            ensure!(code == 201, "{path}: {code} {}", String::from_utf8_lossy(&body));
        }
        let path = "/api/v1/namespaces/load/serviceaccounts/bench/token";
        let (_, body) = connection
            .request_as_admin(path, &json!({"spec": {"expirationSeconds": 7200}}))
            .await?;
        let token: Value = serde_json::from_slice(&body)?;
        self.token = token["status"]["token"].as_str().context("no token")?.to_owned();
        Ok(())
    }

    /// Creates so many ConfigMaps.
    pub async fn fill(&self, count: usize) -> Result<()> {
        let next = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..CONCURRENCY {
            let mut connection = Connection::open(self.address, &self.tls, &self.token).await?;
            let next = next.clone();
            tasks.spawn(async move {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return Ok(());
                    }
                    let object = config_map(&format!("c{index:05}"));
                    let (code, body) = connection
                        .request("POST", "/api/v1/namespaces/load/configmaps", &object)
                        .await?;
                    ensure!(code == 201, "{code} {}", String::from_utf8_lossy(&body));
                }
            });
        }
        while let Some(result) = tasks.join_next().await {
            result??;
        }
        Ok(())
    }

    /// Creations per second of a bare client.
    pub async fn etcd_creates(&self, length: Duration) -> Result<f64> {
        let value = Bytes::from(config_map("bare"));
        self.bare(CONCURRENCY, length, move |store, number| {
            let value = value.clone();
            async move {
                store
                    .create(&format!("/bare/{number}"), value, None)
                    .await
                    .map(|_| ())
            }
        })
        .await
    }

    /// Linearizable reads of one key per second of a bare client.
    pub async fn etcd_gets(&self, length: Duration) -> Result<f64> {
        self.bare(CONCURRENCY, length, |store, _| async move {
            store.get("/registry/configmaps/load/c00007").await.map(|_| ())
        })
        .await
    }

    /// Reads of all objects per second of a bare client.
    pub async fn etcd_lists(&self, length: Duration) -> Result<f64> {
        self.bare(LIST_CONCURRENCY, length, |store, _| async move {
            let (start, end) = ("/registry/configmaps/load/", "/registry/configmaps/load0");
            let range = Range {
                start,
                end,
                limit: 0,
                revision: 0,
            };
            store.range(range).await.map(|_| ())
        })
        .await
    }

    async fn bare<F, Fut>(&self, concurrency: usize, length: Duration, call: F) -> Result<f64>
    where
        F: Fn(Arc<EtcdStore>, usize) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Result<(), state::Error>> + Send,
    {
        let store = Arc::new(store(&self.pki, &self.etcd)?);
        let count = Arc::new(AtomicUsize::new(0));
        let started = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..concurrency {
            let (store, count, call) = (store.clone(), count.clone(), call.clone());
            tasks.spawn(async move {
                while started.elapsed() < length {
                    call(store.clone(), count.fetch_add(1, Ordering::Relaxed)).await?;
                }
                Ok::<_, state::Error>(())
            });
        }
        while let Some(result) = tasks.join_next().await {
            result??;
        }
        let rate = count.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
        eprintln_progress(&format!("bare etcd: {rate:.1}/s"));
        Ok(rate)
    }
}

impl Connection {
    async fn request_as_admin(&mut self, path: &str, object: &Value) -> Result<(u16, Vec<u8>)> {
        self.request("POST", path, &object.to_string()).await
    }
}

/// A ConfigMap with the usual amount of data.
pub fn config_map(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"v": "x".repeat(DATA_BYTES)}})
        .to_string()
}

fn store(pki: &Pki, etcd: &Etcd) -> Result<EtcdStore> {
    Ok(EtcdStore::new(&etcd.endpoints(), Some(&pki.etcd("bench")?))?)
}

async fn wait_for_etcd(store: &EtcdStore) -> Result<()> {
    let started = Instant::now();
    while store.revision().await.is_err() {
        ensure!(started.elapsed() < READY_TIMEOUT, "etcd does not answer");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn spawn(dir: &Path, port: u16, etcd: &Etcd) -> Result<Server> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("serve").arg("--dir").arg(dir).args([
        "--port",
        &port.to_string(),
        "--etcd",
        &etcd.endpoints()[0],
    ]);
    Ok(Server(command.stdin(Stdio::null()).spawn()?))
}
