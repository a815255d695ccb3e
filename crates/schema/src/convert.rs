//! Conversion between the versions of a resource that share their storage.
use crate::registry::Resource;
use serde_json::Value;

/// Turns an object from the version that it is stored in into the resource's own.
pub fn from_storage(_resource: &Resource, _object: &mut Value) {}

/// Turns an object of the resource's own version into the one that it is stored in.
pub fn to_storage(_resource: &Resource, _object: &mut Value) {}

/// Whether the two differ at all, so that a caller can pass stored bytes on.
pub fn is_needed(resource: &Resource) -> bool {
    resource.group != resource.storage_version.0 || resource.version != resource.storage_version.1
}
