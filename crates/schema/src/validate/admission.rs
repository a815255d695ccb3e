//! Admission webhooks and policies. Expressions are not compiled here.

use serde_json::Value;

use super::cause::Causes;
use super::checks::is_identifier;
use super::{meta, spec};
use crate::names;
use crate::value::{ValueExt as _, is_empty};

/// Most conditions that a request must meet.
const CONDITIONS_MAX: usize = 64;
/// Most annotations that a policy adds to the audit, and the length of their keys.
const AUDIT_MAX: usize = 20;
/// Longest message of a validation, in bytes.
const MESSAGE_MAX: usize = 5 * 1024;

const URL_FORM: &str = "; desired format: https://host[/path]";
const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
const REINVOCATION: &[&str] = &["IfNeeded", "Never"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];

/// `MutatingWebhookConfiguration` and `ValidatingWebhookConfiguration`.
pub(super) fn webhooks(c: &mut Causes, o: &Value) {
    let mut seen: Vec<&str> = Vec::new();
    c.each_ref(o, "webhooks", |c, webhook| {
        let name = webhook.text(&["name"]);
        c.at("name", |c| {
            qualified_domain(c, name);
            if seen.contains(&name) {
                c.duplicate(name);
            }
        });
        seen.push(name);
        self::webhook(c, webhook);
    });
}

fn qualified_domain(c: &mut Causes, name: &str) {
    if name.is_empty() {
        c.required("");
    } else if !names::dns_subdomain(name).is_empty() {
        c.invalid_each(name, names::dns_subdomain(name));
    } else if name.split('.').count() < 3 {
        c.invalid(
            name,
            "should be a domain with at least three segments separated by dots",
        );
    }
}

fn webhook(c: &mut Causes, webhook: &Value) {
    review_versions(c, webhook);
    c.each(webhook, "rules", |c, _, rule| self::rule(c, rule));
    c.one_of(webhook, "failurePolicy", FAILURE_POLICIES, false);
    c.one_of(webhook, "matchPolicy", MATCH_POLICIES, false);
    c.one_of(webhook, "reinvocationPolicy", REINVOCATION, false);
    let effects = webhook.text(&["sideEffects"]);
    c.at("sideEffects", |c| match effects {
        "" => c.required("must specify one of None, NoneOnDryRun"),
        "None" | "NoneOnDryRun" => {}
        other => c.not_supported(other, &["None", "NoneOnDryRun"]),
    });
    if let Some(seconds) = webhook.int(&["timeoutSeconds"]).filter(|s| !(1..=30).contains(s)) {
        c.at("timeoutSeconds", |c| {
            c.invalid(seconds, "the timeout value must be between 1 and 30 seconds");
        });
    }
    c.field(webhook, "namespaceSelector", meta::label_selector);
    c.field(webhook, "objectSelector", meta::label_selector);
    let none = Value::Null;
    c.at("clientConfig", |c| {
        client_config(c, webhook.at(&["clientConfig"]).unwrap_or(&none))
    });
    match_conditions(c, webhook);
}

fn review_versions(c: &mut Causes, webhook: &Value) {
    let versions = webhook.items(&["admissionReviewVersions"]);
    if versions.is_empty() {
        c.at("admissionReviewVersions", |c| {
            c.required("must specify one of v1, v1beta1");
        });
        return;
    }
    let mut seen: Vec<String> = Vec::new();
    c.texts(webhook, "admissionReviewVersions", |c, version| {
        if seen.iter().any(|other| other == version) {
            c.invalid(version, "duplicate version");
        }
        seen.push(version.to_owned());
        c.invalid_each(version, names::dns1035_label(version));
    });
    if !versions
        .iter()
        .any(|v| matches!(v.as_str(), Some("v1" | "v1beta1")))
    {
        c.at("admissionReviewVersions", |c| {
            c.invalid(versions.to_vec(), "must include at least one of v1, v1beta1");
        });
    }
}

/// Where a webhook is: a URL or a Service.
pub(super) fn client_config(c: &mut Causes, config: &Value) {
    match (config.at(&["url"]), config.at(&["service"])) {
        (Some(_), None) => c.at("url", |c| url(c, config.text(&["url"]))),
        (None, Some(service)) => c.at("service", |c| {
            service_reference(c, service, "service ");
            path(c, service);
        }),
        _ => c.required("exactly one of url or service is required"),
    }
}

fn url(c: &mut Causes, url: &str) {
    let Some((scheme, rest)) = url.split_once("://") else {
        c.invalid(url, &format!("'https' is the only allowed URL scheme{URL_FORM}"));
        return;
    };
    if scheme != "https" {
        c.invalid(
            scheme,
            &format!("'https' is the only allowed URL scheme{URL_FORM}"),
        );
    }
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() {
        c.invalid(host, &format!("host must be specified{URL_FORM}"));
    }
    if let Some((user, _)) = host.rsplit_once('@') {
        c.invalid(user, "user information is not permitted in the URL");
    }
    if let Some((_, fragment)) = rest.split_once('#') {
        c.invalid(fragment, "fragments are not permitted in the URL");
    }
    if let Some((_, query)) = rest.split_once('?') {
        c.invalid(query, "query parameters are not permitted in the URL");
    }
}

/// A Service by namespace, name and port; `what` begins the words for what is missing.
pub(super) fn service_reference(c: &mut Causes, service: &Value, what: &str) {
    for name in ["name", "namespace"] {
        let detail = if what.is_empty() {
            String::new()
        } else {
            format!("{what}{name} is required")
        };
        c.text_required_for(service, name, &detail);
    }
    if let Some(port) = service.int(&["port"]) {
        c.at("port", |c| {
            for problem in names::port_number(port) {
                c.invalid(port, &format!("port is not valid: {problem}"));
            }
        });
    }
}

fn path(c: &mut Causes, service: &Value) {
    let path = service.text(&["path"]);
    if path.is_empty() || path == "/" {
        return;
    }
    c.at("path", |c| {
        if !path.starts_with('/') {
            c.invalid(path, "must start with a '/'");
        }
        let steps: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
        for (index, step) in steps.iter().enumerate() {
            if step.is_empty() && index + 1 < steps.len() {
                c.invalid(path, &format!("segment[{index}] may not be empty"));
            } else if !step.is_empty() {
                for problem in names::dns_subdomain(step) {
                    c.invalid(path, &format!("segment[{index}]: {problem}"));
                }
            }
        }
    });
}

/// A list in which `*` stands alone.
fn wildcard(c: &mut Causes, rule: &Value, name: &str, what: &str) {
    let items = rule.items(&[name]);
    c.at(name, |c| {
        if items.is_empty() {
            c.required("");
        } else if items.len() > 1 && items.iter().any(|item| item == "*") {
            c.invalid(
                items.to_vec(),
                &format!("if '*' is present, must not specify other {what}"),
            );
        }
    });
}

/// What requests a rule is about.
fn rule(c: &mut Causes, rule: &Value) {
    let operations = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    wildcard(c, rule, "operations", "operations");
    c.texts(rule, "operations", |c, operation| {
        if !operations.contains(&operation) {
            c.not_supported(operation, &operations);
        }
    });
    wildcard(c, rule, "apiGroups", "API groups");
    wildcard(c, rule, "apiVersions", "API versions");
    c.texts(rule, "apiVersions", |c, version| {
        if version.is_empty() {
            c.required("");
        }
    });
    resources(c, rule);
    c.one_of(rule, "scope", SCOPES, false);
}

fn resources(c: &mut Causes, rule: &Value) {
    let list: Vec<&str> = rule
        .items(&["resources"])
        .iter()
        .filter_map(Value::as_str)
        .collect();
    c.at("resources", |c| {
        if list.is_empty() {
            c.required("");
        }
        for (index, resource) in list.iter().enumerate() {
            c.index(index, |c| {
                let (plural, sub) = resource.split_once('/').unwrap_or((resource, ""));
                if resource.is_empty() {
                    c.required("");
                } else if *resource != "*/*" && plural != "*" && sub == "*" {
                    let shadows = |other: &&str| {
                        other
                            .strip_prefix(plural)
                            .is_some_and(|rest| rest.starts_with('/'))
                    };
                    if list
                        .iter()
                        .enumerate()
                        .any(|(i, other)| i != index && shadows(other))
                    {
                        c.invalid(
                            *resource,
                            &format!("if '{resource}' is present, must not specify {plural}/*"),
                        );
                    }
                }
            });
        }
        let value = || Value::from(rule.items(&["resources"]).to_vec());
        if list.len() > 1 && list.contains(&"*/*") {
            c.invalid(value(), "if '*/*' is present, must not specify other resources");
        } else if list.contains(&"*") && list.iter().any(|r| *r != "*" && !r.contains('/')) {
            c.invalid(
                value(),
                "if '*' is present, must not specify other resources without subresources",
            );
        }
    });
}

fn match_conditions(c: &mut Causes, holder: &Value) {
    c.at_most(holder, "matchConditions", CONDITIONS_MAX);
    c.each(holder, "matchConditions", |c, _, condition| {
        c.text_required(condition, "expression");
        c.name_required(condition, "name", names::qualified_name);
    });
    c.unique(holder, "matchConditions", "name");
}

/// What resources a policy is about.
fn match_resources(c: &mut Causes, resources: &Value) {
    c.one_of(resources, "matchPolicy", MATCH_POLICIES, true);
    c.field(resources, "namespaceSelector", meta::label_selector);
    c.field(resources, "objectSelector", meta::label_selector);
    for list in ["resourceRules", "excludeResourceRules"] {
        c.each(resources, list, |c, _, rule| {
            self::rule(c, rule);
            c.each(rule, "resourceNames", |c, _, name| {
                let name = name.as_str().unwrap_or_default();
                c.invalid_each(name, names::path_segment(name));
            });
        });
    }
}

/// What both kinds of policies have.
fn policy(c: &mut Causes, spec: &Value) {
    c.one_of(spec, "failurePolicy", FAILURE_POLICIES, true);
    c.field(spec, "paramKind", |c, kind| {
        let version = kind.text(&["apiVersion"]);
        c.at("apiVersion", |c| {
            if version.is_empty() {
                c.required("");
            } else if version.split('/').count() > 2 {
                c.invalid(version, &format!("unexpected GroupVersion string: {version}"));
            }
        });
        c.name_required(kind, "kind", |kind| names::dns1035_label(&kind.to_lowercase()));
    });
    match spec.at(&["matchConstraints"]) {
        None => c.at("matchConstraints", |c| c.required("")),
        Some(resources) => c.at("matchConstraints", |c| {
            match_resources(c, resources);
            // A policy names what it is about; a binding may leave it as it is.
            if resources.items(&["resourceRules"]).is_empty() {
                c.at("resourceRules", |c| c.required(""));
            }
        }),
    }
    match_conditions(c, spec);
    c.each(spec, "variables", |c, _, variable| {
        let name = variable.text(&["name"]);
        c.at("name", |c| {
            if name.is_empty() {
                c.required("name is not specified");
            } else if !is_identifier(name) {
                c.invalid(name, "name is not a valid CEL identifier");
            }
        });
        c.text_required_for(variable, "expression", "expression is not specified");
    });
    c.unique(spec, "variables", "name");
}

/// `ValidatingAdmissionPolicy`.
pub(super) fn validating_policy(c: &mut Causes, o: &Value) {
    let spec = spec(o);
    c.at("spec", |c| {
        policy(c, spec);
        if spec.items(&["validations"]).is_empty() && spec.items(&["auditAnnotations"]).is_empty() {
            for name in ["validations", "auditAnnotations"] {
                c.at(name, |c| {
                    c.required("validations or auditAnnotations must contain at least one item")
                });
            }
        }
        c.each(spec, "validations", |c, _, validation| {
            self::validation(c, validation)
        });
        c.at_most(spec, "auditAnnotations", AUDIT_MAX);
        c.each(spec, "auditAnnotations", |c, _, annotation| {
            let key = annotation.text(&["key"]);
            c.text_required(annotation, "key");
            let whole = format!("{}/{key}", o.text(&["metadata", "name"]));
            if !key.is_empty() && !names::qualified_name(&whole).is_empty() {
                c.at("key", |c| c.invalid_each(&whole, names::qualified_name(&whole)));
            }
            c.text_required_for(annotation, "valueExpression", "valueExpression is not specified");
        });
        c.unique(spec, "auditAnnotations", "key");
    });
}

fn validation(c: &mut Causes, validation: &Value) {
    if validation.text(&["expression"]).trim().is_empty() {
        c.at("expression", |c| c.required("expression is not specified"));
    }
    let message = validation.text(&["message"]);
    c.at("message", |c| {
        if validation.at(&["message"]).is_none() {
            return;
        }
        if message.trim().is_empty() {
            c.invalid(message, "message must be non-empty if specified");
        } else if message.contains(['\n', '\r']) {
            c.invalid(message, "message must not contain line breaks");
        } else if message.len() > MESSAGE_MAX {
            c.too_long(MESSAGE_MAX);
        }
    });
    let expression = validation.text(&["messageExpression"]);
    if validation.at(&["messageExpression"]).is_some() && expression.trim().is_empty() {
        c.at("messageExpression", |c| {
            c.invalid(expression, "must be non-empty if specified");
        });
    }
    let reasons = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
    c.one_of(validation, "reason", &reasons, false);
}

/// `MutatingAdmissionPolicy`.
pub(super) fn mutating_policy(c: &mut Causes, o: &Value) {
    let spec = spec(o);
    c.at("spec", |c| {
        policy(c, spec);
        if spec.items(&["mutations"]).is_empty() {
            c.at("mutations", |c| {
                c.required("mutations must contain at least one item")
            });
        }
        c.one_of(spec, "reinvocationPolicy", REINVOCATION, true);
        c.each(spec, "mutations", |c, _, mutation| {
            let (kind, other) = match mutation.text(&["patchType"]) {
                "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
                "JSONPatch" => ("jsonPatch", "applyConfiguration"),
                "" => return c.at("patchType", |c| c.required("")),
                other => {
                    return c.at("patchType", |c| {
                        c.not_supported(other, &["ApplyConfiguration", "JSONPatch"])
                    });
                }
            };
            match mutation.at(&[kind]) {
                None => c.at(kind, |c| {
                    c.required(&format!(
                        "must be specified when patchType is {}",
                        mutation.text(&["patchType"])
                    ));
                }),
                Some(patch) => c.at(kind, |c| {
                    c.text_required_for(patch, "expression", "expression is not specified")
                }),
            }
            if mutation.at(&[other]).is_some() {
                c.at(other, |c| {
                    c.forbidden(&format!(
                        "must not be specified when patchType is {}",
                        mutation.text(&["patchType"])
                    ));
                });
            }
        });
    });
}

/// `MutatingAdmissionPolicyBinding`.
pub(super) fn mutating_binding(c: &mut Causes, o: &Value) {
    c.at("spec", |c| binding(c, spec(o)));
}

/// `ValidatingAdmissionPolicyBinding`.
pub(super) fn validating_binding(c: &mut Causes, o: &Value) {
    const TWICE: &str = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
    let spec = spec(o);
    c.at("spec", |c| {
        binding(c, spec);
        let actions = spec.items(&["validationActions"]);
        if actions.is_empty() {
            c.at("validationActions", |c| c.required(""));
        }
        c.text_set(spec, "validationActions", &["Audit", "Deny", "Warn"]);
        if actions.iter().any(|a| a == "Deny") && actions.iter().any(|a| a == "Warn") {
            c.at("validationActions", |c| c.invalid(actions.to_vec(), TWICE));
        }
    });
}

fn binding(c: &mut Causes, spec: &Value) {
    c.name_required(spec, "policyName", names::dns_subdomain);
    c.field(spec, "paramRef", |c, parameters| {
        let selects = parameters.at(&["selector"]).is_some();
        match (parameters.text(&["name"]), selects) {
            ("", false) => c.required("one of name or selector must be specified"),
            ("", true) => {}
            (_, true) => c.at("name", |c| {
                c.forbidden("name and selector are mutually exclusive")
            }),
            (name, false) => c.at("name", |c| c.invalid_each(name, names::path_segment(name))),
        }
        c.field(parameters, "selector", meta::label_selector);
        c.one_of(parameters, "parameterNotFoundAction", &["Allow", "Deny"], true);
        if !is_empty(parameters.get("namespace")) {
            c.name_rule(parameters, "namespace", names::dns_label);
        }
    });
    c.field(spec, "matchResources", match_resources);
}
