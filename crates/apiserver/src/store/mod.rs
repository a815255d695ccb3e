//! Objects in the state store and in the watch cache.
//!
//! Every object is kept as the JSON bytes that clients receive plus the few fields that selectors need. One watch
//! of the state store feeds the caches of all resources in revision order, so "the cache has reached revision R"
//! is one number for all of them.

pub mod cache;
pub mod cipher;
pub mod convert;
mod dynamic;
mod feed;
pub mod object;
mod read_index;
mod timer;
mod write;

pub use cache::{Event, EventKind, ResourceCache};
pub use convert::Version;
pub use object::Object;
pub use write::Replaced;

use crate::custom::Customs;
use crate::http::status::Status;
use arc_swap::ArcSwap;
use cipher::Cipher;
use schema::Resource;
use state::StateStore;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a read waits for the cache to reach the revision that it must see.
const CACHE_WAIT: Duration = Duration::from_secs(6);

/// The caches of all resources, and the state store under them.
pub struct Store {
    backend: Arc<dyn StateStore>,
    caches: ArcSwap<BTreeMap<&'static str, Arc<ResourceCache>>>,
    customs: Customs,
    /// Everything up to this revision is in the caches; 0 before the first synchronization.
    progress: watch::Sender<i64>,
    /// The newest revision known to exist.
    known: watch::Sender<i64>,
    read_index: read_index::ReadIndex,
    cipher: Option<Cipher>,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Whatever the cache holds.
    Any,
    /// Not older than this revision.
    NotOlderThan(i64),
    /// Not older than any write that was done before the read.
    Newest,
}

impl Store {
    /// Makes the caches of all built-in resources; they are empty until [`Store::run`] has filled them.
    pub fn new(backend: Arc<dyn StateStore>, cipher: Option<Cipher>) -> Arc<Self> {
        let mut caches: BTreeMap<&'static str, Arc<ResourceCache>> = BTreeMap::new();
        for resource in schema::registry().resources() {
            if !resource.is_stored() || !is_storage_version(resource) {
                continue;
            }
            let prefix: &'static str = resource.storage_prefix.as_ref();
            caches
                .entry(prefix)
                .or_insert_with(|| Arc::new(ResourceCache::new(resource)));
        }
        let read_index = read_index::ReadIndex::start(backend.clone());
        Arc::new(Self {
            backend,
            caches: ArcSwap::from_pointee(caches),
            customs: Customs::default(),
            progress: watch::Sender::new(0),
            known: watch::Sender::new(0),
            read_index,
            cipher,
        })
    }

    /// Follows the state store until the task is dropped.
    pub async fn run(self: Arc<Self>) {
        feed::run(&self).await;
    }

    /// The cache of a resource. Every stored resource has one.
    pub fn cache(&self, resource: &Resource) -> Result<Arc<ResourceCache>, Status> {
        self.caches
            .load()
            .get(resource.storage_prefix.as_ref())
            .cloned()
            .ok_or_else(Status::no_such_path)
    }

    /// The custom resources.
    pub fn customs(&self) -> &Customs {
        &self.customs
    }

    /// The resource whose objects are stored below a prefix.
    pub fn stored_resource(&self, prefix: &str) -> Option<&'static Resource> {
        self.caches.load().get(prefix).map(|cache| cache.resource)
    }

    /// The cache that a key of the state store belongs to.
    fn cache_of_key(&self, key: &str) -> Option<Arc<ResourceCache>> {
        let caches = self.caches.load();
        // "/registry/a/…" or, for a few, "/registry/a/b/…".
        let mut slashes = key.match_indices('/').map(|(at, _)| at).skip(2);
        let first = slashes.next()?;
        if let Some(cache) = caches.get(&key[..first]) {
            return Some(cache.clone());
        }
        caches.get(&key[..slashes.next()?]).cloned()
    }

    /// The state store itself.
    pub fn backend(&self) -> &Arc<dyn StateStore> {
        &self.backend
    }

    /// Whether the caches have been filled.
    pub fn is_synced(&self) -> bool {
        *self.progress.borrow() > 0
    }

    /// Whether the state store answered the last question.
    pub fn is_reachable(&self) -> bool {
        self.read_index.is_answered()
    }

    /// The revision that all caches have reached.
    pub fn revision(&self) -> i64 {
        *self.progress.borrow()
    }

    /// Tells that a revision exists, so that a watch which does not deliver it is replaced.
    pub fn expect(&self, revision: i64) {
        self.known.send_if_modified(|known| {
            let newer = revision > *known;
            if newer {
                *known = revision;
            }
            newer
        });
    }

    /// Waits until the caches are as fresh as asked. Returns a revision that they have reached.
    pub async fn fresh(&self, freshness: Freshness) -> Result<i64, Status> {
        let wanted = match freshness {
            Freshness::Any => 1,
            Freshness::NotOlderThan(revision) => revision,
            Freshness::Newest => self.read_index.get().await?,
        };
        let reached = *self.progress.borrow();
        if reached >= wanted {
            return Ok(reached);
        }
        // A revision that a client made up must not make the watch reconnect for ever.
        if freshness == Freshness::Newest {
            self.expect(wanted);
        }
        let mut progress = self.progress.subscribe();
        let reached = tokio::time::timeout(CACHE_WAIT, progress.wait_for(|at| *at >= wanted)).await;
        match reached {
            Ok(Ok(at)) => Ok(*at),
            Ok(Err(_)) => Err(Status::unavailable("the server is shutting down")),
            Err(_) => {
                let current = *self.progress.borrow();
                if current > 0 && matches!(freshness, Freshness::NotOlderThan(_)) {
                    let message = format!("Too large resource version: {wanted}, current: {current}");
                    let mut status = Status::timeout(message);
                    status.details.insert(
                        "causes".into(),
                        serde_json::json!([
                            {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
                        ]),
                    );
                    return Err(status);
                }
                Err(Status::unavailable(
                    "the cache has not reached the newest state in time",
                ))
            }
        }
    }

    /// An object, as fresh as asked.
    pub async fn get(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        freshness: Freshness,
    ) -> Result<Option<Arc<Object>>, Status> {
        self.fresh(freshness).await?;
        Ok(self.cached(resource, namespace, name))
    }

    /// An object as the cache has it.
    pub fn cached(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.cache(resource)
            .ok()?
            .get(&object::key(resource, namespace, name))
    }

    /// An object of a built-in resource as the cache has it. `None` too if there is no such resource.
    pub fn cached_by_name(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<Object>> {
        self.cached(builtin(group, plural)?, namespace, name)
    }

    /// All objects of a built-in resource, in one namespace or in all (empty), as the cache has them.
    pub fn cached_list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Object>> {
        let Some(resource) = builtin(group, plural) else {
            return Vec::new();
        };
        let Ok(cache) = self.cache(resource) else {
            return Vec::new();
        };
        cache.list(&object::list_prefix(resource, namespace)).0
    }

    /// Counts of all caches, by storage prefix, for metrics.
    pub fn counts(&self) -> HashMap<&'static str, usize> {
        self.caches
            .load()
            .iter()
            .map(|(prefix, cache)| (*prefix, cache.count()))
            .collect()
    }
}

/// A built-in resource in version v1.
pub fn builtin(group: &str, plural: &str) -> Option<&'static Resource> {
    schema::registry().find(group, "v1", plural)
}

/// Whether objects are stored in this version of the resource.
pub fn is_storage_version(resource: &Resource) -> bool {
    resource.storage_version.0 == resource.group && resource.storage_version.1 == resource.version
}
