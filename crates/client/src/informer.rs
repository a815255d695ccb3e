//! A cache of one kind of object that follows the server by list and watch, and tells handlers what changed,
//! with the old object. One informer serves all users of a kind in a process.
//!
//! What a user has just written it can put into the cache itself ([`Informer::observe`],
//! [`Informer::forget`]), so that its next decision does not rest on an older view: the watch never takes the
//! cache back to an older version of an object. (Resource versions are comparable numbers: KEP-5504.)

use futures::StreamExt;
use kube::Resource;
use kube::api::Api;
use kube::runtime::watcher::{self, Event};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Pause after a failed list or watch: the first one, and the longest. Short, since after a failure of the
/// server everything waits for this.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(3);

/// Objects remembered as gone. The answer to a write may come after the watch has shown the end of the same object,
/// by moments; it must not bring the object back.
const BURIED: usize = 1024;

/// Namespace (empty for cluster-scoped objects) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Key {
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Name within the namespace.
    pub name: String,
}

impl Key {
    /// The key of a name within a namespace.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The key of an object.
    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// What happened to one object. An update of an object that was deleted and made again in between shows as
/// deletion and addition.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a, K> {
    /// Seen for the first time.
    Added(&'a Arc<K>),
    /// Changed from the first to the second.
    Updated(&'a Arc<K>, &'a Arc<K>),
    /// Gone; the last known state.
    Deleted(&'a Arc<K>),
}

impl<'a, K> Change<'a, K> {
    /// The newest known state.
    pub fn object(&self) -> &'a Arc<K> {
        match self {
            Self::Added(object) | Self::Updated(_, object) | Self::Deleted(object) => object,
        }
    }

    /// The state before, if there was one.
    pub fn old(&self) -> Option<&'a Arc<K>> {
        match self {
            Self::Added(_) => None,
            Self::Updated(old, _) | Self::Deleted(old) => Some(old),
        }
    }

    /// The state now, unless the object is gone.
    pub fn current(&self) -> Option<&'a Arc<K>> {
        match self {
            Self::Added(object) | Self::Updated(_, object) => Some(object),
            Self::Deleted(_) => None,
        }
    }
}

type Handler<K> = Box<dyn Fn(&Change<'_, K>) + Send + Sync>;

struct Cache<K> {
    objects: BTreeMap<Key, Arc<K>>,
    /// Objects that we deleted ourselves and whose deletion the watch has not shown yet: uid by key.
    forgotten: HashMap<Key, String>,
    /// UIDs of objects whose deletion was seen, the oldest first.
    buried: VecDeque<String>,
}

impl<K> Cache<K> {
    fn bury(&mut self, uid: Option<&String>) {
        self.buried.extend(uid.cloned());
        if self.buried.len() > BURIED {
            self.buried.pop_front();
        }
    }

    fn is_buried(&self, uid: Option<&String>) -> bool {
        // From the end: what is asked for went just now, if at all.
        uid.is_some_and(|uid| self.buried.iter().rev().any(|b| b == uid))
    }
}

struct Inner<K> {
    cache: RwLock<Cache<K>>,
    handlers: RwLock<Vec<Handler<K>>>,
    /// Held from a change of the cache until all handlers know of it, so that they see changes in order.
    order: Mutex<()>,
    synced: watch::Sender<bool>,
}

/// The cache; clones share it.
pub struct Informer<K>(Arc<Inner<K>>);

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K> Default for Informer<K> {
    fn default() -> Self {
        Self(Arc::new(Inner {
            cache: RwLock::new(Cache {
                objects: BTreeMap::new(),
                forgotten: HashMap::new(),
                buried: VecDeque::new(),
            }),
            handlers: RwLock::new(Vec::new()),
            order: Mutex::new(()),
            synced: watch::Sender::new(false),
        }))
    }
}

impl<K: Resource + 'static> Informer<K> {
    /// An empty cache; nothing happens until [`Informer::run`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls `handler` after each change, in order. It must be quick and must not block, nor write into this
    /// cache: put a key into a [`crate::Queue`]. Register before running, or the first objects are missed.
    pub fn on_change(&self, handler: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        self.0.handlers.write().push(Box::new(handler));
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.by_key(&Key::new(namespace, name))
    }

    /// One object by its key.
    pub fn by_key(&self, key: &Key) -> Option<Arc<K>> {
        self.0.cache.read().objects.get(key).cloned()
    }

    /// All objects, ordered by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.0.cache.read().objects.values().cloned().collect()
    }

    /// The objects of one namespace, ordered by name.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        self.select_in(namespace, |_| true)
    }

    /// The objects of one namespace that pass a filter.
    pub fn select_in(&self, namespace: &str, filter: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        let cache = self.0.cache.read();
        cache
            .objects
            .range(Key::new(namespace, "")..)
            .take_while(|(key, _)| key.namespace == namespace)
            .filter(|(_, object)| filter(object))
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// The objects of all namespaces that pass a filter.
    pub fn select(&self, filter: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        let cache = self.0.cache.read();
        cache
            .objects
            .values()
            .filter(|object| filter(object))
            .cloned()
            .collect()
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.0.cache.read().objects.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits for the first complete list.
    pub async fn synced(&self) {
        // The sender lives in self, so this cannot fail.
        let _ = self.0.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// True after the first complete list.
    pub fn is_synced(&self) -> bool {
        *self.0.synced.borrow()
    }

    /// Takes over what the server answered to a write. Ignored when the cache is newer already, also when it has
    /// seen the object go.
    pub fn observe(&self, object: K) {
        self.apply(object, true);
    }

    /// Takes over that the object is gone, before the watch says so. Older news about it are ignored until then.
    pub fn forget(&self, object: &K) {
        let key = Key::of(object);
        let _order = self.0.order.lock();
        let removed = {
            let mut cache = self.0.cache.write();
            if cache
                .objects
                .get(&key)
                .is_some_and(|known| known.meta().uid != object.meta().uid)
            {
                return;
            }
            let uid = object.meta().uid.clone().unwrap_or_default();
            let removed = cache.objects.remove(&key);
            // Unknown to the cache: the watch may have shown the deletion already, or not yet the creation.
            if removed.is_some() {
                cache.forgotten.insert(key, uid);
            }
            removed
        };
        if let Some(old) = removed {
            self.notify(&Change::Deleted(&old));
        }
    }

    fn notify(&self, change: &Change<'_, K>) {
        for handler in self.0.handlers.read().iter() {
            handler(change);
        }
    }

    /// `answer`: not from the watch, which never speaks of an object again after its deletion.
    fn apply(&self, mut object: K, answer: bool) {
        object.meta_mut().managed_fields = None;
        let key = Key::of(&object);
        let object = Arc::new(object);
        let _order = self.0.order.lock();
        let old = {
            let mut cache = self.0.cache.write();
            if answer && cache.is_buried(object.meta().uid.as_ref()) {
                return;
            }
            let forgotten = cache.forgotten.get(&key);
            if forgotten.is_some() && forgotten == object.meta().uid.as_ref() {
                return;
            }
            match cache.objects.get(&key) {
                Some(known) if !newer(&**known, &*object) => return,
                _ => cache.objects.insert(key, object.clone()),
            }
        };
        match old {
            None => self.notify(&Change::Added(&object)),
            Some(old) if old.meta().uid != object.meta().uid => {
                self.notify(&Change::Deleted(&old));
                self.notify(&Change::Added(&object));
            }
            Some(old) => self.notify(&Change::Updated(&old, &object)),
        }
    }

    fn remove(&self, object: &K) {
        let key = Key::of(object);
        let _order = self.0.order.lock();
        let removed = {
            let mut cache = self.0.cache.write();
            if cache.forgotten.get(&key) == object.meta().uid.as_ref() {
                cache.forgotten.remove(&key);
            }
            cache.bury(object.meta().uid.as_ref());
            match cache.objects.get(&key) {
                Some(known) if known.meta().uid == object.meta().uid => cache.objects.remove(&key),
                _ => None,
            }
        };
        if let Some(old) = removed {
            self.notify(&Change::Deleted(&old));
        }
    }

    /// Replaces everything by a complete list.
    fn replace_all(&self, listed: Vec<K>) {
        let mut gone = self.0.cache.read().objects.clone();
        for object in &listed {
            gone.remove(&Key::of(object));
        }
        self.0.cache.write().forgotten.clear();
        for old in gone.into_values() {
            self.remove(&old);
        }
        for object in listed {
            self.apply(object, false);
        }
        self.0.synced.send_replace(true);
    }

    async fn follow(&self, events: impl futures::Stream<Item = watcher::Result<Event<K>>>) {
        let mut events = pin!(events);
        let mut listing = Vec::new();
        let mut pause = RETRY_FIRST;
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => event,
                Err(error) => {
                    tracing::debug!(kind = std::any::type_name::<K>(), %error, "list or watch interrupted");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                    if expired(&error) {
                        return;
                    }
                    continue;
                }
            };
            match event {
                Event::Init => listing = Vec::new(),
                Event::InitApply(mut object) => {
                    object.meta_mut().managed_fields = None;
                    listing.push(object);
                }
                Event::InitDone => {
                    pause = RETRY_FIRST;
                    self.replace_all(std::mem::take(&mut listing));
                }
                Event::Apply(object) => {
                    pause = RETRY_FIRST;
                    self.apply(object, false);
                }
                Event::Delete(object) => {
                    pause = RETRY_FIRST;
                    self.remove(&object);
                }
            }
        }
    }
}

impl<K> Informer<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// Lists and watches for ever; survives outages of the server. For an `Api<PartialObjectMeta<K>>` only
    /// metadata is transferred and kept.
    pub async fn run(&self, api: Api<K>, config: watcher::Config) {
        loop {
            // kube's watcher would go on asking for a version that the server has forgotten: it lists anew.
            self.follow(watcher::watcher(api.clone(), config.clone())).await;
        }
    }
}

/// Whether the server has forgotten the version from which the watch was to go on, after a restart for example.
pub fn expired(error: &watcher::Error) -> bool {
    const GONE: u16 = 410;
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status.code == GONE,
        _ => false,
    }
}

/// Is `new` a newer state than `known` of the same object, or another object of the same name?
fn newer<K: Resource>(known: &K, new: &K) -> bool {
    let version = |object: &K| {
        object
            .meta()
            .resource_version
            .as_ref()
            .and_then(|v| v.parse::<u64>().ok())
    };
    match (version(known), version(new)) {
        (Some(known), Some(new)) => new > known,
        // A server whose versions are no numbers: then the order of arrival decides.
        _ => known.meta().resource_version != new.meta().resource_version,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::core::ObjectMeta;
    use parking_lot::Mutex;

    fn object(name: &str, uid: &str, version: u64) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("ns".into()),
                uid: Some(uid.into()),
                resource_version: Some(version.to_string()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        }
    }

    fn recorded() -> (Informer<ConfigMap>, Arc<Mutex<Vec<String>>>) {
        let informer = Informer::new();
        let log = Arc::new(Mutex::new(Vec::new()));
        let seen = log.clone();
        informer.on_change(move |change: &Change<'_, ConfigMap>| {
            let text = |o: &ConfigMap| {
                let meta = &o.metadata;
                format!(
                    "{}@{}",
                    meta.name.as_deref().unwrap(),
                    meta.resource_version.as_deref().unwrap()
                )
            };
            seen.lock().push(match change {
                Change::Added(o) => format!("+{}", text(o)),
                Change::Updated(a, b) => format!("{}>{}", text(a), text(b)),
                Change::Deleted(o) => format!("-{}", text(o)),
            });
        });
        (informer, log)
    }

    #[test]
    fn own_writes_are_not_undone_by_older_news() {
        let (informer, log) = recorded();
        informer.observe(object("a", "1", 5));
        informer.apply(object("a", "1", 4), false);
        informer.apply(object("a", "1", 5), false);
        informer.apply(object("a", "1", 6), false);
        assert_eq!(*log.lock(), ["+a@5", "a@5>a@6"]);
    }

    #[test]
    fn a_forgotten_object_stays_away_until_its_deletion_is_seen() {
        let (informer, log) = recorded();
        informer.apply(object("a", "1", 5), false);
        informer.forget(&object("a", "1", 5));
        informer.apply(object("a", "1", 6), false);
        assert!(informer.get("ns", "a").is_none());
        // Another object under the same name is not affected.
        informer.apply(object("a", "2", 8), false);
        informer.remove(&object("a", "1", 7));
        assert!(informer.get("ns", "a").is_some());
        assert_eq!(*log.lock(), ["+a@5", "-a@5", "+a@8"]);
    }

    #[test]
    fn a_late_answer_does_not_bring_an_object_back() {
        let (informer, log) = recorded();
        informer.apply(object("a", "1", 5), false);
        informer.remove(&object("a", "1", 7));
        // The answer to the deletion that made it go.
        informer.observe(object("a", "1", 6));
        assert!(informer.get("ns", "a").is_none());
        // One that came and went before the answer to its creation.
        informer.remove(&object("b", "2", 9));
        informer.observe(object("b", "2", 8));
        assert!(informer.is_empty());
        informer.observe(object("a", "3", 10));
        assert_eq!(*log.lock(), ["+a@5", "-a@5", "+a@10"]);
    }

    #[test]
    fn a_new_list_removes_what_is_gone_and_tells() {
        let (informer, log) = recorded();
        informer.apply(object("a", "1", 1), false);
        informer.apply(object("b", "2", 2), false);
        informer.replace_all(vec![object("b", "3", 9), object("c", "4", 8)]);
        assert!(informer.is_synced());
        assert_eq!(*log.lock(), ["+a@1", "+b@2", "-a@1", "-b@2", "+b@9", "+c@8"]);
    }

    #[tokio::test]
    async fn a_forgotten_version_ends_the_stream_for_a_new_list() {
        let (informer, log) = recorded();
        let gone = kube::core::Status::failure("too old resource version", "Expired").with_code(410);
        let events = futures::stream::iter([
            Ok(Event::Init),
            Ok(Event::InitApply(object("a", "1", 1))),
            Ok(Event::InitDone),
            Err(watcher::Error::WatchStartFailed(kube::Error::Api(gone.boxed()))),
            Ok(Event::Apply(object("a", "1", 2))),
        ]);
        informer.follow(events).await;
        assert_eq!(*log.lock(), ["+a@1"]);
    }

    #[test]
    fn listing_a_namespace_takes_only_that_namespace() {
        let informer: Informer<ConfigMap> = Informer::new();
        for ns in ["m", "n", "na"] {
            let mut o = object("x", ns, 1);
            o.metadata.namespace = Some(ns.into());
            informer.apply(o, false);
        }
        assert_eq!(informer.list_in("n").len(), 1);
        assert_eq!(informer.list().len(), 3);
    }
}
