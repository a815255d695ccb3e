//! Pod specs and templates.

use serde_json::Value;

use super::cause::Causes;
use super::{container, meta, resources, scheduling, security, volume};
use crate::names;
use crate::value::ValueExt as _;

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
    c.one_of(spec, "restartPolicy", &["Always", "Never", "OnFailure"], true);
    let dns = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    c.one_of(spec, "dnsPolicy", &dns, true);
    dns_config(c, spec);
    c.field(spec, "nodeSelector", meta::labels);
    c.name_rule(spec, "nodeName", names::dns_subdomain);
    c.name_rule(spec, "serviceAccountName", names::dns_subdomain);
    c.name_rule(spec, "hostname", names::dns_label);
    c.name_rule(spec, "subdomain", names::dns_label);
    c.name_rule(spec, "runtimeClassName", names::dns_subdomain);
    c.name_rule(spec, "priorityClassName", names::dns_subdomain);
    c.name_rule(spec, "schedulerName", names::qualified_name);
    c.not_negative(spec, "terminationGracePeriodSeconds");
    if let Some(seconds) = spec
        .int(&["activeDeadlineSeconds"])
        .filter(|s| !(1..=i64::from(i32::MAX)).contains(s))
    {
        c.at("activeDeadlineSeconds", |c| {
            c.invalid(seconds, "must be between 1 and 2147483647, inclusive");
        });
    }
    c.one_of(
        spec,
        "preemptionPolicy",
        &["Never", "PreemptLowerPriority"],
        false,
    );
    c.field(spec, "os", |c, os| {
        c.one_of(os, "name", &["linux", "windows"], true)
    });
    c.field(spec, "securityContext", security::pod);
    if spec.flag(&["shareProcessNamespace"]) && spec.flag(&["hostPID"]) {
        c.at("shareProcessNamespace", |c| {
            c.invalid(true, "ShareProcessNamespace and HostPID cannot both be enabled");
        });
    }
    c.each(spec, "imagePullSecrets", |c, _, secret| {
        c.text_required(secret, "name")
    });
    c.each(spec, "hostAliases", |c, _, alias| {
        c.at("ip", |c| {
            c.invalid_each(alias.text(&["ip"]), names::ip(alias.text(&["ip"])))
        });
        c.at("hostnames", |c| {
            for host in alias.items(&["hostnames"]).iter().filter_map(Value::as_str) {
                c.invalid_each(host, names::dns_subdomain(host));
            }
        });
    });
    c.each(spec, "readinessGates", |c, _, gate| {
        c.name_rule(gate, "conditionType", names::qualified_name)
    });
    c.each(spec, "schedulingGates", |c, _, gate| {
        if gate.text(&["name"]).is_empty() {
            c.required("must not be empty");
        }
        let name = gate.text(&["name"]);
        c.invalid_each(name, names::qualified_name(name));
    });
    unique_names(c, spec, "schedulingGates");
    scheduling::tolerations(c, spec);
    c.field(spec, "affinity", scheduling::affinity);
    scheduling::spread_constraints(c, spec);
    c.field(spec, "resources", resources::requirements);
    c.field(spec, "overhead", |c, overhead| {
        resources::list(c, overhead, resources::Of::Container)
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
