//! Custom resources in the OpenAPI documents.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Describe, Flavour, closure_of, descriptions, operations, render, types, write_map};
use crate::KUBERNETES_VERSION;
use crate::facts::facts;
use crate::registry::Resource;
use crate::structural::object_meta;

/// A version of a custom resource with its schema as its definition has it.
pub struct Published<'a> {
    /// The resource.
    pub resource: &'a Resource,
    /// Its `openAPIV3Schema`, or null.
    pub schema: Value,
}

/// Parts of a document by name.
type Named = Vec<(String, Value)>;

/// Paths and definitions of custom resources, to be added to version 2.
pub(super) fn v2_parts(published: &[Published<'_>]) -> (Named, Named) {
    parts(published, Flavour::V2)
}

/// `/openapi/v3/apis/{group}/{version}` of a group of custom resources.
pub fn v3_custom(published: &[Published<'_>], describe: Describe<'_>) -> Vec<u8> {
    let (paths, definitions) = parts(published, Flavour::V3);
    let mut schemas: BTreeMap<String, Value> = definitions.into_iter().collect();
    let meta = |name: &str| facts().find(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}"));
    let roots = ["ListMeta", "Patch", "DeleteOptions", "Status"]
        .into_iter()
        .filter_map(meta);
    for id in closure_of(roots.chain([object_meta()]).collect()) {
        schemas.insert(
            facts().get(id).name.to_owned(),
            types::definition(id, Flavour::V3, describe),
        );
    }
    let mut out = Vec::with_capacity(64 << 10);
    out.extend_from_slice(br#"{"openapi":"3.0.0","info":"#);
    let info = json!({"title": "Kubernetes CRD Swagger", "version": KUBERNETES_VERSION});
    out.extend(info.to_string().bytes());
    out.extend_from_slice(br#","paths":"#);
    write_map(&mut out, paths.into_iter());
    out.extend_from_slice(br#","components":{"schemas":"#);
    write_map(&mut out, schemas.into_iter());
    out.extend_from_slice(b"}}");
    out
}

fn parts(published: &[Published<'_>], flavour: Flavour) -> (Named, Named) {
    let (mut paths, mut definitions) = (Vec::new(), Vec::new());
    for one in published {
        let name = definition_name(one.resource);
        paths.extend(paths_of(one.resource, &name, flavour));
        definitions.push((name.clone(), definition(one, flavour)));
        definitions.push((
            format!("{name}List"),
            list_definition(one.resource, &name, flavour),
        ));
    }
    (paths, definitions)
}

/// `com.example.stable.v1.CronTab` of the kind `CronTab` in `stable.example.com/v1`.
fn definition_name(resource: &Resource) -> String {
    let mut parts: Vec<&str> = resource.group.split('.').rev().collect();
    parts.extend([resource.version.as_ref(), resource.kind.as_ref()]);
    parts.join(".")
}

/// What is known of `apiVersion` and `kind` of every object.
fn type_meta(properties: &mut Map<String, Value>) {
    properties.insert(
        "apiVersion".to_owned(),
        json!({"type": "string", "description": descriptions::API_VERSION}),
    );
    properties.insert(
        "kind".to_owned(),
        json!({"type": "string", "description": descriptions::KIND}),
    );
}

fn definition(published: &Published<'_>, flavour: Flavour) -> Value {
    let r = published.resource;
    let mut schema = match &published.schema {
        Value::Object(_) => published.schema.clone(),
        _ => json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
    };
    let free = schema["x-kubernetes-preserve-unknown-fields"] == true;
    if flavour == Flavour::V2 {
        // What may hold anything is published as nothing but an object in version 2, so that clients do not refuse it.
        if free {
            schema = json!({});
        }
        simplify(&mut schema);
    }
    if let Some(o) = schema.as_object_mut() {
        o.insert("type".to_owned(), "object".into());
        if !(free && flavour == Flavour::V2) {
            let properties = o.entry("properties").or_insert_with(|| Value::Object(Map::new()));
            if let Some(properties) = properties.as_object_mut() {
                type_meta(properties);
                let reference = json!({"$ref": flavour.reference(facts().get(object_meta()).name)});
                let mut metadata = match flavour {
                    Flavour::V2 => reference,
                    Flavour::V3 => json!({"allOf": [reference], "default": {}}),
                };
                metadata["description"] = descriptions::METADATA.into();
                properties.insert("metadata".to_owned(), metadata);
            }
        }
        o.insert(
            "x-kubernetes-group-version-kind".to_owned(),
            json!([{"group": r.group, "version": r.version, "kind": r.kind}]),
        );
    }
    schema
}

/// Takes away what version 2 cannot say, and what kubectl misreads in it: a field that may hold anything has no type
/// there, nor has a list of which the items are not known, and a field that may be null is not required.
fn simplify(schema: &mut Value) {
    let Some(o) = schema.as_object_mut() else { return };
    for name in ["allOf", "anyOf", "oneOf", "not", "default"] {
        o.shift_remove(name);
    }
    let nullable = o.shift_remove("nullable") == Some(Value::Bool(true));
    let free = o.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    if nullable || free {
        o.shift_remove("items");
        o.shift_remove("properties");
        o.shift_remove("additionalProperties");
    }
    let list_of_anything = o.get("type") == Some(&"array".into()) && o.get("items").is_none();
    let free_object = free && o.get("type") == Some(&"object".into());
    if nullable || list_of_anything || free_object {
        o.shift_remove("type");
    }
    let null_allowed = |name: &Value| {
        let name = name.as_str().unwrap_or_default();
        let field = o.get("properties").and_then(|p| p.get(name));
        field.is_some_and(|f| f["nullable"] == true)
    };
    let required = o.get("required").and_then(Value::as_array);
    let required: Option<Vec<Value>> =
        required.map(|names| names.iter().filter(|n| !null_allowed(n)).cloned().collect());
    match required {
        Some(names) if names.is_empty() => {
            o.shift_remove("required");
        }
        Some(names) => {
            o.insert("required".to_owned(), names.into());
        }
        None => {}
    }
    for name in ["items", "additionalProperties"] {
        if let Some(below) = o.get_mut(name) {
            simplify(below);
        }
    }
    let fields = o.get_mut("properties").and_then(Value::as_object_mut);
    fields
        .into_iter()
        .flat_map(|fields| fields.iter_mut())
        .for_each(|(_, field)| simplify(field));
}

fn list_definition(r: &Resource, name: &str, flavour: Flavour) -> Value {
    let mut properties = Map::new();
    type_meta(&mut properties);
    properties.insert(
        "items".to_owned(),
        json!({"type": "array", "items": {"$ref": flavour.reference(name)}}),
    );
    properties.insert(
        "metadata".to_owned(),
        json!({"$ref": flavour.reference("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta")}),
    );
    json!({
        "type": "object",
        "required": ["items"],
        "properties": properties,
        "x-kubernetes-group-version-kind": [{"group": r.group, "version": r.version, "kind": r.list_kind}],
    })
}

/// The paths, with references to the definition where built-in ones refer to theirs.
fn paths_of(r: &Resource, name: &str, flavour: Flavour) -> Vec<(String, Value)> {
    let items = operations::of_resource(r);
    items
        .iter()
        .map(|item| {
            let mut value = match flavour {
                Flavour::V2 => render::path_v2(item),
                Flavour::V3 => render::path_v3(item),
            };
            for (method, operation) in value.as_object_mut().into_iter().flatten() {
                refer(method, operation, name, flavour);
            }
            (item.path.clone(), value)
        })
        .collect()
}

fn refer(method: &str, operation: &mut Value, name: &str, flavour: Flavour) {
    no_strategic_merge(method, operation);
    let action = operation["x-kubernetes-action"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let name = match action.as_str() {
        "list" => format!("{name}List"),
        "get" | "put" | "post" | "patch" => name.to_owned(),
        _ => return,
    };
    if operation["x-kubernetes-group-version-kind"]["kind"] == "Scale" {
        return;
    }
    let schema = json!({"$ref": flavour.reference(&name)});
    for (code, response) in operation["responses"].as_object_mut().into_iter().flatten() {
        if code == "401" {
            continue;
        }
        match flavour {
            Flavour::V2 => response["schema"] = schema.clone(),
            Flavour::V3 => {
                for (_, content) in response["content"].as_object_mut().into_iter().flatten() {
                    content["schema"] = schema.clone();
                }
            }
        }
    }
    if !matches!(method, "post" | "put") {
        return;
    }
    match flavour {
        Flavour::V2 => {
            let body = json!({"in": "body", "name": "body", "required": true, "schema": schema});
            match operation.get_mut("parameters").and_then(Value::as_array_mut) {
                Some(list) => list.insert(0, body),
                None => operation["parameters"] = json!([body]),
            }
        }
        Flavour::V3 => {
            operation["requestBody"] = json!({"required": true, "content": {"*/*": {"schema": schema}}});
        }
    }
}

/// A custom resource has no merge keys for strategic merge patch, and clients choose by this what they send.
fn no_strategic_merge(method: &str, operation: &mut Value) {
    const STRATEGIC: &str = "application/strategic-merge-patch+json";
    if method != "patch" {
        return;
    }
    if let Some(list) = operation.get_mut("consumes").and_then(Value::as_array_mut) {
        list.retain(|kind| kind != STRATEGIC);
    }
    let content = operation
        .get_mut("requestBody")
        .and_then(|body| body.get_mut("content"));
    if let Some(content) = content.and_then(Value::as_object_mut) {
        content.shift_remove(STRATEGIC);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::custom;

    #[test]
    fn custom_resources_are_published() {
        let definition = json!({"spec": {
            "group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "listKind": "CronTabList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}}, "schema": {
                "openAPIV3Schema": {"type": "object", "description": "A table.", "properties": {
                    "spec": {"type": "object", "required": ["cron", "n"], "properties": {
                        "cron": {"type": "string", "nullable": true}, "n": {"type": "integer"},
                        "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    }},
                }},
            }}],
        }});
        let versions = custom::versions(&definition);
        let published = [Published {
            resource: &versions[0].resource,
            schema: definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone(),
        }];
        let name = "com.example.stable.v1.CronTab";
        let v3: Value = serde_json::from_slice(&v3_custom(&published, &super::super::undescribed)).unwrap();
        let schema = &v3["components"]["schemas"][name];
        assert_eq!(
            schema["properties"]["spec"]["properties"]["cron"]["type"],
            "string"
        );
        assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "CronTab");
        assert!(
            v3["components"]["schemas"]
                .get("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
                .is_some()
        );
        let base = "/apis/stable.example.com/v1/namespaces/{namespace}/crontabs";
        let reference = format!("#/components/schemas/{name}");
        for path in [format!("{base}/{{name}}"), format!("{base}/{{name}}/status")] {
            let put = &v3["paths"][&path]["put"];
            assert_eq!(
                put["requestBody"]["content"]["*/*"]["schema"]["$ref"], reference,
                "{path}"
            );
        }
        let patches = &v3["paths"][format!("{base}/{{name}}")]["patch"]["requestBody"]["content"];
        assert!(patches.get("application/merge-patch+json").is_some());
        assert!(patches.get("application/strategic-merge-patch+json").is_none());
        let (paths, definitions) = v2_parts(&published);
        assert!(paths.iter().any(|(path, item)| *path == base
            && item["get"]["responses"]["200"]["schema"]["$ref"] == format!("#/definitions/{name}List")));
        let schema = &definitions.iter().find(|(n, _)| n == name).unwrap().1;
        assert_eq!(schema["description"], "A table.");
        let spec = &schema["properties"]["spec"];
        assert_eq!(spec["required"], json!(["n"]));
        let free = json!({"x-kubernetes-preserve-unknown-fields": true});
        assert_eq!(spec["properties"]["any"], free);
        assert!(
            schema["properties"]["spec"]["properties"]["cron"]
                .get("type")
                .is_none()
        );
        let v2: Value = serde_json::from_slice(&super::super::v2_json_with(
            &published,
            &super::super::undescribed,
        ))
        .unwrap();
        assert!(
            v2["definitions"].get(name).is_some()
                && v2["definitions"].get("io.k8s.api.core.v1.Pod").is_some()
        );
    }

    #[test]
    fn what_may_hold_anything_is_only_an_object_in_version_2() {
        let definition = json!({"spec": {
            "group": "example.com", "scope": "Cluster",
            "names": {"plural": "anys", "singular": "any", "kind": "Any", "listKind": "AnyList"},
            "versions": [{"name": "v1", "served": true, "storage": true}],
        }});
        let versions = custom::versions(&definition);
        let published = [Published {
            resource: &versions[0].resource,
            schema: json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
        }];
        let (_, definitions) = v2_parts(&published);
        let gvk = json!([{"group": "example.com", "version": "v1", "kind": "Any"}]);
        let expected = json!({"type": "object", "x-kubernetes-group-version-kind": gvk});
        assert_eq!(
            definitions
                .iter()
                .find(|(n, _)| n == "com.example.v1.Any")
                .unwrap()
                .1,
            expected
        );
    }

    #[test]
    fn what_every_object_has_is_explained() {
        let definition = json!({"spec": {
            "group": "example.com", "scope": "Cluster",
            "names": {"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList"},
            "versions": [{"name": "v1", "served": true, "storage": true}],
        }});
        let versions = custom::versions(&definition);
        let published = [Published {
            resource: &versions[0].resource,
            schema: json!({"type": "object"}),
        }];
        let v3: Value = serde_json::from_slice(&v3_custom(&published, &super::super::undescribed)).unwrap();
        let schemas = &v3["components"]["schemas"];
        let says = |value: &Value, start: &str| {
            value["description"]
                .as_str()
                .unwrap_or_default()
                .starts_with(start)
        };
        let foo = &schemas["com.example.v1.Foo"]["properties"];
        assert!(
            says(&foo["apiVersion"], "APIVersion defines")
                && says(&foo["metadata"], "Standard object's metadata")
        );
        let meta = &schemas["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"]["properties"];
        assert!(says(
            &meta["creationTimestamp"],
            "CreationTimestamp is a timestamp"
        ));
        for (name, field) in meta.as_object().unwrap() {
            assert!(field["description"].is_string(), "{name} is not explained");
        }
    }
}
