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

    /// The object at a path.
    fn object(&self, path: &[&str]) -> Option<&Map<String, Value>> {
        self.at(path).and_then(Value::as_object)
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

/// The items of the list at a path, for writing; none if there is no list.
pub(crate) fn items_mut<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut [Value] {
    let mut value = value;
    for name in path {
        match value.get_mut(name) {
            Some(next) => value = next,
            None => return &mut [],
        }
    }
    value.as_array_mut().map_or(&mut [], Vec::as_mut_slice)
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

/// Sets a field that is absent, null or an empty string.
pub(crate) fn set_default(object: &mut Map<String, Value>, name: &str, default: impl Into<Value>) {
    match object.get_mut(name) {
        Some(Value::Null) => {
            object.insert(name.to_owned(), default.into());
        }
        Some(Value::String(text)) if text.is_empty() => {
            object.insert(name.to_owned(), default.into());
        }
        Some(_) => {}
        None => {
            object.insert(name.to_owned(), default.into());
        }
    }
}

/// The object in a field, made if absent; none if something else is there.
pub(crate) fn ensure_object<'a>(
    object: &'a mut Map<String, Value>,
    name: &str,
) -> Option<&'a mut Map<String, Value>> {
    let slot = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
    if slot.is_null() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut()
}
