//! Which nodes a pod can run on, and why not on the others. The reasons are worded as upstream words them,
//! since people search for them.

pub mod affinity;
pub mod basic;
pub mod spread;
pub mod volumes;

use crate::state::{NodeInfo, PodInfo, State};
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeMap;

/// Why a node does not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// For people.
    pub text: String,
    /// Could it do if other pods went away?
    pub curable: bool,
}

impl Reason {
    /// One that removing pods would cure.
    pub fn curable(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            curable: true,
        }
    }

    /// One that removing pods would not cure.
    pub fn fixed(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            curable: false,
        }
    }
}

/// Everything that was worked out once for a pod, before looking at single nodes.
pub struct Cycle<'a> {
    /// The pod to place.
    pub pod: &'a PodInfo,
    /// Affinity to and from other pods.
    pub affinity: affinity::Terms,
    /// Spread over topology domains.
    pub spread: spread::Constraints,
    /// Its claims.
    pub volumes: volumes::Claims,
}

impl<'a> Cycle<'a> {
    /// Looks at all nodes once for what depends on all of them.
    pub fn new(
        pod: &'a PodInfo,
        state: &State,
        namespaces: &dyn Fn(&str) -> Option<BTreeMap<String, String>>,
        volumes: volumes::Claims,
    ) -> Self {
        Self {
            pod,
            affinity: affinity::Terms::new(&pod.pod, state, namespaces),
            spread: spread::Constraints::new(&pod.pod, state),
            volumes,
        }
    }

    /// Checks one node.
    pub fn check(&self, node: &NodeInfo) -> Result<(), Vec<Reason>> {
        basic::check(self.pod, node)?;
        self.volumes.check(node).map_err(|reason| vec![reason])?;
        self.spread.check(node).map_err(|reason| vec![reason])?;
        self.affinity.check(node).map_err(|reason| vec![reason])
    }
}

/// `namespace/name` of a pod.
pub fn name_of(pod: &Pod) -> String {
    let meta = &pod.metadata;
    format!(
        "{}/{}",
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default()
    )
}

/// The message for the pod's condition and Event: how many nodes failed for which reasons.
pub fn summary(total: usize, failures: &BTreeMap<String, Vec<Reason>>) -> String {
    if total == 0 {
        return "no nodes available to schedule pods".into();
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reasons in failures.values() {
        for reason in reasons {
            *counts.entry(&reason.text).or_default() += 1;
        }
    }
    let mut parts: Vec<String> = counts
        .iter()
        .map(|(text, count)| format!("{count} {text}"))
        .collect();
    parts.sort();
    format!("0/{total} nodes are available: {}.", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_read_as_upstream() {
        let failures = [
            (
                "a".to_owned(),
                vec![
                    Reason::curable("Insufficient cpu"),
                    Reason::curable("Insufficient memory"),
                ],
            ),
            ("b".to_owned(), vec![Reason::curable("Insufficient cpu")]),
            ("c".to_owned(), vec![Reason::fixed("node(s) were unschedulable")]),
        ]
        .into();
        assert_eq!(
            summary(3, &failures),
            "0/3 nodes are available: 1 Insufficient memory, 1 node(s) were unschedulable, 2 Insufficient cpu."
        );
    }
}
