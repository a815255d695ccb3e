//! Checks of a schema itself, when a CustomResourceDefinition is written.

use serde_json::Value;

use super::{JsonType, Structural, default, validate};
use crate::validate::{Cause, Reason};
use crate::value::ValueExt as _;

/// What is wrong with a schema at `path`, in upstream's words.
pub(crate) fn check(schema: &Value, path: &str) -> Vec<Cause> {
    let mut checker = Checker { causes: Vec::new() };
    checker.root(schema, path);
    checker.causes
}

struct Checker {
    causes: Vec<Cause>,
}

impl Checker {
    fn cause(&mut self, reason: Reason, field: String, message: impl Into<String>) {
        self.causes.push(Cause {
            reason,
            field,
            message: message.into(),
        });
    }

    fn root(&mut self, schema: &Value, path: &str) {
        match schema.text(&["type"]) {
            "object" => {}
            "" => self.cause(
                Reason::Required,
                format!("{path}.type"),
                "Required value: must not be empty at the root",
            ),
            other => self.cause(
                Reason::Invalid,
                format!("{path}.type"),
                format!("Invalid value: {other:?}: must be object at the root"),
            ),
        }
        if schema.flag(&["nullable"]) {
            self.cause(
                Reason::Forbidden,
                format!("{path}.nullable"),
                "Forbidden: nullable cannot be true at the root",
            );
        }
        self.schema(schema, path, true);
    }

    fn schema(&mut self, schema: &Value, path: &str, root: bool) {
        self.kind(schema, path, root);
        self.lists(schema, path);
        self.default_value(schema, path);
        if let Some(pattern) = schema.at(&["pattern"]).and_then(Value::as_str)
            && let Err(error) = regex::Regex::new(pattern)
        {
            self.cause(
                Reason::Invalid,
                format!("{path}.pattern"),
                format!("Invalid value: {pattern:?}: must be a valid regular expression, but isn't: {error}"),
            );
        }
        for name in [
            "$ref",
            "definitions",
            "dependencies",
            "patternProperties",
            "additionalItems",
        ] {
            if schema.at(&[name]).is_some() {
                self.cause(
                    Reason::Forbidden,
                    format!("{path}.{name}"),
                    format!("Forbidden: {name} is not supported"),
                );
            }
        }
        if schema.flag(&["uniqueItems"]) {
            self.cause(
                Reason::Forbidden,
                format!("{path}.uniqueItems"),
                "Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            );
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            self.schema(field, &format!("{path}.properties[{name}]"), false);
        }
        match &schema["additionalProperties"] {
            Value::Object(_) => {
                if schema["properties"].as_object().is_some_and(|p| !p.is_empty()) {
                    self.cause(
                        Reason::Forbidden,
                        format!("{path}.additionalProperties"),
                        "Forbidden: additionalProperties and properties are mutual exclusive",
                    );
                }
                let path = format!("{path}.additionalProperties");
                self.schema(&schema["additionalProperties"], &path, false);
            }
            Value::Bool(false) => self.cause(
                Reason::Forbidden,
                format!("{path}.additionalProperties"),
                "Forbidden: additionalProperties cannot be set to false",
            ),
            _ => {}
        }
        match &schema["items"] {
            Value::Object(_) => self.schema(&schema["items"], &format!("{path}.items"), false),
            Value::Array(_) => self.cause(
                Reason::Forbidden,
                format!("{path}.items"),
                "Forbidden: items must be a schema object and not an array",
            ),
            _ => {}
        }
    }

    fn kind(&mut self, schema: &Value, path: &str, root: bool) {
        let kind = schema.text(&["type"]);
        let int_or_string = schema.flag(&["x-kubernetes-int-or-string"]);
        let preserve = schema.flag(&["x-kubernetes-preserve-unknown-fields"]);
        if int_or_string && !kind.is_empty() {
            self.cause(
                Reason::Forbidden,
                format!("{path}.type"),
                "Forbidden: must be empty if x-kubernetes-int-or-string is true",
            );
        }
        if kind.is_empty() && !int_or_string && !preserve && !root {
            self.cause(
                Reason::Required,
                format!("{path}.type"),
                "Required value: must not be empty for specified object fields",
            );
        }
        if !kind.is_empty() && JsonType::parse(kind).is_none() {
            let allowed = "\"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"";
            self.cause(
                Reason::NotSupported,
                format!("{path}.type"),
                format!("Unsupported value: {kind:?}: supported values: {allowed}"),
            );
        }
        if kind == "array" && !schema["items"].is_object() {
            self.cause(
                Reason::Required,
                format!("{path}.items"),
                "Required value: must be specified",
            );
        }
        if schema.flag(&["x-kubernetes-embedded-resource"]) {
            if kind != "object" {
                self.cause(
                    Reason::Invalid,
                    format!("{path}.type"),
                    format!(
                        "Invalid value: {kind:?}: must be object if x-kubernetes-embedded-resource is true"
                    ),
                );
            }
            if !preserve
                && schema["properties"]
                    .as_object()
                    .is_none_or(serde_json::Map::is_empty)
            {
                self.cause(
                    Reason::Required,
                    format!("{path}.properties"),
                    "Required value: must not be empty if x-kubernetes-embedded-resource is true without \
                     x-kubernetes-preserve-unknown-fields",
                );
            }
        }
    }

    fn lists(&mut self, schema: &Value, path: &str) {
        let list = schema.text(&["x-kubernetes-list-type"]);
        let keys = schema.items(&["x-kubernetes-list-map-keys"]);
        if !list.is_empty() && schema.text(&["type"]) != "array" {
            self.cause(
                Reason::Invalid,
                format!("{path}.type"),
                format!(
                    "Invalid value: {:?}: must be array if x-kubernetes-list-type is specified",
                    schema.text(&["type"])
                ),
            );
        }
        match list {
            "" | "atomic" | "set" => {
                if !keys.is_empty() {
                    self.cause(
                        Reason::Forbidden,
                        format!("{path}.x-kubernetes-list-map-keys"),
                        "Forbidden: must be empty if x-kubernetes-list-type is not map",
                    );
                }
            }
            "map" => {
                if keys.is_empty() {
                    self.cause(
                        Reason::Required,
                        format!("{path}.x-kubernetes-list-map-keys"),
                        "Required value: must not be empty if x-kubernetes-list-type is map",
                    );
                }
                for (index, key) in keys.iter().enumerate() {
                    let key = key.as_str().unwrap_or_default();
                    if schema["items"]["properties"].get(key).is_none() {
                        self.cause(
                            Reason::Invalid,
                            format!("{path}.x-kubernetes-list-map-keys[{index}]"),
                            format!("Invalid value: {key:?}: entries must all be names of item properties"),
                        );
                    }
                }
            }
            other => self.cause(
                Reason::NotSupported,
                format!("{path}.x-kubernetes-list-type"),
                format!("Unsupported value: {other:?}: supported values: \"atomic\", \"map\", \"set\""),
            ),
        }
        let map = schema.text(&["x-kubernetes-map-type"]);
        if !matches!(map, "" | "atomic" | "granular") {
            self.cause(
                Reason::NotSupported,
                format!("{path}.x-kubernetes-map-type"),
                format!("Unsupported value: {map:?}: supported values: \"atomic\", \"granular\""),
            );
        }
    }

    /// A default must be valid itself, with the defaults below it filled in.
    fn default_value(&mut self, schema: &Value, path: &str) {
        let Some(given) = schema.get("default").filter(|v| !v.is_null()) else {
            return;
        };
        let structural = Structural::parse(schema);
        let mut filled = given.clone();
        default(&structural, &mut filled);
        for cause in validate(&structural, &filled) {
            let below = if cause.field == "<nil>" {
                String::new()
            } else {
                format!(".{}", cause.field)
            };
            self.cause(cause.reason, format!("{path}.default{below}"), cause.message);
        }
    }
}

/// Whether a schema has rules in CEL anywhere.
pub fn has_cel_rules(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => {
            fields
                .get("x-kubernetes-validations")
                .and_then(Value::as_array)
                .is_some_and(|rules| !rules.is_empty())
                || fields.values().any(has_cel_rules)
        }
        Value::Array(items) => items.iter().any(has_cel_rules),
        _ => false,
    }
}
