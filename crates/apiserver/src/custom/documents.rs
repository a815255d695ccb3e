//! Discovery of custom resources in the plain form.

use crate::server::Server;
use schema::{Resource, discovery};
use serde_json::{Value, json};

/// `/apis/{group}`.
pub fn group(server: &Server, group: &str) -> Option<Value> {
    let mut entries = discovery::custom_entries(&server.store.customs().resources());
    let at = entries.iter().position(|entry| entry["name"] == group)?;
    let mut value = json!({"kind": "APIGroup", "apiVersion": "v1"});
    if let (Some(object), Value::Object(entry)) = (value.as_object_mut(), entries.swap_remove(at)) {
        object.extend(entry);
    }
    Some(value)
}

/// `/apis/{group}/{version}`.
pub fn resource_list(server: &Server, group_version: &str) -> Option<Value> {
    let all = server.store.customs().resources();
    let found: Vec<&Resource> = all.iter().filter(|r| r.api_version() == group_version).collect();
    (!found.is_empty()).then(|| discovery::resource_list_of(group_version, found))
}
