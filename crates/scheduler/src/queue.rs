//! Pods that wait to be scheduled: ready to be tried, waiting out their backoff, or put aside until something
//! happens that could help. Nothing is tried again merely because time has passed, but for a rare safety net.

use crate::state::PodInfo;
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// After so long a pod is tried again even if nothing was seen that could help.
const PUT_ASIDE_MAX: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, PartialEq, Debug)]
enum Place {
    Active,
    /// In the hands of the scheduler, since this many events.
    Taken(u64),
    /// To be tried at this time.
    Waiting(Instant),
    /// To be tried when something happens.
    Aside(Instant),
}

struct Entry {
    pod: Arc<PodInfo>,
    place: Place,
    attempts: u32,
    not_before: Instant,
    order: u64,
}

#[derive(Default)]
struct Inner {
    entries: HashMap<String, Entry>,
    active: BTreeMap<(Reverse<i32>, u64), String>,
    next_order: u64,
    events: u64,
}

/// The queue.
#[derive(Default)]
pub struct Queue {
    inner: Mutex<Inner>,
    changed: Notify,
}

impl Queue {
    /// A pod appeared or changed.
    pub fn upsert(&self, pod: Arc<PodInfo>) {
        let mut inner = self.inner.lock();
        let uid = pod.uid().to_owned();
        match inner.entries.get_mut(&uid) {
            None => {
                let order = inner.next_order;
                inner.next_order += 1;
                let now = Instant::now();
                let entry = Entry {
                    pod,
                    place: Place::Aside(now),
                    attempts: 0,
                    not_before: now,
                    order,
                };
                inner.entries.insert(uid.clone(), entry);
                inner.activate(&uid);
            }
            Some(entry) => {
                let changed = differs(&entry.pod, &pod);
                entry.pod = pod;
                if changed && matches!(entry.place, Place::Aside(_)) {
                    inner.release(&uid);
                }
            }
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// A pod is gone, or bound.
    pub fn remove(&self, uid: &str) {
        let mut inner = self.inner.lock();
        if let Some(entry) = inner.entries.remove(uid) {
            inner.active.remove(&(Reverse(entry.pod.priority()), entry.order));
        }
    }

    /// Something happened that may help pods that were put aside.
    pub fn stir(&self) {
        let mut inner = self.inner.lock();
        inner.events += 1;
        let aside: Vec<String> = inner
            .entries
            .iter()
            .filter(|(_, entry)| matches!(entry.place, Place::Aside(_)))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in &aside {
            inner.release(uid);
        }
        drop(inner);
        if !aside.is_empty() {
            self.changed.notify_one();
        }
    }

    /// The next pod to try: the highest priority first, of equal ones the oldest. For one caller.
    pub async fn next(&self) -> Arc<PodInfo> {
        loop {
            let due = {
                let mut inner = self.inner.lock();
                let due = inner.promote(Instant::now());
                if let Some(pod) = inner.take() {
                    return pod;
                }
                due
            };
            let timer = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = timer => {}
            }
        }
    }

    /// A pod that was taken cannot be placed. `hopeless` says that only an event can help; else it is tried
    /// again after its backoff.
    pub fn give_back(&self, uid: &str, hopeless: bool) {
        let mut inner = self.inner.lock();
        let events = inner.events;
        let Some(entry) = inner.entries.get_mut(uid) else {
            return;
        };
        let Place::Taken(since) = entry.place else { return };
        entry.attempts = entry.attempts.saturating_add(1);
        let doublings = entry.attempts.saturating_sub(1).min(10);
        let now = Instant::now();
        entry.not_before = now + BACKOFF_FIRST.saturating_mul(1 << doublings).min(BACKOFF_MAX);
        // What happened while it was being tried may have helped.
        let quiet = since == events;
        entry.place = if hopeless && quiet {
            Place::Aside(now)
        } else {
            Place::Waiting(entry.not_before)
        };
        drop(inner);
        self.changed.notify_one();
    }
}

impl Inner {
    fn activate(&mut self, uid: &str) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.place = Place::Active;
            self.active
                .insert((Reverse(entry.pod.priority()), entry.order), uid.to_owned());
        }
    }

    /// Out of the put-aside: at once, or after the rest of its backoff.
    fn release(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid) else {
            return;
        };
        if entry.not_before <= Instant::now() {
            self.activate(uid);
        } else {
            entry.place = Place::Waiting(entry.not_before);
        }
    }

    /// Activates what is due; tells when the next one is.
    fn promote(&mut self, now: Instant) -> Option<Instant> {
        let mut due = Vec::new();
        let mut next: Option<Instant> = None;
        for (uid, entry) in &self.entries {
            let at = match entry.place {
                Place::Waiting(at) => at,
                Place::Aside(since) => since + PUT_ASIDE_MAX,
                Place::Active | Place::Taken(_) => continue,
            };
            if at <= now {
                due.push(uid.clone());
            } else {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        for uid in due {
            self.activate(&uid);
        }
        next
    }

    fn take(&mut self) -> Option<Arc<PodInfo>> {
        let (_, uid) = self.active.pop_first()?;
        let events = self.events;
        let entry = self.entries.get_mut(&uid)?;
        entry.place = Place::Taken(events);
        Some(entry.pod.clone())
    }
}

/// Did anything change but the status?
fn differs(a: &PodInfo, b: &PodInfo) -> bool {
    let (a, b) = (&a.pod, &b.pod);
    a.spec != b.spec
        || a.metadata.labels != b.metadata.labels
        || a.metadata.annotations != b.metadata.annotations
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, priority: i32) -> Arc<PodInfo> {
        let value =
            json!({"metadata": {"name": uid, "uid": uid}, "spec": {"containers": [], "priority": priority}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(value).unwrap())))
    }

    async fn soon(queue: &Queue) -> Option<String> {
        let next = tokio::time::timeout(Duration::from_millis(20), queue.next()).await;
        next.ok().map(|pod| pod.uid().to_owned())
    }

    #[tokio::test]
    async fn order_and_events() {
        let queue = Queue::default();
        queue.upsert(pod("low", 0));
        queue.upsert(pod("high", 9));
        queue.upsert(pod("later", 0));
        assert_eq!(soon(&queue).await.as_deref(), Some("high"));
        assert_eq!(soon(&queue).await.as_deref(), Some("low"));
        assert_eq!(soon(&queue).await.as_deref(), Some("later"));
        queue.give_back("low", true);
        assert_eq!(soon(&queue).await, None);
        // An event helps, but only after the backoff.
        queue.stir();
        assert_eq!(soon(&queue).await, None);
        tokio::time::sleep(Duration::from_millis(1000)).await;
        assert_eq!(soon(&queue).await.as_deref(), Some("low"));
        // An event during the attempt counts, too.
        queue.stir();
        queue.give_back("low", true);
        assert!(matches!(
            queue.inner.lock().entries["low"].place,
            Place::Waiting(_)
        ));
        queue.remove("low");
        assert_eq!(soon(&queue).await, None);
    }

    #[tokio::test]
    async fn a_status_change_is_no_reason_to_try_again() {
        let queue = Queue::default();
        queue.upsert(pod("a", 0));
        assert!(soon(&queue).await.is_some());
        queue.give_back("a", true);
        queue.upsert(pod("a", 0));
        assert!(matches!(queue.inner.lock().entries["a"].place, Place::Aside(_)));
        queue.upsert(pod("a", 1));
        assert!(matches!(queue.inner.lock().entries["a"].place, Place::Waiting(_)));
    }
}
