//! The algebra of field sets, and merging by owners.

use super::*;
use crate::registry;
use proptest::prelude::*;
use serde_json::json;

const NOW: &str = "2026-01-01T00:00:00Z";

fn resource(plural: &str) -> &'static Resource {
    let group = if plural == "deployments" { "apps" } else { "" };
    registry().find(group, "v1", plural).unwrap()
}

fn manager<'a>(name: &'a str, ignored: &'a Set) -> Manager<'a> {
    Manager {
        name,
        subresource: "",
        now: NOW,
        ignored,
    }
}

fn applied(plural: &str, live: &Value, config: Value, name: &str, force: bool) -> Result<Value, ApplyError> {
    apply(
        resource(plural),
        live,
        &config,
        &manager(name, &Set::default()),
        force,
    )
}

fn updated(plural: &str, old: &Value, change: impl FnOnce(&mut Value), name: &str) -> Value {
    let mut new = old.clone();
    change(&mut new);
    let sent = new.clone();
    track_update(
        resource(plural),
        old,
        &mut new,
        &sent,
        &manager(name, &Set::default()),
    );
    new
}

fn fields(object: &Value, name: &str) -> Value {
    let all = object["metadata"]["managedFields"].as_array().unwrap();
    let entry = all.iter().find(|e| e["manager"] == name);
    entry.map_or(Value::Null, |e| e["fieldsV1"].clone())
}

/// An object that nobody has filled.
fn bare() -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}})
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

#[test]
fn a_created_object_belongs_to_its_creator() {
    let mut deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "a", "labels": {"app": "a"}, "uid": "x"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "a"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [
                {"name": "c", "image": "i", "resources": {}, "ports": [{"containerPort": 80, "protocol": "TCP"}]},
            ]}}},
    });
    track_create(
        resource("deployments"),
        &mut deployment,
        &manager("kubectl", &Set::default()),
    );
    // As upstream writes it for the same object.
    let expected = json!({
        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
        "f:spec": {
            "f:replicas": {}, "f:selector": {},
            "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}}, "f:type": {}},
            "f:template": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {
                    ".": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                    "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                        ".": {}, "f:containerPort": {}, "f:protocol": {},
                    }},
                }}},
            },
        },
    });
    assert_eq!(fields(&deployment, "kubectl"), expected);
    let entry = &deployment["metadata"]["managedFields"][0];
    assert_eq!(
        (
            &entry["operation"],
            &entry["apiVersion"],
            &entry["fieldsType"],
            &entry["time"]
        ),
        (
            &json!("Update"),
            &json!("apps/v1"),
            &json!("FieldsV1"),
            &json!(NOW)
        )
    );
}

#[test]
fn what_is_not_applied_any_more_goes() {
    let one = applied(
        "configmaps",
        &bare(),
        map(json!({"a": "1", "b": "2"})),
        "x",
        false,
    )
    .unwrap();
    assert_eq!(fields(&one, "x"), json!({"f:data": {"f:a": {}, "f:b": {}}}));
    let two = applied("configmaps", &one, map(json!({"a": "1"})), "x", false).unwrap();
    assert_eq!(two["data"], json!({"a": "1"}));
    // Somebody else's fields stay, and are not touched.
    let other = applied("configmaps", &one, map(json!({"b": "2"})), "y", false).unwrap();
    let left = applied("configmaps", &other, map(json!({"a": "1"})), "x", false).unwrap();
    assert_eq!(left["data"], json!({"a": "1", "b": "2"}));
    assert_eq!(fields(&left, "x"), json!({"f:data": {"f:a": {}}}));
    let all = applied(
        "configmaps",
        &two,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}),
        "x",
        false,
    );
    assert_eq!(all.unwrap().get("data"), None);
}

#[test]
fn conflicts_name_owner_and_field() {
    let live = applied(
        "configmaps",
        &bare(),
        map(json!({"a": "1", "b": "1"})),
        "x",
        false,
    )
    .unwrap();
    let error = applied("configmaps", &live, map(json!({"a": "2"})), "y", false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"x\": .data.a"
    );
    let live = updated("configmaps", &live, |o| o["data"]["b"] = "3".into(), "edit");
    let error = applied("configmaps", &live, map(json!({"a": "2", "b": "2"})), "y", false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"edit\" using v1:\n- .data.b\nconflicts with \"x\":\n- .data.a"
    );
    let forced = applied("configmaps", &live, map(json!({"a": "2", "b": "2"})), "y", true).unwrap();
    assert_eq!(forced["data"], json!({"a": "2", "b": "2"}));
    assert_eq!(forced["metadata"]["managedFields"].as_array().unwrap().len(), 1);
    // The same value is shared, not taken.
    let shared = applied("configmaps", &forced, map(json!({"a": "2"})), "z", false).unwrap();
    assert_eq!(fields(&shared, "y"), json!({"f:data": {"f:a": {}, "f:b": {}}}));
}

#[test]
fn items_merge_by_their_keys() {
    let service = |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": ports}});
    let empty = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}});
    let one = applied(
        "services",
        &empty,
        service(json!([{"port": 80}, {"port": 53, "protocol": "UDP"}])),
        "x",
        false,
    );
    let one = one.unwrap();
    let two = applied(
        "services",
        &one,
        service(json!([{"port": 443, "name": "tls"}])),
        "y",
        false,
    )
    .unwrap();
    assert_eq!(two["spec"]["ports"].as_array().unwrap().len(), 3);
    let three = applied(
        "services",
        &two,
        service(json!([{"port": 53, "protocol": "UDP"}])),
        "x",
        false,
    )
    .unwrap();
    let ports: Vec<&Value> = three["spec"]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| &p["port"])
        .collect();
    assert_eq!(ports, [&json!(53), &json!(443)]);
    let twice = service(json!([{"port": 80}, {"port": 80, "protocol": "TCP"}]));
    let error = applied("services", &one, twice, "x", false).unwrap_err();
    assert_eq!(
        error.to_string(),
        ".spec.ports: duplicate entries for key [port=80,protocol=\"TCP\"]"
    );
    let keyless = service(json!([{"name": "a"}]));
    let error = applied("services", &one, keyless, "x", false)
        .unwrap_err()
        .to_string();
    assert!(error.contains("omits key field \"port\""), "{error}");
}

#[test]
fn order_follows_who_applies() {
    let pod = |names: &[&str]| {
        let list: Vec<Value> = names.iter().map(|n| json!({"name": n})).collect();
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": list}})
    };
    let names = |o: &Value| -> Vec<String> {
        let list = o["spec"]["containers"].as_array().unwrap();
        list.iter()
            .map(|c| c["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let empty = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}});
    let live = applied("pods", &empty, pod(&["a", "b", "c", "d"]), "x", false).unwrap();
    let swapped = applied("pods", &live, pod(&["c", "a"]), "y", false).unwrap();
    let swapped = names(&swapped);
    let at = |name: &str| swapped.iter().position(|n| n == name).unwrap();
    assert_eq!(swapped.len(), 4);
    assert!(at("c") < at("a") && at("b") < at("d"), "{swapped:?}");
}

#[test]
fn undeclared_fields_are_refused() {
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "nope": 1});
    assert_eq!(
        applied("configmaps", &bare(), config, "x", false),
        Err(ApplyError::Invalid(".nope: field not declared in schema".into()))
    );
}

#[test]
fn updates_take_fields_and_a_reset_forgets() {
    let live = applied("configmaps", &bare(), map(json!({"a": "1"})), "x", false).unwrap();
    let new = updated("configmaps", &live, |o| o["data"] = json!({"b": "1"}), "edit");
    assert_eq!(fields(&new, "x"), Value::Null);
    assert_eq!(fields(&new, "edit"), json!({"f:data": {"f:b": {}}}));
    let unchanged = updated("configmaps", &new, |_| {}, "other");
    assert_eq!(unchanged, new);
    for reset in [json!([]), json!([{}])] {
        let new = updated(
            "configmaps",
            &new,
            |o| o["metadata"]["managedFields"] = reset,
            "edit",
        );
        assert!(new["metadata"].get("managedFields").is_none());
        // Nothing is tracked until somebody applies, who then finds the owner of everything before.
        let new = updated("configmaps", &new, |o| o["data"]["c"] = "1".into(), "edit");
        assert!(new["metadata"].get("managedFields").is_none());
        let first = applied("configmaps", &new, map(json!({"d": "1"})), "x", false).unwrap();
        assert_eq!(
            fields(&first, "before-first-apply"),
            json!({"f:data": {".": {}, "f:b": {}, "f:c": {}}})
        );
    }
}

#[test]
fn old_entries_are_merged() {
    let mut live = applied("configmaps", &bare(), map(json!({"a": "1"})), "x", false).unwrap();
    for n in 0..15 {
        live = updated(
            "configmaps",
            &live,
            |o| o["data"][format!("k{n}")] = "1".into(),
            &format!("m{n:02}"),
        );
    }
    let entries = live["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 11);
    let old = fields(&live, "ancient-changes");
    assert_eq!(old["f:data"].as_object().unwrap().len(), 6);
}

#[test]
fn kubectl_takes_over_what_it_applied_itself() {
    let annotation = map(json!({"a": "1"})).to_string();
    let mut live = map(json!({"a": "1", "b": "1"}));
    live["metadata"]["annotations"] = json!({LAST_APPLIED: annotation});
    track_create(
        resource("configmaps"),
        &mut live,
        &manager("kubectl-client-side-apply", &Set::default()),
    );
    let new = applied("configmaps", &live, map(json!({"a": "2"})), "kubectl", false).unwrap();
    assert_eq!(new["data"], json!({"a": "2", "b": "1"}));
    let last = new["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap();
    assert!(last.contains(r#""a":"2""#), "{last}");
    // A field that it did not apply is a conflict as for anybody.
    let error = applied(
        "configmaps",
        &live,
        map(json!({"a": "2", "b": "2"})),
        "kubectl",
        false,
    )
    .unwrap_err();
    assert!(
        error.to_string().contains("1 conflict:") && error.to_string().ends_with(".data.b"),
        "{error}"
    );
    assert!(applied("configmaps", &live, map(json!({"a": "2"})), "other", false).is_err());
}

#[test]
fn fields_of_another_path_are_not_taken() {
    let ignored = Set::of(&["status"]);
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
        "spec": {"nodeName": "n"}, "status": {"phase": "Pending"}});
    track_create(resource("pods"), &mut pod, &manager("x", &ignored));
    assert_eq!(fields(&pod, "x"), json!({"f:spec": {"f:nodeName": {}}}));
}

/// Data of a config map over few keys and values.
fn data() -> impl Strategy<Value = std::collections::BTreeMap<String, String>> {
    proptest::collection::btree_map("[a-d]", "[0-2]", 0..4)
}

proptest! {
    /// What a manager forces is what it gets; what others own besides stays; applying again changes nothing.
    #[test]
    fn forced_configurations_win(a in data(), b in data(), c in data()) {
        // An empty map that nobody owns any more goes, and would come back.
        prop_assume!(!c.is_empty());
        let live = applied("configmaps", &bare(), map(json!(a)), "x", false).unwrap();
        let live = applied("configmaps", &live, map(json!(b)), "y", true).unwrap();
        let last = applied("configmaps", &live, map(json!(c)), "x", true).unwrap();
        let mut expected = b.clone();
        expected.extend(c.clone());
        let found = last.get("data").cloned().unwrap_or(json!({}));
        prop_assert_eq!(found, json!(expected));
        let again = applied("configmaps", &last, map(json!(c)), "x", false).unwrap();
        prop_assert_eq!(again, last);
    }
}

#[test]
fn who_applies_an_empty_field_removes_nothing_below_it() {
    let live = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "status": {"loadBalancer": {}}});
    let config = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "status": {}});
    let once = applied("services", &live, config.clone(), "a", false).unwrap();
    let twice = applied("services", &once, config, "a", false).unwrap();
    assert_eq!(twice["status"], json!({"loadBalancer": {}}));
    assert_eq!(twice, once);
}
