//! The fields of the manifest as data, and the walk that checks a document against them.

use super::{Report, parse_quantity};
use serde_json::Value;

/// What a field holds.
pub(super) enum Kind {
    Bool,
    Int,
    Str,
    Quantity,
    /// A quantity, or an object with the quantity `size`.
    Disk,
    OneOf(&'static [&'static str]),
    /// `name` or `<family>.<name>` of a resources preset.
    Preset,
    Strings,
    /// Any object.
    Open,
    /// A list of anything.
    OpenList,
    Object(&'static [Field]),
    Map(&'static [Field]),
    List(&'static [Field]),
}

/// One field.
pub(super) struct Field {
    name: &'static str,
    kind: Kind,
    /// Whether Hikube does what it says.
    acted_on: bool,
}

const fn acted(name: &'static str, kind: Kind) -> Field {
    Field {
        name,
        kind,
        acted_on: true,
    }
}

const fn later(name: &'static str, kind: Kind) -> Field {
    Field {
        name,
        kind,
        acted_on: false,
    }
}

pub(super) const METADATA: &[Field] = &[
    acted("name", Kind::Str),
    later("namespace", Kind::Str),
    later("labels", Kind::Open),
    later("annotations", Kind::Open),
    later("uid", Kind::Str),
    later("resourceVersion", Kind::Str),
    later("generation", Kind::Int),
    later("creationTimestamp", Kind::Str),
    later("finalizers", Kind::Strings),
    later("managedFields", Kind::OpenList),
    later("ownerReferences", Kind::OpenList),
];

pub(super) const SPEC: &[Field] = &[
    acted("storageClass", Kind::Str),
    acted("nodeGroups", Kind::Map(NODE_GROUP)),
    acted(
        "version",
        Kind::OneOf(&["v1.31", "v1.32", "v1.33", "v1.34", "v1.35", "v1.36"]),
    ),
    later("host", Kind::Str),
    acted("controlPlane", Kind::Object(CONTROL_PLANE)),
    later("addons", Kind::Object(ADDONS)),
    later(
        "images",
        Kind::Object(&[
            later("kubectl", Kind::Str),
            later("talosCsrSigner", Kind::Str),
            later("waitForKubeconfig", Kind::Str),
        ]),
    ),
    later(
        "talos",
        Kind::Object(&[
            later("imageFactoryURL", Kind::Str),
            later("installerRepository", Kind::Str),
            later("registryMirrors", Kind::Open),
            later("schematicID", Kind::Str),
            later("version", Kind::Str),
        ]),
    ),
    later(
        "nodeHealthCheck",
        Kind::Object(&[
            later("maxUnhealthy", Kind::Str),
            later("nodeStartupTimeout", Kind::Str),
            later("readyFalseTimeout", Kind::Str),
            later("readyUnknownTimeout", Kind::Str),
        ]),
    ),
    later("maxNodeProvisionTime", Kind::Str),
    later("oidc", Kind::Object(OIDC)),
];

const NODE_GROUP: &[Field] = &[
    acted("minReplicas", Kind::Int),
    acted("maxReplicas", Kind::Int),
    acted("instanceType", Kind::Str),
    acted("diskSize", Kind::Quantity),
    acted("ephemeralStorage", Kind::Disk),
    acted(
        "resources",
        Kind::Object(&[acted("cpu", Kind::Quantity), acted("memory", Kind::Quantity)]),
    ),
    acted("roles", Kind::Strings),
    later("gpus", Kind::List(&[later("name", Kind::Str)])),
    later(
        "kubelet",
        Kind::Object(&[
            later("evictionHardMemory", Kind::Str),
            later("evictionSoftMemory", Kind::Str),
            later("kubeReservedCpu", Kind::Str),
            later("kubeReservedMemory", Kind::Str),
            later("systemReservedCpu", Kind::Str),
            later("systemReservedMemory", Kind::Str),
        ]),
    ),
    later("logSerialConsole", Kind::Bool),
    later("maxUnhealthy", Kind::Str),
    later("nodeStartupTimeout", Kind::Str),
    later("podCpuLimit", Kind::Quantity),
    later("podCpuRequest", Kind::Quantity),
    later("storageClass", Kind::Str),
];

const RESOURCES: Kind = Kind::Object(&[later("cpu", Kind::Quantity), later("memory", Kind::Quantity)]);
const SIZED: &[Field] = &[
    later("resources", RESOURCES),
    later("resourcesPreset", Kind::Preset),
];

const CONTROL_PLANE: &[Field] = &[
    acted("replicas", Kind::Int),
    later(
        "apiServer",
        Kind::Object(&[
            later("extraArgs", Kind::Strings),
            later("extraVolumeMounts", Kind::OpenList),
            later("extraVolumes", Kind::OpenList),
            later("resources", RESOURCES),
            later("resourcesPreset", Kind::Preset),
        ]),
    ),
    later("controllerManager", Kind::Object(SIZED)),
    later(
        "konnectivity",
        Kind::Object(&[later("server", Kind::Object(SIZED))]),
    ),
    later("scheduler", Kind::Object(SIZED)),
];

const SWITCHED: Kind = Kind::Object(&[later("enabled", Kind::Bool), later("valuesOverride", Kind::Open)]);
const VALUES: Kind = Kind::Object(&[later("valuesOverride", Kind::Open)]);

const ADDONS: &[Field] = &[
    later("certManager", SWITCHED),
    later("cilium", VALUES),
    later("coredns", VALUES),
    // An older name that the public examples use.
    later("fluxcd", SWITCHED),
    later("gatewayAPI", Kind::Object(&[later("enabled", Kind::Bool)])),
    later("gpuOperator", SWITCHED),
    later("hami", SWITCHED),
    later(
        "ingressNginx",
        Kind::Object(&[
            later("enabled", Kind::Bool),
            later("exposeMethod", Kind::OneOf(&["Proxied", "LoadBalancer"])),
            later("hosts", Kind::Strings),
            later("valuesOverride", Kind::Open),
        ]),
    ),
    later("monitoringAgents", SWITCHED),
    later("ouroboros", SWITCHED),
    later("velero", SWITCHED),
    later("verticalPodAutoscaler", VALUES),
];

const OIDC: &[Field] = &[
    later(
        "customConfig",
        Kind::Object(&[
            later("config", Kind::Str),
            later("secretRef", Kind::Object(&[later("name", Kind::Str)])),
        ]),
    ),
    later("mode", Kind::OneOf(&["None", "System", "CustomConfig"])),
    later(
        "users",
        Kind::List(&[
            later("email", Kind::Str),
            later("role", Kind::OneOf(&["admin", "view"])),
        ]),
    ),
];

/// Names of presets; the families `t1`, `c1`, `s1`, `u1`, `m1` have them too, and `4xlarge`.
const PRESETS: &[&str] = &["nano", "micro", "small", "medium", "large", "xlarge", "2xlarge"];
const PRESET_FAMILIES: &[&str] = &["t1", "c1", "s1", "u1", "m1"];

/// Checks that `value` is an object with these fields and no others.
pub(super) fn check(path: &str, value: &Value, fields: &'static [Field], report: &mut Report) {
    let Some(object) = value.as_object() else {
        report.problem(path, format!("must be an object, found {}", describe(value)));
        return;
    };
    for (key, value) in object {
        let path = format!("{path}.{key}");
        match fields.iter().find(|f| f.name == key) {
            None => report.problem(&path, "unknown field"),
            // As kubectl does: a null is a field that was not given.
            Some(_) if value.is_null() => {}
            Some(field) => check_field(&path, value, field, report),
        }
    }
}

fn check_field(path: &str, value: &Value, field: &'static Field, report: &mut Report) {
    let before = report.problems.len();
    check_kind(path, value, &field.kind, report);
    let is_branch = matches!(field.kind, Kind::Object(_) | Kind::Map(_) | Kind::List(_));
    if !field.acted_on && !is_branch && report.problems.len() == before {
        report.not_acted_on.push(path.into());
    }
}

fn check_kind(path: &str, value: &Value, kind: &'static Kind, report: &mut Report) {
    let mut expected =
        |what: &str| report.problem(path, format!("must be {what}, found {}", describe(value)));
    match kind {
        Kind::Bool => {
            // YAML 1.1, which kubectl reads, has these words for booleans too.
            let word = matches!(value.as_str(), Some("yes" | "no" | "on" | "off"));
            if !value.is_boolean() && !word {
                expected("true or false");
            }
        }
        Kind::Int if !value.is_i64() => expected("an integer"),
        Kind::Str if !value.is_string() => expected("a string"),
        Kind::Quantity if !is_quantity(value) => expected("a quantity such as 2 or 4Gi"),
        Kind::Disk => {
            let size = value.get("size").unwrap_or(value);
            let only_size = value.as_object().is_none_or(|o| o.len() == 1);
            if !is_quantity(size) || !only_size {
                expected("a quantity, or an object with the quantity size");
            }
        }
        Kind::OneOf(words) if !value.as_str().is_some_and(|v| words.contains(&v)) => {
            expected(&format!("one of {}", words.join(", ")));
        }
        Kind::Preset if !value.as_str().is_some_and(is_preset) => {
            expected("a preset such as micro, t1.micro or c1.medium");
        }
        Kind::Strings if !value.as_array().is_some_and(|l| l.iter().all(Value::is_string)) => {
            expected("a list of strings");
        }
        Kind::Open if !value.is_object() => expected("an object"),
        Kind::OpenList if !value.is_array() => expected("a list"),
        Kind::Object(fields) => check(path, value, fields, report),
        Kind::Map(fields) => match value.as_object() {
            None => expected("an object"),
            Some(map) => {
                for (key, value) in map {
                    check(&format!("{path}.{key}"), value, fields, report);
                }
            }
        },
        Kind::List(fields) => match value.as_array() {
            None => expected("a list"),
            Some(list) => {
                for (i, value) in list.iter().enumerate() {
                    check(&format!("{path}[{i}]"), value, fields, report);
                }
            }
        },
        _ => {}
    }
}

fn is_quantity(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty() || parse_quantity(text).is_some(),
        Value::Number(number) => parse_quantity(&number.to_string()).is_some(),
        _ => false,
    }
}

fn is_preset(name: &str) -> bool {
    match name.split_once('.') {
        None => PRESETS.contains(&name),
        Some((family, size)) => {
            PRESET_FAMILIES.contains(&family) && (PRESETS.contains(&size) || size == "4xlarge")
        }
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => format!("{s:?}"),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}
