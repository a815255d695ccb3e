//! The rest of the core group.

use serde_json::{Map, Value};

use super::{AGE, BY_AGE, BY_DATE, Column, NAME, Printer, age, name, number, text};
use crate::value::ValueExt as _;

/// The printer of a resource of the core group.
pub(super) fn printer(plural: &str) -> Printer {
    match plural {
        "namespaces" => Printer {
            columns: NAMESPACE,
            row: |o, now| vec![name(o), o.text(&["status", "phase"]).into(), age(o, now)],
        },
        "configmaps" => Printer {
            columns: CONFIG_MAP,
            row: |o, now| {
                vec![
                    name(o),
                    (keys(o, "data") + keys(o, "binaryData")).into(),
                    age(o, now),
                ]
            },
        },
        "secrets" => Printer {
            columns: SECRET,
            row: |o, now| {
                vec![
                    name(o),
                    o.text(&["type"]).into(),
                    keys(o, "data").into(),
                    age(o, now),
                ]
            },
        },
        "serviceaccounts" => Printer {
            columns: SERVICE_ACCOUNT,
            row: |o, now| vec![name(o), o.items(&["secrets"]).len().into(), age(o, now)],
        },
        "resourcequotas" => Printer {
            columns: QUOTA,
            row: quota,
        },
        "componentstatuses" => Printer {
            columns: COMPONENT,
            row: component,
        },
        "limitranges" => BY_DATE,
        _ => BY_AGE,
    }
}

fn keys(o: &Value, field: &str) -> usize {
    o.at(&[field]).and_then(Value::as_object).map_or(0, Map::len)
}

const NAMESPACE: &[Column] = &[NAME, text("Status", "Active or Terminating"), AGE];
const CONFIG_MAP: &[Column] = &[NAME, text("Data", "Number of entries"), AGE];
const SECRET: &[Column] = &[
    NAME,
    text("Type", "What kind of secret it is"),
    text("Data", "Number of entries"),
    AGE,
];
const SERVICE_ACCOUNT: &[Column] = &[NAME, number("Secrets", "Number of secrets that it lists"), AGE];

const QUOTA: &[Column] = &[
    NAME,
    text("Request", "Used and allowed requests"),
    text("Limit", "Used and allowed limits"),
    AGE,
];

fn quota(o: &Value, now: i64) -> Vec<Value> {
    let mut hard: Vec<(&String, &str)> = o
        .at(&["status", "hard"])
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(resource, amount)| (resource, amount.as_str().unwrap_or_default()))
        .collect();
    hard.sort();
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, allowed) in hard {
        let used = match o.text(&["status", "used", resource]) {
            "" => "0",
            used => used,
        };
        let list = if resource.starts_with("limits") {
            &mut limits
        } else {
            &mut requests
        };
        list.push(format!("{resource}: {used}/{allowed}"));
    }
    vec![
        name(o),
        requests.join(", ").into(),
        limits.join(", ").into(),
        age(o, now),
    ]
}

const COMPONENT: &[Column] = &[
    NAME,
    text("Status", "Whether the component is healthy"),
    text("Message", "What it says"),
    text("Error", "What went wrong"),
];

fn component(o: &Value, _now: i64) -> Vec<Value> {
    let health = o
        .items(&["conditions"])
        .iter()
        .find(|c| c.text(&["type"]) == "Healthy");
    let status = match health.map(|c| c.text(&["status"])) {
        Some("True") => "Healthy",
        Some("False") => "Unhealthy",
        _ => "Unknown",
    };
    let part = |field| health.map_or("", |c| c.text(&[field]));
    vec![
        name(o),
        status.into(),
        part("message").into(),
        part("error").into(),
    ]
}
