//! Strategic merge patch: a merge patch that knows which lists are merged by key, and carries directives.
//!
//! | directive | where | meaning |
//! |---|---|---|
//! | `$patch: replace` | map | the patch replaces the map |
//! | `$patch: delete` | map | the map becomes empty |
//! | `$patch: delete` with a merge key | list item | removes the item |
//! | `$patch: replace` | list item | the other items of the patch replace the list |
//! | `$retainKeys: [..]` | map | fields that are not listed are removed |
//! | `$deleteFromPrimitiveList/f: [..]` | map | removes scalars from the list `f` |
//! | `$setElementOrder/f: [..]` | map | the order of the list `f` after merging |
//!
//! Semantics follow upstream's `strategicpatch` package, the order of merged lists included.

mod list;

use serde_json::{Map, Value};

use crate::facts::{Shape, TypeId, Wrap, facts};
use crate::registry::Resource;

type Object = Map<String, Value>;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Why a patch does not apply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch, or the object, is not a JSON object.
    #[error("Invalid JSON document")]
    NotAnObject,
    /// The resource has no structure that says how to merge: only JSON and merge patches apply.
    #[error("strategic merge patch is not supported for {0}")]
    Unsupported(String),
    /// `$patch` with another value.
    #[error("unknown patch type: {0}")]
    PatchType(String),
    /// An item of a list that is merged by key lacks the key.
    #[error("map: {item} does not contain declared merge key: {key}")]
    NoMergeKey {
        /// The item.
        item: String,
        /// The key that it needs.
        key: String,
    },
    /// A list of objects in a place where the schema gives no key.
    #[error("cannot merge lists without merge key")]
    NoKeyForList,
    /// A directive that is not a list.
    #[error("invalid patch format of {0}")]
    BadDirective(&'static str),
    /// A field of the patch is not among those that it says to retain.
    #[error("invalid patch format of retainKeys")]
    NotRetained,
    /// The order directive and the list disagree.
    #[error("The order in patch list:\n{patch}\n doesn't match $setElementOrder list:\n{order}\n")]
    OrderMismatch {
        /// The patch list.
        patch: String,
        /// The order directive.
        order: String,
    },
    /// Items of one list are partly objects, partly scalars.
    #[error("list element types are not identical")]
    MixedList,
}

/// The object with the patch merged in.
pub fn strategic_merge(resource: &Resource, original: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Some(id) = resource.type_id else {
        return Err(PatchError::Unsupported(resource.qualified_kind()));
    };
    let (Value::Object(original), Value::Object(patch)) = (original, patch) else {
        return Err(PatchError::NotAnObject);
    };
    merge_map(original.clone(), patch.clone(), Scope::Struct(id)).map(Value::Object)
}

/// What is known about the fields of a map.
#[derive(Clone, Copy)]
enum Scope {
    Struct(TypeId),
    /// A map with string keys; the shape is the map's.
    Map(Shape),
    Unknown,
}

/// How one field is merged.
#[derive(Clone, Copy)]
struct Rule {
    /// Scope of the field's value, or of the items of a list.
    scope: Scope,
    merges: bool,
    replaces: bool,
    key: Option<&'static str>,
}

impl Scope {
    fn of(shape: Shape) -> Scope {
        match shape.wrap {
            Wrap::Map | Wrap::MapOfLists => Scope::Map(shape),
            Wrap::List => Scope::Unknown,
            Wrap::One => facts().structure(shape).map_or(Scope::Unknown, Scope::Struct),
        }
    }

    fn rule(self, name: &str) -> Rule {
        let unknown = Rule {
            scope: Scope::Unknown,
            merges: false,
            replaces: false,
            key: None,
        };
        match self {
            Scope::Unknown => unknown,
            Scope::Map(shape) => Rule {
                scope: Scope::of(shape.item()),
                ..unknown
            },
            Scope::Struct(id) => facts().field(id, name).map_or(unknown, |field| {
                let shape = if field.shape.wrap == Wrap::List {
                    field.shape.item()
                } else {
                    field.shape
                };
                Rule {
                    scope: Scope::of(shape),
                    merges: field.patch_merges(),
                    replaces: field.patch_replaces(),
                    key: field.merge_key,
                }
            }),
        }
    }
}

fn merge_map(mut original: Object, mut patch: Object, scope: Scope) -> Result<Object, PatchError> {
    if let Some(directive) = patch.shift_remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => Ok(without_directives(patch)),
            Some("delete") => Ok(Object::new()),
            _ => Err(PatchError::PatchType(directive.to_string())),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    set_element_orders(&mut original, &mut patch, scope)?;
    for (name, change) in patch {
        let (name, deletes) = match name.strip_prefix(DELETE_FROM_LIST) {
            Some(name) => (name.to_owned(), true),
            None => (name, false),
        };
        if change.is_null() {
            original.shift_remove(&name);
            continue;
        }
        let Some(slot) = original.get_mut(&name) else {
            if !deletes {
                original.insert(name, clean(change));
            }
            continue;
        };
        let rule = scope.rule(&name);
        match (slot, change) {
            (Value::Object(current), Value::Object(change)) if !rule.replaces => {
                *current = merge_map(std::mem::take(current), change, rule.scope)?;
            }
            (Value::Array(current), Value::Array(change)) if deletes => {
                current.retain(|item| !change.contains(item));
            }
            (Value::Array(current), Value::Array(change)) if rule.merges => {
                *current = list::merge(std::mem::take(current), change, rule)?;
            }
            (slot, change) => {
                if !deletes {
                    *slot = clean(change);
                }
            }
        }
    }
    Ok(original)
}

/// Applies `$retainKeys`: what is not listed goes, and everything that the patch sets must be listed.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let Some(keys) = patch.shift_remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let Value::Array(keys) = keys else {
        return Err(PatchError::BadDirective("retainKeys"));
    };
    let listed = |name: &str| keys.iter().any(|key| key.as_str() == Some(name));
    let sets = patch
        .iter()
        .filter(|(name, value)| !value.is_null() && !name.starts_with('$'));
    for (name, _) in sets {
        if !listed(name) {
            return Err(PatchError::NotRetained);
        }
    }
    original.retain(|name, _| listed(name));
    Ok(())
}

/// Merges each list that has a `$setElementOrder` and puts it in that order. Both are taken out of the patch.
fn set_element_orders(original: &mut Object, patch: &mut Object, scope: Scope) -> Result<(), PatchError> {
    let names: Vec<String> = patch
        .keys()
        .filter_map(|name| name.strip_prefix(SET_ORDER).map(str::to_owned))
        .collect();
    for name in names {
        let order = match patch.shift_remove(&format!("{SET_ORDER}{name}")) {
            Some(Value::Array(order)) => order,
            _ => return Err(PatchError::BadDirective("setElementOrder list")),
        };
        let rule = scope.rule(&name);
        let delete_name = format!("{DELETE_FROM_LIST}{name}");
        // Deletions of scalars come first, as they are part of the same change.
        if let Some(Value::Array(deleted)) = patch.shift_remove(&delete_name)
            && let Some(Value::Array(current)) = original.get_mut(&name)
        {
            current.retain(|item| !deleted.contains(item));
        }
        let change = match patch.shift_remove(&name) {
            Some(Value::Array(change)) => Some(change),
            Some(Value::Null) => {
                original.shift_remove(&name);
                continue;
            }
            None => None,
            Some(_) => return Err(PatchError::BadDirective("setElementOrder list")),
        };
        if let Some(change) = &change {
            list::check_order(change, &order, rule.key)?;
        }
        let current = match original.get_mut(&name) {
            Some(Value::Array(current)) => Some(std::mem::take(current)),
            _ => None,
        };
        let (merged, before) = match (current, change) {
            (None, None) => continue,
            (Some(current), None) => (current.clone(), current),
            (None, Some(change)) => (list::without_directives(change), Vec::new()),
            (Some(current), Some(change)) if rule.merges => {
                (list::merge(current.clone(), change, rule)?, current)
            }
            (Some(current), Some(change)) => (list::without_directives(change), current),
        };
        original.insert(
            name,
            Value::Array(list::in_order(merged, &order, &before, rule.key)),
        );
    }
    Ok(())
}

/// A value of a patch as it is stored: without directives and without nulls.
fn clean(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(without_directives(map)),
        Value::Array(items) => Value::Array(list::without_directives(items)),
        other => other,
    }
}

fn without_directives(map: Object) -> Object {
    map.into_iter()
        .filter(|(name, value)| !value.is_null() && !is_directive(name))
        .map(|(name, value)| (name, clean(value)))
        .collect()
}

fn is_directive(name: &str) -> bool {
    name == PATCH || name == RETAIN_KEYS || name.starts_with(DELETE_FROM_LIST) || name.starts_with(SET_ORDER)
}

#[cfg(test)]
mod tests;
