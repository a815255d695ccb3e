//! RBAC and certificates.

use serde_json::Value;

use super::{AGE, BY_AGE, BY_DATE, Column, NAME, Printer, age, name, or, text, wide};
use crate::duration;
use crate::value::ValueExt as _;

/// The printer of a resource of these groups.
pub(super) fn printer(plural: &str) -> Printer {
    match plural {
        "roles" | "clusterroles" => BY_DATE,
        "rolebindings" | "clusterrolebindings" => Printer {
            columns: BINDING,
            row: binding,
        },
        "certificatesigningrequests" => Printer {
            columns: REQUEST,
            row: request,
        },
        _ => BY_AGE,
    }
}

const BINDING: &[Column] = &[
    NAME,
    text("Role", "Role that is granted"),
    AGE,
    wide("Users", "Users that have it"),
    wide("Groups", "Groups that have it"),
    wide("ServiceAccounts", "Service accounts that have it"),
];

fn binding(o: &Value, now: i64) -> Vec<Value> {
    let subjects = |kind: &str| -> Value {
        let list: Vec<String> = o
            .items(&["subjects"])
            .iter()
            .filter(|s| s.text(&["kind"]) == kind)
            .map(|s| match s.text(&["namespace"]) {
                "" => s.text(&["name"]).to_owned(),
                namespace => format!("{namespace}/{}", s.text(&["name"])),
            })
            .collect();
        list.join(", ").into()
    };
    vec![
        name(o),
        format!(
            "{}/{}",
            o.text(&["roleRef", "kind"]),
            o.text(&["roleRef", "name"])
        )
        .into(),
        age(o, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

const REQUEST: &[Column] = &[
    NAME,
    AGE,
    text("SignerName", "Who is asked to sign"),
    text("Requestor", "Who asks"),
    text("RequestedDuration", "How long the certificate should be valid"),
    text("Condition", "Whether it is approved and issued"),
];

fn request(o: &Value, now: i64) -> Vec<Value> {
    let duration = o
        .int(&["spec", "expirationSeconds"])
        .map_or_else(String::new, duration::human);
    let mut states: Vec<&str> = Vec::new();
    for (condition, shown) in [
        ("Approved", "Approved"),
        ("Denied", "Denied"),
        ("Failed", "Failed"),
    ] {
        if o.items(&["status", "conditions"])
            .iter()
            .any(|c| c.text(&["type"]) == condition)
        {
            states.push(shown);
        }
    }
    if states.is_empty() {
        states.push("Pending");
    }
    if !o.text(&["status", "certificate"]).is_empty() {
        states.push("Issued");
    }
    vec![
        name(o),
        age(o, now),
        or(o.text(&["spec", "signerName"]), "<none>"),
        o.text(&["spec", "username"]).into(),
        or(&duration, "<none>"),
        states.join(",").into(),
    ]
}
