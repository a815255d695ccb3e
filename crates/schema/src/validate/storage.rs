//! Volumes, claims, classes, drivers and attachments.

use serde_json::Value;

use super::cause::Causes;
use super::{resources, scheduling, spec, volume};
use crate::names;
use crate::value::{ValueExt as _, is_empty};

const ACCESS_MODES: &[&str] = &[
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];

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

/// Rules of `storage.k8s.io`.
pub(super) fn rules(c: &mut Causes, plural: &str, o: &Value) {
    match plural {
        "storageclasses" => storage_class(c, o),
        "volumeattachments" => c.at("spec", |c| attachment(c, spec(o))),
        "csidrivers" => csi_driver(c, o),
        "csinodes" => csi_node(c, o),
        "csistoragecapacities" => {
            c.text_required(o, "storageClassName");
            c.name_rule(o, "storageClassName", names::dns_subdomain);
            for name in ["capacity", "maximumVolumeSize"] {
                c.field(o, name, resources::amount);
            }
        }
        "volumeattributesclasses" => {
            c.text_required(o, "driverName");
            c.name_rule(o, "driverName", names::dns_subdomain);
        }
        _ => {}
    }
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
pub(super) fn volume_spec(c: &mut Causes, spec: &Value) {
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
            volume::one_source(c, kind, source);
            match kind.as_str() {
                "csi" => c.text_required(source, "volumeHandle"),
                "local" => c.text_required(source, "path"),
                _ => {}
            }
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
    class_name(c, spec);
    c.one_of(spec, "volumeMode", VOLUME_MODES, false);
}

fn storage_class(c: &mut Causes, o: &Value) {
    let provisioner = o.text(&["provisioner"]);
    c.at("provisioner", |c| {
        if provisioner.is_empty() {
            c.required("");
        } else {
            c.invalid_each(provisioner, names::qualified_name(&provisioner.to_lowercase()));
        }
    });
    c.field(o, "parameters", |c, parameters| {
        /// Largest number of parameters.
        const COUNT_MAX: usize = 512;
        let map = parameters.as_object();
        if map.is_some_and(|map| map.len() > COUNT_MAX) {
            c.too_long(COUNT_MAX);
        }
        for key in map.into_iter().flat_map(|map| map.keys()) {
            if key.is_empty() {
                c.invalid(key.as_str(), "field can not be empty");
            }
        }
    });
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

fn attachment(c: &mut Causes, spec: &Value) {
    c.text_required(spec, "attacher");
    c.name_rule(spec, "attacher", names::dns_subdomain);
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
            _ => {}
        }
    });
    c.text_required(spec, "nodeName");
    c.name_rule(spec, "nodeName", names::dns_subdomain);
}

fn csi_driver(c: &mut Causes, o: &Value) {
    /// Length that the CSI specification allows.
    const NAME_MAX: usize = 63;
    let name = o.text(&["metadata", "name"]);
    if name.len() > NAME_MAX {
        c.at("metadata.name", |c| c.too_long(NAME_MAX));
    }
    let spec = spec(o);
    c.at("spec", |c| {
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
        });
    });
}

fn csi_node(c: &mut Causes, o: &Value) {
    let mut seen: Vec<&str> = Vec::new();
    c.at("spec", |c| {
        c.each_ref(spec(o), "drivers", |c, driver| {
            c.text_required(driver, "name");
            c.text_required(driver, "nodeID");
            let name = driver.text(&["name"]);
            c.name_rule(driver, "name", names::dns_subdomain);
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
