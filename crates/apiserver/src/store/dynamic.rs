//! Caches of custom resources, which come and go with their definitions.

use super::{Object, ResourceCache, Store, object};
use schema::Resource;
use state::{Error, Range};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Records per page.
const PAGE: i64 = 500;

/// Follows the definitions of custom resources as the cache has them at `revision`, which is where the feed is: the
/// next change that it applies is a later one, so the caches that are filled here miss none.
pub(super) async fn refresh(store: &Store, revision: i64, all: bool) -> Result<(), Error> {
    let definitions = store.cached_list("apiextensions.k8s.io", "customresourcedefinitions", "");
    let plan = store.customs.plan(&definitions, all);
    for resource in &plan.fill {
        let objects = load(store, resource, revision).await?;
        let cache = Arc::new(ResourceCache::new(resource));
        cache.reset(objects, revision);
        let prefix: &'static str = resource.storage_prefix.as_ref();
        replace(store, revision, |caches| caches.insert(prefix, cache.clone()));
    }
    for prefix in &plan.drop {
        replace(store, revision, |caches| caches.remove(prefix));
    }
    store.customs.publish(plan);
    Ok(())
}

type Caches = BTreeMap<&'static str, Arc<ResourceCache>>;

/// Changes the set of caches. Watches of a cache that goes have to list again.
fn replace(store: &Store, revision: i64, change: impl Fn(&mut Caches) -> Option<Arc<ResourceCache>>) {
    let mut caches: Caches = store.caches.load().as_ref().clone();
    let old = change(&mut caches);
    store.caches.store(Arc::new(caches));
    if let Some(old) = old {
        old.reset(BTreeMap::new(), revision);
    }
}

async fn load(
    store: &Store,
    resource: &'static Resource,
    revision: i64,
) -> Result<BTreeMap<Box<str>, Arc<Object>>, Error> {
    let prefix = object::list_prefix(resource, "");
    let end = object::prefix_end(&prefix);
    let mut start = prefix;
    let mut objects = BTreeMap::new();
    loop {
        let page = store
            .backend
            .range(Range {
                start: &start,
                end: &end,
                limit: PAGE,
                revision,
            })
            .await?;
        let last = page.records.last().map(|record| record.key.clone());
        for record in page.records {
            match store.decode(resource, &record) {
                Ok(object) => {
                    objects.insert(object.key.clone(), object);
                }
                Err(error) => tracing::warn!(%error, "stored object cannot be read; it is left out"),
            }
        }
        match last {
            Some(last) if page.more => start = last + "\0",
            _ => return Ok(objects),
        }
    }
}
