//! From protobuf to JSON.

use super::tags::{self, EntryKind, Message};
use super::wire::{Field, Reader, WireError};
use super::{Either, Error, MAGIC, MAX_DEPTH, either, leaf, schema_props, type_of};
use crate::duration;
use crate::facts::{Inner, Scalar, Shape, TypeId, Wrap};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

/// What RFC 3339 can say, in seconds since 1970.
const YEARS_1_TO_9999: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Decodes a body into an object with `apiVersion` and `kind`.
pub fn decode(body: &[u8]) -> Result<Value, Error> {
    let message = body.strip_prefix(MAGIC).ok_or(Error::Magic)?;
    let (mut api_version, mut kind, mut raw): (String, String, &[u8]) = Default::default();
    let mut unknown = Reader::new(message);
    while let Some((number, field)) = unknown.next()? {
        match (number, field) {
            (1, Field::Bytes(bytes)) => {
                let mut meta = Reader::new(bytes);
                while let Some((number, field)) = meta.next()? {
                    match (number, field) {
                        (1, Field::Bytes(bytes)) => api_version = text(bytes)?,
                        (2, Field::Bytes(bytes)) => kind = text(bytes)?,
                        _ => {}
                    }
                }
            }
            (2, Field::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let Some(message) = type_of(&api_version, &kind).and_then(tags::of) else {
        return Err(Error::UnknownType { kind, api_version });
    };
    let mut object = Map::new();
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    structure(message, raw, &mut object, 0)?;
    Ok(Value::Object(object))
}

fn text(bytes: &[u8]) -> Result<String, WireError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| WireError("text is not UTF-8"))
}

fn structure(
    message: &Message,
    bytes: &[u8],
    object: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), WireError> {
    if depth > MAX_DEPTH {
        return Err(WireError("too deep"));
    }
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        // A newer client may know more fields.
        let Some(entry) = message.entry(number) else {
            continue;
        };
        match (&entry.kind, field) {
            (EntryKind::Inline(inner), Field::Bytes(bytes)) => structure(inner, bytes, object, depth + 1)?,
            (EntryKind::Inline(_), _) => return Err(WireError("message expected")),
            (
                EntryKind::Field {
                    name,
                    shape,
                    keep_empty,
                },
                field,
            ) => {
                put(object, name, *keep_empty, *shape, field, depth)?;
            }
        }
    }
    Ok(())
}

fn put(
    object: &mut Map<String, Value>,
    name: &str,
    keep_empty: bool,
    shape: Shape,
    field: Field<'_>,
    depth: usize,
) -> Result<(), WireError> {
    match shape.wrap {
        Wrap::One => {
            if let Some(value) = one(shape, field, depth)?
                && (keep_empty || !is_empty(&value))
            {
                object.insert(name.to_owned(), value);
            }
        }
        Wrap::List => {
            if let Some(value) = one(shape.item(), field, depth)? {
                let list = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                if let Some(items) = list.as_array_mut() {
                    items.push(value);
                }
            }
        }
        Wrap::Map | Wrap::MapOfLists => {
            let Field::Bytes(entry) = field else {
                return Err(WireError("map entry"));
            };
            let Some((key, value)) = map_entry(shape, entry, depth)? else {
                return Ok(());
            };
            let map = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
            if let Some(map) = map.as_object_mut() {
                map.insert(key, value);
            }
        }
    }
    Ok(())
}

/// Whether Go's JSON leaves the value out where it may.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// A map entry is a message of key (1) and value (2); a list as a value is a message of items (1).
/// `None` where the value is a time that is not set.
fn map_entry(shape: Shape, entry: &[u8], depth: usize) -> Result<Option<(String, Value)>, WireError> {
    let item = shape.item();
    let (mut key, mut value) = (String::new(), None);
    let mut reader = Reader::new(entry);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Field::Bytes(bytes)) => key = text(bytes)?,
            (2, Field::Bytes(bytes)) if item.wrap == Wrap::List => {
                let mut items = Vec::new();
                let mut inner = Reader::new(bytes);
                while let Some((_, field)) = inner.next()? {
                    items.extend(one(item.item(), field, depth + 1)?);
                }
                value = Some(Value::Array(items));
            }
            (2, field) => value = one(item, field, depth + 1)?,
            _ => {}
        }
    }
    if value.is_none() {
        value = unset(item, depth)?;
    }
    Ok(value.map(|value| (key, value)))
}

/// What Go's type has where nothing is said.
fn unset(shape: Shape, depth: usize) -> Result<Option<Value>, WireError> {
    if shape.wrap == Wrap::List {
        return Ok(Some(Value::Array(Vec::new())));
    }
    let nothing = Field::Bytes(b"");
    let scalar = match shape.inner {
        Inner::Scalar(scalar) => Some(scalar),
        Inner::Type(id) => leaf(id),
    };
    Ok(match scalar {
        Some(Scalar::Boolean) => Some(false.into()),
        Some(Scalar::Int32 | Scalar::Int64 | Scalar::Double) => Some(0.into()),
        Some(Scalar::Quantity) => Some("0".into()),
        _ => one(shape, nothing, depth + 1)?,
    })
}

/// A single value; `None` for an unset time.
fn one(shape: Shape, field: Field<'_>, depth: usize) -> Result<Option<Value>, WireError> {
    let scalar = match shape.inner {
        Inner::Scalar(scalar) => scalar,
        Inner::Type(id) => match leaf(id) {
            Some(scalar) => scalar,
            None => return message(id, field, depth).map(Some),
        },
    };
    Ok(match (scalar, field) {
        (Scalar::String, Field::Bytes(bytes)) => Some(text(bytes)?.into()),
        (Scalar::Byte, Field::Bytes(bytes)) => Some(BASE64.encode(bytes).into()),
        (Scalar::Boolean, Field::Number(number)) => Some((number != 0).into()),
        (Scalar::Int32, Field::Number(number)) => Some((number.cast_signed() as i32).into()),
        (Scalar::Int64, Field::Number(number)) => Some(number.cast_signed().into()),
        (Scalar::Double, Field::Fixed(bits)) => Some(f64::from_bits(bits).into()),
        (Scalar::Quantity, Field::Bytes(bytes)) => Some(first_text(bytes)?.into()),
        (Scalar::Time, Field::Bytes(bytes)) => time(bytes, false)?,
        (Scalar::MicroTime, Field::Bytes(bytes)) => time(bytes, true)?,
        (Scalar::IntOrString, Field::Bytes(bytes)) => Some(int_or_string(bytes)?),
        (Scalar::Object | Scalar::Any, Field::Bytes(bytes)) => raw(bytes)?,
        _ => return Err(WireError("wire type does not fit the field")),
    })
}

fn message(id: TypeId, field: Field<'_>, depth: usize) -> Result<Value, WireError> {
    let Field::Bytes(bytes) = field else {
        return Err(WireError("message expected"));
    };
    if let Some(kind) = either(id) {
        return one_of_two(kind, bytes, depth);
    }
    let mut object = Map::new();
    if let Some(message) = tags::of(id) {
        structure(message, bytes, &mut object, depth + 1)?;
    }
    Ok(Value::Object(object))
}

fn one_of_two(kind: Either, bytes: &[u8], depth: usize) -> Result<Value, WireError> {
    if depth > MAX_DEPTH {
        return Err(WireError("too deep"));
    }
    let schema = |field| message(schema_props(), field, depth + 1);
    let (mut flag, mut one, mut many) = (false, None, Vec::new());
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        match (kind, number, field) {
            (Either::Bool, 1, Field::Number(number)) => flag = number != 0,
            (Either::Bool, 2, field) | (Either::Array | Either::StringArray, 1, field) => {
                one = Some(schema(field)?)
            }
            (Either::Array, 2, field) => many.push(schema(field)?),
            (Either::StringArray, 2, Field::Bytes(bytes)) => many.push(text(bytes)?.into()),
            _ => {}
        }
    }
    Ok(match (kind, one) {
        (_, Some(schema)) => schema,
        (Either::Bool, None) => flag.into(),
        (_, None) => many.into(),
    })
}

fn first_text(message: &[u8]) -> Result<String, WireError> {
    match Reader::new(message).next()? {
        Some((1, Field::Bytes(bytes))) => text(bytes),
        _ => Ok(String::new()),
    }
}

fn time(message: &[u8], micros: bool) -> Result<Option<Value>, WireError> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(message);
    let mut set = false;
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Field::Number(value)) => (seconds, set) = (value.cast_signed(), true),
            (2, Field::Number(value)) => nanos = value.cast_signed(),
            _ => {}
        }
    }
    if !set {
        return Ok(None);
    }
    if !(YEARS_1_TO_9999.contains(&seconds) && (0..1_000_000_000).contains(&nanos)) {
        return Err(WireError("time"));
    }
    let mut text = duration::format_time(seconds);
    if micros {
        text.truncate(text.len() - 1);
        text += &format!(".{:06}Z", nanos / 1000);
    }
    Ok(Some(text.into()))
}

fn int_or_string(message: &[u8]) -> Result<Value, WireError> {
    let (mut is_text, mut number, mut string) = (false, 0, String::new());
    let mut reader = Reader::new(message);
    while let Some((tag, field)) = reader.next()? {
        match (tag, field) {
            (1, Field::Number(kind)) => is_text = kind == 1,
            (2, Field::Number(value)) => number = value.cast_signed() as i32,
            (3, Field::Bytes(bytes)) => string = text(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text { string.into() } else { number.into() })
}

/// JSON inside a message.
fn raw(message: &[u8]) -> Result<Option<Value>, WireError> {
    match Reader::new(message).next()? {
        Some((1, Field::Bytes(b""))) | None => Ok(None),
        Some((1, Field::Bytes(bytes))) => serde_json::from_slice(bytes)
            .map(Some)
            .map_err(|_| WireError("raw value is not JSON")),
        _ => Ok(None),
    }
}
