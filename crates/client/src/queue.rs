//! A work queue of keys, as every controller needs it: a key that is added many times is worked on once, never
//! by two workers at a time, and a key that fails comes back later and later.

use futures::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

/// First pause after a failure; doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(10);
/// Longest pause after failures: what heals by itself is noticed within it.
const BACKOFF_MAX: Duration = Duration::from_secs(15);

/// How long one piece of work may take. Everything that controllers do is a handful of requests, each done in
/// milliseconds; what takes longer hangs, on a connection that is gone for example, and is begun anew.
const WORK_LIMIT: Duration = Duration::from_secs(60);

/// What became of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing left to do until the key is added again.
    Done,
    /// To be looked at again after a while, though nothing failed.
    After(Duration),
    /// Failed, or met a conflict: again after the key's backoff.
    Retry,
}

struct Delayed<K> {
    due: Instant,
    key: K,
}

impl<K> PartialEq for Delayed<K> {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}
impl<K> Eq for Delayed<K> {}
impl<K> PartialOrd for Delayed<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Delayed<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.due.cmp(&other.due)
    }
}

struct State<K> {
    ready: VecDeque<K>,
    queued: HashSet<K>,
    working: HashSet<K>,
    again: HashSet<K>,
    delayed: BinaryHeap<Reverse<Delayed<K>>>,
    /// The earliest time for which each key is delayed; later entries of the heap are skipped.
    due: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
}

/// The queue. Add keys from anywhere; one [`Queue::work`] takes them out.
pub struct Queue<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

impl<K: Clone + Eq + Hash> Default for Queue<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// An empty queue.
    pub fn new() -> Self {
        Self {
            state: Mutex::new(State {
                ready: VecDeque::new(),
                queued: HashSet::new(),
                working: HashSet::new(),
                again: HashSet::new(),
                delayed: BinaryHeap::new(),
                due: HashMap::new(),
                failures: HashMap::new(),
            }),
            changed: Notify::new(),
        }
    }

    /// Adds a key; no effect when it already waits. While it is being worked on it is kept for afterwards.
    pub fn add(&self, key: K) {
        if self.state.lock().add(key) {
            self.changed.notify_one();
        }
    }

    /// Adds a key after a delay. Of several delays the shortest counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        let due = Instant::now() + delay;
        let mut state = self.state.lock();
        if state.due.get(&key).is_some_and(|known| *known <= due) {
            return;
        }
        state.due.insert(key.clone(), due);
        state.delayed.push(Reverse(Delayed { due, key }));
        drop(state);
        self.changed.notify_one();
    }

    /// Keys that wait to be worked on now.
    pub fn len(&self) -> usize {
        self.state.lock().ready.len()
    }

    /// True when no key waits to be worked on now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Works on keys for ever, on up to `concurrency` at once. Must not be called twice for one queue. Work that
    /// takes longer than a minute is dropped and counts as failed.
    pub async fn work<F, Fut>(&self, concurrency: usize, handle: F)
    where
        F: FnMut(K) -> Fut,
        Fut: Future<Output = Outcome>,
    {
        self.work_within(WORK_LIMIT, concurrency, handle).await;
    }

    async fn work_within<F, Fut>(&self, limit: Duration, concurrency: usize, mut handle: F)
    where
        F: FnMut(K) -> Fut,
        Fut: Future<Output = Outcome>,
    {
        let mut running = FuturesUnordered::new();
        loop {
            let mut next_due = None;
            while running.len() < concurrency {
                let (key, due) = self.state.lock().take(Instant::now());
                next_due = due;
                let Some(key) = key else { break };
                let future = timeout(limit, handle(key.clone()));
                running.push(async move {
                    let outcome = future.await.unwrap_or_else(|_| {
                        tracing::info!(limit_s = limit.as_secs(), "work took too long and is begun anew");
                        Outcome::Retry
                    });
                    (key, outcome)
                });
            }
            let timer = async {
                match next_due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some((key, outcome)) = running.next(), if !running.is_empty() => self.finish(key, outcome),
                () = self.changed.notified() => {}
                () = timer => {}
            }
        }
    }

    fn finish(&self, key: K, outcome: Outcome) {
        let delay = {
            let mut state = self.state.lock();
            state.working.remove(&key);
            if state.again.remove(&key) {
                state.add(key.clone());
            }
            match outcome {
                Outcome::Done => {
                    state.failures.remove(&key);
                    return;
                }
                Outcome::After(delay) => {
                    state.failures.remove(&key);
                    delay
                }
                Outcome::Retry => {
                    let failures = state.failures.entry(key.clone()).or_insert(0);
                    *failures = failures.saturating_add(1);
                    backoff(*failures)
                }
            }
        };
        self.add_after(key, delay);
    }
}

/// The pause after the n-th failure in a row.
pub fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    BACKOFF_FIRST.saturating_mul(1 << doublings).min(BACKOFF_MAX)
}

impl<K: Clone + Eq + Hash> State<K> {
    /// True when a worker must be woken for it.
    fn add(&mut self, key: K) -> bool {
        if self.working.contains(&key) {
            self.again.insert(key);
            return false;
        }
        if !self.queued.insert(key.clone()) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    /// The next key to work on, or else when the next one is due.
    fn take(&mut self, now: Instant) -> (Option<K>, Option<Instant>) {
        let next_due = self.promote(now);
        let Some(key) = self.ready.pop_front() else {
            return (None, next_due);
        };
        self.queued.remove(&key);
        self.working.insert(key.clone());
        (Some(key), next_due)
    }

    /// Moves what is due to the ready keys.
    fn promote(&mut self, now: Instant) -> Option<Instant> {
        while let Some(Reverse(first)) = self.delayed.peek() {
            if first.due > now {
                return Some(first.due);
            }
            let Some(Reverse(Delayed { due, key })) = self.delayed.pop() else {
                break;
            };
            if self.due.get(&key) == Some(&due) {
                self.due.remove(&key);
                self.add(key);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    async fn run_for(queue: Arc<Queue<u32>>, time: Duration, outcome: Outcome) -> usize {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let work = queue.work(4, |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            async move { outcome }
        });
        let _ = tokio::time::timeout(time, work).await;
        calls.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn repeated_adds_are_worked_on_once() {
        let queue = Arc::new(Queue::new());
        for _ in 0..100 {
            queue.add(1);
        }
        queue.add(2);
        assert_eq!(run_for(queue, Duration::from_millis(100), Outcome::Done).await, 2);
    }

    #[tokio::test]
    async fn failures_come_back_ever_later() {
        let queue = Arc::new(Queue::new());
        queue.add(1);
        // At 0, 10, 30, 70, 150, 310, 630 ms; a slow machine sees fewer.
        let calls = run_for(queue, Duration::from_millis(500), Outcome::Retry).await;
        assert!((2..=6).contains(&calls), "{calls}");
    }

    #[tokio::test]
    async fn of_several_delays_the_shortest_counts() {
        let queue = Arc::new(Queue::new());
        queue.add_after(1, Duration::from_secs(100));
        queue.add_after(1, Duration::from_millis(20));
        queue.add_after(1, Duration::from_secs(50));
        assert_eq!(run_for(queue, Duration::from_millis(300), Outcome::Done).await, 1);
    }

    #[tokio::test]
    async fn a_key_is_never_worked_on_twice_at_once() {
        let queue = Arc::new(Queue::new());
        let active = Arc::new(AtomicUsize::new(0));
        let total = Arc::new(AtomicUsize::new(0));
        queue.add(7);
        let adder = queue.clone();
        let work = queue.work(4, |key| {
            let (active, total, adder) = (active.clone(), total.clone(), adder.clone());
            async move {
                assert_eq!(active.fetch_add(1, Ordering::SeqCst), 0);
                if total.fetch_add(1, Ordering::SeqCst) < 3 {
                    adder.add(key);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
                active.fetch_sub(1, Ordering::SeqCst);
                Outcome::Done
            }
        });
        let _ = tokio::time::timeout(Duration::from_millis(300), work).await;
        assert_eq!(total.load(Ordering::SeqCst), 4);
    }

    #[tokio::test]
    async fn work_that_hangs_is_begun_anew_and_holds_up_nobody() {
        let queue = Arc::new(Queue::new());
        let tries = Arc::new(AtomicUsize::new(0));
        queue.add(1);
        let counted = tries.clone();
        let work = queue.work_within(Duration::from_millis(50), 1, |key| {
            let first = key == 1 && counted.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                if first {
                    std::future::pending::<()>().await;
                }
                Outcome::Done
            }
        });
        let ended = tokio::time::timeout(Duration::from_millis(500), work).await;
        assert!(ended.is_err());
        assert_eq!(tries.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn backoff_is_bounded() {
        assert_eq!(backoff(1), BACKOFF_FIRST);
        assert_eq!(backoff(u32::MAX), BACKOFF_MAX);
    }
}
