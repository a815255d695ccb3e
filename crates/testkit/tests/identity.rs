//! Certificate signing requests and bootstrap tokens.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::{api, kubectl, with_token};
use hikube_testkit::Cluster;
use serde_json::{Value, json};

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

fn request(name: &str, organization: &str) -> Value {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "somebody");
    params
        .distinguished_name
        .push(rcgen::DnType::OrganizationName, organization);
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    json!({"metadata": {"name": name}, "spec": {
        "request": BASE64.encode(pem), "signerName": "kubernetes.io/kube-apiserver-client",
        "usages": ["client auth"], "username": "somebody else",
    }})
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_approved_by_those_who_may() {
    let cluster = Cluster::start().await.unwrap();
    let (code, made) = api(&cluster, "POST", REQUESTS, request("a", "people")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(
        made["spec"]["username"], "kubernetes-admin",
        "nobody speaks for another"
    );
    let (code, status) = api(&cluster, "POST", REQUESTS, request("m", "system:masters")).await;
    assert_eq!(code, 403);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("system:masters group is not allowed"),
        "{status}"
    );

    // The status path does not approve.
    let approved = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "r"}]}});
    let (_, after) = api(
        &cluster,
        "PATCH",
        &format!("{REQUESTS}/a/status"),
        approved.clone(),
    )
    .await;
    assert!(after["status"].get("conditions").is_none(), "{after}");

    let role = json!({"metadata": {"name": "approver"}, "rules": [
        {"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests"], "verbs": ["get", "list"]},
        {"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/approval"], "verbs": ["update"]},
    ]});
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    assert_eq!(api(&cluster, "POST", roles, role).await.0, 201);
    let binding = json!({"metadata": {"name": "approver"}, "subjects": [{"kind": "User", "name": "bob"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "approver"}});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    assert_eq!(api(&cluster, "POST", bindings, binding).await.0, 201);
    let bob = cluster.kubeconfig("bob", "bob", &[]).unwrap();
    let admin = cluster.admin.clone();
    tokio::task::spawn_blocking(move || {
        let (ok, _, errors) = kubectl(&bob, &["certificate", "approve", "a"], "");
        assert!(
            !ok && errors.contains("user not permitted to approve requests"),
            "{errors}"
        );
        let (ok, _, errors) = kubectl(&admin, &["certificate", "approve", "a"], "");
        assert!(ok, "{errors}");
    })
    .await
    .unwrap();
    let (_, now) = api(&cluster, "GET", &format!("{REQUESTS}/a"), Value::Null).await;
    let condition = &now["status"]["conditions"][0];
    assert_eq!(condition["type"], "Approved");
    assert!(condition["lastTransitionTime"].is_string(), "{condition}");
    let both = json!({"status": {"conditions": [
        {"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"},
    ]}});
    assert_eq!(
        api(&cluster, "PATCH", &format!("{REQUESTS}/a/approval"), both)
            .await
            .0,
        422
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bootstrap_tokens_are_users_until_they_are_deleted() {
    let cluster = Cluster::start().await.unwrap();
    let token = "abcdef.0123456789abcdef";
    // Whoever is known may ask for the discovery documents.
    assert_eq!(with_token(&cluster, token, "/api").await, 401);
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    let secret = json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token",
        "stringData": {"token-id": "abcdef", "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true"}});
    let (code, made) = api(&cluster, "POST", secrets, secret).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(with_token(&cluster, token, "/api").await, 200);
    assert_eq!(with_token(&cluster, token, secrets).await, 403);
    assert_eq!(with_token(&cluster, "abcdef.0123456789abcdee", "/api").await, 401);
    assert_eq!(
        api(
            &cluster,
            "DELETE",
            &format!("{secrets}/bootstrap-token-abcdef"),
            Value::Null
        )
        .await
        .0,
        200
    );
    let mut code = 200;
    for _ in 0..100 {
        code = with_token(&cluster, token, "/api").await;
        if code == 401 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(code, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_sets_no_labels_of_others() {
    let cluster = Cluster::start().await.unwrap();
    let as_node = async |method: &str, path: &str, body: Value| {
        let content = if method == "PATCH" {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let headers = [
            ("content-type", content),
            ("impersonate-user", "system:node:n"),
            ("impersonate-group", "system:nodes"),
        ];
        let (code, text) = cluster
            .admin_request(method, path, &headers, &body.to_string())
            .await
            .unwrap();
        (code, serde_json::from_str::<Value>(&text).unwrap())
    };
    let node = |labels: Value| json!({"metadata": {"name": "n", "labels": labels}});
    let steering = json!({"team.node-restriction.kubernetes.io/a": "b", "example.k8s.io/c": "d"});
    let (code, refused) = as_node("POST", "/api/v1/nodes", node(steering)).await;
    let message = refused["message"].as_str().unwrap();
    let wanted =
        "is not allowed to set the following labels: example.k8s.io/c, team.node-restriction.kubernetes.io/a";
    assert!(code == 403 && message.contains(wanted), "{refused}");
    let own = json!({"kubernetes.io/hostname": "n", "topology.kubernetes.io/zone": "z", "mine": "x"});
    assert_eq!(as_node("POST", "/api/v1/nodes", node(own)).await.0, 201);
    let path = "/api/v1/nodes/n";
    assert_eq!(
        as_node("PATCH", path, json!({"metadata": {"labels": {"mine": "y"}}}))
            .await
            .0,
        200
    );
    let (code, refused) = as_node(
        "PATCH",
        path,
        json!({"metadata": {"labels": {"kubernetes.io/x": "y"}}}),
    )
    .await;
    let message = refused["message"].as_str().unwrap();
    assert!(
        code == 403 && message.contains("is not allowed to modify labels: kubernetes.io/x"),
        "{refused}"
    );
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "b"}]);
    let (code, _) = as_node("PATCH", path, json!({"metadata": {"ownerReferences": owner}})).await;
    assert_eq!(code, 403);
}
