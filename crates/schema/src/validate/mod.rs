//! Rules that upstream's server checks on writes, with its field paths, reasons and messages.
//!
//! Objects arrive pruned (every field has its type), defaulted and prepared. [`table`] says which rules are whose; every
//! stable built-in resource is in it. Expressions in CEL are not compiled.

mod access;
mod admission;
mod apps;
mod autoscale;
mod cause;
mod checks;
mod config;
mod container;
mod definition;
mod device;
mod environment;
mod events;
mod extension;
mod flow;
mod job;
mod meta;
mod mounts;
mod network;
mod node;
mod pod;
mod probe;
mod quota;
mod resize;
mod resources;
mod scheduling;
mod security;
mod service;
mod status;
mod storage;
mod system;
mod table;
mod update;
mod volume;
mod volume_source;

use serde_json::Value;

use crate::registry::Resource;
use crate::value::ValueExt as _;
use cause::Causes;
pub use cause::{Cause, Reason, invalid_message};

/// Rules for a new object (after defaulting and preparation).
pub fn validate_create(resource: &Resource, object: &Value) -> Vec<Cause> {
    let mut c = Causes::default();
    if resource.is_stored() {
        meta::metadata(&mut c, resource, object);
    }
    rules(&mut c, resource, object);
    if let Some(schema) = resource.structural() {
        let mut causes = c.into_vec();
        causes.extend(crate::structural::validate(&schema, object));
        return causes;
    }
    if resource.is("", "pods") && !object.items(&["spec", "ephemeralContainers"]).is_empty() {
        c.at("spec.ephemeralContainers", |c| {
            c.forbidden("cannot be set on create")
        });
    }
    c.into_vec()
}

/// Rules for an update of the main resource (after preparation).
pub fn validate_update(resource: &Resource, old: &Value, new: &Value) -> Vec<Cause> {
    let mut c = Causes::default();
    meta::metadata_update(&mut c, old, new);
    meta::metadata(&mut c, resource, new);
    // What is stored may break rules that are newer than it: an update that leaves the rest alone must pass, so that
    // finalizers can be removed and owners set.
    if !desired_state_same(old, new) {
        rules(&mut c, resource, new);
        if let Some(rules) = table::rules(&resource.group, &resource.plural) {
            (rules.change)(&mut c, old, new);
        }
    }
    custom_update(c.into_vec(), resource, old, new)
}

/// Rules of the schema of a custom resource. What an update leaves as it is may break rules that are newer than it.
fn custom_update(mut causes: Vec<Cause>, resource: &Resource, old: &Value, new: &Value) -> Vec<Cause> {
    let Some(schema) = resource.structural() else {
        return causes;
    };
    let broken = crate::structural::validate(&schema, new);
    if !broken.is_empty() {
        let before = crate::structural::validate(&schema, old);
        causes.extend(broken.into_iter().filter(|cause| !before.contains(cause)));
    }
    causes
}

/// Rules for an update of the status (after preparation).
pub fn validate_status_update(resource: &Resource, old: &Value, new: &Value) -> Vec<Cause> {
    let mut c = Causes::default();
    meta::metadata_update(&mut c, old, new);
    meta::metadata(&mut c, resource, new);
    if !crate::value::same(old.get("status"), new.get("status"))
        && let Some(rules) = table::rules(&resource.group, &resource.plural)
    {
        (rules.status)(&mut c, old, new);
    }
    custom_update(c.into_vec(), resource, old, new)
}

fn desired_state_same(old: &Value, new: &Value) -> bool {
    let names = |o: &Value| -> Vec<String> {
        o.as_object()
            .into_iter()
            .flat_map(|o| o.keys().cloned())
            .collect()
    };
    names(old).iter().chain(&names(new)).all(|name| {
        matches!(name.as_str(), "metadata" | "status" | "apiVersion" | "kind")
            || crate::value::same(old.get(name), new.get(name))
    })
}

/// Rules for the content of an object, new or changed.
fn rules(c: &mut Causes, resource: &Resource, o: &Value) {
    if resource.is_custom() {
        return;
    }
    if let Some(rules) = table::rules(&resource.group, &resource.plural) {
        (rules.content)(c, o);
    }
}

/// Rules for a pod whose ephemeral containers an update of that subresource changed.
pub fn validate_ephemeral_containers(old: &Value, new: &Value) -> Vec<Cause> {
    let mut c = Causes::default();
    pod::pod(&mut c, new);
    update::ephemeral_containers(&mut c, old, new);
    c.into_vec()
}

/// Rules for a pod whose containers get other resources through `resize`.
pub fn validate_resize(old: &Value, new: &Value) -> Vec<Cause> {
    let mut c = Causes::default();
    pod::pod(&mut c, new);
    resize::resize(&mut c, old, new);
    c.into_vec()
}

/// Whether a state that a client wants of a pod through `resize` has the containers of the present one.
pub fn validate_same_containers(old: &Value, wanted: &Value) -> Vec<Cause> {
    let mut c = Causes::default();
    resize::same_containers(&mut c, old, wanted);
    c.into_vec()
}

/// The spec of an object; null where there is none, which reads as empty.
fn spec(o: &Value) -> &Value {
    o.get("spec").unwrap_or(&Value::Null)
}

#[cfg(test)]
mod tests;
