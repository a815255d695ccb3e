//! Label selectors: `a=b,c!=d,e in (x,y),!f`.
use super::SelectorError;
use serde_json::Value;

/// A conjunction of requirements on labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {}

impl LabelSelector {
    /// Parses the string form.
    pub fn parse(_text: &str) -> Result<LabelSelector, SelectorError> {
        Ok(LabelSelector {})
    }
    /// From the structured form (`matchLabels`, `matchExpressions`). An absent selector matches nothing, an empty all.
    pub fn from_structured(_selector: Option<&Value>) -> Result<LabelSelector, SelectorError> {
        Ok(LabelSelector {})
    }
    /// Whether labels (the value of `metadata.labels`) match.
    pub fn matches(&self, _labels: Option<&Value>) -> bool {
        true
    }
    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        true
    }
}
