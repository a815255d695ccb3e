//! Removes what a struct of the API has no place for, and reports it in the words of upstream's decoder.

use serde_json::Value;

use crate::facts::{Facts, Inner, Scalar, Shape, TypeId, Wrap, facts};
use crate::registry::Resource;

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IssueKind {
    /// The schema has no such field; it was removed. Refused, warned about or ignored after `fieldValidation`.
    Unknown,
    /// The value does not fit the field. The request is bad, whatever `fieldValidation` says.
    WrongType,
}

/// A field that the schema has no place for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldIssue {
    /// What is wrong.
    pub kind: IssueKind,
    /// Where: `spec.containers[0].foo`.
    pub path: String,
    /// Upstream's sentence: `unknown field "spec.containers[0].foo"`.
    pub message: String,
}

/// Removes unknown fields and nulls from an object of a resource, and reports unknown fields and wrong types.
///
/// A null is what an absent field is: it is removed silently.
pub fn prune(resource: &Resource, object: &mut Value) -> Vec<FieldIssue> {
    match resource.type_id {
        Some(id) => prune_as(id, object),
        None => match resource.structural() {
            Some(schema) => crate::structural::prune(&schema, object),
            None => Vec::new(),
        },
    }
}

/// Prunes the metadata of a custom resource, which stands at `path`.
pub(crate) fn prune_metadata(path: &str, metadata: &mut Value) -> Vec<FieldIssue> {
    let id = crate::structural::object_meta();
    let mut pruner = Pruner {
        facts: facts(),
        path: path.to_owned(),
        issues: Vec::new(),
        owner: id,
        top: false,
    };
    pruner.shape(Shape::of(id), metadata);
    pruner.issues
}

/// [`prune`] for a body that is not an object of a resource: `Scale`, `Eviction`, `DeleteOptions`, `TokenRequest`.
/// `None` if no such kind is built in.
pub fn prune_kind(group: &str, version: &str, kind: &str, body: &mut Value) -> Option<Vec<FieldIssue>> {
    facts()
        .find_kind(group, version, kind)
        .map(|id| prune_as(id, body))
}

fn prune_as(id: TypeId, object: &mut Value) -> Vec<FieldIssue> {
    let mut pruner = Pruner {
        facts: facts(),
        path: String::new(),
        issues: Vec::new(),
        owner: id,
        top: true,
    };
    pruner.shape(Shape::of(id), object);
    pruner.issues
}

struct Pruner {
    facts: &'static Facts,
    path: String,
    issues: Vec<FieldIssue>,
    /// The struct whose field is being looked at: part of upstream's message on wrong types.
    owner: TypeId,
    /// Nothing but the object itself has been entered yet.
    top: bool,
}

impl Pruner {
    fn shape(&mut self, shape: Shape, value: &mut Value) {
        match (shape.wrap, shape.inner) {
            (Wrap::One, Inner::Scalar(scalar)) => self.scalar(scalar, value),
            (Wrap::One, Inner::Type(id)) => match self.facts.get(id).scalar {
                Some(scalar) => self.scalar(scalar, value),
                None => self.structure(id, shape, value),
            },
            (Wrap::List, _) => self.list(shape, value),
            (Wrap::Map | Wrap::MapOfLists, _) => self.map(shape, value),
        }
    }

    fn structure(&mut self, id: TypeId, shape: Shape, value: &mut Value) {
        let Value::Object(object) = value else {
            self.wrong_type(shape, value);
            return;
        };
        let owner = std::mem::replace(&mut self.owner, id);
        let top = std::mem::replace(&mut self.top, false);
        let length = self.path.len();
        object.retain(|name, value| {
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(name);
            let keep = match self.facts.field(id, name) {
                Some(_) if value.is_null() => false,
                Some(field) => {
                    self.shape(field.shape, value);
                    true
                }
                None => {
                    self.unknown();
                    false
                }
            };
            self.path.truncate(length);
            keep
        });
        self.owner = owner;
        self.top = top;
    }

    fn list(&mut self, shape: Shape, value: &mut Value) {
        let Value::Array(items) = value else {
            self.wrong_type(shape, value);
            return;
        };
        let length = self.path.len();
        for (index, item) in items.iter_mut().enumerate() {
            use std::fmt::Write as _;
            // Writing to a string cannot fail.
            let _ = write!(self.path, "[{index}]");
            if item.is_null() {
                *item = self.zero(shape.item());
            }
            self.shape(shape.item(), item);
            self.path.truncate(length);
        }
    }

    fn map(&mut self, shape: Shape, value: &mut Value) {
        let Value::Object(entries) = value else {
            self.wrong_type(shape, value);
            return;
        };
        let length = self.path.len();
        for (key, entry) in entries.iter_mut() {
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(key);
            if entry.is_null() {
                *entry = self.zero(shape.item());
            }
            self.shape(shape.item(), entry);
            self.path.truncate(length);
        }
    }

    /// What Go leaves in a list or map where JSON has a null.
    fn zero(&self, shape: Shape) -> Value {
        match self.facts.scalar(shape) {
            Some(Scalar::String | Scalar::Byte) => Value::from(""),
            Some(Scalar::Boolean) => Value::from(false),
            Some(Scalar::Int32 | Scalar::Int64 | Scalar::IntOrString) => Value::from(0),
            Some(Scalar::Double) => Value::from(0.0),
            Some(Scalar::Quantity) => Value::from("0"),
            Some(Scalar::Time | Scalar::MicroTime | Scalar::Any) => Value::Null,
            Some(Scalar::Object) | None if shape.wrap == Wrap::List => Value::Array(Vec::new()),
            Some(Scalar::Object) | None => Value::Object(serde_json::Map::new()),
        }
    }

    fn scalar(&mut self, scalar: Scalar, value: &mut Value) {
        let fits = match scalar {
            Scalar::String => value.is_string(),
            Scalar::Boolean => value.is_boolean(),
            Scalar::Int32 => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            Scalar::Int64 => value.is_i64(),
            Scalar::Double => value.is_number(),
            Scalar::IntOrString => {
                value.is_string() || value.as_i64().is_some_and(|n| i32::try_from(n).is_ok())
            }
            Scalar::Object => value.is_object(),
            Scalar::Any => true,
            Scalar::Byte => return self.bytes(value),
            Scalar::Time | Scalar::MicroTime => return self.time(scalar, value),
            Scalar::Quantity => return self.quantity(value),
        };
        if !fits {
            self.wrong_type(
                Shape {
                    wrap: Wrap::One,
                    inner: Inner::Scalar(scalar),
                },
                value,
            );
        }
    }

    fn bytes(&mut self, value: &Value) {
        use base64::Engine as _;
        let Some(text) = value.as_str() else {
            return self.wrong_type(
                Shape {
                    wrap: Wrap::One,
                    inner: Inner::Scalar(Scalar::Byte),
                },
                value,
            );
        };
        // Go's decoder skips line ends inside base64.
        let compact: String;
        let text = if text.contains(['\n', '\r']) {
            compact = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
            &compact
        } else {
            text
        };
        if let Err(error) = base64::engine::general_purpose::STANDARD.decode(text) {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                _ => text.len(),
            };
            self.wrong(format!("illegal base64 data at input byte {at}"));
        }
    }

    fn time(&mut self, scalar: Scalar, value: &mut Value) {
        let Some(text) = value.as_str() else {
            return self.wrong_type(
                Shape {
                    wrap: Wrap::One,
                    inner: Inner::Scalar(Scalar::String),
                },
                value,
            );
        };
        if crate::duration::parse_time(text).is_none() {
            let layout = match scalar {
                Scalar::MicroTime => "2006-01-02T15:04:05.000000Z07:00",
                _ => "2006-01-02T15:04:05Z07:00",
            };
            self.wrong(format!(
                "parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\""
            ));
        }
    }

    /// Quantities are kept in their canonical form, as upstream's decoder does.
    fn quantity(&mut self, value: &mut Value) {
        let text = match &*value {
            Value::String(text) => text.trim().to_owned(),
            Value::Number(number) => number.to_string(),
            other => {
                let shape = Shape {
                    wrap: Wrap::One,
                    inner: Inner::Scalar(Scalar::String),
                };
                return self.wrong_type(shape, &other.clone());
            }
        };
        match crate::quantity::Quantity::parse(&text) {
            Ok(quantity) => {
                let canonical = quantity.to_string();
                if value.as_str() != Some(&canonical) {
                    *value = Value::String(canonical);
                }
            }
            Err(error) => self.wrong(error.to_string()),
        }
    }

    fn unknown(&mut self) {
        self.issues.push(FieldIssue {
            kind: IssueKind::Unknown,
            message: format!("unknown field \"{}\"", self.path),
            path: self.path.clone(),
        });
    }

    fn wrong(&mut self, message: String) {
        self.issues.push(FieldIssue {
            kind: IssueKind::WrongType,
            path: self.path.clone(),
            message,
        });
    }

    fn wrong_type(&mut self, shape: Shape, value: &Value) {
        let found = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(number) => match self.facts.scalar(shape) {
                Some(Scalar::Int32 | Scalar::Int64) => format!("number {number}"),
                _ => "number".to_owned(),
            },
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let wanted = self.go_type(shape);
        if self.top {
            self.wrong(format!(
                "json: cannot unmarshal {found} into Go value of type {wanted}"
            ));
        } else {
            let owner = self.facts.get(self.owner).short_name();
            let path = without_indexes(&self.path);
            self.wrong(format!(
                "json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {wanted}"
            ));
        }
    }

    /// The name of a Go type, which upstream's messages carry.
    fn go_type(&self, shape: Shape) -> String {
        let inner = match shape.inner {
            Inner::Type(id) => {
                let ty = self.facts.get(id);
                format!("{}.{}", ty.package(), ty.short_name())
            }
            Inner::Scalar(scalar) => match scalar {
                Scalar::String | Scalar::IntOrString | Scalar::Quantity => "string",
                Scalar::Time | Scalar::MicroTime => "string",
                Scalar::Boolean => "bool",
                Scalar::Int32 => "int32",
                Scalar::Int64 => "int64",
                Scalar::Double => "float64",
                Scalar::Byte => "[]uint8",
                Scalar::Object | Scalar::Any => "map[string]interface {}",
            }
            .to_owned(),
        };
        match shape.wrap {
            Wrap::One => inner,
            Wrap::List => format!("[]{inner}"),
            Wrap::Map => format!("map[string]{inner}"),
            Wrap::MapOfLists => format!("map[string][]{inner}"),
        }
    }
}

/// Upstream names the field of a wrong type without list indexes.
fn without_indexes(path: &str) -> String {
    let mut inside = false;
    path.chars()
        .filter(|c| match c {
            '[' => {
                inside = true;
                false
            }
            ']' => {
                inside = false;
                false
            }
            _ => !inside,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;
    use serde_json::json;

    fn issues(plural: &str, mut value: Value) -> (Value, Vec<String>) {
        let group = if plural == "deployments" { "apps" } else { "" };
        let resource = registry().find(group, "v1", plural).unwrap();
        let issues = prune(resource, &mut value);
        (value, issues.into_iter().map(|i| i.message).collect())
    }

    #[test]
    fn unknown_fields_are_removed_and_named() {
        let (value, issues) = issues(
            "pods",
            json!({"spec": {"foo": 1, "containers": [{"name": "a", "bar": {}}], "nodeName": null}}),
        );
        assert_eq!(
            issues,
            [
                "unknown field \"spec.foo\"",
                "unknown field \"spec.containers[0].bar\""
            ]
        );
        assert_eq!(value, json!({"spec": {"containers": [{"name": "a"}]}}));
    }

    #[test]
    fn wrong_types_are_told_as_upstream_does() {
        let wrong = |plural, value| issues(plural, value).1.remove(0);
        assert_eq!(
            wrong("deployments", json!({"spec": {"replicas": "3"}})),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        );
        assert_eq!(
            wrong(
                "deployments",
                json!({"spec": {"template": {"spec": {"containers": {}}}}})
            ),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container"
        );
        assert_eq!(
            wrong("pods", json!({"spec": {"containers": [{"name": 5}]}})),
            "json: cannot unmarshal number into Go struct field Container.spec.containers.name of type string"
        );
        assert_eq!(
            wrong("configmaps", json!({"data": {"a": 1}})),
            "json: cannot unmarshal number into Go struct field ConfigMap.data.a of type string"
        );
        assert_eq!(
            wrong("secrets", json!({"data": {"a": "%%"}})),
            "illegal base64 data at input byte 0"
        );
        assert_eq!(
            wrong("pods", json!("x")),
            "json: cannot unmarshal string into Go value of type v1.Pod"
        );
    }

    #[test]
    fn bodies_that_are_no_objects_have_a_structure_too() {
        for (group, kind) in [
            ("", "DeleteOptions"),
            ("", "Binding"),
            ("policy", "Eviction"),
            ("autoscaling", "Scale"),
            ("authentication.k8s.io", "TokenRequest"),
        ] {
            let mut body = json!({"kind": kind, "nonsense": 1});
            let issues = prune_kind(group, "v1", kind, &mut body).expect(kind);
            assert_eq!(issues[0].message, "unknown field \"nonsense\"", "{kind}");
        }
        assert!(prune_kind("", "v1", "NoSuchKind", &mut json!({})).is_none());
    }

    #[test]
    fn quantities_become_canonical() {
        let (value, issues) = issues(
            "pods",
            json!({"spec": {"containers": [{"resources": {"requests": {"cpu": 0.5, "memory": "1024Mi"}}}]}}),
        );
        assert!(issues.is_empty(), "{issues:?}");
        assert_eq!(
            value["spec"]["containers"][0]["resources"]["requests"],
            json!({"cpu": "500m", "memory": "1Gi"})
        );
    }
}
