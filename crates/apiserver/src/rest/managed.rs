//! Who writes: the manager whose fields are recorded in `metadata.managedFields`.

use super::update::Part;
use crate::call::Call;
use crate::http::status::Status;
use schema::apply::{Manager, Set};
use schema::{Cause, Reason, Resource};
use serde_json::{Value, json};

/// Longest name of a manager, in bytes; upstream's limit.
const MAX_NAME: usize = 128;
/// Content type of a configuration to apply.
pub const APPLY: &str = "application/apply-patch+yaml";

/// The writer of a request.
pub struct Writer {
    name: String,
    subresource: String,
    now: String,
    ignored: Set,
}

impl Writer {
    /// Who sends this request: what it says itself, or else the name of the program.
    pub fn of(call: &Call, resource: &Resource, part: Part) -> Self {
        let name = match call.query.get("fieldManager").filter(|name| !name.is_empty()) {
            Some(name) => name.to_owned(),
            None => program(call.header(http::header::USER_AGENT).unwrap_or_default()),
        };
        Self {
            name,
            subresource: call.info.subresource.clone(),
            now: crate::time::now(),
            ignored: ignored(resource, part),
        }
    }

    /// The form that the fields are recorded with.
    pub fn manager(&self) -> Manager<'_> {
        Manager {
            name: &self.name,
            subresource: &self.subresource,
            now: &self.now,
            ignored: &self.ignored,
        }
    }
}

/// The part of a `User-Agent` that names the program.
fn program(agent: &str) -> String {
    let name = agent.split('/').next().unwrap_or_default();
    let printable = name.chars().filter(|c| !c.is_control());
    let mut out = String::new();
    for c in printable {
        if out.len() + c.len_utf8() > MAX_NAME {
            break;
        }
        out.push(c);
    }
    out
}

/// Fields that a path does not write, whatever a client sends.
fn ignored(resource: &Resource, part: Part) -> Set {
    match part {
        Part::Main if resource.has_status => Set::of(&["status"]),
        Part::Main | Part::Raw => Set::default(),
        Part::Status => {
            let mut set = Set::of(&["spec"]);
            if resource.is_custom() {
                for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
                    set = set.union(Set::of(&["metadata", field]));
                }
            }
            set
        }
    }
}

/// What happens to the managed fields in a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// Changed fields belong to the writer.
    Update,
    /// They are in the new state already.
    Applied,
    /// The server writes on its own account: fields keep their owners.
    Keep,
}

/// What happens to the managed fields in this request.
pub fn tracking(call: &Call) -> Tracking {
    if is_apply(call) {
        Tracking::Applied
    } else if matches!(call.info.subresource.as_str(), "binding" | "eviction")
        || call.info.resource == "bindings"
    {
        Tracking::Keep
    } else {
        Tracking::Update
    }
}

/// Whether a configuration is applied.
pub fn is_apply(call: &Call) -> bool {
    call.info.verb == "patch" && call.media_type() == APPLY
}

/// Checks `fieldManager` and `force` of a write.
pub fn check_options(call: &Call) -> Result<(), Status> {
    let options = match call.info.verb.as_str() {
        "create" => "CreateOptions",
        "update" => "UpdateOptions",
        "patch" => "PatchOptions",
        _ => return Ok(()),
    };
    let applied = is_apply(call);
    let mut causes = Vec::new();
    let mut cause = |reason, field: &str, message: String| {
        causes.push(Cause {
            reason,
            field: field.into(),
            message,
        });
    };
    if call.query.get("force").is_some() && !applied && options == "PatchOptions" {
        let message = "Forbidden: may not be specified for non-apply patch";
        cause(Reason::Forbidden, "force", message.into());
    }
    let name = call.query.get("fieldManager").unwrap_or_default();
    if name.is_empty() && applied {
        let message = "Required value: is required for apply patch";
        cause(Reason::Required, "fieldManager", message.into());
    }
    if name.len() > MAX_NAME {
        let message = format!("Too long: may not be more than {MAX_NAME} bytes");
        cause(Reason::TooLong, "fieldManager", message);
    }
    if let Some((at, _)) = name.char_indices().find(|(_, c)| c.is_control()) {
        let message =
            format!("Invalid value: {name:?}: should not contain control characters at position {at}");
        cause(Reason::Invalid, "fieldManager", message);
    }
    if causes.is_empty() {
        return Ok(());
    }
    Err(invalid_options(options, &causes))
}

/// 422 for the options of a request.
fn invalid_options(kind: &str, causes: &[Cause]) -> Status {
    let message = schema::invalid_message(&format!("{kind}.meta.k8s.io"), "", causes);
    let mut status = Status::new(422, "Invalid", message);
    let causes: Vec<Value> = causes
        .iter()
        .map(|c| json!({"reason": c.reason.as_str(), "message": c.message, "field": c.field}))
        .collect();
    let details = json!({"group": "meta.k8s.io", "kind": kind, "causes": causes});
    status.details = details.as_object().cloned().unwrap_or_default();
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_named_by_their_agent() {
        assert_eq!(program("kubectl/v1.32 (linux/amd64) kubernetes/abc"), "kubectl");
        assert_eq!(program("curl"), "curl");
        assert_eq!(program(""), "");
        assert_eq!(program(&"ä".repeat(100)).len(), MAX_NAME);
    }
}
