//! exec, attach and port-forward: the runtime serves the streams on a server of its own and tells its URL; the
//! client's connection is joined to it byte by byte. So SPDY and WebSocket both work as far as the runtime
//! speaks them; what it refuses is refused to the client, which then tries another protocol.

use super::{Answer, Query, find, full, text};
use crate::context::Context;
use crate::runtime::State;
use bytes::Bytes;
use client::Informer;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use protos::cri;
use std::time::Duration;
use tokio::net::TcpStream;

/// The runtime answers from its memory.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Most of a refusal that is passed on.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

/// Runs a command in a container.
pub async fn exec(
    context: &Context,
    pods: &Informer<Pod>,
    target: (&str, &str, &str),
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let id = match running(context, pods, target).await {
        Ok(id) => id,
        Err(answer) => return answer,
    };
    let command = query.all("command");
    if command.is_empty() {
        return text(StatusCode::BAD_REQUEST, "no command");
    }
    let tty = query.flag("tty");
    let call = cri::ExecRequest {
        container_id: id,
        cmd: command,
        tty,
        stdin: query.flag("input") || query.flag("stdin"),
        stdout: query.flag("output") || query.flag("stdout"),
        stderr: (query.flag("error") || query.flag("stderr")) && !tty,
    };
    join(context.runtime.exec(call).await, request).await
}

/// Joins a container's own streams.
pub async fn attach(
    context: &Context,
    pods: &Informer<Pod>,
    target: (&str, &str, &str),
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let id = match running(context, pods, target).await {
        Ok(id) => id,
        Err(answer) => return answer,
    };
    let tty = query.flag("tty");
    let call = cri::AttachRequest {
        container_id: id,
        tty,
        stdin: query.flag("input") || query.flag("stdin"),
        stdout: query.flag("output") || query.flag("stdout"),
        stderr: (query.flag("error") || query.flag("stderr")) && !tty,
    };
    join(context.runtime.attach(call).await, request).await
}

/// Forwards connections to ports of a pod.
pub async fn port_forward(
    context: &Context,
    pods: &Informer<Pod>,
    target: (&str, &str),
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let (_, observed) = match find(context, pods, target.0, target.1).await {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    let Some(sandbox) = observed.ready_sandbox() else {
        return text(
            StatusCode::BAD_REQUEST,
            format!("pod {:?} is not running", target.1),
        );
    };
    let ports = query
        .all("port")
        .iter()
        .flat_map(|p| p.split(','))
        .filter_map(|p| p.parse().ok())
        .collect();
    let call = cri::PortForwardRequest {
        pod_sandbox_id: sandbox.id.clone(),
        port: ports,
    };
    join(context.runtime.port_forward(call).await, request).await
}

async fn running(
    context: &Context,
    pods: &Informer<Pod>,
    target: (&str, &str, &str),
) -> Result<String, Answer> {
    let (namespace, name, container) = target;
    let (_, observed) = find(context, pods, namespace, name).await?;
    let record = observed.newest(container).filter(|r| r.state == State::Running);
    record.map(|r| r.id.clone()).ok_or_else(|| {
        let message = format!("container {container:?} of pod {namespace}/{name} is not running");
        text(StatusCode::BAD_REQUEST, message)
    })
}

/// Connects the client to the runtime's streaming server.
async fn join(url: Result<String, crate::runtime::Error>, request: Request<Incoming>) -> Answer {
    let url = match url {
        Ok(url) => url,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.status.message()),
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, forward(&url, request)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => text(
            StatusCode::BAD_GATEWAY,
            format!("the runtime's streaming server: {error}"),
        ),
        Err(_) => text(
            StatusCode::GATEWAY_TIMEOUT,
            "the runtime's streaming server does not answer",
        ),
    }
}

async fn forward(url: &str, mut request: Request<Incoming>) -> Result<Answer, String> {
    let uri: Uri = url.parse().map_err(|e| format!("{url}: {e}"))?;
    let authority = uri.authority().ok_or("no address")?.clone();
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
    let stream = TcpStream::connect(&address).await.map_err(|e| e.to_string())?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    tokio::spawn(connection.with_upgrades());
    let mut onward = Request::new(Empty::<Bytes>::new());
    *onward.method_mut() = request.method().clone();
    *onward.uri_mut() = path.parse().map_err(|e: http::uri::InvalidUri| e.to_string())?;
    *onward.headers_mut() = pass_on(request.headers());
    let host = authority.as_str().parse().map_err(|_| "invalid address")?;
    onward.headers_mut().insert(http::header::HOST, host);
    let response = sender.send_request(onward).await.map_err(|e| e.to_string())?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_REFUSAL_BYTES).collect().await;
        let body = body.map(|b| b.to_bytes()).unwrap_or_default();
        let mut answer = Response::new(full(body));
        *answer.status_mut() = head.status;
        if let Some(kind) = head.headers.get(http::header::CONTENT_TYPE) {
            answer
                .headers_mut()
                .insert(http::header::CONTENT_TYPE, kind.clone());
        }
        return Ok(answer);
    }
    let mut answer = Response::new(full(""));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = response.headers().clone();
    let client = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let (client, runtime) = match tokio::try_join!(client, hyper::upgrade::on(response)) {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!(%error, "stream not upgraded");
                return;
            }
        };
        let (mut client, mut runtime) = (TokioIo::new(client), TokioIo::new(runtime));
        if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut runtime).await {
            tracing::debug!(%error, "stream ended");
        }
    });
    Ok(answer)
}

/// Headers that the runtime needs: the upgrade, its protocols, and WebSocket's key.
fn pass_on(headers: &HeaderMap) -> HeaderMap {
    let wanted = |name: &str| {
        name == "connection"
            || name == "upgrade"
            || name == "origin"
            || name.starts_with("x-stream-protocol")
            || name.starts_with("sec-websocket")
    };
    let passed = headers.iter().filter(|(name, _)| wanted(name.as_str()));
    let mut onward = HeaderMap::new();
    for (name, value) in passed {
        onward.append(name.clone(), value.clone());
    }
    onward
}
