//! Defaults that upstream's server fills in, so that every reader sees the same object.
//!
//! Upstream calls these its defaulting functions; they are not part of the published schema. They are applied to what
//! a client sends, on every create and update, and are idempotent.

mod apps;
mod core;
mod extension;
mod network;
mod pod;
mod storage;

use serde_json::{Map, Value};

use crate::registry::Resource;

/// A JSON object.
pub(crate) type Object = Map<String, Value>;

/// Fills in the defaults of an object.
pub fn default(resource: &Resource, object: &mut Value) {
    if let Some(schema) = resource.structural() {
        crate::structural::default(&schema, object);
        return;
    }
    default_kind(&resource.group, &resource.version, &resource.kind, object);
}

/// Fills in the defaults of an object or of another body (`TokenRequest`).
pub fn default_kind(group: &str, version: &str, kind: &str, object: &mut Value) {
    let Some(o) = object.as_object_mut() else { return };
    match (group, kind) {
        ("", _) => core::default(kind, o),
        ("apps" | "batch", _) => apps::default(kind, o),
        ("storage.k8s.io", "StorageClass") => storage::storage_class(o),
        ("storage.k8s.io", "CSIDriver") => storage::csi_driver(o),
        ("storage.k8s.io", "VolumeAttachment") => storage::volume_attachment(o),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => extension::role_binding(o),
        ("discovery.k8s.io", "EndpointSlice") => network::endpoint_slice(o),
        ("networking.k8s.io", "NetworkPolicy") => network::network_policy(o),
        ("networking.k8s.io", "IngressClass") => network::ingress_class(o),
        ("autoscaling", "HorizontalPodAutoscaler") => apps::autoscaler(version, o),
        ("scheduling.k8s.io", "PriorityClass") => {
            set(o, "preemptionPolicy", "PreemptLowerPriority");
        }
        ("authentication.k8s.io", "TokenRequest") => {
            if let Some(spec) = ensure(o, "spec") {
                set(spec, "expirationSeconds", 3600);
            }
        }
        (
            "admissionregistration.k8s.io"
            | "apiextensions.k8s.io"
            | "apiregistration.k8s.io"
            | "flowcontrol.apiserver.k8s.io"
            | "resource.k8s.io",
            _,
        ) => extension::default(kind, o),
        _ => {}
    }
}

/// Sets a field that is absent, null or an empty string.
fn set(o: &mut Object, name: &str, default: impl Into<Value>) {
    match o.get_mut(name) {
        None => {
            o.insert(name.to_owned(), default.into());
        }
        Some(slot) if slot.is_null() || slot.as_str() == Some("") => *slot = default.into(),
        Some(_) => {}
    }
}

/// Sets a field that is absent or zero: numbers that Go does not hold by pointer.
fn set_number(o: &mut Object, name: &str, default: i64) {
    match o.get_mut(name) {
        None => {
            o.insert(name.to_owned(), default.into());
        }
        Some(slot) if slot.is_null() || slot.as_i64() == Some(0) => *slot = default.into(),
        Some(_) => {}
    }
}

/// Sets a field that is absent, even to an empty string if the client says so.
fn set_absent(o: &mut Object, name: &str, default: impl Into<Value>) {
    match o.get_mut(name) {
        None => {
            o.insert(name.to_owned(), default.into());
        }
        Some(slot) if slot.is_null() => *slot = default.into(),
        Some(_) => {}
    }
}

/// The object in a field, if it is there.
fn object<'a>(o: &'a mut Object, name: &str) -> Option<&'a mut Object> {
    o.get_mut(name)?.as_object_mut()
}

/// The object in a field, made if absent; none if something else is there.
fn ensure<'a>(o: &'a mut Object, name: &str) -> Option<&'a mut Object> {
    let slot = o.entry(name).or_insert_with(|| Value::Object(Map::new()));
    if slot.is_null() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut()
}

/// The objects in a list field.
fn objects<'a>(o: &'a mut Object, name: &str) -> impl Iterator<Item = &'a mut Object> {
    o.get_mut(name)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

/// The text in a field, empty if there is none.
fn text<'a>(o: &'a Object, name: &str) -> &'a str {
    o.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Whether a field is absent, null, or an empty list, map or string.
fn empty(o: &Object, name: &str) -> bool {
    crate::value::is_empty(o.get(name))
}

#[cfg(test)]
mod tests;
