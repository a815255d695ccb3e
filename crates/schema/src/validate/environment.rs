//! Environment variables of containers.

use serde_json::Value;

use super::cause::Causes;
use super::{resources, volume};
use crate::names;
use crate::value::ValueExt as _;

/// Fields of the pod that a variable can take.
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

/// Resources of the container that a variable or a file can take.
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// `env` and `envFrom` of a container.
pub(super) fn environment(c: &mut Causes, container: &Value) {
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
            match source.as_object().map_or(0, serde_json::Map::len) {
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
    c.field(source, "fieldRef", |c, field| field_ref(c, field, FIELDS));
    c.field(source, "resourceFieldRef", |c, reference| {
        resource_ref(c, reference, false)
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
    c.field(source, "fileKeyRef", |c, reference| {
        c.text_required(reference, "key");
        c.name_rule(reference, "key", names::env_var_name);
        c.text_required(reference, "volumeName");
        volume::local_path(c, reference);
    });
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

/// A reference to a container's resources; files name the container, variables mean their own.
pub(super) fn resource_ref(c: &mut Causes, reference: &Value, names_container: bool) {
    if names_container {
        c.text_required(reference, "containerName");
    }
    let resource = reference.text(&["resource"]);
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if resource.is_empty() {
        c.at("resource", |c| c.required(""));
        return;
    }
    if !huge && !RESOURCES.contains(&resource) {
        c.at("resource", |c| c.not_supported(resource, RESOURCES));
        return;
    }
    let divisor = reference.text(&["divisor"]);
    if divisor.is_empty() || resources::quantity(&divisor.into()).is_zero() {
        return;
    }
    const SIZES: &[&str] = &[
        "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
    ];
    let (allowed, what): (&[&str], &str) = match resource.split_once('.').map_or("", |(_, name)| name) {
        "cpu" => (&["1m", "1"], "cpu"),
        "memory" => (SIZES, "memory"),
        "ephemeral-storage" => (SIZES, "local ephemeral storage"),
        _ => (SIZES, "hugepages"),
    };
    let amount = resources::quantity(&divisor.into());
    if !allowed
        .iter()
        .any(|a| resources::quantity(&(*a).into()) == amount)
    {
        let list = match what {
            "cpu" => "1m and 1".to_owned(),
            _ => SIZES.join(", "),
        };
        c.at("divisor", |c| {
            c.invalid(
                amount.to_string(),
                &format!("only divisor's values {list} are supported with the {what} resource"),
            );
        });
    }
}
