//! Structural schemas: the types of custom resources (`openAPIV3Schema` of a CustomResourceDefinition).
//!
//! A schema is structural if it says of every field what type it has (KEP-1152). The same tree drives pruning,
//! defaulting, validation and server-side apply. Rules in CEL (`x-kubernetes-validations`) are noticed and not
//! evaluated: whoever creates such a definition is told so.

mod check;
mod default;
mod prune;
mod validate;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::Value;

use crate::apply::Kind;
use crate::facts::{TypeId, facts};
use crate::value::ValueExt as _;

pub(crate) use check::check;
pub use check::has_cel_rules;
pub use default::default;
pub use prune::prune;
pub use validate::validate;

/// Deepest schema that is read.
const MAX_DEPTH: usize = 200;

/// The JSON type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonType {
    /// `object`
    Object,
    /// `array`
    Array,
    /// `string`
    String,
    /// `integer`
    Integer,
    /// `number`
    Number,
    /// `boolean`
    Boolean,
}

impl JsonType {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// How a list of a custom resource is merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ListKind {
    #[default]
    Atomic,
    Set,
    Map,
}

/// A type, or within `allOf` and the like further rules for one.
#[derive(Clone, Debug, Default)]
pub struct Structural {
    pub(crate) json_type: Option<JsonType>,
    pub(crate) nullable: bool,
    pub(crate) int_or_string: bool,
    pub(crate) preserve_unknown: bool,
    pub(crate) embedded: bool,
    pub(crate) properties: BTreeMap<String, Structural>,
    pub(crate) additional: Option<Box<Structural>>,
    pub(crate) items: Option<Box<Structural>>,
    pub(crate) default: Option<Value>,
    pub(crate) list: ListKind,
    pub(crate) list_keys: Vec<String>,
    pub(crate) atomic_map: bool,
    /// Something at or below this has a default.
    pub(crate) has_defaults: bool,
    /// Rules for values; most types have none.
    pub(crate) rules: Option<Box<Rules>>,
}

/// Rules for values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    pub format: String,
    pub choices: Vec<Value>,
    pub minimum: Option<(f64, bool)>,
    pub maximum: Option<(f64, bool)>,
    pub multiple_of: Option<f64>,
    pub min_length: Option<u64>,
    pub max_length: Option<u64>,
    pub pattern: Option<regex::Regex>,
    pub min_items: Option<u64>,
    pub max_items: Option<u64>,
    pub unique_items: bool,
    pub min_properties: Option<u64>,
    pub max_properties: Option<u64>,
    pub required: Vec<String>,
    pub all_of: Vec<Structural>,
    pub any_of: Vec<Structural>,
    pub one_of: Vec<Structural>,
    pub not: Option<Box<Structural>>,
}

impl Structural {
    /// Reads a schema. What it does not understand it leaves out: [`check`] refuses it before it is stored.
    pub fn parse(schema: &Value) -> Self {
        Self::read(schema, MAX_DEPTH)
    }

    fn read(schema: &Value, depth: usize) -> Self {
        let Some(below) = depth.checked_sub(1) else {
            return Self {
                preserve_unknown: true,
                ..Self::default()
            };
        };
        let properties: BTreeMap<String, Structural> = schema["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, field)| (name.clone(), Self::read(field, below)))
            .collect();
        let additional = match &schema["additionalProperties"] {
            Value::Object(_) => Some(Box::new(Self::read(&schema["additionalProperties"], below))),
            Value::Bool(true) => Some(Box::new(Self {
                preserve_unknown: true,
                ..Self::default()
            })),
            _ => None,
        };
        let items = schema["items"]
            .is_object()
            .then(|| Box::new(Self::read(&schema["items"], below)));
        let default = schema.get("default").filter(|v| !v.is_null()).cloned();
        let has_defaults = default.is_some()
            || properties.values().any(|p| p.has_defaults)
            || additional.iter().chain(&items).any(|s| s.has_defaults);
        Self {
            json_type: JsonType::parse(schema.text(&["type"])),
            nullable: schema.flag(&["nullable"]),
            int_or_string: schema.flag(&["x-kubernetes-int-or-string"]),
            preserve_unknown: schema.flag(&["x-kubernetes-preserve-unknown-fields"]),
            embedded: schema.flag(&["x-kubernetes-embedded-resource"]),
            list: match schema.text(&["x-kubernetes-list-type"]) {
                "set" => ListKind::Set,
                "map" => ListKind::Map,
                _ => ListKind::Atomic,
            },
            list_keys: texts(schema, "x-kubernetes-list-map-keys"),
            atomic_map: schema.text(&["x-kubernetes-map-type"]) == "atomic",
            rules: Rules::read(schema, below),
            properties,
            additional,
            items,
            default,
            has_defaults,
        }
    }

    /// Whether anything has a default.
    pub fn has_defaults(&self) -> bool {
        self.has_defaults
    }

    /// How values of this type are merged by server-side apply.
    pub(crate) fn merge_kind(&self) -> Kind {
        match self.json_type {
            Some(JsonType::Object) if self.atomic_map => Kind::Leaf,
            Some(JsonType::Object) => Kind::Map,
            Some(JsonType::Array) => match self.list {
                ListKind::Atomic => Kind::Leaf,
                ListKind::Set => Kind::Set,
                ListKind::Map => Kind::Keyed,
            },
            _ => Kind::Leaf,
        }
    }

    /// Whether an object of this type has a place for a field.
    pub(crate) fn has_field(&self, name: &str) -> bool {
        self.preserve_unknown || self.additional.is_some() || self.properties.contains_key(name)
    }

    /// Whether nothing is known of its values.
    pub(crate) fn is_untyped(&self) -> bool {
        self.json_type.is_none() && !self.int_or_string
    }
}

impl Rules {
    fn read(schema: &Value, depth: usize) -> Option<Box<Self>> {
        let number = |name: &str| schema.at(&[name]).and_then(Value::as_f64);
        let count = |name: &str| schema.at(&[name]).and_then(Value::as_u64);
        let list = |name: &str| -> Vec<Structural> {
            let items = schema.items(&[name]).iter();
            items.map(|s| Structural::read(s, depth)).collect()
        };
        let rules = Self {
            format: schema.text(&["format"]).to_owned(),
            choices: schema.items(&["enum"]).to_vec(),
            minimum: number("minimum").map(|n| (n, schema.flag(&["exclusiveMinimum"]))),
            maximum: number("maximum").map(|n| (n, schema.flag(&["exclusiveMaximum"]))),
            multiple_of: number("multipleOf").filter(|n| *n > 0.0),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            pattern: Some(schema.text(&["pattern"]))
                .filter(|p| !p.is_empty())
                .and_then(|p| regex::Regex::new(p).ok()),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            unique_items: schema.flag(&["uniqueItems"]),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            required: texts(schema, "required"),
            all_of: list("allOf"),
            any_of: list("anyOf"),
            one_of: list("oneOf"),
            not: schema.at(&["not"]).map(|s| Box::new(Structural::read(s, depth))),
        };
        (!rules.is_empty()).then(|| Box::new(rules))
    }

    fn is_empty(&self) -> bool {
        self.format.is_empty()
            && self.choices.is_empty()
            && self.minimum.is_none()
            && self.maximum.is_none()
            && self.multiple_of.is_none()
            && self.min_length.is_none()
            && self.max_length.is_none()
            && self.pattern.is_none()
            && self.min_items.is_none()
            && self.max_items.is_none()
            && !self.unique_items
            && self.min_properties.is_none()
            && self.max_properties.is_none()
            && self.required.is_empty()
            && self.all_of.is_empty()
            && self.any_of.is_empty()
            && self.one_of.is_empty()
            && self.not.is_none()
    }
}

fn texts(value: &Value, field: &str) -> Vec<String> {
    let items = value.items(&[field]).iter();
    items.filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

/// The built-in type of `metadata`.
pub(crate) fn object_meta() -> TypeId {
    static ID: OnceLock<TypeId> = OnceLock::new();
    *ID.get_or_init(|| {
        facts()
            .find("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
            .expect("every object has metadata")
    })
}

#[cfg(test)]
mod tests;
