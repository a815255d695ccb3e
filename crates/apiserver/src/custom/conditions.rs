//! Conditions in the status of definitions.

use serde_json::{Value, json};

/// Whether a condition is true.
pub fn is_true(object: &Value, kind: &str) -> bool {
    find(object, kind).is_some_and(|c| c["status"] == "True")
}

/// A condition.
pub fn find<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|c| c["type"] == kind)
}

/// Sets a condition; its time changes only with its status.
pub fn set(object: &mut Value, kind: &str, status: &str, reason: &str, message: &str, now: &str) {
    let time = find(object, kind)
        .filter(|old| old["status"] == status)
        .map_or_else(|| now.into(), |old| old["lastTransitionTime"].clone());
    let condition = json!({
        "type": kind, "status": status, "lastTransitionTime": time, "reason": reason, "message": message,
    });
    if !object["status"].is_object() {
        object["status"] = json!({});
    }
    let status = &mut object["status"];
    match status.get_mut("conditions").and_then(Value::as_array_mut) {
        Some(list) => match list.iter_mut().find(|c| c["type"] == kind) {
            Some(old) => *old = condition,
            None => list.push(condition),
        },
        None => status["conditions"] = json!([condition]),
    }
}
