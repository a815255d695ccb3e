//! Deterministic fuzzing of what clients send: valid requests, damaged by a seeded generator. A case is a seed, so a
//! failure is repeated by its number. The tests run a bounded count; `examples/api_fuzz` goes on for as long as it is
//! told.
//!
//! A panic is a failure, and so is what an invariant forbids: what was accepted is stored and read again as the same
//! object, and stays acceptable.

mod draw;

use crate::call::{decode_json, decode_protobuf};
use crate::rest::patch::Patch;
use crate::store::{Object, object};
use crate::{rest, yaml};
use draw::Draw;
use schema::apply::{Manager, Set};
use schema::selectors::{FieldSelector, LabelSelector};
use schema::{IssueKind, Resource};
use serde_json::{Value, json};

/// What is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Bodies in JSON and YAML, to the point where the object would be stored.
    Bodies,
    /// The four kinds of patches, on an object.
    Patches,
    /// Label and field selectors.
    Selectors,
    /// Bodies in protobuf.
    Protobuf,
}

impl Target {
    /// All of them.
    pub const ALL: [Target; 4] = [
        Target::Bodies,
        Target::Patches,
        Target::Selectors,
        Target::Protobuf,
    ];
}

/// Damages of one case.
const MAX_DAMAGES: usize = 4;
/// Operations of a JSON patch.
const MAX_OPERATIONS: usize = 12;
/// When everything happens.
const NOW: &str = "2026-01-02T03:04:05Z";

/// Runs one case; the error says what does not hold. Panics are failures too.
pub fn run(target: Target, seed: u64) -> Result<(), String> {
    let mut draw = Draw::new(seed);
    match target {
        Target::Bodies => bodies(&mut draw),
        Target::Patches => patches(&mut draw),
        Target::Selectors => selectors(&mut draw),
        Target::Protobuf => protobuf(&mut draw),
    }
}

/// An object goes the way of a POST that everybody is allowed, up to the bytes that are stored. `None` if it is refused.
fn accepted(resource: &Resource, mut value: Value) -> Result<Option<Value>, String> {
    if rest::check_kind(resource, &mut value).is_err() {
        return Ok(None);
    }
    let issues = schema::prune(resource, &mut value);
    if issues.iter().any(|issue| issue.kind == IssueKind::WrongType) {
        return Ok(None);
    }
    if let Some(issue) = schema::prune(resource, &mut value).first() {
        return Err(format!("pruned twice, there is still {issue:?}"));
    }
    schema::default(resource, &mut value);
    let once = value.clone();
    schema::default(resource, &mut value);
    same("defaulted twice", &once, &value)?;
    if let Some(issue) = schema::prune(resource, &mut value.clone()).first() {
        return Err(format!("a default is no field: {issue:?}"));
    }
    let ignored = Set::default();
    schema::apply::track_create(resource, &mut value, &manager("fuzz", &ignored));
    schema::strategy::prepare_create(resource, &mut value);
    // Refused or not, it goes on: the other checks hold for whatever has the right types.
    let _ = schema::validate_create(resource, &value);
    let _ = schema::validate_update(resource, &once, &value);
    let _ = schema::validate_status_update(resource, &once, &value);
    schema::strategy::prepare_update(resource, &once, &mut value.clone());
    schema::strategy::prepare_status_update(resource, &once, &mut value.clone());
    let _ = schema::table::row(resource, &value, 1_800_000_000);
    stored(resource, &value)?;
    Ok(Some(value))
}

/// What is stored is read again as the same object.
fn stored(resource: &Resource, value: &Value) -> Result<(), String> {
    let bytes = object::encode(resource, "/registry/x/n/a", value, None);
    let read = Object::decode(resource, "/registry/x/n/a", &bytes, 7, None)
        .map_err(|error| format!("what was stored cannot be read: {error}"))?;
    let mut wanted = value.clone();
    if let Some(metadata) = wanted["metadata"].as_object_mut() {
        metadata.shift_remove("selfLink");
        metadata.insert("resourceVersion".into(), "7".into());
        same("read again", &wanted, &read.value())?;
    }
    let deleted = read.at_revision(12).value();
    if deleted["metadata"].is_object() && deleted["metadata"]["resourceVersion"] != "12" {
        return Err(format!("the revision of the deletion is not in {deleted}"));
    }
    Ok(())
}

fn same(what: &str, before: &Value, after: &Value) -> Result<(), String> {
    if before == after {
        return Ok(());
    }
    Err(format!("{what}, {before} became {after}"))
}

fn manager<'a>(name: &'a str, ignored: &'a Set) -> Manager<'a> {
    Manager {
        name,
        subresource: "",
        now: NOW,
        ignored,
    }
}

fn bodies(draw: &mut Draw) -> Result<(), String> {
    let resource = draw.resource();
    let value = draw.object(resource);
    let in_yaml = draw.percent(30);
    let mut body = if in_yaml {
        let text = yaml_serde::to_string(&value).map_err(|e| format!("no YAML of {value}: {e}"))?;
        text.into_bytes()
    } else {
        object::to_bytes(&value).to_vec()
    };
    let decode = |body: &[u8]| {
        if in_yaml {
            yaml::decode(body)
        } else {
            decode_json(body)
        }
    };
    if draw.percent(50) {
        let whole = decode(&body).map_err(|status| status.message)?;
        same("written and read", &value, &whole.value)?;
    } else {
        for _ in 0..=draw.below(MAX_DAMAGES) {
            draw.damage(&mut body);
        }
    }
    if let Ok(document) = decode(&body) {
        accepted(resource, document.value)?;
    }
    Ok(())
}

fn patches(draw: &mut Draw) -> Result<(), String> {
    let resource = draw.resource();
    let drawn = draw.object(resource);
    let Some(old) = accepted(resource, drawn)? else {
        return Ok(());
    };
    let new = match draw.below(4) {
        0 => json_patch(draw, resource, &old),
        1 => merge_patch(draw, resource, &old)?,
        2 => strategic_patch(draw, resource, &old)?,
        _ => apply_patch(draw, resource, &old)?,
    };
    if let Some(new) = new {
        accepted(resource, new)?;
    }
    Ok(())
}

fn json_patch(draw: &mut Draw, resource: &Resource, old: &Value) -> Option<Value> {
    let operations: Vec<Value> = (0..=draw.below(MAX_OPERATIONS))
        .map(|_| {
            let (path, from) = (draw.pointer(old), draw.pointer(old));
            match draw.below(6) {
                0 => json!({"op": "add", "path": path, "value": draw.any(0)}),
                1 => json!({"op": "remove", "path": path}),
                2 => json!({"op": "replace", "path": path, "value": draw.any(0)}),
                3 => json!({"op": "move", "from": from, "path": path}),
                4 => json!({"op": "copy", "from": from, "path": path}),
                _ => json!({"op": "test", "path": path, "value": old.pointer(&path)}),
            }
        })
        .collect();
    let mut body = object::to_bytes(&operations.into()).to_vec();
    if draw.percent(20) {
        draw.damage(&mut body);
    }
    let patch = Patch::of("application/json-patch+json", false, &body).ok()?;
    patch.apply(resource, old).ok()
}

/// A part of an object, or the whole of another, with nulls by lot.
fn changed(draw: &mut Draw, resource: &Resource, old: &Value) -> Value {
    let mut patch = if draw.percent(50) {
        old.clone()
    } else {
        draw.object(resource)
    };
    for _ in 0..draw.below(5) {
        let at = draw.pointer(&patch);
        let with = draw.any(6);
        if let Some(place) = patch.pointer_mut(&at) {
            *place = with;
        }
    }
    patch
}

fn merge_patch(draw: &mut Draw, resource: &Resource, old: &Value) -> Result<Option<Value>, String> {
    let patch = changed(draw, resource, old);
    let Ok(patch) = Patch::of("application/merge-patch+json", false, &object::to_bytes(&patch)) else {
        return Ok(None);
    };
    let Ok(new) = patch.apply(resource, old) else {
        return Ok(None);
    };
    let again = patch.apply(resource, &new).map_err(|status| status.message)?;
    same("merged twice", &new, &again)?;
    Ok(Some(new))
}

fn strategic_patch(draw: &mut Draw, resource: &Resource, old: &Value) -> Result<Option<Value>, String> {
    let mut patch = changed(draw, resource, old);
    for _ in 0..draw.below(4) {
        let at = draw.pointer(&patch);
        let directive = draw.any(8);
        let mut keys: Vec<String> = Vec::new();
        if let Some(Value::Object(map)) = patch.pointer(&at) {
            keys.extend(map.keys().cloned());
        }
        let field = keys.get(draw.below(keys.len())).cloned().unwrap_or_default();
        let (key, value) = match draw.below(5) {
            0 => (
                "$patch".to_owned(),
                json!(draw.one_of(&["replace", "delete", "merge", "x"])),
            ),
            1 => (
                format!("$deleteFromPrimitiveList/{field}"),
                json!(["a", "b", directive]),
            ),
            2 => (
                format!("$setElementOrder/{field}"),
                json!([{"name": "a"}, directive]),
            ),
            3 => ("$retainKeys".to_owned(), keys.into()),
            _ => (format!("${field}"), directive),
        };
        if let Some(Value::Object(map)) = patch.pointer_mut(&at) {
            map.insert(key, value);
        }
    }
    let media_type = "application/strategic-merge-patch+json";
    let nothing = Patch::of(media_type, false, b"{}").map_err(|status| status.message)?;
    let untouched = nothing.apply(resource, old).map_err(|status| status.message)?;
    same("patched with nothing", old, &untouched)?;
    let patch = Patch::of(media_type, false, &object::to_bytes(&patch));
    Ok(patch.and_then(|patch| patch.apply(resource, old)).ok())
}

fn apply_patch(draw: &mut Draw, resource: &Resource, old: &Value) -> Result<Option<Value>, String> {
    let mut config = changed(draw, resource, old);
    if !config["metadata"].is_object() || rest::check_kind(resource, &mut config).is_err() {
        return Ok(None);
    }
    if let Some(metadata) = config["metadata"].as_object_mut() {
        metadata.shift_remove("managedFields");
    }
    // As the server does with a configuration: what has no place is refused.
    if !schema::prune(resource, &mut config).is_empty() {
        return Ok(None);
    }
    let (ignored, force) = (Set::default(), draw.percent(70));
    let by = manager("applier", &ignored);
    let Ok(new) = schema::apply::apply(resource, old, &config, &by, force) else {
        return Ok(None);
    };
    let again = schema::apply::apply(resource, &new, &config, &by, false)
        .map_err(|error| format!("applied once, but not twice: {error}: {config}"))?;
    // Who applies nothing but empty lists owns nothing, and the object is as one from before the first apply.
    if new["metadata"]["managedFields"].is_array() {
        same("applied twice", &new, &again)?;
    }
    Ok(Some(new))
}

fn selectors(draw: &mut Draw) -> Result<(), String> {
    const WORDS: [&str; 28] = [
        "a",
        "b",
        "app.kubernetes.io/name",
        "=",
        "==",
        "!=",
        "!",
        " in ",
        " notin ",
        "(",
        ")",
        ",",
        " ",
        "\\",
        "\\,",
        "\\=",
        ">",
        "<",
        "5",
        "-7",
        "9999999999999999999999",
        "metadata.name",
        "status.phase",
        "x_Y",
        "é",
        "\u{0}",
        "in",
        "notin",
    ];
    let mut text: Vec<u8> = Vec::new();
    for _ in 0..draw.below(14) {
        text.extend_from_slice(draw.one_of(&WORDS).as_bytes());
    }
    if draw.percent(20) {
        draw.damage(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    let labels = json!({"a": "b", "app.kubernetes.io/name": "5", "in": ""});
    if let Ok(selector) = LabelSelector::parse(&text) {
        let printed = selector.to_string();
        let again =
            LabelSelector::parse(&printed).map_err(|e| format!("{text:?} prints {printed:?}: {e}"))?;
        if again != selector {
            return Err(format!("{text:?} means {selector:?}, printed {again:?}"));
        }
        if again.matches(Some(&labels)) != selector.matches(Some(&labels)) {
            return Err(format!("{text:?} selects something else when it is printed"));
        }
    }
    if let Ok(selector) = FieldSelector::parse(&text) {
        let printed = selector.to_string();
        let again =
            FieldSelector::parse(&printed).map_err(|e| format!("{text:?} prints {printed:?}: {e}"))?;
        if again != selector {
            return Err(format!("{text:?} means {selector:?}, printed {again:?}"));
        }
        let resource = draw.resource();
        let _ = schema::check_field_selector(resource, &selector);
        let _ = schema::stored_selector(resource, &selector).matches(&[("metadata.name".into(), "a".into())]);
    }
    let structured = json!({"matchLabels": draw.any(10), "matchExpressions": [{
        "key": draw.text(), "operator": draw.one_of(&["In", "NotIn", "Exists", "DoesNotExist", "Gt"]),
        "values": draw.any(10)}]});
    if let Ok(selector) = LabelSelector::from_structured(Some(&structured)) {
        let printed = selector.to_string();
        let again =
            LabelSelector::parse(&printed).map_err(|e| format!("{structured} prints {printed:?}: {e}"))?;
        if again != selector {
            return Err(format!("{structured} is {selector:?}, printed {again:?}"));
        }
    }
    Ok(())
}

fn protobuf(draw: &mut Draw) -> Result<(), String> {
    let resource = draw.resource();
    let mut value = draw.object(resource);
    if schema::prune(resource, &mut value)
        .iter()
        .any(|issue| issue.kind == IssueKind::WrongType)
    {
        return Ok(());
    }
    let Ok(mut body) = schema::protobuf::encode(&value) else {
        return Ok(());
    };
    let damaged = draw.percent(70);
    for _ in 0..if damaged { 1 + draw.below(MAX_DAMAGES) } else { 0 } {
        draw.damage(&mut body);
    }
    let document = match decode_protobuf(&body) {
        Ok(document) => document,
        Err(_) if damaged => return Ok(()),
        Err(status) => return Err(format!("{value} cannot be read again: {}", status.message)),
    };
    let again = schema::protobuf::encode(&document.value)
        .map_err(|error| format!("what was read cannot be written: {error}: {}", document.value))?;
    let twice = decode_protobuf(&again).map_err(|status| status.message)?;
    same("in protobuf", &document.value, &twice.value)?;
    accepted(resource, document.value).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(target: Target, count: u64) {
        for seed in 0..count {
            match std::panic::catch_unwind(|| run(target, seed)) {
                Ok(Ok(())) => {}
                Ok(Err(what)) => panic!("{target:?} {seed}: {what}"),
                Err(_) => panic!("{target:?} {seed} panics"),
            }
        }
    }

    #[test]
    fn bodies_are_refused_or_stored_as_they_are() {
        many(Target::Bodies, 2000);
    }

    #[test]
    fn patches_are_refused_or_mean_the_same_twice() {
        many(Target::Patches, 2000);
    }

    #[test]
    fn what_was_found_once_stays_mended() {
        // A generation that cannot be counted further.
        for (target, seed) in [(Target::Bodies, 1_006_432), (Target::Protobuf, 1_012_604)] {
            assert_eq!(run(target, seed), Ok(()), "{target:?} {seed}");
        }
        // A time that is not there, in a map.
        assert_eq!(run(Target::Protobuf, 1_209_652), Ok(()));
        // What is applied empty owned what was below it; the last digit of a number.
        for (target, seed) in [(Target::Patches, 4050), (Target::Bodies, 16_992)] {
            assert_eq!(run(target, seed), Ok(()), "{target:?} {seed}");
        }
    }

    #[test]
    fn selectors_mean_what_they_print() {
        many(Target::Selectors, 20_000);
    }

    #[test]
    fn protobuf_is_refused_or_comes_back() {
        many(Target::Protobuf, 2000);
    }
}
