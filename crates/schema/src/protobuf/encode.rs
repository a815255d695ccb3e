//! From JSON to protobuf.

use super::tags::{self, EntryKind, Message};
use super::wire::{put_bytes, put_double, put_message, put_number};
use super::{Either, Error, MAGIC, MAX_DEPTH, WireError, either, leaf, schema_props, type_of};
use crate::duration;
use crate::facts::{Inner, Scalar, Shape, TypeId, Wrap, facts};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

/// What encodes the objects of one kind; looking the kind up takes longer than encoding a small object.
#[derive(Clone, Copy, Debug)]
pub struct Encoder {
    id: TypeId,
    message: &'static Message,
    /// `PartialObjectMetadata`, which the published document does not describe: only its metadata (1).
    partial: bool,
}

impl Encoder {
    /// For a kind; none if it has no form in protobuf.
    pub fn find(api_version: &str, kind: &str) -> Option<Self> {
        if api_version.starts_with("meta.k8s.io/") && kind == "PartialObjectMetadata" {
            let id = facts().find("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")?;
            let message = tags::of(id)?;
            return Some(Self {
                id,
                message,
                partial: true,
            });
        }
        let id = type_of(api_version, kind)?;
        let message = tags::of(id)?;
        Some(Self {
            id,
            message,
            partial: false,
        })
    }

    /// Whether a type has a form in protobuf.
    pub fn knows(id: TypeId) -> bool {
        tags::of(id).is_some()
    }

    fn object(self, out: &mut Vec<u8>, value: &Value) -> Result<(), Error> {
        if self.partial {
            let metadata = value["metadata"].as_object();
            return metadata.map_or(Ok(()), |metadata| {
                put_message(out, 1, |out| structure(self.message, metadata, out, 0))
            });
        }
        let object = value
            .as_object()
            .ok_or_else(|| wrong(facts().get(self.id).name))?;
        structure(self.message, object, out, 0)
    }
}

/// Encodes an object with `apiVersion` and `kind` as a body.
pub fn encode(value: &Value) -> Result<Vec<u8>, Error> {
    let text = |name: &str| value[name].as_str().unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if api_version.starts_with("meta.k8s.io/") && kind == "PartialObjectMetadataList" {
        let items = value["items"].as_array().map_or(&[][..], Vec::as_slice);
        return encode_list(
            api_version,
            kind,
            "PartialObjectMetadata",
            &value["metadata"],
            items.iter().map(Ok),
        );
    }
    let encoder = Encoder::find(api_version, kind).ok_or_else(|| Error::UnknownType {
        kind: kind.into(),
        api_version: api_version.into(),
    })?;
    let mut body = Vec::with_capacity(512);
    encoder.object(&mut body, value)?;
    Ok(envelope(api_version, kind, &body))
}

/// Encodes a list, whose objects are taken one by one.
pub fn encode_list<V: std::borrow::Borrow<Value>>(
    api_version: &str,
    list_kind: &str,
    item_kind: &str,
    metadata: &Value,
    items: impl Iterator<Item = Result<V, Error>>,
) -> Result<Vec<u8>, Error> {
    let encoder = Encoder::find(api_version, item_kind).ok_or_else(|| Error::UnknownType {
        kind: item_kind.into(),
        api_version: api_version.into(),
    })?;
    let meta_id = facts()
        .find("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta")
        .expect("the embedded facts have the metadata of lists");
    let mut body = Vec::new();
    if let (Some(metadata), Some(message)) = (metadata.as_object(), tags::of(meta_id)) {
        put_message(&mut body, 1, |out| structure(message, metadata, out, 0))?;
    }
    for item in items {
        let item = item?;
        put_message(&mut body, 2, |out| encoder.object(out, item.borrow()))?;
    }
    Ok(envelope(api_version, list_kind, &body))
}

/// One frame of a watch: the length in four bytes, then the type of the event (1) and the object's body in a raw
/// extension (2).
pub fn watch_event(kind: &str, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 4];
    frame.reserve(body.len() + 32);
    put_bytes(&mut frame, 1, kind.as_bytes());
    // Writing bytes cannot fail.
    let _ = put_message::<WireError>(&mut frame, 2, |out| {
        put_bytes(out, 1, body);
        Ok(())
    });
    let length = u32::try_from(frame.len() - 4).unwrap_or(u32::MAX);
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame
}

fn envelope(api_version: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + api_version.len() + kind.len() + 24);
    out.extend_from_slice(MAGIC);
    let mut meta = Vec::with_capacity(api_version.len() + kind.len() + 4);
    put_bytes(&mut meta, 1, api_version.as_bytes());
    put_bytes(&mut meta, 2, kind.as_bytes());
    put_bytes(&mut out, 1, &meta);
    put_bytes(&mut out, 2, body);
    // Content encoding and type: none.
    put_bytes(&mut out, 3, b"");
    put_bytes(&mut out, 4, b"");
    out
}

fn wrong(field: &str) -> Error {
    Error::Value { field: field.into() }
}

fn structure(
    message: &Message,
    object: &Map<String, Value>,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(WireError("too deep").into());
    }
    for entry in &message.entries {
        match &entry.kind {
            EntryKind::Inline(inner) => {
                let start = out.len();
                put_message(out, entry.number, |out| structure(inner, object, out, depth + 1))?;
                // An empty one says nothing, and takes two bytes or three.
                if out.len() - start <= 3 && out.last() == Some(&0) {
                    out.truncate(start);
                }
            }
            EntryKind::Field { name, shape, .. } => match object.get(*name) {
                None | Some(Value::Null) => {}
                Some(value) => field(out, entry.number, name, *shape, value, depth)?,
            },
        }
    }
    Ok(())
}

fn field(
    out: &mut Vec<u8>,
    number: u32,
    name: &str,
    shape: Shape,
    value: &Value,
    depth: usize,
) -> Result<(), Error> {
    match shape.wrap {
        Wrap::One => one(out, number, name, shape, value, depth),
        Wrap::List => {
            let items = value.as_array().ok_or_else(|| wrong(name))?;
            items
                .iter()
                .try_for_each(|item| one(out, number, name, shape.item(), item, depth))
        }
        Wrap::Map | Wrap::MapOfLists => {
            let map = value.as_object().ok_or_else(|| wrong(name))?;
            map.iter().try_for_each(|(key, value)| {
                put_message(out, number, |out| {
                    put_bytes(out, 1, key.as_bytes());
                    match shape.item() {
                        item if item.wrap == Wrap::List => {
                            put_message(out, 2, |out| field(out, 1, name, item, value, depth))
                        }
                        item => one(out, 2, name, item, value, depth),
                    }
                })
            })
        }
    }
}

fn one(
    out: &mut Vec<u8>,
    number: u32,
    name: &str,
    shape: Shape,
    value: &Value,
    depth: usize,
) -> Result<(), Error> {
    let scalar = match shape.inner {
        Inner::Scalar(scalar) => scalar,
        Inner::Type(id) => match leaf(id) {
            Some(scalar) => scalar,
            None => return put_message(out, number, |out| self::message(out, id, name, value, depth)),
        },
    };
    let text = || value.as_str().ok_or_else(|| wrong(name));
    match scalar {
        Scalar::String => put_bytes(out, number, text()?.as_bytes()),
        Scalar::Byte => {
            let bytes = BASE64.decode(text()?).map_err(|_| wrong(name))?;
            put_bytes(out, number, &bytes);
        }
        Scalar::Boolean => put_number(out, number, value.as_bool().ok_or_else(|| wrong(name))?.into()),
        Scalar::Int32 | Scalar::Int64 => {
            let whole = value.as_i64().or_else(|| value.as_f64().map(|f| f as i64));
            put_number(out, number, whole.ok_or_else(|| wrong(name))?.cast_unsigned());
        }
        Scalar::Double => put_double(out, number, value.as_f64().ok_or_else(|| wrong(name))?),
        Scalar::Quantity => {
            let quantity = match value {
                Value::Number(number) => number.to_string(),
                _ => text()?.to_owned(),
            };
            let mut message = Vec::with_capacity(quantity.len() + 2);
            put_bytes(&mut message, 1, quantity.as_bytes());
            put_bytes(out, number, &message);
        }
        Scalar::Time | Scalar::MicroTime => {
            let time = duration::parse_time(text()?).ok_or_else(|| wrong(name))?;
            let mut message = Vec::with_capacity(16);
            put_number(&mut message, 1, time.seconds.cast_unsigned());
            if scalar == Scalar::MicroTime {
                put_number(&mut message, 2, u64::from(time.nanos));
            }
            put_bytes(out, number, &message);
        }
        Scalar::IntOrString => put_bytes(out, number, &int_or_string(value).ok_or_else(|| wrong(name))?),
        Scalar::Object | Scalar::Any => {
            let mut message = Vec::new();
            put_bytes(&mut message, 1, value.to_string().as_bytes());
            put_bytes(out, number, &message);
        }
    }
    Ok(())
}

fn int_or_string(value: &Value) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    match value {
        Value::String(text) => {
            put_number(&mut message, 1, 1);
            put_bytes(&mut message, 3, text.as_bytes());
        }
        value => put_number(&mut message, 2, value.as_i64()?.cast_unsigned()),
    }
    Some(message)
}

fn message(out: &mut Vec<u8>, id: TypeId, name: &str, value: &Value, depth: usize) -> Result<(), Error> {
    if let Some(kind) = either(id) {
        return one_of_two(out, kind, name, value, depth);
    }
    let object = value.as_object().ok_or_else(|| wrong(name))?;
    match tags::of(id) {
        Some(message) => structure(message, object, out, depth + 1),
        // A struct without fields.
        None => Ok(()),
    }
}

fn one_of_two(out: &mut Vec<u8>, kind: Either, name: &str, value: &Value, depth: usize) -> Result<(), Error> {
    let schema = |out: &mut Vec<u8>, number, value: &Value| {
        put_message(out, number, |out| {
            message(out, schema_props(), name, value, depth + 1)
        })
    };
    match (kind, value) {
        (Either::Bool, Value::Bool(flag)) => put_number(out, 1, u64::from(*flag)),
        (Either::Bool, value) => {
            // As in Go, a schema implies the flag.
            put_number(out, 1, 1);
            schema(out, 2, value)?;
        }
        (Either::Array, Value::Array(items)) => {
            for item in items {
                schema(out, 2, item)?;
            }
        }
        (Either::StringArray, Value::Array(items)) => {
            for item in items {
                put_bytes(out, 2, item.as_str().ok_or_else(|| wrong(name))?.as_bytes());
            }
        }
        (Either::Array | Either::StringArray, value) => schema(out, 1, value)?,
    }
    Ok(())
}
