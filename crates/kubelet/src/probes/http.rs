//! One HTTP GET, for probes and hooks. As upstream, certificates are not verified: the kubelet asks its own pods
//! at their address, and sends no secret.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

/// Most of an answer that is read, as upstream.
const MAX_BODY_BYTES: usize = 10 * 1024;

/// The number of a port that is given by number or by name.
pub fn port(container: &Container, port: &IntOrString) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok().filter(|n| *n > 0),
        IntOrString::String(name) => match name.parse() {
            Ok(number) => Some(number),
            Err(_) => container
                .ports
                .iter()
                .flatten()
                .find(|p| p.name.as_ref() == Some(name))
                .and_then(|p| u16::try_from(p.container_port).ok()),
        },
    }
}

/// An address and a port as one text.
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Asks, and returns status code and body, or why there is none.
pub async fn get(
    action: &HTTPGetAction,
    container: &Container,
    pod_ip: &str,
) -> Result<(u16, String), String> {
    let port = port(container, &action.port).ok_or("the container has no such port")?;
    let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod_ip);
    let authority = authority(host, port);
    let path = action.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let mut request = http::Request::get(&path)
        .header("User-Agent", "kube-probe/1.36")
        .header("Accept", "*/*")
        .header("Connection", "close");
    let mut host_header = authority.clone();
    for header in action.http_headers.iter().flatten() {
        if header.name.eq_ignore_ascii_case("host") {
            host_header.clone_from(&header.value);
        } else {
            request = request.header(&header.name, &header.value);
        }
    }
    let request = request
        .header("Host", host_header)
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    let stream = TcpStream::connect(&authority)
        .await
        .map_err(|e| format!("dial tcp {authority}: {e}"))?;
    if action.scheme.as_deref() == Some("HTTPS") {
        let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(tls::unverified_client_config());
        let stream = connector.connect(name, stream).await.map_err(|e| e.to_string())?;
        exchange(TokioIo::new(stream), request).await
    } else {
        exchange(TokioIo::new(stream), request).await
    }
}

async fn exchange<S>(io: S, request: http::Request<Empty<Bytes>>) -> Result<(u16, String), String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
        .await
        .map_err(|e| e.to_string())?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await;
        let body = body.map(|b| b.to_bytes()).unwrap_or_default();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    // The connection must be driven while the answer is awaited; its end before the answer is an error there.
    let drive = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = talk => result,
        () = drive => Err("the connection ended".into()),
    }
}
