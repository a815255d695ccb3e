//! Defaults of custom resources.

use serde_json::Value;

use super::Structural;

/// Fills in the defaults of an object. Does nothing, quickly, where there are none.
pub fn default(schema: &Structural, value: &mut Value) {
    if !schema.has_defaults {
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, field) in schema.properties.iter().filter(|(_, field)| field.has_defaults) {
                if let Some(default) = &field.default {
                    let missing = match fields.get(name) {
                        None => true,
                        Some(value) => value.is_null() && !field.nullable,
                    };
                    if missing {
                        fields.insert(name.clone(), default.clone());
                    }
                }
                if let Some(value) = fields.get_mut(name) {
                    self::default(field, value);
                }
            }
            if let Some(values) = schema.additional.as_deref() {
                let others = fields
                    .iter_mut()
                    .filter(|(name, _)| !schema.properties.contains_key(name.as_str()));
                for (_, value) in others {
                    fill(values, value);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.items.as_deref() {
                items.iter_mut().for_each(|item| fill(schema, item));
            }
        }
        _ => {}
    }
}

/// An item or a value of a map: a null that may not be one becomes the default.
fn fill(schema: &Structural, value: &mut Value) {
    if let (true, false, Some(default)) = (value.is_null(), schema.nullable, &schema.default) {
        *value = default.clone();
    }
    default(schema, value);
}
