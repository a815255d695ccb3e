//! Fields that field selectors can use.
use crate::registry::Resource;
use serde_json::Value;
/// The selectable fields of an object with their values (an absent field has an empty value).
pub fn field_labels(_resource: &Resource, _object: &Value) -> Vec<(String, String)> {
    Vec::new()
}
/// Whether a field selector on this resource may name this field.
pub fn is_selectable(_resource: &Resource, _field: &str) -> bool {
    true
}
