//! Which part of an object a request may change.
use crate::registry::Resource;
use serde_json::Value;

/// Before a create: drops the status, sets the generation. Call after defaulting, before validation.
pub fn prepare_create(_resource: &Resource, _object: &mut Value) {}

/// Before an update of the main resource: takes the status (and other fields that this path may not change) from the
/// stored object, and counts the generation.
pub fn prepare_update(_resource: &Resource, _old: &Value, _new: &mut Value) {}

/// Before an update of the status: takes everything but the status (and what else this path may change) from the
/// stored object.
pub fn prepare_status_update(_resource: &Resource, _old: &Value, _new: &mut Value) {}
