//! PATCH: JSON patch, merge patch and strategic merge patch.

use super::json_patch::{self, MAX_OPERATIONS};
use super::update::{self, Part};
use super::{apply, check_kind, managed, prune};
use crate::call::{Call, Document, Response, decode_json};
use crate::http::respond;
use crate::http::status::Status;
use schema::Resource;
use serde_json::Value;

/// A decoded patch.
pub enum Patch {
    /// RFC 6902.
    Json(::json_patch::Patch),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' own: lists merge by key.
    Strategic(Value),
}

impl Patch {
    /// Reads the body by its content type.
    pub fn decode(call: &Call, custom: bool, body: &[u8]) -> Result<Self, Status> {
        Self::of(call.media_type(), custom, body)
    }

    /// Reads a body of a type.
    pub fn of(media_type: &str, custom: bool, body: &[u8]) -> Result<Self, Status> {
        match media_type {
            "application/json-patch+json" => {
                let patch: ::json_patch::Patch = serde_json::from_slice(body)
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
                show_empty(resource, &mut new);
                json_patch::apply(&patch.0, &mut new).map_err(|e| {
                    Status::new(
                        422,
                        "Invalid",
                        format!("the server rejected our request due to an error in our request: {e}"),
                    )
                })?;
                // What was only shown is not stored.
                let empty = new["status"].as_object().is_some_and(serde_json::Map::is_empty);
                if empty
                    && old.get("status").is_none()
                    && let Some(o) = new.as_object_mut()
                {
                    o.shift_remove("status");
                }
                Ok(new)
            }
            Self::Merge(patch) => Ok(schema::merge_patch(old, patch)),
            Self::Strategic(patch) => schema::strategic_merge(resource, old, patch)
                .map_err(|e| Status::new(422, "Invalid", e.to_string())),
        }
    }
}

/// Puts an empty status where an object of a built-in kind has none: that is how clients have seen it from upstream's
/// server, and a JSON patch adds only to what is there.
fn show_empty(resource: &Resource, object: &mut Value) {
    if resource.has_status
        && !resource.is_custom()
        && let Some(o) = object.as_object_mut()
    {
        o.entry("status")
            .or_insert_with(|| Value::Object(serde_json::Map::new()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_json_patch_adds_below_a_status_that_is_not_there() {
        let resource = schema::registry()
            .find("resource.k8s.io", "v1", "resourceclaims")
            .unwrap();
        let patch = json!([{"op": "add", "path": "/status/allocation", "value": {}}]);
        let patch = Patch::Json(serde_json::from_value(patch).unwrap());
        let new = patch.apply(resource, &json!({"metadata": {}})).unwrap();
        assert_eq!(new, json!({"metadata": {}, "status": {"allocation": {}}}));
        let other = json!([{"op": "add", "path": "/metadata/labels", "value": {}}]);
        let other = Patch::Json(serde_json::from_value(other).unwrap());
        let new = other.apply(resource, &json!({"metadata": {}})).unwrap();
        assert_eq!(new, json!({"metadata": {"labels": {}}}));
        let storage = schema::registry()
            .find("storage.k8s.io", "v1", "storageclasses")
            .unwrap();
        assert!(patch.apply(storage, &json!({"metadata": {}})).is_err());
    }
}
