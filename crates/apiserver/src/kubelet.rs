//! Requests that a kubelet answers: logs, exec, attach, port-forward, and its own paths through `nodes/proxy`.
//!
//! The request is sent on as it is; an upgraded connection becomes a tunnel of bytes, so SPDY and WebSocket pass
//! through untouched, and so does a refusal, from which kubectl learns to fall back from one to the other.

use crate::call::{Call, Response};
use crate::http::accept::Accept;
use crate::http::body::Body;
use crate::http::respond;
use crate::http::status::Status;
use crate::links::{Links, Page};
use crate::logs;
use crate::proxy;
use crate::store::{Freshness, builtin};
use http::{HeaderMap, HeaderName, Request, StatusCode, header};
use http_body_util::{BodyExt, Either, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use schema::Resource;
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Where kubelets listen when their Node does not say.
const DEFAULT_PORT: u16 = 10250;
/// How long a connection to a kubelet may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Hop-by-hop headers and credentials, which are not sent on.
const PRIVATE: [HeaderName; 4] = [
    header::AUTHORIZATION,
    header::HOST,
    header::TRANSFER_ENCODING,
    header::PROXY_AUTHORIZATION,
];

/// Sends a request on to the kubelet that can answer it.
pub async fn relay(
    call: &Call,
    resource: &'static Resource,
    mut request: Request<Incoming>,
) -> Result<Response, Status> {
    let known = resource
        .subresource(&call.info.subresource)
        .ok_or_else(Status::no_such_path)?;
    let connects = call.info.subresource != "log";
    let listed = known.verbs.iter().any(|v| *v == call.info.verb);
    let streams = connects && matches!(call.info.verb.as_str(), "get" | "create");
    // OPTIONS has no verb, and is for what is behind the proxy to answer.
    let options = call.info.subresource == "proxy" && request.method() == http::Method::OPTIONS;
    if !listed && !streams && !options {
        return Err(Status::method_not_allowed());
    }
    let query = request.uri().query().unwrap_or_default().to_owned();
    if call.info.subresource == "proxy"
        && let Some(redirect) = to_root(&request, &query)
    {
        return Ok(redirect);
    }
    if call.info.subresource == "proxy" && !resource.is("", "nodes") {
        let to = proxy::destination(call, resource).await?;
        let target = with_query(proxy::path(request.uri().path(), true), &query);
        let host = format!("{}:{}", to.host, to.port);
        if to.encrypted {
            let stream = dial_encrypted(&to.host, to.port).await?;
            return forward(call, stream, &host, &target, request).await;
        }
        let stream = dial(&to.host, to.port).await?;
        return forward(call, stream, &host, &target, request).await;
    }
    let store = &call.server.store;
    let found = store
        .get(resource, &call.info.namespace, &call.info.name, Freshness::Newest)
        .await?;
    let object = found
        .ok_or_else(|| Status::not_found(resource, &call.info.name))?
        .value();
    let (node, path) = match (resource.plural.as_ref(), call.info.subresource.as_str()) {
        ("nodes", _) => (call.info.name.clone(), proxy::path(request.uri().path(), false)),
        ("pods", sub) => {
            let node = object["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
            if node.is_empty() {
                let why = format!("pod {} does not have a host assigned", call.info.name);
                return Err(Status::bad_request(why));
            }
            (node, pod_path(call, sub, &object)?)
        }
        _ => return Err(Status::no_such_path()),
    };
    let query = kubelet_query(&call.info.subresource, &query);
    let target = with_query(path, &query);
    let (host, port) = address(call, &node).await?;
    let stream = connect(call, &node, &host, port).await?;
    // A kubelet knows logs as a plain answer only.
    let socket = match call.info.subresource.as_str() {
        "log" => logs::Socket::take(&mut request)?,
        _ => None,
    };
    let answer = forward(call, stream, &host, &target, request).await?;
    match socket {
        Some(socket) if answer.status() == StatusCode::OK => {
            Ok(socket.serve(answer.into_body(), call.server.shutdown.clone()))
        }
        _ => Ok(answer),
    }
}

/// What is behind a proxy begins with a slash; relative links of its first page lead astray without it.
fn to_root(request: &Request<Incoming>, query: &str) -> Option<Response> {
    let path = request.uri().path();
    let reads = matches!(*request.method(), http::Method::GET | http::Method::HEAD);
    if !reads || wants_upgrade(request.headers()) || path.rsplit('/').next() != Some("proxy") {
        return None;
    }
    let segments = path.trim_start_matches('/').split('/').count();
    // "api/v1/nodes/NAME/proxy" or "api/v1/namespaces/NS/pods/NAME/proxy", not something behind it of this name.
    if !matches!(segments, 5 | 7) {
        return None;
    }
    let mut response = respond::bytes(301, "text/plain; charset=utf-8", bytes::Bytes::new());
    let location = http::HeaderValue::from_str(&with_query(format!("{path}/"), query)).ok()?;
    response.headers_mut().insert(header::LOCATION, location);
    Some(response)
}

/// How the links of an answer change that came through a proxy.
fn links_of(call: &Call, request: &Request<Incoming>, host: &str, target: &str) -> Option<Links> {
    if call.info.subresource != "proxy" {
        return None;
    }
    let path = request.uri().path();
    let behind = target.split('?').next().unwrap_or_default();
    let asked = call.header(header::HOST).or(request.uri().host());
    Some(Links {
        prefix: path.strip_suffix(behind).unwrap_or(path).to_owned(),
        hosts: [host.to_owned(), asked.unwrap_or_default().to_owned()],
    })
}

fn with_query(path: String, query: &str) -> String {
    if query.is_empty() {
        path
    } else {
        format!("{path}?{query}")
    }
}

/// Connects to a pod.
async fn dial(host: &str, port: u16) -> Result<TcpStream, Status> {
    let failed = |e: &dyn std::fmt::Display| {
        Status::unavailable(format!(
            "error trying to reach service: dial tcp {host}:{port}: {e}"
        ))
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(failed(&"i/o timeout")),
    }
}

/// Connects to a pod that speaks HTTPS.
async fn dial_encrypted(host: &str, port: u16) -> Result<Stream, Status> {
    let failed = |e: &dyn std::fmt::Display| {
        Status::unavailable(format!("error trying to reach service: tls {host}:{port}: {e}"))
    };
    let stream = dial(host, port).await?;
    let name = ServerName::try_from(host.to_owned()).map_err(|e| failed(&e))?;
    let connecting = tokio_rustls::TlsConnector::from(tls::unverified_client_config()).connect(name, stream);
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(failed(&"no answer in time")),
    }
}

/// The kubelet's names of the streams of exec and attach.
fn kubelet_query(sub: &str, query: &str) -> String {
    if !matches!(sub, "exec" | "attach") {
        return query.to_owned();
    }
    let renamed = query
        .split('&')
        .filter(|pair| !pair.starts_with("container="))
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, "true"));
            let on = matches!(value, "" | "1" | "true");
            match key {
                "stdin" if on => "input=1".to_owned(),
                "stdout" if on => "output=1".to_owned(),
                "stderr" if on => "error=1".to_owned(),
                "tty" if on => "tty=1".to_owned(),
                "stdin" | "stdout" | "stderr" | "tty" => String::new(),
                _ => pair.to_owned(),
            }
        });
    renamed
        .filter(|pair| !pair.is_empty())
        .collect::<Vec<_>>()
        .join("&")
}

/// The kubelet's path for a pod's subresource.
fn pod_path(call: &Call, sub: &str, pod: &Value) -> Result<String, Status> {
    let (namespace, name) = (&call.info.namespace, &call.info.name);
    if sub == "portforward" {
        return Ok(format!("/portForward/{namespace}/{name}"));
    }
    let container = container(call, sub, pod)?;
    Ok(match sub {
        "log" => format!("/containerLogs/{namespace}/{name}/{container}"),
        other => format!("/{other}/{namespace}/{name}/{container}"),
    })
}

/// The container that is meant: the one that is named, or the only one, or the one that the pod calls its default.
fn container(call: &Call, sub: &str, pod: &Value) -> Result<String, Status> {
    let names = |kind: &str| -> Vec<String> {
        let list = pod["spec"][kind]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        list.iter()
            .filter_map(|c| c["name"].as_str().map(str::to_owned))
            .collect()
    };
    let (main, init, debug) = (
        names("containers"),
        names("initContainers"),
        names("ephemeralContainers"),
    );
    let name = &call.info.name;
    if let Some(wanted) = call.query.get("container") {
        if [&main, &init, &debug]
            .iter()
            .any(|list| list.iter().any(|n| n == wanted))
        {
            return Ok(wanted.to_owned());
        }
        return Err(Status::bad_request(format!(
            "container {wanted} is not valid for pod {name}"
        )));
    }
    if sub != "log"
        && let Some(default) =
            pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str()
        && main.iter().any(|n| n == default)
    {
        return Ok(default.to_owned());
    }
    match main.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Status::bad_request(format!(
            "a container name must be specified for pod {name}"
        ))),
        many => {
            let init = if init.is_empty() {
                String::new()
            } else {
                format!(" or one of the init containers: [{}]", init.join(" "))
            };
            Err(Status::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{}]{init}",
                many.join(" ")
            )))
        }
    }
}

async fn address(call: &Call, name: &str) -> Result<(String, u16), Status> {
    let nodes = builtin("", "nodes").ok_or_else(Status::no_such_path)?;
    let node = call.server.store.get(nodes, "", name, Freshness::Any).await?;
    let node = node.ok_or_else(|| Status::not_found(nodes, name))?.value();
    let addresses = node["status"]["addresses"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let of_kind = |kind: &str| {
        addresses
            .iter()
            .find(|a| a["type"] == kind)
            .and_then(|a| a["address"].as_str())
    };
    let host = of_kind("InternalIP")
        .or_else(|| of_kind("Hostname"))
        .ok_or_else(|| Status::internal(format!("node {name} has no address")))?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let port = port
        .and_then(|p| u16::try_from(p).ok())
        .filter(|p| *p > 0)
        .unwrap_or(DEFAULT_PORT);
    Ok((host.to_owned(), port))
}

type Stream = tokio_rustls::client::TlsStream<TcpStream>;

async fn connect(call: &Call, node: &str, host: &str, port: u16) -> Result<Stream, Status> {
    let failed = |e: &dyn std::fmt::Display| {
        Status::internal(format!(
            "error dialing backend: kubelet of node {node} at {host}:{port}: {e}"
        ))
    };
    let dial = async {
        let tcp = TcpStream::connect((host, port)).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        tokio_rustls::TlsConnector::from(call.server.kubelet_tls.clone())
            .connect(name, tcp)
            .await
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, dial).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(failed(&"no answer")),
    }
}

/// Whether a connection is to be upgraded.
pub fn wants_upgrade(headers: &HeaderMap) -> bool {
    let list = headers
        .get(header::CONNECTION)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    headers.contains_key(header::UPGRADE) && list.split(',').any(|v| v.trim().eq_ignore_ascii_case("upgrade"))
}

async fn forward(
    call: &Call,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    target: &str,
    mut request: Request<Incoming>,
) -> Result<Response, Status> {
    let failed = |e: hyper::Error| Status::internal(format!("error proxying to {host}: {e}"));
    let upgrades = wants_upgrade(request.headers());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    tokio::spawn(async move {
        // An error of the connection shows at the request or in the tunnel.
        let _ = connection.with_upgrades().await;
    });
    let links = links_of(call, &request, host, target);
    let mut headers = request.headers().clone();
    if let Some(links) = &links {
        let behind = target.split('?').next().unwrap_or_default();
        if let Ok(whole) = http::HeaderValue::from_str(&format!("{}{behind}", links.prefix)) {
            headers.insert("x-forwarded-uri", whole);
        }
        // Whoever asks for a page gets it uncompressed, so that its links can change.
        let accepts = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
        if accepts.is_some_and(|types| types.contains("text/html")) {
            headers.remove(header::ACCEPT_ENCODING);
        }
    }
    PRIVATE.iter().for_each(|name| {
        headers.remove(name);
    });
    let impersonation: Vec<HeaderName> = headers
        .keys()
        .filter(|k| k.as_str().starts_with("impersonate-"))
        .cloned()
        .collect();
    impersonation.iter().for_each(|name| {
        headers.remove(name);
    });
    let links = links.filter(|_| request.method() != http::Method::HEAD);
    let mut sent = Request::builder().method(request.method()).uri(target);
    if let Some(all) = sent.headers_mut() {
        *all = headers;
        if let Ok(host) = http::HeaderValue::from_str(host) {
            all.insert(header::HOST, host);
        }
    }
    let upgraded_client = upgrades.then(|| hyper::upgrade::on(&mut request));
    let body = if upgrades {
        Either::Left(Empty::<bytes::Bytes>::new())
    } else {
        Either::Right(request.into_body())
    };
    let sent = sent.body(body).map_err(Status::internal)?;
    let mut answer = sender.send_request(sent).await.map_err(failed)?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return relay_answer(call, answer, links).await;
    }
    let Some(client) = upgraded_client else {
        return Err(Status::internal("the kubelet changed the protocol unasked"));
    };
    let kubelet = hyper::upgrade::on(&mut answer);
    let shutdown = call.server.shutdown.clone();
    tokio::spawn(async move {
        let (Ok(client), Ok(kubelet)) = tokio::join!(client, kubelet) else {
            return;
        };
        let (mut client, mut kubelet) = (TokioIo::new(client), TokioIo::new(kubelet));
        tokio::select! {
            // Either side may break off at any time; there is nobody to tell.
            _ = tokio::io::copy_bidirectional(&mut client, &mut kubelet) => {}
            () = shutdown.cancelled() => {}
        }
    });
    let mut response = http::Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = answer.headers().clone();
    Ok(response)
}

/// An answer that is no upgrade. A kubelet's plain-text error becomes a `Status`, as upstream does for logs.
async fn relay_answer(
    call: &Call,
    answer: http::Response<Incoming>,
    links: Option<Links>,
) -> Result<Response, Status> {
    const MAX_ERROR_BYTES: usize = 64 << 10;
    let status = answer.status();
    let json = answer
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.starts_with("application/json"));
    let (mut parts, body) = answer.into_parts();
    // What is behind a proxy answers for itself.
    if status.is_client_error() && !json && call.info.subresource != "proxy" {
        let text = http_body_util::Limited::new(body, MAX_ERROR_BYTES)
            .collect()
            .await;
        let text = text
            .map(|t| String::from_utf8_lossy(&t.to_bytes()).trim().to_owned())
            .unwrap_or_default();
        let reason = match status.as_u16() {
            400 => "BadRequest",
            403 => "Forbidden",
            404 => "NotFound",
            _ => "",
        };
        return Ok(respond::failure(
            Accept::JSON,
            &Status::new(status.as_u16(), reason, text),
        ));
    }
    for name in [header::CONNECTION, header::TRANSFER_ENCODING] {
        parts.headers.remove(name);
    }
    let Some(links) = links else {
        return Ok(http::Response::from_parts(parts, Body::Relay(body)));
    };
    let text = |name| parts.headers.get(name).and_then(|v| v.to_str().ok());
    if let Some(location) = text(header::LOCATION) {
        if let Ok(location) = http::HeaderValue::from_str(&links.rewrite(location)) {
            parts.headers.insert(header::LOCATION, location);
        }
        return Ok(http::Response::from_parts(parts, Body::Relay(body)));
    }
    let kind = text(header::CONTENT_TYPE).and_then(|kind| kind.split(';').next());
    let page = kind.is_some_and(|kind| kind.trim() == "text/html");
    if !page || parts.headers.contains_key(header::CONTENT_ENCODING) {
        return Ok(http::Response::from_parts(parts, Body::Relay(body)));
    }
    parts.headers.remove(header::CONTENT_LENGTH);
    let page = Body::Page(Box::new(Page::new(body, links)));
    Ok(http::Response::from_parts(parts, page))
}

#[cfg(test)]
mod tests {
    #[test]
    fn streams_have_other_names_at_the_kubelet() {
        let query = "command=sh&command=-c&container=a&stdin=true&stdout=true&stderr=false&tty=true";
        assert_eq!(
            super::kubelet_query("exec", query),
            "command=sh&command=-c&input=1&output=1&tty=1"
        );
        assert_eq!(super::kubelet_query("log", "follow=true"), "follow=true");
    }
}
