//! Removes the fields of a custom resource that its schema has no place for.

use serde_json::{Map, Value};

use super::Structural;
use crate::prune::{FieldIssue, IssueKind, prune_metadata};

/// Removes unknown fields, and nulls where no null may be, from an object; reports unknown fields and metadata of
/// wrong types.
pub fn prune(schema: &Structural, object: &mut Value) -> Vec<FieldIssue> {
    let mut pruner = Pruner::default();
    pruner.object(schema, object, true);
    pruner.issues
}

#[derive(Default)]
struct Pruner {
    path: String,
    issues: Vec<FieldIssue>,
}

impl Pruner {
    fn value(&mut self, schema: &Structural, value: &mut Value) {
        match value {
            Value::Object(_) => self.object(schema, value, schema.embedded),
            Value::Array(items) => {
                let Some(schema) = schema.items.as_deref() else {
                    return;
                };
                let length = self.path.len();
                for (index, item) in items.iter_mut().enumerate() {
                    self.path.push_str(&format!("[{index}]"));
                    self.value(schema, item);
                    self.path.truncate(length);
                }
            }
            _ => {}
        }
    }

    fn object(&mut self, schema: &Structural, value: &mut Value, resource: bool) {
        let Value::Object(fields) = value else { return };
        let length = self.path.len();
        fields.retain(|name, value| {
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(name);
            let keep = self.field(schema, name, value, resource);
            self.path.truncate(length);
            keep
        });
    }

    /// Looks at one field; false if it is to be removed.
    fn field(&mut self, schema: &Structural, name: &str, value: &mut Value, resource: bool) -> bool {
        if resource {
            match name {
                "apiVersion" | "kind" => return true,
                "metadata" => {
                    if value.is_null() {
                        *value = Value::Object(Map::new());
                    }
                    self.issues.extend(prune_metadata(&self.path, value));
                    return true;
                }
                _ => {}
            }
        }
        let known = schema.properties.get(name).or(schema.additional.as_deref());
        match known {
            Some(field) if value.is_null() => {
                field.nullable || (field.preserve_unknown && field.json_type.is_none())
            }
            Some(field) => {
                self.value(field, value);
                true
            }
            None if schema.preserve_unknown => true,
            None => {
                self.issues.push(FieldIssue {
                    kind: IssueKind::Unknown,
                    message: format!("unknown field \"{}\"", self.path),
                    path: self.path.clone(),
                });
                false
            }
        }
    }
}
