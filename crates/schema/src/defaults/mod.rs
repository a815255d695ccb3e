//! Defaults that upstream's server fills in.
use crate::registry::Resource;
use serde_json::Value;
/// Fills in the defaults of an object.
pub fn default(resource: &Resource, object: &mut Value) {
    default_kind(&resource.group, &resource.version, &resource.kind, object);
}
/// Fills in the defaults of a body that is not an object of a resource (`TokenRequest`).
pub fn default_kind(_group: &str, _version: &str, _kind: &str, _object: &mut Value) {}
