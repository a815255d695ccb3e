//! Priority and fairness of requests.

use serde_json::Value;

use super::cause::Causes;
use super::spec;
use crate::names;
use crate::value::ValueExt as _;

/// The schema of this precedence is the first of all; the last has this one.
const PRECEDENCE_MAX: i64 = 10_000;
/// Most queues of a level.
const QUEUES_MAX: i64 = 10_000_000;

/// `FlowSchema`.
pub(super) fn flow_schema(c: &mut Causes, o: &Value) {
    let spec = spec(o);
    let exempt = o.text(&["metadata", "name"]) == "exempt";
    c.at("spec", |c| {
        let precedence = spec.int(&["matchingPrecedence"]).unwrap_or_default();
        c.at("matchingPrecedence", |c| {
            if precedence <= 0 {
                c.invalid(precedence, "must be a positive value");
            }
            if precedence > PRECEDENCE_MAX {
                c.invalid(precedence, &format!("must not be greater than {PRECEDENCE_MAX}"));
            }
            if precedence == 1 && !exempt {
                c.invalid(
                    precedence,
                    "only the schema named 'exempt' may have matchingPrecedence 1",
                );
            }
        });
        c.field(spec, "distinguisherMethod", |c, method| {
            let kind = method.text(&["type"]);
            if !matches!(kind, "ByNamespace" | "ByUser") {
                c.at("type", |c| c.not_supported(kind, &["ByNamespace", "ByUser"]));
            }
        });
        let none = Value::Null;
        let level = spec.at(&["priorityLevelConfiguration"]).unwrap_or(&none);
        c.at("priorityLevelConfiguration", |c| {
            c.text_required_for(level, "name", "must reference a priority level");
            c.name_rule(level, "name", names::dns_subdomain);
        });
        c.each(spec, "rules", |c, _, rule| self::rule(c, rule));
    });
}

fn rule(c: &mut Causes, rule: &Value) {
    if rule.items(&["subjects"]).is_empty() {
        c.at("subjects", |c| {
            c.required("subjects must contain at least one value")
        });
    }
    c.each(rule, "subjects", |c, _, subject| self::subject(c, subject));
    if rule.items(&["resourceRules"]).is_empty() && rule.items(&["nonResourceRules"]).is_empty() {
        c.required("at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    c.each(rule, "resourceRules", |c, _, rule| {
        verbs(c, rule);
        for (list, detail) in [
            ("apiGroups", "resource rules must supply at least one api group"),
            ("resources", "resource rules must supply at least one resource"),
        ] {
            let items = rule.items(&[list]);
            c.at(list, |c| {
                if items.is_empty() {
                    c.required(detail);
                } else if items.len() > 1 && items.iter().any(|item| item == "*") {
                    let what = if list == "apiGroups" {
                        "api groups"
                    } else {
                        "resources"
                    };
                    c.invalid(
                        items.to_vec(),
                        &format!("if '*' is present, must not specify other {what}"),
                    );
                }
            });
        }
        let namespaces = rule.items(&["namespaces"]);
        if namespaces.is_empty() && !rule.flag(&["clusterScope"]) {
            c.at("namespaces", |c| {
                c.required("resource rules that are not cluster scoped must supply at least one namespace");
            });
        } else if namespaces.iter().any(|n| n == "*") {
            if namespaces.len() > 1 {
                c.at("namespaces", |c| {
                    c.invalid(
                        namespaces.to_vec(),
                        "if '*' is present, must not specify other namespaces",
                    );
                });
            }
        } else {
            c.text_rules(rule, "namespaces", names::dns_label);
        }
    });
    c.each(rule, "nonResourceRules", |c, _, rule| {
        verbs(c, rule);
        let urls = rule.items(&["nonResourceURLs"]);
        if urls.is_empty() {
            c.at("nonResourceURLs", |c| {
                c.required("nonResourceURLs must contain at least one value");
            });
        } else if urls.len() > 1 && urls.iter().any(|url| url == "*") {
            c.at("nonResourceURLs", |c| {
                c.invalid(
                    urls.to_vec(),
                    "if '*' is present, must not specify other non-resource URLs",
                );
            });
        } else {
            c.texts(rule, "nonResourceURLs", |c, url| {
                if url != "*" && !url.starts_with('/') {
                    c.invalid(url, "must be an absolute path or '*'");
                }
            });
        }
    });
}

fn verbs(c: &mut Causes, rule: &Value) {
    const KNOWN: &[&str] = &[
        "create",
        "delete",
        "deletecollection",
        "get",
        "list",
        "patch",
        "proxy",
        "update",
        "watch",
    ];
    let verbs = rule.items(&["verbs"]);
    c.at("verbs", |c| {
        if verbs.is_empty() {
            c.required("verbs must contain at least one value");
        } else if verbs.iter().any(|verb| verb == "*") {
            if verbs.len() > 1 {
                c.invalid(verbs.to_vec(), "if '*' is present, must not specify other verbs");
            }
        } else if rule.at(&["nonResourceURLs"]).is_none()
            && verbs
                .iter()
                .filter_map(Value::as_str)
                .any(|verb| !KNOWN.contains(&verb))
        {
            for verb in verbs
                .iter()
                .filter_map(Value::as_str)
                .filter(|verb| !KNOWN.contains(verb))
            {
                c.not_supported(verb, KNOWN);
            }
        }
    });
}

/// Whom a rule is about: a user, a group or a service account, in the field that its kind names.
fn subject(c: &mut Causes, subject: &Value) {
    const FIELDS: &[(&str, &str)] = &[
        ("Group", "group"),
        ("ServiceAccount", "serviceAccount"),
        ("User", "user"),
    ];
    let kind = subject.text(&["kind"]);
    let Some((_, expected)) = FIELDS.iter().find(|(k, _)| *k == kind) else {
        c.at("kind", |c| {
            c.not_supported(kind, &["Group", "ServiceAccount", "User"])
        });
        return;
    };
    for (other, field) in FIELDS {
        let there = subject.at(&[field]);
        c.at(field, |c| match there {
            None if field == expected => {
                c.required(&format!("{field} is required when subject kind is '{kind}'"))
            }
            Some(_) if field != expected => {
                c.forbidden(&format!(
                    "{field} is forbidden when subject kind is not '{other}'"
                ));
            }
            Some(who) => {
                c.text_required(who, "name");
                if *field == "serviceAccount" {
                    c.text_required(who, "namespace");
                    if who.text(&["name"]) != "*" {
                        c.name_rule(who, "name", names::dns_subdomain);
                    }
                    c.name_rule(who, "namespace", names::dns_label);
                }
            }
            None => {}
        });
    }
}

/// `PriorityLevelConfiguration`.
pub(super) fn priority_level(c: &mut Causes, o: &Value) {
    let spec = spec(o);
    let exempt = o.text(&["metadata", "name"]) == "exempt";
    c.at("spec", |c| {
        let kind = spec.text(&["type"]);
        if exempt != (kind == "Exempt") && matches!(kind, "Exempt" | "Limited") {
            c.at("type", |c| {
                c.invalid(kind, "type must be 'Exempt' if and only if `name` is 'exempt'");
            });
        }
        match kind {
            "Exempt" => {
                if spec.at(&["limited"]).is_some() {
                    c.at("limited", |c| {
                        c.forbidden("must be nil if the type is not Limited")
                    });
                }
                c.field(spec, "exempt", shares);
            }
            "Limited" => {
                if spec.at(&["exempt"]).is_some() {
                    c.at("exempt", |c| c.forbidden("must be nil if the type is Limited"));
                }
                match spec.at(&["limited"]) {
                    None => c.at("limited", |c| {
                        c.required("must not be empty when type is Limited")
                    }),
                    Some(limited) => c.at("limited", |c| self::limited(c, limited)),
                }
            }
            other => c.at("type", |c| c.not_supported(other, &["Exempt", "Limited"])),
        }
    });
}

fn shares(c: &mut Causes, level: &Value) {
    if let Some(shares) = level.int(&["nominalConcurrencyShares"]).filter(|s| *s < 0) {
        c.at("nominalConcurrencyShares", |c| {
            c.invalid(shares, "must be a non-negative integer")
        });
    }
    c.in_range(level, "lendablePercent", 0..=100);
}

fn limited(c: &mut Causes, limited: &Value) {
    shares(c, limited);
    c.not_negative(limited, "borrowingLimitPercent");
    let none = Value::Null;
    let response = limited.at(&["limitResponse"]).unwrap_or(&none);
    c.at("limitResponse", |c| {
        let queuing = response.at(&["queuing"]);
        match response.text(&["type"]) {
            "Reject" => {
                if queuing.is_some() {
                    c.at("queuing", |c| {
                        c.forbidden("must be nil if limited.limitResponse.type is not Limited")
                    });
                }
            }
            "Queue" => match queuing {
                None => c.at("queuing", |c| {
                    c.required("must not be empty if limited.limitResponse.type is Limited");
                }),
                Some(queuing) => c.at("queuing", |c| self::queuing(c, queuing)),
            },
            "" => c.at("type", |c| c.required("")),
            other => c.at("type", |c| c.not_supported(other, &["Queue", "Reject"])),
        }
    });
}

fn queuing(c: &mut Causes, queuing: &Value) {
    let number = |name: &str| queuing.int(&[name]).unwrap_or_default();
    let (queues, hand) = (number("queues"), number("handSize"));
    for name in ["queueLengthLimit", "queues", "handSize"] {
        if number(name) <= 0 {
            c.at(name, |c| c.invalid(number(name), "must be positive"));
        }
    }
    if queues > QUEUES_MAX {
        c.at("queues", |c| {
            c.invalid(queues, &format!("must not be greater than {QUEUES_MAX}"));
        });
    }
    if hand > queues {
        c.at("handSize", |c| {
            c.invalid(hand, &format!("should not be greater than queues ({queues})"));
        });
    }
}
