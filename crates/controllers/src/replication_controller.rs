//! ReplicationControllers, the forerunners of ReplicaSets: the same decisions, on a selector that is a map.

use crate::context::{Context, settle};
use crate::{ownership, pod_control, replicaset};
use client::pods::{self, controller_of, is_active};
use client::{Change, Key, Outcome, Queue, select};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    Pod, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// ReplicationControllers worked on at once.
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
            .replication_controllers
            .on_change(move |change| keys.add(Key::of(&**change.object())));
        let (keys, weak) = (queue.clone(), Arc::downgrade(context));
        context.pods.on_change(move |change| {
            if let Some(context) = weak.upgrade() {
                pod_changed(&context, &keys, change);
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
                settle("replicationcontroller", &key, result)
            })
            .await;
    }
}

fn pod_changed(context: &Context, queue: &Queue<Key>, change: &Change<'_, Pod>) {
    for pod in [change.old(), change.current()].into_iter().flatten() {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        match controller_of(&pod.metadata) {
            Some(owner) if owner.kind == "ReplicationController" => {
                queue.add(Key::new(namespace, &owner.name));
            }
            Some(_) => {}
            None => {
                for controller in context.replication_controllers.list_in(namespace) {
                    let selector = controller.spec.as_ref().and_then(|spec| spec.selector.as_ref());
                    if select::map_matches(selector, pod.metadata.labels.as_ref()) {
                        queue.add(Key::of(&*controller));
                    }
                }
            }
        }
    }
}

/// The controller as a ReplicaSet would say it.
fn as_set(controller: &ReplicationController) -> ReplicaSet {
    let spec = controller.spec.clone().unwrap_or_default();
    let status = controller.status.clone().unwrap_or_default();
    let condition = |c: ReplicationControllerCondition| ReplicaSetCondition {
        type_: c.type_,
        status: c.status,
        reason: c.reason,
        message: c.message,
        last_transition_time: c.last_transition_time,
    };
    ReplicaSet {
        metadata: controller.metadata.clone(),
        spec: Some(ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: spec.replicas,
            selector: LabelSelector {
                match_labels: spec.selector,
                match_expressions: None,
            },
            template: spec.template,
        }),
        status: Some(ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            conditions: status
                .conditions
                .map(|list| list.into_iter().map(condition).collect()),
            terminating_replicas: None,
        }),
    }
}

fn status_from(status: ReplicaSetStatus) -> ReplicationControllerStatus {
    let condition = |c: ReplicaSetCondition| ReplicationControllerCondition {
        type_: c.type_,
        status: c.status,
        reason: c.reason,
        message: c.message,
        last_transition_time: c.last_transition_time,
    };
    ReplicationControllerStatus {
        replicas: status.replicas,
        fully_labeled_replicas: status.fully_labeled_replicas,
        ready_replicas: status.ready_replicas,
        available_replicas: status.available_replicas,
        observed_generation: status.observed_generation,
        conditions: status
            .conditions
            .map(|list| list.into_iter().map(condition).collect()),
    }
}

async fn reconcile(context: &Context, key: &Key) -> kube::Result<Outcome> {
    let Some(controller) = context.replication_controllers.by_key(key) else {
        return Ok(Outcome::Done);
    };
    let set = as_set(&controller);
    let spec = set.spec.clone().unwrap_or_default();
    // Without a selector it would be everybody's: the server does not accept that.
    if spec.selector.match_labels.as_ref().is_none_or(|s| s.is_empty()) {
        return Ok(Outcome::Done);
    }
    let api = context.api(&key.namespace);
    let mine = ownership::claimed(
        context,
        &*controller,
        &api,
        &spec.selector,
        &context.pods,
        is_active,
    )
    .await?;
    let alive: Vec<&Pod> = mine
        .iter()
        .map(|pod| &**pod)
        .filter(|pod| is_active(pod))
        .collect();
    let managed = if controller.metadata.deletion_timestamp.is_none() {
        replicaset::manage(context, &*controller, &spec, &alive).await
    } else {
        Ok(())
    };
    let now = Timestamp::now();
    let uid = controller.metadata.uid.as_deref().unwrap_or_default();
    let alive = context.pods.select_in(&key.namespace, |pod| {
        pods::is_controlled_by(&pod.metadata, uid) && is_active(pod)
    });
    let failure = managed.as_ref().err().map(pod_control::message);
    let status = status_from(replicaset::status_of(&set, &alive, failure, now));
    let unsettled = status.ready_replicas != status.available_replicas;
    if controller.status.as_ref() != Some(&status) {
        let mut changed = (*controller).clone();
        changed.status = Some(status);
        context
            .write_status(&api, &context.replication_controllers, &changed)
            .await?;
    }
    managed?;
    match spec.min_ready_seconds {
        Some(seconds) if seconds > 0 && unsettled => Ok(Outcome::After(Duration::from_secs(
            u64::try_from(seconds).unwrap_or(1),
        ))),
        _ => Ok(Outcome::Done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_survives_the_way_there_and_back() {
        let controller: ReplicationController = serde_json::from_value(json!({
            "metadata": {"name": "c"}, "spec": {"replicas": 2, "selector": {"a": "b"}},
            "status": {"replicas": 2, "readyReplicas": 1, "observedGeneration": 3, "conditions": [
                {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "quota"}]},
        }))
        .unwrap();
        let set = as_set(&controller);
        assert_eq!(set.spec.unwrap().replicas, Some(2));
        assert_eq!(status_from(set.status.unwrap()), controller.status.unwrap());
    }
}
