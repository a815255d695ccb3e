//! Growing delays between attempts: restarts of a container that crashes, pulls of an image that is missing.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, SystemTime};

/// First delay, as upstream.
pub const INITIAL: Duration = Duration::from_secs(10);
/// Longest delay, as upstream.
pub const MAX: Duration = Duration::from_secs(300);
/// Something that went well for so long starts from the first delay again (twice the longest one).
const FORGET: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug)]
struct Entry {
    delay: Duration,
    updated: SystemTime,
}

/// Delays by key.
#[derive(Debug)]
pub struct Backoff<K> {
    entries: HashMap<K, Entry>,
}

impl<K> Default for Backoff<K> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash> Backoff<K> {
    /// Whether an attempt must still wait, counted from `since` (when the last one ended): the whole delay and
    /// what is left of it.
    pub fn waiting(&self, key: &K, since: SystemTime, now: SystemTime) -> Option<(Duration, Duration)> {
        let entry = self.entries.get(key)?;
        if expired(entry, since) {
            return None;
        }
        let passed = now.duration_since(since).unwrap_or_default();
        (passed < entry.delay).then(|| (entry.delay, entry.delay.saturating_sub(passed)))
    }

    /// Records an attempt that starts now after one that ended at `since`: the next delay is longer.
    pub fn advance(&mut self, key: K, since: SystemTime, now: SystemTime) {
        let delay = match self.entries.get(&key) {
            Some(entry) if !expired(entry, since) => (entry.delay * 2).min(MAX),
            _ => INITIAL,
        };
        self.entries.insert(key, Entry { delay, updated: now });
    }

    /// Forgets a key: the next failure starts from the first delay.
    pub fn reset(&mut self, key: &K) {
        self.entries.remove(key);
    }
}

/// Whether what was started at the entry's last update ran long enough until `since`.
fn expired(entry: &Entry, since: SystemTime) -> bool {
    since.duration_since(entry.updated).is_ok_and(|ran| ran > FORGET)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_limit_and_forgets() {
        let mut backoff = Backoff::default();
        let mut now = SystemTime::now();
        assert!(
            backoff.waiting(&"c", now, now).is_none(),
            "the first restart is immediate"
        );
        let mut expected = INITIAL;
        for _ in 0..8 {
            backoff.advance("c", now, now);
            let ended = now + Duration::from_secs(1);
            let (delay, left) = backoff.waiting(&"c", ended, ended).expect("it waits");
            assert_eq!((delay, left), (expected, expected));
            now = ended + delay;
            assert!(backoff.waiting(&"c", ended, now).is_none());
            expected = (expected * 2).min(MAX);
        }
        let long_after = now + FORGET + Duration::from_secs(1);
        assert!(backoff.waiting(&"c", long_after, long_after).is_none());
        backoff.advance("c", long_after, long_after);
        assert_eq!(
            backoff.waiting(&"c", long_after, long_after).map(|w| w.0),
            Some(INITIAL)
        );
        backoff.reset(&"c");
        assert!(backoff.waiting(&"c", long_after, long_after).is_none());
    }
}
