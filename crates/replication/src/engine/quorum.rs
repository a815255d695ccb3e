//! Whether this node is in contact with a majority of the stores, and since when not.
//!
//! Fenced means: for `fence_after` there was no moment at which a majority of the stores is known to have been in
//! contact. Time is monotonic and is looked at before old answers count, so that a process that was stopped for
//! long finds itself fenced when it goes on.

use super::link::Link;
use crate::clock;
use crate::core::types::Nanos;
use crate::net::CLIENT_SILENCE;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, broadcast};

/// Changes kept for a slow watcher; who falls behind gets the newest.
const HISTORY: usize = 64;

/// The state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuorumState {
    /// In contact with a majority now.
    pub majority: bool,
    /// Without a majority for longer than the fencing time.
    pub fenced: bool,
    /// How long ago a majority was last in contact.
    pub silence: Duration,
}

/// Watches the links.
pub struct Quorum {
    links: Vec<Arc<Link>>,
    fence_after: Duration,
    changed: Arc<Notify>,
    last: Mutex<QuorumState>,
    sender: broadcast::Sender<QuorumState>,
}

impl Quorum {
    /// A watch over `links`, woken by `changed`.
    pub fn new(links: Vec<Arc<Link>>, fence_after: Duration, changed: Arc<Notify>) -> Arc<Self> {
        let start = QuorumState {
            majority: false,
            fenced: false,
            silence: Duration::ZERO,
        };
        Arc::new(Self {
            links,
            fence_after,
            changed,
            last: Mutex::new(start),
            sender: broadcast::channel(HISTORY).0,
        })
    }

    /// The state now.
    pub fn state(&self) -> QuorumState {
        let confirmed = self.links.iter().map(|link| link.confirmed()).collect();
        let up = self.links.iter().filter(|link| link.store().is_some()).count();
        evaluate(confirmed, up, clock::now(), self.fence_after)
    }

    /// Changes from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<QuorumState> {
        self.sender.subscribe()
    }

    /// Runs for ever; wakes when a store is heard or lost, and when the fencing time is over.
    pub async fn run(&self) {
        loop {
            let state = self.state();
            self.publish(state);
            let left = self.fence_after.saturating_sub(state.silence);
            let wait = if state.fenced {
                Duration::MAX
            } else {
                left + Duration::from_millis(1)
            };
            let _ = tokio::time::timeout(wait, self.changed.notified()).await;
        }
    }

    fn publish(&self, state: QuorumState) {
        let mut last = self.last.lock();
        let same = (last.majority, last.fenced) == (state.majority, state.fenced);
        *last = state;
        if !same {
            tracing::info!(
                majority = state.majority,
                fenced = state.fenced,
                silence_ms = state.silence.as_millis() as u64,
                "contact with the stores"
            );
            let _ = self.sender.send(state);
        }
    }
}

/// The newest time at which a majority was in contact is the majority'th newest of the links' times.
fn evaluate(mut confirmed: Vec<Nanos>, up: usize, now: Nanos, fence_after: Duration) -> QuorumState {
    let needed = confirmed.len() / 2 + 1;
    confirmed.sort_unstable_by(|a, b| b.cmp(a));
    let evidence = confirmed.get(needed - 1).copied().unwrap_or_default();
    let silence = Duration::from_nanos(now.saturating_sub(evidence));
    let fenced = silence >= fence_after;
    QuorumState {
        // A link may be up and not yet known to be silent.
        majority: up >= needed && !fenced && silence < CLIENT_SILENCE * 2,
        fenced,
        silence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Nanos = 1_000_000_000;

    #[test]
    fn a_majority_decides_and_time_fences() {
        let fence = Duration::from_secs(8);
        let at = |times: [Nanos; 3], up, now| evaluate(times.map(|t| t * S).to_vec(), up, now * S, fence);
        assert!(at([99, 99, 10], 2, 100).majority);
        let cut = at([99, 95, 94], 1, 100);
        assert!(!cut.majority && !cut.fenced);
        assert_eq!(cut.silence, Duration::from_secs(5));
        assert!(at([99, 92, 91], 1, 100).fenced);
        // One store is not enough, however fresh.
        assert!(at([100, 50, 50], 3, 100).fenced);
        // Stopped for a minute: all links still seem up.
        assert!(at([40, 40, 40], 3, 100).fenced);
    }
}
