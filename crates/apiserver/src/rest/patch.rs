//! PATCH: JSON patch, merge patch and strategic merge patch.

use super::update::{self, Part};
use super::{apply, check_kind, managed, prune};
use crate::call::{Call, Document, Response, decode_json};
use crate::http::respond;
use crate::http::status::Status;
use schema::Resource;
use serde_json::Value;

/// Operations in one JSON patch, as upstream's limit.
const MAX_OPERATIONS: usize = 10_000;

/// A decoded patch.
pub enum Patch {
    /// RFC 6902.
    Json(json_patch::Patch),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' own: lists merge by key.
    Strategic(Value),
}

impl Patch {
    /// Reads the body by its content type.
    pub fn decode(call: &Call, custom: bool, body: &[u8]) -> Result<Self, Status> {
        match call.media_type() {
            "application/json-patch+json" => {
                let patch: json_patch::Patch = serde_json::from_slice(body)
                    .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
                if patch.0.len() > MAX_OPERATIONS {
                    return Err(Status::new(
                        413,
                        "RequestEntityTooLarge",
                        format!("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}"),
                    ));
                }
                Ok(Self::Json(patch))
            }
            "application/merge-patch+json" => Ok(Self::Merge(object(decode_json(body)?)?)),
            // A custom resource has no merge keys.
            "application/strategic-merge-patch+json" if !custom => {
                Ok(Self::Strategic(object(decode_json(body)?)?))
            }
            other => Err(Status::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, \
                 application/apply-patch+yaml (got {other})"
            ))),
        }
    }

    /// The patched state.
    pub fn apply(&self, resource: &Resource, old: &Value) -> Result<Value, Status> {
        match self {
            Self::Json(patch) => {
                let mut new = old.clone();
                json_patch::patch(&mut new, patch).map_err(|e| {
                    Status::new(
                        422,
                        "Invalid",
                        format!("the server rejected our request due to an error in our request: {e}"),
                    )
                })?;
                Ok(new)
            }
            Self::Merge(patch) => Ok(schema::merge_patch(old, patch)),
            Self::Strategic(patch) => schema::strategic_merge(resource, old, patch)
                .map_err(|e| Status::new(422, "Invalid", e.to_string())),
        }
    }
}

fn object(document: Document) -> Result<Value, Status> {
    if document.value.is_object() {
        Ok(document.value)
    } else {
        Err(Status::bad_request("the patch is not an object"))
    }
}

/// Answers a PATCH of an object or its status.
pub async fn patch(
    call: &Call,
    resource: &'static Resource,
    part: Part,
    body: &[u8],
) -> Result<Response, Status> {
    if managed::is_apply(call) {
        return apply::patch(call, resource, part, body).await;
    }
    let patch = Patch::decode(call, resource.is_custom(), body)?;
    let outcome = update::update(call, resource, part, |old| {
        let mut new = patch.apply(resource, old)?;
        check_kind(resource, &mut new)?;
        let mut document = Document {
            value: new,
            duplicates: Vec::new(),
        };
        // A second attempt must not warn again.
        call.warnings.lock().clear();
        prune(call, resource, &mut document)?;
        let new = document.value;
        if new["metadata"]["name"] != old["metadata"]["name"]
            || new["metadata"]["namespace"] != old["metadata"]["namespace"]
        {
            return Err(Status::bad_request(
                "a patch cannot change the name or namespace of an object",
            ));
        }
        Ok(new)
    })
    .await?;
    respond::object(
        call,
        resource,
        call.server.store.cache(resource)?.resource,
        200,
        outcome.object(),
    )
}
