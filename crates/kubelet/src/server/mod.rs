//! The kubelet's own API on port 10250: logs, exec, attach, port-forward, pods, health, metrics. Only the API
//! server and administrators get in, by client certificate.

mod logs;
mod query;
mod resource_metrics;
mod stats;
mod stream;

use crate::context::Context;
use bytes::Bytes;
use client::Informer;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::Pod;
use query::Query;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Name in the certificate of the API server as the kubelet's client, as upstream's tools make it.
const API_SERVER: &str = "kube-apiserver-kubelet-client";
/// Group of administrators.
const ADMINISTRATORS: &str = "system:masters";
/// A client that has not shown its certificate or sent its request by then is cut off.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after the address was in use.
const BIND_RETRY: Duration = Duration::from_secs(1);

type Body = BoxBody<Bytes, Infallible>;
type Answer = Response<Body>;

/// Serves until `shutdown`.
pub async fn run(
    context: Arc<Context>,
    pods: Informer<Pod>,
    shutdown: CancellationToken,
) -> Result<(), tls::Error> {
    let config = &context.config;
    let files = tls::IdentityFiles {
        cert: config.tls_cert.clone(),
        key: config.tls_key.clone(),
        ca: config.client_ca.clone(),
    };
    let acceptor = TlsAcceptor::from(tls::server_config(
        &files,
        tls::ClientAuth::Required,
        &[b"http/1.1"],
    )?);
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, config.port));
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => tracing::info!(%address, %error, "cannot listen yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(BIND_RETRY) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return Ok(()),
        };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors, most likely: some connection has to end first.
            tokio::time::sleep(BIND_RETRY).await;
            continue;
        };
        let (context, pods, acceptor) = (context.clone(), pods.clone(), acceptor.clone());
        tokio::spawn(async move {
            if let Err(error) = serve(context, pods, acceptor, stream).await {
                tracing::debug!(error, "connection ended");
            }
        });
    }
}

async fn serve(
    context: Arc<Context>,
    pods: Informer<Pod>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
) -> Result<(), String> {
    let _ = stream.set_nodelay(true);
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream))
        .await
        .map_err(|_| "no handshake in time")?
        .map_err(|e| e.to_string())?;
    let peer = tls::peer_of(stream.get_ref().1.peer_certificates()).unwrap_or_default();
    let allowed = peer.common_name == API_SERVER || peer.organizations.iter().any(|o| o == ADMINISTRATORS);
    let service = service_fn(move |request| {
        let (context, pods, user) = (context.clone(), pods.clone(), peer.common_name.clone());
        async move {
            if !allowed {
                let message = format!("Forbidden (user={user})");
                return Ok::<_, Infallible>(text(StatusCode::FORBIDDEN, message));
            }
            Ok(route(&context, &pods, request).await)
        }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await
        .map_err(|e| e.to_string())
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

fn text(status: StatusCode, message: impl Into<String>) -> Answer {
    let mut response = Response::new(full(message.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        "Content-Type",
        http::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

fn json(value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(bytes) => {
            let mut response = Response::new(full(bytes));
            response
                .headers_mut()
                .insert("Content-Type", http::HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn route(context: &Arc<Context>, pods: &Informer<Pod>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let parts: Vec<String> = path.split('/').skip(1).map(query::decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let get = request.method() == Method::GET;
    match parts.as_slice() {
        ["healthz"] if get => text(StatusCode::OK, "ok"),
        ["metrics"] if get => stats::metrics(context, pods).await,
        ["metrics", "resource"] if get => resource_metrics::serve(context).await,
        ["stats", "summary"] if get => stats::summary(context).await,
        ["pods"] | ["pods", ""] if get => {
            let items: Vec<_> = pods.list();
            let items: Vec<&Pod> = items.iter().map(AsRef::as_ref).collect();
            json(&serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
        }
        ["containerLogs", namespace, pod, container] if get => {
            logs::serve(context, pods, (namespace, pod, container), &query).await
        }
        ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
            let target = (*namespace, *pod, *container);
            stream::exec(context, pods, target, &query, request).await
        }
        ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
            let target = (*namespace, *pod, *container);
            stream::attach(context, pods, target, &query, request).await
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
            stream::port_forward(context, pods, (namespace, pod), &query, request).await
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

/// The pod of this node with that name, and what the runtime has of it.
async fn find(
    context: &Context,
    pods: &Informer<Pod>,
    namespace: &str,
    name: &str,
) -> Result<(Arc<Pod>, crate::runtime::RuntimePod), Answer> {
    let Some(pod) = pods.get(namespace, name) else {
        return Err(text(
            StatusCode::NOT_FOUND,
            format!("pod {name:?} in namespace {namespace:?} not found"),
        ));
    };
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let mut cache = crate::runtime::Cache::default();
    match cache.observe(&context.runtime, &uid).await {
        Ok(observed) => Ok((pod, observed)),
        Err(error) => Err(text(StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
    }
}
