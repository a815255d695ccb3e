//! ConfigMaps and Secrets that pods of this node refer to. Each is watched by its name, as the node authorizer
//! wants it, for as long as a pod refers to it; so a container can be restarted while the API is away, and a
//! change reaches the volumes at once.

use crate::sync::lock;
use client::Informer;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::runtime::watcher;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

/// How long a pod waits for the watch; then the object is asked for by itself.
const WAIT: Duration = Duration::from_secs(1);
/// How long it waits for that answer; then it reports why, and tries again.
const ASK: Duration = Duration::from_secs(5);

/// Which kind an object is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

impl Kind {
    /// As it stands in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        }
    }
}

/// Names one object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Kind.
    pub kind: Kind,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// The content of an object: file names to bytes.
pub type Data = BTreeMap<String, Vec<u8>>;

/// Why an object cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not exist.
    #[error("{} {:?} not found", .0.kind.name(), .0.name)]
    NotFound(ObjectKey),
    /// The API did not answer in time.
    #[error("failed to sync {} cache: timed out waiting for the condition", .0.kind.name())]
    Unknown(ObjectKey),
}

enum Source {
    ConfigMap(Informer<ConfigMap>),
    Secret(Informer<Secret>),
}

type Listeners = Arc<Mutex<HashMap<String, Arc<Notify>>>>;

struct Entry {
    source: Arc<Source>,
    listeners: Listeners,
    _task: AbortOnDropHandle<()>,
}

/// The objects in use. Bounded by what the node's pods name.
pub struct Objects {
    client: kube::Client,
    entries: Mutex<HashMap<ObjectKey, Entry>>,
}

impl Objects {
    /// Nothing is watched yet.
    pub fn new(client: kube::Client) -> Self {
        Self {
            client,
            entries: Mutex::new(HashMap::new()),
        }
    }

    /// The pod refers to exactly these objects from now on; `listener` is woken when one changes.
    pub fn refer(&self, uid: &str, keys: &HashSet<ObjectKey>, listener: &Arc<Notify>) {
        let mut entries = lock(&self.entries);
        for key in keys {
            let entry = entries.entry(key.clone()).or_insert_with(|| self.watch(key));
            lock(&entry.listeners).insert(uid.into(), listener.clone());
        }
        entries.retain(|key, entry| {
            let mut listeners = lock(&entry.listeners);
            if !keys.contains(key) {
                listeners.remove(uid);
            }
            !listeners.is_empty()
        });
    }

    /// The pod is gone.
    pub fn release(&self, uid: &str) {
        lock(&self.entries).retain(|_, entry| {
            let mut listeners = lock(&entry.listeners);
            listeners.remove(uid);
            !listeners.is_empty()
        });
    }

    fn watch(&self, key: &ObjectKey) -> Entry {
        let listeners: Listeners = Arc::default();
        let config = watcher::Config::default().fields(&format!("metadata.name={}", key.name));
        let woken = listeners.clone();
        let wake = move || lock(&woken).values().for_each(|l| l.notify_one());
        let (source, task) = match key.kind {
            Kind::ConfigMap => {
                let informer: Informer<ConfigMap> = Informer::new();
                informer.on_change(move |_| wake());
                let api = Api::namespaced(self.client.clone(), &key.namespace);
                let runner = informer.clone();
                let task = tokio::spawn(async move { runner.run(api, config).await });
                (Source::ConfigMap(informer), task)
            }
            Kind::Secret => {
                let informer: Informer<Secret> = Informer::new();
                informer.on_change(move |_| wake());
                let api = Api::namespaced(self.client.clone(), &key.namespace);
                let runner = informer.clone();
                let task = tokio::spawn(async move { runner.run(api, config).await });
                (Source::Secret(informer), task)
            }
        };
        Entry {
            source: Arc::new(source),
            listeners,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// The content of an object that a pod refers to.
    pub async fn get(&self, key: &ObjectKey) -> Result<Data, Error> {
        let source = lock(&self.entries).get(key).map(|e| e.source.clone());
        let Some(source) = source else {
            return Err(Error::Unknown(key.clone()));
        };
        let synced = async {
            match &*source {
                Source::ConfigMap(informer) => informer.synced().await,
                Source::Secret(informer) => informer.synced().await,
            }
        };
        if tokio::time::timeout(WAIT, synced).await.is_err() {
            return self.fetch(key).await;
        }
        let data = match &*source {
            Source::ConfigMap(informer) => informer.get(&key.namespace, &key.name).map(|o| config_map(&o)),
            Source::Secret(informer) => informer.get(&key.namespace, &key.name).map(|o| secret(&o)),
        };
        data.ok_or_else(|| Error::NotFound(key.clone()))
    }
}

impl Objects {
    /// The content of an object that is needed once.
    pub async fn fetch(&self, key: &ObjectKey) -> Result<Data, Error> {
        match tokio::time::timeout(ASK, self.ask(key)).await {
            Ok(Ok(Some(data))) => Ok(data),
            Ok(Ok(None)) => Err(Error::NotFound(key.clone())),
            _ => Err(Error::Unknown(key.clone())),
        }
    }

    async fn ask(&self, key: &ObjectKey) -> kube::Result<Option<Data>> {
        match key.kind {
            Kind::ConfigMap => {
                let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &key.namespace);
                Ok(api.get_opt(&key.name).await?.map(|o| config_map(&o)))
            }
            Kind::Secret => {
                let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
                Ok(api.get_opt(&key.name).await?.map(|o| secret(&o)))
            }
        }
    }
}

fn config_map(object: &ConfigMap) -> Data {
    let text = object
        .data
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = object
        .binary_data
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.0.clone()));
    text.chain(binary).collect()
}

fn secret(object: &Secret) -> Data {
    object
        .data
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.0.clone()))
        .collect()
}
