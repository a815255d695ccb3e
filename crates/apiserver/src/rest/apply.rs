//! Server-side apply: PATCH with a configuration of which every field belongs to the client.

use super::managed::Writer;
use super::update::{self, Part};
use super::{create, meta};
use crate::authz::{Attributes, refusal};
use crate::call::{Call, FieldValidation, Response};
use crate::http::respond;
use crate::http::status::Status;
use crate::yaml;
use schema::apply::ApplyError;
use schema::{IssueKind, Resource};
use serde_json::{Value, json};

/// Answers an apply of an object or its status.
pub async fn patch(
    call: &Call,
    resource: &'static Resource,
    part: Part,
    body: &[u8],
) -> Result<Response, Status> {
    let config = configuration(call, resource, body)?;
    let force = force(call)?;
    let writer = Writer::of(call, resource, part);
    let merge = |live: &Value| {
        schema::apply::apply(resource, live, &config, &writer.manager(), force)
            .map_err(|error| failure(call, resource, error))
    };
    let stored = call.server.store.cache(resource)?.resource;
    match update::update(call, resource, part, |old| {
        check_base(resource, old, &config)?;
        merge(old)
    })
    .await
    {
        Err(status) if status.code == 404 && part == Part::Main && status.is_about(resource) => {
            check_absent(call, resource, &config)?;
            may_create(call, resource).await?;
            let mut empty = json!({
                "apiVersion": resource.api_version(), "kind": resource.kind, "metadata": {"name": call.info.name},
            });
            if resource.namespaced {
                empty["metadata"]["namespace"] = call.info.namespace.as_str().into();
            }
            let object = create::create_value(call, resource, merge(&empty)?).await?;
            super::honesty::warn(call, resource);
            respond::object(call, resource, stored, 201, &object)
        }
        result => respond::object(call, resource, stored, 200, result?.object()),
    }
}

/// Whether fields of others are taken.
pub fn force(call: &Call) -> Result<bool, Status> {
    match call.query.get("force") {
        None | Some("") => Ok(false),
        Some(text) => match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            other => Err(Status::bad_request(format!(
                "force: Invalid value: {other:?}: must be a boolean"
            ))),
        },
    }
}

/// Reads and checks the configuration.
pub fn configuration(call: &Call, resource: &Resource, body: &[u8]) -> Result<Value, Status> {
    let document = yaml::decode(body)
        .map_err(|status| Status::bad_request(format!("error decoding YAML: {}", status.message)))?;
    tell_duplicates(call, document.duplicates)?;
    let mut config = document.value;
    if !config.is_object() {
        return Err(Status::bad_request(
            "error decoding YAML: the configuration is not an object",
        ));
    }
    for (field, wanted) in [
        ("apiVersion", resource.api_version()),
        ("kind", resource.kind.to_string()),
    ] {
        let given = config[field].as_str().unwrap_or_default();
        if given.is_empty() {
            return Err(Status::bad_request(format!(
                "error decoding YAML: Object '{field}' is missing in the configuration"
            )));
        }
        if given != wanted {
            return Err(Status::bad_request(format!(
                "the {field} in the data ({given}) does not match the expected one ({wanted})"
            )));
        }
    }
    if !config["metadata"]["managedFields"].is_null() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let name = meta::text(&config, "name");
    if !name.is_empty() && name != call.info.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.info.name
        )));
    }
    meta::of(&mut config).insert("name".into(), call.info.name.clone().into());
    meta::set_namespace(resource, &mut config, &call.info.namespace)?;
    // What the schema has no place for is refused, whatever `fieldValidation` says: it could not be owned.
    if let Some(issue) = schema::prune(resource, &mut config).first() {
        let problem = match issue.kind {
            IssueKind::Unknown => format!(".{}: field not declared in schema", issue.path),
            IssueKind::WrongType => format!(".{}: {}", issue.path, issue.message),
        };
        return Err(untyped(call, resource, &problem));
    }
    // Neither is the client's to apply.
    if let Some(metadata) = config.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("creationTimestamp");
        metadata.shift_remove("selfLink");
    }
    Ok(config)
}

/// Keys that occur twice in the configuration, as the client wants to hear of them.
fn tell_duplicates(call: &Call, duplicates: Vec<String>) -> Result<(), Status> {
    match call.field_validation()? {
        FieldValidation::Strict if !duplicates.is_empty() => Err(Status::bad_request(format!(
            "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  {}",
            duplicates.join("\n  ")
        ))),
        FieldValidation::Warn => {
            duplicates.into_iter().for_each(|text| call.warn(text));
            Ok(())
        }
        FieldValidation::Strict | FieldValidation::Ignore => Ok(()),
    }
}

fn untyped(call: &Call, resource: &Resource, problem: &str) -> Status {
    let (group_version, kind) = (resource.api_version(), &resource.kind);
    Status::new(
        500,
        "",
        format!(
            "failed to create typed patch object ({}/{}; {group_version}, Kind={kind}): {problem}",
            call.info.namespace, call.info.name
        ),
    )
}

/// The status of an apply that failed.
pub fn failure(call: &Call, resource: &Resource, error: ApplyError) -> Status {
    match error {
        ApplyError::Invalid(problem) => untyped(call, resource, &problem),
        ApplyError::Conflicts(conflicts) => {
            let mut status = Status::new(409, "Conflict", schema::apply::conflict_message(&conflicts));
            let causes: Vec<Value> = conflicts
                .iter()
                .map(|c| {
                    let message = format!("conflict with {}", c.owner);
                    json!({"reason": "FieldManagerConflict", "message": message, "field": c.path})
                })
                .collect();
            status.details.insert("causes".into(), causes.into());
            status
        }
    }
}

/// A configuration may say which state it is for.
pub fn check_base(resource: &Resource, old: &Value, config: &Value) -> Result<(), Status> {
    for field in ["resourceVersion", "uid"] {
        let wanted = meta::text(config, field);
        if !wanted.is_empty() && wanted != meta::text(old, field) {
            return Err(Status::modified(resource, meta::text(old, "name")));
        }
    }
    Ok(())
}

/// A configuration for a certain state of an object is not for a new one.
fn check_absent(call: &Call, resource: &Resource, config: &Value) -> Result<(), Status> {
    let uid = meta::text(config, "uid");
    if !uid.is_empty() {
        let why = format!(
            "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        );
        return Err(Status::conflict(resource, &call.info.name, why));
    }
    if !matches!(meta::text(config, "resourceVersion"), "" | "0") {
        return Err(Status::not_found(resource, &call.info.name));
    }
    Ok(())
}

/// PATCH and PUT create only for those who may create.
pub async fn may_create(call: &Call, resource: &Resource) -> Result<(), Status> {
    let wanted = Attributes {
        verb: "create".into(),
        group: resource.group.to_string(),
        resource: resource.plural.to_string(),
        namespace: call.info.namespace.clone(),
        name: call.info.name.clone(),
        ..Attributes::default()
    };
    let allows = || {
        call.server
            .authorizer
            .allows(&call.server.store, &call.user, &wanted)
    };
    if allows().is_ok() {
        return Ok(());
    }
    call.server.store.fresh(crate::store::Freshness::Newest).await?;
    allows()
        .map_err(|reason| Status::forbidden(resource, &call.info.name, refusal(&call.user, &wanted, &reason)))
}
