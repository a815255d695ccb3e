//! When the engine of each node was last heard. Monotonic, in memory: a store that starts knows nothing and counts
//! silence from its start; a store that was itself stopped for a while begins anew, since it heard nobody meanwhile.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How often the watch makes sure that it runs.
pub const WATCH_INTERVAL: Duration = Duration::from_millis(1000);
/// A gap between two checks from which on the store counts as having been stopped.
const WATCH_GAP: Duration = Duration::from_millis(2500);
/// Nodes remembered; the longest silent is forgotten beyond that.
const MAX_NODES: usize = 10_000;

struct State {
    watching_since: Instant,
    checked: Instant,
    heard: HashMap<String, Instant>,
}

/// The memory.
pub struct Contacts(Mutex<State>);

impl Contacts {
    /// Begins to watch.
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new(State {
            watching_since: now,
            checked: now,
            heard: HashMap::new(),
        }))
    }

    /// To be called every [`WATCH_INTERVAL`].
    pub fn check(&self, now: Instant) {
        Self::checked(&mut self.0.lock(), now);
    }

    fn checked(state: &mut State, now: Instant) {
        if now.saturating_duration_since(state.checked) > WATCH_GAP {
            state.watching_since = now;
        }
        state.checked = now;
    }

    /// A node's engine said something.
    pub fn heard(&self, node: &str, now: Instant) {
        let mut state = self.0.lock();
        Self::checked(&mut state, now);
        match state.heard.get_mut(node) {
            Some(at) => *at = now,
            None => {
                if state.heard.len() >= MAX_NODES {
                    let oldest = state
                        .heard
                        .iter()
                        .min_by_key(|(_, at)| **at)
                        .map(|(n, _)| n.clone());
                    oldest.map(|node| state.heard.remove(&node));
                }
                state.heard.insert(node.to_owned(), now);
            }
        }
    }

    /// Since when a node was not heard, if ever, and for how long the store has been watching without a break.
    pub fn contact(&self, node: &str, now: Instant) -> (Option<Duration>, Duration) {
        let mut state = self.0.lock();
        Self::checked(&mut state, now);
        let heard = state.heard.get(node).map(|at| now.saturating_duration_since(*at));
        (heard, now.saturating_duration_since(state.watching_since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_was_stopped_counts_from_its_return() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let contacts = Contacts::new(start);
        contacts.heard("n", at(500));
        contacts.check(at(1000));
        contacts.check(at(2000));
        assert_eq!(
            contacts.contact("n", at(2500)),
            (Some(Duration::from_millis(2000)), Duration::from_millis(2500))
        );
        assert_eq!(contacts.contact("other", at(2500)).0, None);
        // Stopped for a minute; the first thing it does is to answer.
        assert_eq!(contacts.contact("n", at(62_500)).1, Duration::ZERO);
        contacts.check(at(63_000));
        assert_eq!(contacts.contact("n", at(63_500)).1, Duration::from_millis(1000));
    }
}
