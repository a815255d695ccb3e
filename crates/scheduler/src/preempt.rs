//! Making room: when a pod fits nowhere, pods of lower priority may be asked to leave one node.

use crate::filter::{Cycle, Reason};
use crate::state::{NodeInfo, PodInfo};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Who has to leave which node.
pub struct Plan {
    /// The node.
    pub node: String,
    /// The pods, lowest priority first.
    pub victims: Vec<Arc<PodInfo>>,
}

/// The node on which the least important pods have to leave, if there is any.
pub fn plan(
    cycle: &Cycle<'_>,
    nodes: &BTreeMap<String, NodeInfo>,
    failures: &BTreeMap<String, Vec<Reason>>,
) -> Option<Plan> {
    let never = cycle
        .pod
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.preemption_policy.as_deref())
        == Some("Never");
    if never {
        return None;
    }
    let candidates = failures
        .iter()
        .filter(|(_, reasons)| reasons.iter().all(|reason| reason.curable));
    let plans = candidates.filter_map(|(name, _)| {
        let victims = victims(cycle, nodes.get(name)?)?;
        Some(Plan {
            node: name.clone(),
            victims,
        })
    });
    plans.min_by_key(|plan| {
        let highest = plan.victims.last().map_or(i32::MIN, |victim| victim.priority());
        let sum: i64 = plan
            .victims
            .iter()
            .map(|victim| i64::from(victim.priority()))
            .sum();
        (highest, sum, plan.victims.len())
    })
}

/// The fewest pods whose leaving lets the pod in.
fn victims(cycle: &Cycle<'_>, node: &NodeInfo) -> Option<Vec<Arc<PodInfo>>> {
    let priority = cycle.pod.priority();
    let mut lower: Vec<Arc<PodInfo>> = node
        .pods
        .values()
        .filter(|pod| pod.priority() < priority)
        .cloned()
        .collect();
    if lower.is_empty() {
        return None;
    }
    lower.sort_by_key(|pod| pod.priority());
    let mut without = node.clone();
    for pod in &lower {
        without.remove(pod.uid());
    }
    fits(cycle, &without)?;
    // The most important ones may stay if there is room.
    let mut victims = Vec::new();
    for pod in lower.into_iter().rev() {
        without.add(pod.clone());
        if fits(cycle, &without).is_none() {
            without.remove(pod.uid());
            victims.push(pod);
        }
    }
    victims.reverse();
    (!victims.is_empty()).then_some(victims)
}

/// Affinity was counted with the victims in place, so it is not asked again: only what a node decides alone.
fn fits(cycle: &Cycle<'_>, node: &NodeInfo) -> Option<()> {
    crate::filter::basic::check(cycle.pod, node).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::volumes::Claims;
    use crate::state::State;
    use serde_json::json;

    fn pod(uid: &str, priority: i32, cpu: &str) -> Arc<PodInfo> {
        let value = json!({"metadata": {"name": uid, "uid": uid}, "spec": {"priority": priority, "containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(value).unwrap())))
    }

    #[test]
    fn the_least_important_leave() {
        let mut state = State::default();
        for name in ["n1", "n2"] {
            let node =
                json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "2", "pods": "9"}}});
            state.set_node(&Arc::new(serde_json::from_value(node).unwrap()));
        }
        state.assume("n1", pod("a", 5, "1"));
        state.assume("n1", pod("b", 1, "1"));
        state.assume("n2", pod("c", 7, "2"));
        let plan_for = |priority: i32, cpu: &str| {
            let new = pod("new", priority, cpu);
            let cycle = Cycle::new(&new, &state, &|_| None, Claims::default());
            let failures: BTreeMap<_, _> = state
                .nodes
                .iter()
                .filter_map(|(name, node)| Some((name.clone(), cycle.check(node).err()?)))
                .collect();
            let plan = plan(&cycle, &state.nodes, &failures)?;
            Some((
                plan.node,
                plan.victims
                    .iter()
                    .map(|v| v.uid().to_owned())
                    .collect::<Vec<_>>(),
            ))
        };
        assert_eq!(plan_for(9, "1"), Some(("n1".into(), vec!["b".into()])));
        assert_eq!(
            plan_for(9, "2"),
            Some(("n1".into(), vec!["b".into(), "a".into()]))
        );
        assert_eq!(plan_for(1, "1"), None);
        assert_eq!(plan_for(9, "3"), None);
    }
}
