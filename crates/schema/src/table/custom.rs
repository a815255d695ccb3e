//! Tables of custom resources: the columns that their definition asks for.

use serde_json::{Value, json};

use crate::custom::{Custom, PrinterColumn};
use crate::duration;
use crate::value::ValueExt as _;

/// The columns, as tables carry them.
pub(super) fn definitions(custom: &Custom) -> Vec<Value> {
    let mut columns = vec![json!({
        "name": "Name", "type": "string", "format": "name",
        "description": "Name, unique for the kind in its namespace", "priority": 0,
    })];
    if custom.columns.is_empty() {
        columns.push(json!({
            "name": "Age", "type": "date", "format": "", "description": "When the object was made", "priority": 0,
        }));
    }
    columns.extend(custom.columns.iter().map(|c| {
        json!({
            "name": c.name, "type": c.kind, "format": c.format, "description": c.description,
            "priority": c.priority,
        })
    }));
    columns
}

/// The cells of one object.
pub(super) fn row(custom: &Custom, object: &Value, now: i64) -> Vec<Value> {
    let mut cells = vec![object.text(&["metadata", "name"]).into()];
    if custom.columns.is_empty() {
        let made = object.text(&["metadata", "creationTimestamp"]);
        cells.push(duration::age(made, now).into());
    }
    cells.extend(custom.columns.iter().map(|column| cell(column, object, now)));
    cells
}

fn cell(column: &PrinterColumn, object: &Value, now: i64) -> Value {
    let found = column.path.find(object);
    let Some(first) = found.first() else {
        return Value::Null;
    };
    match column.kind.as_str() {
        "string" => {
            let texts: Vec<String> = found.iter().map(|value| printed(value)).collect();
            texts.join(" ").into()
        }
        "integer" => match first.as_f64() {
            Some(number) => json!(number as i64),
            None => Value::Null,
        },
        "number" if first.is_number() => (*first).clone(),
        "boolean" if first.is_boolean() => (*first).clone(),
        "date" => match first.as_str() {
            Some(text) if duration::parse_time(text).is_some() => duration::age(text, now).into(),
            Some(_) => "<invalid>".into(),
            None => Value::Null,
        },
        _ => Value::Null,
    }
}

fn printed(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
