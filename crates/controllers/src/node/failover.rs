//! When a node is given up: the decision, as a pure function. Everything rests on the storage's word: a node
//! from which a majority of the stores has not heard for [`FENCED`] has fenced itself long before (its engine
//! stops at 8 s, its pods are dead by 12 s), so its pods and volumes may move. The Lease only adds that the
//! kubelet is gone, too.

use super::health::Life;
use crate::Contact;
use std::time::Duration;

/// Silence towards the API and the stores after which a node's pods are certainly dead (see the timers in
/// `docs/architecture.md`).
pub const FENCED: Duration = Duration::from_secs(15);
/// How long a leader must have watched the node's Lease stand still itself, so that an outage of the control plane is
/// not taken for one of the nodes. Not [`FENCED`] once more: what fences is silence towards the stores, and they have
/// counted since before a leader that was lost with the node could be replaced.
const OBSERVED: Duration = Duration::from_secs(10);
/// Pause before the storage is asked again when it has no answer, or a reassuring one.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// What to do about a node whose Lease has run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its pods and volumes move.
    GiveUp,
    /// Not yet; look again after this.
    Wait(Duration),
}

/// Decides. `since` is how long this leader itself has seen no sign of life: a new leader counts anew.
pub fn decide(since: Duration, contact: Contact) -> Verdict {
    match contact {
        Contact::SilentFor(silent) => {
            let missing = FENCED.saturating_sub(silent).max(OBSERVED.saturating_sub(since));
            if missing.is_zero() {
                Verdict::GiveUp
            } else {
                Verdict::Wait(missing)
            }
        }
        Contact::Heard | Contact::Unknown => Verdict::Wait(ASK_AGAIN),
    }
}

/// May a node that was given up serve again? Its kubelet reports Ready only after it has killed the pods that
/// no longer exist.
pub fn recovered(life: Life, ready: bool) -> bool {
    ready && matches!(life, Life::Alive { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn only_silence_on_both_sides_counts() {
        assert_eq!(decide(s(20), Contact::SilentFor(s(15))), Verdict::GiveUp);
        assert_eq!(decide(s(15), Contact::SilentFor(s(15))), Verdict::GiveUp);
        assert_eq!(decide(s(10), Contact::SilentFor(s(9))), Verdict::Wait(s(6)));
        // A new leader, though the stores have long been waiting.
        assert_eq!(decide(s(8), Contact::SilentFor(s(600))), Verdict::Wait(s(2)));
        assert_eq!(decide(s(10), Contact::SilentFor(s(15))), Verdict::GiveUp);
        assert_eq!(decide(s(600), Contact::SilentFor(s(14))), Verdict::Wait(s(1)));
        // The API alone is out of reach.
        assert_eq!(decide(s(600), Contact::Heard), Verdict::Wait(ASK_AGAIN));
        assert_eq!(decide(s(600), Contact::Unknown), Verdict::Wait(ASK_AGAIN));
    }

    #[test]
    fn coming_back() {
        assert!(recovered(Life::Alive { left: s(1) }, true));
        assert!(!recovered(Life::Alive { left: s(1) }, false));
        assert!(!recovered(Life::Silent { since: s(9) }, true));
    }
}
