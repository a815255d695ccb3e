//! The declared cluster: `apiVersion: apps.cozystack.io/v1alpha1, kind: Kubernetes`. A manifest is checked whole
//! before anything is done with it, and every error names its path, so that a bad manifest changes nothing.

mod fields;
mod group;
mod instance;
mod quantity;
#[cfg(test)]
mod tests;

pub(crate) use group::is_label;
pub use group::{NodeGroup, Size};
pub use instance::{INSTANCE_TYPES, InstanceType};
pub use quantity::parse as parse_quantity;

use serde_json::Value;
use std::fmt;

/// The manifest that `hikube up` uses when it is given none.
pub const DEFAULT: &str = include_str!("default.yaml");
/// The manifest for a cluster that is given none: [`DEFAULT`], with the one control plane that the embedded datastore
/// can serve.
pub fn default_for(datastore: crate::plan::Datastore) -> String {
    match datastore {
        crate::plan::Datastore::Etcd => DEFAULT.to_owned(),
        crate::plan::Datastore::Embedded => DEFAULT.replace("replicas: 2", "replicas: 1"),
    }
}

/// The Kubernetes version that runs, whichever accepted version the manifest asks for.
pub const RUNNING_VERSION: &str = "v1.36";
/// Most control planes: three in each region.
const MAX_CONTROL_PLANES: i64 = 9;

/// What a manifest asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Number of control planes.
    pub control_planes: u32,
    /// Worker groups, by name.
    pub groups: Vec<NodeGroup>,
    /// The default StorageClass: `replicated` or `local`.
    pub storage_class: String,
    /// The version asked for.
    pub version: String,
    /// Paths that are given and do not take effect yet.
    pub not_acted_on: Vec<String>,
}

/// One thing that is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, for example `spec.nodeGroups.general.minReplicas`.
    pub path: String,
    /// What is wrong there.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line each, whatever a value in the manifest contains.
        write!(
            f,
            "{}: {}",
            self.path.escape_debug(),
            self.reason.replace('\n', " ")
        )
    }
}

/// Collects problems under a path.
#[derive(Default)]
struct Report {
    problems: Vec<Problem>,
    not_acted_on: Vec<String>,
}

impl Report {
    fn problem(&mut self, path: &str, reason: impl Into<String>) {
        self.problems.push(Problem {
            path: path.into(),
            reason: reason.into(),
        });
    }
}

/// Reads a manifest, or says everything that is wrong with it.
pub fn parse(text: &str) -> Result<Manifest, Vec<Problem>> {
    let mut report = Report::default();
    let Some(root) = load(text, &mut report) else {
        return Err(report.problems);
    };
    check_head(&root, &mut report);
    let empty = Value::Object(Default::default());
    let spec = match root.get("spec") {
        None | Some(Value::Null) => &empty,
        Some(spec) => spec,
    };
    fields::check("spec", spec, fields::SPEC, &mut report);
    if !report.problems.is_empty() {
        return Err(report.problems);
    }
    let manifest = extract(spec, &mut report);
    if report.problems.is_empty() {
        Ok(manifest)
    } else {
        Err(report.problems)
    }
}

/// The YAML documents of `text` as one JSON value.
fn load(text: &str, report: &mut Report) -> Option<Value> {
    use serde::Deserialize;
    let mut documents = Vec::new();
    for document in yaml_serde::Deserializer::from_str(text) {
        match yaml_serde::Value::deserialize(document) {
            Ok(yaml_serde::Value::Null) => {}
            Ok(value) => documents.push(value),
            Err(error) => {
                report.problem("manifest", format!("not YAML: {error}"));
                return None;
            }
        }
    }
    let value = match documents.len() {
        1 => documents.remove(0),
        0 => {
            report.problem("manifest", "is empty");
            return None;
        }
        n => {
            report.problem("manifest", format!("holds {n} documents, expected one"));
            return None;
        }
    };
    if !matches!(value, yaml_serde::Value::Mapping(_)) {
        report.problem(
            "manifest",
            "not YAML of an object: expected apiVersion, kind and spec",
        );
        return None;
    }
    match serde_json::to_value(&value) {
        Ok(value) => Some(value),
        Err(error) => {
            report.problem("manifest", format!("cannot be read as an object: {error}"));
            None
        }
    }
}

fn check_head(root: &Value, report: &mut Report) {
    for (key, expected) in [
        ("apiVersion", "apps.cozystack.io/v1alpha1"),
        ("kind", "Kubernetes"),
    ] {
        match root.get(key) {
            Some(Value::String(found)) if found == expected => {}
            Some(found) => report.problem(key, format!("must be {expected}, found {found}")),
            None => report.problem(key, format!("is missing, must be {expected}")),
        }
    }
    let Some(object) = root.as_object() else { return };
    for (key, value) in object {
        match key.as_str() {
            "apiVersion" | "kind" | "spec" => {}
            // Written by servers; what a manifest says there has no meaning for us.
            "status" => report.not_acted_on.push("status".into()),
            "metadata" => fields::check("metadata", value, fields::METADATA, report),
            _ => report.problem(key, "unknown field"),
        }
    }
}

fn extract(spec: &Value, report: &mut Report) -> Manifest {
    let control_planes = spec
        .pointer("/controlPlane/replicas")
        .and_then(Value::as_i64)
        .unwrap_or(2);
    if !(1..=MAX_CONTROL_PLANES).contains(&control_planes) {
        report.problem(
            "spec.controlPlane.replicas",
            format!("must be between 1 and {MAX_CONTROL_PLANES}, found {control_planes}"),
        );
    }
    let text = |key: &str, default: &str| {
        let found = spec.get(key).and_then(Value::as_str).unwrap_or_default();
        if found.is_empty() {
            default.to_owned()
        } else {
            found.to_owned()
        }
    };
    let storage_class = text("storageClass", "replicated");
    if !["replicated", "local"].contains(&storage_class.as_str()) {
        report.problem(
            "spec.storageClass",
            format!("unknown class {storage_class:?}; known: replicated, local"),
        );
    }
    let groups = group::extract(spec.get("nodeGroups"), report);
    Manifest {
        control_planes: u32::try_from(control_planes).unwrap_or(2),
        groups,
        storage_class,
        version: text("version", RUNNING_VERSION),
        not_acted_on: std::mem::take(&mut report.not_acted_on),
    }
}
