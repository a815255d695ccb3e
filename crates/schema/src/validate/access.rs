//! RBAC, reviews and certificates.

use serde_json::Value;

use super::cause::Causes;
use super::spec;
use crate::names;
use crate::value::ValueExt as _;

/// Rules of RBAC and certificates.
pub(super) fn rules(c: &mut Causes, plural: &str, o: &Value) {
    match plural {
        "roles" => policy_rules(c, o, true),
        "clusterroles" => {
            policy_rules(c, o, false);
            c.field(o, "aggregationRule", |c, rule| {
                if rule.items(&["clusterRoleSelectors"]).is_empty() {
                    c.at("clusterRoleSelectors", |c| {
                        c.required("at least one clusterRoleSelector required if aggregationRule is non-nil");
                    });
                }
                c.each(rule, "clusterRoleSelectors", |c, _, s| {
                    super::meta::label_selector(c, s)
                });
            });
        }
        "rolebindings" => binding(c, o, &["ClusterRole", "Role"]),
        "clusterrolebindings" => binding(c, o, &["ClusterRole"]),
        "certificatesigningrequests" => c.at("spec", |c| certificate_request(c, spec(o))),
        _ => {}
    }
}

fn policy_rules(c: &mut Causes, o: &Value, namespaced: bool) {
    c.each(o, "rules", |c, _, rule| {
        let list = |name: &str| rule.items(&[name]);
        if list("verbs").is_empty() {
            c.at("verbs", |c| c.required("verbs must contain at least one value"));
        }
        let urls = list("nonResourceURLs");
        if !urls.is_empty() {
            let value = Value::from(urls.to_vec());
            if namespaced {
                c.at("nonResourceURLs", |c| {
                    c.invalid(value, "namespaced rules cannot apply to non-resource URLs");
                });
            } else if !list("apiGroups").is_empty()
                || !list("resources").is_empty()
                || !list("resourceNames").is_empty()
            {
                c.at("nonResourceURLs", |c| {
                    c.invalid(
                        value,
                        "rules cannot apply to both regular resources and non-resource URLs",
                    );
                });
            }
            return;
        }
        if list("apiGroups").is_empty() {
            c.at("apiGroups", |c| {
                c.required("resource rules must supply at least one api group")
            });
        }
        if list("resources").is_empty() {
            c.at("resources", |c| {
                c.required("resource rules must supply at least one resource")
            });
        }
    });
}

fn binding(c: &mut Causes, o: &Value, kinds: &[&str]) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    c.at("roleRef", |c| {
        let role = o.get("roleRef").unwrap_or(&Value::Null);
        let group = role.text(&["apiGroup"]);
        if group != GROUP {
            c.at("apiGroup", |c| c.not_supported(group, &[GROUP]));
        }
        let kind = role.text(&["kind"]);
        if !kinds.contains(&kind) {
            c.at("kind", |c| c.not_supported(kind, kinds));
        }
        let name = role.text(&["name"]);
        c.at("name", |c| match name {
            "" => c.required(""),
            name => c.invalid_each(name, names::path_segment(name)),
        });
    });
    c.each(o, "subjects", |c, _, subject| {
        let (name, group) = (subject.text(&["name"]), subject.text(&["apiGroup"]));
        if name.is_empty() {
            c.at("name", |c| c.required(""));
        }
        match subject.text(&["kind"]) {
            "ServiceAccount" => {
                c.name_rule(subject, "name", names::dns_subdomain);
                if !group.is_empty() {
                    c.at("apiGroup", |c| c.not_supported(group, &[""]));
                }
                if subject.text(&["namespace"]).is_empty() {
                    c.at("namespace", |c| c.required(""));
                }
            }
            "User" | "Group" => {
                if group != GROUP {
                    c.at("apiGroup", |c| c.not_supported(group, &[GROUP]));
                }
            }
            other => c.at("kind", |c| {
                c.not_supported(other, &["Group", "ServiceAccount", "User"])
            }),
        }
    });
}

fn certificate_request(c: &mut Causes, spec: &Value) {
    /// Ten minutes, the shortest life of a certificate.
    const SECONDS_MIN: i64 = 600;
    c.text_required(spec, "request");
    if spec.items(&["usages"]).is_empty() {
        c.at("usages", |c| c.required("usages is required"));
    }
    let signer = spec.text(&["signerName"]);
    c.at("signerName", |c| match signer.split_once('/') {
        _ if signer.is_empty() => c.required(""),
        None => c.invalid(
            signer,
            "must be a fully qualified domain and path of the form \"example.com/signer-name\"",
        ),
        Some((domain, path)) => {
            c.invalid_each(signer, names::dns_subdomain(domain));
            c.invalid_each(signer, names::dns_subdomain(path));
        }
    });
    if let Some(seconds) = spec.int(&["expirationSeconds"]).filter(|s| *s < SECONDS_MIN) {
        c.at("expirationSeconds", |c| {
            c.invalid(
                seconds,
                "may not specify a duration less than 600 seconds (10 minutes)",
            );
        });
    }
}

/// Reviews, which are answered and not stored.
pub(super) fn review(c: &mut Causes, plural: &str, o: &Value) {
    let spec = spec(o);
    c.at("spec", |c| match plural {
        "tokenreviews" => c.text_required(spec, "token"),
        "subjectaccessreviews" | "localsubjectaccessreviews" | "selfsubjectaccessreviews" => {
            match (
                spec.at(&["resourceAttributes"]),
                spec.at(&["nonResourceAttributes"]),
            ) {
                (Some(_), Some(_)) => {
                    c.at("nonResourceAttributes", |c| {
                        c.invalid(
                            spec.at(&["nonResourceAttributes"]).cloned().unwrap_or_default(),
                            "cannot be specified in combination with resourceAttributes",
                        );
                    });
                }
                (None, None) => {
                    c.at("resourceAttributes", |c| {
                        c.invalid(
                            Value::Null,
                            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
                        );
                    });
                }
                _ => {}
            }
            if plural != "selfsubjectaccessreviews"
                && spec.text(&["user"]).is_empty()
                && spec.items(&["groups"]).is_empty()
            {
                c.at("user", |c| {
                    c.invalid("", "at least one of user or group must be specified")
                });
            }
        }
        _ => {}
    });
}
