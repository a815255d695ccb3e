//! Definitions.

use serde_json::{Map, Value, json};

use super::{Describe, Flavour, descriptions};
use crate::facts::{Field, Inner, ListType, Scalar, Shape, TypeId, Wrap, facts};

/// The schema of a definition.
pub(super) fn definition(id: TypeId, flavour: Flavour, describe: Describe<'_>) -> Value {
    let facts = facts();
    let ty = facts.get(id);
    let mut schema = Map::new();
    if let Some(words) = describe(ty.name, "") {
        schema.insert("description".into(), words.into());
    }
    if let Some(leaf) = ty.scalar {
        if let Value::Object(leaf) = scalar(leaf, flavour) {
            schema.extend(leaf);
        }
        return schema.into();
    }
    schema.insert("type".into(), "object".into());
    let fields = facts.fields(id);
    let required: Vec<&str> = fields.iter().filter(|f| f.required).map(|f| f.name).collect();
    if !required.is_empty() {
        schema.insert("required".into(), json!(required));
    }
    if !fields.is_empty() {
        let properties: Map<String, Value> = fields
            .iter()
            .map(|f| {
                let words = describe(ty.name, f.name).or_else(|| description(id, f.name));
                (f.name.to_owned(), property(f, flavour, words))
            })
            .collect();
        schema.insert("properties".into(), properties.into());
    }
    let gvks: Vec<Value> = ty
        .gvks()
        .map(|(g, v, k)| json!({"group": g, "version": v, "kind": k}))
        .collect();
    if !gvks.is_empty() {
        schema.insert("x-kubernetes-group-version-kind".into(), gvks.into());
    }
    if ty.atomic {
        schema.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    schema.into()
}

fn property(field: &Field, flavour: Flavour, description: Option<&str>) -> Value {
    let mut schema = shape(field.shape, flavour);
    let mut extensions: Vec<(&str, Value)> = Vec::new();
    if let Some(words) = description {
        extensions.push(("description", words.into()));
    }
    match field.list {
        ListType::Unset => {}
        ListType::Atomic => extensions.push(("x-kubernetes-list-type", "atomic".into())),
        ListType::Set => extensions.push(("x-kubernetes-list-type", "set".into())),
        ListType::Map => {
            let keys: Vec<&str> = field.map_keys().collect();
            extensions.push(("x-kubernetes-list-map-keys", json!(keys)));
            extensions.push(("x-kubernetes-list-type", "map".into()));
        }
    }
    if field.atomic_map {
        extensions.push(("x-kubernetes-map-type", "atomic".into()));
    }
    if let Some(key) = field.merge_key {
        extensions.push(("x-kubernetes-patch-merge-key", key.into()));
    }
    if let Some(strategy) = field.patch_strategy() {
        extensions.push(("x-kubernetes-patch-strategy", strategy.into()));
    }
    // In version 3 nothing may stand beside a reference.
    if flavour == Flavour::V3 && !extensions.is_empty() && schema.get("$ref").is_some() {
        schema = json!({"allOf": [schema]});
    }
    if let Some(map) = schema.as_object_mut() {
        map.extend(
            extensions
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value)),
        );
    }
    schema
}

/// What is said of the fields that every object has, where the caller has no words for them.
fn description(owner: TypeId, field: &str) -> Option<&'static str> {
    if owner == crate::structural::object_meta() {
        return descriptions::of_object_meta(field);
    }
    let is_object = facts().get(owner).gvks().next().is_some();
    match field {
        "apiVersion" if is_object => Some(descriptions::API_VERSION),
        "kind" if is_object => Some(descriptions::KIND),
        "metadata" if is_object => Some(descriptions::METADATA),
        _ => None,
    }
}

fn shape(shape: Shape, flavour: Flavour) -> Value {
    match shape.wrap {
        Wrap::List => json!({"type": "array", "items": self::shape(shape.item(), flavour)}),
        Wrap::Map | Wrap::MapOfLists => {
            json!({"type": "object", "additionalProperties": self::shape(shape.item(), flavour)})
        }
        Wrap::One => match shape.inner {
            Inner::Type(id) => json!({"$ref": flavour.reference(facts().get(id).name)}),
            Inner::Scalar(leaf) => scalar(leaf, flavour),
        },
    }
}

fn scalar(scalar: Scalar, flavour: Flavour) -> Value {
    match (scalar, flavour) {
        (Scalar::String, _) | (Scalar::Quantity, Flavour::V2) => json!({"type": "string"}),
        (Scalar::Boolean, _) => json!({"type": "boolean"}),
        (Scalar::Int32, _) => json!({"type": "integer", "format": "int32"}),
        (Scalar::Int64, _) => json!({"type": "integer", "format": "int64"}),
        (Scalar::Double, _) => json!({"type": "number", "format": "double"}),
        (Scalar::Byte, _) => json!({"type": "string", "format": "byte"}),
        (Scalar::Time | Scalar::MicroTime, _) => json!({"type": "string", "format": "date-time"}),
        (Scalar::IntOrString, Flavour::V2) => json!({"type": "string", "format": "int-or-string"}),
        (Scalar::IntOrString, Flavour::V3) => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        (Scalar::Quantity, Flavour::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        (Scalar::Object, _) => json!({"type": "object"}),
        (Scalar::Any, _) => json!({}),
    }
}
