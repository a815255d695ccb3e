//! Server-side apply: who owns which field, and the merging of what a client applies.
//!
//! Every write of an object records its manager as the owner of the fields that it changed
//! (`metadata.managedFields`, KEP-555). Who applies a configuration owns all fields in it: fields that it applied
//! before and does not apply now are removed unless somebody else owns them, and fields that somebody else owns with
//! another value are conflicts unless the client forces them.
//!
//! From bottom to top: [`Set`] (sets of fields), `types` (how values of a type are merged), `compare`, `merge`,
//! `check` (of what is applied), `managers` (the entries), and here the operations.

mod check;
mod compare;
mod managers;
mod merge;
mod set;
mod types;

pub use set::Set;
pub(crate) use types::Kind;

use std::sync::OnceLock;

use serde_json::{Map, Value};

use crate::facts::{Inner, TypeId, Wrap, facts};
use crate::registry::Resource;
use compare::Comparison;
use managers::{Entry, Operation};
use merge::Emptied;
use types::Type;

/// The manager for fields from before the first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// kubectl's manager: objects that it applied on the client's side change over without conflicts.
const KUBECTL: &str = "kubectl";
/// What kubectl applied on the client's side.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Who writes.
#[derive(Clone, Copy, Debug)]
pub struct Manager<'a> {
    /// Name of the client.
    pub name: &'a str,
    /// The subresource that it writes, or empty.
    pub subresource: &'a str,
    /// Now, as the API writes times.
    pub now: &'a str,
    /// Fields that this path cannot write, with all below them.
    pub ignored: &'a Set,
}

/// A field that somebody else owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Its owner, as messages name it: `"kubectl" using apps/v1`.
    pub owner: String,
    /// Its path: `.spec.replicas`.
    pub path: String,
}

/// Why a configuration cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Others own fields of it.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// It does not fit the type.
    #[error("{0}")]
    Invalid(String),
}

/// The fields of a new object belong to whoever creates it. Does nothing if `object` has no metadata.
pub fn track_create(resource: &Resource, object: &mut Value, manager: &Manager<'_>) {
    let custom = resource.structural();
    let ty = Type::of(resource, custom.as_deref());
    let empty = skeleton(resource);
    let comparison = compare::compare(ty, &empty, object).without(manager.ignored);
    let fields = comparison.added.union(comparison.modified);
    let entry = entry(resource, manager, Operation::Update, fields);
    finish(object, vec![entry]);
}

/// The fields that an update changes belong to whoever sends it. `sent` holds the `managedFields` that the client
/// sent, which it may edit itself but not through a subresource.
///
/// An object without managed fields stays without: it is from before they were tracked, or somebody has reset them.
pub fn track_update(resource: &Resource, old: &Value, new: &mut Value, sent: &Value, manager: &Manager<'_>) {
    let stored = || managers::read(old).unwrap_or_default();
    let mut entries = if !manager.subresource.is_empty() {
        stored()
    } else if managers::is_reset(sent) {
        Vec::new()
    } else {
        match managers::read(sent) {
            Some(entries) if !entries.is_empty() => entries,
            _ => stored(),
        }
    };
    if entries.is_empty() {
        managers::write(new, entries);
        return;
    }
    let custom = resource.structural();
    let ty = Type::of(resource, custom.as_deref());
    let (before, after) = (bare(resource, old), bare(resource, new));
    let comparison = compare::compare(ty, &before, &after).without(manager.ignored);
    if comparison.is_empty() {
        managers::write(new, entries);
        return;
    }
    take_from_others(&mut entries, &comparison, None);
    let changed = comparison.modified.union(comparison.added);
    let own = entry(resource, manager, Operation::Update, changed);
    match entries.iter_mut().find(|e| e.same_manager(&own)) {
        Some(previous) => {
            let kept = previous.fields.difference(&comparison.removed);
            if !own.fields.is_empty() {
                previous.time = own.time;
            }
            previous.fields = kept.union(own.fields);
        }
        None => entries.push(own),
    }
    finish(new, entries);
}

/// Applies a configuration to an object (an empty one with metadata if there is none yet).
pub fn apply(
    resource: &Resource,
    live: &Value,
    config: &Value,
    manager: &Manager<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    let custom = resource.structural();
    let ty = Type::of(resource, custom.as_deref());
    check::config(ty, config).map_err(ApplyError::Invalid)?;
    let bare = without_entries(live);
    let mut entries = managers::read(live).unwrap_or_default();
    if entries.is_empty() {
        let before = Manager {
            name: BEFORE_FIRST_APPLY,
            subresource: "",
            ..*manager
        };
        let comparison = compare::compare(ty, &skeleton(resource), &bare);
        let fields = comparison.added.union(comparison.modified);
        entries.push(entry(resource, &before, Operation::Update, strip(&fields)));
    }
    let result = merge_owned(resource, ty, &bare, &entries, config, manager, force);
    match result {
        Err(conflicts) if manager.name == KUBECTL => {
            let left = beyond_last_applied(ty, &bare, conflicts);
            if left.is_empty() {
                merge_owned(resource, ty, &bare, &entries, config, manager, true)
                    .map_err(ApplyError::Conflicts)
            } else {
                Err(ApplyError::Conflicts(left))
            }
        }
        result => result.map_err(ApplyError::Conflicts),
    }
    .map(|mut merged| {
        if manager.name == KUBECTL && !last_applied(live).is_empty() {
            set_last_applied(&mut merged, config);
        }
        merged
    })
}

/// Merges and prunes; the conflicts if there are any and they are not forced.
fn merge_owned(
    resource: &Resource,
    ty: Type<'_>,
    live: &Value,
    entries: &[Entry],
    config: &Value,
    manager: &Manager<'_>,
    force: bool,
) -> Result<Value, Vec<Conflict>> {
    let mut entries = entries.to_vec();
    let merged = merge::merge(ty, live, config);
    let applied = compare::fields_of(ty, config).difference_below(manager.ignored);
    let mut own = entry(resource, manager, Operation::Apply, strip(&applied));
    let mut last = Set::default();
    if let Some(at) = entries.iter().position(|e| e.same_manager(&own)) {
        let previous = entries.remove(at);
        own.time = previous.time;
        last = previous.fields;
    }
    let mut new = prune(ty, merged, &entries, &own, &last);
    let comparison = compare::compare(ty, live, &new).without(manager.ignored);
    let mut conflicts = Vec::new();
    take_from_others(&mut entries, &comparison, (!force).then_some(&mut conflicts));
    if !conflicts.is_empty() {
        return Err(conflicts);
    }
    if !comparison.is_empty() || own.time.is_empty() {
        manager.now.clone_into(&mut own.time);
    }
    entries.push(own);
    finish(&mut new, entries);
    Ok(new)
}

/// Removes what the manager applied last time, does not apply now, and nobody else owns.
fn prune(ty: Type<'_>, merged: Value, others: &[Entry], own: &Entry, last: &Set) -> Value {
    if last.is_empty() {
        return merged;
    }
    let removed = |taken: &Set, emptied| {
        merge::remove(ty, &merged, taken, emptied).unwrap_or_else(|| Value::Object(Map::new()))
    };
    let present = compare::with_named(ty, &compare::fields_of(ty, &merged));
    let last = compare::with_named(ty, last);
    let pruned = removed(&last, Emptied::IsNull);
    // What others own comes back, and what this manager owns now.
    let owned = others
        .iter()
        .fold(own.fields.clone(), |all, entry| all.union(entry.fields.clone()));
    let owned = compare::with_named(ty, &owned);
    let left = compare::with_named(ty, &compare::fields_of(ty, &pruned));
    let pruned = removed(&present.difference(&left).difference(&owned), Emptied::IsNull);
    // What was below a removed field without having been applied comes back, too.
    let left = compare::with_named(ty, &compare::fields_of(ty, &pruned));
    let gone = present.difference(&left).intersection(&last);
    removed(&gone, Emptied::Goes)
}

/// Changed fields are not others' any more. With `conflicts`, those that others own are put there instead.
fn take_from_others(entries: &mut [Entry], comparison: &Comparison, conflicts: Option<&mut Vec<Conflict>>) {
    let changed = comparison.modified.clone().union(comparison.added.clone());
    if let Some(found) = conflicts {
        for entry in entries.iter() {
            entry.fields.intersection(&changed).paths(&mut |path| {
                found.push(Conflict {
                    owner: entry.describe(),
                    path: path.to_owned(),
                });
            });
        }
        if !found.is_empty() {
            return;
        }
    }
    for entry in entries.iter_mut() {
        entry.fields = entry.fields.difference(&changed).difference(&comparison.removed);
    }
}

fn entry(resource: &Resource, manager: &Manager<'_>, operation: Operation, fields: Set) -> Entry {
    Entry {
        manager: manager.name.to_owned(),
        operation,
        api_version: resource.api_version(),
        time: manager.now.to_owned(),
        subresource: manager.subresource.to_owned(),
        fields,
    }
}

fn finish(object: &mut Value, mut entries: Vec<Entry>) {
    for entry in &mut entries {
        entry.fields = strip(&entry.fields);
    }
    entries.retain(|entry| !entry.fields.is_empty());
    managers::cap(&mut entries);
    managers::write(object, entries);
}

fn strip(fields: &Set) -> Set {
    static UNOWNED: OnceLock<Set> = OnceLock::new();
    fields.difference(UNOWNED.get_or_init(|| Set::from_fields(&managers::unowned()).unwrap_or_default()))
}

fn without_entries(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
    }
    object
}

/// An object as it is compared: without entries, and with what upstream's struct has even where nothing is set.
fn bare(resource: &Resource, object: &Value) -> Value {
    let mut object = without_entries(object);
    let facts = facts();
    if let (Some(id), Some(o)) = (resource.type_id, object.as_object_mut()) {
        for name in ["spec", "status"] {
            let held = facts
                .field(id, name)
                .is_some_and(|f| facts.structure(f.shape).is_some());
            if held && o.get(name).is_none_or(Value::is_null) {
                o.insert(name.to_owned(), Value::Object(Map::new()));
            }
        }
    }
    object
}

/// Fields that upstream's structs hold by value: they are there even in an object that nobody has filled.
const HELD_BY_VALUE: [&str; 7] = [
    "metadata",
    "spec",
    "status",
    "template",
    "jobTemplate",
    "strategy",
    "updateStrategy",
];

/// An object as it is before anything has been set; what is in it is not owned by who creates an object.
fn skeleton(resource: &Resource) -> Value {
    let mut empty = match resource.type_id {
        Some(id) => skeleton_of(id),
        None => Map::new(),
    };
    empty.insert("apiVersion".to_owned(), resource.api_version().into());
    empty.insert("kind".to_owned(), resource.kind.as_ref().into());
    empty
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()));
    Value::Object(empty)
}

fn skeleton_of(id: TypeId) -> Map<String, Value> {
    let facts = facts();
    let mut empty = Map::new();
    for field in facts.fields(id) {
        let by_value = HELD_BY_VALUE.contains(&field.name);
        match (field.shape.wrap, field.shape.inner) {
            (Wrap::One, Inner::Type(inner)) if by_value && facts.get(inner).scalar.is_none() => {
                empty.insert(field.name.to_owned(), Value::Object(skeleton_of(inner)));
            }
            (Wrap::List | Wrap::Map, _) if field.required => {
                empty.insert(field.name.to_owned(), Value::Null);
            }
            _ => {}
        }
    }
    empty
}

fn last_applied(live: &Value) -> &str {
    live["metadata"]["annotations"][LAST_APPLIED]
        .as_str()
        .unwrap_or_default()
}

/// The conflicts that are not about fields which kubectl applied on the client's side and nobody changed since.
fn beyond_last_applied(ty: Type<'_>, live: &Value, conflicts: Vec<Conflict>) -> Vec<Conflict> {
    let Ok(last) = serde_json::from_str::<Value>(last_applied(live)) else {
        return conflicts;
    };
    let changed = compare::compare(ty, &last, live);
    let allowed = compare::fields_of(ty, &last)
        .difference(&changed.modified)
        .difference(&changed.added)
        .difference(&changed.removed);
    let mut paths = std::collections::BTreeSet::new();
    allowed.paths(&mut |path| {
        paths.insert(path.to_owned());
    });
    conflicts
        .into_iter()
        .filter(|conflict| !paths.contains(&conflict.path))
        .collect()
}

/// Keeps kubectl's annotation in step, so that a client-side apply afterwards starts from the truth.
fn set_last_applied(merged: &mut Value, config: &Value) {
    let mut config = without_entries(config);
    if let Some(annotations) = config["metadata"]
        .get_mut("annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.shift_remove(LAST_APPLIED);
    }
    if let Some(annotations) = merged["metadata"]
        .get_mut("annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.insert(LAST_APPLIED.to_owned(), format!("{config}\n").into());
    }
}

/// An item of a keyed list of a custom resource, as its keys name it; the item itself if it lacks them.
pub(crate) fn element_text(schema: &crate::structural::Structural, item: &Value) -> String {
    Type::Custom(schema)
        .element(Kind::Keyed, item)
        .map_or_else(|_| item.to_string(), String::from)
}

/// The message of the `Status` for conflicts, in upstream's words.
pub fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            one.owner, one.path
        );
    }
    let mut owners: Vec<&str> = conflicts.iter().map(|c| c.owner.as_str()).collect();
    owners.sort_unstable();
    owners.dedup();
    let mut lines = Vec::new();
    for owner in owners {
        lines.push(format!("conflicts with {owner}:"));
        let of_owner = conflicts.iter().filter(|c| c.owner == owner);
        lines.extend(of_owner.map(|c| format!("- {}", c.path)));
    }
    format!(
        "Apply failed with {} conflicts: {}",
        conflicts.len(),
        lines.join("\n")
    )
}

#[cfg(test)]
mod tests;
