//! What must not change once an object is there.

use serde_json::{Map, Value};

use super::cause::Causes;
use super::resources;
use crate::value::{ValueExt as _, same};

/// A change that touches fields of the spec.
fn in_spec(c: &mut Causes, old: &Value, new: &Value, check: impl FnOnce(&mut Causes, &Value, &Value)) {
    let (old, new) = (super::spec(old), super::spec(new));
    c.at("spec", |c| check(c, old, new));
}

/// Fields of the spec that stay.
fn spec_fields(c: &mut Causes, old: &Value, new: &Value, names: &[&str]) {
    in_spec(c, old, new, |c, old, new| {
        for name in names {
            c.immutable(old, new, name);
        }
    });
}

/// The spec stays as a whole.
pub(super) fn whole_spec(c: &mut Causes, old: &Value, new: &Value) {
    c.immutable(old, new, "spec");
}

/// Workloads keep their pods.
pub(super) fn selector(c: &mut Causes, old: &Value, new: &Value) {
    spec_fields(c, old, new, &["selector"]);
}

/// `Secret`.
pub(super) fn secret(c: &mut Causes, old: &Value, new: &Value) {
    c.immutable(old, new, "type");
    immutable_data(c, old, new, &["data"]);
}

/// `ConfigMap`.
pub(super) fn config_map(c: &mut Causes, old: &Value, new: &Value) {
    immutable_data(c, old, new, &["data", "binaryData"]);
}

/// `ControllerRevision`.
pub(super) fn controller_revision(c: &mut Causes, old: &Value, new: &Value) {
    c.immutable(old, new, "data");
}

/// `ResourceQuota`: what it counts stays.
pub(super) fn quota(c: &mut Causes, old: &Value, new: &Value) {
    spec_fields(c, old, new, &["scopes"]);
}

/// `RoleBinding` and `ClusterRoleBinding`.
pub(super) fn binding(c: &mut Causes, old: &Value, new: &Value) {
    if !same(old.get("roleRef"), new.get("roleRef")) {
        let value = new.get("roleRef").cloned().unwrap_or_default();
        c.at("roleRef", |c| c.invalid(value, "cannot change roleRef"));
    }
}

/// `StorageClass`.
pub(super) fn storage_class(c: &mut Causes, old: &Value, new: &Value) {
    for name in ["parameters", "provisioner", "reclaimPolicy"] {
        if !same(old.get(name), new.get(name)) {
            c.at(name, |c| {
                c.forbidden(&format!("updates to {name} are forbidden."))
            });
        }
    }
    c.immutable(old, new, "volumeBindingMode");
}

/// `CSIDriver`.
pub(super) fn csi_driver(c: &mut Causes, old: &Value, new: &Value) {
    spec_fields(c, old, new, &["attachRequired", "volumeLifecycleModes"]);
}

/// `CSINode`: a driver that is there stays as it is, but for how many volumes it attaches.
pub(super) fn csi_node(c: &mut Causes, old: &Value, new: &Value) {
    in_spec(c, old, new, |c, old, new| {
        c.each(new, "drivers", |c, _, driver| {
            let name = driver.text(&["name"]);
            let before = old.items(&["drivers"]).iter().find(|d| d.text(&["name"]) == name);
            if let Some(before) = before
                && !same(
                    Some(&without(before, &["allocatable"])),
                    Some(&without(driver, &["allocatable"])),
                )
            {
                c.invalid(driver.clone(), "field is immutable");
            }
        });
    });
}

/// `CSIStorageCapacity`.
pub(super) fn capacity(c: &mut Causes, old: &Value, new: &Value) {
    c.immutable(old, new, "nodeTopology");
    c.immutable(old, new, "storageClassName");
}

/// `VolumeAttributesClass`.
pub(super) fn attributes_class(c: &mut Causes, old: &Value, new: &Value) {
    c.immutable(old, new, "driverName");
    c.immutable(old, new, "parameters");
}

/// `PriorityClass`.
pub(super) fn priority_class(c: &mut Causes, old: &Value, new: &Value) {
    if old.get("value") != new.get("value") {
        c.at("value", |c| c.forbidden("may not be changed in an update."));
    }
    c.immutable(old, new, "preemptionPolicy");
}

/// `EndpointSlice`.
pub(super) fn endpoint_slice(c: &mut Causes, old: &Value, new: &Value) {
    c.immutable(old, new, "addressType");
}

/// `RuntimeClass`.
pub(super) fn runtime_class(c: &mut Causes, old: &Value, new: &Value) {
    c.immutable(old, new, "handler");
}

/// `IngressClass`.
pub(super) fn ingress_class(c: &mut Causes, old: &Value, new: &Value) {
    spec_fields(c, old, new, &["controller"]);
}

/// `IPAddress`.
pub(super) fn ip_address(c: &mut Causes, old: &Value, new: &Value) {
    spec_fields(c, old, new, &["parentRef"]);
}

/// `ServiceCIDR`: a second family may come and go, the first stays.
pub(super) fn service_cidr(c: &mut Causes, old: &Value, new: &Value) {
    in_spec(c, old, new, |c, old, new| {
        let (before, after) = (old.items(&["cidrs"]), new.items(&["cidrs"]));
        for (index, range) in after.iter().enumerate() {
            if before.get(index).is_some_and(|b| b != range) {
                c.at("cidrs", |c| {
                    c.index(index, |c| c.invalid(range.clone(), "field is immutable"))
                });
            }
        }
    });
}

/// `ResourceSlice`: whose devices it lists stays.
pub(super) fn resource_slice(c: &mut Causes, old: &Value, new: &Value) {
    spec_fields(c, old, new, &["driver", "nodeName", "nodeSelector", "allNodes"]);
    let pool = |o: &Value| super::spec(o).text(&["pool", "name"]).to_owned();
    if pool(old) != pool(new) {
        c.at("spec.pool.name", |c| c.invalid(pool(new), "field is immutable"));
    }
}

/// `CustomResourceDefinition`.
pub(super) fn custom_resource_definition(c: &mut Causes, old: &Value, new: &Value) {
    spec_fields(c, old, new, &["group"]);
    let established = old
        .items(&["status", "conditions"])
        .iter()
        .any(|condition| condition.text(&["type"]) == "Established" && condition.text(&["status"]) == "True");
    if established {
        spec_fields(c, old, new, &["scope"]);
        for field in ["kind", "plural"] {
            let name = |o: &Value| super::spec(o).text(&["names", field]).to_owned();
            if name(old) != name(new) {
                c.at(&format!("spec.names.{field}"), |c| {
                    c.invalid(name(new), "field is immutable")
                });
            }
        }
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

/// `Pod`.
pub(super) fn pod(c: &mut Causes, old: &Value, new: &Value) {
    in_spec(c, old, new, pod_spec);
}

fn pod_spec(c: &mut Causes, old: &Value, new: &Value) {
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

/// `Service`: its first address and family stay as long as it has any.
pub(super) fn service(c: &mut Causes, old: &Value, new: &Value) {
    let (was, is) = (super::spec(old), super::spec(new));
    let has_address = |spec: &Value| spec.text(&["type"]) != "ExternalName";
    c.at("spec", |c| {
        if has_address(was) && has_address(is) {
            let (before, after) = (was.text(&["clusterIP"]), is.text(&["clusterIP"]));
            if !before.is_empty() && before != after {
                c.at("clusterIPs", |c| {
                    c.index(0, |c| c.invalid(after, "may not change once set"))
                });
            }
            let first = |spec: &Value| spec.items(&["ipFamilies"]).first().cloned();
            if let (Some(before), Some(after)) = (first(was), first(is))
                && before != after
            {
                c.at("ipFamilies", |c| {
                    c.index(0, |c| c.invalid(after, "may not change once set"))
                });
            }
        }
        let balances = |spec: &Value| spec.text(&["type"]) == "LoadBalancer";
        if balances(was) && balances(is) {
            let (before, after) = (was.get("loadBalancerClass"), is.get("loadBalancerClass"));
            if !same(before, after) {
                let value = after.cloned().unwrap_or_default();
                c.at("loadBalancerClass", |c| {
                    c.invalid(value, "may not change once set")
                });
            }
        }
        let local = |spec: &Value| balances(spec) && spec.text(&["externalTrafficPolicy"]) == "Local";
        if local(was) && local(is) {
            let port = |spec: &Value| spec.int(&["healthCheckNodePort"]).unwrap_or_default();
            if port(was) != 0 && port(was) != port(is) {
                c.at("healthCheckNodePort", |c| c.forbidden("field is immutable"));
            }
        }
    });
}

/// `PersistentVolumeClaim`.
pub(super) fn claim(c: &mut Causes, old: &Value, new: &Value) {
    c.at("spec", |c| claim_spec(c, old, new));
}

fn claim_spec(c: &mut Causes, old: &Value, new: &Value) {
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

/// `PersistentVolume`.
pub(super) fn volume(c: &mut Causes, old: &Value, new: &Value) {
    in_spec(c, old, new, volume_spec);
}

fn volume_spec(c: &mut Causes, old: &Value, new: &Value) {
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

/// `Node`.
pub(super) fn node(c: &mut Causes, old: &Value, new: &Value) {
    let (old, new) = (super::spec(old), super::spec(new));
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

/// `StatefulSet`.
pub(super) fn stateful_set(c: &mut Causes, old: &Value, new: &Value) {
    in_spec(c, old, new, stateful_set_spec);
}

fn stateful_set_spec(c: &mut Causes, old: &Value, new: &Value) {
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

/// `Job`.
pub(super) fn job(c: &mut Causes, old: &Value, new: &Value) {
    in_spec(c, old, new, job_spec);
}

fn job_spec(c: &mut Causes, old: &Value, new: &Value) {
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
        "successPolicy",
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

/// Containers that were added to a pod stay in it, as they were added.
pub(super) fn ephemeral_containers(c: &mut Causes, old: &Value, new: &Value) {
    let list = |o: &Value| super::spec(o).items(&["ephemeralContainers"]).to_vec();
    let (before, after) = (list(old), list(new));
    c.at("spec.ephemeralContainers", |c| {
        for container in &before {
            let name = container.text(&["name"]);
            match after.iter().find(|other| other.text(&["name"]) == name) {
                None => c.forbidden(&format!(
                    "existing ephemeral containers {name:?} may not be removed\n"
                )),
                Some(other) if !same(Some(container), Some(other)) => {
                    c.forbidden(&format!(
                        "existing ephemeral containers {name:?} may not be changed\n"
                    ));
                }
                Some(_) => {}
            }
        }
    });
}
