//! Events of a watch in the form that the client accepts. What is the same for all watches is made once.

use super::accept::{Encoding, Shape};
use super::respond;
use super::status::Status;
use crate::call::Call;
use crate::store::cache::Form;
use crate::store::{Event, EventKind, Object, Version, object};
use bytes::{BufMut, Bytes, BytesMut};
use schema::{Resource, protobuf};
use serde_json::{Value, json};
use std::sync::Arc;

/// Marks the bookmark after the initial events of a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Writes the events of one watch.
pub struct EventEncoder {
    call: Arc<Call>,
    resource: &'static Resource,
    version: Version,
    columns_sent: bool,
}

impl EventKind {
    /// As clients see it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

impl EventEncoder {
    /// For a watch of this resource.
    pub fn new(call: Arc<Call>, resource: &'static Resource, version: Version) -> Self {
        Self {
            call,
            resource,
            version,
            columns_sent: false,
        }
    }

    /// An event as it happened; `kind` differs from the event's own where selectors make it differ.
    pub fn event(&mut self, out: &mut BytesMut, kind: EventKind, event: &Event) {
        let accept = self.call.accept;
        let form = match (accept.shape, accept.encoding) {
            (Shape::Full, Encoding::Protobuf) if self.version.is_same() => Form::Protobuf,
            (Shape::Metadata("v1"), Encoding::Protobuf) => Form::MetadataProtobuf,
            (Shape::Metadata("v1"), _) => Form::Metadata,
            // The object's bytes are there already, and a table depends on the query.
            _ => return self.object(out, kind, &event.object),
        };
        if kind != event.kind {
            return self.object(out, kind, &event.object);
        }
        let frame = event.frame(form, || {
            let mut frame = BytesMut::new();
            self.object(&mut frame, kind, &event.object);
            frame.freeze()
        });
        out.put_slice(frame);
    }

    /// An event with this object.
    pub fn object(&mut self, out: &mut BytesMut, kind: EventKind, object: &Object) {
        let kind = kind.name();
        match self.call.accept.shape {
            Shape::Full if self.call.accept.encoding == Encoding::Json => {
                line(out, kind, &self.version.bytes(object))
            }
            Shape::Full => self.value(out, kind, &self.version.value(object)),
            Shape::Metadata(form) => {
                let value = respond::metadata_only(&self.version.value(object), form);
                self.value(out, kind, &value);
            }
            Shape::Table(form) => {
                let row = respond::row(&self.call, self.resource, self.version, object, form);
                let meta = json!({"resourceVersion": object.revision.to_string()});
                let with_columns = !std::mem::replace(&mut self.columns_sent, true);
                let table = respond::table(self.resource, form, meta, vec![row], with_columns);
                self.value(out, kind, &table);
            }
        }
    }

    /// Says that everything up to a revision has been sent.
    pub fn bookmark(&self, out: &mut BytesMut, revision: i64, initial_end: bool) {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let value: Value = match self.call.accept.shape {
            Shape::Metadata(form) => json!({
                "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{form}"), "metadata": metadata,
            }),
            Shape::Table(form) => respond::table(self.resource, form, metadata, Vec::new(), false),
            Shape::Full => json!({
                "kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": metadata,
            }),
        };
        self.value(out, "BOOKMARK", &value);
    }

    /// Says why the watch ends.
    pub fn error(&self, out: &mut BytesMut, status: &Status) {
        self.value(out, "ERROR", &status.to_value());
    }

    fn value(&self, out: &mut BytesMut, kind: &str, value: &Value) {
        if self.call.accept.encoding != Encoding::Protobuf {
            return line(out, kind, &object::to_bytes(value));
        }
        match protobuf::encode(value) {
            Ok(body) => out.put_slice(&protobuf::watch_event(kind, &body)),
            // An object that was written past this server; the client learns that something is wrong with it.
            Err(error) => {
                let status = Status::internal(error).to_value();
                if let Ok(body) = protobuf::encode(&status) {
                    out.put_slice(&protobuf::watch_event("ERROR", &body));
                }
            }
        }
    }
}

fn line(out: &mut BytesMut, kind: &str, object: &Bytes) {
    out.reserve(object.len() + 32);
    out.put(&b"{\"type\":\""[..]);
    out.put(kind.as_bytes());
    out.put(&b"\",\"object\":"[..]);
    out.put_slice(object);
    out.put(&b"}\n"[..]);
}
