//! Label and field selectors.
mod field;
mod label;
pub use field::FieldSelector;
pub use label::LabelSelector;

/// Why a selector is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);
