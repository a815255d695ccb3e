//! Errors as clients see them: `Status` objects with upstream's reasons, codes and messages.

use schema::{Cause, Resource};
use serde_json::{Map, Value, json};

/// A failed request.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// HTTP code.
    pub code: u16,
    /// Machine-readable reason, empty for `Unknown`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// What it is about.
    pub details: Map<String, Value>,
}

fn details(name: &str, group: &str, kind: &str) -> Map<String, Value> {
    let mut details = Map::new();
    for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
        if !value.is_empty() {
            details.insert(key.into(), value.into());
        }
    }
    details
}

impl Status {
    /// An error without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Map::new(),
        }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403 for an object, or for a resource when `name` is empty.
    pub fn forbidden(resource: &Resource, name: &str, why: impl std::fmt::Display) -> Self {
        let what = resource.qualified_name();
        let message = if name.is_empty() {
            format!("{what} is forbidden: {why}")
        } else {
            format!("{what} \"{name}\" is forbidden: {why}")
        };
        let details = details(name, resource.group.as_ref(), resource.plural.as_ref());
        Self {
            details,
            ..Self::new(403, "Forbidden", message)
        }
    }

    /// 404 for an object.
    pub fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", resource.qualified_name());
        let details = details(name, resource.group.as_ref(), resource.plural.as_ref());
        Self {
            details,
            ..Self::new(404, "NotFound", message)
        }
    }

    /// Whether it is about an object of this resource, and not about its namespace or another object.
    pub fn is_about(&self, resource: &Resource) -> bool {
        self.details
            .get("kind")
            .is_some_and(|kind| kind == resource.plural.as_ref())
    }

    /// 404 for a path that leads nowhere.
    pub fn no_such_path() -> Self {
        Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", message)
    }

    /// 409: the name is taken.
    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", resource.qualified_name());
        let details = details(name, resource.group.as_ref(), resource.plural.as_ref());
        Self {
            details,
            ..Self::new(409, "AlreadyExists", message)
        }
    }

    /// 409: somebody else was quicker, or a precondition does not hold.
    pub fn conflict(resource: &Resource, name: &str, why: impl std::fmt::Display) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {why}",
            resource.qualified_name()
        );
        let details = details(name, resource.group.as_ref(), resource.plural.as_ref());
        Self {
            details,
            ..Self::new(409, "Conflict", message)
        }
    }

    /// 409 with upstream's words for a stale resourceVersion.
    pub fn modified(resource: &Resource, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    /// 410: the revision is not kept any more.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 422 with its causes.
    pub fn invalid(resource: &Resource, name: &str, causes: Vec<Cause>) -> Self {
        let message = schema::invalid_message(&resource.qualified_kind(), name, &causes);
        let mut details = details(name, resource.group.as_ref(), resource.kind.as_ref());
        let causes: Vec<Value> = causes
            .into_iter()
            .map(|c| json!({"reason": c.reason.as_str(), "message": c.message, "field": c.field}))
            .collect();
        details.insert("causes".into(), causes.into());
        Self {
            details,
            ..Self::new(422, "Invalid", message)
        }
    }

    /// 406: nothing that the client accepts can be sent.
    pub fn not_acceptable(accepted: &str) -> Self {
        Self::new(
            406,
            "NotAcceptable",
            format!("only the following media types are accepted: {accepted}"),
        )
    }

    /// 415: the body's type is not supported.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 429: try again after so many seconds.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut status = Self::new(429, "TooManyRequests", message);
        status
            .details
            .insert("retryAfterSeconds".into(), retry_after_seconds.into());
        status
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let text = format!("Internal error occurred: {message}");
        let mut status = Self::new(500, "InternalError", text);
        status
            .details
            .insert("causes".into(), json!([{"message": message.to_string()}]));
        status
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// 504.
    pub fn timeout(message: impl Into<String>) -> Self {
        let mut status = Self::new(504, "Timeout", message);
        status.details.insert("retryAfterSeconds".into(), 1.into());
        status
    }

    /// The `Status` object.
    pub fn to_value(&self) -> Value {
        let mut value = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message,
        });
        if let Some(map) = value.as_object_mut() {
            if !self.reason.is_empty() {
                map.insert("reason".into(), self.reason.into());
            }
            if !self.details.is_empty() {
                map.insert("details".into(), self.details.clone().into());
            }
            map.insert("code".into(), self.code.into());
        }
        value
    }
}

impl From<state::Error> for Status {
    fn from(error: state::Error) -> Self {
        match error {
            state::Error::Unavailable(_) => Self::unavailable(error.to_string()),
            state::Error::Unknown { .. } => Self::timeout(error.to_string()),
            state::Error::Compacted { .. } => Self::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start \
                 a new list without the continue parameter.",
            ),
            state::Error::Refused { ref reason, .. } if reason.contains("too large") => {
                Self::new(413, "RequestEntityTooLarge", error.to_string())
            }
            state::Error::Refused { .. } | state::Error::Configuration(_) => Self::internal(error),
        }
    }
}
