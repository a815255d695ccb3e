//! Events (core/v1) about objects, as `kubectl describe` shows them. Repeats are counted on one Event object
//! instead of making new ones, and one object cannot flood the store: both as upstream's recorder does.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Events that wait to be written. More are dropped: an Event is a hint, never worth blocking for.
const QUEUE_EVENTS: usize = 256;
/// Remembered Events, for counting repeats.
const REMEMBERED_EVENTS: usize = 1024;
/// Events one object may cause in a burst, and the pause that earns it one more (upstream's numbers).
const BURST_EVENTS: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);
/// Attempts to write one Event while the server is away, and the pause between them.
const ATTEMPTS: u32 = 5;
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// Writes Events in the background. Cheap to clone; the writer ends with the last clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Note>,
}

/// A [`Recorder`] that speaks for another component of the same process.
#[derive(Clone, Copy)]
pub struct Speaker<'a> {
    recorder: &'a Recorder,
    component: &'static str,
}

impl Speaker<'_> {
    /// As [`Recorder::event`].
    pub fn event(
        &self,
        object: &ObjectReference,
        kind: &'static str,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.recorder
            .send(Some(self.component), object, kind, reason.into(), message.into());
    }
}

#[derive(Debug)]
struct Note {
    component: Option<&'static str>,
    object: ObjectReference,
    kind: &'static str,
    reason: String,
    message: String,
    at: Timestamp,
}

impl Recorder {
    /// A recorder for one component on one host (a node's name for a kubelet, the candidate's name else).
    /// Must be called within a tokio runtime.
    pub fn new(client: kube::Client, component: impl Into<String>, host: impl Into<String>) -> Self {
        let (queue, receiver) = mpsc::channel(QUEUE_EVENTS);
        let writer = Writer {
            client,
            component: component.into(),
            host: host.into(),
            memory: Memory::default(),
        };
        tokio::spawn(writer.run(receiver));
        Self { queue }
    }

    /// Records that something happened to `object`. `kind` is `Normal` or `Warning`. Never blocks; the Event
    /// is dropped when too many wait.
    pub fn event(
        &self,
        object: &ObjectReference,
        kind: &'static str,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.send(None, object, kind, reason.into(), message.into());
    }

    /// The same recorder, speaking for another component: the name that `kubectl describe` shows.
    pub fn of(&self, component: &'static str) -> Speaker<'_> {
        Speaker {
            recorder: self,
            component,
        }
    }

    fn send(
        &self,
        component: Option<&'static str>,
        object: &ObjectReference,
        kind: &'static str,
        reason: String,
        message: String,
    ) {
        let note = Note {
            component,
            object: object.clone(),
            kind,
            reason,
            message,
            at: Timestamp::now(),
        };
        if let Err(error) = self.queue.try_send(note) {
            tracing::debug!(%error, "event dropped");
        }
    }
}

/// What makes two Events the same one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Identity {
    namespace: String,
    name: String,
    uid: String,
    object_kind: String,
    field_path: String,
    reason: String,
    message: String,
}

impl Identity {
    fn of(note: &Note) -> Self {
        let text = |s: &Option<String>| s.clone().unwrap_or_default();
        Self {
            namespace: text(&note.object.namespace),
            name: text(&note.object.name),
            uid: text(&note.object.uid),
            object_kind: text(&note.object.kind),
            field_path: text(&note.object.field_path),
            reason: note.reason.clone(),
            message: note.message.clone(),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Written {
    name: String,
    count: i32,
}

struct Bucket {
    tokens: f64,
    at: Instant,
}

/// What was written lately, bounded by [`REMEMBERED_EVENTS`].
#[derive(Default)]
struct Memory {
    written: HashMap<Identity, Written>,
    order: VecDeque<Identity>,
    buckets: HashMap<(String, String), Bucket>,
}

impl Memory {
    fn remember(&mut self, identity: Identity, written: Written) {
        if self.written.insert(identity.clone(), written).is_none() {
            self.order.push_back(identity);
        }
        while self.order.len() > REMEMBERED_EVENTS {
            if let Some(oldest) = self.order.pop_front() {
                self.written.remove(&oldest);
            }
        }
    }

    /// Takes one token of the object's bucket; false when it has caused too many Events.
    fn allow(&mut self, note: &Note, now: Instant) -> bool {
        let key = (
            note.object
                .uid
                .clone()
                .or_else(|| note.object.name.clone())
                .unwrap_or_default(),
            note.object.kind.clone().unwrap_or_default(),
        );
        if self.buckets.len() >= REMEMBERED_EVENTS && !self.buckets.contains_key(&key) {
            self.buckets
                .retain(|_, bucket| now.duration_since(bucket.at) < REFILL);
            if self.buckets.len() >= REMEMBERED_EVENTS {
                self.buckets.clear();
            }
        }
        let bucket = self.buckets.entry(key).or_insert(Bucket {
            tokens: BURST_EVENTS,
            at: now,
        });
        let earned = now.duration_since(bucket.at).as_secs_f64() / REFILL.as_secs_f64();
        bucket.tokens = (bucket.tokens + earned).min(BURST_EVENTS);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

struct Writer {
    client: kube::Client,
    component: String,
    host: String,
    memory: Memory,
}

impl Writer {
    async fn run(mut self, mut notes: mpsc::Receiver<Note>) {
        while let Some(note) = notes.recv().await {
            if !self.memory.allow(&note, Instant::now()) {
                tracing::debug!(reason = note.reason, "event held back: too many for one object");
                continue;
            }
            for _ in 0..ATTEMPTS {
                match self.write(&note).await {
                    Ok(()) => break,
                    // The server's own answer will not change by asking again.
                    Err(error @ kube::Error::Api(_)) => {
                        tracing::debug!(%error, "event refused");
                        break;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "event not written yet");
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                }
            }
        }
    }

    async fn write(&mut self, note: &Note) -> kube::Result<()> {
        let namespace = note.object.namespace.clone().unwrap_or_else(|| "default".into());
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let identity = Identity::of(note);
        if let Some(known) = self.memory.written.get(&identity).cloned() {
            let count = known.count.saturating_add(1);
            let patch = serde_json::json!({"count": count, "lastTimestamp": Time(note.at)});
            match api
                .patch(&known.name, &PatchParams::default(), &Patch::Merge(patch))
                .await
            {
                Ok(_) => {
                    self.memory.remember(
                        identity,
                        Written {
                            name: known.name,
                            count,
                        },
                    );
                    return Ok(());
                }
                // Expired on the server: it is written anew below.
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let event = self.new_event(note, namespace);
        let name = event.metadata.name.clone().unwrap_or_default();
        api.create(&PostParams::default(), &event).await?;
        self.memory.remember(identity, Written { name, count: 1 });
        Ok(())
    }

    fn new_event(&self, note: &Note, namespace: String) -> Event {
        let object = note.object.name.clone().unwrap_or_default();
        let component = note
            .component
            .map_or_else(|| self.component.clone(), str::to_owned);
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{object}.{:x}", note.at.as_nanosecond())),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: note.object.clone(),
            type_: Some(note.kind.into()),
            reason: Some(note.reason.clone()),
            message: Some(note.message.clone()),
            count: Some(1),
            first_timestamp: Some(Time(note.at)),
            last_timestamp: Some(Time(note.at)),
            source: Some(EventSource {
                component: Some(component.clone()),
                host: Some(self.host.clone()),
            }),
            reporting_component: Some(component),
            reporting_instance: Some(self.host.clone()),
            ..Event::default()
        }
    }
}

/// The reference by which Events and others name a typed object.
pub fn reference<K: kube::Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &str) -> Note {
        Note {
            component: None,
            object: ObjectReference {
                name: Some(name.into()),
                ..ObjectReference::default()
            },
            kind: "Normal",
            reason: "Tested".into(),
            message: "tested".into(),
            at: Timestamp::now(),
        }
    }

    #[test]
    fn memory_is_bounded_and_forgets_the_oldest() {
        let mut memory = Memory::default();
        for i in 0..REMEMBERED_EVENTS + 10 {
            memory.remember(
                Identity::of(&note(&i.to_string())),
                Written {
                    name: "e".into(),
                    count: 1,
                },
            );
        }
        assert_eq!(memory.written.len(), REMEMBERED_EVENTS);
        assert_eq!(memory.order.len(), REMEMBERED_EVENTS);
        assert!(!memory.written.contains_key(&Identity::of(&note("0"))));
    }

    #[test]
    fn one_object_cannot_flood_but_others_still_speak() {
        let mut memory = Memory::default();
        let start = Instant::now();
        let allowed = (0..100).filter(|_| memory.allow(&note("a"), start)).count();
        assert_eq!(allowed, 25);
        assert!(memory.allow(&note("b"), start));
        assert!(memory.allow(&note("a"), start + REFILL));
        assert!(!memory.allow(&note("a"), start + REFILL));
    }
}
