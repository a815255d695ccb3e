//! Node groups of the manifest.

use super::{Report, instance, parse_quantity};
use serde_json::Value;

/// A group of equal workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeGroup {
    /// Its name; nodes are called `<name>-<n>`.
    pub name: String,
    /// Nodes that are always there.
    pub min: u32,
    /// Nodes that an autoscaler may go up to.
    pub max: u32,
    /// Size of each node.
    pub size: Size,
    /// Roles, shown by kubectl.
    pub roles: Vec<String>,
}

/// The size of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    /// Name of the instance type; empty when `resources` were given.
    pub instance_type: String,
    /// Thousandths of a CPU.
    pub cpu_millis: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of the system disk.
    pub disk_bytes: u64,
}

/// Longest name of a group: node names become part of socket paths, which Linux limits to 107 bytes.
const MAX_NAME_CHARS: usize = 24;
const DEFAULT_MAX: i64 = 10;
const DEFAULT_INSTANCE_TYPE: &str = "u1.medium";
const DEFAULT_DISK: &str = "20Gi";
/// A node smaller than this cannot run the kubelet and containerd beside a pod.
const MIN_MEMORY_BYTES: u64 = 256 << 20;
const MIN_CPU_MILLIS: u64 = 100;
/// The largest number of nodes of one group: what the address plan holds.
const MAX_NODES: i64 = 180;

/// The groups of `spec.nodeGroups`. Without any, the one that the public schema promises: `md0` with no node.
pub(super) fn extract(groups: Option<&Value>, report: &mut Report) -> Vec<NodeGroup> {
    let empty = serde_json::Map::new();
    let groups = groups.and_then(Value::as_object).unwrap_or(&empty);
    if groups.is_empty() {
        let group = Value::Object(Default::default());
        let mut group = one("md0", &group, report);
        group.roles = vec!["ingress-nginx".into()];
        return vec![group];
    }
    let groups: Vec<_> = groups
        .iter()
        .map(|(name, value)| one(name, value, report))
        .collect();
    let total: u32 = groups.iter().map(|g| g.min).sum();
    if i64::from(total) > MAX_NODES {
        report.problem(
            "spec.nodeGroups",
            format!("{total} nodes, at most {MAX_NODES} fit the addresses of a cluster"),
        );
    }
    groups
}

fn one(name: &str, value: &Value, report: &mut Report) -> NodeGroup {
    let path = format!("spec.nodeGroups.{name}");
    check_name(name, &path, report);
    let count = |key: &str, default: i64| value.get(key).and_then(Value::as_i64).unwrap_or(default);
    let (min, max) = (count("minReplicas", 0), count("maxReplicas", DEFAULT_MAX));
    let mut bounded = |key: &str, found: i64, limit: i64| {
        if found < 0 {
            report.problem(
                &format!("{path}.{key}"),
                format!("must not be negative, found {found}"),
            );
        } else if found > limit {
            report.problem(
                &format!("{path}.{key}"),
                format!("must be at most {limit}, found {found}"),
            );
        }
    };
    bounded("minReplicas", min, MAX_NODES);
    bounded("maxReplicas", max, i64::from(u32::MAX));
    if min > max && max >= 0 {
        report.problem(
            &format!("{path}.minReplicas"),
            format!("{min} is above maxReplicas {max}"),
        );
    }
    let roles = value.get("roles").and_then(Value::as_array);
    let roles: Vec<String> = roles
        .map(|roles| {
            roles
                .iter()
                .filter_map(|r| r.as_str().map(str::to_owned))
                .collect()
        })
        .unwrap_or_default();
    for (i, role) in roles.iter().enumerate() {
        if !is_label(role, 63) {
            report.problem(
                &format!("{path}.roles[{i}]"),
                format!("{role:?} is not a DNS label"),
            );
        }
    }
    NodeGroup {
        name: name.into(),
        min: u32::try_from(min).unwrap_or(0),
        max: u32::try_from(max).unwrap_or(0),
        size: size(value, &path, report),
        roles,
    }
}

fn check_name(name: &str, path: &str, report: &mut Report) {
    if !is_label(name, MAX_NAME_CHARS) {
        report.problem(
            path,
            format!("the name must be a DNS label of at most {MAX_NAME_CHARS} characters"),
        );
    }
}

/// Whether `text` is a DNS label (RFC 1123) of at most `max` characters.
pub(crate) fn is_label(text: &str, max: usize) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty()
        && text.len() <= max
        && text.chars().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn size(value: &Value, path: &str, report: &mut Report) -> Size {
    let disk = disk(value, path, report);
    let resources = |key: &str| {
        let found = value.get("resources")?.get(key)?;
        text_of(found).filter(|text| !text.is_empty())
    };
    match (resources("cpu"), resources("memory")) {
        (Some(cpu), Some(memory)) => {
            let cpu_millis = positive(&cpu, &format!("{path}.resources.cpu"), report);
            let memory_bytes = positive(&memory, &format!("{path}.resources.memory"), report).div_ceil(1000);
            if cpu_millis > 0 && cpu_millis < MIN_CPU_MILLIS {
                report.problem(&format!("{path}.resources.cpu"), "a node needs at least 100m");
            }
            if memory_bytes > 0 && memory_bytes < MIN_MEMORY_BYTES {
                report.problem(&format!("{path}.resources.memory"), "a node needs at least 256Mi");
            }
            return Size {
                instance_type: String::new(),
                cpu_millis,
                memory_bytes,
                disk_bytes: disk,
            };
        }
        (None, None) => {}
        _ => report.problem(
            &format!("{path}.resources"),
            "cpu and memory must be set together or not at all",
        ),
    }
    let wanted = value
        .get("instanceType")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let wanted = if wanted.is_empty() {
        DEFAULT_INSTANCE_TYPE
    } else {
        wanted
    };
    let (cpus, memory_gib) = match instance::find(wanted) {
        Some(found) => (found.cpus, found.memory_gib),
        None => {
            report.problem(
                &format!("{path}.instanceType"),
                format!("unknown instance type {wanted:?}; known: {}", instance::names()),
            );
            (0, 0)
        }
    };
    Size {
        instance_type: wanted.into(),
        cpu_millis: u64::from(cpus) * 1000,
        memory_bytes: u64::from(memory_gib) << 30,
        disk_bytes: disk,
    }
}

/// `diskSize`, or its older name `ephemeralStorage`, which was a quantity or an object with `size`.
fn disk(value: &Value, path: &str, report: &mut Report) -> u64 {
    let old = value.get("ephemeralStorage").map(|v| v.get("size").unwrap_or(v));
    let (key, found) = match (value.get("diskSize"), old) {
        (Some(found), _) => ("diskSize", Some(found)),
        (None, Some(found)) => ("ephemeralStorage", Some(found)),
        (None, None) => ("diskSize", None),
    };
    let text = found
        .and_then(text_of)
        .filter(|t| !t.is_empty())
        .unwrap_or(DEFAULT_DISK.into());
    positive(&text, &format!("{path}.{key}"), report).div_ceil(1000)
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A positive quantity in thousandths; 0 after reporting a problem.
fn positive(text: &str, path: &str, report: &mut Report) -> u64 {
    match parse_quantity(text) {
        Some(value) if value > 0 => match u64::try_from(value) {
            Ok(value) => return value,
            Err(_) => report.problem(path, format!("{text} is too large")),
        },
        Some(_) => report.problem(path, format!("must be above zero, found {text}")),
        None => report.problem(path, format!("{text:?} is not a quantity")),
    }
    0
}
