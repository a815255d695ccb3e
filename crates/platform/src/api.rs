//! A small client of the Kubernetes API for what the platform itself needs: readiness, nodes, leases, and applying
//! the cluster's own objects. It decodes nothing into structs.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tls::IdentityFiles;

/// Largest answer that is read, bytes: a list of all nodes is far below it.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The identity cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// No answer came.
    #[error("{method} {path} at {server}: {reason}")]
    Connection {
        /// What was asked.
        method: Method,
        /// For what.
        path: String,
        /// Whom.
        server: SocketAddr,
        /// Why it failed.
        reason: String,
    },
    /// The server refused.
    #[error("{method} {path}: {status}: {message}")]
    Refused {
        /// What was asked.
        method: Method,
        /// For what.
        path: String,
        /// HTTP status.
        status: u16,
        /// What the server said.
        message: String,
    },
}

/// A client of one API server.
#[derive(Clone)]
pub struct Client {
    server: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    timeout: Duration,
}

impl Client {
    /// A client with an identity. Every request ends within `timeout`.
    pub fn new(server: SocketAddr, files: &IdentityFiles, timeout: Duration) -> Result<Self, Error> {
        Ok(Self {
            server,
            tls: tls::client_config(files, &[])?,
            timeout,
        })
    }

    /// The same client for another server.
    pub fn at(&self, server: SocketAddr) -> Self {
        Self {
            server,
            ..self.clone()
        }
    }

    /// Gets an object.
    pub async fn get(&self, path: &str) -> Result<Value, Error> {
        let bytes = self.request(Method::GET, path, "", Bytes::new()).await?;
        self.parse(Method::GET, path, &bytes)
    }

    /// Whether the server answers and says that it is ready.
    pub async fn is_ready(&self) -> bool {
        self.readiness().await.unwrap_or(false)
    }

    /// Whether the server says that it is ready. An error when it does not answer.
    pub async fn readiness(&self) -> Result<bool, Error> {
        match self.request(Method::GET, "/readyz", "", Bytes::new()).await {
            Ok(_) => Ok(true),
            Err(error) if error.status().is_some() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends an object and returns the answer.
    pub async fn send(&self, method: Method, path: &str, kind: &str, body: &Value) -> Result<Value, Error> {
        let body = Bytes::from(body.to_string());
        let bytes = self.request(method.clone(), path, kind, body).await?;
        self.parse(method, path, &bytes)
    }

    fn parse(&self, method: Method, path: &str, bytes: &[u8]) -> Result<Value, Error> {
        serde_json::from_slice(bytes).map_err(|e| self.failed(&method, path, format!("no JSON: {e}")))
    }

    fn failed(&self, method: &Method, path: &str, reason: impl ToString) -> Error {
        Error::Connection {
            method: method.clone(),
            path: path.into(),
            server: self.server,
            reason: reason.to_string(),
        }
    }

    async fn request(&self, method: Method, path: &str, kind: &str, body: Bytes) -> Result<Bytes, Error> {
        let work = self.exchange(&method, path, kind, body);
        match tokio::time::timeout(self.timeout, work).await {
            Ok(result) => result,
            Err(_) => Err(self.failed(&method, path, format!("no answer within {:?}", self.timeout))),
        }
    }

    async fn exchange(&self, method: &Method, path: &str, kind: &str, body: Bytes) -> Result<Bytes, Error> {
        let failed = |e: &dyn std::fmt::Display| self.failed(method, path, e);
        let stream = tokio::net::TcpStream::connect(self.server)
            .await
            .map_err(|e| failed(&e))?;
        let name = rustls::pki_types::ServerName::IpAddress(self.server.ip().into());
        let connector = tokio_rustls::TlsConnector::from(self.tls.clone());
        let stream = connector.connect(name, stream).await.map_err(|e| failed(&e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| failed(&e))?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.server.to_string())
            .header("accept", "application/json");
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        let request = request.body(Full::new(body)).map_err(|e| failed(&e))?;
        let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER_BYTES);
        let bytes = body.collect().await.map_err(|e| failed(&e))?.to_bytes();
        connection.abort();
        if status.is_success() {
            return Ok(bytes);
        }
        let parsed: Option<Value> = serde_json::from_slice(&bytes).ok();
        let message = parsed
            .and_then(|v| v["message"].as_str().map(str::to_owned))
            .unwrap_or_else(|| String::from_utf8_lossy(&bytes).chars().take(500).collect());
        Err(Error::Refused {
            method: method.clone(),
            path: path.into(),
            status: status.as_u16(),
            message,
        })
    }
}

impl Error {
    /// The HTTP status, if the server answered.
    pub fn status(&self) -> Option<u16> {
        match self {
            Error::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// Creates the objects of a stream of YAML documents, or brings them up to date. `adjust` may change each first.
pub async fn apply(client: &Client, documents: &str, adjust: impl Fn(&mut Value)) -> Result<usize, Error> {
    use serde::Deserialize;
    let mut applied = 0;
    for document in yaml_serde::Deserializer::from_str(documents) {
        let mut object = Value::deserialize(document)
            .map_err(|e| client.failed(&Method::POST, "/", format!("the manifest is not YAML: {e}")))?;
        if object.is_null() {
            continue;
        }
        adjust(&mut object);
        apply_one(client, &object).await?;
        applied += 1;
    }
    Ok(applied)
}

/// Creates an object, or patches the existing one with what is given.
pub async fn apply_one(client: &Client, object: &Value) -> Result<(), Error> {
    let collection = collection(client, object).await?;
    let created = client
        .send(Method::POST, &collection, "application/json", object)
        .await;
    match created {
        Err(error) if error.status() == Some(409) => {}
        result => return result.map(drop),
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let path = format!("{collection}/{name}");
    client
        .send(Method::PATCH, &path, "application/merge-patch+json", object)
        .await
        .map(drop)
}

/// The path of the collection that an object belongs to, by the server's discovery.
async fn collection(client: &Client, object: &Value) -> Result<String, Error> {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    let kind = object["kind"].as_str().unwrap_or_default();
    let root = match version.contains('/') {
        true => format!("/apis/{version}"),
        false => format!("/api/{version}"),
    };
    let listed = client.get(&root).await?;
    let resources = listed["resources"].as_array();
    let found = resources.into_iter().flatten().find(|r| {
        let is_subresource = r["name"].as_str().is_some_and(|n| n.contains('/'));
        r["kind"] == kind && !is_subresource
    });
    let Some(found) = found else {
        return Err(client.failed(
            &Method::GET,
            &root,
            format!("the server has no resource of kind {kind}"),
        ));
    };
    let resource = found["name"].as_str().unwrap_or_default();
    if found["namespaced"] != true {
        return Ok(format!("{root}/{resource}"));
    }
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    Ok(format!("{root}/namespaces/{namespace}/{resource}"))
}
