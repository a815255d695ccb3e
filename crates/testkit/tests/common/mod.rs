//! What all tests of the API share.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use hikube_testkit::Cluster;
use serde_json::Value;
use std::path::Path;

/// A request of an administrator with JSON in and out.
pub async fn api(cluster: &Cluster, method: &str, path: &str, body: Value) -> (u16, Value) {
    let content_type = if method == "PATCH" {
        "application/merge-patch+json"
    } else {
        "application/json"
    };
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let headers = [("content-type", content_type)];
    let (code, text) = cluster
        .admin_request(method, path, &headers, &body)
        .await
        .expect("request");
    (code, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// The same with a bearer token instead of a certificate.
pub async fn with_token(cluster: &Cluster, token: &str, path: &str) -> u16 {
    let bearer = format!("Bearer {token}");
    cluster
        .request("GET", path, &[("authorization", &bearer)], "")
        .await
        .expect("request")
        .0
}

/// Runs kubectl with a time limit: success, output, errors.
pub fn kubectl(kubeconfig: &Path, arguments: &[&str], input: &str) -> (bool, String, String) {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut child = Command::new("timeout")
        .args(["60", "kubectl", "--kubeconfig"])
        .arg(kubeconfig)
        .args(arguments)
        .env("HOME", kubeconfig.parent().expect("in a directory"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl (package kubernetes-client)");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(input.as_bytes())
        .expect("write");
    let output = child.wait_with_output().expect("kubectl ends");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

/// A namespace with its default service account, which a controller makes elsewhere.
pub async fn namespace(cluster: &Cluster, name: &str) {
    let object = serde_json::json!({"metadata": {"name": name}});
    assert_eq!(api(cluster, "POST", "/api/v1/namespaces", object).await.0, 201);
    let account = serde_json::json!({"metadata": {"name": "default"}});
    let path = format!("/api/v1/namespaces/{name}/serviceaccounts");
    assert_eq!(api(cluster, "POST", &path, account).await.0, 201);
}
