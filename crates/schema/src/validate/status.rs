//! Rules of the status, which controllers and nodes write.

use serde_json::Value;

use super::cause::Causes;
use super::resources;
use crate::names;
use crate::value::ValueExt as _;

const NONE: &Value = &Value::Null;

fn of(o: &Value) -> &Value {
    o.get("status").unwrap_or(NONE)
}

fn not_negative(c: &mut Causes, status: &Value, names: &[&str]) {
    c.at("status", |c| {
        for name in names {
            c.not_negative(status, name);
        }
    });
}

/// Counts that cannot be above another one.
fn bounded(c: &mut Causes, status: &Value, names: &[&str], most: &str, detail: &str) {
    let limit = status.int(&[most]).unwrap_or_default();
    c.at("status", |c| {
        for name in names {
            let count = status.int(&[name]).unwrap_or_default();
            if count > limit {
                c.at(name, |c| c.invalid(count, detail));
            }
        }
    });
}

const ABOVE_REPLICAS: &str = "cannot be greater than status.replicas";
const ABOVE_READY: &str = "cannot be greater than readyReplicas";

/// The count of name collisions only grows.
fn collisions(c: &mut Causes, old: &Value, new: &Value) {
    let count = |o: &Value| of(o).int(&["collisionCount"]);
    let (before, after) = (count(old), count(new));
    c.at("status.collisionCount", |c| {
        if before.is_some() && after.is_none() {
            c.invalid(Value::Null, "cannot be decremented");
        } else if let (Some(before), Some(after)) = (before, after)
            && after < before
        {
            c.invalid(after, "cannot be decremented");
        }
    });
}

/// `ReplicaSet` and `ReplicationController`.
pub(super) fn replicas(c: &mut Causes, _: &Value, new: &Value) {
    const COUNTS: &[&str] = &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
    let status = of(new);
    not_negative(c, status, &["replicas"]);
    not_negative(c, status, COUNTS);
    not_negative(c, status, &["observedGeneration"]);
    bounded(c, status, COUNTS, "replicas", ABOVE_REPLICAS);
    bounded(c, status, &["availableReplicas"], "readyReplicas", ABOVE_READY);
}

/// `Deployment`.
pub(super) fn deployment(c: &mut Causes, old: &Value, new: &Value) {
    const COUNTS: &[&str] = &["updatedReplicas", "readyReplicas", "availableReplicas"];
    let status = of(new);
    not_negative(c, status, &["observedGeneration", "replicas"]);
    not_negative(c, status, COUNTS);
    not_negative(c, status, &["unavailableReplicas", "collisionCount"]);
    bounded(c, status, COUNTS, "replicas", ABOVE_REPLICAS);
    bounded(c, status, &["availableReplicas"], "readyReplicas", ABOVE_READY);
    collisions(c, old, new);
}

/// `StatefulSet`.
pub(super) fn stateful_set(c: &mut Causes, _: &Value, new: &Value) {
    const COUNTS: &[&str] = &[
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
    ];
    let status = of(new);
    not_negative(c, status, &["replicas"]);
    not_negative(c, status, COUNTS);
    not_negative(c, status, &["observedGeneration", "collisionCount"]);
    bounded(c, status, COUNTS, "replicas", ABOVE_REPLICAS);
    bounded(
        c,
        status,
        &["availableReplicas"],
        "readyReplicas",
        "cannot be greater than status.readyReplicas",
    );
}

/// `DaemonSet`.
pub(super) fn daemon_set(c: &mut Causes, old: &Value, new: &Value) {
    not_negative(
        c,
        of(new),
        &[
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ],
    );
    collisions(c, old, new);
}

/// `HorizontalPodAutoscaler`.
pub(super) fn autoscaler(c: &mut Causes, _: &Value, new: &Value) {
    not_negative(c, of(new), &["currentReplicas", "desiredReplicas"]);
}

/// `PodDisruptionBudget`.
pub(super) fn budget(c: &mut Causes, _: &Value, new: &Value) {
    not_negative(
        c,
        of(new),
        &[
            "disruptionsAllowed",
            "currentHealthy",
            "desiredHealthy",
            "expectedPods",
        ],
    );
}

/// `Job`.
pub(super) fn job(c: &mut Causes, old: &Value, new: &Value) {
    let (before, status) = (of(old), of(new));
    not_negative(
        c,
        status,
        &["active", "succeeded", "failed", "ready", "terminating"],
    );
    let is = |status: &Value, kind: &str| {
        status
            .items(&["conditions"])
            .iter()
            .any(|condition| condition.text(&["type"]) == kind && condition.text(&["status"]) == "True")
    };
    c.at("status", |c| {
        if is(status, "Complete") && is(status, "Failed") {
            c.at("conditions", |c| {
                c.invalid_bare("cannot set Complete=True and Failed=True conditions")
            });
        }
        for kind in ["Complete", "Failed"] {
            if is(before, kind) && !is(status, kind) {
                c.at("conditions", |c| {
                    c.invalid_bare(&format!("cannot disable the terminal {kind}=True condition"));
                });
            }
        }
        let completion = status.at(&["completionTime"]);
        if is(status, "Complete") && completion.is_none() {
            c.at("completionTime", |c| {
                c.required("completionTime is required for Complete jobs")
            });
        }
        if !is(status, "Complete") && completion.is_some() {
            c.at("completionTime", |c| {
                c.invalid(
                    completion.cloned().unwrap_or_default(),
                    "cannot set completionTime when there is no Complete=True condition",
                );
            });
        }
        let active = status.int(&["active"]).unwrap_or_default();
        if (is(status, "Complete") || is(status, "Failed")) && active > 0 {
            c.at("active", |c| {
                c.invalid(active, "active>0 is invalid for finished job")
            });
        }
    });
}

/// `Pod`.
pub(super) fn pod(c: &mut Causes, old: &Value, new: &Value) {
    let (before, status) = (of(old), of(new));
    c.at("status", |c| {
        let nominated = status.text(&["nominatedNodeName"]);
        if nominated != before.text(&["nominatedNodeName"]) {
            c.name_rule(status, "nominatedNodeName", names::dns_subdomain);
        }
        c.each(status, "podIPs", |c, _, ip| c.name_rule(ip, "ip", names::ip));
        c.each(status, "conditions", |c, _, condition| {
            let kind = condition.text(&["type"]);
            if kind.contains('/') {
                c.name_rule(condition, "type", names::qualified_name);
            }
        });
        if status.at(&["qosClass"]).is_some()
            && !before.text(&["qosClass"]).is_empty()
            && before.text(&["qosClass"]) != status.text(&["qosClass"])
        {
            c.at("qosClass", |c| {
                c.invalid(status.text(&["qosClass"]), "field is immutable")
            });
        }
    });
}

/// `Node`.
pub(super) fn node(c: &mut Causes, _: &Value, new: &Value) {
    c.at("status", |c| {
        let status = of(new);
        c.field(status, "capacity", resources::node_amounts);
        c.field(status, "allocatable", resources::node_amounts);
        let mut seen: Vec<Value> = Vec::new();
        c.each(status, "addresses", |c, _, address| {
            if seen.contains(address) {
                c.duplicate(address.clone());
            }
            seen.push(address.clone());
        });
    });
}

/// `Namespace`: its phase follows its deletion.
pub(super) fn namespace(c: &mut Causes, _: &Value, new: &Value) {
    let phase = of(new).text(&["phase"]);
    let dying = new.at(&["metadata", "deletionTimestamp"]).is_some();
    c.at("status.Phase", |c| match (dying, phase) {
        (false, "Active") | (true, "Terminating") => {}
        (false, phase) => c.invalid(phase, "may only be 'Active' if `deletionTimestamp` is empty"),
        (true, phase) => c.invalid(
            phase,
            "may only be 'Terminating' if `deletionTimestamp` is not empty",
        ),
    });
}

/// `PersistentVolumeClaim`.
pub(super) fn claim(c: &mut Causes, _: &Value, new: &Value) {
    if new.at(&["spec", "accessModes"]).is_none() {
        c.at("spec.accessModes", |c| c.required(""));
    }
    c.at("status", |c| {
        let status = of(new);
        for name in ["capacity", "allocatedResources"] {
            c.field(status, name, |c, list| {
                for (name, value) in list.as_object().into_iter().flatten() {
                    c.key(name, |c| resources::amount(c, value));
                }
            });
        }
    });
}

/// `ResourceQuota`.
pub(super) fn quota(c: &mut Causes, _: &Value, new: &Value) {
    c.at("status", |c| {
        for name in ["hard", "used"] {
            c.field(of(new), name, |c, list| {
                resources::list(c, list, resources::Of::Quota)
            });
        }
    });
}

/// The balancer of a `Service` or an `Ingress`.
pub(super) fn load_balancer(c: &mut Causes, _: &Value, new: &Value) {
    let balancer = of(new).at(&["loadBalancer"]).unwrap_or(NONE);
    let is_service = new.at(&["spec", "clusterIP"]).is_some() || new.text(&["kind"]) == "Service";
    c.at("status.loadBalancer", |c| {
        if is_service
            && new.text(&["spec", "type"]) != "LoadBalancer"
            && !balancer.items(&["ingress"]).is_empty()
        {
            c.at("ingress", |c| {
                c.forbidden("may only be used when `spec.type` is \"LoadBalancer\"");
            });
            return;
        }
        c.each(balancer, "ingress", |c, _, ingress| {
            c.name_rule(ingress, "ip", names::ip);
            let host = ingress.text(&["hostname"]);
            if !host.is_empty() {
                c.at("hostname", |c| {
                    c.invalid_each(host, names::dns_subdomain(host));
                    if host.parse::<std::net::IpAddr>().is_ok() {
                        c.invalid(host, "must be a DNS name, not an IP address");
                    }
                });
            }
            if ingress.text(&["ip"]).is_empty() {
                c.forbidden_field(ingress, "ipMode", "may not be set when `ip` is not set");
            }
            c.one_of(ingress, "ipMode", &["Proxy", "VIP"], false);
        });
    });
}

/// `CertificateSigningRequest`, its approval included.
pub(super) fn certificate_request(c: &mut Causes, old: &Value, new: &Value) {
    let (before, status) = (of(old), of(new));
    let mut seen: Vec<&str> = Vec::new();
    let has = |status: &Value, kind: &str| {
        status
            .items(&["conditions"])
            .iter()
            .any(|i| i.text(&["type"]) == kind)
    };
    c.at("status", |c| {
        c.each_ref(status, "conditions", |c, condition| {
            let kind = condition.text(&["type"]);
            match kind {
                "" => c.at("type", |c| c.required("")),
                "Approved" | "Denied" | "Failed" if condition.text(&["status"]) != "True" => {
                    let value = condition.text(&["status"]);
                    c.at("status", |c| match value {
                        "" => c.required(""),
                        value => c.not_supported(value, &["True"]),
                    });
                }
                _ => c.one_of(condition, "status", &["False", "True", "Unknown"], true),
            }
            if seen.contains(&kind) {
                c.at("type", |c| c.duplicate(kind));
            }
            seen.push(kind);
        });
        if has(status, "Approved") && has(status, "Denied") {
            c.at("conditions", |c| {
                c.invalid_bare("Approved and Denied conditions are mutually exclusive");
            });
        }
        for kind in ["Approved", "Denied", "Failed"] {
            if has(before, kind) && !has(status, kind) {
                c.at("conditions", |c| {
                    c.forbidden(&format!("updates may not remove a condition of type {kind:?}"));
                });
            }
        }
        let issued = before.text(&["certificate"]);
        if !issued.is_empty() && issued != status.text(&["certificate"]) {
            c.at("certificate", |c| {
                c.forbidden("updates may not set certificate content")
            });
        }
    });
}
