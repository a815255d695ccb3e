//! Pods: the class of service, and what a status update may say.

use serde_json::{Map, Value, json};

use crate::quantity::Quantity;
use crate::value::{ValueExt as _, object_mut};

/// The first status of a pod.
pub(super) fn prepare_create(o: &mut Map<String, Value>) {
    let class = o.get("spec").map_or("BestEffort", qos_class);
    o.insert(
        "status".to_owned(),
        json!({"phase": "Pending", "qosClass": class}),
    );
    let gated = o
        .get("spec")
        .is_some_and(|spec| !spec.items(&["schedulingGates"]).is_empty());
    if gated && let Some(Value::Object(status)) = o.get_mut("status") {
        status.insert(
            "conditions".to_owned(),
            json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                    "message": "Scheduling is blocked due to non-empty scheduling gates"}]),
        );
    }
}

/// The class never changes, whoever writes the status.
pub(super) fn prepare_status_update(old: &Value, new: &mut Value) {
    let class = old.at(&["status", "qosClass"]).cloned();
    if let (Some(class), Some(status)) = (class, object_mut(new, &["status"])) {
        status.insert("qosClass".to_owned(), class);
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`, from the spec of a pod.
pub fn qos_class(spec: &Value) -> &'static str {
    // Resources of the pod as a whole take the place of those of its containers.
    if spec
        .at(&["resources"])
        .is_some_and(|r| r.at(&["requests"]).is_some() || r.at(&["limits"]).is_some())
    {
        return class_of(std::iter::once(spec));
    }
    class_of(
        spec.items(&["containers"])
            .iter()
            .chain(spec.items(&["initContainers"])),
    )
}

fn class_of<'a>(holders: impl Iterator<Item = &'a Value>) -> &'static str {
    let mut guaranteed = true;
    let mut any = false;
    for holder in holders {
        for resource in ["cpu", "memory"] {
            let request = amount(holder, "requests", resource);
            let limit = amount(holder, "limits", resource);
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// An amount above zero.
fn amount(holder: &Value, list: &str, resource: &str) -> Option<Quantity> {
    let quantity = Quantity::parse(holder.text(&["resources", list, resource])).ok()?;
    (!quantity.is_zero()).then_some(quantity)
}
