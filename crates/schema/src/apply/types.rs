//! What server-side apply has to know of a type: which values are merged and which are replaced as a whole.

use serde_json::Value;

use super::set;
use crate::facts::{Field, Inner, ListType, Scalar, Shape, TypeId, Wrap, facts};
use crate::registry::Resource;
use crate::structural::{self, Structural};

/// The type at some place of an object.
#[derive(Clone, Copy)]
pub(super) enum Type<'a> {
    /// Of a built-in type, with the field that it is the value of (the list type is the field's).
    Fact(Shape, Option<&'static Field>),
    /// Of a custom resource.
    Custom(&'a Structural),
    /// The object of a custom resource itself, or one within it: its metadata is built in.
    Embedded(&'a Structural),
    /// Nothing is known: objects are merged, all else is replaced.
    Deduced,
    /// Replaced as a whole.
    Atomic,
}

/// How a value is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As a whole.
    Leaf,
    /// Field by field.
    Map,
    /// Item by item, each known by its value.
    Set,
    /// Item by item, each known by its keys.
    Keyed,
}

impl<'a> Type<'a> {
    /// The type of a resource's objects. `custom` is the schema of a custom one.
    pub(super) fn of(resource: &Resource, custom: Option<&'a Structural>) -> Self {
        match (resource.type_id, custom) {
            (Some(id), _) => Type::Fact(Shape::of(id), None),
            (None, Some(schema)) => Type::Embedded(schema),
            (None, None) => Type::Deduced,
        }
    }

    /// How values of this type are merged, as far as the type says; a value that does not fit is a leaf.
    pub(super) fn kind(self, value: &Value) -> Kind {
        let kind = match self {
            Type::Atomic => Kind::Leaf,
            Type::Deduced => Kind::Map,
            Type::Embedded(_) => Kind::Map,
            Type::Custom(schema) => schema.merge_kind(),
            Type::Fact(shape, field) => fact_kind(shape, field),
        };
        let fits = match kind {
            Kind::Leaf => true,
            Kind::Map => value.is_object(),
            Kind::Set | Kind::Keyed => value.is_array(),
        };
        if fits { kind } else { Kind::Leaf }
    }

    /// The type of a field, and whether the type names it (a key of a map is not named).
    pub(super) fn field(self, name: &str) -> (Type<'a>, bool) {
        match self {
            Type::Atomic => (Type::Atomic, false),
            Type::Deduced => (Type::Deduced, false),
            Type::Embedded(schema) => match name {
                "metadata" => (Type::Fact(Shape::of(structural::object_meta()), None), true),
                "apiVersion" | "kind" => (Type::Atomic, true),
                _ => custom_field(schema, name),
            },
            Type::Custom(schema) => custom_field(schema, name),
            Type::Fact(shape, _) => fact_field(shape, name),
        }
    }

    /// The type of a list's items.
    pub(super) fn item(self) -> Type<'a> {
        match self {
            Type::Fact(shape, _) => Type::Fact(shape.item(), None),
            Type::Custom(schema) => schema.items.as_deref().map_or(Type::Deduced, custom),
            Type::Embedded(_) | Type::Deduced | Type::Atomic => Type::Deduced,
        }
    }

    /// Whether there is any field of this name, for what a client applies.
    pub(super) fn declares(self, name: &str) -> bool {
        match self {
            Type::Atomic | Type::Deduced => true,
            Type::Embedded(schema) => {
                matches!(name, "metadata" | "apiVersion" | "kind") || schema.has_field(name)
            }
            Type::Custom(schema) => schema.has_field(name),
            Type::Fact(shape, _) => match facts().structure(shape) {
                Some(id) => facts().field(id, name).is_some(),
                None => true,
            },
        }
    }

    /// The element of an item of this list, or what is wrong with the item.
    pub(super) fn element(self, kind: Kind, item: &Value) -> Result<Box<str>, String> {
        if kind == Kind::Set {
            return Ok(set::value(item));
        }
        let mut keys = Vec::new();
        let mut missing = None;
        self.each_key(|name, default| match item.get(name).filter(|v| !v.is_null()) {
            Some(value) => keys.push((name, value.clone())),
            None => match default {
                Some(value) => keys.push((name, value)),
                None => missing = missing.take().or(Some(name)),
            },
        });
        match missing {
            Some(name) => Err(format!(
                "associative list with keys has an element that omits key field {name:?} (and doesn't have default \
                 value)"
            )),
            None => Ok(set::key(
                keys.iter().map(|(name, value)| (*name, value)).collect(),
            )),
        }
    }

    /// The keys of the items of this list with their defaults.
    fn each_key(self, mut found: impl FnMut(&'a str, Option<Value>)) {
        match self {
            Type::Fact(_, Some(field)) => {
                for name in field.map_keys() {
                    // The only key with a default in the published types.
                    found(name, (name == "protocol").then(|| Value::from("TCP")));
                }
            }
            Type::Custom(schema) => {
                for name in &schema.list_keys {
                    let item = schema.items.as_deref();
                    let field = item.and_then(|item| item.properties.get(name));
                    found(name, field.and_then(|field| field.default.clone()));
                }
            }
            _ => {}
        }
    }
}

fn custom(schema: &Structural) -> Type<'_> {
    if schema.embedded {
        Type::Embedded(schema)
    } else if schema.is_untyped() {
        Type::Deduced
    } else {
        Type::Custom(schema)
    }
}

fn custom_field<'a>(schema: &'a Structural, name: &str) -> (Type<'a>, bool) {
    match (schema.properties.get(name), schema.additional.as_deref()) {
        (Some(field), _) => (custom(field), true),
        (None, Some(values)) => (custom(values), false),
        (None, None) => (Type::Deduced, false),
    }
}

fn fact_kind(shape: Shape, field: Option<&'static Field>) -> Kind {
    let replaced = field.is_some_and(|field| field.atomic_map);
    match (shape.wrap, shape.inner) {
        (Wrap::List, _) => match field.map(|field| field.list) {
            Some(ListType::Set) => Kind::Set,
            Some(ListType::Map) => Kind::Keyed,
            _ => Kind::Leaf,
        },
        _ if replaced => Kind::Leaf,
        (Wrap::Map | Wrap::MapOfLists, _) => Kind::Map,
        (Wrap::One, Inner::Scalar(scalar)) => scalar_kind(scalar),
        (Wrap::One, Inner::Type(id)) => type_kind(id),
    }
}

fn type_kind(id: TypeId) -> Kind {
    let ty = facts().get(id);
    match ty.scalar {
        Some(scalar) => scalar_kind(scalar),
        None if ty.atomic => Kind::Leaf,
        None => Kind::Map,
    }
}

fn scalar_kind(scalar: Scalar) -> Kind {
    if scalar == Scalar::Object {
        Kind::Map
    } else {
        Kind::Leaf
    }
}

fn fact_field(shape: Shape, name: &str) -> (Type<'static>, bool) {
    match shape.wrap {
        Wrap::Map | Wrap::MapOfLists => (Type::Fact(shape.item(), None), false),
        _ => match facts().structure(shape).and_then(|id| facts().field(id, name)) {
            Some(field) => (Type::Fact(field.shape, Some(field)), true),
            // A raw extension: its fields are replaced.
            None => (Type::Atomic, false),
        },
    }
}
