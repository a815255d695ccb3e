//! Resources made from definitions.

use super::*;

#[test]
fn versions_are_ordered_by_preference() {
    let mut names = ["v1alpha1", "foo", "v2", "v1beta2", "v10", "v1beta10", "v1"];
    names.sort_by_key(|name| std::cmp::Reverse(preference(name)));
    assert_eq!(
        names,
        ["v10", "v2", "v1", "v1beta10", "v1beta2", "v1alpha1", "foo"]
    );
}

#[test]
fn columns_find_their_values() {
    let object = json!({
        "metadata": {"annotations": {"example.com/a": "x"}},
        "status": {"conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True"}]},
        "spec": {"items": [{"n": 1}, {"n": 2}]},
    });
    let find = |path: &str| -> Vec<Value> {
        let path = JsonPath::parse(path);
        path.find(&object).into_iter().cloned().collect()
    };
    assert_eq!(
        find(".status.conditions[?(@.type==\"Ready\")].status"),
        [json!("True")]
    );
    assert_eq!(
        find(".status.conditions[?(@.type=='A')].status"),
        [json!("False")]
    );
    assert_eq!(find(".spec.items[*].n"), [json!(1), json!(2)]);
    assert_eq!(find(".spec.items[-1].n"), [json!(2)]);
    assert_eq!(find(".spec.items[0]"), [json!({"n": 1})]);
    assert_eq!(find(".metadata.annotations.example\\.com/a"), [json!("x")]);
    assert_eq!(find(".metadata.annotations['example.com/a']"), [json!("x")]);
    for nothing in ["", ".nope", ".spec[", ".spec.items[?(x)]", ".spec.items[9]"] {
        assert!(find(nothing).is_empty(), "{nothing}");
    }
}

#[test]
fn a_definition_becomes_resources() {
    let definition = json!({
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList", "shortNames": ["f"]},
            "versions": [
                {"name": "v1beta1", "served": false, "storage": false, "deprecated": true,
                    "schema": {"openAPIV3Schema": {"type": "object"}}},
                {"name": "v1", "served": true, "storage": true,
                    "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n"}},
                    "selectableFields": [{"jsonPath": ".spec.colour"}],
                    "schema": {"openAPIV3Schema": {"type": "object"}}},
            ],
        },
    });
    let found = versions(&definition);
    let names: Vec<&str> = found.iter().map(|v| v.resource.version.as_ref()).collect();
    assert_eq!(names, ["v1", "v1beta1"]);
    assert!(found[0].storage && found[0].served && !found[1].served);
    assert_eq!(
        found[1].deprecated.as_deref(),
        Some("example.com/v1beta1 Foo is deprecated")
    );
    let resource = &found[0].resource;
    assert_eq!(resource.storage_prefix, "/registry/example.com/foos");
    assert!(resource.has_status && resource.subresource("scale").is_some());
    assert_eq!(found[0].custom.selectable[0].0, "spec.colour");
    assert_eq!(
        found[0].custom.scale.as_ref().unwrap().spec_replicas,
        ["spec", "n"]
    );
}
