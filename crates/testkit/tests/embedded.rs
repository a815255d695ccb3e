//! The API server on the embedded state store: the same semantics without etcd, and a state that outlives the server.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{api, namespace};
use hikube_testkit::{Cluster, Options};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;

const MAPS: &str = "/api/v1/namespaces/t/configmaps";

async fn start() -> Cluster {
    let options = Options {
        etcd_members: 0,
        ..Options::default()
    };
    Cluster::start_with(options).await.unwrap()
}

async fn names(cluster: &Cluster, query: &str) -> (Vec<String>, Value) {
    let (code, list) = api(cluster, "GET", &format!("{MAPS}?{query}"), Value::Null).await;
    assert_eq!(code, 200, "{list}");
    let items = list["items"].as_array().unwrap().iter();
    let names = items.map(|i| i["metadata"]["name"].as_str().unwrap().to_owned());
    (names.collect(), list["metadata"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_outlives_the_server_and_pages_are_of_one_revision() {
    let mut cluster = start().await;
    namespace(&cluster, "t").await;
    for n in 0..5 {
        let object = json!({"metadata": {"name": format!("m{n}")}, "data": {"n": n.to_string()}});
        assert_eq!(api(&cluster, "POST", MAPS, object).await.0, 201);
    }
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"k": "correct horse battery"}});
    let path = "/api/v1/namespaces/t/secrets";
    assert_eq!(api(&cluster, "POST", path, secret).await.0, 201);
    let (first, meta) = names(&cluster, "limit=2").await;
    assert_eq!(first, ["m0", "m1"]);
    let token = meta["continue"].as_str().unwrap().to_owned();
    let (code, _) = api(&cluster, "DELETE", &format!("{MAPS}/m3"), Value::Null).await;
    assert_eq!(code, 200);
    let (rest, _) = names(&cluster, &format!("limit=9&continue={token}")).await;
    assert_eq!(
        rest,
        ["m2", "m3", "m4"],
        "what was deleted meanwhile is in the list"
    );
    let (_, now) = names(&cluster, "").await;

    cluster.stop_server().await.unwrap();
    let file = cluster.dir.join("state.db");
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let bytes = std::fs::read(&file).unwrap();
    let has = |text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
    assert!(has("/registry/configmaps/t/m0"), "etcd's keys");
    assert!(
        !has("correct horse battery") && !has("Y29ycmVjdCBob3JzZSBiYXR0ZXJ5"),
        "a Secret in the clear"
    );

    cluster.start_server();
    cluster.wait_ready().await.unwrap();
    let (left, again) = names(&cluster, "").await;
    assert_eq!(left, ["m0", "m1", "m2", "m4"]);
    let version = |meta: &Value| meta["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(
        version(&again) >= version(&now),
        "revisions go on where they were"
    );
    // The write that meets an old version, as with etcd.
    let (_, object) = api(&cluster, "GET", &format!("{MAPS}/m0"), Value::Null).await;
    let path = format!("{MAPS}/m0");
    assert_eq!(api(&cluster, "PUT", &path, object.clone()).await.0, 200);
    let mut changed = object;
    changed["data"]["n"] = json!("other");
    assert_eq!(
        api(&cluster, "PUT", &path, changed.clone()).await.0,
        200,
        "nothing had changed"
    );
    assert_eq!(api(&cluster, "PUT", &path, changed).await.0, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_has_one_user_at_a_time() {
    let cluster = start().await;
    let second = state::embedded::EmbeddedStore::open(&cluster.dir.join("state.db"));
    let error = second.err().expect("the server has it open").to_string();
    assert!(error.contains("state.db"), "{error}");
}
