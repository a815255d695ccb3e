//! DELETE of all objects that selectors choose.

use super::delete::{self, Deleted};
use super::list::Selectors;
use super::options::DeleteOptions;
use crate::call::{Call, Response};
use crate::http::respond::{self, ListMeta};
use crate::http::status::Status;
use crate::store::{Freshness, object};
use futures::StreamExt;
use schema::Resource;
use std::sync::Arc;

/// Deletions under way at once for one request.
const CONCURRENCY: usize = 8;

/// Answers a DELETE of a collection with the objects that it deleted.
pub async fn delete(call: &Call, resource: &'static Resource, body: &[u8]) -> Result<Response, Status> {
    let options = DeleteOptions::read(call, body)?;
    let selectors = Selectors::read(call, resource)?;
    let store = &call.server.store;
    store.fresh(Freshness::Newest).await?;
    let cache = store.cache(resource)?;
    let (objects, _) = cache.list(&object::list_prefix(resource, &call.info.namespace));
    let wanted: Vec<_> = objects.into_iter().filter(|o| selectors.matches(o)).collect();
    let results: Vec<_> = futures::stream::iter(wanted)
        .map(|object| {
            let options = &options;
            async move { delete::remove(call, resource, &object.namespace, &object.name, options).await }
        })
        .buffered(CONCURRENCY)
        .collect()
        .await;
    let mut deleted: Vec<Arc<_>> = Vec::new();
    for result in results {
        match result {
            Ok(Deleted::Gone(object) | Deleted::Marked(object)) => deleted.push(object),
            // Somebody else deleted it.
            Err(status) if status.code == 404 => {}
            Err(status) => return Err(status),
        }
    }
    let meta = ListMeta {
        revision: store.revision(),
        ..ListMeta::default()
    };
    respond::list(call, resource, cache.resource, &meta, deleted)
}
