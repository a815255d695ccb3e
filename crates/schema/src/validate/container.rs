//! Containers: names, images, ports, environment, mounts.

use serde_json::Value;

use super::cause::Causes;
use super::volume::Volumes;
use super::{pod, probe, resources, security};
use crate::names;
use crate::value::ValueExt as _;

/// Which list a container is in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    Main,
    Init,
    Ephemeral,
}

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// All containers of a pod spec.
pub(super) fn all(c: &mut Causes, spec: &Value, volumes: &Volumes<'_>) {
    let host_network = spec.flag(&["hostNetwork"]);
    for (list, name) in [
        (List::Main, "containers"),
        (List::Init, "initContainers"),
        (List::Ephemeral, "ephemeralContainers"),
    ] {
        c.each(spec, name, |c, _, container| {
            one(c, container, list, volumes, host_network)
        });
        pod::unique_names(c, spec, name);
    }
    // Names are unique across the lists too.
    let main: Vec<&str> = spec
        .items(&["containers"])
        .iter()
        .map(|m| m.text(&["name"]))
        .collect();
    c.each(spec, "initContainers", |c, _, container| {
        let name = container.text(&["name"]);
        if main.contains(&name) && !name.is_empty() {
            c.at("name", |c| c.duplicate(name));
        }
    });
    host_port_conflicts(c, spec);
}

fn one(c: &mut Causes, container: &Value, list: List, volumes: &Volumes<'_>, host_network: bool) {
    let name = container.text(&["name"]);
    c.at("name", |c| match name {
        "" => c.required(""),
        name => c.invalid_each(name, names::dns_label(name)),
    });
    let image = container.text(&["image"]);
    c.at("image", |c| {
        if image.is_empty() {
            c.required("");
        } else if image.trim() != image {
            c.invalid(image, "must not have leading or trailing whitespace");
        }
    });
    c.one_of(
        container,
        "terminationMessagePolicy",
        &["FallbackToLogsOnError", "File"],
        true,
    );
    c.one_of(
        container,
        "imagePullPolicy",
        &["Always", "IfNotPresent", "Never"],
        true,
    );
    ports(c, container, host_network);
    environment(c, container);
    mounts(c, container, volumes);
    c.field(container, "resources", resources::requirements);
    c.field(container, "securityContext", |c, context| {
        security::container(c, context)
    });
    let sidecar = list == List::Init && container.text(&["restartPolicy"]) == "Always";
    restart_policy(c, container, list);
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(value) = container.at(&[field]) else {
            continue;
        };
        c.at(field, |c| match list {
            List::Init if !sidecar => {
                c.forbidden("may not be set for init containers without restartPolicy=Always");
            }
            List::Ephemeral => c.forbidden("cannot be set for an Ephemeral Container"),
            _ if field == "lifecycle" => {
                c.field(value, "postStart", probe::lifecycle_handler);
                c.field(value, "preStop", probe::lifecycle_handler);
            }
            _ => probe::probe(c, value, field),
        });
    }
}

fn restart_policy(c: &mut Causes, container: &Value, list: List) {
    let policy = container.text(&["restartPolicy"]);
    if policy.is_empty() {
        return;
    }
    match list {
        // Rules by exit code let any container have a policy of its own.
        List::Main | List::Init => {
            c.one_of(
                container,
                "restartPolicy",
                &["Always", "Never", "OnFailure"],
                false,
            );
        }
        List::Ephemeral => {
            c.at("restartPolicy", |c| {
                c.forbidden("cannot be set for an Ephemeral Container")
            });
        }
    }
}

fn ports(c: &mut Causes, container: &Value, host_network: bool) {
    let mut seen: Vec<String> = Vec::new();
    c.each(container, "ports", |c, _, port| {
        let name = port.text(&["name"]);
        if !name.is_empty() {
            let problems = names::port_name(name);
            if !problems.is_empty() {
                c.at("name", |c| c.invalid_each(name, problems));
            } else if seen.iter().any(|other| other == name) {
                c.at("name", |c| c.duplicate(name));
            } else {
                seen.push(name.to_owned());
            }
        }
        let number = port.int(&["containerPort"]).unwrap_or_default();
        c.at("containerPort", |c| {
            if number == 0 {
                c.required("");
            } else {
                for problem in names::port_number(number) {
                    c.invalid(number, &problem);
                }
            }
        });
        let host = port.int(&["hostPort"]).unwrap_or_default();
        if host != 0 {
            c.at("hostPort", |c| {
                for problem in names::port_number(host) {
                    c.invalid(host, &problem);
                }
            });
        }
        if host_network && host != number && host != 0 {
            c.at("containerPort", |c| {
                c.invalid(number, "must match `hostPort` when `hostNetwork` is true");
            });
        }
        c.one_of(port, "protocol", PROTOCOLS, true);
    });
}

fn host_port_conflicts(c: &mut Causes, spec: &Value) {
    let mut taken: Vec<String> = Vec::new();
    c.each(spec, "containers", |c, _, container| {
        c.each(container, "ports", |c, _, port| {
            let host = port.int(&["hostPort"]).unwrap_or_default();
            if host == 0 {
                return;
            }
            let key = format!("{}/{}/{host}", port.text(&["protocol"]), port.text(&["hostIP"]));
            if taken.contains(&key) {
                c.at("hostPort", |c| c.duplicate(key));
            } else {
                taken.push(key);
            }
        });
    });
}

fn environment(c: &mut Causes, container: &Value) {
    c.each(container, "env", |c, _, variable| {
        let name = variable.text(&["name"]);
        c.at("name", |c| match name {
            "" => c.required(""),
            name => c.invalid_each(name, names::env_var_name(name)),
        });
        c.field(variable, "valueFrom", |c, source| {
            if !variable.text(&["value"]).is_empty() {
                c.invalid("", "may not be specified when `value` is not empty");
                return;
            }
            let kinds: Vec<&String> = source.as_object().into_iter().flat_map(|o| o.keys()).collect();
            match kinds.len() {
                0 => c.invalid(
                    "",
                    "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
                ),
                1 => env_source(c, source),
                _ => c.invalid("", "may not have more than one field specified at a time"),
            }
        });
    });
    c.each(container, "envFrom", |c, _, source| {
        c.name_rule(source, "prefix", names::env_var_name);
        let both = source.at(&["configMapRef"]).is_some() && source.at(&["secretRef"]).is_some();
        if both {
            c.invalid("", "may not have more than one field specified at a time");
        } else if source.at(&["configMapRef"]).is_none() && source.at(&["secretRef"]).is_none() {
            c.invalid("", "must specify one of: `configMapRef` or `secretRef`");
        }
        for field in ["configMapRef", "secretRef"] {
            c.field(source, field, |c, reference| c.text_required(reference, "name"));
        }
    });
}

fn env_source(c: &mut Causes, source: &Value) {
    const FIELDS: &[&str] = &[
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.hostIP",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    c.field(source, "fieldRef", |c, field| field_ref(c, field, FIELDS));
    c.field(source, "resourceFieldRef", |c, reference| {
        c.text_required(reference, "resource")
    });
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        c.field(source, kind, |c, reference| {
            c.text_required(reference, "name");
            let key = reference.text(&["key"]);
            c.at("key", |c| match key {
                "" => c.required(""),
                key => c.invalid_each(key, names::config_map_key(key)),
            });
        });
    }
}

/// A reference to a field of the pod; labels and annotations by key are always allowed.
pub(super) fn field_ref(c: &mut Causes, reference: &Value, allowed: &[&str]) {
    c.text_required(reference, "apiVersion");
    let path = reference.text(&["fieldPath"]);
    c.at("fieldPath", |c| {
        if path.is_empty() {
            c.required("");
        } else if let Some((map, rest)) = path.split_once("['") {
            let key = rest.strip_suffix("']").unwrap_or_default();
            if matches!(map, "metadata.annotations" | "metadata.labels") {
                c.invalid_each(key, names::qualified_name(&key.to_lowercase()));
            } else {
                c.invalid(path, "does not support subscript");
            }
        } else if !allowed.contains(&path) {
            c.not_supported(path, allowed);
        }
    });
}

fn mounts(c: &mut Causes, container: &Value, volumes: &Volumes<'_>) {
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
        paths.push(path);
        for field in ["subPath", "subPathExpr"] {
            let sub = mount.text(&[field]);
            if sub.starts_with('/') {
                c.at(field, |c| c.invalid(sub, "must be a relative path"));
            } else if sub.split('/').any(|part| part == "..") {
                c.at(field, |c| c.invalid(sub, "must not contain '..'"));
            }
        }
        if !mount.text(&["subPath"]).is_empty() && !mount.text(&["subPathExpr"]).is_empty() {
            let expression = mount.text(&["subPathExpr"]);
            c.at("subPathExpr", |c| {
                c.invalid(expression, "subPathExpr and subPath are mutually exclusive")
            });
        }
        let modes = ["None", "HostToContainer", "Bidirectional"];
        c.one_of(mount, "mountPropagation", &modes, false);
        if mount.text(&["mountPropagation"]) == "Bidirectional"
            && !container.flag(&["securityContext", "privileged"])
        {
            c.at("mountPropagation", |c| {
                c.forbidden("Bidirectional mount propagation is available only to privileged containers");
            });
        }
    });
    let mut devices: Vec<&str> = Vec::new();
    c.each_ref(container, "volumeDevices", |c, device| {
        let (name, path) = (device.text(&["name"]), device.text(&["devicePath"]));
        if name.is_empty() {
            c.at("name", |c| c.required(""));
        } else if !volumes.is_claim(name) {
            c.at("name", |c| {
                c.invalid(
                    name,
                    "can only use volume source type of PersistentVolumeClaim for block mode",
                );
            });
        }
        if path.is_empty() {
            c.at("devicePath", |c| c.required(""));
        } else if devices.contains(&path) || paths.contains(&path) {
            c.at("devicePath", |c| c.invalid(path, "must be unique"));
        }
        devices.push(path);
    });
}
