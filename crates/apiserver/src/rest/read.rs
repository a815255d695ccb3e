//! GET of one object.

use crate::call::{Call, Response};
use crate::http::respond;
use crate::http::status::Status;
use crate::store::Freshness;
use schema::Resource;

/// How fresh the answer to a `resourceVersion` parameter must be.
pub fn freshness(call: &Call) -> Result<Freshness, Status> {
    match call.query.get("resourceVersion") {
        None => Ok(Freshness::Newest),
        Some("0") => Ok(Freshness::Any),
        Some(text) => text
            .parse()
            .map(Freshness::NotOlderThan)
            .map_err(|_| invalid_revision(text)),
    }
}

/// 400 for a resourceVersion that is no number.
pub fn invalid_revision(text: &str) -> Status {
    Status::bad_request(format!("invalid resource version {text:?}"))
}

/// Answers a GET.
pub async fn get(call: &Call, resource: &'static Resource) -> Result<Response, Status> {
    let store = &call.server.store;
    let found = store
        .get(resource, &call.info.namespace, &call.info.name, freshness(call)?)
        .await?;
    let object = found.ok_or_else(|| Status::not_found(resource, &call.info.name))?;
    respond::object(call, resource, store.cache(resource)?.resource, 200, &object)
}
