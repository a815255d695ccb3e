//! `metadata`, which the server owns in part.

use crate::http::status::Status;
use crate::time;
use rand::Rng;
use schema::Resource;
use serde_json::{Map, Value};

/// Characters of generated names: no vowels, so that no words come out (upstream's alphabet).
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// How many are appended.
const SUFFIX: usize = 5;
/// A generated name must leave place for the suffix.
const MAX_BASE: usize = 63 - SUFFIX;

/// `metadata` of an object, made if it is missing.
pub fn of(value: &mut Value) -> &mut Map<String, Value> {
    if !value["metadata"].is_object() {
        value["metadata"] = Value::Object(Map::new());
    }
    value["metadata"]
        .as_object_mut()
        .expect("it was made an object just now")
}

/// A name from `generateName`.
pub fn generate(base: &str) -> String {
    let mut name: String = base.chars().take(MAX_BASE).collect();
    let mut random = rand::rng();
    for _ in 0..SUFFIX {
        name.push(char::from(ALPHABET[random.random_range(0..ALPHABET.len())]));
    }
    name
}

/// The namespace of the path must be that of the object.
pub fn set_namespace(resource: &Resource, value: &mut Value, namespace: &str) -> Result<(), Status> {
    let metadata = of(value);
    if !resource.namespaced {
        metadata.remove("namespace");
        return Ok(());
    }
    match metadata.get("namespace").and_then(Value::as_str) {
        None | Some("") => {
            metadata.insert("namespace".into(), namespace.into());
            Ok(())
        }
        Some(given) if given == namespace => Ok(()),
        Some(given) => Err(Status::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request ({given} != \
             {namespace})"
        ))),
    }
}

/// Prepares the metadata of a new object.
pub fn prepare_create(value: &mut Value) -> Result<(), Status> {
    let metadata = of(value);
    if metadata
        .get("resourceVersion")
        .and_then(Value::as_str)
        .is_some_and(|v| !v.is_empty() && v != "0")
    {
        return Err(Status::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    for field in [
        "resourceVersion",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "clusterName",
    ] {
        metadata.remove(field);
    }
    let named = metadata
        .get("name")
        .and_then(Value::as_str)
        .is_some_and(|n| !n.is_empty());
    if !named
        && let Some(base) = metadata
            .get("generateName")
            .and_then(Value::as_str)
            .map(str::to_owned)
    {
        metadata.insert("name".into(), generate(&base).into());
    }
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), time::now().into());
    Ok(())
}

/// Fields that only the server sets keep their values.
pub fn prepare_update(old: &Value, new: &mut Value) {
    let old = old["metadata"].as_object();
    let metadata = of(new);
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
    ] {
        match old.and_then(|o| o.get(field)) {
            Some(value) => {
                metadata.insert(field.into(), value.clone());
            }
            // A generateName may be told afterwards; it has no effect.
            None if field == "generateName" => {}
            None => {
                metadata.remove(field);
            }
        }
    }
    metadata.remove("selfLink");
}

/// The resourceVersion that an update is based on; `None` if it does not say.
pub fn base_revision(value: &Value) -> Result<Option<i64>, Status> {
    match value["metadata"]["resourceVersion"].as_str() {
        None | Some("" | "0") => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| Status::bad_request(format!("invalid resource version {text:?}"))),
    }
}

/// A text field of the metadata, or empty.
pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value["metadata"][field].as_str().unwrap_or_default()
}

/// The finalizers.
pub fn finalizers(value: &Value) -> Vec<String> {
    let list = value["metadata"]["finalizers"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    list.iter()
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect()
}

/// Whether it is being deleted.
pub fn is_terminating(value: &Value) -> bool {
    !value["metadata"]["deletionTimestamp"].is_null()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn generated_names_fit() {
        let name = generate(&"x".repeat(100));
        assert_eq!(name.len(), 63);
        assert_ne!(generate("a-"), generate("a-"));
    }

    #[test]
    fn the_server_owns_its_fields() {
        let mut value = json!({"metadata": {"generateName": "a-", "uid": "mine", "deletionTimestamp": "x"}});
        prepare_create(&mut value).unwrap();
        assert!(text(&value, "name").starts_with("a-"));
        assert_ne!(text(&value, "uid"), "mine");
        assert!(!is_terminating(&value));
        let mut update = json!({"metadata": {"name": "a", "uid": "other", "deletionTimestamp": "now"}});
        prepare_update(&value, &mut update);
        assert_eq!(text(&update, "uid"), text(&value, "uid"));
        assert!(!is_terminating(&update));
    }
}
