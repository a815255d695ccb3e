//! One request on its way through the server.

use crate::authn::User;
use crate::http::accept::{Accept, PROTOBUF};
use crate::http::body::Body;
use crate::http::query::Query;
use crate::http::request::RequestInfo;
use crate::http::status::Status;
use crate::server::Server;
use crate::yaml;
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, Limited};
use parking_lot::Mutex;
use serde_json::Value;
use std::sync::Arc;

/// Largest body of a request, as upstream's.
pub const MAX_BODY_BYTES: usize = 3 << 20;

/// An answer.
pub type Response = http::Response<Body>;

/// A request that has been authenticated and authorized.
pub struct Call {
    /// The server.
    pub server: Arc<Server>,
    /// Who asks.
    pub user: Arc<User>,
    /// What for.
    pub info: RequestInfo,
    /// Query parameters.
    pub query: Query,
    /// Headers.
    pub headers: HeaderMap,
    /// What the client accepts.
    pub accept: Accept,
    /// Sentences for the `Warning` headers of the answer.
    pub warnings: Mutex<Vec<String>>,
}

/// A decoded body.
#[derive(Debug, Default)]
pub struct Document {
    /// The document.
    pub value: Value,
    /// Fields that occur twice.
    pub duplicates: Vec<String>,
}

/// What happens to unknown fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are dropped.
    Ignore,
    /// They are dropped, and the client is warned.
    Warn,
    /// The request is refused.
    Strict,
}

impl Call {
    /// Adds a warning to the answer.
    pub fn warn(&self, text: impl Into<String>) {
        self.warnings.lock().push(text.into());
    }

    /// Whether nothing is to be stored.
    pub fn dry_run(&self) -> Result<bool, Status> {
        let mut dry = false;
        for value in self.query.all("dryRun") {
            if value != "All" {
                return Err(Status::bad_request(format!(
                    "invalid dryRun option: {value:?}: supported values: \"All\""
                )));
            }
            dry = true;
        }
        Ok(dry)
    }

    /// What happens to unknown fields.
    pub fn field_validation(&self) -> Result<FieldValidation, Status> {
        match self.query.get("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some(other) => Err(Status::bad_request(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Warn\", \"Strict\""
            ))),
        }
    }

    /// A header's text.
    pub fn header(&self, name: http::header::HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// The media type of the body, without parameters.
    pub fn media_type(&self) -> &str {
        let header = self.header(http::header::CONTENT_TYPE).unwrap_or_default();
        header.split(';').next().unwrap_or_default().trim()
    }

    /// Decodes a body of JSON, YAML or protobuf.
    pub fn decode(&self, body: &[u8]) -> Result<Document, Status> {
        match self.media_type() {
            "" | "application/json" => decode_json(body),
            "application/yaml" | "text/yaml" | "application/x-yaml" => yaml::decode(body),
            PROTOBUF => decode_protobuf(body),
            other => Err(Status::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: application/json, \
                 application/yaml, application/vnd.kubernetes.protobuf (got {other})"
            ))),
        }
    }
}

/// Reads a whole body; one above the limit is refused.
pub async fn read_body(body: hyper::body::Incoming) -> Result<Bytes, Status> {
    match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            let message = format!("Request entity too large: limit is {MAX_BODY_BYTES}");
            Err(Status::new(413, "RequestEntityTooLarge", message))
        }
        Err(error) => Err(Status::bad_request(format!("reading the body: {error}"))),
    }
}

/// Decodes JSON.
pub fn decode_json(body: &[u8]) -> Result<Document, Status> {
    let decoded = schema::decode::parse(body)
        .map_err(|e| Status::bad_request(format!("the object provided is not valid JSON: {e}")))?;
    Ok(Document {
        value: decoded.value,
        duplicates: decoded.duplicates,
    })
}

/// Decodes protobuf.
pub fn decode_protobuf(body: &[u8]) -> Result<Document, Status> {
    match schema::protobuf::decode(body) {
        Ok(value) => Ok(Document {
            value,
            duplicates: Vec::new(),
        }),
        Err(error @ schema::protobuf::Error::UnknownType { .. }) => {
            Err(Status::unsupported_media_type(error.to_string()))
        }
        Err(error) => Err(Status::bad_request(error.to_string())),
    }
}
