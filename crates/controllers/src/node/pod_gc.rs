//! Pods that nobody else will ever remove: those on nodes that are out of service or gone, those that were
//! deleted before they had a node, and the oldest of too many that have ended.

use super::{eviction, taints};
use crate::context::{Context, settle};
use client::{Key, Outcome, Queue, pods};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams};
use std::sync::Arc;
use std::time::Duration;

/// Pods worked on at once.
const CONCURRENCY: usize = 20;
/// A node may show up late; only then are the pods bound to it given up (upstream's pause).
const MISSING_NODE_GRACE: Duration = Duration::from_secs(40);
/// Ended pods kept for people to look at (upstream's default).
const ENDED_PODS: usize = 12_500;

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
            let Some(context) = weak.upgrade() else { return };
            let name = change.object().metadata.name.as_deref().unwrap_or_default();
            let interesting = change
                .current()
                .is_none_or(|node| taints::is_out_of_service(node));
            if interesting {
                for pod in context.pods.select(|pod| pods::node_name(pod) == name) {
                    keys.add(Key::of(&*pod));
                }
            }
        });
        let (keys, weak) = (queue.clone(), Arc::downgrade(context));
        context.pods.on_change(move |change| {
            let (Some(context), Some(pod)) = (weak.upgrade(), change.current()) else {
                return;
            };
            let node = pods::node_name(pod);
            let unbound = node.is_empty() && pods::is_terminating(pod);
            let known = context.nodes.get("", node);
            let astray =
                !node.is_empty() && known.as_ref().is_none_or(|node| taints::is_out_of_service(node));
            if unbound || astray || pods::is_terminal(pod) {
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
                settle("podgc", &key, result)
            })
            .await;
    }
}

async fn reconcile(context: &Context, key: &Key) -> kube::Result<Outcome> {
    let Some(pod) = context.pods.by_key(key) else {
        return Ok(Outcome::Done);
    };
    let node = pods::node_name(&pod);
    if node.is_empty() {
        if pods::is_terminating(&pod) {
            remove(context, &pod, "PodGC: unscheduled and terminating", false).await?;
        }
        return Ok(Outcome::Done);
    }
    match context.nodes.get("", node) {
        Some(known) => {
            // An unready node only: one that has come back ends its pods itself.
            let given_up = taints::is_out_of_service(&known) && !taints::is_ready(&known);
            if given_up && (eviction::has_to_leave(&pod, &known) || pods::is_terminating(&pod)) {
                remove(context, &pod, "PodGC: node is out of service", true).await?;
                return Ok(Outcome::Done);
            }
        }
        None => return orphan(context, &pod, node).await,
    }
    if pods::is_terminal(&pod) {
        forget_oldest(context).await?;
    }
    Ok(Outcome::Done)
}

/// The pod's node does not exist: wait, ask the server itself, then remove the pod.
async fn orphan(context: &Context, pod: &Pod, node: &str) -> kube::Result<Outcome> {
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let age = created.map(|created| k8s_openapi::jiff::Timestamp::now().duration_since(created));
    let age = age
        .and_then(|age| Duration::try_from(age).ok())
        .unwrap_or_default();
    if age < MISSING_NODE_GRACE && !pods::is_terminating(pod) {
        return Ok(Outcome::After(MISSING_NODE_GRACE - age));
    }
    let api: Api<Node> = context.cluster();
    if api.get_opt(node).await?.is_some() {
        return Ok(Outcome::Done);
    }
    remove(context, pod, "PodGC: node no longer exists", true).await?;
    Ok(Outcome::Done)
}

/// Removes a pod without waiting for any kubelet.
async fn remove(context: &Context, pod: &Pod, why: &str, failed: bool) -> kube::Result<()> {
    let meta = &pod.metadata;
    tracing::info!(
        pod = meta.name,
        namespace = meta.namespace,
        why,
        "removing the pod"
    );
    eviction::note_disruption(context, pod, "DeletionByPodGC", why, failed).await?;
    let api: Api<Pod> = context.api(meta.namespace.as_deref().unwrap_or_default());
    context
        .delete(
            &api,
            &context.pods,
            pod,
            &DeleteParams::background().grace_period(0),
        )
        .await
}

async fn forget_oldest(context: &Context) -> kube::Result<()> {
    if context.pods.len() <= ENDED_PODS {
        return Ok(());
    }
    let mut ended = context.pods.select(pods::is_terminal);
    let surplus = ended.len().saturating_sub(ENDED_PODS);
    ended.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
    for pod in ended.iter().take(surplus) {
        remove(context, pod, "PodGC: too many ended pods", false).await?;
    }
    Ok(())
}
