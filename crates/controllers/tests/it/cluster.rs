//! A cluster for one test: etcd, API server, scheduler, controllers.

use anyhow::{Context, Result, bail};
use controllers::{Contact, StorageContact};
use hikube_controllers as controllers;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{GroupVersionKind, TypeMeta};
use kube::discovery::ApiResource;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest wait for anything that should happen soon.
pub const SOON: Duration = Duration::from_secs(20);

/// What the stores would say: a node is silent since it was cut off.
#[derive(Default)]
pub struct Stores {
    silent: Mutex<HashMap<String, Instant>>,
    unknown: Mutex<bool>,
}

impl Stores {
    /// From now on the stores do not hear from this node.
    pub fn lose(&self, node: &str) {
        self.silent.lock().unwrap().insert(node.into(), Instant::now());
    }

    /// They hear it again.
    pub fn find(&self, node: &str) {
        self.silent.lock().unwrap().remove(node);
    }

    /// No majority of stores answers.
    pub fn set_unknown(&self, unknown: bool) {
        *self.unknown.lock().unwrap() = unknown;
    }
}

#[async_trait::async_trait]
impl StorageContact for Stores {
    async fn contact(&self, node: &str) -> Contact {
        if *self.unknown.lock().unwrap() {
            return Contact::Unknown;
        }
        match self.silent.lock().unwrap().get(node) {
            Some(since) => Contact::SilentFor(since.elapsed()),
            None => Contact::Heard,
        }
    }
}

/// The running cluster.
pub struct TestCluster {
    pub inner: testkit::Cluster,
    pub client: kube::Client,
    pub stores: Arc<Stores>,
    root_ca: PathBuf,
    managers: Vec<(CancellationToken, JoinHandle<()>)>,
}

static LOGGING: Once = Once::new();

impl TestCluster {
    /// With scheduler and controllers.
    pub async fn start() -> Result<Self> {
        LOGGING.call_once(|| {
            let filter = tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
            tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_test_writer()
                .init();
        });
        let inner = testkit::Cluster::start().await?;
        let client = client::connect(&inner.admin).await?.client;
        let root_ca = inner.pki.cluster.files("admin").ca;
        let mut cluster = Self {
            inner,
            client,
            stores: Arc::default(),
            root_ca,
            managers: Vec::new(),
        };
        cluster.start_managers("one");
        // Without it no pod is accepted.
        let accounts = cluster.api::<k8s_openapi::api::core::v1::ServiceAccount>();
        eventually("service account", SOON, || async {
            Ok(accounts.get_opt("default").await?)
        })
        .await?;
        Ok(cluster)
    }

    /// Starts a scheduler and controllers that take part in the elections.
    pub fn start_managers(&mut self, identity: &str) {
        let shutdown = CancellationToken::new();
        let config = controllers::Config {
            kubeconfig: self.inner.dir.join("controller-manager.kubeconfig"),
            identity: identity.into(),
            root_ca: self.root_ca.clone(),
        };
        let scheduling = scheduler::Config {
            kubeconfig: self.inner.dir.join("scheduler.kubeconfig"),
            identity: identity.into(),
        };
        let (stores, token) = (self.stores.clone(), shutdown.clone());
        let task = tokio::spawn(async move {
            let controllers = controllers::run(config, stores, token.clone());
            let scheduler = scheduler::run(scheduling, token);
            let (controllers, scheduler) = tokio::join!(controllers, scheduler);
            controllers.unwrap();
            scheduler.unwrap();
        });
        self.managers.push((shutdown, task));
    }

    /// Kills the oldest scheduler and controllers without any goodbye.
    pub fn kill_managers(&mut self) {
        let (_, task) = self.managers.remove(0);
        task.abort();
    }

    /// The API of a typed kind in the namespace `default`.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    /// The API of a typed cluster-scoped kind.
    pub fn all<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = ()>,
    {
        Api::all(self.client.clone())
    }

    /// Creates an object given as JSON; the namespace is `default` unless it says otherwise.
    pub async fn create(&self, value: serde_json::Value) -> Result<DynamicObject> {
        let object: DynamicObject = serde_json::from_value(value)?;
        let types: TypeMeta = object.types.clone().context("kind")?;
        let gvk = GroupVersionKind::try_from(&types)?;
        let resource = ApiResource::from_gvk(&gvk);
        let cluster_scoped = [
            "Node",
            "Namespace",
            "PersistentVolume",
            "StorageClass",
            "CSIDriver",
        ]
        .contains(&types.kind.as_str());
        let api: Api<DynamicObject> = if cluster_scoped {
            Api::all_with(self.client.clone(), &resource)
        } else {
            let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
            Api::namespaced_with(self.client.clone(), namespace, &resource)
        };
        let name = object.metadata.name.clone();
        api.create(&PostParams::default(), &object)
            .await
            .with_context(|| format!("create {name:?}"))
    }

    /// Merge-patches an object of the namespace `default`.
    pub async fn patch<K>(&self, name: &str, patch: serde_json::Value) -> Result<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        Ok(self
            .api::<K>()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await?)
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        for (shutdown, task) in &self.managers {
            shutdown.cancel();
            task.abort();
        }
    }
}

/// Asks again until the answer is there; the error tells what was waited for.
pub async fn eventually<T, F, Fut>(what: &str, within: Duration, mut check: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let start = Instant::now();
    loop {
        if let Some(answer) = check().await? {
            return Ok(answer);
        }
        if start.elapsed() > within {
            bail!("not within {within:?}: {what}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
