//! Getting at parts of a JSON value without adding what is not there: `value["a"]` on a mutable value inserts a null.

use serde_json::Value;

/// The items of a list field; none if it is missing.
pub fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The items of a list at a path; none if it is missing.
pub fn items_mut<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut [Value] {
    let found = path.iter().try_fold(value, |value, field| value.get_mut(*field));
    found
        .and_then(Value::as_array_mut)
        .map(Vec::as_mut_slice)
        .unwrap_or_default()
}

/// Appends to a list field, which is made if it is missing.
pub fn push(value: &mut Value, field: &str, item: Value) {
    match value.get_mut(field).and_then(Value::as_array_mut) {
        Some(items) => items.push(item),
        None => value[field] = Value::Array(vec![item]),
    }
}
