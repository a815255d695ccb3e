//! What the server says of itself: discovery, OpenAPI, metrics.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{api, namespace};
use hikube_testkit::Cluster;
use serde_json::{Value, json};

/// The value of a header in a head as it came.
fn header<'a>(head: &'a str, name: &str) -> &'a str {
    head.lines()
        .find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_sent_once() {
    const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    let cluster = Cluster::start().await.unwrap();
    for (path, accept) in [
        ("/openapi/v2", "application/json"),
        ("/openapi/v2", PROTOBUF),
        ("/openapi/v3", "application/json"),
        ("/openapi/v3/apis/apps/v1", "application/json"),
        ("/api", AGGREGATED),
        ("/apis", AGGREGATED),
    ] {
        let (code, head, body) = cluster.admin_exchange(path, &[("accept", accept)]).await.unwrap();
        assert_eq!((code, header(&head, "content-type")), (200, accept), "{path}");
        assert!(!body.is_empty());
        let etag = header(&head, "etag").to_owned();
        assert!(etag.len() > 10 && etag.starts_with('"'), "{path}: {etag}");
        let again = [("accept", accept), ("if-none-match", etag.as_str())];
        let (code, head, body) = cluster.admin_exchange(path, &again).await.unwrap();
        assert_eq!(
            (code, body.as_str(), header(&head, "etag")),
            (304, "", etag.as_str()),
            "{path}"
        );
        let other = [("accept", accept), ("if-none-match", "\"other\"")];
        assert_eq!(
            cluster.admin_exchange(path, &other).await.unwrap().0,
            200,
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_kept_by_their_hash() {
    let cluster = Cluster::start().await.unwrap();
    let (_, index) = api(&cluster, "GET", "/openapi/v3", Value::Null).await;
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap();
    let (code, head, body) = cluster.admin_exchange(url, &[]).await.unwrap();
    assert_eq!((code, header(&head, "cache-control")), (200, "public, immutable"));
    assert!(header(&head, "expires").ends_with("GMT"), "{head}");
    let hash = url.split_once("hash=").unwrap().1;
    assert_eq!(header(&head, "etag"), format!("\"{hash}\""));
    let document: Value = serde_json::from_str(&body).unwrap();
    let spec = &document["components"]["schemas"]["io.k8s.api.apps.v1.DeploymentSpec"];
    for described in [
        spec,
        &spec["properties"]["replicas"],
        &spec["properties"]["template"],
    ] {
        assert!(
            described["description"]
                .as_str()
                .is_some_and(|text| text.len() > 20),
            "{described}"
        );
    }
    let (code, head, _) = cluster
        .admin_exchange("/openapi/v3/apis/apps/v1?hash=OLD", &[])
        .await
        .unwrap();
    assert_eq!((code, header(&head, "location")), (301, url));
    // A definition changes its own document and the index, and no other.
    let before = index["paths"]["apis/apps/v1"].clone();
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "description": "A thing."}}}]}});
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    assert_eq!(api(&cluster, "POST", path, definition).await.0, 201);
    let added = async {
        loop {
            let (_, index) = api(&cluster, "GET", "/openapi/v3", Value::Null).await;
            if let Some(url) = index["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str() {
                assert_eq!(index["paths"]["apis/apps/v1"], before);
                break url.to_owned();
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let url = tokio::time::timeout(std::time::Duration::from_secs(20), added)
        .await
        .unwrap();
    let (code, _, body) = cluster.admin_exchange(&url, &[]).await.unwrap();
    assert!(code == 200 && body.contains("A thing."), "{code} {body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_upstreams_names() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    let maps = "/api/v1/namespaces/t/configmaps";
    assert_eq!(
        api(&cluster, "POST", maps, json!({"metadata": {"name": "a"}}))
            .await
            .0,
        201
    );
    assert_eq!(
        api(
            &cluster,
            "GET",
            &format!("{maps}?watch=1&timeoutSeconds=1"),
            Value::Null
        )
        .await
        .0,
        200
    );
    let (_, text) = cluster.admin_request("GET", "/metrics", &[], "").await.unwrap();
    let kind = |verb: &str, scope: &str| {
        format!(
            "component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"configmaps\",scope=\"{scope}\",subresource=\"\",verb=\"{verb}\",version=\"v1\""
        )
    };
    let created = text
        .lines()
        .find_map(|line| line.strip_prefix("etcd_requests_total{operation=\"create\",type=\"configmaps\"} "))
        .and_then(|count| count.parse::<u32>().ok())
        .filter(|count| *count >= 1)
        .unwrap();
    for line in [
        format!(
            "apiserver_request_total{{code=\"201\",{}}} 1",
            kind("POST", "resource")
        ),
        format!(
            "apiserver_request_duration_seconds_count{{{}}} 1",
            kind("POST", "resource")
        ),
        format!(
            "apiserver_longrunning_requests{{{}}} 0",
            kind("WATCH", "namespace")
        ),
        "apiserver_current_inflight_requests{request_kind=\"mutating\"} 0".to_owned(),
        // The namespace's own, which the server writes, comes before or after.
        format!("etcd_request_duration_seconds_count{{operation=\"create\",type=\"configmaps\"}} {created}"),
        "# TYPE process_resident_memory_bytes gauge".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}
