//! Containers: names, images, ports, restarts.

use serde_json::Value;

use super::cause::Causes;
use super::volume::Volumes;
use super::{environment, mounts, pod, probe, resources, security};
use crate::names;
use crate::value::{ValueExt as _, is_empty};

/// Which list a container is in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    Main,
    Init,
    Ephemeral,
}

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const RESTART_POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
const FOR_EPHEMERAL: &str = "cannot be set for an Ephemeral Container";

/// Fields of containers that those added to a running pod cannot have.
const NOT_EPHEMERAL: &[&str] = &[
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

/// What a container's rules know of its pod.
struct Pod<'a> {
    spec: &'a Value,
    volumes: &'a Volumes<'a>,
}

/// All containers of a pod spec.
pub(super) fn all(c: &mut Causes, spec: &Value, volumes: &Volumes<'_>) {
    let pod = Pod { spec, volumes };
    for (list, name) in [
        (List::Main, "containers"),
        (List::Init, "initContainers"),
        (List::Ephemeral, "ephemeralContainers"),
    ] {
        c.each(spec, name, |c, _, container| one(c, container, list, &pod));
        pod::unique_names(c, spec, name);
    }
    // Names are unique across the lists too.
    let names = |list: &str| -> Vec<&str> { spec.items(&[list]).iter().map(|m| m.text(&["name"])).collect() };
    let (main, init) = (names("containers"), names("initContainers"));
    for list in ["initContainers", "ephemeralContainers"] {
        c.each(spec, list, |c, _, container| {
            let name = container.text(&["name"]);
            let taken = main.contains(&name) || (list == "ephemeralContainers" && init.contains(&name));
            if taken && !name.is_empty() {
                c.at("name", |c| c.duplicate(name));
            }
            let target = container.text(&["targetContainerName"]);
            if !target.is_empty() && !main.contains(&target) && !init.contains(&target) {
                c.at("targetContainerName", |c| c.not_found(target));
            }
        });
    }
    host_port_conflicts(c, spec);
}

fn one(c: &mut Causes, container: &Value, list: List, pod: &Pod<'_>) {
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
    environment::environment(c, container);
    mounts::mounts(c, container, pod.volumes, list == List::Ephemeral);
    c.field(container, "securityContext", |c, context| {
        security::container(c, context, pod.spec)
    });
    if list == List::Ephemeral {
        for field in NOT_EPHEMERAL {
            c.forbidden_field(container, field, FOR_EPHEMERAL);
        }
        return;
    }
    ports(c, container, pod.spec.flag(&["hostNetwork"]));
    c.field(container, "resources", |c, resources| {
        resources::requirements(c, resources);
        claims(c, resources, pod.spec);
    });
    resize_policy(c, container, pod.spec);
    restart_policy(c, container);
    let sidecar = list == List::Init && container.text(&["restartPolicy"]) == "Always";
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(value) = container.at(&[field]) else {
            continue;
        };
        c.at(field, |c| match list {
            List::Init if !sidecar => {
                c.forbidden("may not be set for init containers without restartPolicy=Always");
            }
            _ if field == "lifecycle" => lifecycle(c, value, pod.spec),
            _ => probe::probe(c, value, field, pod.spec),
        });
    }
}

fn lifecycle(c: &mut Causes, value: &Value, spec: &Value) {
    c.field(value, "postStart", |c, handler| {
        probe::lifecycle_handler(c, handler, spec)
    });
    c.field(value, "preStop", |c, handler| {
        probe::lifecycle_handler(c, handler, spec)
    });
    if !value.text(&["stopSignal"]).is_empty() {
        c.at("stopSignal", |c| match spec.text(&["os", "name"]) {
            "" => c.forbidden("may not be set for containers with empty `spec.os.name`"),
            "windows" => {
                let signal = value.text(&["stopSignal"]);
                if !matches!(signal, "SIGKILL" | "SIGTERM") {
                    c.not_supported(signal, &["SIGKILL", "SIGTERM"]);
                }
            }
            _ => {}
        });
    }
}

/// Claims of devices by their names in the pod.
fn claims(c: &mut Causes, resources: &Value, spec: &Value) {
    let known: Vec<&str> = spec
        .items(&["resourceClaims"])
        .iter()
        .map(|r| r.text(&["name"]))
        .collect();
    let mut seen: Vec<(&str, &str)> = Vec::new();
    c.each_ref(resources, "claims", |c, claim| {
        let (name, request) = (claim.text(&["name"]), claim.text(&["request"]));
        if name.is_empty() {
            c.at("name", |c| c.required(""));
            return;
        }
        if seen.contains(&(name, request)) || (!request.is_empty() && seen.contains(&(name, ""))) {
            let value = if request.is_empty() {
                name.to_owned()
            } else {
                format!("{name}/{request}")
            };
            c.duplicate(value);
        }
        seen.push((name, request));
        if !known.contains(&name) {
            c.at("name", |c| c.not_found(name));
        }
    });
}

fn resize_policy(c: &mut Causes, container: &Value, spec: &Value) {
    let mut seen: Vec<&str> = Vec::new();
    c.each_ref(container, "resizePolicy", |c, policy| {
        let resource = policy.text(&["resourceName"]);
        if seen.contains(&resource) {
            c.at("resourceName", |c| c.duplicate(resource));
        }
        seen.push(resource);
        c.one_of(policy, "resourceName", &["cpu", "memory"], true);
        c.one_of(
            policy,
            "restartPolicy",
            &["NotRequired", "RestartContainer"],
            true,
        );
        if spec.text(&["restartPolicy"]) == "Never" && policy.text(&["restartPolicy"]) == "RestartContainer" {
            c.at("restartPolicy", |c| {
                c.invalid(
                    "RestartContainer",
                    "must be 'NotRequired' when `restartPolicy` is 'Never'",
                );
            });
        }
    });
}

fn restart_policy(c: &mut Causes, container: &Value) {
    /// Most rules by exit code, and most codes in one.
    const RULES_MAX: usize = 20;
    const CODES_MAX: usize = 255;
    c.one_of(container, "restartPolicy", RESTART_POLICIES, false);
    if is_empty(container.get("restartPolicyRules")) {
        return;
    }
    if container.text(&["restartPolicy"]).is_empty() {
        c.at("restartPolicy", |c| {
            c.required("must specify restartPolicy when restart rules are used")
        });
    }
    c.at_most(container, "restartPolicyRules", RULES_MAX);
    c.each(container, "restartPolicyRules", |c, _, rule| {
        c.one_of(rule, "action", &["Restart", "RestartAllContainers"], true);
        let Some(codes) = rule.at(&["exitCodes"]) else {
            c.at("exitCodes", |c| c.required("must be specified"));
            return;
        };
        c.at("exitCodes", |c| {
            c.one_of(codes, "operator", &["In", "NotIn"], true);
            if codes.items(&["values"]).is_empty() {
                c.at("values", |c| c.required("must have at least 1 value"));
            }
            c.at_most(codes, "values", CODES_MAX);
        });
    });
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
        if number == 0 {
            c.at("containerPort", |c| c.required(""));
        } else {
            c.port_number(port, "containerPort");
        }
        let host = port.int(&["hostPort"]).unwrap_or_default();
        if host != 0 {
            c.port_number(port, "hostPort");
        }
        if host_network && host != 0 && host != number {
            c.at("hostPort", |c| {
                c.invalid(host, "must match `containerPort` when `hostNetwork` is true");
            });
        }
        c.name_rule(port, "hostIP", names::ip);
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
