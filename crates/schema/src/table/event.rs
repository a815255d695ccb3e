//! Events, of both groups.

use serde_json::Value;

use super::{Column, name, text, wide};
use crate::duration;
use crate::value::ValueExt as _;

pub(super) const COLUMNS: &[Column] = &[
    text("Last Seen", "Time since it was last observed"),
    text("Type", "Normal or Warning"),
    text("Reason", "Short reason, for machines"),
    text("Object", "What it is about"),
    wide("Subobject", "Part of that object"),
    wide("Source", "Who reports it"),
    text("Message", "What happened"),
    wide("First Seen", "Time since it was first observed"),
    Column {
        kind: "string",
        ..wide("Count", "How often it was observed")
    },
    Column {
        format: "name",
        ..wide("Name", "Name of the event")
    },
];

/// Names of the fields in one of the two groups.
struct Fields {
    about: &'static str,
    message: &'static str,
    first: &'static str,
    last: &'static str,
    count: &'static str,
    source: &'static str,
    reporter: &'static str,
}

const CORE: Fields = Fields {
    about: "involvedObject",
    message: "message",
    first: "firstTimestamp",
    last: "lastTimestamp",
    count: "count",
    source: "source",
    reporter: "reportingComponent",
};

const V1: Fields = Fields {
    about: "regarding",
    message: "note",
    first: "deprecatedFirstTimestamp",
    last: "deprecatedLastTimestamp",
    count: "deprecatedCount",
    source: "deprecatedSource",
    reporter: "reportingController",
};

pub(super) fn row(event: &Value, now: i64) -> Vec<Value> {
    cells(event, now, &CORE)
}

pub(super) fn row_v1(event: &Value, now: i64) -> Vec<Value> {
    cells(event, now, &V1)
}

fn cells(event: &Value, now: i64, fields: &Fields) -> Vec<Value> {
    let time = |path: &[&str]| {
        let text = event.text(path);
        (!text.is_empty()).then(|| duration::age(text, now))
    };
    let first = time(&[fields.first]).or_else(|| time(&["eventTime"]));
    let first = first.unwrap_or_else(|| "<unknown>".to_owned());
    let mut last = time(&[fields.last]).unwrap_or_else(|| first.clone());
    let mut count = event.int(&[fields.count]).unwrap_or_default();
    if event.at(&["series"]).is_some() {
        last = time(&["series", "lastObservedTime"]).unwrap_or(last);
        count = event.int(&["series", "count"]).unwrap_or(count);
    } else if count == 0 {
        count = 1;
    }
    let about = |field| event.text(&[fields.about, field]);
    let object = match (about("kind"), about("name")) {
        ("", "") => String::new(),
        (kind, "") => kind.to_lowercase(),
        (kind, name) => format!("{}/{name}", kind.to_lowercase()),
    };
    vec![
        last.into(),
        event.text(&["type"]).into(),
        event.text(&["reason"]).into(),
        object.into(),
        about("fieldPath").into(),
        source(event, fields).into(),
        event.text(&[fields.message]).trim().into(),
        first.into(),
        count.into(),
        name(event),
    ]
}

fn source(event: &Value, fields: &Fields) -> String {
    let component = match event.text(&[fields.source, "component"]) {
        "" => event.text(&[fields.reporter]),
        component => component,
    };
    let host = match event.text(&[fields.source, "host"]) {
        "" => event.text(&["reportingInstance"]),
        host => host,
    };
    if host.is_empty() {
        component.to_owned()
    } else {
        format!("{component}, {host}")
    }
}
