//! Lists in strategic merge patches: merging by key, and the order of the result.

use serde_json::Value;

use super::{Object, PATCH, PatchError, Rule, clean, merge_map};

/// Merges a patch list into a list: objects by their merge key, scalars as a set.
pub(super) fn merge(original: Vec<Value>, patch: Vec<Value>, rule: Rule) -> Result<Vec<Value>, PatchError> {
    let objects = original.iter().chain(&patch).filter(|v| v.is_object()).count();
    if objects == 0 {
        return Ok(merge_scalars(original, patch));
    }
    if objects != original.len() + patch.len() {
        return Err(PatchError::MixedList);
    }
    let Some(key) = rule.key else {
        return Err(PatchError::NoKeyForList);
    };
    let Special {
        original,
        patch,
        replace,
    } = take_special(original, patch, key)?;
    if replace {
        return Ok(without_directives(patch));
    }
    let before = original.clone();
    let mut merged = original;
    for item in &patch {
        let wanted = item.get(key).ok_or_else(|| no_key(item, key))?;
        let Value::Object(change) = item else {
            return Err(PatchError::MixedList);
        };
        match merged
            .iter_mut()
            .find(|candidate| candidate.get(key) == Some(wanted))
        {
            Some(Value::Object(current)) => {
                *current = merge_map(std::mem::take(current), change.clone(), rule.scope)?;
            }
            _ => merged.push(clean(item.clone())),
        }
    }
    Ok(in_order(merged, &patch, &before, Some(key)))
}

fn merge_scalars(original: Vec<Value>, patch: Vec<Value>) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
    for item in original.iter().chain(&patch) {
        if !merged.contains(item) {
            merged.push(item.clone());
        }
    }
    in_order(merged, &patch, &original, None)
}

/// Lists after their items with `$patch` were acted on.
struct Special {
    original: Vec<Value>,
    patch: Vec<Value>,
    replace: bool,
}

fn take_special(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &'static str,
) -> Result<Special, PatchError> {
    let mut rest = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        match item.get(PATCH) {
            None => rest.push(item),
            Some(Value::String(directive)) if directive == "delete" => {
                let wanted = item.get(key).ok_or_else(|| no_key(&item, key))?;
                original.retain(|candidate| candidate.get(key) != Some(wanted));
            }
            Some(Value::String(directive)) if directive == "replace" => {
                replace = true;
                // An item that says replace may carry content too.
                if item.as_object().is_some_and(|object: &Object| object.len() > 1) {
                    rest.push(item);
                }
            }
            Some(directive) => return Err(PatchError::PatchType(directive.to_string())),
        }
    }
    Ok(Special {
        original,
        patch: rest,
        replace,
    })
}

fn no_key(item: &Value, key: &str) -> PatchError {
    PatchError::NoMergeKey {
        item: item.to_string(),
        key: key.to_owned(),
    }
}

/// Items as they are stored: without directives, and without those that only delete.
pub(super) fn without_directives(items: Vec<Value>) -> Vec<Value> {
    items
        .into_iter()
        .filter(|item| item.get(PATCH).and_then(Value::as_str) != Some("delete"))
        .map(clean)
        .filter(|item| !item.is_null())
        .collect()
}

/// Every item of the patch must be in the order list, in the same relative order.
pub(super) fn check_order(
    patch: &[Value],
    order: &[Value],
    key: Option<&'static str>,
) -> Result<(), PatchError> {
    let mut from = 0;
    for item in patch {
        // Items that delete are not part of the outcome.
        if item.get(PATCH).is_some() {
            continue;
        }
        match order[from..]
            .iter()
            .position(|candidate| same(candidate, item, key))
        {
            Some(offset) => from += offset + 1,
            None => {
                return Err(PatchError::OrderMismatch {
                    patch: Value::from(patch.to_vec()).to_string(),
                    order: Value::from(order.to_vec()).to_string(),
                });
            }
        }
    }
    Ok(())
}

/// Orders a merged list: items of the patch in its order, items that only the server has in theirs, the two
/// interleaved as they were on the server before.
pub(super) fn in_order(
    merged: Vec<Value>,
    patch_order: &[Value],
    server_order: &[Value],
    key: Option<&'static str>,
) -> Vec<Value> {
    let index = |list: &[Value], item: &Value| list.iter().position(|candidate| same(candidate, item, key));
    let (mut of_patch, mut of_server): (Vec<Value>, Vec<Value>) = merged
        .into_iter()
        .partition(|item| index(patch_order, item).is_some());
    of_patch.sort_by_key(|item| index(patch_order, item).unwrap_or(usize::MAX));
    of_server.sort_by_key(|item| index(server_order, item).unwrap_or(usize::MAX));
    let mut ordered = Vec::with_capacity(of_patch.len() + of_server.len());
    let mut of_patch = of_patch.into_iter().peekable();
    for item in of_server {
        let place = index(server_order, &item);
        // A patch item goes first unless both were on the server before and this one came first.
        while let Some(other) = of_patch.peek() {
            let first = matches!((place, index(server_order, other)), (Some(l), Some(r)) if l < r);
            if first {
                break;
            }
            ordered.extend(of_patch.next());
        }
        ordered.push(item);
    }
    ordered.extend(of_patch);
    ordered
}

fn same(a: &Value, b: &Value, key: Option<&'static str>) -> bool {
    match key {
        Some(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        None => a == b,
    }
}
