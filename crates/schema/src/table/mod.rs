//! Printer columns.
use crate::registry::Resource;
use serde_json::Value;

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Heading; kubectl prints it in capitals.
    pub name: &'static str,
    /// `string`, `integer`, `boolean`, `date`.
    pub kind: &'static str,
    /// `name` for the column that names the object; else empty.
    pub format: &'static str,
    /// What it shows.
    pub description: &'static str,
    /// 0 always, 1 with `-o wide`.
    pub priority: i32,
}

/// The columns of a resource.
pub fn columns(_resource: &Resource) -> &'static [Column] {
    &[]
}

/// The cells of one object, as many as there are columns. `now` is in seconds since 1970.
pub fn row(_resource: &Resource, _object: &Value, _now: i64) -> Vec<Value> {
    Vec::new()
}
