//! Jobs: the selector that ties pods to exactly one Job.

use serde_json::{Map, Value, json};

use crate::value::ValueExt as _;

/// Labels the template with the Job's uid and name and selects by the uid, unless the client brings its own selector.
pub(super) fn prepare_create(job: &mut Value) {
    if job.flag(&["spec", "manualSelector"]) {
        return;
    }
    let uid = job.text(&["metadata", "uid"]).to_owned();
    let name = job.text(&["metadata", "name"]).to_owned();
    let Some(Value::Object(spec)) = job.get_mut("spec") else {
        return;
    };
    let Some(Value::Object(template)) = spec.get_mut("template") else {
        return;
    };
    let metadata = template
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()));
    let Some(metadata) = metadata.as_object_mut() else {
        return;
    };
    let labels = metadata
        .entry("labels")
        .or_insert_with(|| Value::Object(Map::new()));
    let Some(labels) = labels.as_object_mut() else {
        return;
    };
    // The names without a prefix are those of old releases; clients still select by them.
    for (key, value) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ] {
        labels.insert(key.to_owned(), value.as_str().into());
    }
    let selector = spec.entry("selector").or_insert_with(|| json!({}));
    if let Some(selector) = selector.as_object_mut() {
        let wanted = selector.entry("matchLabels").or_insert_with(|| json!({}));
        if let Some(wanted) = wanted.as_object_mut() {
            wanted.insert("batch.kubernetes.io/controller-uid".to_owned(), uid.into());
        }
    }
}
