//! The verbs on resources.

pub mod apply;
pub mod create;
pub mod delete;
pub mod delete_collection;
pub mod honesty;
pub mod json_patch;
pub mod list;
pub mod managed;
pub mod meta;
pub mod options;
pub mod patch;
pub mod pod;
pub mod read;
pub mod scale;
pub mod subresource;
pub mod update;
pub mod watch;

use crate::call::{Call, Document, FieldValidation};
use crate::http::status::Status;
use schema::{IssueKind, Resource};
use serde_json::Value;

/// Fills in and checks `apiVersion` and `kind` of a body.
pub fn check_kind(resource: &Resource, value: &mut Value) -> Result<(), Status> {
    check_kind_of(&resource.api_version(), &resource.kind, value)
}

/// The same for a body that is not an object of the resource.
pub fn check_kind_of(api_version: &str, kind: &str, value: &mut Value) -> Result<(), Status> {
    let Some(map) = value.as_object_mut() else {
        return Err(Status::bad_request(format!("the body is not a {kind} object")));
    };
    for (field, wanted) in [("kind", kind), ("apiVersion", api_version)] {
        match map.get(field) {
            None | Some(Value::Null) => {
                map.insert(field.into(), wanted.into());
            }
            Some(given) if given == wanted => {}
            Some(given) => {
                let given = given.as_str().unwrap_or_default();
                return Err(Status::bad_request(format!(
                    "the {field} in the data ({given}) does not match the expected one ({wanted})"
                )));
            }
        }
    }
    Ok(())
}

/// Drops what the schema has no place for, and says so as the client wants it.
pub fn prune(call: &Call, resource: &Resource, document: &mut Document) -> Result<(), Status> {
    let issues = schema::prune(resource, &mut document.value);
    let version = resource.api_version();
    let mut unknown = Vec::new();
    for issue in issues {
        match issue.kind {
            IssueKind::WrongType => {
                return Err(Status::bad_request(format!(
                    "{} in version \"{}\" cannot be handled as a {}: {}",
                    resource.kind, resource.version, resource.kind, issue.message
                )));
            }
            IssueKind::Unknown => unknown.push(issue.message),
        }
    }
    unknown.extend(document.duplicates.iter().cloned());
    if unknown.is_empty() {
        return Ok(());
    }
    match call.field_validation()? {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => unknown.into_iter().for_each(|text| call.warn(text)),
        FieldValidation::Strict => {
            let list = unknown.join(", ");
            return Err(Status::bad_request(format!(
                "{} in version \"{}\" cannot be handled as a {}: strict decoding error: {list}",
                resource.kind,
                version.rsplit('/').next().unwrap_or_default(),
                resource.kind
            )));
        }
    }
    Ok(())
}
