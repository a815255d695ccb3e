//! Fields that field selectors can use.

use serde_json::Value;

use crate::registry::Resource;
use crate::selectors::{FieldSelector, SelectorError};
use crate::value::ValueExt as _;

/// Where a selectable field's value is found.
enum Source {
    /// At this path, as text; booleans and numbers are printed.
    Path(&'static [&'static str]),
    /// At this path, and `false` where there is nothing.
    Flag(&'static [&'static str]),
    /// At this path, and 0 where there is nothing.
    Number(&'static [&'static str]),
    /// The first path that is not empty.
    Either(&'static [&'static str], &'static [&'static str]),
}

use Source::{Either, Flag, Number, Path};

const POD: &[(&str, Source)] = &[
    ("spec.nodeName", Path(&["spec", "nodeName"])),
    ("spec.restartPolicy", Path(&["spec", "restartPolicy"])),
    ("spec.schedulerName", Path(&["spec", "schedulerName"])),
    ("spec.serviceAccountName", Path(&["spec", "serviceAccountName"])),
    ("spec.hostNetwork", Flag(&["spec", "hostNetwork"])),
    ("status.phase", Path(&["status", "phase"])),
    ("status.podIP", Path(&["status", "podIP"])),
    ("status.podIPs", Path(&["status", "podIP"])),
    ("status.nominatedNodeName", Path(&["status", "nominatedNodeName"])),
];

const EVENT: &[(&str, Source)] = &[
    ("involvedObject.kind", Path(&["involvedObject", "kind"])),
    ("involvedObject.namespace", Path(&["involvedObject", "namespace"])),
    ("involvedObject.name", Path(&["involvedObject", "name"])),
    ("involvedObject.uid", Path(&["involvedObject", "uid"])),
    (
        "involvedObject.apiVersion",
        Path(&["involvedObject", "apiVersion"]),
    ),
    (
        "involvedObject.resourceVersion",
        Path(&["involvedObject", "resourceVersion"]),
    ),
    ("involvedObject.fieldPath", Path(&["involvedObject", "fieldPath"])),
    ("reason", Path(&["reason"])),
    ("reportingComponent", Path(&["reportingComponent"])),
    (
        "source",
        Either(&["source", "component"], &["reportingComponent"]),
    ),
    ("type", Path(&["type"])),
];

const EVENT_V1: &[(&str, Source)] = &[
    ("regarding.kind", Path(&["regarding", "kind"])),
    ("regarding.namespace", Path(&["regarding", "namespace"])),
    ("regarding.name", Path(&["regarding", "name"])),
    ("regarding.uid", Path(&["regarding", "uid"])),
    ("regarding.apiVersion", Path(&["regarding", "apiVersion"])),
    (
        "regarding.resourceVersion",
        Path(&["regarding", "resourceVersion"]),
    ),
    ("regarding.fieldPath", Path(&["regarding", "fieldPath"])),
    ("reason", Path(&["reason"])),
    ("reportingController", Path(&["reportingController"])),
    ("type", Path(&["type"])),
];

/// Fields of a resource beyond `metadata.name` and `metadata.namespace`.
fn own_fields(resource: &Resource) -> &'static [(&'static str, Source)] {
    match (&*resource.group, &*resource.plural) {
        ("", "pods") => POD,
        ("", "events") => EVENT,
        ("events.k8s.io", "events") => EVENT_V1,
        ("", "nodes") => &[("spec.unschedulable", Flag(&["spec", "unschedulable"]))],
        ("", "namespaces") => &[
            ("name", Path(&["metadata", "name"])),
            ("status.phase", Path(&["status", "phase"])),
        ],
        ("", "secrets") => &[("type", Path(&["type"]))],
        ("", "services") => &[
            ("spec.clusterIP", Path(&["spec", "clusterIP"])),
            ("spec.type", Path(&["spec", "type"])),
        ],
        ("", "persistentvolumes" | "persistentvolumeclaims") => &[("name", Path(&["metadata", "name"]))],
        ("", "replicationcontrollers") | ("apps", "replicasets") => {
            &[("status.replicas", Number(&["status", "replicas"]))]
        }
        ("batch", "jobs") => &[("status.successful", Number(&["status", "succeeded"]))],
        ("certificates.k8s.io", "certificatesigningrequests") => {
            &[("spec.signerName", Path(&["spec", "signerName"]))]
        }
        ("resource.k8s.io", "resourceslices") => &[
            ("spec.nodeName", Path(&["spec", "nodeName"])),
            ("spec.driver", Path(&["spec", "driver"])),
        ],
        _ => &[],
    }
}

/// The selectable fields of an object with their values (an absent field has an empty value).
pub fn field_labels(resource: &Resource, object: &Value) -> Vec<(String, String)> {
    let own = own_fields(resource);
    let mut fields = Vec::with_capacity(own.len() + 2);
    fields.push((
        "metadata.name".to_owned(),
        object.text(&["metadata", "name"]).to_owned(),
    ));
    if resource.namespaced {
        fields.push((
            "metadata.namespace".to_owned(),
            object.text(&["metadata", "namespace"]).to_owned(),
        ));
    }
    for (name, source) in own {
        fields.push(((*name).to_owned(), value_of(object, source)));
    }
    if let Some(custom) = resource.custom.get() {
        for (name, path) in &custom.selectable {
            let found = path.iter().try_fold(object, |value, name| value.get(name));
            fields.push((name.clone(), found.map(printed).unwrap_or_default()));
        }
    }
    fields
}

/// A leaf of a custom resource as selectors compare it.
fn printed(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
    }
}

fn value_of(object: &Value, source: &Source) -> String {
    match source {
        Path(path) => object.text(path).to_owned(),
        Flag(path) => object.flag(path).to_string(),
        Number(path) => object.int(path).unwrap_or_default().to_string(),
        Either(first, second) => {
            let value = object.text(first);
            if value.is_empty() {
                object.text(second).to_owned()
            } else {
                value.to_owned()
            }
        }
    }
}

/// Whether a field selector on this resource may name this field.
pub fn is_selectable(resource: &Resource, field: &str) -> bool {
    field == "metadata.name"
        || (field == "metadata.namespace" && resource.namespaced)
        || own_fields(resource).iter().any(|(name, _)| *name == field)
        || resource
            .custom
            .get()
            .is_some_and(|custom| custom.selectable.iter().any(|(name, _)| name == field))
}

/// The selector in the vocabulary of the version in which the resource is stored, whose fields [`field_labels`] has.
pub fn stored_selector(resource: &Resource, selector: &FieldSelector) -> FieldSelector {
    if !resource.is("events.k8s.io", "events") {
        return selector.clone();
    }
    selector.renamed(|field| match field.strip_prefix("regarding.") {
        Some(rest) => format!("involvedObject.{rest}"),
        None if field == "reportingController" => "reportingComponent".to_owned(),
        None => field.to_owned(),
    })
}

/// Refuses a selector that names another field, in upstream's words.
pub fn check_field_selector(resource: &Resource, selector: &FieldSelector) -> Result<(), SelectorError> {
    for field in selector.fields() {
        if is_selectable(resource, field) {
            continue;
        }
        if own_fields(resource).is_empty() {
            return Err(SelectorError(format!(
                "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
            )));
        }
        return Err(SelectorError(format!("field label not supported: {field}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;
    use serde_json::json;

    #[test]
    fn events_are_selected_in_both_vocabularies() {
        let stored = registry().find("", "v1", "events").unwrap();
        let event =
            json!({"metadata": {"name": "a"}, "involvedObject": {"kind": "Pod"}, "reportingComponent": "c"});
        let fields = field_labels(stored, &event);
        let newer = registry().find("events.k8s.io", "v1", "events").unwrap();
        for (resource, text) in [
            (stored, "involvedObject.kind=Pod,reportingComponent=c,source=c"),
            (newer, "regarding.kind=Pod,reportingController=c,metadata.name=a"),
        ] {
            let selector = FieldSelector::parse(text).unwrap();
            check_field_selector(resource, &selector).unwrap();
            assert!(stored_selector(resource, &selector).matches(&fields), "{text}");
        }
        let other = FieldSelector::parse("reportingController!=c").unwrap();
        assert!(!stored_selector(newer, &other).matches(&fields));
    }

    #[test]
    fn pods_have_nodes_and_phases() {
        let pods = registry().find("", "v1", "pods").unwrap();
        let pod = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"nodeName": "x"}});
        let fields = field_labels(pods, &pod);
        let get = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        assert_eq!(get("spec.nodeName"), Some("x"));
        assert_eq!(get("status.phase"), Some(""));
        assert_eq!(get("spec.hostNetwork"), Some("false"));
        let bad = FieldSelector::parse("spec.foo=1").unwrap();
        assert_eq!(
            check_field_selector(pods, &bad).unwrap_err().0,
            "field label not supported: spec.foo"
        );
        let services = registry().find("", "v1", "configmaps").unwrap();
        assert_eq!(
            check_field_selector(services, &bad).unwrap_err().0,
            "\"spec.foo\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
    }
}
