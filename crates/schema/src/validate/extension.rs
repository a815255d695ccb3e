//! Disruption budgets, autoscalers, priorities, leases, custom resources and webhooks.

use serde_json::Value;

use super::cause::Causes;
use super::{meta, probe, resources, spec};
use crate::names;
use crate::registry::Resource;
use crate::value::ValueExt as _;

/// Rules of these groups.
pub(super) fn rules(c: &mut Causes, resource: &Resource, o: &Value) {
    match &*resource.plural {
        "poddisruptionbudgets" => c.at("spec", |c| budget(c, spec(o))),
        "horizontalpodautoscalers" => c.at("spec", |c| autoscaler(c, spec(o))),
        "priorityclasses" => priority_class(c, o),
        "leases" => c.at("spec", |c| lease(c, spec(o))),
        "runtimeclasses" => {
            let handler = o.text(&["handler"]);
            c.at("handler", |c| match handler {
                "" => c.required(""),
                handler => c.invalid_each(handler, names::dns_label(handler)),
            });
            c.field(o, "overhead", |c, overhead| {
                c.field(overhead, "podFixed", |c, list| {
                    resources::list(c, list, resources::Of::Container);
                });
            });
        }
        "customresourcedefinitions" => custom_resource_definition(c, o),
        "apiservices" => api_service(c, o),
        "mutatingwebhookconfigurations" | "validatingwebhookconfigurations" => webhooks(c, o),
        _ => {}
    }
}

fn budget(c: &mut Causes, spec: &Value) {
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

fn autoscaler(c: &mut Causes, spec: &Value) {
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
    c.at("scaleTargetRef", |c| {
        let target = spec.at(&["scaleTargetRef"]).unwrap_or(&Value::Null);
        for name in ["kind", "name"] {
            c.text_required(target, name);
            c.name_rule(target, name, names::path_segment);
        }
    });
    if let Some(percent) = spec.int(&["targetCPUUtilizationPercentage"]).filter(|p| *p < 1) {
        c.at("targetCPUUtilizationPercentage", |c| {
            c.invalid(percent, "must be greater than 0")
        });
    }
}

fn priority_class(c: &mut Causes, o: &Value) {
    /// Above this only the system's own classes are.
    const USER_MAX: i64 = 1_000_000_000;
    let (name, value) = (
        o.text(&["metadata", "name"]),
        o.int(&["value"]).unwrap_or_default(),
    );
    let known = matches!(name, "system-cluster-critical" | "system-node-critical");
    if name.starts_with("system-") && !known {
        c.at("metadata.name", |c| {
            c.forbidden(
                "priority class names with 'system-' prefix are reserved for system use only. error: ",
            );
        });
    } else if !name.starts_with("system-") && value > USER_MAX {
        c.at("value", |c| {
            c.forbidden(&format!(
                "maximum allowed value of a user defined priority is {USER_MAX}"
            ));
        });
    }
    c.one_of(o, "preemptionPolicy", &["Never", "PreemptLowerPriority"], false);
}

fn lease(c: &mut Causes, spec: &Value) {
    if let Some(seconds) = spec.int(&["leaseDurationSeconds"]).filter(|s| *s <= 0) {
        c.at("leaseDurationSeconds", |c| {
            c.invalid(seconds, "must be greater than 0")
        });
    }
    if let Some(count) = spec.int(&["leaseTransitions"]).filter(|n| *n < 0) {
        c.at("leaseTransitions", |c| {
            c.invalid(count, "must be greater than or equal to 0")
        });
    }
}

fn custom_resource_definition(c: &mut Causes, o: &Value) {
    let spec = spec(o);
    let (plural, group) = (spec.text(&["names", "plural"]), spec.text(&["group"]));
    let name = o.text(&["metadata", "name"]);
    if name != format!("{plural}.{group}") {
        c.at("metadata.name", |c| {
            c.invalid(name, "must be spec.names.plural+\".\"+spec.group")
        });
    }
    c.at("spec", |c| {
        c.at("group", |c| {
            if group.is_empty() {
                c.required("");
            } else if !group.contains('.') {
                c.invalid(group, "should be a domain with at least one dot");
            } else {
                c.invalid_each(group, names::dns_subdomain(group));
            }
        });
        c.one_of(spec, "scope", &["Cluster", "Namespaced"], true);
        c.at("names", |c| {
            let names = spec.at(&["names"]).unwrap_or(&Value::Null);
            for field in ["plural", "singular", "kind", "listKind"] {
                c.text_required(names, field);
            }
            c.name_rule(names, "plural", crate::names::dns1035_label);
            c.name_rule(names, "singular", crate::names::dns1035_label);
            for field in ["kind", "listKind"] {
                let kind = names.text(&[field]);
                if !kind.is_empty() {
                    c.at(field, |c| {
                        c.invalid_each(kind, crate::names::dns1035_label(&kind.to_lowercase()));
                    });
                }
            }
        });
        versions(c, spec);
    });
}

fn versions(c: &mut Causes, spec: &Value) {
    let list = spec.items(&["versions"]);
    let mut seen: Vec<&str> = Vec::new();
    c.each_ref(spec, "versions", |c, version| {
        let name = version.text(&["name"]);
        c.at("name", |c| {
            c.invalid_each(name, names::dns1035_label(name));
            if seen.contains(&name) {
                c.duplicate(name);
            }
        });
        seen.push(name);
        c.at("schema", |c| match version.at(&["schema", "openAPIV3Schema"]) {
            None => c.at("openAPIV3Schema", |c| c.required("schemas are required")),
            Some(schema) => c.extend("openAPIV3Schema", |path| crate::structural::check(schema, path)),
        });
    });
    if list.iter().filter(|v| v.flag(&["storage"])).count() != 1 {
        c.at("versions", |c| {
            c.invalid(
                list.to_vec(),
                "must have exactly one version marked as storage version",
            );
        });
    }
}

fn api_service(c: &mut Causes, o: &Value) {
    let spec = spec(o);
    let wanted = match spec.text(&["group"]) {
        "" => format!("{}.", spec.text(&["version"])),
        group => format!("{}.{group}", spec.text(&["version"])),
    };
    let name = o.text(&["metadata", "name"]);
    if name != wanted {
        c.at("metadata.name", |c| {
            c.invalid(name, "must be `spec.version+\".\"+spec.group`")
        });
    }
    c.at("spec", |c| {
        for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
            let number = spec.int(&[field]).unwrap_or_default();
            if !(1..=most).contains(&number) {
                c.at(field, |c| {
                    c.invalid(number, &format!("must be positive and less than {most}"));
                });
            }
        }
        c.field(spec, "service", |c, service| {
            c.text_required(service, "namespace");
            c.text_required(service, "name");
            if service.at(&["port"]).is_some() {
                probe::port(c, service);
            }
        });
    });
}

fn webhooks(c: &mut Causes, o: &Value) {
    let mut seen: Vec<&str> = Vec::new();
    c.each_ref(o, "webhooks", |c, webhook| {
        let name = webhook.text(&["name"]);
        c.at("name", |c| {
            if name.is_empty() {
                c.required("");
            } else if name.split('.').count() < 3 {
                c.invalid(
                    name,
                    "should be a domain with at least three segments separated by dots",
                );
            } else {
                c.invalid_each(name, names::dns_subdomain(name));
            }
            if seen.contains(&name) {
                c.duplicate(name);
            }
        });
        seen.push(name);
        if webhook.items(&["admissionReviewVersions"]).is_empty() {
            c.at("admissionReviewVersions", |c| {
                c.required("must specify one of v1, v1beta1");
            });
        }
        c.one_of(webhook, "failurePolicy", &["Fail", "Ignore"], false);
        c.one_of(webhook, "matchPolicy", &["Equivalent", "Exact"], false);
        let effects = webhook.text(&["sideEffects"]);
        if effects.is_empty() {
            c.at("sideEffects", |c| {
                c.required("must specify one of None, NoneOnDryRun")
            });
        } else {
            c.one_of(webhook, "sideEffects", &["None", "NoneOnDryRun"], true);
        }
        if let Some(seconds) = webhook.int(&["timeoutSeconds"]).filter(|s| !(1..=30).contains(s)) {
            c.at("timeoutSeconds", |c| {
                c.invalid(seconds, "the timeout value must be between 1 and 30 seconds");
            });
        }
        c.field(webhook, "namespaceSelector", meta::label_selector);
        c.field(webhook, "objectSelector", meta::label_selector);
        c.at("clientConfig", |c| {
            let config = webhook.at(&["clientConfig"]).unwrap_or(&Value::Null);
            if config.at(&["url"]).is_some() == config.at(&["service"]).is_some() {
                c.required("exactly one of url or service is required");
            }
        });
        c.each(webhook, "rules", |c, _, rule| {
            for field in ["apiGroups", "apiVersions", "resources", "operations"] {
                if rule.items(&[field]).is_empty() {
                    c.at(field, |c| c.required(""));
                }
            }
        });
    });
}
