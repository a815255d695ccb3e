//! Volumes, claims, classes, drivers and attachments.

use serde_json::Value;

use super::cause::Causes;
use super::{resources, scheduling, spec, volume_source};
use crate::names;
use crate::value::{ValueExt as _, is_empty};

const ACCESS_MODES: &[&str] = &[
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];

/// Longest name of a driver that the CSI specification allows.
const DRIVER_MAX: usize = 63;

/// Fields of a persistent volume's spec that are not its source.
const NOT_SOURCES: &[&str] = &[
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

/// `PersistentVolumeClaim`.
pub(super) fn claim(c: &mut Causes, o: &Value) {
    c.at("spec", |c| claim_spec(c, spec(o)));
}

/// `PersistentVolume`.
pub(super) fn volume(c: &mut Causes, o: &Value) {
    c.at("spec", |c| volume_spec(c, spec(o)));
}

/// `CSIStorageCapacity`.
pub(super) fn capacity(c: &mut Causes, o: &Value) {
    c.name_required(o, "storageClassName", names::dns_subdomain);
    c.field(o, "nodeTopology", super::meta::label_selector);
    for name in ["capacity", "maximumVolumeSize"] {
        c.field(o, name, resources::amount);
    }
}

/// `VolumeAttributesClass`.
pub(super) fn attributes_class(c: &mut Causes, o: &Value) {
    c.text_required(o, "driverName");
    driver_name(c, o, "driverName");
    if is_empty(o.get("parameters")) {
        c.at("parameters", |c| {
            c.required("must contain at least one key/value pair")
        });
    }
    parameters(c, o);
}

/// The name of a CSI driver, if it is there.
pub(super) fn driver_name(c: &mut Causes, holder: &Value, field: &str) {
    let name = holder.text(&[field]);
    if name.is_empty() {
        return;
    }
    c.at(field, |c| {
        if name.len() > DRIVER_MAX {
            c.too_long(DRIVER_MAX);
        }
        c.invalid_each(name, names::dns_subdomain(&name.to_lowercase()));
    });
}

fn parameters(c: &mut Causes, o: &Value) {
    /// Largest number of parameters, and their size in bytes.
    const COUNT_MAX: usize = 512;
    const SIZE_MAX: usize = 256 * 1024;
    c.field(o, "parameters", |c, parameters| {
        let map = parameters.as_object();
        if map.is_some_and(|map| map.len() > COUNT_MAX) {
            c.too_long(COUNT_MAX);
            return;
        }
        let mut size = 0;
        for (key, value) in map.into_iter().flatten() {
            if key.is_empty() {
                c.invalid(key.as_str(), "field can not be empty.");
            }
            size += key.len() + value.as_str().unwrap_or_default().len();
        }
        if size > SIZE_MAX {
            c.too_long(SIZE_MAX);
        }
    });
}

fn access_modes(c: &mut Causes, spec: &Value) {
    let modes = spec.items(&["accessModes"]);
    c.at("accessModes", |c| {
        for mode in modes.iter().filter_map(Value::as_str) {
            if !ACCESS_MODES.contains(&mode) {
                c.not_supported(mode, ACCESS_MODES);
            }
        }
        if modes.len() > 1 && modes.iter().any(|m| m == "ReadWriteOncePod") {
            c.forbidden("may not use ReadWriteOncePod with other access modes");
        }
    });
}

fn class_name(c: &mut Causes, spec: &Value) {
    c.name_rule(spec, "storageClassName", names::dns_subdomain);
    c.name_rule(spec, "volumeAttributesClassName", names::dns_subdomain);
}

/// The spec of a claim.
pub(super) fn claim_spec(c: &mut Causes, spec: &Value) {
    if spec.items(&["accessModes"]).is_empty() {
        c.at("accessModes", |c| {
            c.required("at least 1 access mode is required")
        });
    }
    c.field(spec, "selector", super::meta::label_selector);
    access_modes(c, spec);
    match spec.at(&["resources", "requests", "storage"]) {
        None => c.at("resources", |c| c.key("storage", |c| c.required(""))),
        Some(storage) => {
            let quantity = resources::quantity(storage);
            if quantity.is_negative() || quantity.is_zero() {
                c.at("resources", |c| {
                    c.key("storage", |c| {
                        c.invalid(quantity.to_string(), "must be greater than zero")
                    });
                });
            }
        }
    }
    class_name(c, spec);
    c.one_of(spec, "volumeMode", VOLUME_MODES, false);
    for source in ["dataSource", "dataSourceRef"] {
        c.field(spec, source, |c, source| {
            c.text_required(source, "name");
            c.text_required(source, "kind");
            if source.text(&["apiGroup"]).is_empty() && source.text(&["kind"]) != "PersistentVolumeClaim" {
                c.invalid(
                    source.text(&["kind"]),
                    "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
                );
            }
        });
    }
}

/// The spec of a persistent volume.
fn volume_spec(c: &mut Causes, spec: &Value) {
    if spec.items(&["accessModes"]).is_empty() {
        c.at("accessModes", |c| c.required(""));
    }
    access_modes(c, spec);
    let capacity = spec.at(&["capacity"]).and_then(Value::as_object);
    c.at("capacity", |c| match capacity {
        None => c.required(""),
        Some(capacity) => {
            if !capacity.contains_key("storage") || capacity.len() > 1 {
                let found = capacity.keys().next().cloned().unwrap_or_default();
                c.not_supported(&found, &["storage"]);
            }
            for (name, value) in capacity {
                c.key(name, |c| {
                    let quantity = resources::quantity(value);
                    if quantity.is_negative() || quantity.is_zero() {
                        c.invalid(quantity.to_string(), "must be greater than zero");
                    }
                });
            }
        }
    });
    c.one_of(
        spec,
        "persistentVolumeReclaimPolicy",
        &["Delete", "Recycle", "Retain"],
        false,
    );
    c.field(spec, "nodeAffinity", |c, affinity| {
        match affinity.at(&["required"]) {
            None => c.at("required", |c| {
                c.required("must specify required node constraints")
            }),
            Some(required) => c.at("required", |c| scheduling::node_selector(c, required)),
        }
    });
    let mut found = 0;
    for (kind, source) in spec.as_object().into_iter().flatten() {
        if NOT_SOURCES.contains(&kind.as_str()) {
            continue;
        }
        found += 1;
        c.at(kind, |c| {
            if found > 1 {
                c.forbidden("may not specify more than 1 volume type");
                return;
            }
            persistent_source(c, kind, source);
        });
    }
    if found == 0 {
        c.required("must specify a volume type");
    }
    if spec.at(&["local"]).is_some() && spec.at(&["nodeAffinity"]).is_none() {
        c.at("nodeAffinity", |c| {
            c.required("Local volume requires node affinity")
        });
    }
    if spec.text(&["hostPath", "path"]) == "/" && spec.text(&["persistentVolumeReclaimPolicy"]) == "Recycle" {
        c.at("persistentVolumeReclaimPolicy", |c| {
            c.forbidden("may not be 'recycle' for a hostPath mount of '/'");
        });
    }
    class_name(c, spec);
    c.one_of(spec, "volumeMode", VOLUME_MODES, false);
}

fn persistent_source(c: &mut Causes, kind: &str, source: &Value) {
    match kind {
        "csi" => {
            c.text_required(source, "driver");
            driver_name(c, source, "driver");
            c.text_required(source, "volumeHandle");
            for secret in [
                "controllerPublishSecretRef",
                "controllerExpandSecretRef",
                "nodePublishSecretRef",
                "nodeExpandSecretRef",
                "nodeStageSecretRef",
            ] {
                c.field(source, secret, |c, secret| {
                    c.text_required(secret, "name");
                    c.text_required(secret, "namespace");
                });
            }
        }
        "local" => {
            let path = source.text(&["path"]);
            c.at("path", |c| {
                if path.is_empty() {
                    c.required("");
                } else if path.split('/').any(|part| part == "..") {
                    c.invalid(path, "must not contain '..'");
                }
            });
        }
        _ => volume_source::shared(c, kind, source, true),
    }
}

/// `StorageClass`.
pub(super) fn class(c: &mut Causes, o: &Value) {
    let provisioner = o.text(&["provisioner"]);
    c.at("provisioner", |c| {
        if provisioner.is_empty() {
            c.required("");
        } else {
            c.invalid_each(provisioner, names::qualified_name(&provisioner.to_lowercase()));
        }
    });
    parameters(c, o);
    c.one_of(o, "reclaimPolicy", &["Delete", "Retain"], false);
    c.one_of(
        o,
        "volumeBindingMode",
        &["Immediate", "WaitForFirstConsumer"],
        true,
    );
    c.each(o, "allowedTopologies", |c, _, term| {
        c.each(term, "matchLabelExpressions", |c, _, expression| {
            c.name_rule(expression, "key", names::qualified_name);
            if expression.items(&["values"]).is_empty() {
                c.at("values", |c| c.required(""));
            }
        });
    });
}

/// `VolumeAttachment`.
pub(super) fn attachment(c: &mut Causes, o: &Value) {
    c.at("spec", |c| attachment_spec(c, spec(o)));
}

fn attachment_spec(c: &mut Causes, spec: &Value) {
    c.text_required(spec, "attacher");
    driver_name(c, spec, "attacher");
    let source = spec.at(&["source"]).unwrap_or(&Value::Null);
    c.at("source", |c| {
        match (
            source.at(&["inlineVolumeSpec"]),
            source.at(&["persistentVolumeName"]),
        ) {
            (None, None) => {
                c.required("must specify exactly one of inlineVolumeSpec and persistentVolumeName");
            }
            (Some(_), Some(_)) => {
                c.forbidden("must specify exactly one of inlineVolumeSpec and persistentVolumeName");
            }
            (Some(inline), None) => c.at("inlineVolumeSpec", |c| volume_spec(c, inline)),
            (None, Some(name)) => {
                let name = name.as_str().unwrap_or_default();
                c.at("persistentVolumeName", |c| {
                    c.invalid_each(name, names::dns_subdomain(name))
                });
            }
        }
    });
    c.text_required(spec, "nodeName");
    c.name_rule(spec, "nodeName", names::dns_subdomain);
}

/// `CSIDriver`.
pub(super) fn csi_driver(c: &mut Causes, o: &Value) {
    /// A token lives for ten minutes at least; what a node can attach is asked for every ten seconds at most.
    const TOKEN_SECONDS_MIN: i64 = 600;
    const PERIOD_SECONDS_MIN: i64 = 10;
    let name = o.text(&["metadata", "name"]);
    if name.len() > DRIVER_MAX {
        c.at("metadata.name", |c| c.too_long(DRIVER_MAX));
    }
    let spec = spec(o);
    c.at("spec", |c| {
        for name in ["attachRequired", "podInfoOnMount", "storageCapacity"] {
            if spec.at(&[name]).is_none() {
                c.at(name, |c| c.required(""));
            }
        }
        if let Some(seconds) = spec
            .int(&["nodeAllocatableUpdatePeriodSeconds"])
            .filter(|s| *s < PERIOD_SECONDS_MIN)
        {
            c.at("nodeAllocatableUpdatePeriodSeconds", |c| {
                c.invalid(
                    seconds,
                    &format!("must be greater than or equal to {PERIOD_SECONDS_MIN} seconds"),
                );
            });
        }
        c.one_of(
            spec,
            "fsGroupPolicy",
            &["File", "None", "ReadWriteOnceWithFSType"],
            false,
        );
        c.at("volumeLifecycleModes", |c| {
            for mode in spec
                .items(&["volumeLifecycleModes"])
                .iter()
                .filter_map(Value::as_str)
            {
                if !matches!(mode, "Ephemeral" | "Persistent") {
                    c.not_supported(mode, &["Ephemeral", "Persistent"]);
                }
            }
        });
        let mut audiences: Vec<&str> = Vec::new();
        c.each_ref(spec, "tokenRequests", |c, request| {
            let audience = request.text(&["audience"]);
            if audiences.contains(&audience) {
                c.at("audience", |c| c.duplicate(audience));
            }
            audiences.push(audience);
            if let Some(seconds) = request.int(&["expirationSeconds"]) {
                c.at("expirationSeconds", |c| {
                    if seconds < TOKEN_SECONDS_MIN {
                        c.invalid(seconds, "may not specify a duration less than 10 minutes");
                    } else if seconds > 1 << 32 {
                        c.invalid(seconds, "may not specify a duration larger than 2^32 seconds");
                    }
                });
            }
        });
    });
}

/// `CSINode`.
pub(super) fn csi_node(c: &mut Causes, o: &Value) {
    let mut seen: Vec<&str> = Vec::new();
    c.at("spec", |c| {
        c.each_ref(spec(o), "drivers", |c, driver| {
            c.text_required(driver, "name");
            c.text_required(driver, "nodeID");
            /// Longest identity of a node that the CSI specification allows.
            const ID_MAX: usize = 256;
            if driver.text(&["nodeID"]).len() > ID_MAX {
                c.at("nodeID", |c| {
                    c.invalid(
                        driver.text(&["nodeID"]),
                        &format!("must be {ID_MAX} characters or less"),
                    );
                });
            }
            let name = driver.text(&["name"]);
            driver_name(c, driver, "name");
            let mut keys: Vec<&str> = Vec::new();
            c.at("topologyKeys", |c| {
                for key in driver.items(&["topologyKeys"]).iter().filter_map(Value::as_str) {
                    if key.is_empty() {
                        c.required("");
                    }
                    if keys.contains(&key) {
                        c.duplicate(key);
                    }
                    keys.push(key);
                    c.invalid_each(key, names::qualified_name(key));
                }
            });
            if seen.contains(&name) {
                c.at("name", |c| c.duplicate(name));
            }
            seen.push(name);
            if is_empty(driver.get("name")) {
                return;
            }
            c.field(driver, "allocatable", |c, allocatable| {
                c.not_negative(allocatable, "count")
            });
        });
    });
}
