//! Autoscalers. Both versions are checked by the rules of the second, which is how upstream holds them.

use serde_json::Value;

use super::cause::Causes;
use super::checks::NOT_POSITIVE;
use super::{meta, resources};
use crate::names;
use crate::value::ValueExt as _;

/// Longest look back at earlier recommendations, and longest period of a policy.
const WINDOW_SECONDS_MAX: i64 = 3600;
const PERIOD_SECONDS_MAX: i64 = 1800;

/// Type of a metric and the field that describes it.
const SOURCES: &[(&str, &str)] = &[
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];

/// `HorizontalPodAutoscaler`.
pub(super) fn autoscaler(c: &mut Causes, o: &Value) {
    let spec = super::spec(o);
    c.at("spec", |c| {
        let least = spec.int(&["minReplicas"]).unwrap_or(1);
        let most = spec.int(&["maxReplicas"]).unwrap_or_default();
        if least < 1 {
            c.at("minReplicas", |c| {
                c.invalid(least, "must be greater than or equal to 1")
            });
        }
        if most < 1 {
            c.at("maxReplicas", |c| c.invalid(most, "must be greater than 0"));
        }
        if most < least {
            c.at("maxReplicas", |c| {
                c.invalid(most, "must be greater than or equal to `minReplicas`")
            });
        }
        let none = Value::Null;
        c.at("scaleTargetRef", |c| {
            reference(c, spec.at(&["scaleTargetRef"]).unwrap_or(&none))
        });
        // The one metric of the first version.
        if let Some(percent) = spec.int(&["targetCPUUtilizationPercentage"]).filter(|p| *p < 1) {
            c.at("metrics[0].resource.target.averageUtilization", |c| {
                c.invalid(percent, "must be greater than 0")
            });
        }
        c.each(spec, "metrics", |c, _, metric| self::metric(c, metric));
        c.field(spec, "behavior", |c, behavior| {
            c.field(behavior, "scaleUp", scaling);
            c.field(behavior, "scaleDown", scaling);
        });
    });
}

fn reference(c: &mut Causes, target: &Value) {
    for name in ["kind", "name"] {
        c.name_required(target, name, names::path_segment);
    }
}

fn metric(c: &mut Causes, metric: &Value) {
    let kind = metric.text(&["type"]);
    let Some((_, expected)) = SOURCES.iter().find(|(k, _)| *k == kind) else {
        let kinds: Vec<&str> = SOURCES.iter().map(|(kind, _)| *kind).collect();
        c.at("type", |c| match kind {
            "" => c.required("must specify a metric source type"),
            other => c.not_supported(other, &kinds),
        });
        return;
    };
    for (_, field) in SOURCES {
        let there = metric.at(&[field]);
        c.at(field, |c| match there {
            None if field == expected => c.required("must populate information for the given metric source"),
            Some(_) if field != expected => c.forbidden("must populate the given metric source only"),
            Some(source) => self::source(c, field, source),
            None => {}
        });
    }
}

fn source(c: &mut Causes, kind: &str, source: &Value) {
    let none = Value::Null;
    let target = source.at(&["target"]).unwrap_or(&none);
    let has = |name: &str| target.at(&[name]).is_some();
    match kind {
        "object" => {
            c.at("describedObject", |c| {
                reference(c, source.at(&["describedObject"]).unwrap_or(&none))
            });
            identifier(c, source);
            self::target(c, target);
            if !has("value") && !has("averageValue") {
                c.at("target.averageValue", |c| {
                    c.required("must set either a target value or averageValue")
                });
            }
        }
        "external" => {
            identifier(c, source);
            self::target(c, target);
            match (has("value"), has("averageValue")) {
                (false, false) => c.at("target.averageValue", |c| {
                    c.required("must set either a target value for metric or a per-pod target");
                }),
                (true, true) => c.at("target.value", |c| {
                    c.forbidden("may not set both a target value for metric and a per-pod target");
                }),
                _ => {}
            }
        }
        "pods" => {
            identifier(c, source);
            self::target(c, target);
            let amount = target.at(&["averageValue"]).map(resources::quantity);
            if amount.is_none_or(|amount| amount.is_zero() || amount.is_negative()) {
                c.at("target.averageValue", |c| {
                    c.required("must specify a positive target averageValue")
                });
            }
        }
        _ => {
            c.text_required_for(source, "name", "must specify a resource name");
            if kind == "containerResource" {
                c.text_required_for(source, "container", "must specify a container");
            }
            self::target(c, target);
            match (has("averageUtilization"), has("averageValue")) {
                (false, false) => c.at("target.averageUtilization", |c| {
                    c.required("must set either a target raw value or a target utilization");
                }),
                (true, true) => c.at("target.averageValue", |c| {
                    c.forbidden("may not set both a target raw value and a target utilization");
                }),
                _ => {}
            }
        }
    }
}

fn identifier(c: &mut Causes, source: &Value) {
    c.at("metric", |c| {
        let metric = source.get("metric").unwrap_or(&Value::Null);
        c.text_required_for(metric, "name", "must specify a metric name");
        c.name_rule(metric, "name", names::path_segment);
        c.field(metric, "selector", meta::label_selector);
    });
}

fn target(c: &mut Causes, target: &Value) {
    c.at("target", |c| {
        let kind = target.text(&["type"]);
        if kind.is_empty() {
            c.at("type", |c| c.required("must specify a metric target type"));
        } else if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
            c.at("type", |c| {
                c.invalid(kind, "must be either Utilization, Value, or AverageValue")
            });
        }
        for name in ["value", "averageValue"] {
            let amount = target.at(&[name]).map(resources::quantity);
            if let Some(amount) = amount.filter(|amount| amount.is_zero() || amount.is_negative()) {
                c.at(name, |c| c.invalid(amount.to_string(), "must be positive"));
            }
        }
        c.positive(target, "averageUtilization", "must be greater than 0");
    });
}

fn scaling(c: &mut Causes, rules: &Value) {
    if let Some(seconds) = rules.int(&["stabilizationWindowSeconds"]) {
        c.at("stabilizationWindowSeconds", |c| {
            if seconds < 0 {
                c.invalid(seconds, "must be greater than or equal to zero");
            } else if seconds > WINDOW_SECONDS_MAX {
                c.invalid(
                    seconds,
                    &format!("must be less than or equal to {WINDOW_SECONDS_MAX}"),
                );
            }
        });
    }
    c.one_of(rules, "selectPolicy", &["Disabled", "Max", "Min"], false);
    if rules.items(&["policies"]).is_empty() {
        c.at("policies", |c| c.required("must specify at least one Policy"));
    }
    c.each(rules, "policies", |c, _, policy| {
        let kind = policy.text(&["type"]);
        if !matches!(kind, "Percent" | "Pods") {
            c.at("type", |c| c.not_supported(kind, &["Percent", "Pods"]));
        }
        for name in ["value", "periodSeconds"] {
            let number = policy.int(&[name]).unwrap_or_default();
            c.at(name, |c| {
                if number <= 0 {
                    c.invalid(number, NOT_POSITIVE);
                } else if name == "periodSeconds" && number > PERIOD_SECONDS_MAX {
                    c.invalid(
                        number,
                        &format!("must be less than or equal to {PERIOD_SECONDS_MAX}"),
                    );
                }
            });
        }
    });
    if rules
        .at(&["tolerance"])
        .map(resources::quantity)
        .is_some_and(|t| t.is_negative())
    {
        let tolerance = rules.text(&["tolerance"]);
        c.at("tolerance", |c| {
            c.invalid(tolerance, "must be greater than or equal to 0")
        });
    }
}
