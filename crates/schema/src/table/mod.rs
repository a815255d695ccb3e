//! What `kubectl get` shows: columns and cells, as upstream's server prints them.
//!
//! Columns of priority 1 are for `-o wide`. Cells hold text as people read it (ages, counts, lists), so a client needs
//! no knowledge of the kind.

mod access;
mod admission;
mod config;
mod custom;
mod event;
mod network;
mod node;
mod pod;
mod storage;
mod workload;

use serde_json::{Value, json};

use crate::duration;
use crate::registry::Resource;
use crate::selectors::LabelSelector;
use crate::value::ValueExt as _;

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Heading; kubectl prints it in capitals.
    pub name: &'static str,
    /// `string`, `integer`, `boolean`, `date`.
    pub kind: &'static str,
    /// `name` for the column that names the object; else empty.
    pub format: &'static str,
    /// What it shows.
    pub description: &'static str,
    /// 0 always, 1 with `-o wide`.
    pub priority: i32,
}

/// The columns of a resource.
pub fn columns(resource: &Resource) -> &'static [Column] {
    printer(resource).columns
}

/// The columns of any resource, as tables carry them.
pub fn definitions(resource: &Resource) -> Vec<Value> {
    if let Some(custom) = resource.custom.get() {
        return custom::definitions(&custom);
    }
    let columns = columns(resource).iter().map(|c| {
        json!({
            "name": c.name, "type": c.kind, "format": c.format, "description": c.description,
            "priority": c.priority,
        })
    });
    columns.collect()
}

/// The cells of one object, as many as there are columns. `now` is in seconds since 1970.
pub fn row(resource: &Resource, object: &Value, now: i64) -> Vec<Value> {
    if let Some(custom) = resource.custom.get() {
        return custom::row(&custom, object, now);
    }
    (printer(resource).row)(object, now)
}

/// The columns of a kind with the function that fills them.
#[derive(Clone, Copy)]
struct Printer {
    columns: &'static [Column],
    row: fn(&Value, i64) -> Vec<Value>,
}

/// Resources without columns of their own: the name and when it was made.
const BY_DATE: Printer = Printer {
    columns: &[
        NAME,
        Column {
            kind: "date",
            ..text("Created At", "When the object was made")
        },
    ],
    row: |o, _| vec![name(o), o.text(&["metadata", "creationTimestamp"]).into()],
};

/// The name and the age.
const BY_AGE: Printer = Printer {
    columns: &[NAME, AGE],
    row: |o, now| vec![name(o), age(o, now)],
};

fn printer(resource: &Resource) -> Printer {
    let plural = &*resource.plural;
    match &*resource.group {
        "" => match plural {
            "pods" => Printer {
                columns: pod::COLUMNS,
                row: pod::row,
            },
            "nodes" => Printer {
                columns: node::COLUMNS,
                row: node::row,
            },
            "services" => Printer {
                columns: network::SERVICE,
                row: network::service,
            },
            "endpoints" => Printer {
                columns: network::ENDPOINTS,
                row: network::endpoints,
            },
            "events" => Printer {
                columns: event::COLUMNS,
                row: event::row,
            },
            "persistentvolumes" => Printer {
                columns: storage::VOLUME,
                row: storage::volume,
            },
            "persistentvolumeclaims" => Printer {
                columns: storage::CLAIM,
                row: storage::claim,
            },
            "replicationcontrollers" => Printer {
                columns: workload::REPLICA_SET,
                row: workload::replication_controller,
            },
            "podtemplates" => Printer {
                columns: workload::TEMPLATE,
                row: workload::template,
            },
            _ => config::printer(plural),
        },
        "apps" | "batch" | "autoscaling" | "policy" => workload::printer(plural),
        "networking.k8s.io" | "discovery.k8s.io" => network::printer(plural),
        "storage.k8s.io" | "resource.k8s.io" => storage::printer(plural),
        "events.k8s.io" => Printer {
            columns: event::COLUMNS,
            row: event::row_v1,
        },
        "rbac.authorization.k8s.io" | "certificates.k8s.io" => access::printer(plural),
        _ => admission::printer(plural),
    }
}

const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "Name, unique for the kind in its namespace",
    priority: 0,
};

const AGE: Column = text("Age", "Time since the object was made");
const CONTAINERS: Column = wide("Containers", "Names of the containers of the template");
const IMAGES: Column = wide("Images", "Images of the containers of the template");
const SELECTOR: Column = wide("Selector", "Labels of the pods that belong to it");

const fn text(name: &'static str, description: &'static str) -> Column {
    Column {
        name,
        kind: "string",
        format: "",
        description,
        priority: 0,
    }
}

const fn number(name: &'static str, description: &'static str) -> Column {
    Column {
        name,
        kind: "integer",
        format: "",
        description,
        priority: 0,
    }
}

const fn flag(name: &'static str, description: &'static str) -> Column {
    Column {
        name,
        kind: "boolean",
        format: "",
        description,
        priority: 0,
    }
}

const fn wide(name: &'static str, description: &'static str) -> Column {
    Column {
        name,
        kind: "string",
        format: "",
        description,
        priority: 1,
    }
}

fn name(object: &Value) -> Value {
    object.text(&["metadata", "name"]).into()
}

fn age(object: &Value, now: i64) -> Value {
    duration::age(object.text(&["metadata", "creationTimestamp"]), now).into()
}

/// A text, or what stands for none.
fn or(text: &str, none: &str) -> Value {
    if text.is_empty() { none.into() } else { text.into() }
}

/// A count, 0 where there is none.
fn count(object: &Value, path: &[&str]) -> Value {
    object.int(path).unwrap_or_default().into()
}

/// A number or a text, as text.
fn scalar(value: Option<&Value>, none: &str) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Bool(flag)) => flag.to_string(),
        _ => none.to_owned(),
    }
}

/// Labels as `a=b,c=d`, sorted.
fn labels(value: Option<&Value>) -> String {
    let Some(map) = value.and_then(Value::as_object).filter(|map| !map.is_empty()) else {
        return "<none>".to_owned();
    };
    let mut list: Vec<String> = map
        .iter()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    list.sort();
    list.join(",")
}

/// A selector in its string form.
fn selector(value: Option<&Value>) -> String {
    match LabelSelector::from_structured(value) {
        Ok(selector) if selector.requirements().is_empty() => "<none>".to_owned(),
        Ok(selector) => selector.to_string(),
        Err(_) => "<error>".to_owned(),
    }
}

/// Names and images of the containers of a pod spec.
fn containers(spec: Option<&Value>) -> [Value; 2] {
    ["name", "image"].map(|field| {
        let list = spec.map_or(&[][..], |spec| spec.items(&["containers"]));
        list.iter()
            .map(|c| c.text(&[field]))
            .collect::<Vec<_>>()
            .join(",")
            .into()
    })
}

/// Some of a list, and how many more there are.
fn at_most(list: &[String], most: usize, none: &str) -> String {
    if list.is_empty() {
        return none.to_owned();
    }
    if list.len() <= most {
        return list.join(",");
    }
    format!("{} + {} more...", list[..most].join(","), list.len() - most)
}

/// A condition of an object's status.
fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object
        .items(&["status", "conditions"])
        .iter()
        .find(|c| c.text(&["type"]) == kind)
}

/// Whether a condition is true.
fn is_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|c| c.text(&["status"]) == "True")
}

#[cfg(test)]
mod tests;
