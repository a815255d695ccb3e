//! What must not change once an object is there.

use serde_json::{Map, Value};

use super::cause::Causes;
use super::resources;
use crate::registry::Resource;
use crate::value::{ValueExt as _, same};

/// Rules for a change of the desired state.
pub(super) fn rules(c: &mut Causes, resource: &Resource, old: &Value, new: &Value) {
    let (old_spec, new_spec) = (super::spec(old), super::spec(new));
    match (&*resource.group, &*resource.plural) {
        ("", "pods") => c.at("spec", |c| pod(c, old_spec, new_spec)),
        ("", "services") => service(c, old, new),
        ("", "secrets") => {
            c.immutable(old, new, "type");
            immutable_data(c, old, new, &["data"]);
        }
        ("", "configmaps") => immutable_data(c, old, new, &["data", "binaryData"]),
        ("", "persistentvolumeclaims") => c.at("spec", |c| claim(c, old, new)),
        ("", "persistentvolumes") => c.at("spec", |c| volume(c, old_spec, new_spec)),
        ("", "nodes") => node(c, old_spec, new_spec),
        ("apps", "deployments" | "replicasets" | "daemonsets") => {
            c.at("spec", |c| c.immutable(old_spec, new_spec, "selector"));
        }
        ("apps", "statefulsets") => c.at("spec", |c| stateful_set(c, old_spec, new_spec)),
        ("apps", "controllerrevisions") => c.immutable(old, new, "data"),
        ("batch", "jobs") => c.at("spec", |c| job(c, old_spec, new_spec)),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings")
            if !same(old.get("roleRef"), new.get("roleRef")) =>
        {
            let value = new.get("roleRef").cloned().unwrap_or_default();
            c.at("roleRef", |c| c.invalid(value, "cannot change roleRef"));
        }
        ("storage.k8s.io", "storageclasses") => {
            for name in ["parameters", "provisioner", "reclaimPolicy"] {
                if !same(old.get(name), new.get(name)) {
                    c.at(name, |c| {
                        c.forbidden(&format!("updates to {name} are forbidden."))
                    });
                }
            }
            c.immutable(old, new, "volumeBindingMode");
        }
        ("storage.k8s.io", "volumeattachments") if !same(Some(old_spec), Some(new_spec)) => {
            c.at("spec", |c| c.invalid(new_spec.clone(), "field is immutable"));
        }
        ("storage.k8s.io", "csidrivers") => c.at("spec", |c| {
            for name in ["attachRequired", "volumeLifecycleModes"] {
                c.immutable(old_spec, new_spec, name);
            }
        }),
        ("storage.k8s.io", "volumeattributesclasses") => {
            c.immutable(old, new, "driverName");
            c.immutable(old, new, "parameters");
        }
        ("scheduling.k8s.io", "priorityclasses") => {
            if old.get("value") != new.get("value") {
                c.at("value", |c| c.forbidden("may not be changed in an update."));
            }
            c.immutable(old, new, "preemptionPolicy");
        }
        ("discovery.k8s.io", "endpointslices") => c.immutable(old, new, "addressType"),
        ("node.k8s.io", "runtimeclasses") => c.immutable(old, new, "handler"),
        ("networking.k8s.io", "ingressclasses") => {
            c.at("spec", |c| c.immutable(old_spec, new_spec, "controller"))
        }
        ("networking.k8s.io", "ipaddresses") => {
            c.at("spec", |c| c.immutable(old_spec, new_spec, "parentRef"))
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => c.at("spec", |c| {
            c.immutable(old_spec, new_spec, "group");
            c.immutable(old_spec, new_spec, "scope");
        }),
        _ => {}
    }
}

fn immutable_data(c: &mut Causes, old: &Value, new: &Value, fields: &[&str]) {
    if !old.flag(&["immutable"]) {
        return;
    }
    const MESSAGE: &str = "field is immutable when `immutable` is set";
    if !new.flag(&["immutable"]) {
        c.at("immutable", |c| c.forbidden(MESSAGE));
    }
    for name in fields {
        if !same(old.get(name), new.get(name)) {
            c.at(name, |c| c.forbidden(MESSAGE));
        }
    }
}

/// A spec without some of its fields, for comparison.
fn without(spec: &Value, fields: &[&str]) -> Value {
    let mut copy = Map::new();
    for (name, value) in spec.as_object().into_iter().flatten() {
        if !fields.contains(&name.as_str()) {
            copy.insert(name.clone(), value.clone());
        }
    }
    Value::Object(copy)
}

const POD_MESSAGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

fn pod(c: &mut Causes, old: &Value, new: &Value) {
    for list in ["containers", "initContainers"] {
        if old.items(&[list]).len() != new.items(&[list]).len() {
            c.at(list, |c| {
                c.forbidden("pod updates may not add or remove containers")
            });
            return;
        }
    }
    deadline(c, old, new);
    tolerations(c, old, new);
    scheduling_gates(c, old, new);
    // A pod that waits behind a gate may still be steered.
    let mut free = vec![
        "activeDeadlineSeconds",
        "tolerations",
        "schedulingGates",
        "containers",
        "initContainers",
    ];
    if !old.items(&["schedulingGates"]).is_empty() {
        free.extend(["nodeSelector", "affinity"]);
    }
    let old_grace = old.int(&["terminationGracePeriodSeconds"]);
    if old_grace.is_some_and(|grace| grace < 0) && new.int(&["terminationGracePeriodSeconds"]) == Some(1) {
        free.push("terminationGracePeriodSeconds");
    }
    let mut same_spec = same(Some(&without(old, &free)), Some(&without(new, &free)));
    for list in ["containers", "initContainers"] {
        for (old, new) in old.items(&[list]).iter().zip(new.items(&[list])) {
            same_spec &= same(Some(&without(old, &["image"])), Some(&without(new, &["image"])));
        }
    }
    if !same_spec {
        c.forbidden(POD_MESSAGE);
    }
}

fn deadline(c: &mut Causes, old: &Value, new: &Value) {
    let (before, after) = (
        old.int(&["activeDeadlineSeconds"]),
        new.int(&["activeDeadlineSeconds"]),
    );
    match (before, after) {
        (Some(before), Some(after)) if after > before => {
            c.at("activeDeadlineSeconds", |c| {
                c.invalid(after, "must be less than or equal to previous value");
            });
        }
        (Some(_), None) => {
            c.at("activeDeadlineSeconds", |c| {
                c.invalid(
                    Value::Null,
                    "must not update from a positive integer to nil value",
                );
            });
        }
        _ => {}
    }
}

fn tolerations(c: &mut Causes, old: &Value, new: &Value) {
    // How long a toleration lasts may change; what it tolerates stays.
    let identity = |toleration: &Value| without(toleration, &["tolerationSeconds"]);
    let kept: Vec<Value> = new.items(&["tolerations"]).iter().map(identity).collect();
    if !old
        .items(&["tolerations"])
        .iter()
        .map(identity)
        .all(|toleration| kept.contains(&toleration))
    {
        c.at("tolerations", |c| {
            c.forbidden("existing toleration can not be modified except its tolerationSeconds");
        });
    }
}

fn scheduling_gates(c: &mut Causes, old: &Value, new: &Value) {
    let old_gates = old.items(&["schedulingGates"]);
    for gate in new.items(&["schedulingGates"]) {
        if !old_gates.contains(gate) {
            let name = gate.text(&["name"]).to_owned();
            c.at("schedulingGates", |c| {
                c.forbidden(&format!(
                    "only deletion is allowed, but found new scheduling gate '{name}'"
                ));
            });
        }
    }
}

fn service(c: &mut Causes, old: &Value, new: &Value) {
    let address = |o: &Value| o.text(&["spec", "clusterIP"]).to_owned();
    let (before, after) = (address(old), address(new));
    let both_have = |o: &Value| o.text(&["spec", "type"]) != "ExternalName";
    if both_have(old) && both_have(new) && !before.is_empty() && before != after {
        c.at("spec.clusterIPs", |c| {
            c.index(0, |c| c.invalid(after, "may not change once set"));
        });
    }
}

fn claim(c: &mut Causes, old: &Value, new: &Value) {
    let (old_spec, new_spec) = (super::spec(old), super::spec(new));
    let bound = old.text(&["status", "phase"]) == "Bound";
    let mut free = vec![];
    // The binder sets the volume; the class may be filled in later.
    if old_spec.text(&["volumeName"]).is_empty() {
        free.push("volumeName");
    }
    if old_spec.at(&["storageClassName"]).is_none() && !new_spec.text(&["storageClassName"]).is_empty() {
        free.push("storageClassName");
    }
    free.push("volumeAttributesClassName");
    if bound {
        free.push("resources");
        let stays = |spec: &Value| {
            let mut resources = spec.at(&["resources"]).cloned().unwrap_or_default();
            if let Some(Value::Object(requests)) = resources.get_mut("requests") {
                requests.shift_remove("storage");
            }
            resources
        };
        if !same(Some(&stays(old_spec)), Some(&stays(new_spec))) {
            immutable_claim(c);
        }
        shrinks(c, old, new_spec);
    }
    if !same(Some(&without(old_spec, &free)), Some(&without(new_spec, &free))) {
        immutable_claim(c);
    }
}

fn immutable_claim(c: &mut Causes) {
    c.forbidden(
        "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
    );
}

/// A claim may shrink only while a larger size has not been reached.
fn shrinks(c: &mut Causes, old: &Value, new: &Value) {
    let path = &["resources", "requests", "storage"];
    let wanted = |spec: &Value| spec.at(path).map(resources::quantity);
    let (Some(before), Some(after)) = (wanted(super::spec(old)), wanted(new)) else {
        return;
    };
    let actual = old
        .at(&["status", "capacity", "storage"])
        .map(resources::quantity);
    if after < before && actual.is_none_or(|actual| after <= actual) {
        c.at("resources.requests.storage", |c| {
            c.forbidden("field can not be less than status.capacity")
        });
    }
}

fn volume(c: &mut Causes, old: &Value, new: &Value) {
    const FREE: &[&str] = &[
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    ];
    if !same(Some(&without(old, FREE)), Some(&without(new, FREE))) {
        c.at("persistentvolumesource", |c| {
            c.forbidden("spec.persistentvolumesource is immutable after creation");
        });
    }
    c.immutable(old, new, "volumeMode");
}

fn node(c: &mut Causes, old: &Value, new: &Value) {
    let before = old.items(&["podCIDRs"]);
    if !before.is_empty() && before != new.items(&["podCIDRs"]) {
        c.at("spec.podCIDRs", |c| {
            c.forbidden("node updates may not change podCIDR except from \"\" to valid");
        });
    }
    let provider = old.text(&["providerID"]);
    if !provider.is_empty() && provider != new.text(&["providerID"]) {
        c.at("spec.providerID", |c| {
            c.forbidden("node updates may not change providerID except from \"\" to valid");
        });
    }
}

fn stateful_set(c: &mut Causes, old: &Value, new: &Value) {
    const FREE: &[&str] = &[
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    // The status that defaulting gives to claim templates is no part of them.
    let claims = |spec: &Value| -> Vec<Value> {
        spec.items(&["volumeClaimTemplates"])
            .iter()
            .map(|claim| without(claim, &["status"]))
            .collect()
    };
    let comparable = |spec: &Value| {
        let mut copy = without(spec, FREE);
        copy["volumeClaimTemplates"] = claims(spec).into();
        copy
    };
    if !same(Some(&comparable(old)), Some(&comparable(new))) {
        c.forbidden(
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}

fn job(c: &mut Causes, old: &Value, new: &Value) {
    // An indexed Job may be resized if its parallelism goes with it.
    let elastic = new.text(&["completionMode"]) == "Indexed"
        && new.int(&["completions"]) == new.int(&["parallelism"])
        && old.int(&["completions"]).is_some();
    if !elastic {
        c.immutable(old, new, "completions");
    }
    for name in [
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
    ] {
        c.immutable(old, new, name);
    }
    // Where the pods of a Job that has not begun may run can still be steered.
    if old.flag(&["suspend"]) {
        const STEERED: &[&str] = &["nodeSelector", "affinity", "tolerations", "schedulingGates"];
        let fixed = |spec: &Value| without(spec.at(&["template", "spec"]).unwrap_or(&Value::Null), STEERED);
        if same(Some(&fixed(old)), Some(&fixed(new))) {
            return;
        }
    }
    c.immutable(old, new, "template");
}
