//! Objects in another version than the one that is stored.

use super::Object;
use bytes::Bytes;
use schema::Resource;
use serde_json::Value;

/// Turns stored objects into the version that was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Version {
    wanted: &'static Resource,
    same: bool,
}

impl Version {
    /// For answers in this version of the resource, whose objects are stored as `stored`.
    pub fn new(wanted: &'static Resource, stored: &Resource) -> Self {
        let same = wanted.group == stored.group && wanted.version == stored.version;
        Self { wanted, same }
    }

    /// Whether objects are answered as they are stored.
    pub fn is_same(self) -> bool {
        self.same
    }

    /// The object's JSON.
    pub fn bytes(self, object: &Object) -> Bytes {
        if self.same {
            object.bytes.clone()
        } else {
            super::object::to_bytes(&self.value(object))
        }
    }

    /// The object's value.
    pub fn value(self, object: &Object) -> Value {
        let mut value = object.value();
        if !self.same {
            schema::convert::from_storage(self.wanted, &mut value);
            value["apiVersion"] = self.wanted.api_version().into();
            if self.wanted.is_custom() {
                schema::default(self.wanted, &mut value);
            }
        }
        value
    }
}

/// Turns a value of this version of a resource into the version that is stored.
pub fn to_storage(resource: &Resource, stored: &Resource, value: &mut Value) {
    if resource.group != stored.group || resource.version != stored.version {
        schema::convert::to_storage(resource, value);
        value["apiVersion"] = stored.api_version().into();
    }
}
