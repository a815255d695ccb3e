//! ResourceQuota: what a namespace may use in all. Usage is raised by compare and swap before the object is stored,
//! so that requests at once cannot exceed it together; the quota controller brings it down again.

use super::Operation;
use super::usage::{self, Amounts};
use crate::call::Call;
use crate::http::status::Status;
use crate::json::items;
use crate::rest::{delete, meta};
use crate::store::{Freshness, Object, Replaced, builtin};
use schema::Resource;
use schema::quantity::Quantity;
use serde_json::Value;
use std::sync::Arc;

/// Attempts against other requests that raise the same usage.
const ATTEMPTS: usize = 16;

/// Takes what a write needs from the quotas of its namespace, or refuses the write.
pub async fn take(
    call: &Call,
    operation: Operation,
    resource: &'static Resource,
    old: Option<&Value>,
    new: &Value,
) -> Result<(), Status> {
    let counts = match operation {
        Operation::Create => true,
        Operation::Update => {
            resource.is("", "services")
                || resource.is("", "persistentvolumeclaims")
                || is_resize(call, resource)
        }
        Operation::Delete => false,
    };
    if !counts || !resource.namespaced || !resource.is_stored() || (call.info.subresource == "status") {
        return Ok(());
    }
    let quotas = builtin("", "resourcequotas").ok_or_else(Status::no_such_path)?;
    let store = &call.server.store;
    let known = store.cached_list("", "resourcequotas", &call.info.namespace);
    if known.is_empty() {
        return Ok(());
    }
    let mut wanted = usage::of(resource, new);
    if let Some(old) = old {
        let before = usage::of(resource, old);
        wanted.retain(|name, amount| {
            let more = before
                .get(name)
                .map_or_else(|| amount.clone(), |b| amount.minus(b));
            let raised = !more.is_negative() && !more.is_zero();
            *amount = more;
            raised
        });
    }
    if wanted.is_empty() {
        return Ok(());
    }
    for quota in known {
        take_from(call, quotas, quota, resource, new, &wanted).await?;
    }
    Ok(())
}

fn is_resize(call: &Call, resource: &Resource) -> bool {
    resource.is("", "pods") && call.info.subresource == "resize"
}

async fn take_from(
    call: &Call,
    quotas: &'static Resource,
    mut quota: Arc<Object>,
    resource: &Resource,
    object: &Value,
    wanted: &Amounts,
) -> Result<(), Status> {
    let store = &call.server.store;
    let dry_run = call.dry_run()?;
    for _ in 0..ATTEMPTS {
        let value = quota.value();
        if meta::is_terminating(&value) && delete::is_finished(quotas, &value) {
            return Ok(());
        }
        if !in_scope(&value["spec"], resource, object) {
            return Ok(());
        }
        let new = match raise(call, &value, resource, object, wanted).await? {
            Some(new) if !dry_run => new,
            _ => return Ok(()),
        };
        match store
            .replace(quotas, &quota.key, new, quota.revision, None)
            .await?
        {
            Replaced::Done(_) => return Ok(()),
            Replaced::Conflict => match store.read(quotas, &quota.key).await? {
                Some(newer) => quota = newer,
                None => return Ok(()),
            },
        }
    }
    Err(Status::conflict(
        resource,
        meta::text(object, "name"),
        format!(
            "the usage of quota {} changes too quickly; please try again",
            quota.name
        ),
    ))
}

/// The quota with the usage raised; `None` if it does not count what is wanted.
async fn raise(
    call: &Call,
    quota: &Value,
    resource: &Resource,
    object: &Value,
    wanted: &Amounts,
) -> Result<Option<Value>, Status> {
    let name = meta::text(quota, "name");
    let refuse = |why: String| Err(Status::forbidden(resource, meta::text(object, "name"), why));
    let hard = amounts(&quota["spec"]["hard"]);
    if resource.is("", "pods") {
        let counted: Vec<&str> = hard.keys().map(String::as_str).collect();
        let unsaid = usage::unsaid(object, &counted);
        if !unsaid.is_empty() {
            let list: Vec<String> = unsaid
                .iter()
                .map(|(counted, containers)| format!("{counted} for: {}", containers.join(",")))
                .collect();
            return refuse(format!("failed quota: {name}: must specify {}", list.join("; ")));
        }
    }
    let counted: Amounts = wanted
        .iter()
        .filter(|(name, _)| hard.contains_key(*name))
        .map(|(name, amount)| (name.clone(), amount.clone()))
        .collect();
    if counted.is_empty() {
        return Ok(None);
    }
    // Before the controller has seen a quota, or seen its change, the usage is counted here.
    let known = amounts(&quota["status"]["used"]);
    let used = if hard.keys().all(|name| known.contains_key(name)) {
        known
    } else {
        call.server.store.fresh(Freshness::Newest).await?;
        count(call, quota, &hard)
    };
    let nothing = Quantity::from_units(0);
    let mut new = quota.clone();
    let mut exceeded = Vec::new();
    for (name, most) in &hard {
        let before = used.get(name).unwrap_or(&nothing);
        let after = counted
            .get(name)
            .map_or_else(|| before.clone(), |more| before.plus(more));
        if counted.contains_key(name) && after > *most {
            exceeded.push(name);
        }
        new["status"]["used"][name] = after.to_string().into();
        new["status"]["hard"][name] = most.to_string().into();
    }
    if exceeded.is_empty() {
        return Ok(Some(new));
    }
    let list = |of: &Amounts| -> String {
        let parts = exceeded
            .iter()
            .map(|name| format!("{name}={}", of.get(*name).unwrap_or(&nothing)));
        parts.collect::<Vec<_>>().join(",")
    };
    refuse(format!(
        "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
        list(&counted),
        list(&used),
        list(&hard)
    ))
}

fn amounts(value: &Value) -> Amounts {
    let fields = value.as_object().into_iter().flatten();
    fields
        .filter_map(|(name, amount)| Some((name.clone(), Quantity::parse(amount.as_str()?).ok()?)))
        .collect()
}

/// What the objects of the namespace use now, of what the quota limits.
fn count(call: &Call, quota: &Value, hard: &Amounts) -> Amounts {
    let mut used: Amounts = hard
        .keys()
        .map(|name| (name.clone(), Quantity::from_units(0)))
        .collect();
    let customs = call.server.store.customs().resources();
    let built_in = schema::registry().resources().iter();
    let counted = built_in
        .chain(&customs)
        .filter(|r| r.namespaced && r.is_stored() && crate::store::is_storage_version(r));
    for resource in counted {
        // Most are counted only by a name that says so.
        let special = resource.group.is_empty()
            && matches!(
                resource.plural.as_ref(),
                "pods"
                    | "services"
                    | "persistentvolumeclaims"
                    | "configmaps"
                    | "secrets"
                    | "replicationcontrollers"
                    | "resourcequotas"
            );
        if !special && !hard.contains_key(&format!("count/{}", resource.qualified_name())) {
            continue;
        }
        let Ok(cache) = call.server.store.cache(resource) else {
            continue;
        };
        let (objects, _) = cache.list(&crate::store::object::list_prefix(resource, &call.info.namespace));
        for object in objects {
            let value = object.value();
            if !in_scope(&quota["spec"], resource, &value) {
                continue;
            }
            for (name, amount) in usage::of(resource, &value) {
                if let Some(sum) = used.get_mut(&name) {
                    *sum = sum.plus(&amount);
                }
            }
        }
    }
    used
}

/// Whether a quota is for an object: all its scopes hold.
fn in_scope(spec: &Value, resource: &Resource, object: &Value) -> bool {
    let scopes = items(spec, "scopes").iter().filter_map(Value::as_str);
    let mut rules: Vec<(&str, &str, Vec<&str>)> = scopes.map(|scope| (scope, "Exists", Vec::new())).collect();
    rules.extend(
        items(&spec["scopeSelector"], "matchExpressions")
            .iter()
            .map(|rule| {
                let text = |field: &str| rule[field].as_str().unwrap_or_default();
                let values = items(rule, "values").iter().filter_map(Value::as_str).collect();
                (text("scopeName"), text("operator"), values)
            }),
    );
    // Scopes are about pods alone.
    rules.is_empty() || (resource.is("", "pods") && rules.iter().all(|rule| meets(rule, &object["spec"])))
}

fn meets((scope, operator, values): &(&str, &str, Vec<&str>), spec: &Value) -> bool {
    let deadline = spec["activeDeadlineSeconds"].as_i64().is_some_and(|s| s >= 0);
    let best_effort = || {
        let containers = items(spec, "containers")
            .iter()
            .chain(items(spec, "initContainers"));
        containers.into_iter().all(|c| {
            ["requests", "limits"].iter().all(|field| {
                let amounts = c["resources"][*field].as_object();
                amounts.is_none_or(|a| !a.keys().any(|k| matches!(k.as_str(), "cpu" | "memory")))
            })
        })
    };
    match *scope {
        "Terminating" => deadline,
        "NotTerminating" => !deadline,
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => {
            let class = spec["priorityClassName"].as_str().unwrap_or_default();
            match *operator {
                "In" => values.contains(&class),
                "NotIn" => !values.contains(&class),
                "DoesNotExist" => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(&spec["affinity"]),
        _ => false,
    }
}

/// Whether an affinity term looks at other namespaces.
fn crosses_namespaces(affinity: &Value) -> bool {
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let of = |field: &str| items(&affinity[*kind], field);
        let required = of("requiredDuringSchedulingIgnoredDuringExecution").iter();
        let preferred = of("preferredDuringSchedulingIgnoredDuringExecution")
            .iter()
            .map(|p| &p["podAffinityTerm"]);
        required
            .chain(preferred)
            .any(|term| !items(term, "namespaces").is_empty() || !term["namespaceSelector"].is_null())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scopes_choose_pods() {
        let pods = schema::registry().find("", "v1", "pods").unwrap();
        let maps = schema::registry().find("", "v1", "configmaps").unwrap();
        let pod = json!({"spec": {"priorityClassName": "high", "containers": [{"name": "a"}]}});
        let quota = |scope: &str| json!({"scopes": [scope]});
        assert!(in_scope(&quota("BestEffort"), pods, &pod) && in_scope(&quota("NotTerminating"), pods, &pod));
        assert!(
            !in_scope(&quota("Terminating"), pods, &pod) && !in_scope(&quota("BestEffort"), maps, &json!({}))
        );
        let class = |operator: &str| {
            json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": operator, "values": ["high"]},
            ]}})
        };
        assert!(in_scope(&class("In"), pods, &pod) && !in_scope(&class("NotIn"), pods, &pod));
        assert!(in_scope(&json!({}), maps, &json!({})));
    }
}
