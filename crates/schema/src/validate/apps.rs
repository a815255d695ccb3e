//! Workloads.

use serde_json::Value;

use super::cause::Causes;
use super::{meta, pod, spec, storage};
use crate::names;
use crate::selectors::LabelSelector;
use crate::value::{ValueExt as _, is_empty};

/// `ReplicaSet`.
pub(super) fn replica_set(c: &mut Causes, o: &Value) {
    c.at("spec", |c| {
        let spec = spec(o);
        c.not_negative(spec, "replicas");
        c.not_negative(spec, "minReadySeconds");
        selector(c, spec, "deployment");
        template(c, spec, "ReplicaSet");
    });
}

/// `ControllerRevision`.
pub(super) fn controller_revision(c: &mut Causes, o: &Value) {
    if o.at(&["data"]).is_none() {
        c.at("data", |c| c.required("data is mandatory"));
    }
    c.not_negative(o, "revision");
}

/// `ReplicationController`, whose selector is a plain map.
pub(super) fn replication_controller(c: &mut Causes, o: &Value) {
    let spec = spec(o);
    c.at("spec", |c| {
        c.not_negative(spec, "replicas");
        c.not_negative(spec, "minReadySeconds");
        if is_empty(spec.get("selector")) {
            c.at("selector", |c| c.required(""));
        }
        let labels = spec.at(&["template", "metadata", "labels"]);
        if spec.at(&["template"]).is_none() {
            c.at("template", |c| c.required(""));
        } else if !LabelSelector::from_map(spec.get("selector")).matches(labels) {
            mismatch(c, labels);
        }
        template(c, spec, "ReplicationController");
    });
}

fn mismatch(c: &mut Causes, labels: Option<&Value>) {
    let labels = labels.cloned().unwrap_or_default();
    c.at("template.metadata.labels", |c| {
        c.invalid(labels, "`selector` does not match template `labels`")
    });
}

/// The selector must be there, select something, and select the template.
fn selector(c: &mut Causes, spec: &Value, what: &str) {
    let Some(selector) = spec.at(&["selector"]) else {
        c.at("selector", |c| c.required(""));
        return;
    };
    c.at("selector", |c| {
        meta::label_selector(c, selector);
        if is_empty(selector.get("matchLabels")) && is_empty(selector.get("matchExpressions")) {
            c.invalid(selector.clone(), &format!("empty selector is invalid for {what}"));
        }
    });
    selects_template(c, spec);
}

/// The selector selects the template.
pub(super) fn selects_template(c: &mut Causes, spec: &Value) {
    let Some(wanted) = spec.at(&["selector"]) else {
        return;
    };
    let labels = spec.at(&["template", "metadata", "labels"]);
    if let Ok(parsed) = LabelSelector::from_structured(Some(wanted))
        && !parsed.is_empty()
        && !parsed.matches(labels)
    {
        mismatch(c, labels);
    }
}

/// The template of pods that run for ever.
fn template(c: &mut Causes, spec: &Value, kind: &str) {
    let Some(template) = spec.at(&["template"]) else {
        if spec.at(&["selector"]).is_some() {
            c.at("template.spec.containers", |c| c.required(""));
        }
        return;
    };
    c.at("template", |c| {
        pod::template(c, template);
        let policy = template.text(&["spec", "restartPolicy"]);
        if matches!(policy, "Never" | "OnFailure") {
            c.at("spec.restartPolicy", |c| c.not_supported(policy, &["Always"]));
        }
        if template.at(&["spec", "activeDeadlineSeconds"]).is_some() {
            c.at("spec.activeDeadlineSeconds", |c| {
                c.forbidden(&format!("activeDeadlineSeconds in {kind} is not Supported"));
            });
        }
    });
}

/// `Deployment`.
pub(super) fn deployment(c: &mut Causes, o: &Value) {
    c.at("spec", |c| deployment_spec(c, spec(o)));
}

fn deployment_spec(c: &mut Causes, spec: &Value) {
    c.not_negative(spec, "replicas");
    selector(c, spec, "deployment");
    template(c, spec, "ReplicaSet");
    c.at("strategy", |c| {
        let strategy = spec.at(&["strategy"]).unwrap_or(&Value::Null);
        match strategy.text(&["type"]) {
            "Recreate" => {
                if strategy.at(&["rollingUpdate"]).is_some() {
                    c.at("rollingUpdate", |c| {
                        c.forbidden("may not be specified when strategy `type` is 'Recreate'");
                    });
                }
            }
            "RollingUpdate" => c.field(strategy, "rollingUpdate", rolling_update),
            other => c.at("type", |c| c.not_supported(other, &["Recreate", "RollingUpdate"])),
        }
    });
    c.not_negative(spec, "minReadySeconds");
    c.not_negative(spec, "revisionHistoryLimit");
    c.not_negative(spec, "progressDeadlineSeconds");
    let ready = spec.int(&["minReadySeconds"]).unwrap_or_default();
    if let Some(deadline) = spec.int(&["progressDeadlineSeconds"]).filter(|d| *d <= ready) {
        c.at("progressDeadlineSeconds", |c| {
            c.invalid(deadline, "must be greater than minReadySeconds")
        });
    }
}

/// A number or percentage, as a share of 100 or of nothing; errors are told.
fn amount(c: &mut Causes, holder: &Value, name: &str) -> Option<(i64, bool)> {
    let value = holder.at(&[name])?;
    c.at(name, |c| match value {
        Value::String(text) => {
            let digits = text.strip_suffix('%').unwrap_or_default();
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                c.invalid(
                    text.as_str(),
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                );
                return None;
            }
            digits.parse().ok().map(|number| (number, true))
        }
        number => {
            let number = number.as_i64()?;
            if number < 0 {
                c.invalid(number, "must be greater than or equal to 0");
            }
            Some((number, false))
        }
    })
}

fn rolling_update(c: &mut Causes, rolling: &Value) {
    let unavailable = amount(c, rolling, "maxUnavailable");
    let surge = amount(c, rolling, "maxSurge");
    if matches!(unavailable, Some((0, _)) | None) && matches!(surge, Some((0, _)) | None) {
        let value = rolling.at(&["maxUnavailable"]).cloned().unwrap_or_default();
        c.at("maxUnavailable", |c| {
            c.invalid(value, "may not be 0 when `maxSurge` is 0")
        });
    }
    not_above_100(c, rolling, "maxUnavailable", unavailable);
    not_above_100(c, rolling, "maxSurge", surge);
}

fn not_above_100(c: &mut Causes, holder: &Value, name: &str, amount: Option<(i64, bool)>) {
    if matches!(amount, Some((percent, true)) if percent > 100) {
        let value = holder.at(&[name]).cloned().unwrap_or_default();
        c.at(name, |c| c.invalid(value, "must not be greater than 100%"));
    }
}

/// `StatefulSet`.
pub(super) fn stateful_set(c: &mut Causes, o: &Value) {
    c.at("spec", |c| stateful_set_spec(c, spec(o)));
}

fn stateful_set_spec(c: &mut Causes, spec: &Value) {
    match spec.text(&["podManagementPolicy"]) {
        "" => c.at("podManagementPolicy", |c| c.required("")),
        "OrderedReady" | "Parallel" => {}
        other => {
            c.at("podManagementPolicy", |c| {
                c.invalid(other, "must be 'OrderedReady' or 'Parallel'");
            });
        }
    }
    c.at("updateStrategy", |c| {
        let strategy = spec.at(&["updateStrategy"]).unwrap_or(&Value::Null);
        match strategy.text(&["type"]) {
            "" => c.required(""),
            "OnDelete" => {
                if strategy.at(&["rollingUpdate"]).is_some() {
                    c.at("rollingUpdate", |c| {
                        c.invalid(
                            strategy.at(&["rollingUpdate"]).cloned().unwrap_or_default(),
                            "only allowed for updateStrategy 'RollingUpdate'",
                        );
                    });
                }
            }
            "RollingUpdate" => c.field(strategy, "rollingUpdate", |c, rolling| {
                c.not_negative(rolling, "partition");
                amount(c, rolling, "maxUnavailable");
            }),
            other => c.invalid(other, "must be 'RollingUpdate' or 'OnDelete'"),
        }
    });
    c.field(spec, "persistentVolumeClaimRetentionPolicy", |c, policy| {
        for name in ["whenDeleted", "whenScaled"] {
            c.one_of(policy, name, &["Delete", "Retain"], true);
        }
    });
    c.not_negative(spec, "replicas");
    c.not_negative(spec, "minReadySeconds");
    c.field(spec, "ordinals", |c, ordinals| c.not_negative(ordinals, "start"));
    c.name_rule(spec, "serviceName", names::dns_label);
    selector(c, spec, "statefulset");
    template(c, &with_claim_volumes(spec), "StatefulSet");
    c.each(spec, "volumeClaimTemplates", |c, _, claim| {
        c.at("spec", |c| storage::claim_spec(c, super::spec(claim)));
    });
}

/// The spec with a volume for each claim template that the pod template does not name itself: the controller
/// adds them to the pods, so mounts may refer to them. They come last, which keeps the indices of the others.
fn with_claim_volumes(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let claims: Vec<String> = spec
        .items(&["volumeClaimTemplates"])
        .iter()
        .map(|c| c.text(&["metadata", "name"]).to_owned())
        .collect();
    let Some(pod) = spec.pointer_mut("/template/spec").and_then(Value::as_object_mut) else {
        return spec;
    };
    let volumes = pod.entry("volumes").or_insert_with(|| Value::Array(Vec::new()));
    if volumes.is_null() {
        *volumes = Value::Array(Vec::new());
    }
    if let Some(volumes) = volumes.as_array_mut() {
        for claim in claims {
            if !claim.is_empty() && !volumes.iter().any(|v| v.text(&["name"]) == claim) {
                volumes.push(serde_json::json!({"name": claim, "emptyDir": {}}));
            }
        }
    }
    spec
}

/// `DaemonSet`.
pub(super) fn daemon_set(c: &mut Causes, o: &Value) {
    c.at("spec", |c| daemon_set_spec(c, spec(o)));
}

fn daemon_set_spec(c: &mut Causes, spec: &Value) {
    selector(c, spec, "daemonset");
    template(c, spec, "DaemonSet");
    c.not_negative(spec, "minReadySeconds");
    c.not_negative(spec, "revisionHistoryLimit");
    c.at("updateStrategy", |c| {
        let strategy = spec.at(&["updateStrategy"]).unwrap_or(&Value::Null);
        match strategy.text(&["type"]) {
            "OnDelete" => {}
            "RollingUpdate" => match strategy.at(&["rollingUpdate"]) {
                None => c.at("rollingUpdate", |c| c.required("")),
                Some(rolling) => c.at("rollingUpdate", |c| {
                    let unavailable = amount(c, rolling, "maxUnavailable");
                    let surge = amount(c, rolling, "maxSurge");
                    let is_zero = |a: Option<(i64, bool)>| matches!(a, Some((0, _)) | None);
                    if is_zero(unavailable) && is_zero(surge) {
                        c.at("maxUnavailable", |c| c.required("cannot be 0 when maxSurge is 0"));
                    } else if !is_zero(unavailable) && !is_zero(surge) {
                        let value = rolling.at(&["maxSurge"]).cloned().unwrap_or_default();
                        c.at("maxSurge", |c| {
                            c.invalid(value, "may not be set when maxUnavailable is non-zero")
                        });
                    }
                    not_above_100(c, rolling, "maxUnavailable", unavailable);
                    not_above_100(c, rolling, "maxSurge", surge);
                }),
            },
            other => c.at("type", |c| c.not_supported(other, &["OnDelete", "RollingUpdate"])),
        }
    });
}
