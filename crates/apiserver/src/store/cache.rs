//! The watch cache of one resource: its objects, and its latest changes.
//!
//! A watcher keeps the sequence number of the next change that it wants and takes batches from here, so a slow
//! watcher costs no memory: it falls out of the window and has to list again.

use super::Object;
use bytes::Bytes;
use parking_lot::RwLock;
use schema::Resource;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::watch;

/// Changes kept for watches that come back; more than what a busy resource sees during a reconnection.
const WINDOW_EVENTS: usize = 2048;
/// The same, by the size of the objects that only the window keeps.
const WINDOW_BYTES: usize = 4 << 20;
/// Even large objects leave so many changes.
const WINDOW_MIN_EVENTS: usize = 64;

/// What sending to one watch costs: TLS, a system call, waking its reader.
const COST_PER_WATCH: Duration = Duration::from_micros(20);
/// Longest pause that a watch makes between two pieces; well below what a person or a controller notices.
const MAX_PAUSE: Duration = Duration::from_millis(20);
/// Shorter pauses than the timer's resolution are none.
const MIN_PAUSE: Duration = Duration::from_millis(2);

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It is new.
    Added,
    /// It was changed.
    Modified,
    /// It was deleted.
    Deleted,
}

/// Forms of an event that are made for the first watch that wants them and shared by all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The object in protobuf.
    Protobuf,
    /// Its metadata in JSON.
    Metadata,
    /// Its metadata in protobuf.
    MetadataProtobuf,
}

/// One change.
#[derive(Debug)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The object after it; of a deletion, the last state with the revision of the deletion.
    pub object: Arc<Object>,
    /// The object before it.
    pub previous: Option<Arc<Object>>,
    frames: [OnceLock<Bytes>; 3],
}

impl Event {
    fn new(kind: EventKind, object: Arc<Object>, previous: Option<Arc<Object>>) -> Self {
        Self {
            kind,
            object,
            previous,
            frames: Default::default(),
        }
    }

    /// The event in a form, which `make` makes the first time.
    pub fn frame(&self, form: Form, make: impl FnOnce() -> Bytes) -> &Bytes {
        self.frames[form as usize].get_or_init(make)
    }
}

#[derive(Default)]
struct Inner {
    objects: BTreeMap<Box<str>, Arc<Object>>,
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Sequence number of the first event in the window.
    first_sequence: u64,
    /// Changes up to this revision are not in the window any more.
    forgotten: i64,
    /// Revision of the last change.
    last: i64,
}

/// The cache of one resource, in its storage version.
pub struct ResourceCache {
    /// The resource in the version that is stored.
    pub resource: &'static Resource,
    inner: RwLock<Inner>,
    /// The sequence number of the next event.
    next_sequence: watch::Sender<u64>,
}

/// Where a watch is in the window.
#[derive(Debug)]
pub struct Cursor {
    sequence: u64,
    wake: watch::Receiver<u64>,
}

/// The window does not hold what a watch needs.
#[derive(Debug, PartialEq, Eq)]
pub struct TooOld {
    /// The oldest revision that a watch can start from.
    pub oldest: i64,
}

impl ResourceCache {
    /// An empty cache.
    pub fn new(resource: &'static Resource) -> Self {
        Self {
            resource,
            inner: RwLock::default(),
            next_sequence: watch::Sender::new(0),
        }
    }

    /// One object by key.
    pub fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.inner.read().objects.get(key).cloned()
    }

    /// How many objects there are.
    pub fn count(&self) -> usize {
        self.inner.read().objects.len()
    }

    /// Revision of the last change.
    pub fn last_revision(&self) -> i64 {
        self.inner.read().last
    }

    /// All objects whose keys begin with `prefix`, and the revision of the last change of this resource.
    pub fn list(&self, prefix: &str) -> (Vec<Arc<Object>>, i64) {
        let inner = self.inner.read();
        (inner.below(prefix), inner.last)
    }

    /// Objects below `prefix` together with a cursor for every change after them.
    pub fn list_and_watch(&self, prefix: &str) -> (Vec<Arc<Object>>, i64, Cursor) {
        let inner = self.inner.read();
        let sequence = inner.first_sequence + inner.events.len() as u64;
        (
            inner.below(prefix),
            inner.last,
            Cursor {
                sequence,
                wake: self.next_sequence.subscribe(),
            },
        )
    }

    /// A cursor for every change after `revision`.
    pub fn watch_from(&self, revision: i64) -> Result<Cursor, TooOld> {
        let inner = self.inner.read();
        if revision < inner.forgotten {
            return Err(TooOld {
                oldest: inner.forgotten,
            });
        }
        let skip = inner
            .events
            .partition_point(|event| event.object.revision <= revision);
        let sequence = inner.first_sequence + skip as u64;
        Ok(Cursor {
            sequence,
            wake: self.next_sequence.subscribe(),
        })
    }

    /// Applies a change; `object` is `None` for a deletion.
    pub(super) fn apply(&self, key: &str, object: Option<Arc<Object>>, revision: i64) {
        let mut inner = self.inner.write();
        inner.last = inner.last.max(revision);
        let event = match object {
            Some(object) => {
                let previous = inner.objects.insert(key.into(), object.clone());
                let kind = if previous.is_some() {
                    EventKind::Modified
                } else {
                    EventKind::Added
                };
                Event::new(kind, object, previous)
            }
            None => {
                let Some(previous) = inner.objects.remove(key) else {
                    return;
                };
                let object = Arc::new(previous.at_revision(revision));
                Event::new(EventKind::Deleted, object, Some(previous))
            }
        };
        inner.push(Arc::new(event));
        let next = inner.first_sequence + inner.events.len() as u64;
        drop(inner);
        self.next_sequence.send_replace(next);
    }

    /// Starts anew with these objects, as of `revision`. Watches that go on have to list again.
    pub(super) fn reset(&self, objects: BTreeMap<Box<str>, Arc<Object>>, revision: i64) {
        let mut inner = self.inner.write();
        inner.objects = objects;
        // One number further than any cursor, so that all of them are behind the window.
        inner.first_sequence += inner.events.len() as u64 + 1;
        inner.events.clear();
        inner.bytes = 0;
        inner.forgotten = revision;
        inner.last = revision;
        let next = inner.first_sequence;
        drop(inner);
        self.next_sequence.send_replace(next);
    }

    /// How long a watch waits after it has sent something, so that a busy resource with many watches sends a few
    /// events at once to each instead of every event by itself.
    pub fn pause(&self) -> Duration {
        let watches = u32::try_from(self.next_sequence.receiver_count()).unwrap_or(u32::MAX);
        let pause = COST_PER_WATCH.saturating_mul(watches).min(MAX_PAUSE);
        if pause < MIN_PAUSE { Duration::ZERO } else { pause }
    }

    /// Takes up to `limit` changes at the cursor and moves it on. An empty batch means that there is nothing new.
    pub fn take(&self, cursor: &mut Cursor, limit: usize) -> Result<Vec<Arc<Event>>, TooOld> {
        let inner = self.inner.read();
        let skip = cursor.sequence.checked_sub(inner.first_sequence).ok_or(TooOld {
            oldest: inner.forgotten,
        })?;
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let batch: Vec<_> = inner.events.iter().skip(skip).take(limit).cloned().collect();
        cursor.sequence += batch.len() as u64;
        Ok(batch)
    }
}

impl Cursor {
    /// Waits until there may be something at the cursor. False when the cache is gone.
    pub async fn changed(&mut self) -> bool {
        let sequence = self.sequence;
        self.wake.wait_for(|next| *next > sequence).await.is_ok()
    }
}

impl Inner {
    fn below(&self, prefix: &str) -> Vec<Arc<Object>> {
        let range = (Bound::Included(prefix), Bound::<&str>::Unbounded);
        let objects = self.objects.range::<str, _>(range);
        objects
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, object)| object.clone())
            .collect()
    }

    fn push(&mut self, event: Arc<Event>) {
        self.bytes += event.object.bytes.len();
        self.events.push_back(event);
        let full = |inner: &Self| {
            inner.events.len() > WINDOW_EVENTS
                || (inner.bytes > WINDOW_BYTES && inner.events.len() > WINDOW_MIN_EVENTS)
        };
        while full(self) {
            let Some(old) = self.events.pop_front() else { break };
            self.first_sequence += 1;
            self.forgotten = old.object.revision;
            self.bytes -= old.object.bytes.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cache() -> ResourceCache {
        ResourceCache::new(schema::registry().find("", "v1", "configmaps").unwrap())
    }

    fn put(cache: &ResourceCache, name: &str, revision: i64) {
        let key = format!("/registry/configmaps/a/{name}");
        let value = json!({"metadata": {"name": name, "namespace": "a"}});
        let object = Object::from_value(cache.resource, &key, value, revision);
        cache.apply(&key, Some(object), revision);
    }

    #[test]
    fn a_watch_sees_every_change_once() {
        let cache = cache();
        put(&cache, "x", 5);
        let mut cursor = cache.watch_from(5).unwrap();
        assert!(cache.take(&mut cursor, 10).unwrap().is_empty());
        put(&cache, "x", 6);
        cache.apply("/registry/configmaps/a/x", None, 7);
        let kinds: Vec<_> = cache
            .take(&mut cursor, 10)
            .unwrap()
            .iter()
            .map(|e| (e.kind, e.object.revision))
            .collect();
        assert_eq!(kinds, [(EventKind::Modified, 6), (EventKind::Deleted, 7)]);
        assert_eq!(cache.count(), 0);
    }

    #[test]
    fn the_window_is_bounded_and_says_so() {
        let cache = cache();
        let mut slow = cache.watch_from(0).unwrap();
        for revision in 1..=(WINDOW_EVENTS as i64 + 10) {
            put(&cache, "x", revision);
        }
        assert_eq!(cache.take(&mut slow, 1).unwrap_err(), TooOld { oldest: 10 });
        assert!(cache.watch_from(9).is_err());
        let mut resumed = cache.watch_from(10).unwrap();
        assert_eq!(cache.take(&mut resumed, 1).unwrap()[0].object.revision, 11);
    }

    #[test]
    fn only_many_watches_pause() {
        let cache = cache();
        let mut cursors = vec![cache.watch_from(0).unwrap()];
        assert_eq!(cache.pause(), Duration::ZERO);
        cursors.extend((0..2000).map(|_| cache.watch_from(0).unwrap()));
        assert_eq!(cache.pause(), MAX_PAUSE);
        drop(cursors);
        assert_eq!(cache.pause(), Duration::ZERO);
    }

    #[test]
    fn a_frame_is_made_once() {
        let cache = cache();
        let mut cursor = cache.watch_from(0).unwrap();
        put(&cache, "x", 5);
        let event = cache.take(&mut cursor, 1).unwrap().remove(0);
        let first = event.frame(Form::Protobuf, || Bytes::from_static(b"a")).clone();
        assert_eq!(event.frame(Form::Protobuf, || unreachable!()), &first);
        assert_eq!(
            event.frame(Form::Metadata, || Bytes::from_static(b"b")).as_ref(),
            b"b"
        );
    }

    #[test]
    fn a_reset_ends_watches() {
        let cache = cache();
        put(&cache, "x", 5);
        let mut cursor = cache.watch_from(5).unwrap();
        cache.reset(BTreeMap::new(), 9);
        assert!(cache.take(&mut cursor, 1).is_err());
        assert!(cache.watch_from(9).is_ok());
    }
}
