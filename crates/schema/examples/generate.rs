//! Derives `crates/schema/src/facts.txt` from a published Kubernetes API description.
//!
//! Input: the OpenAPI v2 document (`swagger.json`) and the aggregated discovery document of `/apis`
//! (`discovery-aggregated_v2.json`) of one Kubernetes release. Output: names, types and merge rules only,
//! one line per fact, so that a new release is reviewed as a diff. The format is explained in `src/facts.rs`.
//!
//! `cargo run -p hikube-schema --example generate -- swagger.json discovery-aggregated_v2.json > facts.txt`
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io::Write as _;

use serde_json::Value;

const REF_PREFIX: &str = "#/definitions/";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// Types that no resource refers to but that requests and replies carry.
const ENVELOPES: &[&str] = &[
    "APIGroup",
    "APIGroupList",
    "APIResourceList",
    "APIVersions",
    "DeleteOptions",
    "LabelSelector",
    "Patch",
    "Status",
    "WatchEvent",
];

/// Short names and singular names of the core group, which the discovery of `/apis` does not cover.
const CORE_SHORT_NAMES: &[(&str, &str)] = &[
    ("componentstatuses", "cs"),
    ("configmaps", "cm"),
    ("endpoints", "ep"),
    ("events", "ev"),
    ("limitranges", "limits"),
    ("namespaces", "ns"),
    ("nodes", "no"),
    ("persistentvolumeclaims", "pvc"),
    ("persistentvolumes", "pv"),
    ("pods", "po"),
    ("replicationcontrollers", "rc"),
    ("resourcequotas", "quota"),
    ("serviceaccounts", "sa"),
    ("services", "svc"),
];

/// Core resources in the category `all`.
const CORE_IN_ALL: &[&str] = &["pods", "replicationcontrollers", "services"];

/// One line `res` or `sub`.
#[derive(Default)]
struct ResourceFact {
    group: String,
    version: String,
    plural: String,
    kind: String,
    singular: String,
    namespaced: bool,
    verbs: BTreeSet<String>,
    short: Vec<String>,
    categories: Vec<String>,
    subresources: Vec<SubresourceFact>,
}

/// One subresource; `gvk` is set where its kind is of another group.
#[derive(Default)]
struct SubresourceFact {
    name: String,
    kind: String,
    group_version: Option<(String, String)>,
    verbs: BTreeSet<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [swagger, discovery] = args.as_slice() else {
        return Err("usage: generate swagger.json discovery-aggregated_v2.json".into());
    };
    let swagger: Value = serde_json::from_slice(&std::fs::read(swagger)?)?;
    let discovery: Value = serde_json::from_slice(&std::fs::read(discovery)?)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "facts 1")?;
    let mut resources = core_resources(&swagger);
    resources.extend(discovered_resources(&discovery));
    for resource in &resources {
        write_resource(&mut out, resource)?;
    }
    for (name, definition) in reachable(&swagger, &resources) {
        write_type(&mut out, name, definition)?;
    }
    Ok(())
}

/// An API version is part of the product when it is stable.
fn is_stable(version: &str) -> bool {
    matches!(version, "v1" | "v2")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn strings(value: &Value) -> Vec<String> {
    value
        .as_array()
        .map(|a| a.iter().map(text).collect())
        .unwrap_or_default()
}

fn verb_of_action(action: &str, method: &str) -> Option<&'static str> {
    Some(match (action, method) {
        ("post", _) | ("connect", "post") => "create",
        ("put", _) | ("connect", "put") => "update",
        ("patch", _) | ("connect", "patch") => "patch",
        ("delete", _) | ("connect", "delete") => "delete",
        ("get", _) | ("connect", "get") => "get",
        ("list", _) => "list",
        ("deletecollection", _) => "deletecollection",
        ("watch" | "watchlist", _) => "watch",
        _ => return None,
    })
}

/// Reads the core group off the paths of the OpenAPI document.
fn core_resources(swagger: &Value) -> Vec<ResourceFact> {
    let mut found: BTreeMap<String, ResourceFact> = BTreeMap::new();
    let mut subs: BTreeMap<(String, String), SubresourceFact> = BTreeMap::new();
    let Some(paths) = swagger["paths"].as_object() else {
        return Vec::new();
    };
    for (path, item) in paths {
        let Some(rest) = path.strip_prefix("/api/v1/") else {
            continue;
        };
        let rest = rest.strip_prefix("watch/").unwrap_or(rest);
        let (namespaced, rest) = match rest.strip_prefix("namespaces/{namespace}/") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let segments: Vec<&str> = rest.split('/').collect();
        let (plural, sub) = match segments.as_slice() {
            [plural] | [plural, "{name}"] if !plural.is_empty() => (*plural, None),
            [plural, "{name}", sub] => (*plural, Some(*sub)),
            _ => continue,
        };
        let Some(operations) = item.as_object() else {
            continue;
        };
        for (method, operation) in operations {
            let gvk = &operation["x-kubernetes-group-version-kind"];
            let Some(action) = operation["x-kubernetes-action"].as_str() else {
                continue;
            };
            let Some(verb) = verb_of_action(action, method) else {
                continue;
            };
            if let Some(sub) = sub {
                let fact = subs.entry((plural.to_owned(), sub.to_owned())).or_default();
                fact.name = sub.to_owned();
                fact.kind = text(&gvk["kind"]);
                let group = text(&gvk["group"]);
                fact.group_version = (!group.is_empty()).then(|| (group, text(&gvk["version"])));
                fact.verbs.insert(verb.to_owned());
            } else {
                let fact = found.entry(plural.to_owned()).or_default();
                fact.version = "v1".to_owned();
                fact.plural = plural.to_owned();
                fact.kind = text(&gvk["kind"]);
                fact.singular = fact.kind.to_lowercase();
                fact.namespaced |= namespaced;
                fact.verbs.insert(verb.to_owned());
            }
        }
    }
    // Every write can be watched; the watch paths of the document are the deprecated ones.
    for ((plural, _), sub) in subs {
        if let Some(resource) = found.get_mut(&plural) {
            resource.subresources.push(sub);
        }
    }
    for resource in found.values_mut() {
        resource.short = CORE_SHORT_NAMES
            .iter()
            .filter(|(plural, _)| *plural == resource.plural)
            .map(|(_, short)| (*short).to_owned())
            .collect();
        if CORE_IN_ALL.contains(&resource.plural.as_str()) {
            resource.categories.push("all".to_owned());
        }
    }
    found.into_values().collect()
}

/// Reads the other groups off aggregated discovery, in its order (which is the order of preference).
fn discovered_resources(discovery: &Value) -> Vec<ResourceFact> {
    let mut found = Vec::new();
    for group in discovery["items"].as_array().into_iter().flatten() {
        for version in group["versions"].as_array().into_iter().flatten() {
            let version_name = text(&version["version"]);
            if !is_stable(&version_name) {
                continue;
            }
            for resource in version["resources"].as_array().into_iter().flatten() {
                found.push(ResourceFact {
                    group: text(&group["metadata"]["name"]),
                    version: version_name.clone(),
                    plural: text(&resource["resource"]),
                    kind: text(&resource["responseKind"]["kind"]),
                    singular: text(&resource["singularResource"]),
                    namespaced: resource["scope"] == "Namespaced",
                    verbs: strings(&resource["verbs"]).into_iter().collect(),
                    short: strings(&resource["shortNames"]),
                    categories: strings(&resource["categories"]),
                    subresources: resource["subresources"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .map(discovered_subresource)
                        .collect(),
                });
            }
        }
    }
    found
}

fn discovered_subresource(sub: &Value) -> SubresourceFact {
    let kind = &sub["responseKind"];
    let version = text(&kind["version"]);
    SubresourceFact {
        name: text(&sub["subresource"]),
        kind: text(&kind["kind"]),
        group_version: (!version.is_empty()).then(|| (text(&kind["group"]), version)),
        verbs: strings(&sub["verbs"]).into_iter().collect(),
    }
}

/// The definitions that the resources and the envelopes need, by name.
fn reachable<'a>(swagger: &'a Value, resources: &[ResourceFact]) -> BTreeMap<&'a str, &'a Value> {
    let mut wanted: BTreeSet<(String, String, String)> = BTreeSet::new();
    for r in resources {
        for kind in [r.kind.clone(), format!("{}List", r.kind)] {
            wanted.insert((r.group.clone(), r.version.clone(), kind));
        }
        for sub in &r.subresources {
            let (group, version) = sub
                .group_version
                .clone()
                .unwrap_or_else(|| (r.group.clone(), r.version.clone()));
            wanted.insert((group, version, sub.kind.clone()));
        }
    }
    let mut found = BTreeMap::new();
    let Some(definitions) = swagger["definitions"].as_object() else {
        return found;
    };
    let mut queue: Vec<&str> = Vec::new();
    for (name, definition) in definitions {
        let envelope = name
            .strip_prefix(META)
            .is_some_and(|short| ENVELOPES.contains(&short));
        let resource = definition["x-kubernetes-group-version-kind"]
            .as_array()
            .is_some_and(|gvks| {
                gvks.iter()
                    .any(|g| wanted.contains(&(text(&g["group"]), text(&g["version"]), text(&g["kind"]))))
            });
        if envelope || resource || name == "io.k8s.apimachinery.pkg.version.Info" {
            queue.push(name);
        }
    }
    while let Some(name) = queue.pop() {
        let Some((name, definition)) = definitions.get_key_value(name) else {
            continue;
        };
        if found.insert(name.as_str(), definition).is_some() {
            continue;
        }
        for property in definition["properties"]
            .as_object()
            .into_iter()
            .flat_map(|p| p.values())
        {
            for schema in [property, &property["items"], &property["additionalProperties"]] {
                if let Some(reference) = schema["$ref"].as_str() {
                    queue.push(reference.trim_start_matches(REF_PREFIX));
                }
            }
        }
    }
    found
}

fn write_resource(out: &mut impl std::io::Write, r: &ResourceFact) -> std::io::Result<()> {
    let join = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(",");
    let group = if r.group.is_empty() { "core" } else { &r.group };
    let scope = if r.namespaced { "Namespaced" } else { "Cluster" };
    write!(
        out,
        "res {group} {} {} {} {} {scope} {}",
        r.version,
        r.plural,
        r.kind,
        r.singular,
        join(&r.verbs)
    )?;
    if !r.short.is_empty() {
        write!(out, " short={}", r.short.join(","))?;
    }
    if !r.categories.is_empty() {
        write!(out, " categories={}", r.categories.join(","))?;
    }
    writeln!(out)?;
    for sub in &r.subresources {
        write!(out, " sub {} {} {}", sub.name, sub.kind, join(&sub.verbs))?;
        if let Some((group, version)) = &sub.group_version {
            write!(out, " {group}/{version}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// The short form of a schema: `string`, `int32`, `date-time`, `[]T`, `{}T`, `@definition`.
fn type_expression(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        return format!("@{}", reference.trim_start_matches(REF_PREFIX));
    }
    let format = schema["format"].as_str();
    match schema["type"].as_str() {
        Some("array") => format!("[]{}", type_expression(&schema["items"])),
        Some("object") => match schema.get("additionalProperties") {
            Some(values) => format!("{{}}{}", type_expression(values)),
            None => "object".to_owned(),
        },
        Some(other) => format.unwrap_or(other).to_owned(),
        None => "any".to_owned(),
    }
}

fn write_type(out: &mut impl std::io::Write, name: &str, definition: &Value) -> std::io::Result<()> {
    write!(out, "type {name}")?;
    let properties = definition["properties"].as_object();
    if properties.is_none() {
        write!(out, " as={}", type_expression(definition))?;
    }
    if let Some(map_type) = definition["x-kubernetes-map-type"].as_str() {
        write!(out, " map={map_type}")?;
    }
    let gvks = definition["x-kubernetes-group-version-kind"].as_array();
    for gvk in gvks.into_iter().flatten() {
        if is_stable(&text(&gvk["version"])) {
            write!(
                out,
                " gvk={}/{}/{}",
                text(&gvk["group"]),
                text(&gvk["version"]),
                text(&gvk["kind"])
            )?;
        }
    }
    writeln!(out)?;
    let required = strings(&definition["required"]);
    for (field, schema) in properties.into_iter().flatten() {
        let mark = if required.contains(field) { "!" } else { "" };
        write!(out, " {field}{mark} {}", type_expression(schema))?;
        if let Some(kind) = schema["x-kubernetes-list-type"].as_str() {
            write!(out, " list={kind}")?;
        }
        if schema["x-kubernetes-list-map-keys"].is_array() {
            write!(
                out,
                " keys={}",
                strings(&schema["x-kubernetes-list-map-keys"]).join(",")
            )?;
        }
        if let Some(kind) = schema["x-kubernetes-map-type"].as_str() {
            write!(out, " map={kind}")?;
        }
        if let Some(strategy) = schema["x-kubernetes-patch-strategy"].as_str() {
            write!(out, " patch={strategy}")?;
        }
        if let Some(key) = schema["x-kubernetes-patch-merge-key"].as_str() {
            write!(out, " mergekey={key}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}
