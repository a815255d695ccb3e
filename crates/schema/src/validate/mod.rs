//! Rules that upstream's server checks on writes.
use crate::registry::Resource;
use serde_json::Value;

/// Why a field is refused: the machine-readable reason of a cause in a `Status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Absent or empty.
    Required,
    /// Wrong.
    Invalid,
    /// Not one of the values that are allowed.
    NotSupported,
    /// Occurs twice.
    Duplicate,
    /// Not allowed here.
    Forbidden,
    /// Too long, in bytes or items.
    TooLong,
    /// Too many items.
    TooMany,
    /// Refers to something that does not exist.
    NotFound,
    /// Not of the right type.
    TypeInvalid,
}

impl Reason {
    /// As it stands in `details.causes[].reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Required => "FieldValueRequired",
            Reason::Invalid => "FieldValueInvalid",
            Reason::NotSupported => "FieldValueNotSupported",
            Reason::Duplicate => "FieldValueDuplicate",
            Reason::Forbidden => "FieldValueForbidden",
            Reason::TooLong => "FieldValueTooLong",
            Reason::TooMany => "FieldValueTooMany",
            Reason::NotFound => "FieldValueNotFound",
            Reason::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

/// One refused field: an entry of `details.causes` of a `Status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable reason.
    pub reason: Reason,
    /// Path of the field: `spec.containers[0].name`.
    pub field: String,
    /// Upstream's message, without the path: `Invalid value: "A": must be ...`.
    pub message: String,
}

/// The message of the `Status` (reason `Invalid`, code 422) for an object that was refused.
///
/// `qualified_kind` is [`Resource::qualified_kind`].
pub fn invalid_message(qualified_kind: &str, name: &str, causes: &[Cause]) -> String {
    let mut lines: Vec<String> = Vec::with_capacity(causes.len());
    for cause in causes {
        let line = format!("{}: {}", cause.field, cause.message);
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    match lines.as_slice() {
        [] => format!("{qualified_kind} {name:?} is invalid"),
        [line] => format!("{qualified_kind} {name:?} is invalid: {line}"),
        lines => format!("{qualified_kind} {name:?} is invalid: [{}]", lines.join(", ")),
    }
}

/// Rules for a new object (after defaulting and preparation).
pub fn validate_create(_resource: &Resource, _object: &Value) -> Vec<Cause> {
    Vec::new()
}

/// Rules for an update of the main resource (after preparation).
pub fn validate_update(_resource: &Resource, _old: &Value, _new: &Value) -> Vec<Cause> {
    Vec::new()
}

/// Rules for an update of the status (after preparation).
pub fn validate_status_update(_resource: &Resource, _old: &Value, _new: &Value) -> Vec<Cause> {
    Vec::new()
}
