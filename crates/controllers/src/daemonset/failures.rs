//! Pods of DaemonSets that end although they should run.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long an ended pod of a set stays on its node before it is replaced: a node that refuses or evicts it each time
/// would otherwise be asked without pause. Nothing the first time, then upstream's delays.
#[derive(Default)]
pub struct Failures(Mutex<HashMap<(String, String), Failure>>);

struct Failure {
    /// Of the next replacement, counted from this one.
    delay: Duration,
    at: Instant,
}

impl Failures {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(15 * 60);
    /// Without a failure for so long, it starts anew.
    const FORGIVEN: Duration = Duration::from_secs(30 * 60);

    /// What is left to wait; `None` if the pod is to be replaced now.
    pub fn wait(&self, set: &str, node: &str, now: Instant) -> Option<Duration> {
        let mut known = self.0.lock();
        known.retain(|_, failure| now.duration_since(failure.at) < Self::FORGIVEN);
        let (delay, at) = (Self::FIRST, now);
        let Some(failure) = known.get_mut(&(set.to_owned(), node.to_owned())) else {
            known.insert((set.to_owned(), node.to_owned()), Failure { delay, at });
            return None;
        };
        let left = failure.delay.saturating_sub(now.duration_since(failure.at));
        if !left.is_zero() {
            return Some(left);
        }
        failure.delay = (failure.delay * 2).min(Self::LONGEST);
        failure.at = now;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_fails_again_and_again_is_replaced_ever_more_slowly() {
        let (failures, start) = (Failures::default(), Instant::now());
        let after = |seconds: u64| failures.wait("set", "n", start + Duration::from_secs(seconds));
        assert_eq!(after(0), None);
        assert_eq!(after(0), Some(Duration::from_secs(1)));
        assert_eq!(failures.wait("set", "other", start), None, "another node");
        assert_eq!(after(1), None);
        assert_eq!(after(2), Some(Duration::from_secs(1)));
        assert_eq!(after(3), None);
        assert_eq!(after(3), Some(Duration::from_secs(4)));
        assert_eq!(after(3 + 1800), None, "forgiven");
        assert_eq!(after(3 + 1801), None, "from the first delay again");
    }
}
