//! Server-side apply over raw HTTP and with kubectl.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{api, kubectl, namespace};
use hikube_testkit::Cluster;
use serde_json::{Value, json};

async fn apply(cluster: &Cluster, path: &str, query: &str, config: &str) -> (u16, Value) {
    let headers = [("content-type", "application/apply-patch+yaml")];
    let path = format!("{path}?{query}");
    let (code, text) = cluster
        .admin_request("PATCH", &path, &headers, config)
        .await
        .unwrap();
    (code, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn config(data: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata: {data}\n")
}

fn managers(object: &Value) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let entries = object["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    entries
        .iter()
        .map(|e| (text(&e["manager"]), text(&e["operation"])))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ownership_and_conflicts() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    let path = "/api/v1/namespaces/t/configmaps/a";
    let (code, made) = apply(&cluster, path, "fieldManager=x", &config("{a: '1', b: '1'}")).await;
    assert_eq!(
        (code, managers(&made)),
        (201, vec![("x".into(), "Apply".into())]),
        "{made}"
    );
    assert_eq!(
        made["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:data": {"f:a": {}, "f:b": {}}})
    );
    // Nothing changes, not even the revision.
    let (code, same) = apply(&cluster, path, "fieldManager=x", &config("{a: '1', b: '1'}")).await;
    assert_eq!((code, &same), (200, &made));
    let (code, conflict) = apply(&cluster, path, "fieldManager=y", &config("{a: '2'}")).await;
    assert_eq!(
        (code, conflict["reason"].as_str(), conflict["message"].as_str()),
        (
            409,
            Some("Conflict"),
            Some("Apply failed with 1 conflict: conflict with \"x\": .data.a")
        )
    );
    assert_eq!(
        conflict["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"x\"", "field": ".data.a"}])
    );
    let (code, dry) = apply(
        &cluster,
        path,
        "fieldManager=y&force=true&dryRun=All",
        &config("{a: '2'}"),
    )
    .await;
    assert_eq!((code, &dry["data"]["a"]), (200, &json!("2")));
    let (code, forced) = apply(&cluster, path, "fieldManager=y&force=true", &config("{a: '2'}")).await;
    assert_eq!(
        (code, &forced["data"]),
        (200, &json!({"a": "2", "b": "1"})),
        "the dry run stored nothing"
    );
    // A patch of another kind takes its fields, and is named by its program.
    let headers = [
        ("content-type", "application/merge-patch+json"),
        ("user-agent", "tool/1.0 (x)"),
    ];
    let (code, _) = cluster
        .admin_request("PATCH", path, &headers, r#"{"data":{"b":"9","c":"1"}}"#)
        .await
        .unwrap();
    assert_eq!(code, 200);
    let (_, now) = api(&cluster, "GET", path, Value::Null).await;
    assert_eq!(
        managers(&now),
        [("y".into(), "Apply".into()), ("tool".into(), "Update".into())],
        "x owns nothing any more"
    );
    let (code, gone) = apply(&cluster, path, "fieldManager=y", &config("{}")).await;
    assert_eq!((code, &gone["data"]), (200, &json!({"b": "9", "c": "1"})));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    let path = "/api/v1/namespaces/t/configmaps/a";
    let (code, status) = apply(&cluster, path, "", &config("{}")).await;
    assert_eq!(
        (code, status["message"].as_str()),
        (
            422,
            Some(
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
            )
        )
    );
    let (code, _) = api(&cluster, "PATCH", &format!("{path}?force=true"), json!({})).await;
    assert_eq!(code, 422);
    let unknown = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\nnope: 1\n";
    let (code, status) = apply(&cluster, path, "fieldManager=x", unknown).await;
    assert_eq!(
        (code, status["message"].as_str()),
        (
            500,
            Some(
                "failed to create typed patch object (t/a; v1, Kind=ConfigMap): .nope: field not declared in schema"
            )
        )
    );
    for bad in [
        "x: [",
        "kind: ConfigMap",
        "apiVersion: v1\nkind: Secret",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {managedFields: []}",
    ] {
        let (code, status) = apply(&cluster, path, "fieldManager=x", bad).await;
        assert_eq!(code, 400, "{bad}: {status}");
    }
    let stale = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, uid: nope}\n";
    assert_eq!(apply(&cluster, path, "fieldManager=x", stale).await.0, 409);
    assert_eq!(api(&cluster, "GET", path, Value::Null).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn subresources_have_managers_of_their_own() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    let path = "/apis/apps/v1/namespaces/t/deployments/a";
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec:\n  selector: {matchLabels: {a: b}}\n  \
                      template:\n    metadata: {labels: {a: b}}\n    spec: {containers: [{name: c, image: i}]}\n";
    let (code, made) = apply(&cluster, path, "fieldManager=x", deployment).await;
    assert_eq!(code, 201, "{made}");
    let status = json!({"status": {"replicas": 3, "observedGeneration": 1}});
    assert_eq!(
        api(&cluster, "PATCH", &format!("{path}/status"), status).await.0,
        200
    );
    let scale = "apiVersion: autoscaling/v1\nkind: Scale\nmetadata: {name: a}\nspec: {replicas: 3}\n";
    let (code, scaled) = apply(&cluster, &format!("{path}/scale"), "fieldManager=s", scale).await;
    assert_eq!((code, &scaled["spec"]["replicas"]), (200, &json!(3)), "{scaled}");
    let (_, now) = api(&cluster, "GET", path, Value::Null).await;
    let entries = now["metadata"]["managedFields"].as_array().unwrap();
    let of = |manager: &str, sub: Value| {
        entries
            .iter()
            .find(|e| e["manager"] == manager && e["subresource"] == sub)
            .unwrap()
    };
    assert_eq!(
        of("s", json!("scale"))["fieldsV1"],
        json!({"f:spec": {"f:replicas": {}}})
    );
    let status = entries.iter().find(|e| e["subresource"] == "status").unwrap();
    assert_eq!(
        status["fieldsV1"],
        json!({"f:status": {"f:observedGeneration": {}, "f:replicas": {}}})
    );
    // Whoever applied the rest can still do so, and does not own the number of replicas.
    assert_eq!(apply(&cluster, path, "fieldManager=x", deployment).await.0, 200);
    let more = deployment.replace("spec:\n  selector", "spec:\n  replicas: 5\n  selector");
    let (code, conflict) = apply(&cluster, path, "fieldManager=x", &more).await;
    assert_eq!(
        (code, conflict["message"].as_str()),
        (
            409,
            Some(
                "Apply failed with 1 conflict: conflict with \"s\" with subresource \"scale\": .spec.replicas"
            )
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_applies_diffs_and_takes_over() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    let admin = cluster.admin.clone();
    tokio::task::spawn_blocking(move || {
        let try_run = |arguments: &[&str], input: &str| {
            let all: Vec<&str> = ["-n", "t"].iter().chain(arguments).copied().collect();
            kubectl(&admin, &all, input)
        };
        let run = |arguments: &[&str], input: &str| -> String {
            let (ok, out, errors) = try_run(arguments, input);
            assert!(ok, "{arguments:?}: {errors}");
            out
        };
        let one = config("{a: '1', b: '1'}");
        let two = config("{a: '2'}");
        // From the client's side to the server's, without conflicts.
        run(&["apply", "-f", "-"], &one);
        run(&["apply", "--server-side", "-f", "-"], &two);
        assert_eq!(
            run(&["get", "cm", "a", "-o", "jsonpath={.data}"], ""),
            r#"{"a":"2"}"#
        );
        let shown = run(&["get", "cm", "a", "-o", "yaml", "--show-managed-fields"], "");
        assert!(
            shown.contains("manager: kubectl") && shown.contains("operation: Apply"),
            "{shown}"
        );
        let (ok, out, _) = try_run(&["diff", "--server-side", "-f", "-"], &config("{a: '3'}"));
        assert!(!ok && out.contains("+  a: \"3\""), "{out}");
        let (ok, out, errors) = try_run(&["diff", "--server-side", "-f", "-"], &two);
        assert!(ok && out.is_empty(), "{out} {errors}");
        let (ok, _, errors) = try_run(
            &["apply", "--server-side", "--field-manager=other", "-f", "-"],
            &config("{a: '4'}"),
        );
        assert!(!ok && errors.contains("conflict with \"kubectl\""), "{errors}");
        run(
            &[
                "apply",
                "--server-side",
                "--field-manager=other",
                "--force-conflicts",
                "-f",
                "-",
            ],
            &config("{a: '4'}"),
        );
        assert_eq!(run(&["get", "cm", "a", "-o", "jsonpath={.data.a}"], ""), "4");
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_pod_are_applied_through_its_subresources() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    let path = "/api/v1/namespaces/t/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [
        {"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]}});
    let (code, made) = api(&cluster, "POST", path, pod).await;
    assert_eq!(code, 201, "{made}");
    let pod = |rest: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {rest}\n");
    let debugger = pod("{ephemeralContainers: [{name: d, image: i}], containers: [{name: c, image: other}]}");
    let ephemeral = format!("{path}/p/ephemeralcontainers");
    let (code, with) = apply(&cluster, &ephemeral, "fieldManager=debugger", &debugger).await;
    assert_eq!(
        (code, &with["spec"]["ephemeralContainers"][0]["name"]),
        (200, &json!("d")),
        "{with}"
    );
    assert_eq!(
        with["spec"]["containers"][0]["image"], "i",
        "this path does not write it"
    );
    let entries = with["metadata"]["managedFields"].as_array().unwrap();
    let entry = entries.iter().find(|e| e["manager"] == "debugger").unwrap();
    assert_eq!(
        (&entry["operation"], &entry["subresource"]),
        (&json!("Apply"), &json!("ephemeralcontainers"))
    );
    let own = json!({"k:{\"name\":\"d\"}": {".": {}, "f:image": {}, "f:name": {}}});
    assert_eq!(
        entry["fieldsV1"],
        json!({"f:spec": {"f:ephemeralContainers": own}})
    );

    let resize = format!("{path}/p/resize");
    let more = pod("{containers: [{name: c, resources: {requests: {cpu: '2'}}}]}");
    let (code, conflict) = apply(&cluster, &resize, "fieldManager=scaler", &more).await;
    assert_eq!(code, 409, "{conflict}");
    let (code, sized) = apply(&cluster, &resize, "fieldManager=scaler&force=true", &more).await;
    assert_eq!(
        (
            code,
            &sized["spec"]["containers"][0]["resources"]["requests"]["cpu"]
        ),
        (200, &json!("2")),
        "{sized}"
    );
    assert_eq!(sized["metadata"]["generation"], 3);
    // What a resize may not do.
    let class = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "2", "memory": "1Gi"},
        "limits": {"cpu": "2", "memory": "1Gi"}}}]}});
    let (code, refused) = api(&cluster, "PATCH", &resize, class).await;
    let message = refused["message"].as_str().unwrap_or_default();
    assert!(
        code == 422 && message.contains("Pod QOS Class may not change as a result of resizing"),
        "{refused}"
    );
    let removed = json!({"spec": {"containers": []}});
    let (code, refused) = api(&cluster, "PATCH", &resize, removed).await;
    let message = refused["message"].as_str().unwrap_or_default();
    assert!(
        code == 422 && message.contains("containers may not be added or removed on resize"),
        "{refused}"
    );
}
