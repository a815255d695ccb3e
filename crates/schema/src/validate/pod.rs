//! Pod specs and templates.

use serde_json::Value;

use super::cause::Causes;
use super::checks::NameRule;
use super::{container, meta, resources, scheduling, security, system, volume};
use crate::names;
use crate::value::ValueExt as _;

/// `Pod`.
pub(super) fn pod(c: &mut Causes, o: &Value) {
    c.at("spec", |c| {
        let spec = super::spec(o);
        self::spec(c, spec);
        if !spec.text(&["nodeName"]).is_empty() && !spec.items(&["schedulingGates"]).is_empty() {
            c.at("nodeName", |c| {
                c.forbidden("cannot be set until all schedulingGates have been cleared")
            });
        }
    });
}

/// `PodTemplate`.
pub(super) fn pod_template(c: &mut Causes, o: &Value) {
    c.field(o, "template", template);
}

/// A pod template.
pub(super) fn template(c: &mut Causes, template: &Value) {
    c.at("metadata", |c| {
        let metadata = template.get("metadata").unwrap_or(&Value::Null);
        c.field(metadata, "labels", meta::labels);
        c.field(metadata, "annotations", meta::annotations);
    });
    c.at("spec", |c| {
        let spec = super::spec(template);
        if !spec.items(&["ephemeralContainers"]).is_empty() {
            c.at("ephemeralContainers", |c| {
                c.forbidden("ephemeral containers not allowed in pod template")
            });
        }
        self::spec(c, spec);
    });
}

/// A pod spec.
pub(super) fn spec(c: &mut Causes, spec: &Value) {
    let volumes = volume::volumes(c, spec);
    if spec.items(&["containers"]).is_empty() {
        c.at("containers", |c| c.required(""));
    }
    container::all(c, spec, &volumes);
    resource_claims(c, spec);
    c.one_of(spec, "restartPolicy", &["Always", "Never", "OnFailure"], true);
    let dns = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    c.one_of(spec, "dnsPolicy", &dns, true);
    dns_config(c, spec);
    c.field(spec, "nodeSelector", meta::labels);
    for (name, rule) in [
        ("nodeName", names::dns_subdomain as NameRule),
        ("serviceAccountName", names::dns_subdomain),
        ("hostname", names::dns_label),
        ("subdomain", names::dns_label),
        ("runtimeClassName", names::dns_subdomain),
        ("priorityClassName", names::dns_subdomain),
        ("schedulerName", names::qualified_name),
    ] {
        c.name_rule(spec, name, rule);
    }
    hostname_override(c, spec);
    c.in_range(spec, "activeDeadlineSeconds", 1..=i64::from(i32::MAX));
    let preemption = ["Never", "PreemptLowerPriority"];
    c.one_of(spec, "preemptionPolicy", &preemption, false);
    c.field(spec, "securityContext", security::pod);
    host_namespaces(c, spec);
    system::rules(c, spec);
    c.each(spec, "hostAliases", |c, _, alias| {
        let ip = alias.text(&["ip"]);
        c.at("ip", |c| c.invalid_each(ip, names::ip(ip)));
        c.at("hostnames", |c| {
            for host in alias.items(&["hostnames"]).iter().filter_map(Value::as_str) {
                c.invalid_each(host, names::dns_subdomain(host));
            }
        });
    });
    c.each(spec, "readinessGates", |c, _, gate| {
        let kind = gate.text(&["conditionType"]);
        c.at("conditionType", |c| {
            c.invalid_each(kind, names::qualified_name(kind))
        });
    });
    c.each(spec, "schedulingGates", |c, _, gate| {
        let name = gate.text(&["name"]);
        c.invalid_each(name, names::qualified_name(name));
    });
    duplicate_gates(c, spec);
    scheduling::tolerations(c, spec);
    c.field(spec, "affinity", scheduling::affinity);
    scheduling::spread_constraints(c, spec);
    resources::pod_level(c, spec);
    c.field(spec, "overhead", |c, overhead| {
        resources::list(c, overhead, resources::Of::Container)
    });
}

fn duplicate_gates(c: &mut Causes, spec: &Value) {
    let mut seen: Vec<&str> = Vec::new();
    c.each_ref(spec, "schedulingGates", |c, gate| {
        let name = gate.text(&["name"]);
        if seen.contains(&name) {
            c.duplicate(name);
        }
        seen.push(name);
    });
}

fn hostname_override(c: &mut Causes, spec: &Value) {
    /// What the kernel keeps of a host name.
    const NAME_MAX: usize = 64;
    let name = spec.text(&["hostnameOverride"]);
    if spec.at(&["hostnameOverride"]).is_none() {
        return;
    }
    c.at("hostnameOverride", |c| {
        if name.len() > NAME_MAX {
            c.invalid(name, &format!("must be no more than {NAME_MAX} characters"));
        }
        c.invalid_each(name, names::dns_subdomain(name));
        if spec.flag(&["setHostnameAsFQDN"]) {
            c.forbidden("cannot be set when setHostnameAsFQDN is true");
        }
        if spec.flag(&["hostNetwork"]) {
            c.forbidden("cannot be set when hostNetwork is true");
        }
    });
}

fn host_namespaces(c: &mut Causes, spec: &Value) {
    if spec.flag(&["shareProcessNamespace"]) && spec.flag(&["hostPID"]) {
        c.at("shareProcessNamespace", |c| {
            c.invalid(true, "ShareProcessNamespace and HostPID cannot both be enabled");
        });
    }
    if spec.at(&["hostUsers"]).and_then(Value::as_bool) == Some(false) {
        for name in ["hostPID", "hostIPC"] {
            if spec.flag(&[name]) {
                c.at(name, |c| c.forbidden("when `pod.Spec.HostUsers` is false"));
            }
        }
    }
}

fn resource_claims(c: &mut Causes, spec: &Value) {
    let mut seen: Vec<&str> = Vec::new();
    c.each_ref(spec, "resourceClaims", |c, claim| {
        let name = claim.text(&["name"]);
        c.at("name", |c| {
            if name.is_empty() {
                c.required("");
            } else if seen.contains(&name) {
                c.duplicate(name);
            } else {
                c.invalid_each(name, names::dns_label(name));
            }
        });
        seen.push(name);
        match (
            claim.at(&["resourceClaimName"]).is_some(),
            claim.at(&["resourceClaimTemplateName"]).is_some(),
        ) {
            (true, true) => c.invalid(
                claim.clone(),
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
            (false, false) => c.invalid(
                claim.clone(),
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            ),
            _ => {}
        }
        c.name_rule(claim, "resourceClaimName", names::dns_subdomain);
        c.name_rule(claim, "resourceClaimTemplateName", names::dns_subdomain);
    });
}

/// The names of a list's items must differ.
pub(super) fn unique_names(c: &mut Causes, spec: &Value, list: &str) {
    let mut seen: Vec<&str> = Vec::new();
    c.each_ref(spec, list, |c, item| {
        let name = item.text(&["name"]);
        if seen.contains(&name) {
            c.at("name", |c| c.duplicate(name));
        }
        seen.push(name);
    });
}

fn dns_config(c: &mut Causes, spec: &Value) {
    const NAMESERVERS_MAX: usize = 3;
    const SEARCHES_MAX: usize = 32;
    const SEARCH_CHARACTERS_MAX: usize = 2048;
    let config = spec.at(&["dnsConfig"]).unwrap_or(&Value::Null);
    let servers = config.items(&["nameservers"]);
    c.at("dnsConfig", |c| {
        if spec.text(&["dnsPolicy"]) == "None" {
            if config.is_null() {
                c.required("must provide `dnsConfig` when `dnsPolicy` is None");
            } else if servers.is_empty() {
                c.at("nameservers", |c| {
                    c.required("must provide at least one DNS nameserver when `dnsPolicy` is None");
                });
            }
        }
        if servers.len() > NAMESERVERS_MAX {
            c.at("nameservers", |c| {
                c.invalid(
                    servers.to_vec(),
                    &format!("must not have more than {NAMESERVERS_MAX} nameservers"),
                );
            });
        }
        c.at("nameservers", |c| {
            for (index, server) in servers.iter().filter_map(Value::as_str).enumerate() {
                c.index(index, |c| c.invalid_each(server, names::ip(server)));
            }
        });
        let searches = config.items(&["searches"]);
        c.at("searches", |c| {
            if searches.len() > SEARCHES_MAX {
                c.invalid(
                    searches.to_vec(),
                    &format!("must not have more than {SEARCHES_MAX} search paths"),
                );
            }
            let characters: usize = searches
                .iter()
                .filter_map(Value::as_str)
                .map(|s| s.len() + 1)
                .sum();
            if characters > SEARCH_CHARACTERS_MAX + 1 {
                let detail =
                    format!("must not have more than {SEARCH_CHARACTERS_MAX} characters (including spaces)");
                c.invalid(searches.to_vec(), &detail);
            }
            for (index, search) in searches.iter().filter_map(Value::as_str).enumerate() {
                let bare = search.strip_suffix('.').unwrap_or(search);
                c.index(index, |c| {
                    if search != "." {
                        c.invalid_each(bare, names::dns_subdomain(&bare.replace('_', "a")));
                    }
                });
            }
        });
        c.each(config, "options", |c, _, option| {
            if option.text(&["name"]).is_empty() {
                c.required("must not be empty");
            }
        });
    });
}
