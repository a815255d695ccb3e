//! ReplicaSets: keep a number of pods of one template alive. `replication_controller` uses the same decisions.

use crate::context::{Context, Object, settle};
use crate::{ownership, pod_control};
use client::pods::{self, controller_of, is_active};
use client::{Change, Key, Outcome, Queue, select};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// ReplicaSets worked on at once.
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
        let sets = queue.clone();
        context
            .replica_sets
            .on_change(move |change| sets.add(Key::of(&**change.object())));
        let (sets, weak) = (queue.clone(), Arc::downgrade(context));
        context.pods.on_change(move |change| {
            if let Some(context) = weak.upgrade() {
                pod_changed(&context, &sets, change);
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
                settle("replicaset", &key, result)
            })
            .await;
    }
}

fn pod_changed(context: &Context, queue: &Queue<Key>, change: &Change<'_, Pod>) {
    for pod in [change.old(), change.current()].into_iter().flatten() {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        match controller_of(&pod.metadata) {
            Some(owner) if owner.kind == "ReplicaSet" => queue.add(Key::new(namespace, &owner.name)),
            Some(_) => {}
            None => {
                for set in context.replica_sets.list_in(namespace) {
                    let selector = set.spec.as_ref().map(|spec| &spec.selector);
                    if selector.is_some_and(|s| select::labels_match(s, pod.metadata.labels.as_ref())) {
                        queue.add(Key::of(&*set));
                    }
                }
            }
        }
    }
}

async fn reconcile(context: &Context, key: &Key) -> kube::Result<Outcome> {
    let Some(set) = context.replica_sets.by_key(key) else {
        return Ok(Outcome::Done);
    };
    let Some(spec) = &set.spec else {
        return Ok(Outcome::Done);
    };
    let api = context.api(&key.namespace);
    let mine = ownership::claimed(context, &*set, &api, &spec.selector, &context.pods, is_active).await?;
    let alive: Vec<&Pod> = mine
        .iter()
        .map(|pod| &**pod)
        .filter(|pod| is_active(pod))
        .collect();
    let managed = if set.metadata.deletion_timestamp.is_none() {
        manage(context, &*set, spec, &alive).await
    } else {
        Ok(())
    };
    // What was made or deleted just now is in the cache.
    let now = Timestamp::now();
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let alive = context.pods.select_in(&key.namespace, |pod| {
        pods::is_controlled_by(&pod.metadata, uid) && is_active(pod)
    });
    let failure = managed.as_ref().err().map(pod_control::message);
    let status = status_of(&set, &alive, failure, now);
    if set.status.as_ref() != Some(&status) {
        let mut changed = (*set).clone();
        changed.status = Some(status.clone());
        context
            .write_status(&api, &context.replica_sets, &changed)
            .await?;
    }
    managed?;
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    if min_ready > 0 && status.ready_replicas != status.available_replicas {
        let wait = u64::try_from(min_ready).unwrap_or(1);
        return Ok(Outcome::After(Duration::from_secs(wait)));
    }
    Ok(Outcome::Done)
}

/// Makes what is missing and deletes what is too much.
pub async fn manage<O: Object>(
    context: &Context,
    set: &O,
    spec: &ReplicaSetSpec,
    alive: &[&Pod],
) -> kube::Result<()> {
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    match wanted.cmp(&alive.len()) {
        Ordering::Equal => Ok(()),
        Ordering::Greater => {
            let missing = (wanted - alive.len()).min(pod_control::BURST_PODS);
            let template = spec.template.clone().unwrap_or_default();
            let pod = pod_control::from_template(set, &template);
            pod_control::create_many(context, set, &vec![pod; missing]).await
        }
        Ordering::Less => {
            let surplus = (alive.len() - wanted).min(pod_control::BURST_PODS);
            let victims = victims(alive, surplus, Timestamp::now());
            pod_control::delete_many(context, set, &victims).await
        }
    }
}

/// The pods to delete first when there are too many: those that serve least.
pub fn victims<'a>(alive: &[&'a Pod], count: usize, now: Timestamp) -> Vec<&'a Pod> {
    let mut per_node: HashMap<&str, usize> = HashMap::new();
    for pod in alive {
        *per_node.entry(pods::node_name(pod)).or_default() += 1;
    }
    let mut ranked: Vec<&Pod> = alive.to_vec();
    ranked.sort_by(|a, b| rank(a, b, &per_node, now));
    ranked.truncate(count);
    ranked
}

fn rank(a: &Pod, b: &Pod, per_node: &HashMap<&str, usize>, now: Timestamp) -> Ordering {
    let unbound = |pod: &Pod| pods::node_name(pod).is_empty();
    let phase = |pod: &Pod| match pods::phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let cost = |pod: &Pod| -> i32 {
        let annotations = pod.metadata.annotations.as_ref();
        let cost = annotations.and_then(|a| a.get("controller.kubernetes.io/pod-deletion-cost"));
        cost.and_then(|cost| cost.parse().ok()).unwrap_or(0)
    };
    let neighbours = |pod: &Pod| per_node.get(pods::node_name(pod)).copied().unwrap_or(0);
    let restarts = |pod: &Pod| -> i32 {
        let statuses = pod
            .status
            .iter()
            .flat_map(|s| s.container_statuses.iter().flatten());
        statuses.map(|status| status.restart_count).max().unwrap_or(0)
    };
    // Ages count by powers of two, so that among pods of about one age the choice is not always the same.
    let age = |time: Option<&Time>| {
        let seconds = time.map_or(0, |time| now.duration_since(time.0).as_secs().max(0));
        u64::try_from(seconds)
            .unwrap_or(0)
            .checked_ilog2()
            .map_or(0, |log| log + 1)
    };
    let ready_age = |pod: &Pod| age(pods::ready_since(pod));
    let total_age = |pod: &Pod| age(pod.metadata.creation_timestamp.as_ref());
    unbound(b)
        .cmp(&unbound(a))
        .then(phase(a).cmp(&phase(b)))
        .then(pods::is_ready(a).cmp(&pods::is_ready(b)))
        .then(cost(a).cmp(&cost(b)))
        .then(neighbours(b).cmp(&neighbours(a)))
        .then(ready_age(a).cmp(&ready_age(b)))
        .then(restarts(b).cmp(&restarts(a)))
        .then(total_age(a).cmp(&total_age(b)))
        .then(a.metadata.uid.cmp(&b.metadata.uid))
}

/// The status that follows from the pods that are alive.
pub fn status_of(
    set: &ReplicaSet,
    alive: &[Arc<Pod>],
    failure: Option<String>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let spec = set.spec.clone().unwrap_or_default();
    let old = set.status.clone().unwrap_or_default();
    let template = spec
        .template
        .and_then(|template| template.metadata)
        .unwrap_or_default();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let count = |test: &dyn Fn(&Pod) -> bool| {
        i32::try_from(alive.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
    };
    let some = |n: i32| (n > 0).then_some(n);
    let labelled = count(&|pod| {
        let labels = pod.metadata.labels.as_ref();
        let wanted = template.labels.iter().flatten();
        wanted
            .into_iter()
            .all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value))
    });
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: some(labelled),
        ready_replicas: some(count(&pods::is_ready)),
        available_replicas: some(count(&|pod| pods::is_available(pod, min_ready, now))),
        observed_generation: set.metadata.generation,
        conditions: failure_condition(old.conditions, failure, now),
        terminating_replicas: old.terminating_replicas,
    }
}

fn failure_condition(
    old: Option<Vec<ReplicaSetCondition>>,
    failure: Option<String>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = old.unwrap_or_default();
    let known = conditions.iter().position(|c| c.type_ == "ReplicaFailure");
    match (failure, known) {
        (None, Some(index)) => {
            conditions.remove(index);
        }
        (Some(message), None) => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some("FailedCreate".into()),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        }),
        _ => {}
    }
    (!conditions.is_empty()).then_some(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, node: &str, ready: bool, created: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": created},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": if node.is_empty() {"Pending"} else {"Running"}, "conditions": [
                {"type": "Ready", "status": if ready {"True"} else {"False"}, "lastTransitionTime": created}]}
        }))
        .unwrap()
    }

    #[test]
    fn what_serves_least_goes_first() {
        let now = "2026-01-02T00:00:00Z".parse().unwrap();
        let old = "2026-01-01T00:00:00Z";
        let young = "2026-01-01T23:59:00Z";
        let pods = [
            pod("steady", "n1", true, old),
            pod("young", "n2", true, young),
            pod("unready", "n3", false, old),
            pod("unbound", "", false, old),
            pod("crowded-1", "n4", true, old),
            pod("crowded-2", "n4", true, old),
        ];
        let pods: Vec<&Pod> = pods.iter().collect();
        let names: Vec<_> = victims(&pods, 5, now)
            .iter()
            .map(|p| p.metadata.name.clone().unwrap())
            .collect();
        assert_eq!(names, ["unbound", "unready", "crowded-1", "crowded-2", "young"]);
    }
}
