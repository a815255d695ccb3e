//! The arithmetic of rolling updates and scaling, apart from the API: how many pods each ReplicaSet of a
//! Deployment should have next. The rules are upstream's.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// What the arithmetic needs to know about one ReplicaSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct View {
    /// Pods it shall have.
    pub desired: i32,
    /// Pods it has that are available.
    pub available: i32,
}

/// The Deployment's limits, resolved to numbers of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Pods wanted.
    pub replicas: i32,
    /// Pods allowed above that during an update.
    pub surge: i32,
    /// Pods that may be missing during an update.
    pub unavailable: i32,
}

impl Limits {
    /// Resolves percentages: surge rounds up, unavailability down; not both may be zero.
    pub fn resolve(replicas: i32, surge: Option<&IntOrString>, unavailable: Option<&IntOrString>) -> Self {
        let quarter = IntOrString::String("25%".into());
        let surge = resolve(surge.unwrap_or(&quarter), replicas, true);
        let mut unavailable = resolve(unavailable.unwrap_or(&quarter), replicas, false);
        if surge == 0 && unavailable == 0 {
            unavailable = 1;
        }
        Self {
            replicas,
            surge,
            unavailable: unavailable.min(replicas),
        }
    }

    /// Most pods at any time.
    pub fn most(&self) -> i32 {
        self.replicas.saturating_add(self.surge)
    }

    /// Fewest available pods at any time, once they are there.
    pub fn fewest(&self) -> i32 {
        self.replicas - self.unavailable
    }
}

/// A number or a percentage of `total`.
pub fn resolve(value: &IntOrString, total: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let scaled = percent * i64::from(total);
            let whole = if up {
                (scaled + 99).div_euclid(100)
            } else {
                scaled.div_euclid(100)
            };
            i32::try_from(whole.max(0)).unwrap_or(i32::MAX)
        }
    }
}

/// The next size of the new ReplicaSet, given all of the old ones.
pub fn next_new(limits: Limits, new: View, old: &[View]) -> i32 {
    if new.desired >= limits.replicas {
        return limits.replicas;
    }
    let total = new.desired + old.iter().map(|view| view.desired).sum::<i32>();
    let room = (limits.most() - total).max(0);
    new.desired + room.min(limits.replicas - new.desired)
}

/// The next sizes of the old ReplicaSets (given oldest first). Pods that are not available go first: they serve
/// nobody.
pub fn next_old(limits: Limits, new: View, old: &[View]) -> Vec<i32> {
    let mut sizes: Vec<i32> = old.iter().map(|view| view.desired).collect();
    let total = new.desired + sizes.iter().sum::<i32>();
    let new_missing = (new.desired - new.available).max(0);
    let mut budget = total - limits.fewest() - new_missing;
    if budget <= 0 {
        return sizes;
    }
    for (size, view) in sizes.iter_mut().zip(old) {
        let broken = (*size - view.available).clamp(0, budget);
        *size -= broken;
        budget -= broken;
    }
    let available = new.available + old.iter().map(|view| view.available).sum::<i32>();
    let mut spare = (available - limits.fewest()).max(0);
    for size in &mut sizes {
        let removed = (*size).min(spare);
        *size -= removed;
        spare -= removed;
    }
    sizes
}

/// How a change of the Deployment's size is spread over its ReplicaSets in the middle of an update: in
/// proportion to their sizes. `previous_most` is, per ReplicaSet, the most pods the Deployment allowed when it
/// was last scaled. Given newest first; returns the new sizes.
pub fn proportional(limits: Limits, sizes: &[i32], previous_most: &[Option<i32>]) -> Vec<i32> {
    let total: i32 = sizes.iter().sum();
    let allowed = if limits.replicas > 0 { limits.most() } else { 0 };
    let change = allowed - total;
    let mut added = 0;
    let mut result: Vec<i32> = sizes.to_vec();
    // Scaling up favours the larger and newer ones, scaling down the larger and older ones.
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    if change > 0 {
        order.sort_by_key(|&i| (-sizes[i], i));
    } else {
        order.sort_by_key(|&i| (-sizes[i], usize::MAX - i));
    }
    if change == 0 {
        return result;
    }
    for &i in &order {
        let left = change - added;
        let share = share(sizes[i], allowed, previous_most[i].unwrap_or(limits.replicas));
        let bounded = if change > 0 {
            share.clamp(0, left.max(0))
        } else {
            share.clamp(left.min(0), 0)
        };
        result[i] += bounded;
        added += bounded;
    }
    // What rounding left over goes to the first.
    if let Some(&first) = order.first() {
        result[first] = (result[first] + change - added).max(0);
    }
    result
}

fn share(size: i32, allowed: i32, previous_most: i32) -> i32 {
    if previous_most <= 0 {
        return 0;
    }
    let scaled = f64::from(size) * f64::from(allowed) / f64::from(previous_most);
    #[expect(clippy::cast_possible_truncation, reason = "a number of pods fits in i32")]
    let scaled = scaled.round() as i32;
    scaled - size
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn percentages() {
        let percent = |text: &str| IntOrString::String(text.into());
        assert_eq!(resolve(&percent("25%"), 10, true), 3);
        assert_eq!(resolve(&percent("25%"), 10, false), 2);
        let limits = Limits::resolve(3, Some(&IntOrString::Int(0)), Some(&percent("1%")));
        assert_eq!((limits.surge, limits.unavailable), (0, 1));
    }

    #[test]
    fn proportional_scaling_keeps_the_ratio() {
        let limits = Limits {
            replicas: 20,
            surge: 0,
            unavailable: 0,
        };
        assert_eq!(proportional(limits, &[5, 5], &[Some(10), Some(10)]), [10, 10]);
        let down = Limits {
            replicas: 5,
            surge: 0,
            unavailable: 0,
        };
        let sizes = proportional(down, &[6, 4], &[Some(10), Some(10)]);
        assert_eq!(sizes.iter().sum::<i32>(), 5);
    }

    /// Pods of one simulated ReplicaSet: wanted number, and how many of the existing are available.
    #[derive(Clone, Copy, Debug)]
    struct Simulated {
        view: View,
        pods: i32,
    }

    fn settle(set: &mut Simulated, become_available: i32, down_broken_first: bool) {
        // Surplus pods are deleted (unavailable ones first, as the ReplicaSet controller ranks them).
        if set.pods > set.view.desired {
            let broken = set.pods - set.view.available;
            let surplus = set.pods - set.view.desired;
            let from_broken = if down_broken_first { surplus.min(broken) } else { 0 };
            set.view.available -= surplus - from_broken;
            set.pods = set.view.desired;
        }
        set.pods = set.pods.max(set.view.desired);
        set.view.available = (set.view.available + become_available).min(set.pods);
    }

    proptest! {
        #[test]
        fn a_rollout_keeps_its_limits_and_ends(
            replicas in 1..20i32,
            surge in 0..6i32,
            unavailable in 0..6i32,
            split in prop::collection::vec(0..6i32, 1..4),
            broken in 0..4i32,
            readiness in prop::collection::vec(0..4i32, 0..40),
        ) {
            let limits = Limits::resolve(
                replicas, Some(&IntOrString::Int(surge)), Some(&IntOrString::Int(unavailable)));
            // Old sets that together have what is wanted, of which some are broken.
            let mut left = replicas;
            let mut old: Vec<Simulated> = Vec::new();
            for part in split {
                let pods = part.min(left);
                left -= pods;
                old.push(Simulated { view: View { desired: pods, available: pods }, pods });
            }
            old.push(Simulated { view: View { desired: left, available: (left - broken).max(0) }, pods: left });
            let mut new = Simulated { view: View::default(), pods: 0 };
            let healthy_at_start: i32 = old.iter().map(|set| set.view.available).sum();
            let floor = limits.fewest().min(healthy_at_start);
            // After the given readiness every pod becomes ready at once, so that the update must end.
            let steps = readiness.into_iter().chain(std::iter::repeat_n(100, 100));
            for ready in steps {
                let views: Vec<View> = old.iter().map(|set| set.view).collect();
                let grown = next_new(limits, new.view, &views);
                if grown == new.view.desired {
                    let sizes = next_old(limits, new.view, &views);
                    for (set, size) in old.iter_mut().zip(sizes) {
                        prop_assert!((0..=set.view.desired).contains(&size));
                        set.view.desired = size;
                        settle(set, 0, true);
                    }
                } else {
                    new.view.desired = grown;
                }
                let total = new.pods.max(new.view.desired) + old.iter().map(|set| set.pods).sum::<i32>();
                prop_assert!(total <= limits.most(), "{total} pods, at most {}", limits.most());
                settle(&mut new, ready, true);
                let available = new.view.available + old.iter().map(|set| set.view.available).sum::<i32>();
                prop_assert!(available >= floor, "{available} available, at least {floor}");
            }
            prop_assert_eq!(new.view.desired, replicas);
            prop_assert_eq!(old.iter().map(|set| set.view.desired).sum::<i32>(), 0);
        }

        #[test]
        fn proportional_scaling_meets_the_total(
            sizes in prop::collection::vec(0..10i32, 1..5),
            replicas in 0..30i32,
            surge in 0..5i32,
        ) {
            let most: i32 = sizes.iter().sum();
            let limits = Limits { replicas, surge, unavailable: 0 };
            let previous = vec![Some(most); sizes.len()];
            let result = proportional(limits, &sizes, &previous);
            let allowed = if replicas > 0 { limits.most() } else { 0 };
            prop_assert!(result.iter().all(|size| *size >= 0));
            prop_assert_eq!(result.iter().sum::<i32>(), allowed);
        }
    }
}
