//! Names, labels, annotations, owners and finalizers.

use serde_json::Value;

use super::cause::Causes;
use crate::names;
use crate::registry::Resource;
use crate::value::ValueExt as _;

/// Total size of the annotations of an object, in bytes.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// How the names of a resource are formed.
#[derive(Clone, Copy)]
enum NameRule {
    Subdomain,
    Label,
    Label1035,
    Segment,
    CronJob,
    /// Checked together with the content.
    ByContent,
}

fn name_rule(resource: &Resource) -> NameRule {
    match (&*resource.group, &*resource.plural) {
        ("", "namespaces") => NameRule::Label,
        ("", "services") => NameRule::Label1035,
        ("rbac.authorization.k8s.io", _)
        | ("certificates.k8s.io", _)
        | ("autoscaling", _)
        | ("flowcontrol.apiserver.k8s.io", _) => NameRule::Segment,
        ("batch", "cronjobs") => NameRule::CronJob,
        ("apiextensions.k8s.io", "customresourcedefinitions")
        | ("apiregistration.k8s.io", "apiservices")
        | ("networking.k8s.io", "ipaddresses") => NameRule::ByContent,
        _ => NameRule::Subdomain,
    }
}

fn check_name(rule: NameRule, name: &str) -> Vec<String> {
    /// A Job's name is its CronJob's with eleven characters more, and must itself fit in a label.
    const CRON_JOB_MAX: usize = 52;
    match rule {
        NameRule::Subdomain => names::dns_subdomain(name),
        NameRule::Label => names::dns_label(name),
        NameRule::Label1035 => names::dns1035_label(name),
        NameRule::Segment | NameRule::ByContent => names::path_segment(name),
        NameRule::CronJob => {
            let mut problems = names::dns_subdomain(name);
            if name.len() > CRON_JOB_MAX {
                problems.push(format!("must be no more than {CRON_JOB_MAX} characters"));
            }
            problems
        }
    }
}

/// Rules for the metadata of a new or changed object.
pub(super) fn metadata(c: &mut Causes, resource: &Resource, o: &Value) {
    let metadata = o.get("metadata").unwrap_or(&Value::Null);
    c.at("metadata", |c| {
        let rule = name_rule(resource);
        let (name, prefix) = (metadata.text(&["name"]), metadata.text(&["generateName"]));
        if !prefix.is_empty() {
            // The prefix is completed with characters that are always valid.
            let filled = format!("{}x", prefix.strip_suffix('-').unwrap_or(prefix));
            if !check_name(rule, &filled).is_empty() {
                c.at("generateName", |c| {
                    c.invalid_each(prefix, check_name(rule, prefix))
                });
            }
        }
        if name.is_empty() {
            c.at("name", |c| c.required("name or generateName is required"));
        } else {
            c.at("name", |c| c.invalid_each(name, check_name(rule, name)));
        }
        let namespace = metadata.text(&["namespace"]);
        match (resource.namespaced, namespace.is_empty()) {
            (true, true) => c.at("namespace", |c| c.required("")),
            (true, false) => c.at("namespace", |c| {
                c.invalid_each(namespace, names::dns_label(namespace))
            }),
            (false, false) => c.at("namespace", |c| c.forbidden("not allowed on this type")),
            (false, true) => {}
        }
        c.not_negative(metadata, "generation");
        c.field(metadata, "labels", labels);
        c.field(metadata, "annotations", annotations);
        owners(c, metadata);
        c.at("finalizers", |c| {
            for finalizer in metadata.items(&["finalizers"]).iter().filter_map(Value::as_str) {
                c.invalid_each(finalizer, names::qualified_name(finalizer));
            }
        });
    });
}

/// A map of labels.
pub(super) fn labels(c: &mut Causes, labels: &Value) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        c.invalid_each(key, names::qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        c.invalid_each(value, names::label_value(value));
    }
}

/// A map of annotations.
pub(super) fn annotations(c: &mut Causes, annotations: &Value) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        if key.bytes().any(|b| b.is_ascii_uppercase()) {
            c.invalid_each(key, names::qualified_name(&key.to_lowercase()));
        } else {
            c.invalid_each(key, names::qualified_name(key));
        }
        size += key.len() + value.as_str().unwrap_or_default().len();
    }
    if size > ANNOTATIONS_MAX {
        c.too_long(ANNOTATIONS_MAX);
    }
}

fn owners(c: &mut Causes, metadata: &Value) {
    let mut controller = "";
    let mut second = None;
    c.each(metadata, "ownerReferences", |c, _, owner| {
        let (group, version) = match owner.text(&["apiVersion"]).split_once('/') {
            Some((group, version)) => (group, version),
            None => ("", owner.text(&["apiVersion"])),
        };
        if version.is_empty() {
            c.at("apiVersion", |c| {
                c.invalid(owner.text(&["apiVersion"]), "version must not be empty")
            });
        }
        for name in ["kind", "name", "uid"] {
            if owner.text(&[name]).is_empty() {
                c.at(name, |c| c.invalid("", &format!("{name} must not be empty")));
            }
        }
        if group.is_empty() && owner.text(&["kind"]) == "Event" {
            c.invalid(owner.clone(), "/v1, Kind=Event is disallowed from being an owner");
        }
    });
    for owner in metadata.items(&["ownerReferences"]) {
        if owner.flag(&["controller"]) {
            if controller.is_empty() {
                controller = owner.text(&["kind"]);
            } else {
                second = Some(owner.text(&["kind"]));
            }
        }
    }
    if let Some(second) = second {
        let list = metadata.at(&["ownerReferences"]).cloned().unwrap_or_default();
        c.at("ownerReferences", |c| {
            c.invalid(
                list,
                &format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {controller} and {second}"
                ),
            );
        });
    }
}

/// Rules for a change of the metadata.
pub(super) fn metadata_update(c: &mut Causes, old: &Value, new: &Value) {
    let none = Value::Null;
    let (old, new) = (
        old.get("metadata").unwrap_or(&none),
        new.get("metadata").unwrap_or(&none),
    );
    c.at("metadata", |c| {
        if old.at(&["deletionTimestamp"]).is_some() {
            let before = old.items(&["finalizers"]);
            let added: Vec<String> = new
                .items(&["finalizers"])
                .iter()
                .filter(|f| !before.contains(f))
                .filter_map(|f| f.as_str().map(|f| format!("{f:?}")))
                .collect();
            if !added.is_empty() {
                c.at("finalizers", |c| {
                    c.forbidden(&format!(
                        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                        added.join(", ")
                    ));
                });
            }
        }
        for name in ["name", "namespace", "uid", "creationTimestamp"] {
            // What an update leaves out was filled in from the stored object.
            if old.at(&[name]).is_some() {
                c.immutable(old, new, name);
            }
        }
        for name in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
            if old.at(&[name]).is_some() && old.get(name) != new.get(name) {
                let value = new.get(name).cloned().unwrap_or_default();
                c.at(name, |c| c.invalid(value, "field is immutable; may only be changed via deletion"));
            }
        }
    });
}

/// A label selector in its structured form.
pub(super) fn label_selector(c: &mut Causes, selector: &Value) {
    c.field(selector, "matchLabels", labels);
    c.each(selector, "matchExpressions", |c, _, expression| {
        let values = expression.items(&["values"]);
        match expression.text(&["operator"]) {
            "In" | "NotIn" if values.is_empty() => {
                c.at("values", |c| {
                    c.required("must be specified when `operator` is 'In' or 'NotIn'")
                });
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                c.at("values", |c| {
                    c.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
                });
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => c.at("operator", |c| c.invalid(other, "not a valid selector operator")),
        }
        let key = expression.text(&["key"]);
        c.at("key", |c| c.invalid_each(key, names::qualified_name(key)));
        for (index, value) in values.iter().filter_map(Value::as_str).enumerate() {
            c.at("values", |c| {
                c.index(index, |c| c.invalid_each(value, names::label_value(value)))
            });
        }
    });
}
