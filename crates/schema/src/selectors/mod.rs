//! Label and field selectors: parsing, matching, and the way back to text, with upstream's errors.

mod field;
mod label;
mod lexer;

pub use field::{FieldRequirement, FieldSelector};
pub use label::{LabelRequirement, LabelSelector, Operator};

/// Why a selector is refused, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

impl SelectorError {
    fn new(message: impl Into<String>) -> SelectorError {
        SelectorError(message.into())
    }
}
