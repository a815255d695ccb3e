//! Merging what is applied into an object, and removing what is not owned any more.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::set::{self, Set};
use super::types::{Kind, Type};

/// The live value with the applied one merged in.
pub(super) fn merge(ty: Type<'_>, live: &Value, applied: &Value) -> Value {
    let kind = ty.kind(applied);
    match (kind, live, applied) {
        (Kind::Map, Value::Object(live), Value::Object(applied)) => {
            let mut merged = live.clone();
            for (name, value) in applied {
                let value = match live.get(name) {
                    Some(old) => merge(ty.field(name).0, old, value),
                    None => value.clone(),
                };
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Kind::Set | Kind::Keyed, Value::Array(live), Value::Array(applied)) => {
            if applied.is_empty() {
                return Value::Array(live.clone());
            }
            Value::Array(merge_items(ty, kind, live, applied))
        }
        _ => applied.clone(),
    }
}

/// Items keep the order in which they are applied; those of the live list that are not applied keep their
/// neighbourhood as far as the two orders agree.
fn merge_items(ty: Type<'_>, kind: Kind, live: &[Value], applied: &[Value]) -> Vec<Value> {
    let element = |item: &Value| ty.element(kind, item).unwrap_or_else(|_| set::value(item));
    let old: Vec<Box<str>> = live.iter().map(element).collect();
    let new: Vec<Box<str>> = applied.iter().map(element).collect();
    let mut by_element: BTreeMap<&str, &Value> = BTreeMap::new();
    for (element, item) in old.iter().zip(live) {
        by_element.entry(element).or_insert(item);
    }
    let wanted: BTreeSet<&str> = new.iter().map(AsRef::as_ref).collect();
    let mut shared = new
        .iter()
        .map(AsRef::as_ref)
        .filter(|e| by_element.contains_key(*e));
    let mut next: Option<&str> = shared.next();
    let merged_item = |at: usize| match by_element.get(new[at].as_ref()) {
        Some(live) => merge(ty.item(), live, &applied[at]),
        None => applied[at].clone(),
    };
    let mut done: BTreeSet<&str> = BTreeSet::new();
    let mut out = Vec::with_capacity(live.len().max(applied.len()));
    let (mut l, mut r) = (0, 0);
    while l < old.len() || r < new.len() {
        if l < old.len() && r < new.len() {
            if old[l] == new[r] {
                done.insert(&new[r]);
                out.push(merged_item(r));
                (l, r) = (l + 1, r + 1);
                next = shared.next();
                continue;
            }
            // Shared, but not the one that comes next in the applied order.
            if wanted.contains(old[l].as_ref()) && next.is_some_and(|next| next != old[l].as_ref()) {
                l += 1;
                continue;
            }
        }
        if l < old.len() {
            if !wanted.contains(old[l].as_ref()) {
                out.push(live[l].clone());
                l += 1;
                continue;
            }
            if done.contains(old[l].as_ref()) {
                l += 1;
            }
        }
        if r < new.len() {
            done.insert(&new[r]);
            out.push(merged_item(r));
            if next == Some(new[r].as_ref()) {
                next = shared.next();
            }
            r += 1;
        }
    }
    out
}

/// The value without the fields of a set. `None` if a map or list has nothing left.
pub(super) fn remove(ty: Type<'_>, value: &Value, taken: &Set, emptied: Emptied) -> Option<Value> {
    if taken.is_empty() {
        return Some(value.clone());
    }
    let kind = ty.kind(value);
    match (kind, value) {
        (Kind::Map, Value::Object(fields)) => {
            let mut kept = Map::with_capacity(fields.len());
            for (name, value) in fields {
                let element = set::field(name);
                if taken.has(&element) {
                    continue;
                }
                let value = match taken.below(&element) {
                    Some(below) => remove(ty.field(name).0, value, below, emptied),
                    None => Some(value.clone()),
                };
                if let Some(value) = value {
                    kept.insert(name.clone(), value);
                }
            }
            emptied.or(kept.is_empty(), Value::Object(kept))
        }
        (Kind::Set | Kind::Keyed, Value::Array(items)) => {
            let mut kept = Vec::with_capacity(items.len());
            for item in items {
                let Ok(element) = ty.element(kind, item) else {
                    kept.push(item.clone());
                    continue;
                };
                if taken.has(&element) {
                    continue;
                }
                let item = match taken.below(&element) {
                    Some(below) => remove(ty.item(), item, below, emptied),
                    None => Some(item.clone()),
                };
                kept.extend(item);
            }
            emptied.or(kept.is_empty(), Value::Array(kept))
        }
        _ => Some(value.clone()),
    }
}

/// What becomes of a map or list of which everything is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Emptied {
    /// It goes, too.
    Goes,
    /// It is still a field, without a value.
    IsNull,
}

impl Emptied {
    fn or(self, empty: bool, value: Value) -> Option<Value> {
        match (empty, self) {
            (false, _) => Some(value),
            (true, Self::Goes) => None,
            (true, Self::IsNull) => Some(Value::Null),
        }
    }
}
