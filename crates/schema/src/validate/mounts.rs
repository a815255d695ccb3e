//! What containers mount.

use serde_json::Value;

use super::cause::Causes;
use super::volume::Volumes;
use crate::value::ValueExt as _;

/// `volumeMounts` and `volumeDevices` of a container.
pub(super) fn mounts(c: &mut Causes, container: &Value, volumes: &Volumes<'_>, ephemeral: bool) {
    let devices: Vec<&str> = container
        .items(&["volumeDevices"])
        .iter()
        .map(|d| d.text(&["devicePath"]))
        .collect();
    let mut paths: Vec<&str> = Vec::new();
    c.each_ref(container, "volumeMounts", |c, mount| {
        let name = mount.text(&["name"]);
        if name.is_empty() {
            c.at("name", |c| c.required(""));
        } else if !volumes.contains(name) {
            c.at("name", |c| c.not_found(name));
        }
        let path = mount.text(&["mountPath"]);
        if path.is_empty() {
            c.at("mountPath", |c| c.required(""));
        } else if paths.contains(&path) {
            c.at("mountPath", |c| c.invalid(path, "must be unique"));
        }
        if !path.is_empty() && devices.contains(&path) {
            c.at("mountPath", |c| {
                c.invalid(path, "must not already exist as a path in volumeDevices")
            });
        }
        paths.push(path);
        sub_paths(c, mount, ephemeral);
        propagation(c, mount, container.flag(&["securityContext", "privileged"]));
    });
    devices_of(c, container, volumes, &paths);
}

fn sub_paths(c: &mut Causes, mount: &Value, ephemeral: bool) {
    for field in ["subPath", "subPathExpr"] {
        let sub = mount.text(&[field]);
        if ephemeral && !sub.is_empty() {
            c.at(field, |c| c.forbidden("cannot be set for an Ephemeral Container"));
        }
        if sub.starts_with('/') {
            c.at(field, |c| c.invalid(sub, "must be a relative path"));
        }
        if sub.split('/').any(|part| part == "..") {
            c.at(field, |c| c.invalid(sub, "must not contain '..'"));
        }
    }
    if !mount.text(&["subPath"]).is_empty() && !mount.text(&["subPathExpr"]).is_empty() {
        let expression = mount.text(&["subPathExpr"]);
        c.at("subPathExpr", |c| {
            c.invalid(expression, "subPathExpr and subPath are mutually exclusive")
        });
    }
}

fn propagation(c: &mut Causes, mount: &Value, privileged: bool) {
    let mode = mount.text(&["mountPropagation"]);
    c.one_of(
        mount,
        "mountPropagation",
        &["Bidirectional", "HostToContainer", "None"],
        false,
    );
    if mode == "Bidirectional" && !privileged {
        c.at("mountPropagation", |c| {
            c.forbidden("Bidirectional mount propagation is available only to privileged containers");
        });
    }
    let recursive = mount.text(&["recursiveReadOnly"]);
    c.at("recursiveReadOnly", |c| match recursive {
        "" | "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !mount.flag(&["readOnly"]) {
                c.forbidden("may only be specified when readOnly is true");
            }
            if !matches!(mode, "" | "None") {
                c.forbidden("may only be specified when mountPropagation is None or not specified");
            }
        }
        other => c.not_supported(other, &["Disabled", "Enabled", "IfPossible"]),
    });
}

fn devices_of(c: &mut Causes, container: &Value, volumes: &Volumes<'_>, mounts: &[&str]) {
    let (mut names, mut paths): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    c.each_ref(container, "volumeDevices", |c, device| {
        let (name, path) = (device.text(&["name"]), device.text(&["devicePath"]));
        if name.is_empty() {
            c.at("name", |c| c.required(""));
        } else if names.contains(&name) {
            c.at("name", |c| c.invalid(name, "must be unique"));
        }
        if !name.is_empty() && !volumes.contains(name) {
            c.at("name", |c| c.not_found(name));
        } else if !name.is_empty() && !volumes.is_claim(name) {
            c.at("name", |c| {
                c.invalid(
                    name,
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                );
            });
        }
        names.push(name);
        if path.is_empty() {
            c.at("devicePath", |c| c.required(""));
            return;
        }
        if paths.contains(&path) {
            c.at("devicePath", |c| c.invalid(path, "must be unique"));
        }
        if path.split('/').any(|part| part == "..") {
            c.at("devicePath", |c| c.invalid(path, "must not contain '..'"));
        }
        if mounts.contains(&path) {
            c.at("devicePath", |c| {
                c.invalid(path, "must not already exist as a path in volumeMounts")
            });
        }
        paths.push(path);
    });
}
