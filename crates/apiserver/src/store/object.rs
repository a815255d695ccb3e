//! One object: its bytes and the fields that are needed without parsing them.

use super::cipher::Cipher;
use bytes::Bytes;
use schema::Resource;
use serde_json::Value;
use std::borrow::Cow;
use std::sync::Arc;

/// An object as clients see it.
#[derive(Debug)]
pub struct Object {
    /// Key in the state store.
    pub key: Box<str>,
    /// Namespace, or empty.
    pub namespace: Box<str>,
    /// Name.
    pub name: Box<str>,
    /// Revision of its last write: its resourceVersion.
    pub revision: i64,
    /// JSON, with the resourceVersion.
    pub bytes: Bytes,
    /// Labels: a JSON object, or null.
    pub labels: Value,
    /// Selectable fields.
    pub fields: Vec<(String, String)>,
}

/// The key of an object.
pub fn key(resource: &Resource, namespace: &str, name: &str) -> String {
    if resource.namespaced {
        format!("{}/{namespace}/{name}", resource.storage_prefix)
    } else {
        format!("{}/{name}", resource.storage_prefix)
    }
}

/// What the keys of a list begin with: of one namespace, or of all when it is empty.
pub fn list_prefix(resource: &Resource, namespace: &str) -> String {
    if resource.namespaced && !namespace.is_empty() {
        format!("{}/{namespace}/", resource.storage_prefix)
    } else {
        format!("{}/", resource.storage_prefix)
    }
}

/// The first key after all that begin with `prefix` (which ends in a slash).
pub fn prefix_end(prefix: &str) -> String {
    let mut end = prefix.trim_end_matches('/').to_owned();
    // '0' is the character after '/'.
    end.push('0');
    end
}

/// Why a stored value is no object.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON.
    #[error("{key}: not JSON: {reason}")]
    Json {
        /// Which key.
        key: String,
        /// What the parser says.
        reason: String,
    },
    /// Protobuf of an upstream server that cannot be read.
    #[error("{key}: {source}")]
    Protobuf {
        /// Which key.
        key: String,
        /// What the decoder says.
        source: schema::protobuf::Error,
    },
    /// Encrypted with an unknown key, or damaged.
    #[error("{key}: cannot be decrypted")]
    Cipher {
        /// Which key.
        key: String,
    },
}

impl Object {
    /// Reads what the state store holds.
    pub fn decode(
        resource: &Resource,
        key: &str,
        stored: &[u8],
        revision: i64,
        cipher: Option<&Cipher>,
    ) -> Result<Arc<Self>, DecodeError> {
        let mut value = decode_value(key, stored, cipher)?;
        if resource.is_custom() {
            // It may be from before a change of its definition.
            value["apiVersion"] = resource.api_version().into();
            schema::default(resource, &mut value);
        } else {
            in_storage_version(resource, &mut value);
        }
        Ok(Self::from_value(resource, key, value, revision))
    }

    /// An object from its value, which may lack the resourceVersion.
    pub fn from_value(resource: &Resource, key: &str, mut value: Value, revision: i64) -> Arc<Self> {
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".into(), revision.to_string().into());
        }
        let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default().into();
        Arc::new(Self {
            key: key.into(),
            namespace: text("namespace"),
            name: text("name"),
            revision,
            labels: value["metadata"]["labels"].clone(),
            fields: schema::field_labels(resource, &value),
            bytes: to_bytes(&value),
        })
    }

    /// The object's value.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }

    /// The same object with the revision at which it was deleted.
    pub fn at_revision(&self, revision: i64) -> Self {
        let old = format!("\"resourceVersion\":\"{}\"", self.revision);
        let bytes = match find(&self.bytes, old.as_bytes()) {
            Some(at) => {
                let mut bytes = Vec::with_capacity(self.bytes.len() + 4);
                bytes.extend_from_slice(&self.bytes[..at]);
                bytes.extend_from_slice(format!("\"resourceVersion\":\"{revision}\"").as_bytes());
                bytes.extend_from_slice(&self.bytes[at + old.len()..]);
                bytes.into()
            }
            None => self.bytes.clone(),
        };
        Self {
            key: self.key.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            revision,
            bytes,
            labels: self.labels.clone(),
            fields: self.fields.clone(),
        }
    }

    /// A selectable field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(k, _)| k == name)
            .map(|(_, v)| v.as_str())
    }

    /// A label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels[name].as_str()
    }
}

/// Decrypts and parses what the state store holds: JSON, or protobuf that an upstream server left.
fn decode_value(key: &str, stored: &[u8], cipher: Option<&Cipher>) -> Result<Value, DecodeError> {
    let plain = if Cipher::is_sealed(stored) {
        let open = cipher.and_then(|c| c.open(key, stored));
        Cow::Owned(open.ok_or_else(|| DecodeError::Cipher { key: key.into() })?)
    } else {
        Cow::Borrowed(stored)
    };
    if plain.starts_with(schema::protobuf::MAGIC) {
        return schema::protobuf::decode(&plain).map_err(|source| DecodeError::Protobuf {
            key: key.into(),
            source,
        });
    }
    serde_json::from_slice(&plain).map_err(|e| DecodeError::Json {
        key: key.into(),
        reason: e.to_string(),
    })
}

/// An upstream server may have stored another version than the one that is stored here.
fn in_storage_version(resource: &Resource, value: &mut Value) {
    let api_version = value["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if group == resource.group && version == resource.version {
        return;
    }
    if let Some(written) = schema::registry().find(group, version, &resource.plural) {
        super::convert::to_storage(written, resource, value);
    }
}

/// The bytes to store: without the resourceVersion, which is the revision of the write, and encrypted where needed.
pub fn encode(resource: &Resource, key: &str, value: &Value, cipher: Option<&Cipher>) -> Bytes {
    let mut stored = value.clone();
    if let Some(metadata) = stored.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
        metadata.remove("selfLink");
    }
    let bytes = to_bytes(&stored);
    match cipher {
        Some(cipher) if resource.is("", "secrets") => cipher.seal(key, &bytes),
        _ => bytes,
    }
}

/// JSON of a value.
pub fn to_bytes(value: &Value) -> Bytes {
    serde_json::to_vec(value)
        .expect("a JSON value has text keys and cannot fail to serialize")
        .into()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn revision_is_added_and_replaced() {
        let pods = schema::registry().find("", "v1", "pods").unwrap();
        let key = key(pods, "a", "b");
        assert_eq!(key, "/registry/pods/a/b");
        let value = json!({"metadata": {"name": "b", "namespace": "a", "labels": {"x": "y"}}});
        let object = Object::decode(pods, &key, &to_bytes(&value), 7, None).unwrap();
        assert_eq!(object.value()["metadata"]["resourceVersion"], "7");
        assert_eq!((object.label("x"), object.name.as_ref()), (Some("y"), "b"));
        let deleted = object.at_revision(123);
        assert_eq!(deleted.value()["metadata"]["resourceVersion"], "123");
        assert_eq!(encode(pods, &key, &deleted.value(), None), to_bytes(&value));
    }

    #[test]
    fn what_an_upstream_server_left_is_read() {
        let find = |group, version, plural| schema::registry().find(group, version, plural).unwrap();
        let map =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}, "data": {"k": "v"}});
        let stored = schema::protobuf::encode(&map).unwrap();
        let object = Object::decode(
            find("", "v1", "configmaps"),
            "/registry/configmaps/a/b",
            &stored,
            7,
            None,
        )
        .unwrap();
        assert_eq!(object.value()["data"], map["data"]);
        assert_eq!(object.value()["metadata"]["resourceVersion"], "7");
        // In another version than ours.
        let scaler = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "b"},
            "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50}});
        let stored = schema::protobuf::encode(&scaler).unwrap();
        let resource = find("autoscaling", "v2", "horizontalpodautoscalers");
        let value = Object::decode(
            resource,
            "/registry/horizontalpodautoscalers/a/b",
            &stored,
            7,
            None,
        )
        .unwrap()
        .value();
        assert_eq!(value["apiVersion"], "autoscaling/v2");
        assert_eq!(
            value["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"],
            50
        );
        assert!(Object::decode(resource, "k", b"k8s\0rubbish", 7, None).is_err());
    }

    #[test]
    fn prefix_ends_after_the_slash() {
        assert_eq!(prefix_end("/registry/pods/"), "/registry/pods0");
        assert!(*"/registry/pods/zzz" < *prefix_end("/registry/pods/"));
    }
}
