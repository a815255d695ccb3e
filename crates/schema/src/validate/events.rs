//! Events, in the core group and in their own.

use serde_json::Value;

use super::cause::Causes;
use crate::names;
use crate::value::{ValueExt as _, is_empty};

/// Longest name of a reporting instance, an action or a reason.
const NAME_MAX: usize = 128;
/// Longest note.
const NOTE_MAX: usize = 1024;

fn at_most(c: &mut Causes, o: &Value, name: &str, most: usize) {
    if o.text(&[name]).len() > most {
        c.at(name, |c| {
            c.invalid("", &format!("can have at most {most} characters"))
        });
    }
}

fn named(c: &mut Causes, o: &Value, name: &str) {
    c.text_required(o, name);
    at_most(c, o, name, NAME_MAX);
}

/// What new events say of who reports: `component` and `note` are the fields' names in the version of the request.
fn reported(c: &mut Causes, o: &Value, component: &str, note: &str) {
    c.text_required(o, component);
    let reporter = o.text(&[component]);
    c.at(component, |c| {
        c.invalid_each(reporter, names::qualified_name(reporter))
    });
    named(c, o, "reportingInstance");
    named(c, o, "action");
    named(c, o, "reason");
    at_most(c, o, note, NOTE_MAX);
}

fn about(c: &mut Causes, o: &Value, field: &str) {
    let about = o.text(&[field, "namespace"]);
    let namespace = o.text(&["metadata", "namespace"]);
    // Events of objects without a namespace are kept in these.
    let fits = match about {
        "" if is_empty(o.get("eventTime")) => matches!(namespace, "" | "default"),
        "" => matches!(namespace, "default" | "kube-system"),
        about => about == namespace,
    };
    if !fits {
        c.at("involvedObject.namespace", |c| {
            c.invalid(about, "does not match event.namespace")
        });
    }
}

/// `Event` of the core group, which old clients write without `eventTime`.
pub(super) fn core(c: &mut Causes, o: &Value) {
    about(c, o, "involvedObject");
    if !is_empty(o.get("eventTime")) {
        reported(c, o, "reportingComponent", "message");
    }
}

/// `Event` of `events.k8s.io/v1`.
pub(super) fn v1(c: &mut Causes, o: &Value) {
    about(c, o, "regarding");
    if is_empty(o.get("eventTime")) {
        c.at("eventTime", |c| c.required(""));
        return;
    }
    reported(c, o, "reportingController", "note");
    let kind = o.text(&["type"]);
    if !matches!(kind, "Normal" | "Warning") {
        c.at("type", |c| c.invalid("", &format!("has invalid value: {kind}")));
    }
    for (name, internal) in [
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
        ("deprecatedSource", "source"),
    ] {
        let value = o.get(name);
        if !is_empty(value) && value.and_then(Value::as_i64) != Some(0) {
            c.at(internal, |c| c.invalid("", "needs to be unset"));
        }
    }
    c.field(o, "series", |c, series| {
        let count = series.int(&["count"]).unwrap_or_default();
        if count < 2 {
            c.at("count", |c| c.invalid("", "should be at least 2"));
        }
        if series.at(&["lastObservedTime"]).is_none() {
            c.at("lastObservedTime", |c| c.required(""));
        }
    });
}

/// Only the series of such an event goes on.
pub(super) fn v1_change(c: &mut Causes, old: &Value, new: &Value) {
    for name in [
        "regarding",
        "reason",
        "eventTime",
        "action",
        "related",
        "reportingController",
        "reportingInstance",
        "type",
    ] {
        c.immutable(old, new, name);
    }
}
