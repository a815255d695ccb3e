//! Tolerations, affinity, spreading.

use serde_json::Value;

use super::cause::Causes;
use super::meta;
use crate::names;
use crate::value::ValueExt as _;

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// The tolerations of a pod spec.
pub(super) fn tolerations(c: &mut Causes, spec: &Value) {
    c.each(spec, "tolerations", |c, _, toleration| {
        let (key, operator) = (toleration.text(&["key"]), toleration.text(&["operator"]));
        let (value, effect) = (toleration.text(&["value"]), toleration.text(&["effect"]));
        c.name_rule(toleration, "key", names::qualified_name);
        if key.is_empty() && operator != "Exists" {
            c.at("operator", |c| {
                c.invalid(
                    operator,
                    "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
                );
            });
        }
        if toleration.int(&["tolerationSeconds"]).is_some() && effect != "NoExecute" {
            c.at("effect", |c| {
                c.invalid(effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
            });
        }
        match operator {
            "" | "Equal" => c.at("operator", |c| c.invalid_each(value, names::label_value(value))),
            "Exists" => {
                if !value.is_empty() {
                    c.at("operator", |c| {
                        c.invalid(value, "value must be empty when `operator` is 'Exists'");
                    });
                }
            }
            "Gt" | "Lt" => {
                if value.parse::<i64>().is_err() {
                    c.at("value", |c| c.invalid(value, "must be a valid integer"));
                }
            }
            other => c.at("operator", |c| c.not_supported(other, &["Equal", "Exists"])),
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            c.at("effect", |c| c.not_supported(effect, EFFECTS));
        }
    });
}

/// The affinity of a pod.
pub(super) fn affinity(c: &mut Causes, affinity: &Value) {
    c.field(affinity, "nodeAffinity", |c, node| {
        c.field(
            node,
            "requiredDuringSchedulingIgnoredDuringExecution",
            node_selector,
        );
        c.each(
            node,
            "preferredDuringSchedulingIgnoredDuringExecution",
            |c, _, preferred| {
                weight(c, preferred);
                c.field(preferred, "preference", node_term);
            },
        );
    });
    for kind in ["podAffinity", "podAntiAffinity"] {
        c.field(affinity, kind, |c, pods| {
            c.each(
                pods,
                "requiredDuringSchedulingIgnoredDuringExecution",
                |c, _, term| pod_term(c, term),
            );
            c.each(
                pods,
                "preferredDuringSchedulingIgnoredDuringExecution",
                |c, _, preferred| {
                    weight(c, preferred);
                    c.field(preferred, "podAffinityTerm", pod_term);
                },
            );
        });
    }
}

fn weight(c: &mut Causes, preferred: &Value) {
    let weight = preferred.int(&["weight"]).unwrap_or_default();
    if !(1..=100).contains(&weight) {
        c.at("weight", |c| c.invalid(weight, "must be in the range 1-100"));
    }
}

/// A node selector: at least one term.
pub(super) fn node_selector(c: &mut Causes, selector: &Value) {
    if selector.items(&["nodeSelectorTerms"]).is_empty() {
        c.at("nodeSelectorTerms", |c| {
            c.required("must have at least one node selector term")
        });
    }
    c.each(selector, "nodeSelectorTerms", |c, _, term| node_term(c, term));
}

fn node_term(c: &mut Causes, term: &Value) {
    for list in ["matchExpressions", "matchFields"] {
        c.each(term, list, |c, _, expression| {
            let key = expression.text(&["key"]);
            if list == "matchExpressions" {
                c.at("key", |c| c.invalid_each(key, names::qualified_name(key)));
            } else if key != "metadata.name" {
                c.at("key", |c| c.not_supported(key, &["metadata.name"]));
            }
            let count = expression.items(&["values"]).len();
            match expression.text(&["operator"]) {
                "In" | "NotIn" if count == 0 => {
                    c.at("values", |c| {
                        c.required("must be specified when `operator` is 'In' or 'NotIn'")
                    });
                }
                "Exists" | "DoesNotExist" if count > 0 => {
                    c.at("values", |c| {
                        c.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
                    });
                }
                "Gt" | "Lt" if count != 1 => {
                    c.at("values", |c| {
                        c.required("must be specified single value when `operator` is 'Lt' or 'Gt'");
                    });
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
                other => c.at("operator", |c| c.invalid(other, "not a valid selector operator")),
            }
        });
    }
}

fn pod_term(c: &mut Causes, term: &Value) {
    c.field(term, "labelSelector", meta::label_selector);
    for namespace in term.items(&["namespaces"]).iter().filter_map(Value::as_str) {
        c.at("namespace", |c| {
            c.invalid_each(namespace, names::dns_label(namespace))
        });
    }
    label_keys(c, term, "matchLabelKeys");
    label_keys(c, term, "mismatchLabelKeys");
    c.field(term, "namespaceSelector", meta::label_selector);
    let key = term.text(&["topologyKey"]);
    c.at("topologyKey", |c| {
        if key.is_empty() {
            c.required("can not be empty");
        } else {
            c.invalid_each(key, names::qualified_name(key));
        }
    });
}

/// Keys whose values are those of the pod itself: they add to a selector, which must be there.
fn label_keys(c: &mut Causes, holder: &Value, name: &str) {
    if holder.items(&[name]).is_empty() {
        return;
    }
    if holder.at(&["labelSelector"]).is_none() {
        c.at(name, |c| {
            c.forbidden("must not be set when labelSelector is not set")
        });
        return;
    }
    c.text_rules(holder, name, names::qualified_name);
}

/// The spread constraints of a pod spec.
pub(super) fn spread_constraints(c: &mut Causes, spec: &Value) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    c.each_ref(spec, "topologySpreadConstraints", |c, constraint| {
        let skew = constraint.int(&["maxSkew"]).unwrap_or_default();
        if skew <= 0 {
            c.at("maxSkew", |c| c.invalid(skew, "must be greater than zero"));
        }
        let (key, action) = (
            constraint.text(&["topologyKey"]),
            constraint.text(&["whenUnsatisfiable"]),
        );
        if key.is_empty() {
            c.at("topologyKey", |c| c.required("can not be empty"));
        }
        if !matches!(action, "DoNotSchedule" | "ScheduleAnyway") {
            c.at("whenUnsatisfiable", |c| {
                c.not_supported(action, &["DoNotSchedule", "ScheduleAnyway"])
            });
        }
        if seen.contains(&(key, action)) {
            c.at("{topologyKey, whenUnsatisfiable}", |c| {
                c.duplicate(format!("{{{key}, {action}}}"))
            });
        }
        seen.push((key, action));
        if let Some(domains) = constraint.int(&["minDomains"]) {
            if domains <= 0 {
                c.at("minDomains", |c| c.invalid(domains, "must be greater than zero"));
            }
            if action != "DoNotSchedule" {
                c.at("minDomains", |c| {
                    c.invalid(
                        domains,
                        &format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"),
                    );
                });
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            c.one_of(constraint, policy, &["Honor", "Ignore"], false);
        }
        c.field(constraint, "labelSelector", meta::label_selector);
        label_keys(c, constraint, "matchLabelKeys");
    });
}
