//! Sources of volumes that pods and persistent volumes share.

use serde_json::Value;

use super::cause::Causes;
use super::resources;
use crate::names;
use crate::value::ValueExt as _;

/// Fields that a source of a kind must have.
const REQUIRED: &[(&str, &[&str])] = &[
    ("awsElasticBlockStore", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("azureFile", &["secretName", "shareName"]),
    ("cinder", &["volumeID"]),
    ("flexVolume", &["driver"]),
    ("gcePersistentDisk", &["pdName"]),
    ("glusterfs", &["endpoints", "path"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("nfs", &["server", "path"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("quobyte", &["volume"]),
    ("rbd", &["image"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("vsphereVolume", &["volumePath"]),
];

/// A source of a pod's volume or of a persistent volume, `persistent` says which.
pub(super) fn shared(c: &mut Causes, kind: &str, source: &Value, persistent: bool) {
    if let Some((_, fields)) = REQUIRED.iter().find(|(k, _)| *k == kind) {
        for field in *fields {
            c.text_required(source, field);
        }
    }
    match kind {
        "emptyDir"
            if source
                .at(&["sizeLimit"])
                .is_some_and(|size| resources::quantity(size).is_negative()) =>
        {
            c.at("sizeLimit", |c| {
                c.forbidden("SizeLimit field must be a valid resource quantity")
            });
        }
        "hostPath" => host_path(c, source),
        "awsElasticBlockStore" | "gcePersistentDisk" if source.int(&["partition"]) != Some(0) => {
            c.in_range(source, "partition", 1..=255);
        }
        "nfs" => {
            let path = source.text(&["path"]);
            if !path.is_empty() && !path.starts_with('/') {
                c.at("path", |c| c.invalid(path, "must be an absolute path"));
            }
        }
        "iscsi" => iscsi(c, source),
        "fc" => fibre_channel(c, source),
        "rbd" | "cephfs" if source.items(&["monitors"]).is_empty() => {
            c.at("monitors", |c| c.required(""));
        }
        "cinder" => c.field(source, "secretRef", |c, secret| {
            c.text_required(secret, "name");
            if persistent {
                c.text_required(secret, "namespace");
            }
        }),
        "flocker" => flocker(c, source),
        "quobyte" => quobyte(c, source),
        "azureDisk" => azure_disk(c, source),
        "flexVolume" => {
            for key in source
                .at(&["options"])
                .and_then(Value::as_object)
                .into_iter()
                .flat_map(|o| o.keys())
            {
                let namespace = key.split('/').next().unwrap_or_default();
                if namespace.ends_with("kubernetes.io") || namespace.ends_with("k8s.io") {
                    c.at("options", |c| {
                        c.key(key, |c| {
                            c.invalid(key.as_str(), "kubernetes.io and k8s.io namespaces are reserved");
                        });
                    });
                }
            }
        }
        "storageos" => {
            c.name_rule(source, "volumeName", names::dns_label);
            c.name_rule(source, "volumeNamespace", names::dns_label);
            c.field(source, "secretRef", |c, secret| c.text_required(secret, "name"));
        }
        "scaleIO" if source.at(&["secretRef"]).is_none() => {
            c.at("secretRef", |c| c.required(""));
        }
        _ => {}
    }
}

fn host_path(c: &mut Causes, source: &Value) {
    let path = source.text(&["path"]);
    if path.is_empty() {
        c.at("path", |c| c.required(""));
        return;
    }
    if path.split('/').any(|part| part == "..") {
        c.at("path", |c| c.invalid(path, "must not contain '..'"));
    }
    let kinds = [
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    c.one_of(source, "type", &kinds, false);
}

fn iscsi(c: &mut Causes, source: &Value) {
    let target = source.text(&["iqn"]);
    if !target.is_empty()
        && !["iqn", "eui", "naa"]
            .iter()
            .any(|prefix| target.starts_with(prefix))
    {
        c.at("iqn", |c| {
            c.invalid(target, "must be valid format starting with iqn, eui, or naa");
        });
    }
    c.in_range(source, "lun", 0..=255);
    let authenticates = source.flag(&["chapAuthDiscovery"]) || source.flag(&["chapAuthSession"]);
    if authenticates && source.at(&["secretRef"]).is_none() {
        c.at("secretRef", |c| c.required(""));
    }
}

fn fibre_channel(c: &mut Causes, source: &Value) {
    let (targets, ids) = (source.items(&["targetWWNs"]), source.items(&["wwids"]));
    match (targets.is_empty(), ids.is_empty()) {
        (true, true) => c.at("targetWWNs", |c| {
            c.required("must specify either targetWWNs or wwids, but not both");
        }),
        (false, false) => c.at("targetWWNs", |c| {
            c.invalid(
                targets.to_vec(),
                "targetWWNs and wwids can not be specified simultaneously",
            );
        }),
        (false, true) if source.int(&["lun"]).is_none() => c.at("lun", |c| {
            c.required("lun is required if targetWWNs is specified");
        }),
        (false, true) => c.in_range(source, "lun", 0..=255),
        _ => {}
    }
}

fn flocker(c: &mut Causes, source: &Value) {
    match (source.text(&["datasetName"]), source.text(&["datasetUUID"])) {
        ("", "") => c.required("one of datasetName and datasetUUID is required"),
        (name, uuid) if !name.is_empty() && !uuid.is_empty() => {
            c.invalid(
                "resource",
                "datasetName and datasetUUID can not be specified simultaneously",
            );
        }
        (name, _) => {
            if name.contains('/') {
                c.at("datasetName", |c| c.invalid(name, "must not contain '/'"));
            }
        }
    }
}

fn quobyte(c: &mut Causes, source: &Value) {
    const FORM: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = source.text(&["registry"]);
    c.at("registry", |c| {
        if registry.is_empty() {
            c.required(FORM);
        } else if registry.split(',').any(|pair| {
            pair.rsplit_once(':')
                .is_none_or(|(h, p)| h.is_empty() || p.is_empty())
        }) {
            c.invalid(registry, FORM);
        }
    });
}

fn azure_disk(c: &mut Causes, source: &Value) {
    c.one_of(source, "cachingMode", &["None", "ReadOnly", "ReadWrite"], false);
    c.one_of(source, "kind", &["Dedicated", "Managed", "Shared"], false);
    let (kind, address) = (source.text(&["kind"]), source.text(&["diskURI"]));
    c.at("diskURI", |c| {
        if kind == "Managed" && !address.starts_with("/subscriptions/") {
            c.not_supported(address, &["/subscriptions/{sub-id}/resourceGroups/{group-name}/providers/Microsoft.Compute/disks/{disk-id}"]);
        } else if kind != "Managed" && !address.is_empty() && !address.starts_with("https://") {
            c.not_supported(address, &["https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"]);
        }
    });
}
