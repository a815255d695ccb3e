//! Facts of the Kubernetes API and the engine that works on them.
//!
//! Everything here is a pure function of its arguments: objects are [`serde_json::Value`]s, resources are data
//! ([`Resource`]), and no function knows HTTP, storage or time. A write passes through these, in this order:
//!
//! | step | function |
//! |---|---|
//! | bytes to value, duplicate fields | [`decode::parse`] |
//! | unknown fields, wrong types | [`prune`] |
//! | patches | [`strategic_merge`], [`merge_patch`], [`apply`] |
//! | defaults | [`default`] |
//! | which part of the object a request may change | [`strategy`] |
//! | rules | [`validate_create`], [`validate_update`], [`validate_status_update`] |
//!
//! Reads use [`field_labels`], [`selectors`], [`table`], [`convert`], [`discovery`] and [`openapi`]; [`protobuf`] is
//! another form of the same objects.

pub mod apply;
pub mod convert;
pub mod custom;
pub mod decode;
mod defaults;
pub mod discovery;
pub mod duration;
pub mod facts;
mod fields;
mod merge;
pub mod names;
pub mod openapi;
pub mod protobuf;
mod prune;
pub mod quantity;
mod registry;
pub mod selectors;
mod strategic;
pub mod strategy;
pub mod structural;
pub mod table;
mod traits;
mod validate;
mod value;

pub use defaults::{default, default_kind};
pub use fields::{check_field_selector, field_labels, is_selectable, stored_selector};
pub use merge::merge_patch;
pub use prune::{FieldIssue, IssueKind, prune, prune_kind};
pub use registry::{Registry, Resource, Subresource, Text, registry};
pub use strategic::{PatchError, strategic_merge};
pub use validate::{
    Cause, Reason, invalid_message, validate_create, validate_ephemeral_containers, validate_resize,
    validate_same_containers, validate_status_update, validate_update,
};

/// The version of the Kubernetes API that is served.
pub const KUBERNETES_VERSION: &str = "v1.36.0";
