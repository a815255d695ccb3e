//! How long a node has been silent, timed by this process alone: from when it saw the node's Lease change, never
//! by comparing clocks. A new leader therefore starts to count anew.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// For a node without a Lease, or one whose Lease does not say (upstream's default).
const DEFAULT_LEASE: Duration = Duration::from_secs(40);
/// A node that was never seen to live gets so long to show a first sign.
const STARTUP_GRACE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
struct Sign {
    renewed: Option<MicroTime>,
    duration: Duration,
    seen: Instant,
}

/// A process that did not look at its clock for so long was stopped (SIGSTOP, a paused machine, no processor): it may
/// have missed signs of life that are on their way to it. Several times the second between two looks.
const STOPPED: Duration = Duration::from_secs(3);

/// The signs of life of all nodes.
#[derive(Default)]
pub struct Signs {
    by_node: HashMap<String, Sign>,
    looked: Option<Instant>,
}

/// How a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Its Lease is valid for so long at least.
    Alive {
        /// Until the Lease runs out, unless it is renewed.
        left: Duration,
    },
    /// Its Lease has run out.
    Silent {
        /// Since the last sign of life that this process saw.
        since: Duration,
    },
}

impl Signs {
    /// To be called each second, and before anything is concluded from silence. Time in which this process did not
    /// run is not silence of the nodes: it is taken off.
    pub fn look(&mut self, now: Instant) {
        let before = self.looked.replace(now);
        let Some(gap) = before.map(|before| now.saturating_duration_since(before)) else {
            return;
        };
        if gap > STOPPED {
            tracing::info!(
                seconds = gap.as_secs(),
                "was stopped: nodes get that time to be heard"
            );
            for sign in self.by_node.values_mut() {
                sign.seen += gap;
            }
        }
    }

    /// The node's Lease was seen. True when it has changed, a sign of life.
    pub fn note(&mut self, node: &str, lease: &Lease, now: Instant) -> bool {
        let spec = lease.spec.clone().unwrap_or_default();
        let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok());
        let duration = seconds
            .filter(|s| *s > 0)
            .map_or(DEFAULT_LEASE, Duration::from_secs);
        match self.by_node.get_mut(node) {
            Some(sign) if sign.renewed == spec.renew_time => {
                sign.duration = duration;
                false
            }
            _ => {
                self.by_node.insert(
                    node.to_owned(),
                    Sign {
                        renewed: spec.renew_time,
                        duration,
                        seen: now,
                    },
                );
                true
            }
        }
    }

    /// The kubelet has reported on its node, which is a sign of life as well.
    pub fn heard(&mut self, node: &str, now: Instant) {
        if let Some(sign) = self.by_node.get_mut(node) {
            sign.seen = now;
        }
    }

    /// A node is known, though it may have no Lease yet: from now on it is expected to live.
    pub fn expect(&mut self, node: &str, now: Instant) {
        self.by_node.entry(node.to_owned()).or_insert(Sign {
            renewed: None,
            duration: STARTUP_GRACE,
            seen: now,
        });
    }

    /// A node is gone.
    pub fn forget(&mut self, node: &str) {
        self.by_node.remove(node);
    }

    /// How a node stands now.
    pub fn life(&self, node: &str, now: Instant) -> Life {
        let Some(sign) = self.by_node.get(node) else {
            return Life::Alive { left: DEFAULT_LEASE };
        };
        let since = now.saturating_duration_since(sign.seen);
        match sign.duration.checked_sub(since) {
            Some(left) if !left.is_zero() => Life::Alive { left },
            _ => Life::Silent { since },
        }
    }

    /// Do all nodes but at most none live? With a single node there is nothing to compare with.
    pub fn all_silent<'a>(&self, nodes: impl Iterator<Item = &'a str>, now: Instant) -> bool {
        let mut count = 0;
        for node in nodes {
            if matches!(self.life(node, now), Life::Alive { .. }) {
                return false;
            }
            count += 1;
        }
        count > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lease(second: u32) -> Lease {
        serde_json::from_value(json!({"spec": {
            "leaseDurationSeconds": 8, "renewTime": format!("2026-01-01T00:00:{second:02}.000000Z")}}))
        .unwrap()
    }

    #[test]
    fn silence_is_counted_from_our_own_observation() {
        let mut signs = Signs::default();
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        // The Lease may be ancient by the wall clock: that says nothing to a new leader.
        assert!(signs.note("n", &lease(0), at(0)));
        assert_eq!(
            signs.life("n", at(3)),
            Life::Alive {
                left: Duration::from_secs(5)
            }
        );
        assert!(!signs.note("n", &lease(0), at(5)));
        assert_eq!(
            signs.life("n", at(8)),
            Life::Silent {
                since: Duration::from_secs(8)
            }
        );
        assert!(signs.note("n", &lease(1), at(9)));
        assert_eq!(
            signs.life("n", at(9)),
            Life::Alive {
                left: Duration::from_secs(8)
            }
        );
        signs.heard("n", at(12));
        assert_eq!(
            signs.life("n", at(12)),
            Life::Alive {
                left: Duration::from_secs(8)
            }
        );
        assert!(signs.all_silent(["n", "n"].into_iter(), at(20)));
        assert!(!signs.all_silent(["n"].into_iter(), at(20)));
    }

    #[test]
    fn time_in_which_we_were_stopped_is_not_silence() {
        let mut signs = Signs::default();
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        signs.look(at(0));
        signs.note("n", &lease(0), at(0));
        for second in 1..=5 {
            signs.look(at(second));
        }
        // A minute of SIGSTOP, of which nothing counts.
        signs.look(at(65));
        assert_eq!(
            signs.life("n", at(65)),
            Life::Alive {
                left: Duration::from_secs(3)
            }
        );
        for second in 66..=68 {
            signs.look(at(second));
        }
        assert_eq!(
            signs.life("n", at(68)),
            Life::Silent {
                since: Duration::from_secs(8)
            }
        );
    }
}
