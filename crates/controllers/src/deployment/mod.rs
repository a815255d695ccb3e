//! Deployments: roll their ReplicaSets from one template to the next. The arithmetic is in [`plan`], the
//! history in [`revision`], the conditions in [`status`].

pub mod plan;
pub mod revision;
mod rollout;
pub mod status;

use crate::context::{Context, settle};
use crate::ownership;
use client::pods::controller_of;
use client::{Key, Outcome, Queue, select};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::jiff::Timestamp;
use plan::Limits;
use rollout::Rollout;
use std::sync::Arc;
use std::time::Duration;

/// Deployments worked on at once.
const CONCURRENCY: usize = 5;

/// The controller.
pub struct Controller {
    context: Arc<Context>,
    queue: Arc<Queue<Key>>,
}

impl Controller {
    /// Registers its handlers.
    pub fn new(context: &Arc<Context>) -> Self {
        let queue = Arc::new(Queue::new());
        let keys = queue.clone();
        context
            .deployments
            .on_change(move |change| keys.add(Key::of(&**change.object())));
        let (keys, weak) = (queue.clone(), Arc::downgrade(context));
        context.replica_sets.on_change(move |change| {
            let Some(context) = weak.upgrade() else { return };
            for set in [change.old(), change.current()].into_iter().flatten() {
                set_changed(&context, &keys, set);
            }
        });
        // Recreate waits until the pods of old templates are gone.
        let (keys, weak) = (queue.clone(), Arc::downgrade(context));
        context.pods.on_change(move |change| {
            let (Some(context), client::Change::Deleted(pod)) = (weak.upgrade(), change) else {
                return;
            };
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let set = controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet");
            let set = set.and_then(|owner| context.replica_sets.get(namespace, &owner.name));
            if let Some(owner) = set.as_ref().and_then(|set| controller_of(&set.metadata)) {
                keys.add(Key::new(namespace, &owner.name));
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
                settle("deployment", &key, result)
            })
            .await;
    }
}

fn set_changed(context: &Context, keys: &Queue<Key>, set: &ReplicaSet) {
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    match controller_of(&set.metadata) {
        Some(owner) if owner.kind == "Deployment" => keys.add(Key::new(namespace, &owner.name)),
        Some(_) => {}
        None => {
            for deployment in context.deployments.list_in(namespace) {
                let selector = deployment.spec.as_ref().map(|spec| &spec.selector);
                if selector.is_some_and(|s| select::labels_match(s, set.metadata.labels.as_ref())) {
                    keys.add(Key::of(&*deployment));
                }
            }
        }
    }
}

async fn reconcile(context: &Context, key: &Key) -> kube::Result<Outcome> {
    let Some(deployment) = context.deployments.by_key(key) else {
        return Ok(Outcome::Done);
    };
    let Some(spec) = &deployment.spec else {
        return Ok(Outcome::Done);
    };
    let api = context.api::<Deployment>(&key.namespace);
    let sets = ownership::claimed(
        context,
        &*deployment,
        &api,
        &spec.selector,
        &context.replica_sets,
        |_| true,
    )
    .await?;
    let mut rollout = Rollout::new(context, deployment.clone(), sets);
    let acted = if deployment.metadata.deletion_timestamp.is_some() {
        Ok(())
    } else {
        act(&mut rollout).await
    };
    let again = write_status(context, &rollout, acted.is_ok()).await?;
    acted?;
    Ok(again.map_or(Outcome::Done, |seconds| {
        Outcome::After(Duration::from_secs(seconds.max(1)))
    }))
}

async fn act(rollout: &mut Rollout<'_>) -> kube::Result<()> {
    let spec = rollout.deployment.spec.clone().unwrap_or_default();
    if spec.paused == Some(true) {
        rollout.find_new(false).await?;
        rollout.scale_all().await?;
        return rollout.clean_up().await;
    }
    rollout.find_new(false).await?;
    if rollout.is_scaling() {
        return rollout.scale_all().await;
    }
    let recreate = spec
        .strategy
        .and_then(|s| s.type_)
        .is_some_and(|kind| kind == "Recreate");
    if recreate {
        rollout.recreate().await?;
    } else {
        rollout.rolling().await?;
    }
    rollout.clean_up().await
}

async fn write_status(context: &Context, rollout: &Rollout<'_>, clean: bool) -> kube::Result<Option<u64>> {
    let now = Timestamp::now();
    let deployment = &rollout.deployment;
    let limits = rollout.limits;
    let all: Vec<Arc<ReplicaSet>> = rollout.all();
    let mut status = status::calculate(deployment, limits, rollout.new.as_ref(), &all, now);
    let again = if deployment.metadata.deletion_timestamp.is_none() && clean {
        rollout.note_pause(&mut status, now);
        status::progress(deployment, rollout.new.as_ref(), &mut status, now)
    } else {
        None
    };
    if let Some(collisions) = rollout.collisions {
        status.collision_count = Some(collisions);
    }
    if deployment.status.as_ref() != Some(&status) {
        let mut changed = (**deployment).clone();
        changed.status = Some(status);
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        let api = context.api::<Deployment>(namespace);
        context.write_status(&api, &context.deployments, &changed).await?;
    }
    Ok(again)
}

/// The limits of a Deployment's strategy, in pods.
fn limits_of(deployment: &Deployment) -> Limits {
    let spec = deployment.spec.clone().unwrap_or_default();
    let replicas = spec.replicas.unwrap_or(1);
    let strategy = spec.strategy.unwrap_or_default();
    if strategy.type_.as_deref() == Some("Recreate") {
        return Limits {
            replicas,
            surge: 0,
            unavailable: 0,
        };
    }
    let rolling = strategy.rolling_update.unwrap_or_default();
    Limits::resolve(
        replicas,
        rolling.max_surge.as_ref(),
        rolling.max_unavailable.as_ref(),
    )
}
