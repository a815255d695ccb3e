//! Namespaces, runtime classes, disruption budgets, priorities, leases.

use serde_json::Value;

use super::cause::Causes;
use super::{meta, resources, spec};
use crate::names;
use crate::value::ValueExt as _;

/// `Namespace`.
pub(super) fn namespace(c: &mut Causes, o: &Value) {
    // The server's own finalizer is the only one without a prefix.
    c.at("spec.finalizers", |c| {
        for name in spec(o).items(&["finalizers"]).iter().filter_map(Value::as_str) {
            c.invalid_each(name, names::qualified_name(name));
            if !name.contains('/') && name != "kubernetes" {
                c.invalid(
                    name,
                    "name is neither a standard finalizer name nor is it fully qualified",
                );
            }
        }
    });
}

/// `RuntimeClass`.
pub(super) fn runtime_class(c: &mut Causes, o: &Value) {
    let handler = o.text(&["handler"]);
    c.at("handler", |c| c.invalid_each(handler, names::dns_label(handler)));
    c.field(o, "overhead", |c, overhead| {
        c.field(overhead, "podFixed", |c, list| {
            resources::list(c, list, resources::Of::Container);
        });
    });
    c.field(o, "scheduling", |c, scheduling| {
        c.field(scheduling, "nodeSelector", meta::labels);
        super::scheduling::tolerations(c, scheduling);
        let mut seen: Vec<&Value> = Vec::new();
        c.each_ref(scheduling, "tolerations", |c, toleration| {
            if seen.contains(&toleration) {
                c.duplicate(toleration.clone());
            }
            seen.push(toleration);
        });
    });
}

/// `PodDisruptionBudget`.
pub(super) fn budget(c: &mut Causes, o: &Value) {
    c.at("spec", |c| budget_spec(c, spec(o)));
}

fn budget_spec(c: &mut Causes, spec: &Value) {
    if spec.at(&["minAvailable"]).is_some() && spec.at(&["maxUnavailable"]).is_some() {
        c.invalid(spec.clone(), "minAvailable and maxUnavailable cannot be both set");
    }
    for name in ["minAvailable", "maxUnavailable"] {
        c.field(spec, name, |c, value| match value {
            Value::String(text) => {
                let digits = text.strip_suffix('%').unwrap_or_default();
                if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                    c.invalid(text.as_str(), "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')");
                } else if digits.parse::<u32>().is_ok_and(|percent| percent > 100) {
                    c.invalid(text.as_str(), "must not be greater than 100%");
                }
            }
            number => {
                let number = number.as_i64().unwrap_or_default();
                if number < 0 {
                    c.invalid(number, "must be greater than or equal to 0");
                }
            }
        });
    }
    c.field(spec, "selector", meta::label_selector);
    c.one_of(
        spec,
        "unhealthyPodEvictionPolicy",
        &["AlwaysAllow", "IfHealthyBudget"],
        false,
    );
}

/// `PriorityClass`.
pub(super) fn priority_class(c: &mut Causes, o: &Value) {
    /// Above this only the system's own classes are.
    const USER_MAX: i64 = 1_000_000_000;
    let (name, value) = (
        o.text(&["metadata", "name"]),
        o.int(&["value"]).unwrap_or_default(),
    );
    if name.starts_with("system-") {
        if let Err(problem) = system_class(name, value, o.flag(&["globalDefault"])) {
            c.at("metadata.name", |c| {
                c.forbidden(&format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {problem}"
                ));
            });
        }
    } else if value > USER_MAX {
        c.at("value", |c| {
            c.forbidden(&format!(
                "maximum allowed value of a user defined priority is {USER_MAX}"
            ));
        });
    }
    c.one_of(o, "preemptionPolicy", &["Never", "PreemptLowerPriority"], false);
}

/// The system's own classes, as they are and not otherwise.
fn system_class(name: &str, value: i64, global_default: bool) -> Result<(), String> {
    let wanted = match name {
        "system-node-critical" => 2_000_001_000,
        "system-cluster-critical" => 2_000_000_000,
        _ => return Err(format!("{name} is not a known system priority class")),
    };
    if value != wanted {
        return Err(format!("value of {name} PriorityClass must be {wanted}"));
    }
    if global_default {
        return Err(format!("globalDefault of {name} PriorityClass must be false"));
    }
    Ok(())
}

/// `Lease`.
pub(super) fn lease(c: &mut Causes, o: &Value) {
    let spec = spec(o);
    c.at("spec", |c| {
        c.positive(spec, "leaseDurationSeconds", "must be greater than 0");
        c.not_negative(spec, "leaseTransitions");
        if spec.at(&["strategy"]).is_some() {
            c.at("strategy", |c| {
                let strategy = spec.text(&["strategy"]);
                c.invalid_each(strategy, names::qualified_name(strategy));
            });
        }
        if !spec.text(&["preferredHolder"]).is_empty() && spec.text(&["strategy"]).is_empty() {
            c.at("preferredHolder", |c| {
                c.forbidden("may only be specified if `strategy` is defined")
            });
        }
    });
}
