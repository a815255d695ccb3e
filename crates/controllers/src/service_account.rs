//! What every namespace has from its first moment: the service account `default` and the ConfigMap
//! `kube-root-ca.crt` with the cluster's authority.

use crate::context::{Context, answered, settle};
use client::{Key, Outcome, Queue};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::watcher;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

const ACCOUNT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";
const ROOT_CA_KEY: &str = "ca.crt";
/// Namespaces worked on at once.
const CONCURRENCY: usize = 4;

/// The controller.
pub struct Controller {
    context: Arc<Context>,
    queue: Arc<Queue<Key>>,
    config_maps: client::Informer<ConfigMap>,
    root_ca: PathBuf,
}

impl Controller {
    /// Registers its handlers. `root_ca` is read anew for each ConfigMap, since authorities can be exchanged.
    pub fn new(context: &Arc<Context>, root_ca: PathBuf) -> Self {
        let queue = Arc::new(Queue::new());
        let keys = queue.clone();
        context
            .namespaces
            .on_change(move |change| keys.add(Key::of(&**change.object())));
        let keys = queue.clone();
        context.service_accounts.on_change(move |change| {
            let meta = &change.object().metadata;
            if meta.name.as_deref() == Some(ACCOUNT) {
                keys.add(Key::new("", meta.namespace.clone().unwrap_or_default()));
            }
        });
        let config_maps = client::Informer::<ConfigMap>::new();
        let keys = queue.clone();
        config_maps.on_change(move |change| {
            keys.add(Key::new(
                "",
                change.object().metadata.namespace.clone().unwrap_or_default(),
            ));
        });
        Self {
            context: context.clone(),
            queue,
            config_maps,
            root_ca,
        }
    }

    /// Works until dropped.
    pub async fn run(self) {
        // Only the maps of this one name: all others may be large.
        let fields = format!("metadata.name={ROOT_CA}");
        let config = watcher::Config::default().fields(&fields);
        let follow = self
            .config_maps
            .run(Api::all(self.context.client.clone()), config);
        let this = &self;
        let work = async {
            this.config_maps.synced().await;
            this.queue
                .work(CONCURRENCY, |key| async move {
                    let result = this.reconcile(&key).await;
                    settle("serviceaccount", &key, result)
                })
                .await;
        };
        tokio::join!(follow, work);
    }

    async fn reconcile(&self, key: &Key) -> kube::Result<Outcome> {
        let Some(namespace) = self.context.namespaces.by_key(key) else {
            return Ok(Outcome::Done);
        };
        if ends(&namespace) {
            return Ok(Outcome::Done);
        }
        self.ensure_account(&key.name).await?;
        self.ensure_root_ca(&key.name).await?;
        Ok(Outcome::Done)
    }

    async fn ensure_account(&self, namespace: &str) -> kube::Result<()> {
        if self.context.service_accounts.get(namespace, ACCOUNT).is_some() {
            return Ok(());
        }
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(ACCOUNT.into()),
                namespace: Some(namespace.into()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        let api = self.context.api::<ServiceAccount>(namespace);
        tolerate(
            self.context
                .create(&api, &self.context.service_accounts, &account)
                .await,
        )
    }

    async fn ensure_root_ca(&self, namespace: &str) -> kube::Result<()> {
        let pem = match tokio::fs::read_to_string(&self.root_ca).await {
            Ok(pem) => pem,
            Err(error) => {
                tracing::warn!(path = %self.root_ca.display(), %error, "the cluster's authority cannot be read");
                return Ok(());
            }
        };
        let api = self.context.api::<ConfigMap>(namespace);
        let data = BTreeMap::from([(ROOT_CA_KEY.to_owned(), pem)]);
        let Some(known) = self.config_maps.get(namespace, ROOT_CA) else {
            let note = "Holds the authority that signs the API server's certificate; written by the controller manager.";
            let map = ConfigMap {
                metadata: ObjectMeta {
                    name: Some(ROOT_CA.into()),
                    namespace: Some(namespace.into()),
                    annotations: Some([("kubernetes.io/description".to_owned(), note.to_owned())].into()),
                    ..ObjectMeta::default()
                },
                data: Some(data),
                ..ConfigMap::default()
            };
            return tolerate(self.context.create(&api, &self.config_maps, &map).await);
        };
        if known.data.as_ref() == Some(&data) {
            return Ok(());
        }
        let mut changed = (*known).clone();
        changed.data = Some(data);
        let written = api.replace(ROOT_CA, &PostParams::default(), &changed).await?;
        self.config_maps.observe(written);
        Ok(())
    }
}

fn ends(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_some()
}

/// That it is there already, or that the namespace is going, is fine.
fn tolerate<K>(result: kube::Result<K>) -> kube::Result<()> {
    match result {
        Err(error) if answered(&error, 409) => Ok(()),
        Err(kube::Error::Api(status)) if crate::pod_control::namespace_ends(&status) => Ok(()),
        other => other.map(drop),
    }
}
