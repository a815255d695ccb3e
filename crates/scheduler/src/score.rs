//! Among the nodes that do, which is best. Each aspect gives 0 to 100; the weights are upstream's, with the
//! spreading of a workload over nodes and regions weighing most, since surviving the loss of a region is what
//! this cluster is for.

use crate::filter::Cycle;
use crate::state::{NodeInfo, PodInfo};
use client::pods::controller_of;
use client::select;
use std::collections::HashMap;

const BEST: i64 = 100;
const WEIGHT_LEAST_ALLOCATED: i64 = 1;
const WEIGHT_BALANCED: i64 = 1;
const WEIGHT_NODE_AFFINITY: i64 = 2;
const WEIGHT_POD_AFFINITY: i64 = 2;
const WEIGHT_TAINTS: i64 = 3;
const WEIGHT_SPREAD: i64 = 4;
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";

/// The best of the nodes. Equal ones are told apart by a hash, so that pods spread over them.
pub fn best<'a>(cycle: &Cycle<'_>, nodes: &[(&'a str, &'a NodeInfo)], all: &[&NodeInfo]) -> Option<&'a str> {
    if let [(only, _)] = nodes {
        return Some(only);
    }
    let pod = cycle.pod;
    let crowd = Crowd::new(pod, all);
    let mut totals: Vec<i64> = vec![0; nodes.len()];
    let mut add = |weight: i64, raw: Vec<i64>| {
        for (total, score) in totals.iter_mut().zip(normalized(&raw)) {
            *total += weight * score;
        }
    };
    let each = |of: &dyn Fn(&NodeInfo) -> i64| nodes.iter().map(|(_, node)| of(node)).collect::<Vec<_>>();
    add(WEIGHT_NODE_AFFINITY, each(&|node| node_affinity(pod, node)));
    add(WEIGHT_POD_AFFINITY, each(&|node| cycle.affinity.score(node)));
    add(WEIGHT_TAINTS, each(&|node| -unwelcoming_taints(pod, node)));
    add(
        WEIGHT_SPREAD,
        each(&|node| -crowd.around(node) - 10 * cycle.spread.crowding(node)),
    );
    for (total, (_, node)) in totals.iter_mut().zip(nodes) {
        let (least, balanced) = allocation(pod, node);
        *total += WEIGHT_LEAST_ALLOCATED * least + WEIGHT_BALANCED * balanced;
    }
    let ranked = nodes.iter().zip(totals);
    ranked
        .max_by_key(|((name, _), total)| (*total, mix(pod.uid(), name)))
        .map(|((name, _), _)| *name)
}

/// Brings scores to 0..=100, the highest to 100; all equal says nothing.
fn normalized(raw: &[i64]) -> Vec<i64> {
    let (Some(low), Some(high)) = (raw.iter().min(), raw.iter().max()) else {
        return Vec::new();
    };
    let range = high - low;
    raw.iter()
        .map(|score| {
            if range == 0 {
                0
            } else {
                (score - low) * BEST / range
            }
        })
        .collect()
}

fn node_affinity(pod: &PodInfo, info: &NodeInfo) -> i64 {
    let Some(node) = &info.node else { return 0 };
    let affinity = pod.pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let preferred = affinity
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .preferred_during_scheduling_ignored_during_execution
                .as_ref()
        });
    let matching = preferred
        .into_iter()
        .flatten()
        .filter(|term| select::node_term_matches(&term.preference, node));
    matching.map(|term| i64::from(term.weight)).sum()
}

fn unwelcoming_taints(pod: &PodInfo, info: &NodeInfo) -> i64 {
    let taints = info
        .node
        .as_ref()
        .and_then(|node| node.spec.as_ref()?.taints.as_deref())
        .unwrap_or_default();
    let own = pod
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    let unwelcoming = taints.iter().filter(|taint| {
        taint.effect == "PreferNoSchedule"
            && !own.iter().any(|toleration| select::tolerates(toleration, taint))
    });
    i64::try_from(unwelcoming.count()).unwrap_or(i64::MAX)
}

/// How much would be left free, and how evenly CPU and memory would be used.
fn allocation(pod: &PodInfo, info: &NodeInfo) -> (i64, i64) {
    let used = |sum: i64, own: i64, has: i64| {
        if has <= 0 {
            BEST
        } else {
            ((sum + own) * BEST / has).clamp(0, BEST)
        }
    };
    let cpu = used(
        info.assumed.milli_cpu,
        pod.assumed.milli_cpu,
        info.allocatable.milli_cpu,
    );
    let memory = used(info.assumed.memory, pod.assumed.memory, info.allocatable.memory);
    let least = (2 * BEST - cpu - memory) / 2;
    (least, BEST - (cpu - memory).abs())
}

/// Pods of the same workload, by node and by domain.
#[derive(Default)]
struct Crowd {
    nodes: HashMap<String, i64>,
    domains: HashMap<(&'static str, String), i64>,
}

impl Crowd {
    fn new(pod: &PodInfo, all: &[&NodeInfo]) -> Self {
        let mut crowd = Self::default();
        let Some(owner) = controller_of(&pod.pod.metadata) else {
            return crowd;
        };
        for info in all {
            let siblings = info.pods.values().filter(|other| {
                controller_of(&other.pod.metadata).is_some_and(|o| o.uid == owner.uid)
                    && !client::pods::is_terminating(&other.pod)
            });
            let siblings = i64::try_from(siblings.count()).unwrap_or(i64::MAX);
            if siblings == 0 {
                continue;
            }
            let name = info
                .node
                .as_ref()
                .and_then(|node| node.metadata.name.clone())
                .unwrap_or_default();
            crowd.nodes.insert(name, siblings);
            for key in [REGION, ZONE] {
                if let Some(value) = info.label(key) {
                    *crowd.domains.entry((key, value.to_owned())).or_default() += siblings;
                }
            }
        }
        crowd
    }

    /// Siblings on the node weigh as much as siblings in its region and zone together.
    fn around(&self, info: &NodeInfo) -> i64 {
        let name = info
            .node
            .as_ref()
            .and_then(|node| node.metadata.name.as_deref())
            .unwrap_or_default();
        let own = self.nodes.get(name).copied().unwrap_or(0);
        let domain = |key: &'static str| {
            info.label(key)
                .and_then(|value| self.domains.get(&(key, value.to_owned())))
                .copied()
                .unwrap_or(0)
        };
        20 * own + 15 * domain(REGION) + 5 * domain(ZONE)
    }
}

/// A hash (FNV-1a) of the pod and a node's name.
fn mix(uid: &str, node: &str) -> u32 {
    let bytes = uid.bytes().chain(node.bytes());
    bytes.fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::volumes::Claims;
    use crate::state::State;
    use serde_json::json;
    use std::sync::Arc;

    fn place(count: usize) -> HashMap<String, usize> {
        let mut state = State::default();
        for (name, region) in [("n1", "a"), ("n2", "b"), ("n3", "c"), ("n4", "c")] {
            let node = json!({"metadata": {"name": name, "labels": {REGION: region}},
                "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "100"}}});
            state.set_node(&Arc::new(serde_json::from_value(node).unwrap()));
        }
        let mut placed = HashMap::new();
        for index in 0..count {
            let pod = json!({"metadata": {"name": "p", "uid": index.to_string(), "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]},
                "spec": {"containers": [{"name": "c"}]}});
            let pod = Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap())));
            let cycle = Cycle::new(&pod, &state, &|_| None, Claims::default());
            let nodes: Vec<_> = state
                .nodes
                .iter()
                .map(|(name, info)| (name.as_str(), info))
                .collect();
            let all: Vec<_> = state.nodes.values().collect();
            let name = best(&cycle, &nodes, &all).unwrap().to_owned();
            state.assume(&name, pod);
            *placed.entry(name).or_default() += 1;
        }
        placed
    }

    #[test]
    fn three_pods_go_to_three_regions() {
        let placed = place(3);
        assert!(
            placed.contains_key("n1") && placed.contains_key("n2"),
            "{placed:?}"
        );
        assert!(
            placed.contains_key("n3") || placed.contains_key("n4"),
            "{placed:?}"
        );
    }

    #[test]
    fn many_pods_use_every_node() {
        let placed = place(40);
        assert_eq!(placed.len(), 4);
        assert!(
            placed.values().all(|count| (6..=14).contains(count)),
            "{placed:?}"
        );
    }
}
