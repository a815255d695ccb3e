//! Amounts of resources.

use serde_json::Value;

use super::cause::Causes;
use crate::names;
use crate::quantity::Quantity;
use crate::value::ValueExt as _;

/// Whose resources they are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Container,
    Quota,
}

const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

/// The amount in a value that was pruned: it parses.
pub(super) fn quantity(value: &Value) -> Quantity {
    value
        .as_str()
        .and_then(|text| Quantity::parse(text).ok())
        .unwrap_or(Quantity::ZERO)
}

fn is_container_resource(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")
}

pub(super) fn is_quota_resource(name: &str) -> bool {
    matches!(
        name,
        "cpu"
            | "memory"
            | "ephemeral-storage"
            | "requests.cpu"
            | "requests.memory"
            | "requests.storage"
            | "requests.ephemeral-storage"
            | "limits.cpu"
            | "limits.memory"
            | "limits.ephemeral-storage"
            | "pods"
            | "resourcequotas"
            | "services"
            | "replicationcontrollers"
            | "secrets"
            | "persistentvolumeclaims"
            | "configmaps"
            | "services.nodeports"
            | "services.loadbalancers"
    ) || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
}

/// Resources of which there are only whole ones.
fn counts(name: &str) -> bool {
    matches!(
        name,
        "pods"
            | "resourcequotas"
            | "services"
            | "replicationcontrollers"
            | "secrets"
            | "configmaps"
            | "persistentvolumeclaims"
            | "services.nodeports"
            | "services.loadbalancers"
    ) || name.starts_with("count/")
}

/// `requests` and `limits` of a container or a pod.
pub(super) fn requirements(c: &mut Causes, resources: &Value) {
    let limits = resources.at(&["limits"]);
    c.field(resources, "limits", |c, limits| list(c, limits, Of::Container));
    c.field(resources, "requests", |c, requests| {
        list(c, requests, Of::Container);
        for (name, request) in requests.as_object().into_iter().flatten() {
            let Some(limit) = limits.and_then(|limits| limits.get(name)) else {
                // Resources that cannot be promised twice need a limit.
                if name.contains('/') || name.starts_with("hugepages-") {
                    c.at_parent_required("Limit must be set for non overcommitable resources");
                }
                continue;
            };
            let (amount, most) = (quantity(request), quantity(limit));
            if name.contains('/') || name.starts_with("hugepages-") {
                if amount != most {
                    let text = amount.to_string();
                    c.invalid(text, &format!("must be equal to {name} limit of {most}"));
                }
            } else if amount > most {
                let text = amount.to_string();
                c.invalid(
                    text,
                    &format!("must be less than or equal to {name} limit of {most}"),
                );
            }
        }
    });
}

/// A list of amounts by resource.
pub(super) fn list(c: &mut Causes, list: &Value, of: Of) {
    for (name, value) in list.as_object().into_iter().flatten() {
        c.key(name, |c| {
            c.invalid_each(name, names::qualified_name(name));
            if !name.contains('/') {
                match of {
                    Of::Container if !is_container_resource(name) => {
                        c.invalid(name.as_str(), "must be a standard resource for containers");
                    }
                    Of::Quota if !is_quota_resource(name) && !name.starts_with("count/") => {
                        c.invalid(name.as_str(), "must be a standard resource for quota");
                    }
                    _ => {}
                }
            }
            amount(c, value);
            if of == Of::Quota && counts(name) && !quantity(value).is_whole() {
                c.invalid(quantity(value).to_string(), "must be an integer");
            }
            if name.contains('/') && of == Of::Container && !quantity(value).is_whole() {
                c.invalid(value.clone(), "must be an integer");
            }
        });
    }
}

/// An amount must not be negative.
pub(super) fn amount(c: &mut Causes, value: &Value) {
    let quantity = quantity(value);
    if quantity.is_negative() {
        c.invalid(quantity.to_string(), NOT_NEGATIVE);
    }
}

/// What a node has.
pub(super) fn node_amounts(c: &mut Causes, list: &Value) {
    for (name, value) in list.as_object().into_iter().flatten() {
        c.key(name, |c| {
            c.invalid_each(name, names::qualified_name(name));
            amount(c, value);
        });
    }
}

/// Resources of the pod as a whole: each at least what its containers need together.
pub(super) fn pod_level(c: &mut Causes, spec: &Value) {
    let Some(whole) = spec.at(&["resources"]) else {
        return;
    };
    c.at("resources", |c| {
        for list in ["limits", "requests"] {
            c.field(whole, list, |c, amounts| {
                for name in amounts.as_object().into_iter().flat_map(serde_json::Map::keys) {
                    if !matches!(name.as_str(), "cpu" | "memory") && !name.starts_with("hugepages-") {
                        c.key(name, |c| c.not_supported(name, &["cpu", "hugepages-", "memory"]));
                    }
                }
            });
        }
        requirements(c, whole);
        let of = |holder: &Value, list: &str, name: &str| holder.at(&["resources", list, name]).map(quantity);
        for name in ["cpu", "memory"] {
            let containers = spec.items(&["containers"]);
            let together = containers
                .iter()
                .filter_map(|container| of(container, "requests", name))
                .fold(Quantity::ZERO, |sum, amount| sum.plus(&amount));
            if let Some(request) = of(spec, "requests", name).filter(|request| *request < together) {
                c.at("requests", |c| {
                    c.key(name, |c| {
                        c.invalid(
                            request.to_string(),
                            &format!(
                                "must be greater than or equal to aggregate container requests of {together}"
                            ),
                        );
                    });
                });
            }
        }
    });
    for list in ["containers", "initContainers"] {
        c.each(spec, list, |c, _, container| {
            for name in ["cpu", "memory"] {
                let (of_pod, own) = (
                    whole.at(&["limits", name]).map(quantity),
                    container.at(&["resources", "limits", name]).map(quantity),
                );
                if let (Some(of_pod), Some(own)) = (of_pod, own)
                    && own > of_pod
                {
                    c.at("resources.limits", |c| {
                        c.key(name, |c| {
                            c.invalid(
                                own.to_string(),
                                &format!("must be less than or equal to pod limits of {of_pod}"),
                            );
                        });
                    });
                }
            }
        });
    }
}
