//! Answers: objects, lists, tables and errors in the form that the client accepts.

use super::accept::{Accept, Encoding, Shape};
use super::body::Body;
use super::status::Status;
use crate::call::{Call, Response};
use crate::store::object::to_bytes;
use crate::store::{Object, Version};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, StatusCode, header};
use schema::Resource;
use serde_json::{Value, json};
use std::sync::Arc;

/// Answers below this size are not worth compressing; upstream's limit.
const GZIP_MIN_BYTES: u64 = 128 << 10;
/// All warnings of an answer, as upstream's limit: they are headers, and an object may have a million unknown fields.
const MAX_WARNING_BYTES: usize = 4096;
/// What is left of each when all do not fit; upstream's limit.
const MAX_LONG_WARNING_BYTES: usize = 256;

/// An answer with a body of a given type.
pub fn bytes(code: u16, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = http::Response::new(Body::full(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A JSON document.
pub fn json(code: u16, value: &Value) -> Response {
    bytes(code, "application/json", to_bytes(value))
}

/// The client has it already.
pub fn not_modified(etag: &str) -> Response {
    let mut response = http::Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    set_etag(&mut response, etag);
    response
}

/// Whether a client says (`If-None-Match`) that it has this content.
pub fn has_etag(known: Option<&str>, etag: &str) -> bool {
    known.is_some_and(|known| {
        known
            .split(',')
            .map(|one| one.trim().trim_start_matches("W/"))
            .any(|one| one == etag || one == "*")
    })
}

/// Names the content of an answer.
pub fn set_etag(response: &mut Response, etag: &str) {
    if let Ok(etag) = HeaderValue::from_str(etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
}

/// Plain text.
pub fn text(code: u16, body: impl Into<Bytes>) -> Response {
    bytes(code, "text/plain; charset=utf-8", body)
}

/// An error, in the client's encoding where that has a form for it.
pub fn failure(accept: Accept, status: &Status) -> Response {
    let shown = status.to_value();
    let mut response = value(accept, status.code, &shown).unwrap_or_else(|_| json(status.code, &shown));
    if let Some(seconds) = status.details.get("retryAfterSeconds").and_then(Value::as_u64) {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A value in the client's encoding.
pub fn value(accept: Accept, code: u16, value: &Value) -> Result<Response, Status> {
    match accept.encoding {
        Encoding::Json => Ok(json(code, value)),
        Encoding::Yaml => {
            let text = yaml_serde::to_string(value).map_err(Status::internal)?;
            Ok(bytes(code, accept.content_type(), text))
        }
        Encoding::Protobuf => {
            let body = schema::protobuf::encode(value).map_err(no_protobuf)?;
            Ok(bytes(code, accept.content_type(), body))
        }
    }
}

fn no_protobuf(error: schema::protobuf::Error) -> Status {
    match error {
        schema::protobuf::Error::UnknownType { .. } => {
            Status::not_acceptable("application/json, application/yaml")
        }
        other => Status::internal(other),
    }
}

/// Success of something that has no object to show.
pub fn success(resource: &Resource, name: &str, uid: &str) -> Value {
    let mut details = json!({"name": name});
    if !resource.group.is_empty() {
        details["group"] = resource.group.as_ref().into();
    }
    details["kind"] = resource.plural.as_ref().into();
    if !uid.is_empty() {
        details["uid"] = uid.into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// One object in the shape and encoding that the client accepts.
pub fn object(
    call: &Call,
    resource: &'static Resource,
    stored: &Resource,
    code: u16,
    object: &Arc<Object>,
) -> Result<Response, Status> {
    let version = Version::new(resource, stored);
    match (call.accept.shape, call.accept.encoding) {
        (Shape::Full, Encoding::Json) => Ok(bytes(code, "application/json", version.bytes(object))),
        (Shape::Full, Encoding::Yaml | Encoding::Protobuf) => {
            value(call.accept, code, &version.value(object))
        }
        (Shape::Metadata(meta), _) => value(call.accept, code, &metadata_only(&version.value(object), meta)),
        (Shape::Table(meta), _) => {
            let rows = vec![row(call, resource, version, object, meta)];
            let table = table(
                resource,
                meta,
                json!({"resourceVersion": object.revision.to_string()}),
                rows,
                true,
            );
            value(call.accept, code, &table)
        }
    }
}

/// What a list says of itself.
#[derive(Debug, Default)]
pub struct ListMeta {
    /// Its revision.
    pub revision: i64,
    /// Where the next page starts.
    pub next: Option<String>,
    /// How many objects follow this page, if that is known.
    pub remaining: Option<i64>,
}

impl ListMeta {
    fn to_value(&self) -> Value {
        let mut value = json!({"resourceVersion": self.revision.to_string()});
        if let Some(next) = &self.next {
            value["continue"] = next.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            value["remainingItemCount"] = remaining.into();
        }
        value
    }
}

/// A list in the shape and encoding that the client accepts.
pub fn list(
    call: &Call,
    resource: &'static Resource,
    stored: &Resource,
    meta: &ListMeta,
    objects: Vec<Arc<Object>>,
) -> Result<Response, Status> {
    let version = Version::new(resource, stored);
    match (call.accept.shape, call.accept.encoding) {
        (Shape::Full, Encoding::Json) => Ok(full_list(resource, version, meta, objects)),
        (Shape::Full, Encoding::Protobuf) => {
            let body = schema::protobuf::encode_list(
                &resource.api_version(),
                &resource.list_kind,
                &resource.kind,
                &meta.to_value(),
                objects.iter().map(|o| Ok(version.value(o))),
            );
            Ok(bytes(200, call.accept.content_type(), body.map_err(no_protobuf)?))
        }
        (Shape::Full, Encoding::Yaml) => {
            let items: Vec<Value> = objects.iter().map(|o| version.value(o)).collect();
            let list = json!({
                "kind": resource.list_kind, "apiVersion": resource.api_version(),
                "metadata": meta.to_value(), "items": items,
            });
            value(call.accept, 200, &list)
        }
        (Shape::Metadata(form), _) => {
            let items: Vec<Value> = objects
                .iter()
                .map(|o| metadata_only(&version.value(o), form))
                .collect();
            let list = json!({
                "kind": "PartialObjectMetadataList", "apiVersion": format!("meta.k8s.io/{form}"),
                "metadata": meta.to_value(), "items": items,
            });
            value(call.accept, 200, &list)
        }
        (Shape::Table(form), _) => {
            let rows = objects
                .iter()
                .map(|o| row(call, resource, version, o, form))
                .collect();
            value(
                call.accept,
                200,
                &table(resource, form, meta.to_value(), rows, true),
            )
        }
    }
}

/// A plain list is its objects' bytes with commas between them, copied together when the connection takes them.
fn full_list(resource: &Resource, version: Version, meta: &ListMeta, objects: Vec<Arc<Object>>) -> Response {
    let head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
        resource.list_kind,
        resource.api_version(),
        meta.to_value()
    );
    let mut response = bytes(200, "application/json", Bytes::new());
    let separators = objects.len().saturating_sub(1);
    let objects = objects.into_iter().map(move |o| version.bytes(&o));
    *response.body_mut() = if version.is_same() {
        // Every object is measured in the first pass and copied in the second.
        let objects: Vec<Bytes> = objects.collect();
        let size: usize = objects.iter().map(Bytes::len).sum();
        let size = head.len() + size + separators + LIST_END.len();
        Body::lazy(ListChunks::new(head, objects.into_iter()), size as u64)
    } else {
        Body::Chunks(ListChunks::new(head, objects).collect())
    };
    response
}

const LIST_END: &[u8] = b"]}";
/// Objects are copied together up to about this size: larger writes make no difference to TLS.
const CHUNK_BYTES: usize = 64 << 10;

/// The pieces of a list.
struct ListChunks<I: Iterator> {
    head: String,
    objects: std::iter::Peekable<I>,
    ended: bool,
}

impl<I: Iterator<Item = Bytes>> ListChunks<I> {
    fn new(head: String, objects: I) -> Self {
        Self {
            head,
            objects: objects.peekable(),
            ended: false,
        }
    }
}

impl<I: Iterator<Item = Bytes>> Iterator for ListChunks<I> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        chunk.put(std::mem::take(&mut self.head).as_bytes());
        while let Some(object) = self.objects.next() {
            chunk.put(object);
            let Some(next) = self.objects.peek() else { break };
            chunk.put_u8(b',');
            if chunk.len() + next.len() > CHUNK_BYTES {
                return Some(chunk.freeze());
            }
        }
        self.ended = true;
        chunk.put(LIST_END);
        Some(chunk.freeze())
    }
}

/// Compresses an answer that is worth it for a client that can unpack it.
pub fn compress(accept_encoding: Option<&HeaderValue>, response: &mut Response) {
    let accepts = accept_encoding
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.split(',').any(|v| v.trim().starts_with("gzip")));
    if !accepts || response.body().len().is_none_or(|size| size < GZIP_MIN_BYTES) {
        return;
    }
    let body = std::mem::replace(response.body_mut(), Body::empty());
    *response.body_mut() = body.gzip();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// `PartialObjectMetadata` of an object.
pub fn metadata_only(object: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object["metadata"],
    })
}

/// One row of a table.
pub fn row(call: &Call, resource: &'static Resource, version: Version, object: &Object, form: &str) -> Value {
    let value = version.value(object);
    let cells = schema::table::row(resource, &value, crate::time::unix_seconds());
    let mut row = json!({"cells": cells});
    match call.query.get("includeObject") {
        Some("None") => row["object"] = Value::Null,
        Some("Object") => row["object"] = value,
        _ => row["object"] = metadata_only(&value, form),
    }
    row
}

/// A table; its columns are left out of all events of a watch but the first.
pub fn table(resource: &Resource, form: &str, meta: Value, rows: Vec<Value>, with_columns: bool) -> Value {
    let columns = with_columns.then(|| schema::table::definitions(resource));
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{form}"), "metadata": meta,
        "columnDefinitions": columns, "rows": rows,
    })
}

/// Adds the warnings of a call to its answer (RFC 7234, as kubectl reads them).
pub fn add_warnings(call: &Call, response: &mut Response) {
    warnings(std::mem::take(&mut *call.warnings.lock()), response);
}

fn warnings(warnings: Vec<String>, response: &mut Response) {
    let whole: usize = warnings.iter().map(String::len).sum();
    let longest = if whole > MAX_WARNING_BYTES {
        MAX_LONG_WARNING_BYTES
    } else {
        usize::MAX
    };
    let mut left = MAX_WARNING_BYTES;
    for warning in warnings {
        let text = cut(&warning, longest);
        let Some(less) = left.checked_sub(text.len()) else {
            return;
        };
        left = less;
        let text: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(header) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, header);
        }
    }
}

/// The beginning of a text, of at most so many bytes.
fn cut(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warned(texts: impl IntoIterator<Item = String>) -> Vec<String> {
        let mut response = text(200, "");
        warnings(texts.into_iter().collect(), &mut response);
        let headers = response.headers().get_all(header::WARNING);
        headers
            .iter()
            .map(|value| value.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn warnings_are_quoted() {
        assert_eq!(warned(["a \"b\"\n\\".to_owned()]), ["299 - \"a \\\"b\\\" \\\\\""]);
    }

    #[test]
    fn warnings_have_room_for_a_few() {
        // More headers than an answer can have would end the connection.
        let many = warned((0..100_000).map(|n| format!("unknown field \"spec.f{n}\"")));
        assert!((100..300).contains(&many.len()), "{}", many.len());
        let long = warned(["x".repeat(4000), "y".repeat(4000)]);
        assert_eq!(long.iter().map(String::len).collect::<Vec<_>>(), [264, 264]);
        assert_eq!(warned(["x".repeat(4000)])[0].len(), 4008);
        assert_eq!(cut("aéb", 2), "a");
    }
}
