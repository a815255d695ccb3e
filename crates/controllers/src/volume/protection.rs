//! Volumes and claims that are in use are not removed under their users: a finalizer holds them until nobody
//! uses them any more.

use crate::context::{Context, Object, settle};
use client::{Informer, Key, Outcome, Queue, pods};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::Api;
use std::sync::Arc;

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
/// Objects worked on at once.
const CONCURRENCY: usize = 5;

/// What is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Item {
    Claim(Key),
    Volume(Key),
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Claim(key) => write!(f, "claim {key}"),
            Self::Volume(key) => write!(f, "volume {key}"),
        }
    }
}

/// The controller.
pub struct Controller {
    context: Arc<Context>,
    queue: Arc<Queue<Item>>,
}

impl Controller {
    /// Registers its handlers.
    pub fn new(context: &Arc<Context>) -> Self {
        let queue = Arc::new(Queue::new());
        let items = queue.clone();
        context.claims.on_change(move |change| {
            if let Some(claim) = change
                .current()
                .filter(|claim| needs_a_look(&claim.metadata, CLAIM_FINALIZER))
            {
                items.add(Item::Claim(Key::of(&**claim)));
            }
        });
        let items = queue.clone();
        context.volumes.on_change(move |change| {
            if let Some(volume) = change
                .current()
                .filter(|v| needs_a_look(&v.metadata, VOLUME_FINALIZER))
            {
                items.add(Item::Volume(Key::of(&**volume)));
            }
        });
        let (items, weak) = (queue.clone(), Arc::downgrade(context));
        context.pods.on_change(move |change| {
            let Some(context) = weak.upgrade() else { return };
            let pod = change.object();
            if change.current().is_some_and(|pod| !pods::is_terminal(pod)) {
                return;
            }
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            for name in pods::claim_names(pod) {
                let claim = context.claims.get(namespace, &name);
                if claim.is_some_and(|claim| claim.metadata.deletion_timestamp.is_some()) {
                    items.add(Item::Claim(Key::new(namespace, name)));
                }
            }
        });
        Self {
            context: context.clone(),
            queue,
        }
    }

    /// Works until dropped.
    pub async fn run(self) {
        let (context, queue) = (&self.context, &self.queue);
        queue
            .work(CONCURRENCY, |item| async move {
                let result = match &item {
                    Item::Claim(key) => protect_claim(context, key).await,
                    Item::Volume(key) => protect_volume(context, key).await,
                };
                settle("protection", &item, result.map(|()| Outcome::Done))
            })
            .await;
    }
}

fn needs_a_look(meta: &kube::core::ObjectMeta, finalizer: &str) -> bool {
    let held = meta.finalizers.iter().flatten().any(|f| f == finalizer);
    held == meta.deletion_timestamp.is_some()
}

async fn protect_claim(context: &Context, key: &Key) -> kube::Result<()> {
    let Some(claim) = context.claims.by_key(key) else {
        return Ok(());
    };
    let api: Api<PersistentVolumeClaim> = context.api(&key.namespace);
    if claim.metadata.deletion_timestamp.is_some() {
        // A pod without a node can still be stopped from using it; one that has ended no longer does.
        let used = context.pods.select_in(&key.namespace, |pod| {
            !pods::node_name(pod).is_empty()
                && !pods::is_terminal(pod)
                && pods::claim_names(pod).any(|name| name == key.name)
        });
        if !used.is_empty() {
            return Ok(());
        }
    }
    set(context, &api, &context.claims, &*claim, CLAIM_FINALIZER).await
}

async fn protect_volume(context: &Context, key: &Key) -> kube::Result<()> {
    let Some(volume) = context.volumes.by_key(key) else {
        return Ok(());
    };
    let api: Api<PersistentVolume> = context.cluster();
    let bound = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    if volume.metadata.deletion_timestamp.is_some() && bound {
        return Ok(());
    }
    set(context, &api, &context.volumes, &*volume, VOLUME_FINALIZER).await
}

/// Puts the finalizer on a living object, or takes it from one that is being deleted.
async fn set<K: Object>(
    context: &Context,
    api: &Api<K>,
    cache: &Informer<K>,
    object: &K,
    finalizer: &str,
) -> kube::Result<()> {
    let meta = object.meta();
    if !needs_a_look(meta, finalizer) {
        return Ok(());
    }
    let mut finalizers = meta.finalizers.clone().unwrap_or_default();
    if meta.deletion_timestamp.is_some() {
        finalizers.retain(|f| f != finalizer);
    } else {
        finalizers.push(finalizer.into());
    }
    let patch = serde_json::json!({"metadata": {
        "finalizers": finalizers, "resourceVersion": meta.resource_version,
    }});
    let name = meta.name.as_deref().unwrap_or_default();
    match context.merge(api, cache, name, patch).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}
