//! PodDisruptionBudgets: how many pods may be taken away at present. The eviction subresource of the API server
//! reads it.

use crate::context::{Context, settle};
use crate::deployment::plan::resolve;
use client::pods::{self, controller_of};
use client::{Key, Outcome, Queue, select};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Budgets worked on at once.
const CONCURRENCY: usize = 2;
/// An eviction that was allowed counts as disruption for so long, even if the pod is not seen to go.
const EVICTION_COUNTS: Duration = Duration::from_secs(120);

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
            .budgets
            .on_change(move |change| keys.add(Key::of(&**change.object())));
        let (keys, weak) = (queue.clone(), Arc::downgrade(context));
        context.pods.on_change(move |change| {
            let Some(context) = weak.upgrade() else { return };
            let pod = change.object();
            for budget in context
                .budgets
                .list_in(pod.metadata.namespace.as_deref().unwrap_or_default())
            {
                if covers(&budget, pod) {
                    keys.add(Key::of(&*budget));
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
            .work(CONCURRENCY, |key| async move {
                let result = reconcile(context, &key).await;
                settle("disruption", &key, result)
            })
            .await;
    }
}

fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| select::labels_match(selector, pod.metadata.labels.as_ref()))
}

/// How many pods the workloads behind these pods should have. Pods without a known workload count as they are.
fn expected(context: &Context, pods: &[Arc<Pod>]) -> i32 {
    let mut workloads: HashMap<String, i32> = HashMap::new();
    let mut loose = 0;
    for pod in pods {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let Some(owner) = controller_of(&pod.metadata) else {
            loose += 1;
            continue;
        };
        let size = match owner.kind.as_str() {
            "ReplicaSet" => context.replica_sets.get(namespace, &owner.name).and_then(|set| {
                let deployment = controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment");
                let deployment = deployment.and_then(|owner| context.deployments.get(namespace, &owner.name));
                match deployment {
                    Some(deployment) => {
                        let uid = deployment.metadata.uid.clone().unwrap_or_default();
                        Some((uid, deployment.spec.as_ref()?.replicas.unwrap_or(1)))
                    }
                    None => Some((owner.uid.clone(), set.spec.as_ref()?.replicas.unwrap_or(1))),
                }
            }),
            "StatefulSet" => context
                .stateful_sets
                .get(namespace, &owner.name)
                .and_then(|set| Some((owner.uid.clone(), set.spec.as_ref()?.replicas.unwrap_or(1)))),
            _ => None,
        };
        match size {
            Some((uid, size)) => {
                workloads.insert(uid, size);
            }
            None => loose += 1,
        }
    }
    loose + workloads.values().sum::<i32>()
}

/// How many pods must stay healthy.
fn needed(minimum: Option<&IntOrString>, maximum_missing: Option<&IntOrString>, expected: i32) -> i32 {
    match (minimum, maximum_missing) {
        (Some(minimum), _) => resolve(minimum, expected, true),
        (None, Some(missing)) => (expected - resolve(missing, expected, true)).max(0),
        (None, None) => expected,
    }
}

async fn reconcile(context: &Context, key: &Key) -> kube::Result<Outcome> {
    let Some(budget) = context.budgets.by_key(key) else {
        return Ok(Outcome::Done);
    };
    let spec = budget.spec.clone().unwrap_or_default();
    let old = budget.status.clone().unwrap_or_default();
    let now = Timestamp::now();
    let pods = context.pods.select_in(&key.namespace, |pod| {
        covers(&budget, pod) && !pods::is_terminal(pod)
    });
    // Evictions that the API server allowed and that are not seen yet.
    let mut evicted = old.disrupted_pods.clone().unwrap_or_default();
    let limit = SignedDuration::try_from(EVICTION_COUNTS).unwrap_or(SignedDuration::MAX);
    evicted.retain(|name, time| {
        let living = pods
            .iter()
            .any(|pod| pod.metadata.name.as_ref() == Some(name) && !pods::is_terminating(pod));
        living && now.duration_since(time.0) < limit
    });
    let healthy = pods.iter().filter(|pod| {
        let name = pod.metadata.name.clone().unwrap_or_default();
        pods::is_ready(pod) && !pods::is_terminating(pod) && !evicted.contains_key(&name)
    });
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    let expected = expected(context, &pods);
    let desired = needed(
        spec.min_available.as_ref(),
        spec.max_unavailable.as_ref(),
        expected,
    );
    let allowed = if expected > 0 {
        (healthy - desired).max(0)
    } else {
        0
    };
    let again = !evicted.is_empty();
    let status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        disrupted_pods: again.then_some(evicted),
        observed_generation: budget.metadata.generation,
        conditions: Some(conditions(
            old.conditions.clone(),
            allowed,
            budget.metadata.generation,
            now,
        )),
    };
    if status != old {
        let mut changed = (*budget).clone();
        changed.status = Some(status);
        let api = context.api::<PodDisruptionBudget>(&key.namespace);
        context.write_status(&api, &context.budgets, &changed).await?;
    }
    Ok(if again {
        Outcome::After(EVICTION_COUNTS)
    } else {
        Outcome::Done
    })
}

fn conditions(
    old: Option<Vec<Condition>>,
    allowed: i32,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    const KIND: &str = "DisruptionAllowed";
    let mut conditions = old.unwrap_or_default();
    let (status, reason) = if allowed > 0 {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    let known = conditions
        .iter()
        .find(|condition| condition.type_ == KIND && condition.status == status);
    let transition = known.map_or(Time(now), |condition| condition.last_transition_time.clone());
    conditions.retain(|condition| condition.type_ != KIND);
    conditions.push(Condition {
        type_: KIND.into(),
        status: status.into(),
        reason: reason.into(),
        message: String::new(),
        last_transition_time: transition,
        observed_generation: generation,
    });
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets() {
        let number = |n: i32| IntOrString::Int(n);
        let percent = |text: &str| IntOrString::String(text.into());
        assert_eq!(needed(Some(&number(2)), None, 5), 2);
        assert_eq!(needed(Some(&percent("50%")), None, 5), 3);
        assert_eq!(needed(None, Some(&number(1)), 5), 4);
        assert_eq!(needed(None, Some(&percent("30%")), 5), 3);
        assert_eq!(needed(None, None, 5), 5);
    }
}
