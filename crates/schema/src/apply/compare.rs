//! Which fields a value has, and in which fields two values differ.

use std::collections::BTreeMap;

use serde_json::Value;

use super::set::{self, Set};
use super::types::{Kind, Type};

/// Fields in which a new value differs from an old one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

/// What happened to a value itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    None,
    Added,
    Modified,
    Removed,
}

impl Comparison {
    /// Whether nothing differs.
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// The same without some fields and all below them.
    pub(super) fn without(&self, ignored: &Set) -> Self {
        Self {
            added: self.added.difference_below(ignored),
            modified: self.modified.difference_below(ignored),
            removed: self.removed.difference_below(ignored),
        }
    }

    fn add(&mut self, element: Box<str>, change: Change, below: Self) {
        self.added
            .add(element.clone(), change == Change::Added, below.added);
        self.modified
            .add(element.clone(), change == Change::Modified, below.modified);
        self.removed
            .add(element, change == Change::Removed, below.removed);
    }
}

/// Compares two objects of a type.
pub(super) fn compare(ty: Type<'_>, old: &Value, new: &Value) -> Comparison {
    let mut found = Comparison::default();
    descend(ty, Some(old), Some(new), &mut found);
    found
}

/// Compares what is below a value and tells what happened to the value itself. At most one side is absent.
fn descend(ty: Type<'_>, old: Option<&Value>, new: Option<&Value>, found: &mut Comparison) -> Change {
    let itself = match (old, new) {
        (None, _) => Change::Added,
        (_, None) => Change::Removed,
        (Some(old), Some(new)) if old == new => return Change::None,
        _ => Change::Modified,
    };
    let filled = |side: Option<&Value>| -> Option<Kind> { side.filter(|v| !v.is_null()).map(|v| ty.kind(v)) };
    let kind = match (filled(old), filled(new)) {
        (Some(one), Some(other)) if one != other => Kind::Leaf,
        (one, other) => other.or(one).unwrap_or(Kind::Leaf),
    };
    // The difference between empty and absent is one of the value itself.
    if kind == Kind::Leaf || (is_empty(old) && is_empty(new)) {
        return itself;
    }
    if kind == Kind::Map {
        fields(ty, old, new, found);
    } else {
        items(ty, kind, old, new, found);
    }
    if itself == Change::Modified {
        Change::None
    } else {
        itself
    }
}

fn is_empty(side: Option<&Value>) -> bool {
    match side {
        Some(Value::Object(fields)) => fields.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        _ => true,
    }
}

fn fields(ty: Type<'_>, old: Option<&Value>, new: Option<&Value>, found: &mut Comparison) {
    let (old, new) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
    for (name, value) in old.into_iter().flatten() {
        let other = new.and_then(|new| new.get(name));
        child(ty.field(name).0, set::field(name), Some(value), other, found);
    }
    for (name, value) in new.into_iter().flatten() {
        if old.is_none_or(|old| !old.contains_key(name)) {
            child(ty.field(name).0, set::field(name), None, Some(value), found);
        }
    }
}

fn child(ty: Type<'_>, element: Box<str>, old: Option<&Value>, new: Option<&Value>, found: &mut Comparison) {
    let mut below = Comparison::default();
    let change = descend(ty, old, new, &mut below);
    found.add(element, change, below);
}

fn items(ty: Type<'_>, kind: Kind, old: Option<&Value>, new: Option<&Value>, found: &mut Comparison) {
    let (old, new) = (index(ty, kind, old), index(ty, kind, new));
    for (element, items) in &old {
        let others = new.get(element).map(Vec::as_slice).unwrap_or_default();
        match (items.as_slice(), others) {
            ([item], [] | [_]) => child(
                ty.item(),
                element.clone(),
                Some(item),
                others.first().copied(),
                found,
            ),
            // An item that occurs twice is compared as a whole.
            (_, []) => found.add(element.clone(), Change::Removed, Comparison::default()),
            (items, others) if items != others => {
                found.add(element.clone(), Change::Modified, Comparison::default());
            }
            _ => {}
        }
    }
    for (element, items) in &new {
        if !old.contains_key(element)
            && let [item, ..] = items.as_slice()
        {
            child(ty.item(), element.clone(), None, Some(item), found);
        }
    }
}

/// The items of a list by element. Items without keys are left out: nobody can own them.
fn index<'v>(ty: Type<'_>, kind: Kind, list: Option<&'v Value>) -> BTreeMap<Box<str>, Vec<&'v Value>> {
    let mut found: BTreeMap<Box<str>, Vec<&Value>> = BTreeMap::new();
    for item in list.and_then(Value::as_array).into_iter().flatten() {
        if let Ok(element) = ty.element(kind, item) {
            found.entry(element).or_default().push(item);
        }
    }
    found
}

/// All fields that an object has: what whoever applies it owns.
pub(super) fn fields_of(ty: Type<'_>, value: &Value) -> Set {
    let mut found = Set::default();
    collect(ty, value, &mut found);
    found
}

/// Collects what is below a value; true if the value itself is a leaf.
fn collect(ty: Type<'_>, value: &Value, found: &mut Set) -> bool {
    let kind = ty.kind(value);
    match (kind, value) {
        (Kind::Map, Value::Object(fields)) => {
            for (name, value) in fields {
                let (field, named) = ty.field(name);
                let mut below = Set::default();
                let leaf = collect(field, value, &mut below);
                let empty = value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
                found.add(set::field(name), leaf || empty || !named, below);
            }
            false
        }
        (Kind::Set | Kind::Keyed, Value::Array(items)) => {
            for item in items {
                if let Ok(element) = ty.element(kind, item) {
                    let mut below = Set::default();
                    collect(ty.item(), item, &mut below);
                    found.add(element, true, below);
                }
            }
            false
        }
        _ => true,
    }
}

/// The set together with the named fields that lead to its members; keys of maps and items are not added.
pub(super) fn with_named(ty: Type<'_>, set: &Set) -> Set {
    let mut found = Set::default();
    for (element, member, below) in set.elements() {
        let (field, named) = match element.strip_prefix("f:") {
            Some(name) => ty.field(name),
            None => (ty.item(), false),
        };
        let leads = named && !below.is_empty();
        found.add(element, member || leads, with_named(field, below));
    }
    found
}
