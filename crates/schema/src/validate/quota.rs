//! Quotas and limit ranges.

use serde_json::Value;

use super::cause::Causes;
use super::resources;
use crate::names;
use crate::value::ValueExt as _;

/// Scopes, and whether they are about pods alone.
const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];
/// Scopes that contain nothing together.
const CONFLICTS: &[(&str, &str)] = &[("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")];

const ONLY_EXISTS: &str = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";

/// Whether a scope selects among what a resource counts.
fn applies(scope: &str, resource: &str) -> bool {
    let of_pods = matches!(
        resource,
        "pods"
            | "cpu"
            | "memory"
            | "ephemeral-storage"
            | "requests.cpu"
            | "requests.memory"
            | "requests.ephemeral-storage"
            | "limits.cpu"
            | "limits.memory"
            | "limits.ephemeral-storage"
    );
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => of_pods,
    }
}

/// `ResourceQuota`.
pub(super) fn resource_quota(c: &mut Causes, o: &Value) {
    let spec = super::spec(o);
    let hard: Vec<&str> = spec
        .at(&["hard"])
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|hard| hard.keys().map(String::as_str))
        .filter(|name| resources::is_quota_resource(name))
        .collect();
    c.at("spec", |c| {
        c.field(spec, "hard", |c, hard| {
            resources::list(c, hard, resources::Of::Quota);
        });
        let scopes: Vec<&str> = spec.items(&["scopes"]).iter().filter_map(Value::as_str).collect();
        c.at("scopes", |c| {
            check_scopes(c, &spec.items(&["scopes"]).to_vec().into(), &scopes, &hard)
        });
        c.field(spec, "scopeSelector", |c, selector| {
            let expressions = selector.items(&["matchExpressions"]);
            let named: Vec<&str> = expressions.iter().map(|e| e.text(&["scopeName"])).collect();
            c.at("matchExpressions", |c| {
                for expression in expressions {
                    scope_expression(c, expression);
                }
                check_scopes(c, &expressions.to_vec().into(), &named, &hard);
            });
        });
    });
}

fn check_scopes(c: &mut Causes, value: &Value, scopes: &[&str], hard: &[&str]) {
    for scope in scopes {
        if !SCOPES.contains(scope) {
            c.invalid(value.clone(), "unsupported scope");
            continue;
        }
        for resource in hard {
            if !applies(scope, resource) {
                c.invalid(value.clone(), "unsupported scope applied to resource");
            }
        }
    }
    for (a, b) in CONFLICTS {
        if scopes.contains(a) && scopes.contains(b) {
            c.invalid(value.clone(), "conflicting scopes");
        }
    }
}

fn scope_expression(c: &mut Causes, expression: &Value) {
    let (scope, operator) = (expression.text(&["scopeName"]), expression.text(&["operator"]));
    let values = expression.items(&["values"]);
    let only_exists = matches!(
        scope,
        "BestEffort" | "NotBestEffort" | "Terminating" | "NotTerminating" | "CrossNamespacePodAffinity"
    );
    if only_exists && operator != "Exists" {
        c.at("operator", |c| c.invalid(operator, ONLY_EXISTS));
    }
    match operator {
        "In" | "NotIn" if values.is_empty() => c.at("values", |c| {
            c.required("must be at least one value when `operator` is 'In' or 'NotIn' for scope selector");
        }),
        "Exists" | "DoesNotExist" if !values.is_empty() => c.at("values", |c| {
            c.invalid(
                values.to_vec(),
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            );
        }),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => c.at("operator", |c| c.invalid(other, "not a valid selector operator")),
    }
}

/// Pairs of lists in which the first's amounts are at most the second's, and upstream's names of the amounts.
const ORDER: &[(&str, &str, &str, &str)] = &[
    ("min", "max", "min", "max"),
    ("defaultRequest", "max", "default request", "max"),
    ("defaultRequest", "default", "default request", "default limit"),
    ("default", "max", "default", "max"),
    ("min", "defaultRequest", "min", "default request"),
    ("min", "default", "min", "default"),
];

/// `LimitRange`.
pub(super) fn limit_range(c: &mut Causes, o: &Value) {
    let mut seen: Vec<&str> = Vec::new();
    c.at("spec", |c| {
        c.each_ref(super::spec(o), "limits", |c, limit| {
            let kind = limit.text(&["type"]);
            c.at("type", |c| {
                if !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim") {
                    c.invalid_each(kind, names::qualified_name(kind));
                    if !kind.contains('/') {
                        c.invalid(kind, "must be a standard limit type or fully qualified");
                    }
                }
                if seen.contains(&kind) {
                    c.duplicate(kind);
                }
            });
            seen.push(kind);
            limit_item(c, limit, kind);
        });
    });
}

fn limit_item(c: &mut Causes, limit: &Value, kind: &str) {
    let amounts = |list: &str| limit.at(&[list]).and_then(Value::as_object);
    for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        for name in amounts(list).into_iter().flat_map(serde_json::Map::keys) {
            c.at(list, |c| {
                c.key(name, |c| c.invalid_each(name, names::qualified_name(name)))
            });
        }
    }
    if kind == "Pod" {
        for list in ["default", "defaultRequest"] {
            c.forbidden_field(limit, list, "may not be specified when `type` is 'Pod'");
        }
    }
    if kind == "PersistentVolumeClaim" && limit.at(&["min"]).is_none() && limit.at(&["max"]).is_none() {
        c.required("either minimum or maximum storage value is required, but neither was provided");
    }
    for (low, high, low_name, high_name) in ORDER {
        for (name, value) in amounts(low).into_iter().flatten() {
            let Some(most) = amounts(high).and_then(|m| m.get(name)) else {
                continue;
            };
            let (low_amount, high_amount) = (resources::quantity(value), resources::quantity(most));
            if low_amount > high_amount {
                let detail =
                    format!("{low_name} value {low_amount} is greater than {high_name} value {high_amount}");
                c.at(low, |c| {
                    c.key(name, |c| c.invalid(low_amount.to_string(), &detail))
                });
            }
        }
    }
    let one = resources::quantity(&"1".into());
    for (name, value) in amounts("maxLimitRequestRatio").into_iter().flatten() {
        let ratio = resources::quantity(value);
        if ratio < one {
            c.at("maxLimitRequestRatio", |c| {
                c.key(name, |c| {
                    c.invalid(ratio.to_string(), &format!("ratio {ratio} is less than 1"))
                })
            });
        }
    }
}
