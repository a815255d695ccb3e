//! RBAC, reviews and certificates.

use serde_json::Value;

use super::cause::Causes;
use super::spec;
use crate::names;
use crate::value::ValueExt as _;

/// `Role`.
pub(super) fn role(c: &mut Causes, o: &Value) {
    policy_rules(c, o, true);
}

/// `ClusterRole`.
pub(super) fn cluster_role(c: &mut Causes, o: &Value) {
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

/// `RoleBinding`.
pub(super) fn role_binding(c: &mut Causes, o: &Value) {
    binding(c, o, &["ClusterRole", "Role"]);
}

/// `ClusterRoleBinding`.
pub(super) fn cluster_binding(c: &mut Causes, o: &Value) {
    binding(c, o, &["ClusterRole"]);
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

/// Uses of a certificate.
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// `CertificateSigningRequest`.
pub(super) fn certificate_request(c: &mut Causes, o: &Value) {
    /// Ten minutes, the shortest life of a certificate.
    const SECONDS_MIN: i64 = 600;
    let spec = spec(o);
    c.at("spec", |c| {
        if let Err(problem) = pem_request(spec.text(&["request"])) {
            // Upstream shows the bytes as numbers; the text says the same.
            c.at("request", |c| c.invalid(spec.text(&["request"]), problem));
        }
        if spec.items(&["usages"]).is_empty() {
            c.at("usages", |c| c.required(""));
        }
        let mut seen: Vec<String> = Vec::new();
        c.texts(spec, "usages", |c, usage| {
            if !USAGES.contains(&usage) {
                c.not_supported(usage, USAGES);
            }
            if seen.iter().any(|other| other == usage) {
                c.duplicate(usage);
            }
            seen.push(usage.to_owned());
        });
        signer_name(c, spec);
        if let Some(seconds) = spec.int(&["expirationSeconds"]).filter(|s| *s < SECONDS_MIN) {
            c.at("expirationSeconds", |c| {
                c.invalid(
                    seconds,
                    "may not specify a duration less than 600 seconds (10 minutes)",
                );
            });
        }
    });
}

/// Whether the request is PEM of the right type; its content is the signer's matter.
fn pem_request(encoded: &str) -> Result<(), &'static str> {
    use base64::Engine as _;
    const WRONG: &str = "PEM block type must be CERTIFICATE REQUEST";
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .map_err(|_| WRONG)?;
    let text = String::from_utf8(bytes).map_err(|_| WRONG)?;
    let begins = text.contains("-----BEGIN CERTIFICATE REQUEST-----");
    if begins && text.contains("-----END CERTIFICATE REQUEST-----") {
        Ok(())
    } else {
        Err(WRONG)
    }
}

fn signer_name(c: &mut Causes, spec: &Value) {
    /// Longest name: two subdomains, two labels, a slash and a dot.
    const NAME_MAX: usize = 253 + 1 + 63 + 1 + 253;
    let signer = spec.text(&["signerName"]);
    c.at("signerName", |c| {
        if signer.is_empty() {
            c.required("");
            return;
        }
        let Some((domain, path)) = signer.split_once('/').filter(|(_, path)| !path.contains('/')) else {
            c.invalid(
                signer,
                "must be a fully qualified domain and path of the form \"example.com/signer-name\"",
            );
            return;
        };
        c.invalid_each(signer, names::dns_subdomain(domain));
        if !domain.contains('.') {
            c.invalid(
                domain,
                "should be a domain with at least two segments separated by dots",
            );
        }
        c.invalid_each(signer, names::dns_subdomain(path));
        if signer.len() > NAME_MAX {
            c.too_long(NAME_MAX);
        }
    });
}

/// `TokenReview`, which is answered and not stored.
pub(super) fn token_review(c: &mut Causes, o: &Value) {
    c.at("spec", |c| c.text_required(spec(o), "token"));
}

/// `SubjectAccessReview`.
pub(super) fn subject_review(c: &mut Causes, o: &Value) {
    let spec = spec(o);
    c.at("spec", |c| {
        attributes(c, spec);
        if spec.text(&["user"]).is_empty() && spec.items(&["groups"]).is_empty() {
            c.at("user", |c| {
                c.invalid("", "at least one of user or group must be specified")
            });
        }
    });
}

/// `SelfSubjectAccessReview`.
pub(super) fn self_review(c: &mut Causes, o: &Value) {
    c.at("spec", |c| attributes(c, spec(o)));
}

/// `LocalSubjectAccessReview`, which asks about its own namespace.
pub(super) fn local_review(c: &mut Causes, o: &Value) {
    subject_review(c, o);
    let (about, own) = (
        spec(o).text(&["resourceAttributes", "namespace"]),
        o.text(&["metadata", "namespace"]),
    );
    c.at("spec.resourceAttributes.namespace", |c| {
        if spec(o).at(&["resourceAttributes"]).is_some() && about != own {
            c.invalid(about, "must match metadata.namespace");
        }
    });
    c.forbidden_in(
        o,
        "spec",
        "nonResourceAttributes",
        "disallowed on this kind of request",
    );
}

fn attributes(c: &mut Causes, spec: &Value) {
    match (
        spec.at(&["resourceAttributes"]),
        spec.at(&["nonResourceAttributes"]),
    ) {
        (Some(_), Some(other)) => c.at("nonResourceAttributes", |c| {
            c.invalid(
                other.clone(),
                "cannot be specified in combination with resourceAttributes",
            );
        }),
        (None, None) => c.at("resourceAttributes", |c| {
            c.invalid(
                Value::Null,
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            );
        }),
        _ => {}
    }
}
