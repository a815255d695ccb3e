//! Pods that name their operating system may use only what it has.

use serde_json::Value;

use super::cause::Causes;
use crate::value::ValueExt as _;

const LINUX: &str = "windows options cannot be set for a linux pod";
const WINDOWS: &str = "cannot be set for a windows pod";

const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// What Linux alone has, in a pod, in its security context and in those of containers.
const OF_POD: &[&str] = &["hostPID", "hostIPC", "hostUsers", "shareProcessNamespace"];
const OF_POD_CONTEXT: &[&str] = &[
    "seLinuxOptions",
    "seccompProfile",
    "appArmorProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
];
const OF_CONTEXT: &[&str] = &[
    "seLinuxOptions",
    "seccompProfile",
    "appArmorProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// `os` of a pod spec, and what follows from it.
pub(super) fn rules(c: &mut Causes, spec: &Value) {
    c.field(spec, "os", |c, os| {
        c.one_of(os, "name", &["linux", "windows"], true)
    });
    match spec.text(&["os", "name"]) {
        "linux" => {
            c.field(spec, "securityContext", |c, context| {
                c.forbidden_field(context, "windowsOptions", LINUX);
            });
            each_context(c, spec, |c, context| {
                c.forbidden_field(context, "windowsOptions", LINUX)
            });
        }
        "windows" => {
            for name in OF_POD {
                if spec.at(&[name]).is_some() && spec.at(&[name]) != Some(&Value::Bool(false)) {
                    c.at(name, |c| c.forbidden(WINDOWS));
                }
            }
            c.field(spec, "securityContext", |c, context| {
                for name in OF_POD_CONTEXT {
                    c.forbidden_field(context, name, WINDOWS);
                }
            });
            each_context(c, spec, |c, context| {
                for name in OF_CONTEXT {
                    c.forbidden_field(context, name, WINDOWS);
                }
            });
        }
        _ => {}
    }
}

fn each_context(c: &mut Causes, spec: &Value, mut check: impl FnMut(&mut Causes, &Value)) {
    for list in CONTAINERS {
        c.each(spec, list, |c, _, container| {
            c.field(container, "securityContext", &mut check);
        });
    }
}
