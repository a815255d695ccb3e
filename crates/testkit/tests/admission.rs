//! Built-in admission: limits, quotas, pod security, classes, certificates.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{api, kubectl, namespace};
use hikube_testkit::Cluster;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/t/pods";

fn pod(name: &str, resources: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}})
}

async fn make(cluster: &Cluster, path: &str, object: Value) -> Value {
    let (code, made) = api(cluster, "POST", path, object).await;
    assert_eq!(code, 201, "{made}");
    made
}

fn message(status: &Value) -> &str {
    status["message"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_filled_in_and_kept() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [{
        "type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"},
    }]}});
    make(&cluster, "/api/v1/namespaces/t/limitranges", range).await;
    let made = make(&cluster, PODS, pod("a", json!({}))).await;
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "500m"}})
    );
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
    );
    let (code, status) = api(&cluster, "POST", PODS, pod("b", json!({"limits": {"cpu": "2"}}))).await;
    assert_eq!(code, 403);
    assert!(
        message(&status).contains("maximum cpu usage per Container is 1, but limit is 2"),
        "{status}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_never_exceeded() {
    let cluster = std::sync::Arc::new(Cluster::start().await.unwrap());
    namespace(&cluster, "t").await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "5", "requests.cpu": "1", "count/configmaps": "2"}}});
    make(&cluster, "/api/v1/namespaces/t/resourcequotas", quota).await;
    let (code, status) = api(&cluster, "POST", PODS, pod("x", json!({}))).await;
    assert_eq!(code, 403);
    assert!(
        message(&status).contains("failed quota: q: must specify requests.cpu for: c"),
        "{status}"
    );
    let requests: Vec<_> = (0..20)
        .map(|n| {
            let cluster = cluster.clone();
            tokio::spawn(async move {
                let pod = pod(&format!("p{n}"), json!({"requests": {"cpu": "100m"}}));
                api(&cluster, "POST", PODS, pod).await.0
            })
        })
        .collect();
    let mut codes = Vec::new();
    for request in requests {
        codes.push(request.await.unwrap());
    }
    assert_eq!(codes.iter().filter(|c| **c == 201).count(), 5, "{codes:?}");
    let (_, list) = api(&cluster, "GET", PODS, Value::Null).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 5);
    let (code, status) = api(
        &cluster,
        "POST",
        PODS,
        pod("y", json!({"requests": {"cpu": "100m"}})),
    )
    .await;
    assert_eq!(code, 403);
    assert!(
        message(&status).contains("exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5"),
        "{status}"
    );
    let maps = "/api/v1/namespaces/t/configmaps";
    for (name, expected) in [("a", 201), ("b", 201), ("c", 403)] {
        let (code, status) = api(&cluster, "POST", maps, json!({"metadata": {"name": name}})).await;
        assert_eq!(code, expected, "{status}");
    }
    let (_, quota) = api(
        &cluster,
        "GET",
        "/api/v1/namespaces/t/resourcequotas/q",
        Value::Null,
    )
    .await;
    assert_eq!(
        quota["status"]["used"],
        json!({"pods": "5", "requests.cpu": "500m", "count/configmaps": "2"})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_ask_for_pod_security() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    let labels = json!({"metadata": {"labels": {
        "pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted",
    }}});
    assert_eq!(
        api(&cluster, "PATCH", "/api/v1/namespaces/t", labels).await.0,
        200
    );
    make(&cluster, PODS, pod("plain", json!({}))).await;
    let mut privileged = pod("privileged", json!({}));
    privileged["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    let (code, status) = api(&cluster, "POST", PODS, privileged).await;
    assert_eq!(
        (code, message(&status)),
        (
            403,
            "pods \"privileged\" is forbidden: violates PodSecurity \"baseline:latest\": privileged (container \"c\" \
             must not set securityContext.privileged=true)"
        )
    );
    let admin = cluster.admin.clone();
    let (ok, _, warnings) = tokio::task::spawn_blocking(move || {
        kubectl(&admin, &["-n", "t", "create", "deployment", "d", "--image=i"], "")
    })
    .await
    .unwrap();
    assert!(
        ok && warnings.contains("would violate PodSecurity \"restricted:latest\""),
        "{warnings}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_and_claims() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    let class = json!({"metadata": {"name": "rt"}, "handler": "h", "overhead": {"podFixed": {"cpu": "10m"}},
        "scheduling": {"nodeSelector": {"runtime": "h"}}});
    make(&cluster, "/apis/node.k8s.io/v1/runtimeclasses", class).await;
    let mut with_class = pod("a", json!({}));
    with_class["spec"]["runtimeClassName"] = "rt".into();
    let made = make(&cluster, PODS, with_class.clone()).await;
    assert_eq!(made["spec"]["overhead"], json!({"cpu": "10m"}));
    assert_eq!(made["spec"]["nodeSelector"], json!({"runtime": "h"}));
    with_class["metadata"]["name"] = "b".into();
    with_class["spec"]["runtimeClassName"] = "none".into();
    let (code, status) = api(&cluster, "POST", PODS, with_class).await;
    assert_eq!(code, 403);
    assert!(
        message(&status).contains("RuntimeClass \"none\" not found"),
        "{status}"
    );

    let default = json!({"metadata": {"name": "web", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}},
        "spec": {"controller": "example.com/web"}});
    make(&cluster, "/apis/networking.k8s.io/v1/ingressclasses", default).await;
    let ingress = json!({"metadata": {"name": "i"}, "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}});
    let made = make(
        &cluster,
        "/apis/networking.k8s.io/v1/namespaces/t/ingresses",
        ingress,
    )
    .await;
    assert_eq!(made["spec"]["ingressClassName"], "web");

    for (name, grows) in [("fixed", false), ("growing", true)] {
        let class = json!({"metadata": {"name": name}, "provisioner": "x", "allowVolumeExpansion": grows});
        make(&cluster, "/apis/storage.k8s.io/v1/storageclasses", class).await;
        let claims = "/api/v1/namespaces/t/persistentvolumeclaims";
        let claim = json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
            "storageClassName": name, "resources": {"requests": {"storage": "1Gi"}}}});
        make(&cluster, claims, claim).await;
        let bound = json!({"status": {"phase": "Bound"}});
        assert_eq!(
            api(&cluster, "PATCH", &format!("{claims}/{name}/status"), bound)
                .await
                .0,
            200
        );
        let more = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
        let (code, status) = api(&cluster, "PATCH", &format!("{claims}/{name}"), more).await;
        assert_eq!(code, if grows { 200 } else { 403 }, "{status}");
    }
}

/// An address of this machine that is not of the loopback: no packet is sent.
fn own_address() -> String {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").unwrap();
    socket.local_addr().unwrap().ip().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_reach_pods_and_services() {
    use std::io::{Read, Write};
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    // Something that answers with the request line.
    let own = own_address();
    let listener = std::net::TcpListener::bind((own.as_str(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut buffer = [0; 4096];
            let read = stream.read(&mut buffer).unwrap_or_default();
            let line = String::from_utf8_lossy(&buffer[..read])
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned();
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{line}",
                line.len()
            );
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    make(&cluster, PODS, pod("a", json!({}))).await;
    let (code, _) = api(
        &cluster,
        "PATCH",
        &format!("{PODS}/a/status"),
        json!({"status": {"podIP": own}}),
    )
    .await;
    assert_eq!(code, 200);
    let get = async |path: String| cluster.admin_request("GET", &path, &[], "").await.unwrap();
    let (code, body) = get(format!("{PODS}/a:{port}/proxy/x%2Fy/?q=1")).await;
    assert_eq!((code, body.trim()), (200, "GET /x%2Fy/?q=1 HTTP/1.1"));
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"name": "web", "port": 80}]}});
    make(&cluster, "/api/v1/namespaces/t/services", service).await;
    assert_eq!(
        get("/api/v1/namespaces/t/services/s:web/proxy/".into()).await.0,
        503
    );
    let slice = json!({"metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}}, "addressType": "IPv4",
        "ports": [{"name": "web", "port": port}], "endpoints": [{"addresses": [own]}]});
    make(
        &cluster,
        "/apis/discovery.k8s.io/v1/namespaces/t/endpointslices",
        slice,
    )
    .await;
    let (code, body) = get("/api/v1/namespaces/t/services/http:s:80/proxy/z".into()).await;
    assert_eq!((code, body.trim()), (200, "GET /z HTTP/1.1"));
    let port = encrypted_echo(&own);
    let (code, body) = get(format!("{PODS}/https:a:{port}/proxy/y")).await;
    assert_eq!((code, body.trim()), (200, "secret"));
}

/// Something that speaks HTTPS with a certificate that nobody knows; returns its port.
fn encrypted_echo(address: &str) -> u16 {
    use std::io::{Read, Write};
    let made = rcgen::generate_simple_self_signed(["somebody".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let config = std::sync::Arc::new(config);
    let listener = std::net::TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret");
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_a_pods_spec_is_a_generation_and_default_tolerations_stay() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    let mut made = make(&cluster, PODS, pod("a", json!({}))).await;
    assert_eq!(made["metadata"]["generation"], 1);
    // A client that replaces the list does not know of the tolerations that the pod was given.
    made["spec"]["tolerations"] = json!([{"key": "k", "operator": "Exists", "effect": "NoSchedule"}]);
    let (code, changed) = api(&cluster, "PUT", &format!("{PODS}/a"), made).await;
    assert_eq!(code, 200, "{changed}");
    let keys: Vec<_> = changed["spec"]["tolerations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["key"].clone())
        .collect();
    let expected = [
        "k",
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ];
    assert_eq!(keys, expected);
    assert_eq!(changed["metadata"]["generation"], 2);
    let debugger = json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "i"}]}});
    let (code, changed) = api(
        &cluster,
        "PATCH",
        &format!("{PODS}/a/ephemeralcontainers"),
        debugger,
    )
    .await;
    assert_eq!(
        (code, &changed["metadata"]["generation"]),
        (200, &json!(3)),
        "{changed}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_pod_says_that_it_was() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    let mut bound = pod("a", json!({}));
    bound["spec"]["nodeName"] = "n".into();
    let made = make(&cluster, PODS, bound).await;
    let path = format!("{PODS}/a");
    let evict = async |options: Value| {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a", "namespace": "t"},
            "deleteOptions": options});
        api(&cluster, "POST", &format!("{path}/eviction"), eviction)
            .await
            .0
    };
    let conditions =
        async || api(&cluster, "GET", &path, Value::Null).await.1["status"]["conditions"].clone();
    assert_eq!(evict(json!({"dryRun": ["All"]})).await, 201);
    assert_eq!(evict(json!({"preconditions": {"uid": "other"}})).await, 409);
    assert_eq!(
        evict(json!({"preconditions": {"resourceVersion": "1"}})).await,
        409
    );
    assert_eq!(conditions().await, Value::Null, "nothing was stored");
    let revision = made["metadata"]["resourceVersion"].clone();
    assert_eq!(
        evict(json!({"preconditions": {"resourceVersion": revision}})).await,
        201
    );
    let noted = conditions().await;
    assert_eq!(noted[0]["type"], "DisruptionTarget", "{noted}");
    assert_eq!(noted[0]["reason"], "EvictionByEvictionAPI");
    // The kubelet has still to end it.
    let (_, left) = api(&cluster, "GET", &path, Value::Null).await;
    assert!(left["metadata"]["deletionTimestamp"].is_string(), "{left}");
}
