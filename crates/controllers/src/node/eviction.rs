//! Taint-based eviction: pods that do not tolerate a node's NoExecute taints have to leave, at once or after
//! as long as they tolerate them.

use super::taints;
use crate::context::{Context, answered, settle};
use client::events::reference;
use client::{Key, Outcome, Queue, pods, select};
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use std::sync::Arc;
use std::time::Duration;

/// The name under which Events are recorded.
const COMPONENT: &str = "taint-eviction-controller";

/// Pods worked on at once.
const CONCURRENCY: usize = 20;

/// The controller.
pub struct Controller {
    context: Arc<Context>,
    queue: Arc<Queue<Key>>,
}

impl Controller {
    /// Registers its handlers.
    pub fn new(context: &Arc<Context>) -> Self {
        let queue = Arc::new(Queue::new());
        let (keys, weak) = (queue.clone(), Arc::downgrade(context));
        context.nodes.on_change(move |change| {
            let (Some(context), Some(node)) = (weak.upgrade(), change.current()) else {
                return;
            };
            let before = change
                .old()
                .map(|old| taints::of(old).to_vec())
                .unwrap_or_default();
            if before == taints::of(node) {
                return;
            }
            let name = node.metadata.name.as_deref().unwrap_or_default();
            for pod in context.pods.select(|pod| pods::node_name(pod) == name) {
                keys.add(Key::of(&*pod));
            }
        });
        let (keys, weak) = (queue.clone(), Arc::downgrade(context));
        context.pods.on_change(move |change| {
            let (Some(context), Some(pod)) = (weak.upgrade(), change.current()) else {
                return;
            };
            let placed = change.old().map(|old| pods::node_name(old)) != Some(pods::node_name(pod));
            let node = context.nodes.get("", pods::node_name(pod));
            if placed && node.is_some_and(|node| taints::of(&node).iter().any(|t| t.effect == "NoExecute")) {
                keys.add(Key::of(&**pod));
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
                settle("eviction", &key, result)
            })
            .await;
    }
}

/// When a pod has to leave.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Stay {
    /// It may stay.
    Forever,
    /// Until then, and not before now.
    Until(Timestamp),
}

/// How long a pod may stay under these taints.
pub fn stay(taints: &[Taint], tolerations: &[Toleration], now: Timestamp) -> Stay {
    let mut until: Option<Timestamp> = None;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        let used: Vec<&Toleration> = tolerations
            .iter()
            .filter(|t| select::tolerates(t, taint))
            .collect();
        if used.is_empty() {
            return Stay::Until(now);
        }
        // Of several tolerations the shortest counts.
        let Some(seconds) = used
            .iter()
            .filter_map(|toleration| toleration.toleration_seconds)
            .min()
        else {
            continue;
        };
        let since = taint.time_added.as_ref().map_or(now, |time| time.0);
        let end = since
            .saturating_add(SignedDuration::from_secs(seconds.max(0)))
            .unwrap_or(Timestamp::MAX);
        until = Some(until.map_or(end, |until| until.min(end)));
    }
    until.map_or(Stay::Forever, Stay::Until)
}

/// Is the pod to leave a node that is out of service?
pub fn has_to_leave(pod: &Pod, node: &Node) -> bool {
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    let out = taints::of(node)
        .iter()
        .filter(|taint| taint.key == taints::OUT_OF_SERVICE);
    out.into_iter().any(|taint| {
        !tolerations
            .iter()
            .any(|toleration| select::tolerates(toleration, taint))
    })
}

async fn reconcile(context: &Context, key: &Key) -> kube::Result<Outcome> {
    let Some(pod) = context.pods.by_key(key) else {
        return Ok(Outcome::Done);
    };
    let node = context.nodes.get("", pods::node_name(&pod));
    let Some(node) = node.filter(|_| !pods::is_terminating(&pod)) else {
        return Ok(Outcome::Done);
    };
    // Nobody would end it gracefully there: `pod_gc` removes it at once.
    if taints::is_out_of_service(&node) && !taints::is_ready(&node) && has_to_leave(&pod, &node) {
        return Ok(Outcome::Done);
    }
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    let now = Timestamp::now();
    match stay(taints::of(&node), tolerations, now) {
        Stay::Forever => Ok(Outcome::Done),
        Stay::Until(end) if end > now => {
            let left = Duration::try_from(end.duration_since(now)).unwrap_or_default();
            Ok(Outcome::After(left + Duration::from_millis(50)))
        }
        Stay::Until(_) => {
            evict(context, &pod).await?;
            Ok(Outcome::Done)
        }
    }
}

async fn evict(context: &Context, pod: &Pod) -> kube::Result<()> {
    let meta = &pod.metadata;
    let (namespace, name) = (
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    );
    let text = format!("Marking for deletion Pod {namespace}/{name}");
    context
        .recorder
        .of(COMPONENT)
        .event(&reference(pod), "Normal", "TaintManagerEviction", text);
    let message = "Taint manager: deleting due to NoExecute taint";
    note_disruption(context, pod, "DeletionByTaintManager", message, false).await?;
    let api: Api<Pod> = context.api(namespace);
    context
        .delete(&api, &context.pods, pod, &DeleteParams::background())
        .await
}

/// Writes into the pod's status why it goes, for whoever counts failures of a workload.
pub async fn note_disruption(
    context: &Context,
    pod: &Pod,
    reason: &str,
    message: &str,
    failed: bool,
) -> kube::Result<()> {
    let condition = PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: Some(Time(Timestamp::now())),
        ..PodCondition::default()
    };
    let mut status = serde_json::json!({"conditions": [condition]});
    if failed && !pods::is_terminal(pod) {
        status["phase"] = "Failed".into();
    }
    let patch = serde_json::json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
    let api: Api<Pod> = context.api(pod.metadata.namespace.as_deref().unwrap_or_default());
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    match api
        .patch_status(name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
    {
        Ok(_) => Ok(()),
        Err(error) if answered(&error, 404) || answered(&error, 409) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(taints: serde_json::Value, tolerations: serde_json::Value) -> Stay {
        let taints: Vec<Taint> = serde_json::from_value(taints).unwrap();
        let tolerations: Vec<Toleration> = serde_json::from_value(tolerations).unwrap();
        stay(&taints, &tolerations, now())
    }

    fn now() -> Timestamp {
        "2026-01-01T00:01:00Z".parse().unwrap()
    }

    #[test]
    fn how_long_pods_stay() {
        let taint = json!([{"key": "k", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}]);
        assert_eq!(
            check(json!([{"key": "k", "effect": "NoSchedule"}]), json!([])),
            Stay::Forever
        );
        assert_eq!(check(taint.clone(), json!([])), Stay::Until(now()));
        assert_eq!(
            check(taint.clone(), json!([{"key": "k", "operator": "Exists"}])),
            Stay::Forever
        );
        let limited = json!([{"key": "k", "operator": "Exists", "tolerationSeconds": 300}]);
        assert_eq!(
            check(taint, limited),
            Stay::Until("2026-01-01T00:05:00Z".parse().unwrap())
        );
    }
}
