//! Which part of an object a request may change.
//!
//! The desired state (`spec` and what else a kind has at its top) and the status are written by different people
//! through different paths; what a path may not change is taken from the stored object. Upstream calls these the
//! preparation steps of a resource's strategy. They come after defaulting and before validation.

mod job;
mod pod;
mod service;

use serde_json::{Map, Value, json};

use crate::registry::Resource;
use crate::value::{ValueExt as _, object_mut, same};

pub use pod::qos_class;

/// Before a create: drops what a client may not set, gives the first status, counts generation 1.
///
/// The name, uid and creation time must be set already (the selector of a Job is made from its uid).
pub fn prepare_create(resource: &Resource, object: &mut Value) {
    let Some(o) = object.as_object_mut() else { return };
    if let Some(Value::Object(metadata)) = o.get_mut("metadata") {
        for name in [
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
            "generation",
        ] {
            metadata.shift_remove(name);
        }
        if resource.has_generation {
            metadata.insert("generation".to_owned(), 1.into());
        }
    }
    // Nodes bring their status with them: the kubelet registers itself in one request.
    if resource.has_status && !resource.is("", "nodes") {
        o.shift_remove("status");
    }
    match (&*resource.group, &*resource.plural) {
        ("", "pods") => pod::prepare_create(o),
        ("", "namespaces") => namespace(o),
        ("", "persistentvolumes" | "persistentvolumeclaims") => {
            o.insert("status".to_owned(), json!({"phase": "Pending"}));
        }
        ("", "services") => {
            o.insert("status".to_owned(), json!({"loadBalancer": {}}));
        }
        ("batch", "jobs") => job::prepare_create(object),
        ("storage.k8s.io", "volumeattachments") => {
            o.insert("status".to_owned(), json!({"attached": false}));
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => stored_versions(object),
        _ => {}
    }
}

/// Before an update of the main resource: takes the status, and other fields that this path may not change, from the
/// stored object, and counts the generation.
///
/// A deletion that only marks the object must count the generation too: see [`count_generation`].
pub fn prepare_update(resource: &Resource, old: &Value, new: &mut Value) {
    keep_metadata(old, new);
    if resource.has_status {
        keep(old, new, "status");
    }
    match (&*resource.group, &*resource.plural) {
        ("", "namespaces") => {
            if let Some(spec) = ensure_spec(new) {
                replace(spec, "finalizers", old.at(&["spec", "finalizers"]));
            }
        }
        ("", "services") => service::keep_allocated(old, new),
        ("certificates.k8s.io", "certificatesigningrequests") => keep(old, new, "spec"),
        ("apiextensions.k8s.io", "customresourcedefinitions") => stored_versions(new),
        _ => {}
    }
    let generation = old.int(&["metadata", "generation"]);
    let changed = resource.has_generation && desired_state_differs(resource, old, new);
    set_generation(
        new,
        generation.map(|g| if changed { g.saturating_add(1) } else { g }),
    );
}

/// Before an update of the status: takes everything but the status, and what else this path may change, from the
/// stored object.
pub fn prepare_status_update(resource: &Resource, old: &Value, new: &mut Value) {
    keep_metadata(old, new);
    set_generation(new, old.int(&["metadata", "generation"]));
    let Some(old_object) = old.as_object() else { return };
    let Some(o) = new.as_object_mut() else { return };
    let beside = |name: &str| !matches!(name, "metadata" | "status" | "apiVersion" | "kind");
    o.retain(|name, _| !beside(name) || old_object.contains_key(name));
    for (name, value) in old_object.iter().filter(|(name, _)| beside(name)) {
        o.insert(name.clone(), value.clone());
    }
    let metadata_fields: &[&str] = match (&*resource.group, &*resource.plural) {
        _ if resource.is_custom() => &["labels", "annotations", "finalizers", "ownerReferences"],
        ("", "pods") => &["ownerReferences"],
        ("apps", "deployments") => &["labels"],
        (
            "apiextensions.k8s.io"
            | "apiregistration.k8s.io"
            | "flowcontrol.apiserver.k8s.io"
            | "resource.k8s.io"
            | "storage.k8s.io"
            | "admissionregistration.k8s.io",
            _,
        )
        | ("networking.k8s.io", "servicecidrs") => {
            &["labels", "annotations", "finalizers", "ownerReferences"]
        }
        _ => &[],
    };
    if let Some(metadata) = object_mut(new, &["metadata"]) {
        for name in metadata_fields {
            replace(metadata, name, old.at(&["metadata", name]));
        }
    }
    if resource.is("", "pods") {
        pod::prepare_status_update(old, new);
    }
    if resource.is("certificates.k8s.io", "certificatesigningrequests") {
        keep_approval(old, new);
    }
}

/// Before an update of `approval` of a certificate signing request: only conditions change, of whatever type.
pub fn prepare_approval_update(old: &Value, new: &mut Value) {
    keep_metadata(old, new);
    set_generation(new, old.int(&["metadata", "generation"]));
    keep(old, new, "spec");
    let wanted: Vec<Value> = new.items(&["status", "conditions"]).to_vec();
    keep(old, new, "status");
    if let Some(o) = new.as_object_mut() {
        let status = o.entry("status").or_insert_with(|| Value::Object(Map::new()));
        if let Some(status) = status.as_object_mut() {
            status.insert("conditions".to_owned(), wanted.into());
        }
    }
}

/// Before an update of `ephemeralcontainers` of a pod: only that list changes.
pub fn prepare_ephemeral_containers_update(old: &Value, new: &mut Value) {
    let wanted = new.at(&["spec", "ephemeralContainers"]).cloned();
    keep_metadata(old, new);
    keep(old, new, "spec");
    keep(old, new, "status");
    if let Some(spec) = ensure_spec(new) {
        replace(spec, "ephemeralContainers", wanted.as_ref());
    }
    let changed = !same(old.at(&["spec"]), new.at(&["spec"]));
    let generation = old.int(&["metadata", "generation"]);
    set_generation(
        new,
        generation.map(|g| if changed { g.saturating_add(1) } else { g }),
    );
}

/// Before `finalize` of a namespace: only `spec.finalizers` changes.
pub fn prepare_finalize(old: &Value, new: &mut Value) {
    keep_metadata(old, new);
    keep(old, new, "status");
}

/// Counts a change of the desired state that the caller made itself, such as marking the object as deleted.
pub fn count_generation(object: &mut Value) {
    if let Some(generation) = object.int(&["metadata", "generation"]).filter(|g| *g > 0) {
        set_generation(object, Some(generation.saturating_add(1)));
    }
}

/// Metadata that no update changes, or that an update may leave out.
fn keep_metadata(old: &Value, new: &mut Value) {
    let Some(metadata) = object_mut(new, &["metadata"]) else {
        return;
    };
    for name in ["uid", "creationTimestamp"] {
        if crate::value::is_empty(metadata.get(name)) {
            replace(metadata, name, old.at(&["metadata", name]));
        }
    }
    // Only a delete marks an object, and nothing takes the mark away.
    if old.at(&["metadata", "deletionTimestamp"]).is_some() {
        for name in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
            replace(metadata, name, old.at(&["metadata", name]));
        }
    } else {
        metadata.shift_remove("deletionTimestamp");
        metadata.shift_remove("deletionGracePeriodSeconds");
    }
    metadata.shift_remove("selfLink");
}

fn set_generation(object: &mut Value, generation: Option<i64>) {
    let Some(metadata) = object_mut(object, &["metadata"]) else {
        return;
    };
    match generation {
        Some(generation) => {
            metadata.insert("generation".to_owned(), generation.into());
        }
        None => {
            metadata.shift_remove("generation");
        }
    }
}

/// Whether an update changes what the owner of the object asks for.
fn desired_state_differs(resource: &Resource, old: &Value, new: &Value) -> bool {
    let annotations = &["metadata", "annotations"];
    // A rollback of a Deployment travels in its annotations.
    if resource.is("apps", "deployments") && !same(old.at(annotations), new.at(annotations)) {
        return true;
    }
    // Without a path of its own the status is a field like any other.
    let status_counts = resource.is_custom() && !resource.has_status;
    let fields = |o: &Value| -> Vec<String> {
        let names = o.as_object().into_iter().flat_map(Map::keys).cloned();
        names
            .filter(|n| !matches!(n.as_str(), "metadata" | "apiVersion" | "kind"))
            .filter(|n| n.as_str() != "status" || status_counts)
            .collect()
    };
    let (mut names, more) = (fields(old), fields(new));
    names.extend(more);
    names.iter().any(|name| !same(old.get(name), new.get(name)))
}

/// Takes a top-level field from the stored object.
fn keep(old: &Value, new: &mut Value, name: &str) {
    if let Some(o) = new.as_object_mut() {
        replace(o, name, old.get(name));
    }
}

fn replace(o: &mut Map<String, Value>, name: &str, value: Option<&Value>) {
    match value {
        Some(value) => {
            o.insert(name.to_owned(), value.clone());
        }
        None => {
            o.shift_remove(name);
        }
    }
}

fn ensure_spec(object: &mut Value) -> Option<&mut Map<String, Value>> {
    let o = object.as_object_mut()?;
    o.entry("spec")
        .or_insert_with(|| Value::Object(Map::new()))
        .as_object_mut()
}

/// A new namespace is active and waits for its content to go before it goes.
fn namespace(o: &mut Map<String, Value>) {
    o.insert("status".to_owned(), json!({"phase": "Active"}));
    let spec = o.entry("spec").or_insert_with(|| Value::Object(Map::new()));
    if let Some(spec) = spec.as_object_mut() {
        let finalizers = spec
            .entry("finalizers")
            .or_insert_with(|| Value::Array(Vec::new()));
        if let Some(list) = finalizers.as_array_mut()
            && !list.iter().any(|f| f == "kubernetes")
        {
            list.push("kubernetes".into());
        }
    }
}

/// The storage version of a custom resource is among those in which objects may be stored.
fn stored_versions(object: &mut Value) {
    let storage = object
        .items(&["spec", "versions"])
        .iter()
        .find(|v| v.flag(&["storage"]))
        .map(|v| v.text(&["name"]).to_owned());
    let (Some(storage), Some(o)) = (storage, object.as_object_mut()) else {
        return;
    };
    let status = o.entry("status").or_insert_with(|| Value::Object(Map::new()));
    let Some(status) = status.as_object_mut() else {
        return;
    };
    let versions = status
        .entry("storedVersions")
        .or_insert_with(|| Value::Array(Vec::new()));
    if let Some(list) = versions.as_array_mut()
        && !list.iter().any(|v| v.as_str() == Some(&storage))
    {
        list.push(storage.into());
    }
}

fn is_approval(condition: &Value) -> bool {
    matches!(condition.text(&["type"]), "Approved" | "Denied")
}

/// The status path of a certificate signing request may not approve it.
fn keep_approval(old: &Value, new: &mut Value) {
    let approval: Vec<Value> = old
        .items(&["status", "conditions"])
        .iter()
        .filter(|c| is_approval(c))
        .cloned()
        .collect();
    let others: Vec<Value> = new
        .items(&["status", "conditions"])
        .iter()
        .filter(|c| !is_approval(c))
        .cloned()
        .collect();
    if let Some(status) = object_mut(new, &["status"]) {
        let conditions: Vec<Value> = approval.into_iter().chain(others).collect();
        if conditions.is_empty() {
            status.shift_remove("conditions");
        } else {
            status.insert("conditions".to_owned(), conditions.into());
        }
    }
}

#[cfg(test)]
mod tests;
