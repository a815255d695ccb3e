//! Cases of strategic merge patch, and its laws.

use super::*;
use crate::registry;
use proptest::prelude::*;
use serde_json::json;

fn merge(plural: &str, original: Value, patch: Value) -> Result<Value, PatchError> {
    let group = if plural == "deployments" { "apps" } else { "" };
    strategic_merge(registry().find(group, "v1", plural).unwrap(), &original, &patch)
}

fn containers(names: &[&str]) -> Value {
    let list: Vec<Value> = names.iter().map(|n| json!({"name": n, "image": "i"})).collect();
    json!({"spec": {"containers": list}})
}

fn names(object: &Value) -> Vec<&str> {
    object["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect()
}

#[test]
fn lists_merge_by_key() {
    let merged = merge(
        "pods",
        json!({"spec": {"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}]}}),
        json!({"spec": {"containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}]}]}}),
    )
    .unwrap();
    let env = json!([{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]);
    assert_eq!(
        merged["spec"]["containers"],
        json!([{"name": "a", "image": "1", "env": env}])
    );
}

#[test]
fn lists_without_merge_strategy_are_replaced() {
    let merged = merge(
        "pods",
        json!({"spec": {"containers": [{"name": "a", "command": ["x", "y"]}], "tolerations": [{"key": "a"}]}}),
        json!({"spec": {"containers": [{"name": "a", "command": ["z"]}], "tolerations": [{"key": "b"}]}}),
    )
    .unwrap();
    assert_eq!(merged["spec"]["containers"][0]["command"], json!(["z"]));
    assert_eq!(merged["spec"]["tolerations"], json!([{"key": "b"}]));
}

#[test]
fn items_are_deleted_and_lists_replaced_by_directive() {
    let delete = json!({"spec": {"containers": [{"name": "b", "$patch": "delete"}]}});
    assert_eq!(
        names(&merge("pods", containers(&["a", "b"]), delete).unwrap()),
        ["a"]
    );
    let replace = json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "c", "image": "i"}]}});
    assert_eq!(
        names(&merge("pods", containers(&["a", "b"]), replace).unwrap()),
        ["c"]
    );
    let map = json!({"spec": {"nodeSelector": {"$patch": "replace", "x": "1"}}});
    let merged = merge("pods", json!({"spec": {"nodeSelector": {"a": "b"}}}), map).unwrap();
    assert_eq!(merged["spec"]["nodeSelector"], json!({"x": "1"}));
    let empty = json!({"spec": {"nodeSelector": {"$patch": "delete"}}});
    let merged = merge("pods", json!({"spec": {"nodeSelector": {"a": "b"}}}), empty).unwrap();
    assert_eq!(merged["spec"]["nodeSelector"], json!({}));
}

#[test]
fn element_order_is_obeyed_and_server_items_keep_their_place() {
    let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}],
                                "containers": [{"name": "c", "image": "new"}]}});
    let merged = merge("pods", containers(&["a", "server", "c"]), patch).unwrap();
    // The server's own item was before `c`, so it stays before it.
    assert_eq!(names(&merged), ["server", "c", "a"]);
    assert_eq!(merged["spec"]["containers"][1]["image"], "new");
    let order_only = json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}});
    assert_eq!(
        names(&merge("pods", containers(&["a", "b"]), order_only).unwrap()),
        ["b", "a"]
    );
    let mismatch = json!({"spec": {"$setElementOrder/containers": [{"name": "a"}],
                                   "containers": [{"name": "z"}]}});
    assert!(matches!(
        merge("pods", containers(&["a"]), mismatch),
        Err(PatchError::OrderMismatch { .. })
    ));
}

#[test]
fn new_items_come_before_those_of_the_server() {
    let patch = json!({"spec": {"containers": [{"name": "new", "image": "i"}]}});
    assert_eq!(
        names(&merge("pods", containers(&["a", "b"]), patch).unwrap()),
        ["new", "a", "b"]
    );
}

#[test]
fn retain_keys_clears_the_rest_of_a_union() {
    let original = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    let merged = merge("deployments", original.clone(), patch).unwrap();
    assert_eq!(merged["spec"]["strategy"], json!({"type": "Recreate"}));
    let bad = json!({"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}});
    assert_eq!(merge("deployments", original, bad), Err(PatchError::NotRetained));
    let volumes = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
    let patch = json!({"spec": {"volumes": [
        {"$retainKeys": ["name", "configMap"], "name": "v", "configMap": {"name": "m"}}]}});
    let merged = merge("pods", volumes, patch).unwrap();
    assert_eq!(
        merged["spec"]["volumes"],
        json!([{"name": "v", "configMap": {"name": "m"}}])
    );
}

#[test]
fn scalars_merge_as_sets() {
    let original = json!({"metadata": {"finalizers": ["a", "b"]}});
    let merged = merge(
        "pods",
        original.clone(),
        json!({"metadata": {"finalizers": ["c", "a"]}}),
    )
    .unwrap();
    assert_eq!(merged["metadata"]["finalizers"], json!(["c", "a", "b"]));
    let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"],
                                    "$setElementOrder/finalizers": ["b"]}});
    let merged = merge("pods", original, patch).unwrap();
    assert_eq!(merged["metadata"]["finalizers"], json!(["b"]));
}

#[test]
fn nulls_delete_and_new_maps_lose_nulls() {
    let merged = merge(
        "pods",
        json!({"metadata": {"labels": {"a": "1"}, "name": "n"}}),
        json!({"metadata": {"labels": {"a": null, "b": "2"}, "annotations": {"x": null, "y": "1"}}}),
    )
    .unwrap();
    assert_eq!(
        merged["metadata"],
        json!({"labels": {"b": "2"}, "name": "n", "annotations": {"y": "1"}})
    );
}

#[test]
fn bad_patches_are_refused() {
    let original = containers(&["a"]);
    let patch = json!({"spec": {"containers": [{"image": "x"}]}});
    assert!(matches!(
        merge("pods", original.clone(), patch),
        Err(PatchError::NoMergeKey { .. })
    ));
    let patch = json!({"spec": {"$patch": "nonsense"}});
    assert!(matches!(
        merge("pods", original.clone(), patch),
        Err(PatchError::PatchType(_))
    ));
    assert_eq!(
        merge("pods", original.clone(), json!([])),
        Err(PatchError::NotAnObject)
    );
    let patch = json!({"spec": {"containers": ["x"]}});
    assert_eq!(merge("pods", original, patch), Err(PatchError::MixedList));
}

#[test]
fn service_ports_merge_by_port() {
    let merged = merge(
        "services",
        json!({"spec": {"ports": [{"port": 80, "name": "http"}, {"port": 443, "name": "https"}]}}),
        json!({"spec": {"ports": [{"port": 443, "targetPort": 8443}]}}),
    )
    .unwrap();
    assert_eq!(
        merged["spec"]["ports"],
        json!([{"port": 80, "name": "http"}, {"port": 443, "name": "https", "targetPort": 8443}])
    );
}

fn arbitrary_pod() -> impl Strategy<Value = Value> {
    let names = proptest::sample::subsequence(vec!["a", "b", "c", "d", "e"], 0..=5).prop_shuffle();
    (names, any::<bool>(), 0..3_u8).prop_map(|(names, label, image)| {
        let list: Vec<Value> = names
            .iter()
            .map(|n| json!({"name": n, "image": format!("i:{image}")}))
            .collect();
        let labels = if label {
            json!({"x": "y"})
        } else {
            json!({"z": image.to_string()})
        };
        json!({"metadata": {"labels": labels}, "spec": {"containers": list}})
    })
}

proptest! {
    #[test]
    fn merging_twice_changes_nothing_more(original in arbitrary_pod(), patch in arbitrary_pod()) {
        let once = merge("pods", original, patch.clone()).unwrap();
        let twice = merge("pods", once.clone(), patch).unwrap();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn an_object_patched_with_itself_is_itself(original in arbitrary_pod()) {
        prop_assert_eq!(merge("pods", original.clone(), original.clone()).unwrap(), original);
    }
}
