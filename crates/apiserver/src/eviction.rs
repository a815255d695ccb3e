//! Disruption budgets: an eviction takes one of the disruptions that the budget still allows.

use crate::call::Call;
use crate::http::status::Status;
use crate::rest::update::{self, Part};
use crate::store::builtin;
use schema::selectors::LabelSelector;
use serde_json::{Value, json};

/// Evictions that the controller has not seen the effect of yet; more are refused.
const MAX_DISRUPTED: usize = 2000;

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
