//! JSON merge patch (RFC 7386).

use serde_json::{Map, Value};

/// The document with the patch merged in: nulls delete, objects merge, everything else replaces.
#[must_use]
pub fn merge_patch(original: &Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    let empty = Map::new();
    let original = original.as_object().unwrap_or(&empty);
    let mut merged = Map::with_capacity(original.len() + patch.len());
    for (name, value) in original {
        match patch.get(name) {
            None => {
                merged.insert(name.clone(), value.clone());
            }
            Some(Value::Null) => {}
            Some(change) => {
                merged.insert(name.clone(), merge_patch(value, change));
            }
        }
    }
    for (name, change) in patch {
        if !change.is_null() && !original.contains_key(name) {
            merged.insert(name.clone(), merge_patch(&Value::Null, change));
        }
    }
    Value::Object(merged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn examples_of_the_rfc() {
        for (original, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "b"}), json!(["c"]), json!(["c"])),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (
                json!({}),
                json!({"a": {"bb": {"ccc": null}}}),
                json!({"a": {"bb": {}}}),
            ),
        ] {
            assert_eq!(merge_patch(&original, &patch), result);
        }
    }
}
