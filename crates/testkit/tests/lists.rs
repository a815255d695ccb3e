//! Lists in pages, at certain revisions, and across a compaction of the state store.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{api, namespace};
use hikube_testkit::Cluster;
use serde_json::{Value, json};
use state::StateStore as _;

const MAPS: &str = "/api/v1/namespaces/t/configmaps";

async fn make(cluster: &Cluster, names: std::ops::Range<usize>) {
    for n in names {
        let object = json!({"metadata": {"name": format!("m{n}")}});
        assert_eq!(api(cluster, "POST", MAPS, object).await.0, 201);
    }
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items
        .iter()
        .map(|i| i["metadata"]["name"].as_str().unwrap())
        .collect()
}

async fn get(cluster: &Cluster, query: &str) -> (u16, Value) {
    api(cluster, "GET", &format!("{MAPS}?{query}"), Value::Null).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_of_one_revision_until_it_is_compacted() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    make(&cluster, 0..6).await;
    let (_, first) = get(&cluster, "limit=2").await;
    assert_eq!(
        (names(&first), &first["metadata"]["remainingItemCount"]),
        (vec!["m0", "m1"], &json!(4))
    );
    let revision = first["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    assert_eq!(
        api(&cluster, "DELETE", &format!("{MAPS}/m3"), Value::Null)
            .await
            .0,
        200
    );
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    let (_, second) = get(&cluster, &format!("limit=2&continue={token}")).await;
    assert_eq!(
        names(&second),
        ["m2", "m3"],
        "what was deleted meanwhile is in the list"
    );
    assert_eq!(second["metadata"]["resourceVersion"], revision.as_str());
    let (_, exact) = get(
        &cluster,
        &format!("resourceVersion={revision}&resourceVersionMatch=Exact"),
    )
    .await;
    assert_eq!(names(&exact).len(), 6);
    let (_, page) = get(&cluster, &format!("resourceVersion={revision}&limit=10")).await;
    assert_eq!(
        names(&page).len(),
        6,
        "a page of a revision is of exactly that one"
    );
    let (_, newer) = get(
        &cluster,
        &format!("resourceVersion={revision}&resourceVersionMatch=NotOlderThan"),
    )
    .await;
    assert_eq!(names(&newer).len(), 5);

    let files = cluster.pki.etcd("compactor").unwrap();
    let etcd = state::etcd::EtcdStore::new(&cluster.etcd.endpoints(), Some(&files)).unwrap();
    let newest = etcd.revision().await.unwrap();
    etcd.compact(newest).await.unwrap();
    let (code, gone) = get(&cluster, &format!("limit=2&continue={token}")).await;
    assert_eq!((code, gone["reason"].as_str()), (410, Some("Expired")));
    let token = gone["metadata"]["continue"].as_str().unwrap();
    let (code, rest) = get(&cluster, &format!("limit=2&continue={token}")).await;
    assert_eq!((code, names(&rest)), (200, vec!["m2", "m4"]));
    let next = rest["metadata"]["continue"].as_str().unwrap();
    make(&cluster, 7..8).await;
    let (code, last) = get(&cluster, &format!("limit=2&continue={next}")).await;
    assert_eq!(
        (code, names(&last)),
        (200, vec!["m5"]),
        "from here on it is of one revision again"
    );
    let (code, gone) = get(
        &cluster,
        &format!("resourceVersion={revision}&resourceVersionMatch=Exact"),
    )
    .await;
    assert_eq!(
        (code, gone["message"].as_str()),
        (410, Some("The resourceVersion for the provided list is too old."))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_for_revisions() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    make(&cluster, 0..1).await;
    for (query, code) in [
        ("resourceVersionMatch=Exact", 400),
        ("resourceVersionMatch=NotOlderThan", 400),
        ("resourceVersion=0&resourceVersionMatch=Exact", 400),
        ("resourceVersion=1&resourceVersionMatch=Sometimes", 400),
        ("resourceVersion=x", 400),
        ("continue=x", 400),
        ("resourceVersion=0", 200),
        ("resourceVersion=0&resourceVersionMatch=NotOlderThan", 200),
        (
            "watch=true&timeoutSeconds=1&resourceVersionMatch=NotOlderThan",
            400,
        ),
        ("watch=true&timeoutSeconds=1&sendInitialEvents=true", 400),
        ("labelSelector=a%3D%3D%3Db", 400),
        ("fieldSelector=spec.x%3D1", 400),
    ] {
        assert_eq!(get(&cluster, query).await.0, code, "{query}");
    }
    let query = "watch=true&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let (_, text) = get(&cluster, query).await;
    let text = text.as_str().unwrap();
    let events: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(
        (&events[0]["type"], &events[1]["type"]),
        (&json!("ADDED"), &json!("BOOKMARK"))
    );
    assert_eq!(
        events[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn preconditions_and_collections() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    make(&cluster, 0..3).await;
    for preconditions in [json!({"uid": "other"}), json!({"resourceVersion": "1"})] {
        let options = json!({"preconditions": preconditions});
        assert_eq!(
            api(&cluster, "DELETE", &format!("{MAPS}/m0"), options).await.0,
            409
        );
    }
    let dry = json!({"dryRun": ["All"]});
    assert_eq!(api(&cluster, "DELETE", &format!("{MAPS}/m0"), dry).await.0, 200);
    assert_eq!(names(&get(&cluster, "").await.1).len(), 3);
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(api(&cluster, "PATCH", &format!("{MAPS}/m1"), label).await.0, 200);
    let (code, _) = api(
        &cluster,
        "DELETE",
        &format!("{MAPS}?labelSelector=a%3Db"),
        Value::Null,
    )
    .await;
    assert_eq!(code, 200);
    assert_eq!(names(&get(&cluster, "").await.1), ["m0", "m2"]);
}
