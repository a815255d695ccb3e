//! DaemonSets: one pod of a template on every node that it may run on.

use crate::context::{Context, settle};
use crate::deployment::plan::resolve;
use crate::statefulset::revisions;
use crate::{ownership, pod_control};
use client::pods::{self, controller_of};
use client::{Key, Outcome, Queue, select};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod,
    PodTemplateSpec, Toleration,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// DaemonSets worked on at once.
const CONCURRENCY: usize = 3;
/// Names the hash of the template, on pods and on revisions.
const REVISION_LABEL: &str = "controller-revision-hash";

/// What daemon pods put up with without asking: they are there to serve the node.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

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
            .daemon_sets
            .on_change(move |change| keys.add(Key::of(&**change.object())));
        let keys = queue.clone();
        context.pods.on_change(move |change| {
            for pod in [change.old(), change.current()].into_iter().flatten() {
                let owner = controller_of(&pod.metadata).filter(|owner| owner.kind == "DaemonSet");
                if let Some(owner) = owner {
                    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
                    keys.add(Key::new(namespace, &owner.name));
                }
            }
        });
        let (keys, weak) = (queue.clone(), Arc::downgrade(context));
        context.nodes.on_change(move |change| {
            let facts = |node: &Node| {
                let spec = node.spec.clone().unwrap_or_default();
                (node.metadata.labels.clone(), spec.taints, spec.unschedulable)
            };
            let quiet = change
                .old()
                .zip(change.current())
                .is_some_and(|(old, new)| facts(old) == facts(new));
            let Some(context) = weak.upgrade().filter(|_| !quiet) else {
                return;
            };
            for set in context.daemon_sets.list() {
                keys.add(Key::of(&*set));
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
                settle("daemonset", &key, result)
            })
            .await;
    }
}

/// The node that a daemon pod is made for; the scheduler binds it there.
fn target(pod: &Pod) -> Option<String> {
    let bound = pods::node_name(pod);
    if !bound.is_empty() {
        return Some(bound.into());
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let field = required
        .node_selector_terms
        .first()?
        .match_fields
        .as_ref()?
        .first()?;
    field.values.as_ref()?.first().cloned()
}

fn tolerations(template: &PodTemplateSpec) -> Vec<Toleration> {
    let spec = template.spec.clone().unwrap_or_default();
    let mut list = spec.tolerations.unwrap_or_default();
    let mut tolerate = |key: &str, effect: &str| {
        let toleration = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Toleration::default()
        };
        if !list.contains(&toleration) {
            list.push(toleration);
        }
    };
    for (key, effect) in TOLERATED {
        tolerate(key, effect);
    }
    if spec.host_network == Some(true) {
        tolerate("node.kubernetes.io/network-unavailable", "NoSchedule");
    }
    list
}

/// Should the node have a pod of this template; and if not, may one that is there stay?
fn suits(template: &PodTemplateSpec, node: &Node) -> (bool, bool) {
    let pod_spec = template.spec.clone().unwrap_or_default();
    if !select::pod_allows_node(&pod_spec, node) {
        return (false, false);
    }
    let taints = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    let own = tolerations(template);
    let stays = select::untolerated(taints, &own, &["NoExecute"]).is_none();
    let comes = stays && select::untolerated(taints, &own, &["NoSchedule"]).is_none();
    (comes, stays)
}

fn pod_for(set: &DaemonSet, template: &PodTemplateSpec, revision: &str, node: &str) -> Pod {
    let mut pod = pod_control::from_template(set, template);
    pod.metadata
        .labels
        .get_or_insert_default()
        .insert(REVISION_LABEL.into(), revision.into());
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(template));
    let by_name = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.into()]),
    };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    let selector: &mut NodeSelector = affinity
        .required_during_scheduling_ignored_during_execution
        .get_or_insert_default();
    if selector.node_selector_terms.is_empty() {
        selector.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut selector.node_selector_terms {
        term.match_fields = Some(vec![by_name.clone()]);
    }
    pod
}

async fn reconcile(context: &Context, key: &Key) -> kube::Result<Outcome> {
    let Some(set) = context.daemon_sets.by_key(key) else {
        return Ok(Outcome::Done);
    };
    let Some(spec) = set.spec.clone() else {
        return Ok(Outcome::Done);
    };
    let api = context.api::<DaemonSet>(&key.namespace);
    let mine = ownership::claimed(context, &*set, &api, &spec.selector, &context.pods, |_| true).await?;
    let mut collisions = set
        .status
        .as_ref()
        .and_then(|status| status.collision_count)
        .unwrap_or(0);
    let label = REVISION_LABEL;
    let revision = revisions::newest(context, &*set, &spec.template, label, &mut collisions).await?;
    let revision = hash_of(&revision).to_owned();
    let mut by_node: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in mine {
        by_node
            .entry(target(&pod).unwrap_or_default())
            .or_default()
            .push(pod);
    }
    if set.metadata.deletion_timestamp.is_none() {
        place(context, &set, &spec, &revision, &by_node).await?;
        update(context, &set, &spec, &revision, &by_node).await?;
    }
    let status = status_of(context, &set, &spec, &revision, collisions);
    if set.status.as_ref() != Some(&status) {
        let mut changed = (*set).clone();
        changed.status = Some(status.clone());
        context.write_status(&api, &context.daemon_sets, &changed).await?;
    }
    let limit = spec.revision_history_limit.unwrap_or(revisions::DEFAULT_HISTORY);
    let used = |hash: &str| {
        by_node
            .values()
            .flatten()
            .any(|pod| revision_of(pod).is_some_and(|revision| revision == hash))
    };
    revisions::clean_up(context, &*set, limit, |known| {
        let hash = hash_of(known);
        hash == revision || used(hash)
    })
    .await?;
    let waits = spec.min_ready_seconds.unwrap_or(0);
    if waits > 0 && Some(status.number_ready) != status.number_available {
        return Ok(Outcome::After(Duration::from_secs(
            u64::try_from(waits).unwrap_or(1),
        )));
    }
    Ok(Outcome::Done)
}

/// The hash by which the pods of a revision name it; its name if it has none.
fn hash_of(revision: &ControllerRevision) -> &str {
    let meta = &revision.metadata;
    let hash = meta.labels.as_ref().and_then(|labels| labels.get(REVISION_LABEL));
    hash.or(meta.name.as_ref()).map_or("", String::as_str)
}

fn revision_of(pod: &Pod) -> Option<&String> {
    pod.metadata.labels.as_ref()?.get(REVISION_LABEL)
}

/// One pod for each node that should have one; none elsewhere; ended ones are replaced.
async fn place(
    context: &Context,
    set: &DaemonSet,
    spec: &DaemonSetSpec,
    revision: &str,
    by_node: &BTreeMap<String, Vec<Arc<Pod>>>,
) -> kube::Result<()> {
    let mut missing = Vec::new();
    let mut surplus: Vec<Arc<Pod>> = Vec::new();
    for node in context.nodes.list() {
        let name = node.metadata.name.clone().unwrap_or_default();
        let (comes, stays) = suits(&spec.template, &node);
        let present = by_node.get(&name).map(Vec::as_slice).unwrap_or_default();
        let mut living: Vec<&Arc<Pod>> = present.iter().filter(|pod| !pods::is_terminating(pod)).collect();
        surplus.extend(
            living
                .iter()
                .filter(|pod| pods::is_terminal(pod))
                .map(|pod| (*pod).clone()),
        );
        living.retain(|pod| !pods::is_terminal(pod));
        if comes && present.is_empty() {
            missing.push(pod_for(set, &spec.template, revision, &name));
        } else if !stays {
            surplus.extend(living.into_iter().cloned());
        } else {
            // Of several the oldest stays, unless a younger one serves already.
            living.sort_by_key(|pod| {
                (
                    !pods::is_ready(pod),
                    pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
                )
            });
            let updating = spec
                .update_strategy
                .as_ref()
                .is_some_and(|_| max_surge(spec, 1) > 0);
            let allowed = if updating { 2 } else { 1 };
            surplus.extend(living.into_iter().skip(allowed).cloned());
        }
    }
    let gone = by_node
        .iter()
        .filter(|(name, _)| context.nodes.get("", name).is_none());
    surplus.extend(
        gone.flat_map(|(_, pods)| pods)
            .filter(|pod| !pods::is_terminating(pod))
            .cloned(),
    );
    pod_control::create_many(context, set, &missing).await?;
    let surplus: Vec<&Pod> = surplus.iter().map(|pod| &**pod).collect();
    pod_control::delete_many(context, set, &surplus).await
}

fn max_surge(spec: &DaemonSetSpec, total: i32) -> i32 {
    let rolling = spec
        .update_strategy
        .as_ref()
        .and_then(|strategy| strategy.rolling_update.as_ref());
    let surge = rolling.and_then(|rolling| rolling.max_surge.clone());
    resolve(&surge.unwrap_or(IntOrString::Int(0)), total, true)
}

/// Replaces pods of old templates, as many at a time as may be missing; with a surge, the new one first.
async fn update(
    context: &Context,
    set: &DaemonSet,
    spec: &DaemonSetSpec,
    revision: &str,
    by_node: &BTreeMap<String, Vec<Arc<Pod>>>,
) -> kube::Result<()> {
    let strategy = spec.update_strategy.clone().unwrap_or_default();
    if strategy.type_.as_deref() == Some("OnDelete") {
        return Ok(());
    }
    let now = Timestamp::now();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let wanted = context.nodes.select(|node| suits(&spec.template, node).0);
    let total = i32::try_from(wanted.len()).unwrap_or(i32::MAX);
    let surge = max_surge(spec, total);
    let limit = strategy
        .rolling_update
        .and_then(|rolling| rolling.max_unavailable);
    let mut unavailable = resolve(&limit.unwrap_or(IntOrString::Int(1)), total, true);
    if surge == 0 && unavailable == 0 {
        unavailable = 1;
    }
    let current = |pod: &Pod| revision_of(pod).is_some_and(|known| known == revision);
    let available = |pod: &Pod| !pods::is_terminating(pod) && pods::is_available(pod, min_ready, now);
    let mut budget = unavailable;
    let mut surging = 0;
    let mut doomed: Vec<Arc<Pod>> = Vec::new();
    let mut candidates: Vec<(Arc<Pod>, String)> = Vec::new();
    for node in &wanted {
        let name = node.metadata.name.clone().unwrap_or_default();
        let present = by_node.get(&name).map(Vec::as_slice).unwrap_or_default();
        if !present.iter().any(|pod| available(pod)) {
            budget -= 1;
        }
        let new_one = present
            .iter()
            .find(|pod| current(pod) && !pods::is_terminating(pod));
        let old = present
            .iter()
            .filter(|pod| !current(pod) && !pods::is_terminating(pod));
        for pod in old {
            match new_one {
                Some(new_one) if available(new_one) => doomed.push(pod.clone()),
                Some(_) => surging += 1,
                None if !available(pod) => doomed.push(pod.clone()),
                None => candidates.push((pod.clone(), name.clone())),
            }
        }
    }
    if surge > 0 {
        let room = usize::try_from(surge - surging).unwrap_or(0);
        let new: Vec<Pod> = candidates
            .iter()
            .take(room)
            .map(|(_, node)| pod_for(set, &spec.template, revision, node))
            .collect();
        pod_control::create_many(context, set, &new).await?;
    } else {
        let room = usize::try_from(budget).unwrap_or(0);
        doomed.extend(candidates.into_iter().take(room).map(|(pod, _)| pod));
    }
    let doomed: Vec<&Pod> = doomed.iter().map(|pod| &**pod).collect();
    pod_control::delete_many(context, set, &doomed).await
}

fn status_of(
    context: &Context,
    set: &DaemonSet,
    spec: &DaemonSetSpec,
    revision: &str,
    collisions: i32,
) -> DaemonSetStatus {
    let now = Timestamp::now();
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let mine = context
        .pods
        .select_in(namespace, |pod| pods::is_controlled_by(&pod.metadata, uid));
    let mut status = DaemonSetStatus {
        observed_generation: set.metadata.generation,
        collision_count: Some(collisions),
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
        ..DaemonSetStatus::default()
    };
    let (mut updated, mut available) = (0, 0);
    for node in context.nodes.list() {
        let (comes, _) = suits(&spec.template, &node);
        let here = mine
            .iter()
            .filter(|pod| target(pod) == node.metadata.name && !pods::is_terminating(pod));
        let here: Vec<&Arc<Pod>> = here.collect();
        if !comes {
            status.number_misscheduled += i32::from(!here.is_empty());
            continue;
        }
        status.desired_number_scheduled += 1;
        let Some(pod) = here
            .iter()
            .max_by_key(|pod| (pods::is_ready(pod), revision_of(pod) == Some(&revision.into())))
        else {
            continue;
        };
        status.current_number_scheduled += 1;
        status.number_ready += i32::from(pods::is_ready(pod));
        available += i32::from(pods::is_available(pod, spec.min_ready_seconds.unwrap_or(0), now));
        updated += i32::from(revision_of(pod).is_some_and(|known| known == revision));
    }
    let some = |n: i32| (n > 0).then_some(n);
    status.updated_number_scheduled = some(updated);
    status.number_available = some(available);
    status.number_unavailable = some(status.desired_number_scheduled - available);
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn daemon_pods_stay_on_sick_nodes_and_name_their_node() {
        let template: PodTemplateSpec =
            serde_json::from_value(json!({"spec": {"containers": [], "nodeSelector": {"os": "linux"}}}))
                .unwrap();
        let node = |taints: serde_json::Value, os: &str| -> Node {
            serde_json::from_value(
                json!({"metadata": {"name": "n", "labels": {"os": os}}, "spec": {"taints": taints}}),
            )
            .unwrap()
        };
        let unreachable = json!([
            {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]);
        assert_eq!(suits(&template, &node(json!([]), "linux")), (true, true));
        assert_eq!(suits(&template, &node(json!([]), "other")), (false, false));
        assert_eq!(suits(&template, &node(unreachable, "linux")), (false, true));
        let out = json!([{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]);
        assert_eq!(suits(&template, &node(out, "linux")), (false, false));
        let set: DaemonSet = serde_json::from_value(json!({"metadata": {"name": "d", "uid": "u"}})).unwrap();
        assert_eq!(
            target(&pod_for(&set, &template, "r", "n7")).as_deref(),
            Some("n7")
        );
    }
}
