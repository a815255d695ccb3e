//! What to do next about the pods of a StatefulSet, as a pure function of what is there. One step at a time
//! with `OrderedReady`; everything at once with `Parallel`. The order of the decisions is upstream's.

use std::collections::BTreeMap;

/// What counts about one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PodView {
    /// Ended for good: to be replaced.
    pub terminal: bool,
    /// Being deleted.
    pub terminating: bool,
    /// Running and ready.
    pub ready: bool,
    /// Ready for as long as the set asks.
    pub available: bool,
    /// Made from the newest revision.
    pub updated: bool,
}

impl PodView {
    fn healthy(&self) -> bool {
        self.ready && !self.terminating && !self.terminal
    }
}

/// What the set asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// First ordinal.
    pub start: i32,
    /// Number of pods.
    pub replicas: i32,
    /// One after the other?
    pub ordered: bool,
    /// Pods with lower ordinals stay at the old revision; none when pods are updated only by hand.
    pub partition: Option<i32>,
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the pod, from the newest revision or from the current one.
    Create {
        /// Which pod.
        ordinal: i32,
        /// From the newest revision?
        updated: bool,
    },
    /// Delete the pod.
    Delete {
        /// Which pod.
        ordinal: i32,
    },
}

/// The next actions. `pods` holds what exists, by ordinal.
pub fn next(wanted: Wanted, pods: &BTreeMap<i32, PodView>) -> Vec<Action> {
    let mut actions = Vec::new();
    let end = wanted.start.saturating_add(wanted.replicas);
    for ordinal in wanted.start..end {
        match pods.get(&ordinal) {
            None => {
                let updated = new_pod_is_updated(wanted, ordinal);
                actions.push(Action::Create { ordinal, updated });
                if wanted.ordered {
                    return actions;
                }
            }
            // Deletion must end before the pod of the same name can be made again.
            Some(pod) if pod.terminating => {
                if wanted.ordered {
                    return actions;
                }
            }
            Some(pod) if pod.terminal => {
                actions.push(Action::Delete { ordinal });
                if wanted.ordered {
                    return actions;
                }
            }
            Some(pod) if !(pod.ready && pod.available) => {
                if wanted.ordered {
                    // A broken pod of an old revision may be replaced, else nothing can ever heal it: below.
                    return broken_update(wanted, pods, ordinal, actions);
                }
            }
            Some(_) => {}
        }
    }
    let surplus: Vec<i32> = pods
        .keys()
        .copied()
        .filter(|o| *o < wanted.start || *o >= end)
        .rev()
        .collect();
    let first_unhealthy = (wanted.start..end)
        .find(|o| !pods.get(o).is_some_and(PodView::healthy))
        .or_else(|| surplus.iter().rev().copied().find(|o| !pods[o].healthy()));
    for ordinal in surplus {
        let pod = pods[&ordinal];
        if pod.terminating {
            if wanted.ordered {
                return actions;
            }
            continue;
        }
        // A broken pod goes only if none below it is broken: a set whose pods all fail keeps them. One that has ended
        // will never be better.
        let fine = pod.terminal || pod.healthy() && pod.available;
        if wanted.ordered && !fine && first_unhealthy != Some(ordinal) {
            return actions;
        }
        actions.push(Action::Delete { ordinal });
        if wanted.ordered {
            return actions;
        }
    }
    update(wanted, pods, actions)
}

/// Does a missing pod come back at the new revision?
fn new_pod_is_updated(wanted: Wanted, ordinal: i32) -> bool {
    match wanted.partition {
        // By hand: what is made anew is made from the newest.
        None => true,
        Some(partition) => ordinal >= wanted.start.saturating_add(partition),
    }
}

/// Deletes the highest pod of an old revision, one at a time, waiting for health in between.
fn update(wanted: Wanted, pods: &BTreeMap<i32, PodView>, mut actions: Vec<Action>) -> Vec<Action> {
    let Some(partition) = wanted.partition else {
        return actions;
    };
    let end = wanted.start.saturating_add(wanted.replicas);
    let lowest = wanted.start.saturating_add(partition);
    for ordinal in (lowest..end).rev() {
        let Some(pod) = pods.get(&ordinal) else {
            return actions;
        };
        if !pod.updated && !pod.terminating {
            if !actions.contains(&Action::Delete { ordinal }) {
                actions.push(Action::Delete { ordinal });
            }
            return actions;
        }
        if !(pod.healthy() && pod.available) {
            return actions;
        }
    }
    actions
}

/// With `OrderedReady`, a pod that never gets ready blocks everything; when the update that is rolled out would
/// replace exactly this pod next, it may.
fn broken_update(
    wanted: Wanted,
    pods: &BTreeMap<i32, PodView>,
    broken: i32,
    mut actions: Vec<Action>,
) -> Vec<Action> {
    let Some(partition) = wanted.partition else {
        return actions;
    };
    let end = wanted.start.saturating_add(wanted.replicas);
    let others_fine = (broken + 1..end).all(|o| pods.get(&o).is_some_and(|pod| pod.updated && pod.healthy()));
    let pod = pods.get(&broken).copied().unwrap_or_default();
    if others_fine && !pod.updated && !pod.terminating && broken >= wanted.start.saturating_add(partition) {
        actions.push(Action::Delete { ordinal: broken });
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const READY: PodView = PodView {
        terminal: false,
        terminating: false,
        ready: true,
        available: true,
        updated: true,
    };

    fn wanted(replicas: i32, ordered: bool) -> Wanted {
        Wanted {
            start: 0,
            replicas,
            ordered,
            partition: Some(0),
        }
    }

    #[test]
    fn pods_come_one_after_the_other() {
        let mut pods = BTreeMap::new();
        assert_eq!(
            next(wanted(2, true), &pods),
            [Action::Create {
                ordinal: 0,
                updated: true
            }]
        );
        pods.insert(
            0,
            PodView {
                updated: true,
                ..PodView::default()
            },
        );
        assert_eq!(next(wanted(2, true), &pods), []);
        pods.insert(0, READY);
        assert_eq!(
            next(wanted(2, true), &pods),
            [Action::Create {
                ordinal: 1,
                updated: true
            }]
        );
    }

    #[test]
    fn parallel_makes_and_deletes_all_at_once() {
        let pods = BTreeMap::new();
        assert_eq!(next(wanted(3, false), &pods).len(), 3);
        let pods = [(0, READY), (1, READY), (2, READY)].into();
        let down = next(wanted(1, false), &pods);
        assert_eq!(
            down,
            [Action::Delete { ordinal: 2 }, Action::Delete { ordinal: 1 }]
        );
    }

    #[test]
    fn the_highest_goes_first_and_only_when_the_rest_is_healthy() {
        let pods: BTreeMap<_, _> = [(0, READY), (1, READY), (2, READY)].into();
        assert_eq!(next(wanted(1, true), &pods), [Action::Delete { ordinal: 2 }]);
        let sick = PodView {
            ready: false,
            available: false,
            ..READY
        };
        let pods: BTreeMap<_, _> = [(0, sick), (1, READY)].into();
        assert_eq!(next(wanted(1, true), &pods), []);
        let pods: BTreeMap<_, _> = [(0, sick), (1, sick)].into();
        assert_eq!(next(wanted(0, true), &pods), [], "broken pods keep each other");
        let pods: BTreeMap<_, _> = [(0, READY), (1, sick)].into();
        assert_eq!(next(wanted(0, true), &pods), [Action::Delete { ordinal: 1 }]);
        let ended = PodView {
            terminal: true,
            ..sick
        };
        let pods: BTreeMap<_, _> = [(0, ended), (1, ended)].into();
        assert_eq!(next(wanted(0, true), &pods), [Action::Delete { ordinal: 1 }]);
    }

    #[test]
    fn an_update_goes_from_the_top_down_to_the_partition() {
        let old = PodView {
            updated: false,
            ..READY
        };
        let mut limit = wanted(3, true);
        limit.partition = Some(1);
        let mut pods: BTreeMap<_, _> = [(0, old), (1, old), (2, old)].into();
        assert_eq!(next(limit, &pods), [Action::Delete { ordinal: 2 }]);
        pods.remove(&2);
        assert_eq!(
            next(limit, &pods),
            [Action::Create {
                ordinal: 2,
                updated: true
            }]
        );
        pods.insert(2, READY);
        assert_eq!(next(limit, &pods), [Action::Delete { ordinal: 1 }]);
        pods.insert(1, READY);
        assert_eq!(next(limit, &pods), []);
        // A lost pod below the partition comes back at the old revision.
        pods.remove(&0);
        assert_eq!(
            next(limit, &pods),
            [Action::Create {
                ordinal: 0,
                updated: false
            }]
        );
    }

    #[test]
    fn a_broken_old_revision_does_not_block_its_repair() {
        let broken = PodView {
            ready: false,
            available: false,
            updated: false,
            ..READY
        };
        let pods: BTreeMap<_, _> = [(0, broken)].into();
        assert_eq!(next(wanted(1, true), &pods), [Action::Delete { ordinal: 0 }]);
    }

    proptest! {
        /// From any state, with pods that get ready and go away when told, the set converges; nothing is made
        /// while a pod of its name is there; with `OrderedReady` at most one action is given at a time.
        #[test]
        fn every_state_converges(
            replicas in 0..5i32,
            ordered in any::<bool>(),
            partition in prop::option::of(0..5i32),
            present in prop::collection::btree_map(0..8i32, (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()), 0..6),
        ) {
            let wanted = Wanted { start: 0, replicas, ordered, partition };
            let mut pods: BTreeMap<i32, PodView> = present
                .into_iter()
                .map(|(ordinal, (terminal, terminating, ready, updated))| {
                    let ready = ready && !terminal;
                    (ordinal, PodView { terminal, terminating, ready, available: ready, updated })
                })
                .collect();
            for _ in 0..100 {
                let actions = next(wanted, &pods);
                prop_assert!(!ordered || actions.len() <= 1, "{actions:?}");
                for action in actions {
                    match action {
                        Action::Create { ordinal, updated } => {
                            prop_assert!(!pods.contains_key(&ordinal));
                            pods.insert(ordinal, PodView { updated, ..PodView::default() });
                        }
                        Action::Delete { ordinal } => {
                            let pod = pods.get_mut(&ordinal).expect("deleted pods exist");
                            prop_assert!(!pod.terminating);
                            pod.terminating = true;
                        }
                    }
                }
                // The kubelets' part.
                pods.retain(|_, pod| !pod.terminating);
                for pod in pods.values_mut().filter(|pod| !pod.terminal) {
                    pod.ready = true;
                    pod.available = true;
                }
            }
            let ordinals: Vec<i32> = pods.keys().copied().collect();
            prop_assert_eq!(ordinals, (0..replicas).collect::<Vec<_>>());
            prop_assert!(pods.values().all(|pod| pod.ready && !pod.terminating && !pod.terminal));
        }
    }
}
