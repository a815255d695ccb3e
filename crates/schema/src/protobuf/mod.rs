//! Objects in protobuf, as Go clients send, ask for and store them, from and to the JSON that everything else here
//! works on.
//!
//! The envelope is `k8s\0` and a message `Unknown` around the object. Go's encoder writes every field that is not a
//! pointer, empty or not; JSON leaves those out, and so does what is decoded here. What is encoded here has no empty
//! fields at all, which means the same to every decoder.

mod decode;
mod encode;
mod tags;
mod wire;

pub use decode::decode;
pub use encode::{Encoder, encode, encode_list, watch_event};
pub use wire::WireError;

use crate::facts::{Scalar, TypeId, facts};

/// What every body and every stored value begins with.
pub const MAGIC: &[u8] = b"k8s\0";
/// Messages in messages; the deepest type of the API, schemas of custom resources, needs fewer.
const MAX_DEPTH: usize = 100;

/// Why something has no other form.
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
    /// A value is not of its field's type.
    #[error("{field}: the value is not of the field's type")]
    Value {
        /// Which field.
        field: String,
    },
}

/// The type of an object. Kinds of the machinery (Status, DeleteOptions) occur in every group.
fn type_of(api_version: &str, kind: &str) -> Option<TypeId> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    facts()
        .find_kind(group, version, kind)
        .or_else(|| facts().find(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}")))
}

/// Types that JSON shows as one of two forms and protobuf as a message with a field for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Either {
    /// A flag (1) or a schema (2).
    Bool,
    /// A schema (1) or a list of schemas (2).
    Array,
    /// A schema (1) or a list of texts (2).
    StringArray,
}

fn either(id: TypeId) -> Option<Either> {
    match facts().get(id).short_name() {
        "JSONSchemaPropsOrBool" => Some(Either::Bool),
        "JSONSchemaPropsOrArray" => Some(Either::Array),
        "JSONSchemaPropsOrStringArray" => Some(Either::StringArray),
        _ => None,
    }
}

/// The type of the schemas in [`Either`].
fn schema_props() -> TypeId {
    facts()
        .find("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")
        .expect("the embedded facts have the schema of custom resources")
}

/// The leaf that a type stands for; none for structs and for those of [`Either`]. A struct without fields is shown
/// as an object in the facts.
fn leaf(id: TypeId) -> Option<Scalar> {
    let ty = facts().get(id);
    if either(id).is_some() || ty.short_name() == "CustomResourceSubresourceStatus" {
        return None;
    }
    ty.scalar
}

#[cfg(test)]
mod tests;
