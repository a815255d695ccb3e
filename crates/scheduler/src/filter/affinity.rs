//! Affinity and anti-affinity between pods, in both directions: what the pod wants of others, and what those
//! that run already want of it.

use super::Reason;
use crate::state::{NodeInfo, State};
use client::select;
use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;
use std::collections::{BTreeMap, HashMap, HashSet};

type Labels = BTreeMap<String, String>;
type NamespaceLabels<'a> = &'a dyn Fn(&str) -> Option<Labels>;
/// A topology key with a value: one domain.
type Domain = (String, String);

/// One term, made ready for matching.
#[derive(Clone, Debug)]
pub struct Term {
    raw: PodAffinityTerm,
    home: String,
}

impl Term {
    fn new(term: &PodAffinityTerm, owner: &Pod) -> Self {
        let mut raw = term.clone();
        let labels = owner.metadata.labels.as_ref();
        let value = |key: &String| labels.and_then(|labels| labels.get(key)).cloned();
        let selector = raw.label_selector.get_or_insert_default();
        let expressions = selector.match_expressions.get_or_insert_default();
        for (keys, operator) in [
            (&term.match_label_keys, "In"),
            (&term.mismatch_label_keys, "NotIn"),
        ] {
            for key in keys.iter().flatten() {
                if let Some(value) = value(key) {
                    expressions.push(LabelSelectorRequirement {
                        key: key.clone(),
                        operator: operator.into(),
                        values: Some(vec![value]),
                    });
                }
            }
        }
        if term.label_selector.is_none() {
            // No selector matches nothing, unlike an empty one.
            expressions.push(LabelSelectorRequirement {
                key: String::new(),
                operator: "Nothing".into(),
                values: None,
            });
        }
        Self {
            raw,
            home: owner.metadata.namespace.clone().unwrap_or_default(),
        }
    }

    fn matches(&self, pod: &Pod, namespaces: NamespaceLabels<'_>) -> bool {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let listed = self.raw.namespaces.as_deref().unwrap_or_default();
        let in_namespace = match &self.raw.namespace_selector {
            None if listed.is_empty() => namespace == self.home,
            None => listed.iter().any(|name| name == namespace),
            Some(selector) => {
                listed.iter().any(|name| name == namespace)
                    || select::labels_match(selector, namespaces(namespace).as_ref())
            }
        };
        let selector = self.raw.label_selector.as_ref();
        in_namespace && selector.is_some_and(|s| select::labels_match(s, pod.metadata.labels.as_ref()))
    }

    fn domain(&self, node: &NodeInfo) -> Option<Domain> {
        let value = node.label(&self.raw.topology_key)?;
        Some((self.raw.topology_key.clone(), value.to_owned()))
    }
}

fn required(pod: &Pod, anti: bool) -> Vec<Term> {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let terms = if anti {
        affinity
            .and_then(|a| a.pod_anti_affinity.as_ref())
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
    } else {
        affinity
            .and_then(|a| a.pod_affinity.as_ref())
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
    };
    terms
        .into_iter()
        .flatten()
        .map(|term| Term::new(term, pod))
        .collect()
}

fn preferred(pod: &Pod) -> Vec<(i64, Term)> {
    let Some(affinity) = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()) else {
        return Vec::new();
    };
    let attract = affinity
        .pod_affinity
        .as_ref()
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let repel = affinity
        .pod_anti_affinity
        .as_ref()
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let weigh = |list: Option<&Vec<k8s_openapi::api::core::v1::WeightedPodAffinityTerm>>, sign: i64| {
        let terms = list.into_iter().flatten();
        terms
            .map(|term| {
                (
                    sign * i64::from(term.weight),
                    Term::new(&term.pod_affinity_term, pod),
                )
            })
            .collect::<Vec<_>>()
    };
    let mut all = weigh(attract, 1);
    all.extend(weigh(repel, -1));
    all
}

/// What was found out about all nodes.
#[derive(Default)]
pub struct Terms {
    affinity: Vec<(Term, HashSet<Domain>)>,
    /// No pod anywhere matches, and the pod matches its own terms: it may be the first.
    first: bool,
    anti: Vec<(Term, HashSet<Domain>)>,
    /// Domains in which some pod's anti-affinity keeps this one out.
    forbidden: HashSet<Domain>,
    /// Preferences: how welcome each domain is.
    welcome: HashMap<Domain, i64>,
}

impl Terms {
    /// Looks at all pods on all nodes.
    pub fn new(pod: &Pod, state: &State, namespaces: NamespaceLabels<'_>) -> Self {
        let mut terms = Self {
            affinity: required(pod, false)
                .into_iter()
                .map(|term| (term, HashSet::new()))
                .collect(),
            anti: required(pod, true)
                .into_iter()
                .map(|term| (term, HashSet::new()))
                .collect(),
            ..Self::default()
        };
        let preferred = preferred(pod);
        let mut any = false;
        for node in state.nodes.values().filter(|node| node.node.is_some()) {
            for other in node
                .pods
                .values()
                .filter(|other| other.pod.metadata.uid != pod.metadata.uid)
            {
                // An existing pod counts only if it matches all of the affinity terms.
                if !terms.affinity.is_empty()
                    && terms
                        .affinity
                        .iter()
                        .all(|(t, _)| t.matches(&other.pod, namespaces))
                {
                    for (term, domains) in &mut terms.affinity {
                        domains.extend(term.domain(node));
                    }
                    any = true;
                }
                for (term, domains) in &mut terms.anti {
                    if term.matches(&other.pod, namespaces) {
                        domains.extend(term.domain(node));
                    }
                }
                for (weight, term) in &preferred {
                    if term.matches(&other.pod, namespaces)
                        && let Some(domain) = term.domain(node)
                    {
                        *terms.welcome.entry(domain).or_default() += weight;
                    }
                }
                if other
                    .pod
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.affinity.as_ref())
                    .is_some()
                {
                    terms.look_back(pod, &other.pod, node, namespaces);
                }
            }
        }
        terms.first = !any
            && terms
                .affinity
                .iter()
                .all(|(term, _)| term.matches(pod, namespaces));
        terms
    }

    /// What a running pod wants of the new one.
    fn look_back(&mut self, pod: &Pod, other: &Pod, node: &NodeInfo, namespaces: NamespaceLabels<'_>) {
        for term in required(other, true) {
            if term.matches(pod, namespaces) {
                self.forbidden.extend(term.domain(node));
            }
        }
        for (weight, term) in preferred(other) {
            if term.matches(pod, namespaces)
                && let Some(domain) = term.domain(node)
            {
                *self.welcome.entry(domain).or_default() += weight;
            }
        }
    }

    /// Checks one node.
    pub fn check(&self, node: &NodeInfo) -> Result<(), Reason> {
        let labelled = self
            .affinity
            .iter()
            .all(|(term, _)| node.label(&term.raw.topology_key).is_some());
        let near = self.first
            || self
                .affinity
                .iter()
                .all(|(term, domains)| term.domain(node).is_some_and(|d| domains.contains(&d)));
        if !labelled || !near {
            return Err(Reason::fixed("node(s) didn't match pod affinity rules"));
        }
        let clash = |(term, domains): &(Term, HashSet<Domain>)| {
            term.domain(node).is_some_and(|domain| domains.contains(&domain))
        };
        if self.anti.iter().any(clash) {
            return Err(Reason::curable("node(s) didn't match pod anti-affinity rules"));
        }
        let labels = node.node.as_ref().and_then(|node| node.metadata.labels.as_ref());
        let unwanted = self
            .forbidden
            .iter()
            .any(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value));
        if unwanted {
            return Err(Reason::curable(
                "node(s) didn't satisfy existing pods anti-affinity rules",
            ));
        }
        Ok(())
    }

    /// How welcome the pod is on a node; any number, to be normalized.
    pub fn score(&self, node: &NodeInfo) -> i64 {
        let labels = node.node.as_ref().and_then(|node| node.metadata.labels.as_ref());
        let here = |(key, value): &Domain| labels.and_then(|l| l.get(key)) == Some(value);
        self.welcome
            .iter()
            .filter(|(domain, _)| here(domain))
            .map(|(_, weight)| weight)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::PodInfo;
    use serde_json::json;
    use std::sync::Arc;

    fn state() -> State {
        let mut state = State::default();
        for (name, zone) in [("n1", "a"), ("n2", "b")] {
            let node = json!({"metadata": {"name": name, "labels": {"zone": zone}}});
            state.set_node(&Arc::new(serde_json::from_value(node).unwrap()));
        }
        state
    }

    fn pod(uid: &str, labels: serde_json::Value, affinity: serde_json::Value) -> Arc<Pod> {
        let value = json!({
            "metadata": {"name": uid, "namespace": "d", "uid": uid, "labels": labels},
            "spec": {"containers": [], "affinity": affinity}
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn fits(pod: &Pod, state: &State) -> Vec<bool> {
        let terms = Terms::new(pod, state, &|_| None);
        state
            .nodes
            .values()
            .map(|node| terms.check(node).is_ok())
            .collect()
    }

    fn rule(kind: &str, app: &str) -> serde_json::Value {
        json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": app}}}]}})
    }

    #[test]
    fn anti_affinity_works_both_ways() {
        let mut state = state();
        let alone = pod("1", json!({"app": "a"}), rule("podAntiAffinity", "a"));
        assert_eq!(fits(&alone, &state), [true, true]);
        state.assume("n1", Arc::new(PodInfo::new(alone)));
        let second = pod("2", json!({"app": "a"}), rule("podAntiAffinity", "a"));
        assert_eq!(fits(&second, &state), [false, true]);
        let plain = pod("3", json!({"app": "a"}), json!({}));
        assert_eq!(fits(&plain, &state), [false, true]);
        let other = pod("4", json!({"app": "b"}), json!({}));
        assert_eq!(fits(&other, &state), [true, true]);
    }

    #[test]
    fn affinity_needs_a_partner_except_for_the_first() {
        let mut state = state();
        let own = pod("1", json!({"app": "a"}), rule("podAffinity", "a"));
        assert_eq!(fits(&own, &state), [true, true]);
        let other = pod("2", json!({"app": "b"}), rule("podAffinity", "a"));
        assert_eq!(fits(&other, &state), [false, false]);
        state.assume("n2", Arc::new(PodInfo::new(own)));
        assert_eq!(fits(&other, &state), [false, true]);
    }
}
