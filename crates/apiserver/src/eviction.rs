//! Disruption budgets: an eviction takes one of the disruptions that the budget still allows.

use crate::call::Call;
use crate::http::status::Status;
use crate::rest::options::DeleteOptions;
use crate::rest::update::{self, Part};
use crate::store::builtin;
use schema::Resource;
use schema::selectors::LabelSelector;
use serde_json::{Value, json};

/// Evictions that the controller has not seen the effect of yet; more are refused.
const MAX_DISRUPTED: usize = 2000;
/// The condition of a pod that others end (KEP-3329).
const DISRUPTION: &str = "DisruptionTarget";

/// Takes a disruption from the budget that covers a pod, if there is one.
pub async fn take_from_budget(
    call: &Call,
    namespace: &str,
    name: &str,
    pod: &Value,
    dry_run: bool,
) -> Result<(), Status> {
    let budgets = builtin("policy", "poddisruptionbudgets").ok_or_else(Status::no_such_path)?;
    let labels = &pod["metadata"]["labels"];
    let all = call
        .server
        .store
        .cached_list("policy", "poddisruptionbudgets", namespace);
    let mut covering = all.into_iter().filter(|budget| {
        let selector = LabelSelector::from_structured(Some(&budget.value()["spec"]["selector"]));
        selector.is_ok_and(|s| s.matches(Some(labels)))
    });
    let Some(budget) = covering.next() else {
        return Ok(());
    };
    if covering.next().is_some() {
        return Err(Status::internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ));
    }
    if dry_run {
        return check(&budget.name, &budget.value());
    }
    update::update_named(call, budgets, Part::Raw, namespace, &budget.name, |old| {
        check(&budget.name, old)?;
        let mut new = old.clone();
        let allowed = old["status"]["disruptionsAllowed"].as_i64().unwrap_or(0);
        new["status"]["disruptionsAllowed"] = (allowed - 1).into();
        new["status"]["disruptedPods"][name] = crate::time::now().into();
        Ok(new)
    })
    .await?;
    Ok(())
}

/// Says in the status of a pod that it does not end by its own failure, for whoever counts those (KEP-3329). The
/// preconditions of the deletion hold for this write already; afterwards they name what it left.
pub async fn note_disruption(
    call: &Call,
    pods: &'static Resource,
    options: &mut DeleteOptions,
) -> Result<(), Status> {
    let (namespace, name) = (&call.info.namespace, &call.info.name);
    let outcome = update::update_named(call, pods, Part::Raw, namespace, name, |old| {
        let mut new = old.clone();
        if let Some(uid) = &options.uid {
            new["metadata"]["uid"] = uid.as_str().into();
        }
        if let Some(revision) = &options.revision {
            new["metadata"]["resourceVersion"] = revision.as_str().into();
        }
        set_disruption(&mut new, &crate::time::now());
        Ok(new)
    })
    .await?;
    if let Some(revision) = &mut options.revision {
        *revision = outcome.object().revision.to_string();
    }
    Ok(())
}

fn set_disruption(pod: &mut Value, now: &str) {
    let (status, message) = ("True", "Eviction API: evicting");
    let conditions = &mut pod["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(conditions) = conditions.as_array_mut() else {
        return;
    };
    let known = conditions.iter().position(|c| c["type"] == DISRUPTION);
    if known.is_some_and(|i| conditions[i]["status"] == status) {
        return;
    }
    let condition = json!({
        "type": DISRUPTION, "status": status, "reason": "EvictionByEvictionAPI", "message": message,
        "lastProbeTime": null, "lastTransitionTime": now,
    });
    match known {
        Some(i) => conditions[i] = condition,
        None => conditions.push(condition),
    }
}

fn check(name: &str, budget: &Value) -> Result<(), Status> {
    let status = &budget["status"];
    let refuse = |message: String| {
        let mut refused = Status::new(
            429,
            "TooManyRequests",
            "Cannot evict pod as it would violate the pod's disruption budget.",
        );
        refused.details.insert(
            "causes".into(),
            json!([{"reason": "DisruptionBudget", "message": message}]),
        );
        Err(refused)
    };
    if status["observedGeneration"].as_i64().unwrap_or(0)
        < budget["metadata"]["generation"].as_i64().unwrap_or(0)
    {
        return refuse(format!(
            "The disruption budget {name} is still being processed by the server."
        ));
    }
    let disrupted = status["disruptedPods"]
        .as_object()
        .map_or(0, serde_json::Map::len);
    if disrupted > MAX_DISRUPTED {
        return refuse(format!(
            "The disruption budget {name} has too many evictions under way."
        ));
    }
    if status["disruptionsAllowed"].as_i64().unwrap_or(0) <= 0 {
        return refuse(format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            status["desiredHealthy"].as_i64().unwrap_or(0),
            status["currentHealthy"].as_i64().unwrap_or(0)
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disruption_is_noted_once_and_nothing_else_changes() {
        let mut pod = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        set_disruption(&mut pod, "2026-01-01T00:00:00Z");
        let conditions = pod["status"]["conditions"].as_array().unwrap().clone();
        assert_eq!(conditions[0], json!({"type": "Ready", "status": "True"}));
        assert_eq!(conditions[1]["reason"], "EvictionByEvictionAPI");
        let noted = pod.clone();
        set_disruption(&mut pod, "2027-01-01T00:00:00Z");
        assert_eq!(pod, noted);
        pod["status"]["conditions"][1]["status"] = "False".into();
        set_disruption(&mut pod, "2027-01-01T00:00:00Z");
        assert_eq!(
            pod["status"]["conditions"][1]["lastTransitionTime"],
            "2027-01-01T00:00:00Z"
        );
        let mut bare = json!({});
        set_disruption(&mut bare, "2026-01-01T00:00:00Z");
        assert_eq!(bare["status"]["conditions"][0]["type"], DISRUPTION);
    }
}
