//! Paths in JSON, for both versions of the specification.

use serde_json::{Map, Value, json};

use super::Flavour;
use super::operations::{self, Operation, Parameter, PathItem};
use crate::facts::{TypeId, facts};

const PRODUCES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];
const WATCHES: &[&str] = &[
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

fn reference(id: TypeId, flavour: Flavour) -> Value {
    json!({"$ref": flavour.reference(facts().get(id).name)})
}

fn produces(operation: &Operation) -> Vec<&'static str> {
    match operation.action {
        "connect" => vec!["*/*"],
        "list" => PRODUCES.iter().chain(WATCHES).copied().collect(),
        _ => PRODUCES.to_vec(),
    }
}

fn consumes(operation: &Operation) -> Vec<&'static str> {
    if operation.method == "patch" && operation.action != "connect" {
        PATCHES.to_vec()
    } else {
        vec!["*/*"]
    }
}

/// Fields of an operation that are the same in both versions.
fn common(operation: &Operation) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("operationId".into(), operation.id.as_str().into());
    map.insert("tags".into(), json!([operation.tag]));
    if !operation.action.is_empty() {
        map.insert("x-kubernetes-action".into(), operation.action.into());
    }
    if let Some((group, version, kind)) = &operation.group_version_kind {
        map.insert(
            "x-kubernetes-group-version-kind".into(),
            json!({"group": group, "kind": kind, "version": version}),
        );
    }
    map
}

fn description(code: &str) -> &'static str {
    match code {
        "201" => "Created",
        "202" => "Accepted",
        _ => "OK",
    }
}

/// A path for version 2.
pub(super) fn path_v2(item: &PathItem) -> Value {
    let mut map = Map::new();
    for operation in &item.operations {
        map.insert(operation.method.into(), operation_v2(operation));
    }
    if !item.parameters.is_empty() {
        let parameters: Vec<Value> = item.parameters.iter().map(|p| parameter_use_v2(p)).collect();
        map.insert("parameters".into(), parameters.into());
    }
    map.into()
}

fn operation_v2(operation: &Operation) -> Value {
    let mut map = common(operation);
    map.insert("consumes".into(), json!(consumes(operation)));
    map.insert("produces".into(), json!(produces(operation)));
    map.insert("schemes".into(), json!(["https"]));
    let mut parameters: Vec<Value> = Vec::new();
    if let Some(body) = operation.body {
        let mut parameter = json!({"in": "body", "name": "body", "schema": reference(body, Flavour::V2)});
        if operation.body_required {
            parameter["required"] = true.into();
        }
        parameters.push(parameter);
    }
    parameters.extend(operation.parameters.iter().map(|p| parameter_use_v2(p)));
    if !parameters.is_empty() {
        map.insert("parameters".into(), parameters.into());
    }
    let mut responses = Map::new();
    for code in operation.codes {
        let mut response = json!({"description": description(code)});
        response["schema"] = match operation.returns {
            Some(id) => reference(id, Flavour::V2),
            None => json!({"type": "string"}),
        };
        responses.insert((*code).to_owned(), response);
    }
    responses.insert("401".into(), json!({"description": "Unauthorized"}));
    map.insert("responses".into(), responses.into());
    map.into()
}

/// The parameters that version 2 defines once.
pub(super) fn shared_parameters() -> impl Iterator<Item = (String, Value)> {
    operations::shared().map(|parameter| (parameter.name.to_owned(), parameter_v2(parameter)))
}

fn parameter_use_v2(parameter: &Parameter) -> Value {
    if parameter.inline {
        parameter_v2(parameter)
    } else {
        json!({"$ref": format!("#/parameters/{}", parameter.name)})
    }
}

fn parameter_v2(parameter: &Parameter) -> Value {
    if parameter.in_path {
        json!({"in": "path", "name": parameter.name, "required": true, "type": "string", "uniqueItems": true})
    } else {
        json!({"in": "query", "name": parameter.name, "type": parameter.kind, "uniqueItems": true})
    }
}

/// A path for version 3.
pub(super) fn path_v3(item: &PathItem) -> Value {
    let mut map = Map::new();
    for operation in &item.operations {
        map.insert(operation.method.into(), operation_v3(operation));
    }
    if !item.parameters.is_empty() {
        let parameters: Vec<Value> = item.parameters.iter().map(|p| parameter_v3(p)).collect();
        map.insert("parameters".into(), parameters.into());
    }
    map.into()
}

fn parameter_v3(parameter: &Parameter) -> Value {
    let schema = json!({"type": parameter.kind, "uniqueItems": true});
    if parameter.in_path {
        json!({"name": parameter.name, "in": "path", "required": true, "schema": schema})
    } else {
        json!({"name": parameter.name, "in": "query", "schema": schema})
    }
}

fn operation_v3(operation: &Operation) -> Value {
    let mut map = common(operation);
    if !operation.parameters.is_empty() {
        let parameters: Vec<Value> = operation.parameters.iter().map(|p| parameter_v3(p)).collect();
        map.insert("parameters".into(), parameters.into());
    }
    if let Some(body) = operation.body {
        let content: Map<String, Value> = consumes(operation)
            .into_iter()
            .map(|kind| (kind.to_owned(), json!({"schema": reference(body, Flavour::V3)})))
            .collect();
        let mut request = json!({"content": content});
        if operation.body_required {
            request["required"] = true.into();
        }
        map.insert("requestBody".into(), request);
    }
    let mut responses = Map::new();
    for code in operation.codes {
        let schema = match operation.returns {
            Some(id) => reference(id, Flavour::V3),
            None => json!({"type": "string"}),
        };
        let content: Map<String, Value> = produces(operation)
            .into_iter()
            .map(|kind| (kind.to_owned(), json!({"schema": schema})))
            .collect();
        responses.insert(
            (*code).to_owned(),
            json!({"description": description(code), "content": content}),
        );
    }
    responses.insert("401".into(), json!({"description": "Unauthorized"}));
    map.insert("responses".into(), responses.into());
    map.into()
}
