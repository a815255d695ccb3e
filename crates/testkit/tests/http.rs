//! The API over raw HTTP, against a real etcd.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{api, namespace, with_token};
use hikube_testkit::Cluster;
use serde_json::{Value, json};

fn lines(text: &Value) -> Vec<Value> {
    match text {
        Value::String(text) => text
            .lines()
            .filter_map(|l| serde_json::from_str(l).ok())
            .collect(),
        one => vec![one.clone()],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_and_conflicts() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    let maps = "/api/v1/namespaces/t/configmaps";
    let (code, created) = api(
        &cluster,
        "POST",
        maps,
        json!({"metadata": {"name": "a"}, "data": {"x": "1"}}),
    )
    .await;
    assert_eq!(code, 201);
    assert_eq!(
        api(&cluster, "POST", maps, json!({"metadata": {"name": "a"}}))
            .await
            .0,
        409
    );
    let (_, generated) = api(
        &cluster,
        "POST",
        maps,
        json!({"metadata": {"generateName": "g-"}}),
    )
    .await;
    assert!(generated["metadata"]["name"].as_str().unwrap().starts_with("g-"));

    let path = format!("{maps}/a");
    let mut stale = created.clone();
    assert_eq!(
        api(&cluster, "PATCH", &path, json!({"data": {"x": "2"}})).await.0,
        200
    );
    stale["data"]["x"] = "3".into();
    let (code, status) = api(&cluster, "PUT", &path, stale).await;
    assert_eq!((code, status["reason"].as_str()), (409, Some("Conflict")));
    let (_, now) = api(&cluster, "GET", &path, Value::Null).await;
    assert_eq!(now["data"]["x"], "2");

    let (code, _) = api(
        &cluster,
        "POST",
        &format!("{maps}?dryRun=All"),
        json!({"metadata": {"name": "dry"}}),
    )
    .await;
    assert_eq!(code, 201);
    assert_eq!(
        api(&cluster, "GET", &format!("{maps}/dry"), Value::Null).await.0,
        404
    );
    let strict = format!("{maps}?fieldValidation=Strict");
    let (code, status) = api(
        &cluster,
        "POST",
        &strict,
        json!({"metadata": {"name": "b"}, "nope": 1}),
    )
    .await;
    assert_eq!(code, 400, "{status}");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("unknown field \"nope\"")
    );
    let (code, _) = api(&cluster, "POST", maps, json!({"metadata": {"name": "UPPER"}})).await;
    assert_eq!(code, 422);
    let (code, _) = api(
        &cluster,
        "POST",
        "/api/v1/namespaces/none/configmaps",
        json!({"metadata": {"name": "a"}}),
    )
    .await;
    assert_eq!(code, 404);

    // A finalizer holds the object until it is removed.
    let held = json!({"metadata": {"name": "held", "finalizers": ["test.io/x"]}});
    assert_eq!(api(&cluster, "POST", maps, held).await.0, 201);
    let (_, marked) = api(&cluster, "DELETE", &format!("{maps}/held"), Value::Null).await;
    assert!(marked["metadata"]["deletionTimestamp"].is_string(), "{marked}");
    api(
        &cluster,
        "PATCH",
        &format!("{maps}/held"),
        json!({"metadata": {"finalizers": null}}),
    )
    .await;
    assert_eq!(
        api(&cluster, "GET", &format!("{maps}/held"), Value::Null).await.0,
        404
    );

    let wrong_uid = json!({"preconditions": {"uid": "other"}});
    assert_eq!(api(&cluster, "DELETE", &path, wrong_uid).await.0, 409);
    assert_eq!(api(&cluster, "DELETE", maps, Value::Null).await.0, 200);
    let (_, list) = api(&cluster, "GET", maps, Value::Null).await;
    assert_eq!(list["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_watches() {
    let mut cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    let maps = "/api/v1/namespaces/t/configmaps";
    for index in 0..7 {
        let labels = json!({"odd": (index % 2 == 1).to_string()});
        let object = json!({"metadata": {"name": format!("m{index}"), "labels": labels}});
        assert_eq!(api(&cluster, "POST", maps, object).await.0, 201);
    }
    let (_, odd) = api(
        &cluster,
        "GET",
        &format!("{maps}?labelSelector=odd%3Dtrue"),
        Value::Null,
    )
    .await;
    assert_eq!(odd["items"].as_array().unwrap().len(), 3);
    let (_, one) = api(
        &cluster,
        "GET",
        &format!("{maps}?fieldSelector=metadata.name%3Dm3"),
        Value::Null,
    )
    .await;
    assert_eq!(one["items"][0]["metadata"]["name"], "m3");

    // Pages are of one revision, whatever is written between them.
    let (_, page) = api(&cluster, "GET", &format!("{maps}?limit=3"), Value::Null).await;
    let revision = page["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut names: Vec<String> = Vec::new();
    let mut page = page;
    api(&cluster, "POST", maps, json!({"metadata": {"name": "m9"}})).await;
    loop {
        assert_eq!(page["metadata"]["resourceVersion"], revision.as_str());
        names.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["metadata"]["continue"].as_str().map(str::to_owned) else {
            break;
        };
        page = api(
            &cluster,
            "GET",
            &format!("{maps}?limit=3&continue={next}"),
            Value::Null,
        )
        .await
        .1;
    }
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4", "m5", "m6"]);

    // A watch from a revision has every change after it, once, in order.
    api(
        &cluster,
        "PATCH",
        &format!("{maps}/m1"),
        json!({"metadata": {"labels": {"odd": "false"}}}),
    )
    .await;
    api(&cluster, "DELETE", &format!("{maps}/m3"), Value::Null).await;
    let watch = format!("{maps}?watch=1&timeoutSeconds=1&resourceVersion={revision}");
    let events = lines(&api(&cluster, "GET", &watch, Value::Null).await.1);
    let short = |events: &[Value]| -> Vec<(String, String)> {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        events
            .iter()
            .map(|e| (text(&e["type"]), text(&e["object"]["metadata"]["name"])))
            .collect()
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(
        short(&events),
        [pair("ADDED", "m9"), pair("MODIFIED", "m1"), pair("DELETED", "m3")]
    );
    let selected = lines(
        &api(
            &cluster,
            "GET",
            &format!("{watch}&labelSelector=odd%3Dtrue"),
            Value::Null,
        )
        .await
        .1,
    );
    assert_eq!(short(&selected), [pair("DELETED", "m1"), pair("DELETED", "m3")]);
    let deleted = events[2]["object"]["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(deleted.parse::<i64>().unwrap() > revision.parse().unwrap());

    // A streaming list ends with a bookmark that says so.
    let streaming = format!(
        "{maps}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    );
    let events = lines(&api(&cluster, "GET", &streaming, Value::Null).await.1);
    let end = events.last().unwrap();
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(
        end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    assert_eq!(events.len(), 8);

    // A restarted server has not seen what is older than itself, and says so.
    cluster.stop_server().await.unwrap();
    cluster.start_server();
    cluster.wait_ready().await.unwrap();
    let (code, event) = api(&cluster, "GET", &watch, Value::Null).await;
    let status = &event["object"];
    assert_eq!((code, event["type"].as_str()), (200, Some("ERROR")));
    assert_eq!(
        (status["code"].as_u64(), status["reason"].as_str()),
        (Some(410), Some("Expired"))
    );
    let (_, list) = api(&cluster, "GET", maps, Value::Null).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_do_what() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    for path in ["/readyz", "/livez", "/healthz", "/version"] {
        assert_eq!(cluster.get_raw(path).await.unwrap().0, 200, "{path}");
    }
    for path in [
        "/api",
        "/api/v1/namespaces",
        "/metrics",
        "/openapi/v2",
        "/apis/apps/v1",
    ] {
        // Who says nothing is known as anonymous, and forbidden; who says something wrong is not known.
        let (code, body) = cluster.get_raw(path).await.unwrap();
        assert_eq!(code, 403, "{path}");
        assert!(body.contains("User \\\"system:anonymous\\\" cannot"), "{body}");
    }

    // Tokens: good, forged, of a deleted account.
    let account = "/api/v1/namespaces/t/serviceaccounts/default";
    let (code, request) = api(&cluster, "POST", &format!("{account}/token"), json!({"spec": {}})).await;
    assert_eq!(code, 201, "{request}");
    let token = request["status"]["token"].as_str().unwrap().to_owned();
    assert_eq!(with_token(&cluster, &token, "/api").await, 200);
    assert_eq!(
        with_token(&cluster, &token, "/api/v1/namespaces/t/secrets").await,
        403
    );
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    parts[1].insert(5, 'A');
    assert_eq!(with_token(&cluster, &parts.join("."), "/api").await, 401);
    assert_eq!(with_token(&cluster, "abc", "/api").await, 401);
    let (_, other) = api(
        &cluster,
        "POST",
        &format!("{account}/token"),
        json!({"spec": {"audiences": ["vault"]}}),
    )
    .await;
    assert_eq!(
        with_token(&cluster, other["status"]["token"].as_str().unwrap(), "/api").await,
        401
    );
    api(&cluster, "DELETE", account, Value::Null).await;
    assert_eq!(with_token(&cluster, &token, "/api").await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_reads_only_what_its_pods_need() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    let (a, b) = (cluster.node("a").unwrap(), cluster.node("b").unwrap());
    for (node, secret) in [("a", "for-a"), ("b", "for-b")] {
        let object =
            json!({"metadata": {"name": secret}, "stringData": {"password": "correct-horse-battery"}});
        assert_eq!(
            api(&cluster, "POST", "/api/v1/namespaces/t/secrets", object)
                .await
                .0,
            201
        );
        let pod = json!({
            "metadata": {"name": node},
            "spec": {
                "nodeName": node,
                "containers": [{"name": "c", "image": "x"}],
                "volumes": [{"name": "v", "secret": {"secretName": secret}}],
            },
        });
        let (code, status) = api(&cluster, "POST", "/api/v1/namespaces/t/pods", pod).await;
        assert_eq!(code, 201, "{status}");
    }
    let get = |config: &std::path::Path, what: &[&str]| {
        let arguments: Vec<&str> = ["-n", "t", "get"].iter().chain(what).copied().collect();
        common::kubectl(config, &arguments, "")
    };
    assert!(get(&a, &["secret", "for-a"]).0);
    assert!(get(&b, &["secret", "for-b"]).0);
    for (config, what) in [
        (&a, ["secret", "for-b"]),
        (&b, ["secret", "for-a"]),
        (&a, ["pod", "b"]),
        (&a, ["secret", ""]),
        (&a, ["configmap", "none"]),
        (&a, ["clusterrole", "admin"]),
    ] {
        let what: Vec<&str> = what.into_iter().filter(|w| !w.is_empty()).collect();
        let (ok, _, errors) = get(config, &what);
        assert!(!ok && errors.contains("orbidden"), "{what:?}: {errors}");
    }
    let (ok, list, _) = get(&a, &["pods", "--field-selector", "spec.nodeName=a", "-o", "name"]);
    assert!(ok && list.trim() == "pod/a", "{list}");
    // A watch of one object by name is about that object.
    let watch = |secret: &'static str| ["secrets", "--field-selector", secret, "-o", "name"];
    assert!(get(&a, &watch("metadata.name=for-a")).0);
    assert!(!get(&a, &watch("metadata.name=for-b")).0);
    assert!(!get(&a, &watch("metadata.name!=for-b")).0);
    // Neither is one that only looks like it.
    assert!(!get(&a, &watch(r"type!=\,metadata.name=for-a")).0);
    assert!(
        !get(
            &a,
            &[
                "pods",
                "--field-selector",
                r"status.phase!=\,spec.nodeName=a",
                "-o",
                "name"
            ]
        )
        .0
    );
    let delete = ["-n", "t", "delete", "pod", "b", "--wait=false"];
    assert!(!common::kubectl(&a, &delete, "").0);

    // What is secret is not on etcd's disk.
    let data = cluster.dir.join("etcd");
    let found = std::process::Command::new("grep")
        .args(["-rl", "correct-horse-battery"])
        .arg(&data)
        .output()
        .unwrap();
    assert!(
        found.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&found.stdout)
    );
    let base64 = std::process::Command::new("grep")
        .args(["-rl", "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5"])
        .arg(&data)
        .output();
    assert!(base64.unwrap().stdout.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn services_get_addresses() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    let services = "/api/v1/namespaces/t/services";
    let service = |name: &str, spec: Value| {
        let mut spec = spec;
        spec["ports"] = json!([{"port": 80}]);
        json!({"metadata": {"name": name}, "spec": spec})
    };
    let (code, first) = api(&cluster, "POST", services, service("a", json!({}))).await;
    assert_eq!(code, 201, "{first}");
    let ip = first["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(ip.starts_with("10.96."));
    let (code, status) = api(&cluster, "POST", services, service("b", json!({"clusterIP": ip}))).await;
    assert_eq!(code, 422, "{status}");
    let (_, headless) = api(
        &cluster,
        "POST",
        services,
        service("h", json!({"clusterIP": "None"})),
    )
    .await;
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let (_, node) = api(
        &cluster,
        "POST",
        services,
        service("n", json!({"type": "NodePort"})),
    )
    .await;
    let port = node["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
    assert!((30000..=32767).contains(&port));
    // A change of the type gives the port back and keeps the address.
    let (_, plain) = api(
        &cluster,
        "PATCH",
        &format!("{services}/n"),
        json!({"spec": {"type": "ClusterIP"}}),
    )
    .await;
    assert_eq!(plain["spec"]["clusterIP"], node["spec"]["clusterIP"], "{plain}");
    assert!(plain["spec"]["ports"][0]["nodePort"].is_null(), "{plain}");
    api(&cluster, "DELETE", &format!("{services}/a"), Value::Null).await;
    let (code, again) = api(&cluster, "POST", services, service("b", json!({"clusterIP": ip}))).await;
    assert_eq!(code, 201, "{again}");
    let endpoints = "/api/v1/namespaces/default/endpoints/kubernetes";
    for _ in 0..50 {
        if api(&cluster, "GET", endpoints, Value::Null).await.0 == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let (_, own) = api(&cluster, "GET", endpoints, Value::Null).await;
    assert_eq!(own["subsets"][0]["addresses"][0]["ip"], "127.0.0.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_has_named_checks() {
    let cluster = Cluster::start().await.unwrap();
    let get = |path: &'static str| {
        let cluster = &cluster;
        async move { cluster.admin_request("GET", path, &[], "").await.unwrap() }
    };
    assert_eq!(get("/readyz").await, (200, "ok".into()));
    assert_eq!(get("/readyz/etcd").await, (200, "ok".into()));
    assert_eq!(get("/livez/none").await.0, 404);
    let (code, report) = get("/readyz?verbose&exclude=etcd&exclude=none").await;
    assert_eq!(code, 200);
    assert!(
        report.contains("[+]ping ok\n") && report.contains("[+]etcd excluded: ok\n"),
        "{report}"
    );
    assert!(
        report.contains("no matches for \"none\"") && report.ends_with("readyz check passed\n"),
        "{report}"
    );
}

/// A list in every form that clients ask for; a large one also compressed.
#[tokio::test(flavor = "multi_thread")]
async fn lists_have_many_forms() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    let maps = "/api/v1/namespaces/t/configmaps";
    for n in 0..3 {
        let object = json!({"metadata": {"name": format!("m{n}")}, "data": {"x": "y".repeat(70_000)}});
        assert_eq!(api(&cluster, "POST", maps, object).await.0, 201);
    }
    let get = |accept: &'static str| {
        let cluster = &cluster;
        async move {
            cluster
                .admin_request("GET", maps, &[("accept", accept)], "")
                .await
                .unwrap()
        }
    };
    let (_, json) = get("application/json").await;
    let list: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), 3);
    assert_eq!(list["items"][2]["data"]["x"].as_str().unwrap().len(), 70_000);
    let (code, yaml) = get("application/yaml").await;
    assert!(code == 200 && yaml.contains("kind: ConfigMapList") && yaml.contains("name: m2"));
    let (_, table) = get("application/json;as=Table;g=meta.k8s.io;v=v1").await;
    let table: Value = serde_json::from_str(&table).unwrap();
    assert_eq!(table["rows"][1]["cells"][0], "m1");
    let (_, partial) = get("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").await;
    let partial: Value = serde_json::from_str(&partial).unwrap();
    assert!(partial["items"][0]["metadata"]["uid"].is_string() && partial["items"][0]["data"].is_null());
    let (_, protobuf) = get("application/vnd.kubernetes.protobuf").await;
    assert!(protobuf.starts_with("k8s\0") && protobuf.contains("ConfigMapList"));
    assert_eq!(get("text/html").await.0, 406);
    // Over the wire it is small, and unpacked it is the same.
    let files = cluster.pki.cluster.files("admin");
    let unpacked = cluster.dir.join("list.json");
    let output = std::process::Command::new("curl")
        .args(["-s", "--compressed", "-w", "%{size_download}", "-o"])
        .arg(&unpacked)
        .arg("--cacert")
        .arg(&files.ca)
        .arg("--cert")
        .arg(&files.cert)
        .arg("--key")
        .arg(&files.key)
        .arg(format!("https://{}{maps}", cluster.address))
        .output()
        .expect("curl (package curl)");
    let size: usize = String::from_utf8_lossy(&output.stdout).parse().unwrap();
    assert!(size < 20_000, "{size}");
    // The list's own revision moves with whatever else is written meanwhile.
    let again: Value = serde_json::from_slice(&std::fs::read(unpacked).unwrap()).unwrap();
    assert_eq!(again["items"], list["items"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_bodies_cost_little_and_store_nothing() {
    let cluster = Cluster::start().await.unwrap();
    let path = "/api/v1/namespaces/default/configmaps";
    let map = json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "data": {"k": "v"}});
    let (code, made) = api(&cluster, "POST", path, map).await;
    assert_eq!(code, 201, "{made}");
    let patch = async |operations: Vec<Value>| {
        let headers = [("content-type", "application/json-patch+json")];
        let body = Value::from(operations).to_string();
        let path = format!("{path}/a");
        cluster
            .admin_request("PATCH", &path, &headers, &body)
            .await
            .unwrap()
    };
    // Every copy doubles what is there, or nests it once more.
    let doubles = (0..60).map(|n| json!({"op": "copy", "from": "/data", "path": format!("/data/{n}")}));
    let (code, text) = patch(doubles.collect()).await;
    assert_eq!(code, 422, "{text}");
    let nests = (0..200).map(|_| json!({"op": "copy", "from": "/data", "path": "/data/k"}));
    let (code, text) = patch(nests.collect()).await;
    assert_eq!(code, 422, "{text}");
    let deep = format!(
        "{{\"metadata\":{{\"name\":\"b\"}},\"data\":{}1{}}}",
        "[".repeat(5000),
        "]".repeat(5000)
    );
    let json = [("content-type", "application/json")];
    assert_eq!(
        cluster.admin_request("POST", path, &json, &deep).await.unwrap().0,
        400
    );
    // A warning for each of them would be more headers than an answer can have.
    let unknown: Vec<String> = (0..60_000).map(|n| format!("\"u{n}\":1,\"u{n}\":2")).collect();
    let body = format!("{{\"metadata\":{{\"name\":\"c\"}},{}}}", unknown.join(","));
    let (code, text) = cluster.admin_request("POST", path, &json, &body).await.unwrap();
    assert_eq!(code, 201, "{text}");
    let (_, kept) = api(&cluster, "GET", &format!("{path}/a"), Value::Null).await;
    assert_eq!(kept, made);
}
