//! Custom resources: served, validated, published, deleted; by every server.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{api, kubectl, namespace};
use hikube_testkit::Cluster;
use serde_json::{Value, json};
use std::time::Duration;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const OBJECTS: &str = "/apis/example.com/v1/namespaces/t/widgets";

fn schema() -> Value {
    json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["size"], "description": "What is wanted.", "properties": {
            "size": {"type": "integer", "minimum": 1},
            "colour": {"type": "string", "default": "blue", "enum": ["blue", "red"]},
            "replicas": {"type": "integer"},
            "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {
                    "name": {"type": "string"}, "count": {"type": "integer"},
                }}},
        }},
        "status": {"type": "object", "properties": {
            "replicas": {"type": "integer"}, "selector": {"type": "string"},
        }},
    }})
}

fn definition(plural: &str, kind: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.example.com")},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind, "shortNames": [format!("{plural}x")]},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema()},
                    "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                        "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
                    "selectableFields": [{"jsonPath": ".spec.colour"}],
                    "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]},
                {"name": "v1beta1", "served": true, "storage": false, "deprecated": true,
                    "schema": {"openAPIV3Schema": schema()}},
            ],
        },
    })
}

async fn define(cluster: &Cluster, definition: Value) -> Value {
    let name = definition["metadata"]["name"].as_str().unwrap().to_owned();
    let (code, made) = api(cluster, "POST", DEFINITIONS, definition).await;
    assert_eq!(code, 201, "{made}");
    until(cluster, &format!("{DEFINITIONS}/{name}"), |o| {
        condition(o, "NamesAccepted").is_some()
    })
    .await
}

/// The object at a path once it is as wanted; a controller of the server gets it there.
async fn until(cluster: &Cluster, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..200 {
        let (_, object) = api(cluster, "GET", path, Value::Null).await;
        if wanted(&object) {
            return object;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{path} is not as wanted");
}

fn condition(object: &Value, kind: &str) -> Option<String> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|c| c["type"] == kind)?;
    found["status"].as_str().map(str::to_owned)
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_follow_their_schema() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    assert_eq!(api(&cluster, "GET", OBJECTS, Value::Null).await.0, 404);
    let made = define(&cluster, definition("widgets", "Widget")).await;
    assert_eq!(condition(&made, "Established").as_deref(), Some("True"));
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(made["status"]["acceptedNames"]["singular"], "widget");

    let mut body = widget("a", json!({"size": 2, "unknown": 1}));
    body["status"] = json!({"replicas": 5});
    let (code, made) = api(&cluster, "POST", OBJECTS, body.clone()).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(
        made["spec"],
        json!({"size": 2, "colour": "blue"}),
        "pruned and defaulted"
    );
    assert!(made.get("status").is_none(), "the status has a path of its own");
    assert_eq!(made["metadata"]["generation"], 1);
    let (code, status) = api(
        &cluster,
        "POST",
        &format!("{OBJECTS}?fieldValidation=Strict"),
        body,
    )
    .await;
    assert_eq!(code, 400);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("unknown field \"spec.unknown\""),
        "{status}"
    );

    for (spec, message) in [
        (json!({}), "spec.size: Required value"),
        (
            json!({"size": 0}),
            "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1",
        ),
        (
            json!({"size": "x"}),
            "spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\"",
        ),
        (
            json!({"size": 1, "colour": "green"}),
            "spec.colour: Unsupported value: \"green\": supported values: \"blue\", \"red\"",
        ),
        (
            json!({"size": 1, "parts": [{"name": "a"}, {"name": "a"}]}),
            "spec.parts[1]: Duplicate value: {\"name\":\"a\"}",
        ),
    ] {
        let (code, status) = api(&cluster, "POST", OBJECTS, widget("b", spec)).await;
        let expected = format!("Widget.example.com \"b\" is invalid: {message}");
        assert_eq!((code, status["message"].as_str()), (422, Some(expected.as_str())));
    }

    let path = format!("{OBJECTS}/a");
    let (code, changed) = api(
        &cluster,
        "PATCH",
        &path,
        json!({"spec": {"size": 3}, "status": {"replicas": 9}}),
    )
    .await;
    assert_eq!((code, &changed["metadata"]["generation"]), (200, &json!(2)));
    assert!(changed.get("status").is_none());
    let status = json!({"status": {"replicas": 4, "selector": "a=b"}, "spec": {"size": 99}});
    let (code, changed) = api(&cluster, "PATCH", &format!("{path}/status"), status).await;
    assert_eq!(
        (code, &changed["spec"]["size"], &changed["status"]["replicas"]),
        (200, &json!(3), &json!(4))
    );
    assert_eq!(changed["metadata"]["generation"], 2);
    let (code, scale) = api(
        &cluster,
        "PATCH",
        &format!("{path}/scale"),
        json!({"spec": {"replicas": 7}}),
    )
    .await;
    assert_eq!(code, 200, "{scale}");
    assert_eq!(scale["status"], json!({"replicas": 4, "selector": "a=b"}));
    let (_, now) = api(&cluster, "GET", &path, Value::Null).await;
    assert_eq!(now["spec"]["replicas"], 7);
    // An update must say what it is based on.
    let mut blind = now.clone();
    blind["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("resourceVersion");
    assert_eq!(api(&cluster, "PUT", &path, blind).await.0, 422);
    assert_eq!(api(&cluster, "PUT", &path, now).await.0, 200);

    // The other version shows the same objects.
    let (_, beta) = api(&cluster, "GET", &path.replace("/v1/", "/v1beta1/"), Value::Null).await;
    assert_eq!(
        (&beta["apiVersion"], &beta["spec"]["size"]),
        (&json!("example.com/v1beta1"), &json!(3))
    );
    let red = widget("red", json!({"size": 1, "colour": "red"}));
    assert_eq!(api(&cluster, "POST", OBJECTS, red).await.0, 201);
    let (_, list) = api(
        &cluster,
        "GET",
        &format!("{OBJECTS}?fieldSelector=spec.colour%3Dred"),
        Value::Null,
    )
    .await;
    assert_eq!(
        (list["items"].as_array().unwrap().len(), &list["kind"]),
        (1, &json!("WidgetList"))
    );
    let (code, _) = api(
        &cluster,
        "GET",
        &format!("{OBJECTS}?fieldSelector=spec.size%3D1"),
        Value::Null,
    )
    .await;
    assert_eq!(code, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_are_checked_and_share_names() {
    let cluster = Cluster::start().await.unwrap();
    let mut bad = definition("widgets", "Widget");
    bad["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["x"] = json!({});
    let (code, status) = api(&cluster, "POST", DEFINITIONS, bad).await;
    assert_eq!(code, 422);
    let expected = "spec.versions[0].schema.openAPIV3Schema.properties[x].type: Required value: must not be empty for \
                    specified object fields";
    assert!(status["message"].as_str().unwrap().contains(expected), "{status}");
    define(&cluster, definition("widgets", "Widget")).await;
    let second = define(&cluster, definition("gadgets", "Widget")).await;
    assert_eq!(condition(&second, "NamesAccepted").as_deref(), Some("False"));
    assert_eq!(condition(&second, "Established").as_deref(), Some("False"));
    assert_eq!(
        api(&cluster, "GET", "/apis/example.com/v1/gadgets", Value::Null)
            .await
            .0,
        404
    );
    let (code, _) = api(
        &cluster,
        "DELETE",
        &format!("{DEFINITIONS}/widgets.example.com"),
        Value::Null,
    )
    .await;
    assert_eq!(code, 200);
    let path = format!("{DEFINITIONS}/gadgets.example.com");
    until(&cluster, &path, |o| {
        condition(o, "Established").as_deref() == Some("True")
    })
    .await;
    assert_eq!(
        api(&cluster, "GET", "/apis/example.com/v1/gadgets", Value::Null)
            .await
            .0,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_definition_takes_its_objects_along() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    define(&cluster, definition("widgets", "Widget")).await;
    let mut held = widget("held", json!({"size": 1}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    assert_eq!(api(&cluster, "POST", OBJECTS, held).await.0, 201);
    assert_eq!(
        api(&cluster, "POST", OBJECTS, widget("free", json!({"size": 1})))
            .await
            .0,
        201
    );
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let (code, marked) = api(&cluster, "DELETE", &path, Value::Null).await;
    assert_eq!(
        (code, condition(&marked, "Terminating").as_deref()),
        (200, Some("True")),
        "{marked}"
    );
    until(&cluster, &format!("{OBJECTS}/free"), |o| o["code"] == 404).await;
    let (code, _) = api(&cluster, "POST", OBJECTS, widget("late", json!({"size": 1}))).await;
    assert_eq!(code, 405);
    let release = json!({"metadata": {"finalizers": null}});
    assert_eq!(
        api(&cluster, "PATCH", &format!("{OBJECTS}/held"), release)
            .await
            .0,
        200
    );
    until(&cluster, &path, |o| o["code"] == 404).await;
    assert_eq!(api(&cluster, "GET", OBJECTS, Value::Null).await.0, 404);
    // The same names again are another resource.
    define(&cluster, definition("widgets", "Widget")).await;
    let (code, list) = api(&cluster, "GET", OBJECTS, Value::Null).await;
    assert_eq!((code, list["items"].as_array().unwrap().len()), (200, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_default_reaches_stored_objects_and_a_restart_changes_nothing() {
    let mut cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    define(&cluster, definition("widgets", "Widget")).await;
    assert_eq!(
        api(&cluster, "POST", OBJECTS, widget("a", json!({"size": 1})))
            .await
            .0,
        201
    );
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let (_, mut now) = api(&cluster, "GET", &path, Value::Null).await;
    now["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["shape"] =
        json!({"type": "string", "default": "round"});
    let (code, status) = api(&cluster, "PUT", &path, now).await;
    assert_eq!(code, 200, "{status}");
    let object = format!("{OBJECTS}/a");
    let (_, seen) = api(&cluster, "GET", &object, Value::Null).await;
    assert_eq!(seen["spec"]["shape"], "round");
    cluster.stop_server().await.unwrap();
    cluster.start_server();
    cluster.wait_ready().await.unwrap();
    let (code, again) = api(&cluster, "GET", &object, Value::Null).await;
    assert_eq!((code, again), (200, seen));
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_knows_custom_resources() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    define(&cluster, definition("widgets", "Widget")).await;
    let before = cluster
        .admin_request("GET", "/openapi/v3", &[], "")
        .await
        .unwrap()
        .1;
    assert!(before.contains("apis/example.com/v1beta1"), "{before}");
    let (_, v2) = cluster
        .admin_request("GET", "/openapi/v2", &[("accept", "application/json")], "")
        .await
        .unwrap();
    let v2: Value = serde_json::from_str(&v2).unwrap();
    assert_eq!(
        v2["definitions"]["com.example.v1.Widget"]["properties"]["spec"]["properties"]["size"]["type"],
        "integer"
    );
    let admin = cluster.admin.clone();
    tokio::task::spawn_blocking(move || {
        let run = |arguments: &[&str], input: &str| -> String {
            let all: Vec<&str> = ["-n", "t"].iter().chain(arguments).copied().collect();
            let (ok, out, errors) = kubectl(&admin, &all, input);
            assert!(ok, "{arguments:?}: {errors}");
            out
        };
        let manifest = "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: a}\nspec: {size: 4, parts: [{name: x, count: 1}]}\n";
        run(&["apply", "-f", "-"], manifest);
        assert!(run(&["apply", "-f", "-"], manifest).contains("unchanged"));
        run(&["apply", "-f", "-"], &manifest.replace("size: 4", "size: 5"));
        let table = run(&["get", "widgetsx"], "");
        assert!(table.contains("SIZE") && table.contains('5'), "{table}");
        run(&["apply", "--server-side", "-f", "-"], &manifest.replace("count: 1", "count: 2"));
        assert_eq!(run(&["get", "widget", "a", "-o", "jsonpath={.spec.parts[0].count}"], ""), "2");
        let explained = run(&["explain", "widget.spec"], "");
        assert!(explained.contains("What is wanted.") && explained.contains("colour"), "{explained}");
        assert!(run(&["api-resources", "--api-group=example.com"], "").contains("widgets"));
        run(&["scale", "widget", "a", "--replicas=3"], "");
        run(&["wait", "--for=jsonpath={.spec.replicas}=3", "widget/a", "--timeout=5s"], "");
        run(&["delete", "widget", "a"], "");
    })
    .await
    .unwrap();
}
