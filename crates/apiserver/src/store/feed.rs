//! Fills the caches: a list of everything at one revision, then every change after it.

use super::{Object, Store, dynamic, object};
use state::{Change, Error, Range, Record, WatchStream};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Records per page of the first list.
const PAGE: i64 = 500;
/// Pauses between attempts while the state store is not there.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Where upstream keeps objects.
const ROOT: &str = "/registry/";

/// Where the definitions of custom resources are.
const DEFINITIONS: &str = "/registry/apiextensions.k8s.io/customresourcedefinitions/";

/// Keeps the caches up to date, for ever.
pub(super) async fn run(store: &Arc<Store>) {
    let mut pause = BACKOFF.0;
    loop {
        match synchronize(store).await {
            Ok(watch) => {
                pause = BACKOFF.0;
                let error = follow(store, watch).await;
                tracing::info!(%error, "watch of the state store ended; listing again");
            }
            Err(error) => tracing::debug!(%error, "state store not ready"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// Reads everything as of one revision into the caches and watches from the next one.
async fn synchronize(store: &Store) -> Result<WatchStream, Error> {
    let mut objects: HashMap<&str, BTreeMap<Box<str>, Arc<Object>>> = HashMap::new();
    let mut start = ROOT.to_owned();
    let mut revision = 0;
    loop {
        let end = object::prefix_end(ROOT);
        let page = store
            .backend
            .range(Range {
                start: &start,
                end: &end,
                limit: PAGE,
                revision,
            })
            .await?;
        revision = page.revision;
        let last = page.records.last().map(|record| record.key.clone());
        for record in page.records {
            if let Some((prefix, object)) = load(store, &record) {
                objects
                    .entry(prefix)
                    .or_default()
                    .insert(object.key.clone(), object);
            }
        }
        match last {
            Some(last) if page.more => start = last + "\0",
            _ => break,
        }
    }
    for (prefix, cache) in store.caches.load().iter() {
        if !cache.resource.is_custom() {
            cache.reset(objects.remove(prefix).unwrap_or_default(), revision);
        }
    }
    dynamic::refresh(store, revision, true).await?;
    store.progress.send_replace(revision);
    tracing::info!(revision, "watch cache filled");
    store.backend.watch(revision + 1, store.known.subscribe()).await
}

fn load(store: &Store, record: &Record) -> Option<(&'static str, Arc<Object>)> {
    let cache = store.cache_of_key(&record.key)?;
    let resource = cache.resource;
    match store.decode(resource, record) {
        Ok(object) => Some((resource.storage_prefix.as_ref(), object)),
        Err(error) => {
            tracing::warn!(%error, "stored object cannot be read; it is left out");
            None
        }
    }
}

async fn follow(store: &Store, mut watch: WatchStream) -> Error {
    while let Some(batch) = watch.recv().await {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => return error,
        };
        let mut defined = false;
        for change in batch.changes {
            defined |= change.key.starts_with(DEFINITIONS);
            apply(store, change);
        }
        // Before the progress: whoever waits for this revision finds what it defines.
        if defined && let Err(error) = dynamic::refresh(store, batch.revision, false).await {
            return error;
        }
        store.progress.send_replace(batch.revision);
    }
    Error::Unavailable("the watch was closed".into())
}

fn apply(store: &Store, change: Change) {
    let Some(cache) = store.cache_of_key(&change.key) else {
        return;
    };
    let object = match change.value {
        None => None,
        Some(value) => {
            let cipher = store.cipher.as_ref();
            match Object::decode(cache.resource, &change.key, &value, change.revision, cipher) {
                Ok(object) => Some(object),
                Err(error) => {
                    tracing::warn!(%error, "stored object cannot be read; it is left out");
                    None
                }
            }
        }
    };
    cache.apply(&change.key, object, change.revision);
}
