//! Custom resource definitions and API services.

use serde_json::Value;

use super::admission::service_reference;
use super::cause::Causes;
use super::spec;
use crate::names;
use crate::value::{ValueExt as _, is_empty};

/// Most selectable fields of a version.
const SELECTABLE_MAX: usize = 8;

/// `CustomResourceDefinition`.
pub(super) fn custom_resource(c: &mut Causes, o: &Value) {
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
        c.at("names", |c| resource_names(c, spec.at(&["names"]).unwrap_or(&Value::Null)));
        versions(c, spec);
        c.field(spec, "conversion", conversion);
        if spec.flag(&["preserveUnknownFields"]) {
            c.at("preserveUnknownFields", |c| {
                c.invalid(
                    true,
                    "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
                );
            });
        }
    });
}

fn resource_names(c: &mut Causes, names: &Value) {
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
    c.text_rules(names, "shortNames", crate::names::dns1035_label);
    c.text_rules(names, "categories", crate::names::dns1035_label);
    let (kind, list) = (names.text(&["kind"]), names.text(&["listKind"]));
    if !kind.is_empty() && kind == list {
        c.at("listKind", |c| {
            c.invalid(list, "kind and listKind may not be the same");
        });
    }
}

fn versions(c: &mut Causes, spec: &Value) {
    let list = spec.items(&["versions"]);
    let (mut seen, mut unique): (Vec<&str>, bool) = (Vec::new(), true);
    c.each_ref(spec, "versions", |c, version| {
        let name = version.text(&["name"]);
        c.at("name", |c| c.invalid_each(name, names::dns1035_label(name)));
        unique &= !seen.contains(&name);
        seen.push(name);
        c.at("schema", |c| match version.at(&["schema", "openAPIV3Schema"]) {
            None => c.at("openAPIV3Schema", |c| c.required("schemas are required")),
            Some(schema) => c.extend("openAPIV3Schema", |path| crate::structural::check(schema, path)),
        });
        c.field(version, "subresources", subresources);
        columns(c, version);
        selectable_fields(c, version);
        let warning = version.at(&["deprecationWarning"]).is_some();
        if warning && !version.flag(&["deprecated"]) {
            c.at("deprecationWarning", |c| {
                c.invalid(
                    version.text(&["deprecationWarning"]),
                    "can only be set for deprecated versions",
                );
            });
        }
    });
    if !unique {
        c.at("versions", |c| {
            c.invalid(list.to_vec(), "must contain unique version names")
        });
    }
    if list.iter().filter(|v| v.flag(&["storage"])).count() != 1 {
        c.at("versions", |c| {
            c.invalid(
                list.to_vec(),
                "must have exactly one version marked as storage version",
            );
        });
    }
}

/// A path of plain fields: `.spec.replicas`.
fn is_simple_path(path: &str) -> bool {
    let plain = |step: &str| {
        !step.is_empty()
            && step
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
    };
    path.strip_prefix('.')
        .is_some_and(|path| path.split('.').all(plain))
}

fn subresources(c: &mut Causes, subresources: &Value) {
    c.field(subresources, "scale", |c, scale| {
        for (field, root, needed) in [
            ("specReplicasPath", ".spec.", true),
            ("statusReplicasPath", ".status.", true),
            ("labelSelectorPath", "", false),
        ] {
            let path = scale.text(&[field]);
            c.at(field, |c| {
                if path.is_empty() {
                    if needed {
                        c.required("");
                    }
                } else if !is_simple_path(path) {
                    c.invalid(
                        path,
                        "must be a simple json path with dot notation and no array notation",
                    );
                } else if root.is_empty() {
                    if !path.starts_with(".spec.") && !path.starts_with(".status.") {
                        c.invalid(path, "should be a json path under either .spec or .status");
                    }
                } else if !path.starts_with(root) {
                    c.invalid(
                        path,
                        &format!("should be a json path under {}", root.trim_end_matches('.')),
                    );
                }
            });
        }
    });
}

fn columns(c: &mut Causes, version: &Value) {
    c.each(version, "additionalPrinterColumns", |c, _, column| {
        c.text_required(column, "name");
        c.one_of(
            column,
            "type",
            &["boolean", "date", "integer", "number", "string"],
            true,
        );
        let formats = [
            "byte",
            "date",
            "date-time",
            "double",
            "float",
            "int32",
            "int64",
            "password",
        ];
        c.one_of(column, "format", &formats, false);
        let path = column.text(&["jsonPath"]);
        c.at("jsonPath", |c| {
            if path.is_empty() {
                c.required("");
            } else if !path.starts_with(['.', '[']) {
                c.invalid(path, "invalid JSON path");
            }
        });
    });
}

fn selectable_fields(c: &mut Causes, version: &Value) {
    c.at_most(version, "selectableFields", SELECTABLE_MAX);
    let mut seen: Vec<&str> = Vec::new();
    c.each_ref(version, "selectableFields", |c, field| {
        let path = field.text(&["jsonPath"]);
        c.at("jsonPath", |c| {
            if path.is_empty() {
                c.required("");
            } else if !is_simple_path(path) {
                c.invalid(
                    path,
                    "is an invalid path: must be a simple json path with dot notation",
                );
            } else if path.starts_with(".metadata.") {
                c.invalid(path, "must not point to fields in metadata");
            }
            if seen.contains(&path) {
                c.duplicate(path);
            }
        });
        seen.push(path);
    });
}

fn conversion(c: &mut Causes, conversion: &Value) {
    c.one_of(conversion, "strategy", &["None", "Webhook"], true);
    let webhook = conversion.at(&["webhook"]);
    if conversion.text(&["strategy"]) != "Webhook" {
        if webhook.is_some() {
            c.at("webhook", |c| {
                c.forbidden("should not be set when strategy is not set to Webhook")
            });
        }
        return;
    }
    c.at("webhook", |c| {
        let none = Value::Null;
        let webhook = webhook.unwrap_or(&none);
        match webhook.at(&["clientConfig"]) {
            None => c.at("clientConfig", |c| {
                c.required("required when strategy is set to Webhook");
            }),
            Some(config) => c.at("clientConfig", |c| super::admission::client_config(c, config)),
        }
        let versions = webhook.items(&["conversionReviewVersions"]);
        c.at("conversionReviewVersions", |c| {
            if versions.is_empty() {
                c.required("");
            } else if !versions
                .iter()
                .any(|v| matches!(v.as_str(), Some("v1" | "v1beta1")))
            {
                c.invalid(versions.to_vec(), "must include at least one of v1, v1beta1");
            }
        });
    });
}

/// `APIService`.
pub(super) fn api_service(c: &mut Causes, o: &Value) {
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
        c.name_rule(spec, "group", names::dns_subdomain);
        c.name_required(spec, "version", names::dns1035_label);
        for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
            let number = spec.int(&[field]).unwrap_or_default();
            if !(1..=most).contains(&number) {
                c.at(field, |c| {
                    c.invalid(number, &format!("must be positive and less than {most}"));
                });
            }
        }
        let (bundle, skips) = (spec.get("caBundle"), spec.flag(&["insecureSkipTLSVerify"]));
        match spec.at(&["service"]) {
            None => {
                if !is_empty(bundle) {
                    let bundle = bundle.cloned().unwrap_or_default();
                    c.at("caBundle", |c| {
                        c.invalid(bundle, "local APIServices may not have a caBundle")
                    });
                }
                if skips {
                    c.at("insecureSkipTLSVerify", |c| {
                        c.invalid(true, "local APIServices may not have insecureSkipTLSVerify")
                    });
                }
            }
            Some(service) => {
                c.at("service", |c| service_reference(c, service, ""));
                if skips && !is_empty(bundle) {
                    c.at("insecureSkipTLSVerify", |c| {
                        c.invalid(true, "may not be true if caBundle is present")
                    });
                }
            }
        }
    });
}
