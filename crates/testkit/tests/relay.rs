//! Exec through the API server to a kubelet that only echoes.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::{api, namespace};
use hikube_testkit::Cluster;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// A kubelet that upgrades exec and echoes, refuses WebSocket, and answers logs with the path that it was asked.
async fn kubelet(cluster: &Cluster) -> SocketAddr {
    let files = cluster
        .pki
        .server("kubelet", &["127.0.0.1".parse().unwrap()])
        .unwrap();
    let tls = tls::server_config(&files, tls::ClientAuth::Required, &[b"http/1.1"]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let acceptor = tokio_rustls::TlsAcceptor::from(tls.clone());
            tokio::spawn(async move {
                let mut stream = acceptor.accept(tcp).await.unwrap();
                let request = head(&mut stream).await;
                let lower = request.to_lowercase();
                if lower.contains("upgrade: websocket") {
                    let refusal = "HTTP/1.1 400 Bad Request\r\ncontent-length: 7\r\n\r\nno wskt";
                    stream.write_all(refusal.as_bytes()).await.unwrap();
                } else if lower.contains("upgrade: spdy/3.1") {
                    let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\n\r\n";
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    let line = request.lines().next().unwrap().to_owned() + "\n";
                    stream.write_all(line.as_bytes()).await.unwrap();
                    let (mut read, mut write) = tokio::io::split(stream);
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                } else {
                    let path = request.split(' ').nth(1).unwrap();
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len());
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
                let _ = stream_end().await;
            });
        }
    });
    address
}

async fn stream_end() {
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
}

type Stream = tokio_rustls::client::TlsStream<TcpStream>;

async fn connect(cluster: &Cluster) -> Stream {
    let files = cluster.pki.cluster.files("admin");
    let config: Arc<_> = tls::client_config(&files, &[b"http/1.1"]).unwrap();
    let tcp = TcpStream::connect(cluster.address).await.unwrap();
    let name = rustls::pki_types::ServerName::from(cluster.address.ip());
    let connector = tokio_rustls::TlsConnector::from(config);
    connector.connect(name, tcp).await.unwrap()
}

/// The head of the answer, and all that comes after it.
async fn log_over_websocket(cluster: &Cluster, path: &str, protocol: &str) -> (String, Vec<u8>) {
    let mut stream = connect(cluster).await;
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: {protocol}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let (head, mut rest) = (head(&mut stream).await, Vec::new());
    if head.starts_with("HTTP/1.1 101") {
        stream.read_to_end(&mut rest).await.unwrap();
    }
    (head, rest)
}

async fn upgrade(cluster: &Cluster, protocol: &str) -> (String, Stream) {
    let mut stream = connect(cluster).await;
    let request = format!(
        "POST /api/v1/namespaces/t/pods/p/exec?command=sh&stdin=true&stdout=true HTTP/1.1\r\nhost: x\r\n\
         connection: Upgrade\r\nupgrade: {protocol}\r\ncontent-length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    (head(&mut stream).await, stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_and_logs_reach_the_kubelet() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    let address = kubelet(&cluster).await;
    let node = json!({"metadata": {"name": "n"}});
    assert_eq!(api(&cluster, "POST", "/api/v1/nodes", node).await.0, 201);
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": address.port()}},
    }});
    let (code, answer) = api(&cluster, "PATCH", "/api/v1/nodes/n/status", status).await;
    assert_eq!(code, 200, "{answer}");
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "x"}]}});
    assert_eq!(
        api(&cluster, "POST", "/api/v1/namespaces/t/pods", pod).await.0,
        201
    );

    let (head, mut stream) = upgrade(&cluster, "SPDY/3.1").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let expected = "POST /exec/t/p/c?command=sh&input=1&output=1 HTTP/1.1\nhello";
    stream.write_all(b"hello").await.unwrap();
    let mut echoed = vec![0; expected.len()];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(String::from_utf8(echoed).unwrap(), expected);

    let (head, _) = upgrade(&cluster, "websocket").await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");

    let path = "/api/v1/namespaces/t/pods/p/log?follow=true&tailLines=5";
    let (code, body) = cluster.admin_request("GET", path, &[], "").await.unwrap();
    assert_eq!(
        (code, body.as_str()),
        (200, "/containerLogs/t/p/c?follow=true&tailLines=5")
    );
    let plain = "/containerLogs/t/p/c?follow=true&tailLines=5";
    let (head, log) = log_over_websocket(&cluster, path, "binary.k8s.io").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let head = head.to_lowercase();
    assert!(head.contains("sec-websocket-protocol: binary.k8s.io"), "{head}");
    assert!(
        head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
        "{head}"
    );
    let length = u8::try_from(plain.len()).unwrap();
    let close = b"\x88\x02\x03\xe8";
    assert_eq!(log, [&[0x82, 0, 0x82, length], plain.as_bytes(), close].concat());
    let (_, log) = log_over_websocket(&cluster, path, "base64.binary.k8s.io").await;
    let text = BASE64.encode(plain);
    let length = u8::try_from(text.len()).unwrap();
    assert_eq!(log, [&[0x81, 0, 0x81, length], text.as_bytes(), close].concat());
    let (head, _) = log_over_websocket(&cluster, path, "v4.channel.k8s.io").await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");

    let (code, _) = api(
        &cluster,
        "GET",
        "/api/v1/namespaces/t/pods/p/log?container=none",
        serde_json::Value::Null,
    )
    .await;
    assert_eq!(code, 400);
}

/// A pod that answers with the method that it was asked with, or a page with a link.
async fn pod() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let request = head(&mut stream).await;
                let mut words = request.split(' ');
                let (method, path) = (words.next().unwrap(), words.next().unwrap());
                let (kind, extra, body) = match path {
                    "/page" => ("text/html; charset=utf-8", "", "<a href=\"/other\">x</a>"),
                    "/moved" => ("text/plain", "location: /there?a=b\r\n", ""),
                    _ => ("text/plain", "", method),
                };
                let code = if path == "/moved" { "302 Found" } else { "200 OK" };
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {code}\r\ncontent-type: {kind}\r\n{extra}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_behind_a_proxy_is_found_below_its_path() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    let address = pod().await;
    let object = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
    let (code, answer) = api(&cluster, "POST", "/api/v1/namespaces/t/pods", object).await;
    assert_eq!(code, 201, "{answer}");
    let status = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
    let (code, answer) = api(&cluster, "PATCH", "/api/v1/namespaces/t/pods/p/status", status).await;
    assert_eq!(code, 200, "{answer}");
    let proxy = format!("/api/v1/namespaces/t/pods/p:{}/proxy", address.port());

    for method in ["DELETE", "OPTIONS", "PATCH", "POST", "PUT", "GET"] {
        let path = format!("{proxy}/?method={method}");
        let answer = cluster.admin_request(method, &path, &[], "").await.unwrap();
        assert_eq!(answer, (200, method.to_owned()));
    }
    // Without a slash at the end only what reads is led to the one with it.
    let (code, head, _) = cluster
        .admin_exchange(&format!("{proxy}?method=GET"), &[])
        .await
        .unwrap();
    assert_eq!(code, 301, "{head}");
    assert!(
        head.to_lowercase()
            .contains(&format!("location: {proxy}/?method=get")),
        "{head}"
    );
    let answer = cluster.admin_request("OPTIONS", &proxy, &[], "").await.unwrap();
    assert_eq!(answer, (200, "OPTIONS".to_owned()));

    let (code, body) = cluster
        .admin_request("GET", &format!("{proxy}/page"), &[], "")
        .await
        .unwrap();
    assert_eq!(code, 200);
    assert!(
        body.contains(&format!("<a href=\"{proxy}/other\">x</a>")),
        "{body}"
    );
    let (code, head, _) = cluster
        .admin_exchange(&format!("{proxy}/moved"), &[])
        .await
        .unwrap();
    assert_eq!(code, 302, "{head}");
    assert!(head.contains(&format!("location: {proxy}/there?a=b")), "{head}");
}
