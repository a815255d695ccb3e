//! POST: new objects.

use super::managed::{self, Tracking, Writer};
use super::update::Part;
use super::{check_kind, meta, prune};
use crate::admission::{self, Operation};
use crate::call::{Call, Document, Response};
use crate::http::respond;
use crate::http::status::Status;
use crate::store::{Object, convert, object};
use schema::Resource;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// How long events are kept.
const EVENT_TTL: Duration = Duration::from_secs(3600);
/// Attempts to find a free generated name.
const NAME_ATTEMPTS: usize = 8;

/// The time after which objects of a resource go away by themselves.
pub fn ttl(resource: &Resource) -> Option<Duration> {
    (resource.plural == "events").then_some(EVENT_TTL)
}

/// Answers a POST.
pub async fn post(call: &Call, resource: &'static Resource, body: &[u8]) -> Result<Response, Status> {
    let document = call.decode(body)?;
    let object = create(call, resource, document).await?;
    super::honesty::warn(call, resource);
    respond::object(
        call,
        resource,
        call.server.store.cache(resource)?.resource,
        201,
        &object,
    )
}

/// Creates an object from a request.
pub async fn create(
    call: &Call,
    resource: &'static Resource,
    mut document: Document,
) -> Result<Arc<Object>, Status> {
    if resource.namespaced && call.info.namespace.is_empty() {
        return Err(Status::bad_request(
            "an empty namespace may not be set during creation",
        ));
    }
    check_kind(resource, &mut document.value)?;
    prune(call, resource, &mut document)?;
    create_value(call, resource, document.value).await
}

/// Creates an object from a value of the right kind without unknown fields.
pub async fn create_value(
    call: &Call,
    resource: &'static Resource,
    mut value: Value,
) -> Result<Arc<Object>, Status> {
    meta::set_namespace(resource, &mut value, &call.info.namespace)?;
    let generated = meta::text(&value, "name").is_empty() && !meta::text(&value, "generateName").is_empty();
    if meta::text(&value, "name").is_empty() && !generated {
        return Err(no_name(resource));
    }
    // PUT that creates: the path names the object.
    if !call.info.name.is_empty() && meta::text(&value, "name") != call.info.name {
        return Err(Status::bad_request(
            "the name of the object does not match the name on the URL",
        ));
    }
    let template = value;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let mut value = template.clone();
        meta::prepare_create(&mut value)?;
        let name = meta::text(&value, "name").to_owned();
        match store(call, resource, value).await? {
            Some(object) => return Ok(object),
            None if generated && attempt < NAME_ATTEMPTS => {}
            None => return Err(Status::already_exists(resource, &name)),
        }
    }
}

fn no_name(resource: &Resource) -> Status {
    let cause = schema::Cause {
        reason: schema::Reason::Required,
        field: "metadata.name".into(),
        message: "Required value: name or generateName is required".into(),
    };
    Status::invalid(resource, "", vec![cause])
}

/// Defaults, admits, checks and stores one object. `None` if the name is taken.
async fn store(
    call: &Call,
    resource: &'static Resource,
    mut value: Value,
) -> Result<Option<Arc<Object>>, Status> {
    schema::default(resource, &mut value);
    if managed::tracking(call) != Tracking::Applied {
        let writer = Writer::of(call, resource, Part::Main);
        schema::apply::track_create(resource, &mut value, &writer.manager());
    }
    schema::strategy::prepare_create(resource, &mut value);
    admission::mutate(call, Operation::Create, resource, &mut value).await?;
    let name = meta::text(&value, "name").to_owned();
    let namespace = meta::text(&value, "namespace").to_owned();
    let causes = schema::validate_create(resource, &value);
    if !causes.is_empty() {
        return Err(Status::invalid(resource, &name, causes));
    }
    admission::validate(call, Operation::Create, resource, None, &value).await?;
    let key = object::key(resource, &namespace, &name);
    let store = &call.server.store;
    let dry_run = call.dry_run()?;
    if store.cache(resource)?.get(&key).is_some() && store.read(resource, &key).await?.is_some() {
        return Ok(None);
    }
    admission::take_quota(call, Operation::Create, resource, None, &value).await?;
    let allocated = crate::services::allocate(call, resource, None, &mut value, dry_run).await?;
    let stored = store.cache(resource)?.resource;
    convert::to_storage(resource, stored, &mut value);
    if dry_run {
        if store.read(resource, &key).await?.is_some() {
            return Ok(None);
        }
        return Ok(Some(Object::from_value(stored, &key, value, 0)));
    }
    let result = store.create(resource, &key, value, ttl(resource)).await;
    // An unknown outcome keeps what was allocated: the object may exist.
    if matches!(result, Ok(None)) {
        allocated.release(call).await;
    }
    result
}
