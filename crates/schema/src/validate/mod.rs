//! Rules that upstream's server checks on writes, with its field paths, reasons and messages.
//!
//! Objects arrive pruned (every field has its type), defaulted and prepared. A rule that is not here is not checked;
//! the kinds that users write most are covered most.

mod access;
mod apps;
mod cause;
mod config;
mod container;
mod extension;
mod meta;
mod network;
mod node;
mod pod;
mod probe;
mod resources;
mod scheduling;
mod security;
mod service;
mod storage;
mod update;
mod volume;

use serde_json::Value;

use crate::registry::Resource;
use crate::value::ValueExt as _;
use cause::Causes;
pub use cause::{Cause, Reason, invalid_message};

/// Rules for a new object (after defaulting and preparation).
pub fn validate_create(resource: &Resource, object: &Value) -> Vec<Cause> {
    let mut c = Causes::default();
    if resource.is_stored() {
        meta::metadata(&mut c, resource, object);
    }
    rules(&mut c, resource, object);
    if let Some(schema) = resource.structural() {
        let mut causes = c.into_vec();
        causes.extend(crate::structural::validate(&schema, object));
        return causes;
    }
    if resource.is("", "pods") && !object.items(&["spec", "ephemeralContainers"]).is_empty() {
        c.at("spec.ephemeralContainers", |c| {
            c.forbidden("cannot be set on create")
        });
    }
    c.into_vec()
}

/// Rules for an update of the main resource (after preparation).
pub fn validate_update(resource: &Resource, old: &Value, new: &Value) -> Vec<Cause> {
    let mut c = Causes::default();
    meta::metadata_update(&mut c, old, new);
    meta::metadata(&mut c, resource, new);
    // What is stored may break rules that are newer than it: an update that leaves the rest alone must pass, so that
    // finalizers can be removed and owners set.
    if !desired_state_same(old, new) {
        rules(&mut c, resource, new);
        update::rules(&mut c, resource, old, new);
    }
    custom_update(c.into_vec(), resource, old, new)
}

/// Rules of the schema of a custom resource. What an update leaves as it is may break rules that are newer than it.
fn custom_update(mut causes: Vec<Cause>, resource: &Resource, old: &Value, new: &Value) -> Vec<Cause> {
    let Some(schema) = resource.structural() else {
        return causes;
    };
    let broken = crate::structural::validate(&schema, new);
    if !broken.is_empty() {
        let before = crate::structural::validate(&schema, old);
        causes.extend(broken.into_iter().filter(|cause| !before.contains(cause)));
    }
    causes
}

/// Rules for an update of the status (after preparation).
pub fn validate_status_update(resource: &Resource, old: &Value, new: &Value) -> Vec<Cause> {
    let mut c = Causes::default();
    meta::metadata_update(&mut c, old, new);
    meta::metadata(&mut c, resource, new);
    if !crate::value::same(old.get("status"), new.get("status")) {
        c.field(new, "status", |c, status| status_rules(c, resource, status));
    }
    custom_update(c.into_vec(), resource, old, new)
}

fn desired_state_same(old: &Value, new: &Value) -> bool {
    let names = |o: &Value| -> Vec<String> {
        o.as_object()
            .into_iter()
            .flat_map(|o| o.keys().cloned())
            .collect()
    };
    names(old).iter().chain(&names(new)).all(|name| {
        matches!(name.as_str(), "metadata" | "status" | "apiVersion" | "kind")
            || crate::value::same(old.get(name), new.get(name))
    })
}

/// Rules for the content of an object, new or changed.
fn rules(c: &mut Causes, resource: &Resource, o: &Value) {
    match &*resource.group {
        "" => core_rules(c, &resource.plural, o),
        "apps" | "batch" => apps::rules(c, &resource.plural, o),
        "policy" | "autoscaling" | "scheduling.k8s.io" | "coordination.k8s.io" | "node.k8s.io" => {
            extension::rules(c, resource, o);
        }
        "rbac.authorization.k8s.io" | "certificates.k8s.io" => access::rules(c, &resource.plural, o),
        "authentication.k8s.io" | "authorization.k8s.io" => access::review(c, &resource.plural, o),
        "storage.k8s.io" => storage::rules(c, &resource.plural, o),
        "networking.k8s.io" | "discovery.k8s.io" => network::rules(c, &resource.plural, o),
        "apiextensions.k8s.io" | "admissionregistration.k8s.io" | "apiregistration.k8s.io" => {
            extension::rules(c, resource, o);
        }
        _ => {}
    }
}

fn core_rules(c: &mut Causes, plural: &str, o: &Value) {
    match plural {
        "pods" => c.at("spec", |c| pod::spec(c, spec(o))),
        "podtemplates" => c.field(o, "template", pod::template),
        "replicationcontrollers" => apps::replication_controller(c, o),
        "services" => c.at("spec", |c| service::spec(c, spec(o))),
        "configmaps" => config::config_map(c, o),
        "secrets" => config::secret(c, o),
        "resourcequotas" => config::resource_quota(c, o),
        "limitranges" => config::limit_range(c, o),
        "persistentvolumes" => c.at("spec", |c| storage::volume_spec(c, spec(o))),
        "persistentvolumeclaims" => c.at("spec", |c| storage::claim_spec(c, spec(o))),
        "nodes" => c.at("spec", |c| node::spec(c, spec(o))),
        "endpoints" => network::endpoints(c, o),
        "events" => config::event(c, o),
        _ => {}
    }
}

/// The spec of an object; null where there is none, which reads as empty.
fn spec(o: &Value) -> &Value {
    o.get("spec").unwrap_or(&Value::Null)
}

fn status_rules(c: &mut Causes, resource: &Resource, status: &Value) {
    match (&*resource.group, &*resource.plural) {
        ("", "pods") => {
            let nominated = status.text(&["nominatedNodeName"]);
            if !nominated.is_empty() {
                c.name_rule(status, "nominatedNodeName", crate::names::dns_subdomain);
            }
            c.each(status, "podIPs", |c, _, ip| {
                c.name_rule(ip, "ip", crate::names::ip)
            });
        }
        ("", "nodes") => {
            c.field(status, "capacity", resources::node_amounts);
            c.field(status, "allocatable", resources::node_amounts);
        }
        ("apps" | "batch", _) => {
            for name in [
                "replicas",
                "readyReplicas",
                "availableReplicas",
                "updatedReplicas",
                "currentReplicas",
                "observedGeneration",
                "active",
                "succeeded",
                "failed",
            ] {
                c.not_negative(status, name);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
