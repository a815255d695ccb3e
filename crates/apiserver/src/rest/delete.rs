//! DELETE of one object: at once, or by marking it until its finalizers and its grace period are over.

use super::meta;
use super::options::{DeleteOptions, Propagation};
use crate::admission::{self, Operation};
use crate::call::{Call, Response};
use crate::custom::conditions;
use crate::custom::controller::CLEANUP;
use crate::http::respond;
use crate::http::status::Status;
use crate::store::{Object, Replaced, Version, convert, object};
use crate::time;
use schema::Resource;
use serde_json::{Value, json};
use std::sync::Arc;

/// Attempts before a conflict is given to the client.
const ATTEMPTS: usize = 8;
/// Finalizers that the garbage collector works on.
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// A pod's grace period when it does not say.
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// What became of an object.
pub enum Deleted {
    /// It is gone; its last state.
    Gone(Arc<Object>),
    /// It is marked.
    Marked(Arc<Object>),
}

/// Resources whose deletion answers with the object instead of a `Status`.
const RETURNS_OBJECT: &[&str] = &[
    "pods",
    "podtemplates",
    "persistentvolumes",
    "persistentvolumeclaims",
    "serviceaccounts",
    "resourcequotas",
    "storageclasses",
    "csinodes",
    "csidrivers",
    "volumeattachments",
];

/// Answers a DELETE.
pub async fn delete(call: &Call, resource: &'static Resource, body: &[u8]) -> Result<Response, Status> {
    let options = DeleteOptions::read(call, body)?;
    let stored = call.server.store.cache(resource)?.resource;
    match remove(call, resource, &call.info.namespace, &call.info.name, &options).await? {
        Deleted::Marked(object) => respond::object(call, resource, stored, 200, &object),
        Deleted::Gone(object) if RETURNS_OBJECT.contains(&resource.plural.as_ref()) => {
            respond::object(call, resource, stored, 200, &object)
        }
        Deleted::Gone(object) => {
            let uid = meta::text(&object.value(), "uid").to_owned();
            respond::value(call.accept, 200, &respond::success(resource, &object.name, &uid))
        }
    }
}

/// Deletes an object, or marks it.
pub async fn remove(
    call: &Call,
    resource: &'static Resource,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<Deleted, Status> {
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
        match attempt(call, resource, &object, options).await {
            Ok(Some(deleted)) => return Ok(deleted),
            Err(status) if !from_cache => return Err(status),
            Ok(None) | Err(_) => {}
        }
        from_cache = false;
        current = store.read(resource, &key).await?;
    }
    Err(Status::modified(resource, name))
}

/// One attempt; `None` if somebody else was quicker.
async fn attempt(
    call: &Call,
    resource: &'static Resource,
    object: &Arc<Object>,
    options: &DeleteOptions,
) -> Result<Option<Deleted>, Status> {
    let store = &call.server.store;
    let stored = store.cache(resource)?.resource;
    let value = Version::new(resource, stored).value(object);
    check_preconditions(resource, object, &value, options)?;
    admission::validate(call, Operation::Delete, resource, Some(&value), &Value::Null).await?;
    let marked = mark(resource, &value, options);
    if let Some(mut marked) = marked {
        if marked == value {
            return Ok(Some(Deleted::Marked(object.clone())));
        }
        convert::to_storage(resource, stored, &mut marked);
        if options.dry_run {
            let object = Object::from_value(stored, &object.key, marked, object.revision);
            return Ok(Some(Deleted::Marked(object)));
        }
        let replaced = store
            .replace(resource, &object.key, marked, object.revision, None)
            .await?;
        return Ok(match replaced {
            Replaced::Done(object) => Some(Deleted::Marked(object)),
            Replaced::Conflict => None,
        });
    }
    if options.dry_run {
        return Ok(Some(Deleted::Gone(object.clone())));
    }
    match store.remove(object).await? {
        Replaced::Done(removed) => {
            crate::services::freed_by_delete(resource, &value)
                .release(call)
                .await;
            Ok(Some(Deleted::Gone(removed)))
        }
        Replaced::Conflict => Ok(None),
    }
}

fn check_preconditions(
    resource: &Resource,
    object: &Object,
    value: &Value,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let uid = meta::text(value, "uid");
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid) {
        let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}");
        return Err(Status::conflict(resource, &object.name, why));
    }
    let revision = object.revision.to_string();
    if let Some(wanted) = options.revision.as_deref().filter(|wanted| *wanted != revision) {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {revision}"
        );
        return Err(Status::conflict(resource, &object.name, why));
    }
    Ok(())
}

/// The marked state of an object; `None` if it can go at once.
fn mark(resource: &Resource, value: &Value, options: &DeleteOptions) -> Option<Value> {
    let mut marked = value.clone();
    set_propagation(&mut marked, options.propagation);
    if resource.is("", "namespaces") {
        return mark_namespace(marked);
    }
    if resource.is("apiextensions.k8s.io", "customresourcedefinitions") && !meta::is_terminating(value) {
        hold_definition(&mut marked);
    }
    let grace = grace_seconds(resource, value, options);
    let has_finalizers = !meta::finalizers(&marked).is_empty();
    if grace == 0 && !has_finalizers {
        return None;
    }
    let old_grace = value["metadata"]["deletionGracePeriodSeconds"].as_i64();
    if meta::is_terminating(value) {
        // A second deletion can only shorten the time.
        if old_grace.is_none_or(|old| grace >= old) {
            return Some(marked);
        }
    }
    let now = time::unix_seconds();
    let metadata = meta::of(&mut marked);
    let start = match (
        metadata
            .get("deletionTimestamp")
            .and_then(Value::as_str)
            .and_then(time::parse),
        old_grace,
    ) {
        (Some(end), Some(old)) => end - old,
        _ => now,
    };
    metadata.insert(
        "deletionTimestamp".into(),
        time::format((start + grace).max(now)).into(),
    );
    metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
    if resource.has_generation
        && !meta::is_terminating(value)
        && let Some(generation) = metadata.get("generation").and_then(Value::as_i64)
    {
        metadata.insert("generation".into(), generation.saturating_add(1).into());
    }
    Some(marked)
}

/// The grace period that applies; 0 for everything but pods that run.
fn grace_seconds(resource: &Resource, value: &Value, options: &DeleteOptions) -> i64 {
    if !resource.graceful_deletion {
        return 0;
    }
    let spec = &value["spec"];
    let of_spec = spec["terminationGracePeriodSeconds"]
        .as_i64()
        .unwrap_or(DEFAULT_GRACE_SECONDS);
    let wanted = options.grace_seconds.unwrap_or(of_spec);
    let scheduled = spec["nodeName"].as_str().is_some_and(|node| !node.is_empty());
    let ended = matches!(value["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
    if scheduled && !ended { wanted } else { 0 }
}

fn set_propagation(value: &mut Value, propagation: Option<Propagation>) {
    let mut finalizers = meta::finalizers(value);
    let before = finalizers.clone();
    let wanted = match propagation {
        Some(Propagation::Orphan) => Some(ORPHAN),
        Some(Propagation::Foreground) => Some(FOREGROUND),
        Some(Propagation::Background) => None,
        // Nothing said: what an earlier deletion asked for stays.
        None => return,
    };
    finalizers.retain(|f| f != ORPHAN && f != FOREGROUND);
    if let Some(wanted) = wanted {
        finalizers.push(wanted.into());
    }
    if finalizers != before {
        meta::of(value).insert("finalizers".into(), finalizers.into());
    }
}

/// A namespace goes when its own finalizers (`spec.finalizers`) are gone as well.
fn mark_namespace(mut value: Value) -> Option<Value> {
    let own = value["spec"]["finalizers"]
        .as_array()
        .is_some_and(|f| !f.is_empty());
    if !own && meta::finalizers(&value).is_empty() {
        return None;
    }
    if !meta::is_terminating(&value) {
        meta::of(&mut value).insert("deletionTimestamp".into(), time::now().into());
        value["status"]["phase"] = json!("Terminating");
    }
    Some(value)
}

/// The objects of a definition go before it does.
fn hold_definition(definition: &mut Value) {
    let mut finalizers = meta::finalizers(definition);
    if !finalizers.iter().any(|f| f == CLEANUP) {
        finalizers.push(CLEANUP.into());
        meta::of(definition).insert("finalizers".into(), finalizers.into());
    }
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    conditions::set(
        definition,
        "Terminating",
        "True",
        "InstanceDeletionPending",
        message,
        &time::now(),
    );
}

/// Whether an object that is being deleted has nothing left to wait for.
pub fn is_finished(resource: &Resource, value: &Value) -> bool {
    if !meta::is_terminating(value) || !meta::finalizers(value).is_empty() {
        return false;
    }
    if resource.is("", "namespaces") {
        return value["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty);
    }
    value["metadata"]["deletionGracePeriodSeconds"]
        .as_i64()
        .unwrap_or(0)
        == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(plural: &str) -> &'static Resource {
        schema::registry().find("", "v1", plural).unwrap()
    }

    #[test]
    fn a_running_pod_gets_its_grace() {
        let pod = json!({"metadata": {}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 7}});
        let marked = mark(resource("pods"), &pod, &DeleteOptions::default()).unwrap();
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 7);
        assert!(!is_finished(resource("pods"), &marked));
        let now = DeleteOptions {
            grace_seconds: Some(0),
            ..DeleteOptions::default()
        };
        assert!(mark(resource("pods"), &marked, &now).is_none());
        let pending = json!({"metadata": {}, "spec": {}});
        assert!(mark(resource("pods"), &pending, &DeleteOptions::default()).is_none());
    }

    #[test]
    fn finalizers_hold_an_object() {
        let options = DeleteOptions {
            propagation: Some(Propagation::Foreground),
            ..DeleteOptions::default()
        };
        let object = json!({"metadata": {"name": "a"}});
        let marked = mark(resource("configmaps"), &object, &options).unwrap();
        assert_eq!(marked["metadata"]["finalizers"], json!([FOREGROUND]));
        assert!(!is_finished(resource("configmaps"), &marked));
        let mut done = marked.clone();
        done["metadata"]["finalizers"] = json!([]);
        assert!(is_finished(resource("configmaps"), &done));
    }

    #[test]
    fn a_namespace_waits_for_its_contents() {
        let namespace = json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}});
        let mut marked = mark(resource("namespaces"), &namespace, &DeleteOptions::default()).unwrap();
        assert_eq!(marked["status"]["phase"], "Terminating");
        assert!(!is_finished(resource("namespaces"), &marked));
        marked["spec"]["finalizers"] = json!([]);
        assert!(is_finished(resource("namespaces"), &marked));
    }
}
