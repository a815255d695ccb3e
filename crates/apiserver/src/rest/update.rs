//! PUT, and everything else that turns an object into another state of itself.

use super::managed::{self, Tracking, Writer};
use super::{apply, check_kind, create, delete, meta, prune};
use crate::admission::{self, Operation, certificates};
use crate::call::{Call, Response};
use crate::http::respond;
use crate::http::status::Status;
use crate::store::{Object, Replaced, Version, convert, object};
use schema::Resource;
use serde_json::{Value, json};
use std::sync::Arc;

/// Attempts before a conflict is given to the client; each lost one means that somebody else succeeded.
const ATTEMPTS: usize = 8;

/// Which part of an object a request changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All but the status.
    Main,
    /// The status.
    Status,
    /// The approval of a certificate signing request.
    Approval,
    /// Whatever the change itself does: bindings, finalizations and other subresources with rules of their own.
    Raw,
}

/// What became of an object.
pub enum Outcome {
    /// It has a new state (or its old one, if nothing changed).
    Updated(Arc<Object>),
    /// It was being deleted, and the update removed its last finalizer.
    Deleted(Arc<Object>),
}

impl Outcome {
    /// The object.
    pub fn object(&self) -> &Arc<Object> {
        match self {
            Self::Updated(object) | Self::Deleted(object) => object,
        }
    }
}

/// A change: from the present state to the wanted one. It may be called again with a newer state.
pub trait Change: FnMut(&Value) -> Result<Value, Status> + Send {}
impl<F: FnMut(&Value) -> Result<Value, Status> + Send> Change for F {}

/// Answers a PUT of an object or its status.
pub async fn put(
    call: &Call,
    resource: &'static Resource,
    part: Part,
    body: &[u8],
) -> Result<Response, Status> {
    let mut document = call.decode(body)?;
    check_kind(resource, &mut document.value)?;
    let name = meta::text(&document.value, "name");
    if !name.is_empty() && name != call.info.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.info.name
        )));
    }
    meta::of(&mut document.value).insert("name".into(), call.info.name.clone().into());
    prune(call, resource, &mut document)?;
    meta::set_namespace(resource, &mut document.value, &call.info.namespace)?;
    let wanted = document.value;
    let stored = call.server.store.cache(resource)?.resource;
    let result = update(call, resource, part, |_| Ok(wanted.clone())).await;
    match result {
        Err(status)
            if status.code == 404
                && part == Part::Main
                && resource.create_on_update
                && status.is_about(resource) =>
        {
            apply::may_create(call, resource).await?;
            let object = create::create_value(call, resource, wanted).await?;
            respond::object(call, resource, stored, 201, &object)
        }
        result => respond::object(call, resource, stored, 200, result?.object()),
    }
}

/// Applies a change to the object that the call names.
pub async fn update(
    call: &Call,
    resource: &'static Resource,
    part: Part,
    change: impl Change,
) -> Result<Outcome, Status> {
    let (namespace, name) = (call.info.namespace.clone(), call.info.name.clone());
    update_named(call, resource, part, &namespace, &name, change).await
}

/// Applies a change to an object.
///
/// The first attempt works on what the cache has. If that fails in any way that newer data could change, the object
/// is read from the state store and the change is tried on that.
pub async fn update_named(
    call: &Call,
    resource: &'static Resource,
    part: Part,
    namespace: &str,
    name: &str,
    mut change: impl Change,
) -> Result<Outcome, Status> {
    let store = &call.server.store;
    let key = object::key(resource, namespace, name);
    let mut from_cache = true;
    let mut current = store.cache(resource)?.get(&key);
    if current.is_none() {
        from_cache = false;
        current = store.read(resource, &key).await?;
    }
    for _ in 0..ATTEMPTS {
        let Some(object) = current else {
            return Err(Status::not_found(resource, name));
        };
        match attempt(call, resource, part, &object, &mut change).await {
            Ok(Attempt::Done(outcome)) => return Ok(outcome),
            // The cache might have been behind.
            Ok(Attempt::Unchanged(object)) if !from_cache => return Ok(Outcome::Updated(object)),
            Err(status) if !from_cache => return Err(status),
            Ok(_) | Err(_) => {}
        }
        from_cache = false;
        current = store.read(resource, &key).await?;
    }
    Err(Status::modified(resource, name))
}

/// What changes the containers of a pod in place is a new generation of it; that it is given a node is not.
fn count_generation(call: &Call, old: &Value, new: &mut Value) {
    let counted = matches!(call.info.subresource.as_str(), "resize" | "ephemeralcontainers");
    if counted
        && new["spec"] != old["spec"]
        && let Some(generation) = old["metadata"]["generation"].as_i64()
    {
        new["metadata"]["generation"] = generation.saturating_add(1).into();
    }
}

enum Attempt {
    Done(Outcome),
    Unchanged(Arc<Object>),
    Conflict,
}

async fn attempt(
    call: &Call,
    resource: &'static Resource,
    part: Part,
    object: &Arc<Object>,
    change: &mut impl Change,
) -> Result<Attempt, Status> {
    let store = &call.server.store;
    let stored = store.cache(resource)?.resource;
    let old = Version::new(resource, stored).value(object);
    let mut new = change(&old)?;
    check_base(resource, part, object, &old, &new)?;
    let sent = json!({"metadata": {"managedFields": meta::of(&mut new).get("managedFields")}});
    meta::prepare_update(&old, &mut new);
    meta::of(&mut new).insert("resourceVersion".into(), object.revision.to_string().into());
    match part {
        Part::Main => {
            schema::default(resource, &mut new);
            schema::strategy::prepare_update(resource, &old, &mut new);
            crate::services::prepare_update(resource, &old, &mut new);
        }
        Part::Status => {
            schema::default(resource, &mut new);
            schema::strategy::prepare_status_update(resource, &old, &mut new);
        }
        Part::Approval => {
            schema::strategy::prepare_approval_update(&old, &mut new);
            certificates::set_times(&old, &mut new);
        }
        Part::Raw => count_generation(call, &old, &mut new),
    }
    track(call, resource, part, &old, &mut new, &sent);
    admission::mutate(call, Operation::Update, resource, &mut new).await?;
    let causes = match part {
        Part::Main => schema::validate_update(resource, &old, &new),
        Part::Status => schema::validate_status_update(resource, &old, &new),
        Part::Approval => certificates::check_approval(&new),
        Part::Raw => Vec::new(),
    };
    if !causes.is_empty() {
        return Err(Status::invalid(resource, &object.name, causes));
    }
    admission::validate(call, Operation::Update, resource, Some(&old), &new).await?;
    if delete::is_finished(resource, &new) {
        return finish_deletion(call, resource, object, new).await;
    }
    admission::take_quota(call, Operation::Update, resource, Some(&old), &new).await?;
    let dry_run = call.dry_run()?;
    let allocated = crate::services::allocate(call, resource, Some(&old), &mut new, dry_run).await?;
    if new == old {
        return Ok(Attempt::Unchanged(object.clone()));
    }
    let freed = crate::services::freed_by_update(resource, &old, &new);
    convert::to_storage(resource, stored, &mut new);
    if dry_run {
        let object = Object::from_value(stored, &object.key, new, object.revision);
        return Ok(Attempt::Done(Outcome::Updated(object)));
    }
    match store
        .replace(resource, &object.key, new, object.revision, create::ttl(resource))
        .await?
    {
        Replaced::Done(object) => {
            freed.release(call).await;
            Ok(Attempt::Done(Outcome::Updated(object)))
        }
        Replaced::Conflict => {
            allocated.release(call).await;
            Ok(Attempt::Conflict)
        }
    }
}

/// Records whose the changed fields are.
fn track(call: &Call, resource: &'static Resource, part: Part, old: &Value, new: &mut Value, sent: &Value) {
    match managed::tracking(call) {
        Tracking::Applied => {}
        Tracking::Keep => {
            let kept = old["metadata"].get("managedFields").cloned();
            match kept {
                Some(kept) => meta::of(new).insert("managedFields".into(), kept),
                None => meta::of(new).remove("managedFields"),
            };
        }
        Tracking::Update => {
            let writer = Writer::of(call, resource, part);
            schema::apply::track_update(resource, old, new, sent, &writer.manager());
        }
    }
}

/// The update must be based on the present state, if it says what it is based on.
fn check_base(
    resource: &Resource,
    part: Part,
    object: &Object,
    old: &Value,
    new: &Value,
) -> Result<(), Status> {
    let uid = meta::text(new, "uid");
    if !uid.is_empty() && uid != meta::text(old, "uid") {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            meta::text(old, "uid")
        );
        return Err(Status::conflict(resource, &object.name, why));
    }
    match meta::base_revision(new)? {
        Some(base) if base != object.revision => Err(Status::modified(resource, &object.name)),
        Some(_) => Ok(()),
        None if part == Part::Main && !resource.unconditional_update => {
            let cause = schema::Cause {
                reason: schema::Reason::Invalid,
                field: "metadata.resourceVersion".into(),
                message: "Invalid value: 0: must be specified for an update".into(),
            };
            Err(Status::invalid(resource, &object.name, vec![cause]))
        }
        None => Ok(()),
    }
}

/// The last finalizer is gone: the object goes too.
async fn finish_deletion(
    call: &Call,
    resource: &'static Resource,
    object: &Arc<Object>,
    value: Value,
) -> Result<Attempt, Status> {
    let stored = call.server.store.cache(resource)?.resource;
    let last = |revision| {
        let mut value = value.clone();
        convert::to_storage(resource, stored, &mut value);
        Object::from_value(stored, &object.key, value, revision)
    };
    if call.dry_run()? {
        return Ok(Attempt::Done(Outcome::Deleted(last(object.revision))));
    }
    match call.server.store.remove(object).await? {
        Replaced::Done(removed) => {
            crate::services::freed_by_delete(resource, &value)
                .release(call)
                .await;
            Ok(Attempt::Done(Outcome::Deleted(last(removed.revision))))
        }
        Replaced::Conflict => Ok(Attempt::Conflict),
    }
}
