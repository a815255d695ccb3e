//! Checks of an applied configuration that merging relies on: every field is declared, every item has its keys once.

use std::collections::BTreeSet;

use serde_json::Value;

use super::set;
use super::types::{Kind, Type};

/// What is wrong with a configuration, in upstream's words.
pub(super) fn config(ty: Type<'_>, value: &Value) -> Result<(), String> {
    walk(ty, value, &mut String::new())
}

fn walk(ty: Type<'_>, value: &Value, path: &mut String) -> Result<(), String> {
    let length = path.len();
    match (ty.kind(value), value) {
        (Kind::Map, Value::Object(fields)) => {
            for (name, value) in fields {
                path.push('.');
                path.push_str(name);
                if !ty.declares(name) {
                    return Err(format!("{path}: field not declared in schema"));
                }
                walk(ty.field(name).0, value, path)?;
                path.truncate(length);
            }
        }
        (kind @ (Kind::Set | Kind::Keyed), Value::Array(items)) => {
            let mut seen = BTreeSet::new();
            for (index, item) in items.iter().enumerate() {
                let element = ty
                    .element(kind, item)
                    .map_err(|problem| format!("{path}: element {index}: {problem}"))?;
                let mut here = String::new();
                set::push_element(&mut here, &element);
                if !seen.insert(element) {
                    return Err(format!("{path}: duplicate entries for key {here}"));
                }
                path.push_str(&here);
                walk(ty.item(), item, path)?;
                path.truncate(length);
            }
        }
        _ => {}
    }
    Ok(())
}
