//! Topology spread constraints.

use super::{Reason, basic};
use crate::state::{NodeInfo, State};
use client::{pods, select};
use k8s_openapi::api::core::v1::{Node, Pod, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use std::collections::HashMap;

struct Constraint {
    raw: TopologySpreadConstraint,
    selector: LabelSelector,
    /// Matching pods by value of the topology key, over eligible nodes.
    counts: HashMap<String, i32>,
    counts_itself: bool,
}

/// The constraints of one pod with the counts over all nodes.
#[derive(Default)]
pub struct Constraints {
    hard: Vec<Constraint>,
    soft: Vec<Constraint>,
}

impl Constraints {
    /// Counts over all nodes.
    pub fn new(pod: &Pod, state: &State) -> Self {
        let mut constraints = Self::default();
        let declared = pod
            .spec
            .iter()
            .flat_map(|spec| spec.topology_spread_constraints.iter().flatten());
        let declared: Vec<&TopologySpreadConstraint> = declared.collect();
        let keys = |hard: bool| {
            let same = declared
                .iter()
                .filter(move |c| (c.when_unsatisfiable == "DoNotSchedule") == hard);
            same.map(|c| c.topology_key.clone()).collect::<Vec<_>>()
        };
        for raw in &declared {
            let hard = raw.when_unsatisfiable == "DoNotSchedule";
            let selector = selector_of(raw, pod);
            let mut constraint = Constraint {
                raw: (*raw).clone(),
                counts_itself: select::labels_match(&selector, pod.metadata.labels.as_ref()),
                selector,
                counts: HashMap::new(),
            };
            constraint.count(pod, state, &keys(hard));
            if hard {
                constraints.hard.push(constraint)
            } else {
                constraints.soft.push(constraint)
            }
        }
        constraints
    }

    /// Checks one node.
    pub fn check(&self, node: &NodeInfo) -> Result<(), Reason> {
        for constraint in &self.hard {
            let Some(value) = node.label(&constraint.raw.topology_key) else {
                return Err(Reason::fixed(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                ));
            };
            let here = constraint.counts.get(value).copied().unwrap_or(0);
            let skew = here + i32::from(constraint.counts_itself) - constraint.least();
            if skew > constraint.raw.max_skew {
                return Err(Reason::curable(
                    "node(s) didn't match pod topology spread constraints",
                ));
            }
        }
        Ok(())
    }

    /// How crowded a node's domains are, for the constraints that are only wishes.
    pub fn crowding(&self, node: &NodeInfo) -> i64 {
        let crowd = |constraint: &Constraint| {
            let value = node.label(&constraint.raw.topology_key)?;
            constraint.counts.get(value).copied()
        };
        self.soft
            .iter()
            .map(|constraint| i64::from(crowd(constraint).unwrap_or(0)))
            .sum()
    }
}

fn selector_of(constraint: &TopologySpreadConstraint, pod: &Pod) -> LabelSelector {
    let Some(mut selector) = constraint.label_selector.clone() else {
        // No selector matches nothing, unlike an empty one.
        let nothing = LabelSelectorRequirement {
            operator: "Nothing".into(),
            ..LabelSelectorRequirement::default()
        };
        return LabelSelector {
            match_expressions: Some(vec![nothing]),
            match_labels: None,
        };
    };
    for key in constraint.match_label_keys.iter().flatten() {
        if let Some(value) = pod.metadata.labels.as_ref().and_then(|labels| labels.get(key)) {
            selector
                .match_labels
                .get_or_insert_default()
                .insert(key.clone(), value.clone());
        }
    }
    selector
}

impl Constraint {
    fn count(&mut self, pod: &Pod, state: &State, keys: &[String]) {
        for info in state.nodes.values() {
            let Some(node) = &info.node else { continue };
            let Some(value) = info.label(&self.raw.topology_key) else {
                continue;
            };
            if !self.eligible(pod, node) || keys.iter().any(|key| info.label(key).is_none()) {
                continue;
            }
            let matching = info.pods.values().filter(|other| {
                other.pod.metadata.namespace == pod.metadata.namespace
                    && other.pod.metadata.uid != pod.metadata.uid
                    && !pods::is_terminating(&other.pod)
                    && select::labels_match(&self.selector, other.pod.metadata.labels.as_ref())
            });
            let matching = i32::try_from(matching.count()).unwrap_or(i32::MAX);
            *self.counts.entry(value.to_owned()).or_default() += matching;
        }
    }

    fn eligible(&self, pod: &Pod, node: &Node) -> bool {
        let affinity = self.raw.node_affinity_policy.as_deref() != Some("Ignore");
        let taints = self.raw.node_taints_policy.as_deref() == Some("Honor");
        let tolerated = || {
            let taints = node
                .spec
                .as_ref()
                .and_then(|spec| spec.taints.as_deref())
                .unwrap_or_default();
            let own = pod
                .spec
                .as_ref()
                .and_then(|spec| spec.tolerations.as_deref())
                .unwrap_or_default();
            select::untolerated(taints, own, &["NoSchedule", "NoExecute"]).is_none()
        };
        (!affinity || basic::selected(pod, node)) && (!taints || tolerated())
    }

    /// The count of the emptiest domain; zero while there are fewer domains than asked for.
    fn least(&self) -> i32 {
        let wanted = self
            .raw
            .min_domains
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(1);
        if self.counts.len() < wanted {
            return 0;
        }
        self.counts.values().copied().min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::PodInfo;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn skew_is_bounded() {
        let mut state = State::default();
        for (name, zone) in [("n1", "a"), ("n2", "b")] {
            let node = json!({"metadata": {"name": name, "labels": {"zone": zone}}});
            state.set_node(&Arc::new(serde_json::from_value(node).unwrap()));
        }
        let pod = |uid: &str| -> Arc<Pod> {
            Arc::new(
                serde_json::from_value(json!({
                    "metadata": {"name": uid, "namespace": "d", "uid": uid, "labels": {"app": "a"}},
                    "spec": {"containers": [], "topologySpreadConstraints": [{
                        "topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
                        "labelSelector": {"matchLabels": {"app": "a"}}}]}
                }))
                .unwrap(),
            )
        };
        let fits = |state: &State| {
            let constraints = Constraints::new(&pod("new"), state);
            state
                .nodes
                .values()
                .map(|node| constraints.check(node).is_ok())
                .collect::<Vec<_>>()
        };
        assert_eq!(fits(&state), [true, true]);
        state.assume("n1", Arc::new(PodInfo::new(pod("1"))));
        assert_eq!(fits(&state), [false, true]);
        state.assume("n2", Arc::new(PodInfo::new(pod("2"))));
        assert_eq!(fits(&state), [true, true]);
    }
}
