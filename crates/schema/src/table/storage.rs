//! Volumes, claims, classes, drivers and devices.

use serde_json::Value;

use super::{AGE, BY_AGE, Column, NAME, Printer, age, flag, name, number, or, text, wide};
use crate::value::ValueExt as _;

/// The printer of a resource of these groups.
pub(super) fn printer(plural: &str) -> Printer {
    match plural {
        "storageclasses" => Printer {
            columns: CLASS,
            row: class,
        },
        "csidrivers" => Printer {
            columns: DRIVER,
            row: driver,
        },
        "csinodes" => Printer {
            columns: CSI_NODE,
            row: |o, now| vec![name(o), o.items(&["spec", "drivers"]).len().into(), age(o, now)],
        },
        "volumeattachments" => Printer {
            columns: ATTACHMENT,
            row: attachment,
        },
        "csistoragecapacities" => Printer {
            columns: CAPACITY,
            row: capacity,
        },
        "volumeattributesclasses" => Printer {
            columns: ATTRIBUTES,
            row: |o, now| vec![name(o), o.text(&["driverName"]).into(), age(o, now)],
        },
        "resourceclaims" => Printer {
            columns: RESOURCE_CLAIM,
            row: resource_claim,
        },
        "resourceslices" => Printer {
            columns: RESOURCE_SLICE,
            row: resource_slice,
        },
        _ => BY_AGE,
    }
}

/// Access modes by their usual abbreviations, in a fixed order.
fn access_modes(list: &[Value]) -> String {
    const MODES: &[(&str, &str)] = &[
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let held = |mode: &str| list.iter().any(|m| m == mode);
    MODES
        .iter()
        .filter(|(mode, _)| held(mode))
        .map(|(_, short)| *short)
        .collect::<Vec<_>>()
        .join(",")
}

fn phase(o: &Value) -> Value {
    if o.at(&["metadata", "deletionTimestamp"]).is_some() {
        "Terminating".into()
    } else {
        o.text(&["status", "phase"]).into()
    }
}

fn storage_class(o: &Value) -> Value {
    match o
        .at(&["metadata", "annotations"])
        .map(|a| a.text(&["volume.beta.kubernetes.io/storage-class"]))
    {
        Some(class) if !class.is_empty() => class.into(),
        _ => o.text(&["spec", "storageClassName"]).into(),
    }
}

pub(super) const VOLUME: &[Column] = &[
    NAME,
    text("Capacity", "Size"),
    text("Access Modes", "Ways that it can be mounted"),
    text("Reclaim Policy", "What happens to it when its claim goes"),
    text("Status", "Whether it is free, bound or released"),
    text("Claim", "Claim that it is bound to"),
    text("StorageClass", "Class that it belongs to"),
    text("VolumeAttributesClass", "Class of its attributes"),
    text("Reason", "Why it failed"),
    AGE,
    wide("VolumeMode", "Filesystem or block device"),
];

pub(super) fn volume(o: &Value, now: i64) -> Vec<Value> {
    let claim = o.at(&["spec", "claimRef"]).map_or_else(String::new, |claim| {
        format!("{}/{}", claim.text(&["namespace"]), claim.text(&["name"]))
    });
    vec![
        name(o),
        o.text(&["spec", "capacity", "storage"]).into(),
        access_modes(o.items(&["spec", "accessModes"])).into(),
        o.text(&["spec", "persistentVolumeReclaimPolicy"]).into(),
        phase(o),
        claim.into(),
        storage_class(o),
        or(o.text(&["spec", "volumeAttributesClassName"]), "<unset>"),
        o.text(&["status", "reason"]).into(),
        age(o, now),
        or(o.text(&["spec", "volumeMode"]), "<unset>"),
    ]
}

pub(super) const CLAIM: &[Column] = &[
    NAME,
    text("Status", "Whether it is bound"),
    text("Volume", "Volume that it is bound to"),
    text("Capacity", "Size of that volume"),
    text("Access Modes", "Ways that the volume can be mounted"),
    text("StorageClass", "Class that it asks for"),
    text("VolumeAttributesClass", "Class of attributes that it asks for"),
    AGE,
    wide("VolumeMode", "Filesystem or block device"),
];

pub(super) fn claim(o: &Value, now: i64) -> Vec<Value> {
    let volume = o.text(&["spec", "volumeName"]);
    let (size, modes) = if volume.is_empty() {
        (String::new(), String::new())
    } else {
        let size = o.text(&["status", "capacity", "storage"]).to_owned();
        (size, access_modes(o.items(&["status", "accessModes"])))
    };
    vec![
        name(o),
        phase(o),
        volume.into(),
        size.into(),
        modes.into(),
        storage_class(o),
        or(o.text(&["spec", "volumeAttributesClassName"]), "<unset>"),
        age(o, now),
        or(o.text(&["spec", "volumeMode"]), "<unset>"),
    ]
}

const CLASS: &[Column] = &[
    NAME,
    text("Provisioner", "Driver that makes its volumes"),
    text("ReclaimPolicy", "What happens to a volume when its claim goes"),
    text(
        "VolumeBindingMode",
        "Whether a volume is made at once or when a pod needs it",
    ),
    flag("AllowVolumeExpansion", "Whether its volumes can grow"),
    AGE,
];

fn class(o: &Value, now: i64) -> Vec<Value> {
    let annotations = o.at(&["metadata", "annotations"]);
    let is_default = annotations.is_some_and(|a| {
        a.text(&["storageclass.kubernetes.io/is-default-class"]) == "true"
            || a.text(&["storageclass.beta.kubernetes.io/is-default-class"]) == "true"
    });
    let shown = o.text(&["metadata", "name"]);
    vec![
        if is_default {
            format!("{shown} (default)").into()
        } else {
            shown.into()
        },
        o.text(&["provisioner"]).into(),
        or(o.text(&["reclaimPolicy"]), "Delete"),
        or(o.text(&["volumeBindingMode"]), "Immediate"),
        o.flag(&["allowVolumeExpansion"]).into(),
        age(o, now),
    ]
}

const DRIVER: &[Column] = &[
    NAME,
    flag(
        "AttachRequired",
        "Whether its volumes are attached before they are mounted",
    ),
    flag("PodInfoOnMount", "Whether it is told about the pod"),
    flag("StorageCapacity", "Whether the scheduler asks for its capacity"),
    text("TokenRequests", "Audiences of the tokens that it is given"),
    flag(
        "RequiresRepublish",
        "Whether it is called again from time to time",
    ),
    text("Modes", "Kinds of volumes that it serves"),
    AGE,
];

fn driver(o: &Value, now: i64) -> Vec<Value> {
    let attach = o
        .at(&["spec", "attachRequired"])
        .and_then(Value::as_bool)
        .unwrap_or(true);
    let tokens = o.items(&["spec", "tokenRequests"]);
    let audiences = tokens
        .iter()
        .map(|t| t.text(&["audience"]))
        .collect::<Vec<_>>()
        .join(",");
    let modes = o.items(&["spec", "volumeLifecycleModes"]);
    let modes = modes
        .iter()
        .filter_map(Value::as_str)
        .collect::<Vec<_>>()
        .join(",");
    vec![
        name(o),
        attach.into(),
        o.flag(&["spec", "podInfoOnMount"]).into(),
        o.flag(&["spec", "storageCapacity"]).into(),
        if tokens.is_empty() {
            "<unset>".into()
        } else {
            audiences.into()
        },
        o.flag(&["spec", "requiresRepublish"]).into(),
        or(&modes, "<none>"),
        age(o, now),
    ]
}

const CSI_NODE: &[Column] = &[NAME, number("Drivers", "Drivers on the node"), AGE];

const ATTACHMENT: &[Column] = &[
    NAME,
    text("Attacher", "Driver that attaches"),
    text("PV", "Volume"),
    text("Node", "Node that it is attached to"),
    flag("Attached", "Whether it is attached"),
    AGE,
];

fn attachment(o: &Value, now: i64) -> Vec<Value> {
    vec![
        name(o),
        o.text(&["spec", "attacher"]).into(),
        o.text(&["spec", "source", "persistentVolumeName"]).into(),
        o.text(&["spec", "nodeName"]).into(),
        o.flag(&["status", "attached"]).into(),
        age(o, now),
    ]
}

const CAPACITY: &[Column] = &[
    NAME,
    text("StorageClassName", "Class that the capacity is for"),
    text("Capacity", "Space for new volumes"),
    AGE,
];

fn capacity(o: &Value, now: i64) -> Vec<Value> {
    vec![
        name(o),
        o.text(&["storageClassName"]).into(),
        or(o.text(&["capacity"]), "<unset>"),
        age(o, now),
    ]
}

const ATTRIBUTES: &[Column] = &[
    NAME,
    text("DriverName", "Driver that the attributes are for"),
    AGE,
];

const RESOURCE_CLAIM: &[Column] = &[NAME, text("State", "Whether it is allocated and in use"), AGE];

fn resource_claim(o: &Value, now: i64) -> Vec<Value> {
    let mut states: Vec<&str> = Vec::new();
    if o.at(&["metadata", "deletionTimestamp"]).is_some() {
        states.push("deleted");
    }
    if o.at(&["status", "allocation"]).is_none() {
        states.push("pending");
    } else {
        states.push("allocated");
        if !o.items(&["status", "reservedFor"]).is_empty() {
            states.push("reserved");
        }
    }
    vec![name(o), states.join(",").into(), age(o, now)]
}

const RESOURCE_SLICE: &[Column] = &[
    NAME,
    text("Node", "Node that has the devices"),
    text("Driver", "Driver of the devices"),
    text("Pool", "Pool that they belong to"),
    AGE,
];

fn resource_slice(o: &Value, now: i64) -> Vec<Value> {
    vec![
        name(o),
        or(o.text(&["spec", "nodeName"]), "<unset>"),
        o.text(&["spec", "driver"]).into(),
        o.text(&["spec", "pool", "name"]).into(),
        age(o, now),
    ]
}
