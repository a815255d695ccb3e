//! Bodies in protobuf, as Go clients send them, turned into the JSON that everything else here works on.
//!
//! The envelope is `k8s\0` and a message `Unknown` around the object. Go's encoder writes every field that is not a
//! pointer, empty or not; JSON leaves those out, so empty values are dropped unless the field is required or one of
//! those whose empty value means something.

mod tags;
mod wire;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use schema::facts::{Inner, Scalar, Shape, TypeId, Wrap, facts};
use serde_json::{Map, Value};
use tags::{Tag, Tags};
use wire::{Field, Reader, WireError};

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Messages in messages; the deepest type of the API needs far fewer.
const MAX_DEPTH: usize = 64;
/// Fields that are pointers in Go and whose empty value differs from none.
const MEANINGFUL: &[&str] = &[
    "activeDeadlineSeconds",
    "allowPrivilegeEscalation",
    "allowVolumeExpansion",
    "attachRequired",
    "automountServiceAccountToken",
    "averageUtilization",
    "backoffLimit",
    "blockOwnerDeletion",
    "completions",
    "controller",
    "defaultMode",
    "deletionGracePeriodSeconds",
    "enableServiceLinks",
    "endPort",
    "expirationSeconds",
    "failedJobsHistoryLimit",
    "fsGroup",
    "gracePeriodSeconds",
    "hostUsers",
    "immutable",
    "leaseTransitions",
    "minReplicas",
    "mode",
    "optional",
    "orphanDependents",
    "parallelism",
    "partition",
    "podInfoOnMount",
    "priority",
    "privileged",
    "progressDeadlineSeconds",
    "readOnlyRootFilesystem",
    "ready",
    "replicas",
    "requiresRepublish",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "serving",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "stabilizationWindowSeconds",
    "started",
    "storageCapacity",
    "storageClassName",
    "successfulJobsHistoryLimit",
    "suspend",
    "terminating",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
    "ttlSecondsAfterFinished",
    "allocateLoadBalancerNodePorts",
];

/// Why a body cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not in the wire format.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It does not begin as bodies do.
    #[error("the body does not start with the magic number of Kubernetes protobuf")]
    Magic,
    /// Its type has no numbers here.
    #[error("no protobuf form is known of {kind} in {api_version}")]
    UnknownType {
        /// Its kind.
        kind: String,
        /// Its API version.
        api_version: String,
    },
}

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
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let type_id = facts()
        .find_kind(group, version, &kind)
        .or_else(|| facts().find(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}")));
    let Some(type_id) = type_id else {
        return Err(Error::UnknownType { kind, api_version });
    };
    let mut object = Map::new();
    object.insert("apiVersion".into(), api_version.as_str().into());
    object.insert("kind".into(), kind.as_str().into());
    let Some(numbers) = tags::of(facts().get(type_id).name) else {
        return Err(Error::UnknownType { kind, api_version });
    };
    structure(type_id, numbers, raw, &mut object, 0)?;
    Ok(Value::Object(object))
}

fn text(bytes: &[u8]) -> Result<String, WireError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| WireError("text is not UTF-8"))
}

fn structure(
    type_id: TypeId,
    numbers: &Tags,
    message: &[u8],
    object: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), WireError> {
    if depth > MAX_DEPTH {
        return Err(WireError("too deep"));
    }
    let mut reader = Reader::new(message);
    while let Some((number, field)) = reader.next()? {
        match (numbers.get(&number), field) {
            (Some(Tag::Inline(inner)), Field::Bytes(bytes)) => {
                structure(type_id, inner, bytes, object, depth + 1)?
            }
            (Some(Tag::Field(name)), field) => {
                if let Some(known) = facts().field(type_id, name) {
                    put(object, name, known.required, known.shape, field, depth)?;
                }
            }
            // A newer client may know more fields.
            _ => {}
        }
    }
    Ok(())
}

fn put(
    object: &mut Map<String, Value>,
    name: &str,
    required: bool,
    shape: Shape,
    field: Field<'_>,
    depth: usize,
) -> Result<(), WireError> {
    match shape.wrap {
        Wrap::One => {
            if let Some(value) = one(shape, field, depth)? {
                let empty = match &value {
                    Value::Bool(flag) => !flag,
                    Value::Number(number) => number.as_f64() == Some(0.0),
                    Value::String(text) => text.is_empty(),
                    _ => false,
                };
                if !empty || required || MEANINGFUL.contains(&name) {
                    object.insert(name.to_owned(), value);
                }
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
            let (key, value) = map_entry(shape, entry, depth)?;
            let map = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
            if let Some(map) = map.as_object_mut() {
                map.insert(key, value);
            }
        }
    }
    Ok(())
}

/// A map entry is a message of key (1) and value (2); a list as a value is a message of items (1).
fn map_entry(shape: Shape, entry: &[u8], depth: usize) -> Result<(String, Value), WireError> {
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
    Ok((key, value.unwrap_or_else(|| Value::String(String::new()))))
}

/// A single value; `None` for an unset time.
fn one(shape: Shape, field: Field<'_>, depth: usize) -> Result<Option<Value>, WireError> {
    let scalar = match shape.inner {
        Inner::Scalar(scalar) => scalar,
        Inner::Type(id) => match facts().get(id).scalar {
            Some(scalar) => scalar,
            None => {
                let Field::Bytes(bytes) = field else {
                    return Err(WireError("message expected"));
                };
                let mut object = Map::new();
                if let Some(numbers) = tags::of(facts().get(id).name) {
                    structure(id, numbers, bytes, &mut object, depth + 1)?;
                }
                return Ok(Some(Value::Object(object)));
            }
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
            (2, Field::Number(value)) => nanos = value.cast_signed() as i32,
            _ => {}
        }
    }
    if !set {
        return Ok(None);
    }
    let time = Timestamp::new(seconds, if micros { nanos } else { 0 }).map_err(|_| WireError("time"))?;
    let text = if micros {
        format!("{time:.6}")
    } else {
        time.to_string()
    };
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
        Some((1, Field::Bytes(bytes))) => serde_json::from_slice(bytes)
            .map(Some)
            .map_err(|_| WireError("raw value is not JSON")),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        out.extend_from_slice(bytes);
        out
    }

    fn body(api_version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
        let meta = [message(1, api_version.as_bytes()), message(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), message(1, &meta), message(2, object)].concat()
    }

    #[test]
    fn a_config_map() {
        let metadata = [message(1, b"a"), message(2, b""), message(8, b"")].concat();
        let entry = [message(1, b"k"), message(2, b"v")].concat();
        let object = [message(1, &metadata), message(2, &entry)].concat();
        let value = decode(&body("v1", "ConfigMap", &object)).unwrap();
        assert_eq!(
            value,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}})
        );
    }

    #[test]
    fn fields_of_an_inlined_struct_are_the_parents() {
        // spec.volumes[0] = {name, emptyDir}
        let volume = [message(1, b"v"), message(2, &message(2, b""))].concat();
        let spec = message(1, &volume);
        let value = decode(&body("v1", "Pod", &message(2, &spec))).unwrap();
        assert_eq!(value["spec"]["volumes"], json!([{"name": "v", "emptyDir": {}}]));
    }

    #[test]
    fn rubbish_is_refused() {
        assert!(decode(b"{}").is_err());
        assert!(decode(&body("v1", "NoSuch", b"")).is_err());
        assert!(decode(&body("v1", "Pod", &[0x0a, 0x7f])).is_err());
        for length in 0..40 {
            let full = body("v1", "ConfigMap", &message(1, &message(1, b"abc")));
            // Must not panic, whatever it says.
            let _ = decode(&full[..length.min(full.len())]);
        }
    }
}
