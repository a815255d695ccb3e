//! Generic ephemeral volumes: a claim for each, owned by its pod, so that it goes with the pod.

use crate::context::{Context, settle};
use crate::ownership::controller_reference;
use client::events::reference;
use client::{Key, Outcome, Queue, pods};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Api, ObjectMeta};
use std::sync::Arc;

/// The name under which Events are recorded.
const COMPONENT: &str = "ephemeral_volume";

/// Pods worked on at once.
const CONCURRENCY: usize = 5;

/// The controller.
pub struct Controller {
    context: Arc<Context>,
    queue: Arc<Queue<Key>>,
}

fn has_ephemeral(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.into_iter().any(|volume| volume.ephemeral.is_some())
}

impl Controller {
    /// Registers its handlers.
    pub fn new(context: &Arc<Context>) -> Self {
        let queue = Arc::new(Queue::new());
        let keys = queue.clone();
        context.pods.on_change(move |change| {
            if let client::Change::Added(pod) = change
                && has_ephemeral(pod)
            {
                keys.add(Key::of(&***pod));
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
            .work(CONCURRENCY, |key| async move {
                let result = reconcile(context, &key).await;
                settle("ephemeral", &key, result.map(|()| Outcome::Done))
            })
            .await;
    }
}

async fn reconcile(context: &Context, key: &Key) -> kube::Result<()> {
    let Some(pod) = context.pods.by_key(key).filter(|pod| !pods::is_terminating(pod)) else {
        return Ok(());
    };
    let api: Api<PersistentVolumeClaim> = context.api(&key.namespace);
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    for volume in volumes {
        let template = volume
            .ephemeral
            .as_ref()
            .and_then(|source| source.volume_claim_template.clone());
        let Some(template) = template else { continue };
        let name = format!("{}-{}", key.name, volume.name);
        if let Some(known) = context.claims.get(&key.namespace, &name) {
            if !pods::is_controlled_by(&known.metadata, pod.metadata.uid.as_deref().unwrap_or_default()) {
                let text = format!("PVC {}/{name} was not created for the pod", key.namespace);
                context
                    .recorder
                    .of(COMPONENT)
                    .event(&reference(&*pod), "Warning", "FailedBinding", text);
            }
            continue;
        }
        let meta = template.metadata.unwrap_or_default();
        let claim = PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(key.namespace.clone()),
                labels: meta.labels,
                annotations: meta.annotations,
                owner_references: Some(vec![controller_reference(&*pod)]),
                ..ObjectMeta::default()
            },
            spec: Some(template.spec),
            status: None,
        };
        context.create(&api, &context.claims, &claim).await?;
    }
    Ok(())
}
