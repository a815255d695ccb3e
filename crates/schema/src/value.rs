//! Short ways to read and write JSON trees. A missing field, a null and a field of another type all read as absent.

use serde_json::{Map, Value};

/// Reads below a value.
pub(crate) trait ValueExt {
    /// The value at a path of field names, if it is there and not null.
    fn at(&self, path: &[&str]) -> Option<&Value>;

    /// The text at a path; empty if there is none.
    fn text(&self, path: &[&str]) -> &str {
        self.at(path).and_then(Value::as_str).unwrap_or_default()
    }

    /// The integer at a path.
    fn int(&self, path: &[&str]) -> Option<i64> {
        self.at(path).and_then(Value::as_i64)
    }

    /// The boolean at a path; false if there is none.
    fn flag(&self, path: &[&str]) -> bool {
        self.at(path).and_then(Value::as_bool).unwrap_or_default()
    }

    /// The items of the list at a path; none if there is no list.
    fn items(&self, path: &[&str]) -> &[Value] {
        self.at(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }
}

impl ValueExt for Value {
    fn at(&self, path: &[&str]) -> Option<&Value> {
        let mut value = self;
        for name in path {
            value = value.get(name)?;
        }
        (!value.is_null()).then_some(value)
    }
}

/// The object at a path, for writing; none if any part is missing.
pub(crate) fn object_mut<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Map<String, Value>> {
    let mut value = value;
    for name in path {
        value = value.get_mut(name)?;
    }
    value.as_object_mut()
}

/// A field with the empty value of its Go type: absent for most purposes.
pub(crate) fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(fields)) => fields.is_empty(),
        Some(Value::Bool(_) | Value::Number(_)) => false,
    }
}

/// Fields that Go holds by value: clients written in Go leave them out when they are 0 or false.
const ZERO_IS_ABSENT: &[&str] = &[
    "count",
    "healthCheckNodePort",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostPort",
    "initialDelaySeconds",
    "minReadySeconds",
    "nodePort",
    "paused",
    "publishNotReadyAddresses",
    "readOnly",
    "stdin",
    "stdinOnce",
    "tty",
    "unschedulable",
];

/// Equality as upstream compares objects: absent, null, and empty lists, maps and strings are the same, and so are
/// the zeros of fields that have no other way to be absent.
pub(crate) fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a, b) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let held = |name: &str, value: Option<&Value>, other: Option<&Value>| {
                same(value, other) || (ZERO_IS_ABSENT.contains(&name) && is_zero(value) && is_zero(other))
            };
            a.iter().all(|(name, value)| held(name, Some(value), b.get(name)))
                && b.iter()
                    .all(|(name, value)| a.contains_key(name) || held(name, None, Some(value)))
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(Some(a), Some(b)))
        }
        (Some(a), Some(b)) => a == b || (is_empty_deep(a) && is_empty_deep(b)),
        (Some(one), None) | (None, Some(one)) => is_empty_deep(one),
        (None, None) => true,
    }
}

/// Absent, 0 or false.
fn is_zero(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => true,
        Some(value) => value.as_i64() == Some(0),
    }
}

/// Empty, or an object whose fields are.
fn is_empty_deep(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.values().all(is_empty_deep),
        other => is_empty(Some(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn empty_is_absent() {
        let same = |a: Value, b: Value| same(Some(&a), Some(&b));
        assert!(same(json!({"a": {}, "b": 1}), json!({"b": 1, "c": []})));
        assert!(same(json!({"a": [{"b": null}]}), json!({"a": [{}]})));
        assert!(!same(json!({"a": 0}), json!({})));
        assert!(same(json!({"initialDelaySeconds": 0}), json!({})) && same(json!({}), json!({"tty": false})));
        assert!(!same(json!({"tty": true}), json!({})) && !same(json!({"runAsUser": 0}), json!({})));
        assert!(!same(json!({"a": [1]}), json!({"a": [1, 2]})));
    }
}
