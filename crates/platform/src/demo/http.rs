//! One HTTP request to the demo's server.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Duration;

/// Largest answer, bytes: all records of a long demo.
const MAX_ANSWER_BYTES: usize = 512 << 20;

/// Status and body, or why there is no answer.
pub(super) async fn request(
    server: SocketAddr,
    method: &str,
    path: &str,
    body: String,
    timeout: Duration,
) -> Result<(u16, Bytes), String> {
    let work = async {
        let stream = tokio::net::TcpStream::connect(server)
            .await
            .map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "demo")
            .header("connection", "close")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
        let bytes = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
        connection.abort();
        Ok((status, bytes))
    };
    match tokio::time::timeout(timeout, work).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {timeout:?}")),
    }
}
