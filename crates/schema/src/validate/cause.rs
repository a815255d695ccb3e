//! Refused fields, and the collector that the rules write them to.

use std::fmt::Write as _;

use serde_json::Value;

use crate::value::ValueExt as _;

/// Why a field is refused: the machine-readable reason of a cause in a `Status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Absent or empty.
    Required,
    /// Wrong.
    Invalid,
    /// Not one of the values that are allowed.
    NotSupported,
    /// Occurs twice.
    Duplicate,
    /// Not allowed here.
    Forbidden,
    /// Too long, in bytes.
    TooLong,
    /// Too many items.
    TooMany,
    /// Refers to something that does not exist.
    NotFound,
    /// Not of the right type.
    TypeInvalid,
}

impl Reason {
    /// As it stands in `details.causes[].reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Required => "FieldValueRequired",
            Reason::Invalid => "FieldValueInvalid",
            Reason::NotSupported => "FieldValueNotSupported",
            Reason::Duplicate => "FieldValueDuplicate",
            Reason::Forbidden => "FieldValueForbidden",
            Reason::TooLong => "FieldValueTooLong",
            Reason::TooMany => "FieldValueTooMany",
            Reason::NotFound => "FieldValueNotFound",
            Reason::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

/// One refused field: an entry of `details.causes` of a `Status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable reason.
    pub reason: Reason,
    /// Path of the field: `spec.containers[0].name`.
    pub field: String,
    /// Upstream's message, without the path: `Invalid value: "A": must be ...`.
    pub message: String,
}

/// The message of the `Status` (reason `Invalid`, code 422) for an object that was refused.
///
/// `qualified_kind` is [`crate::Resource::qualified_kind`].
pub fn invalid_message(qualified_kind: &str, name: &str, causes: &[Cause]) -> String {
    let mut lines: Vec<String> = Vec::with_capacity(causes.len());
    for cause in causes {
        let line = format!("{}: {}", cause.field, cause.message);
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    match lines.as_slice() {
        [] => format!("{qualified_kind} {name:?} is invalid"),
        [line] => format!("{qualified_kind} {name:?} is invalid: {line}"),
        lines => format!("{qualified_kind} {name:?} is invalid: [{}]", lines.join(", ")),
    }
}

/// Collects causes, and knows the path of the field that is being looked at.
#[derive(Default)]
pub(super) struct Causes {
    path: String,
    found: Vec<Cause>,
}

impl Causes {
    /// What was found.
    pub(super) fn into_vec(self) -> Vec<Cause> {
        self.found
    }

    /// Looks at a field of the current one (`a.b` for several steps).
    pub(super) fn at<R>(&mut self, name: &str, check: impl FnOnce(&mut Causes) -> R) -> R {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        let result = check(self);
        self.path.truncate(length);
        result
    }

    /// Adds what another check finds at a field, whose whole path it is given.
    pub(super) fn extend(&mut self, name: &str, check: impl FnOnce(&str) -> Vec<Cause>) {
        let found = self.at(name, |c| check(&c.path));
        self.found.extend(found);
    }

    /// Looks at an item of the current list.
    pub(super) fn index<R>(&mut self, index: usize, check: impl FnOnce(&mut Causes) -> R) -> R {
        let length = self.path.len();
        // Writing to a string cannot fail.
        let _ = write!(self.path, "[{index}]");
        let result = check(self);
        self.path.truncate(length);
        result
    }

    /// Looks at an entry of the current map.
    pub(super) fn key<R>(&mut self, key: &str, check: impl FnOnce(&mut Causes) -> R) -> R {
        let length = self.path.len();
        let _ = write!(self.path, "[{key}]");
        let result = check(self);
        self.path.truncate(length);
        result
    }

    /// Looks at each item of a list field of `value`.
    pub(super) fn each(
        &mut self,
        value: &Value,
        name: &str,
        mut check: impl FnMut(&mut Causes, usize, &Value),
    ) {
        let items = value.items(&[name]);
        if items.is_empty() {
            return;
        }
        self.at(name, |c| {
            for (index, item) in items.iter().enumerate() {
                c.index(index, |c| check(c, index, item));
            }
        });
    }

    /// [`Causes::each`] for checks that remember parts of the items.
    pub(super) fn each_ref<'a>(
        &mut self,
        value: &'a Value,
        name: &str,
        mut check: impl FnMut(&mut Causes, &'a Value),
    ) {
        let items = value.items(&[name]);
        if items.is_empty() {
            return;
        }
        self.at(name, |c| {
            for (index, item) in items.iter().enumerate() {
                c.index(index, |c| check(c, item));
            }
        });
    }

    /// Looks at a field of `value` if it is there.
    pub(super) fn field(&mut self, value: &Value, name: &str, check: impl FnOnce(&mut Causes, &Value)) {
        if let Some(value) = value.at(&[name]) {
            self.at(name, |c| check(c, value));
        }
    }

    fn push(&mut self, reason: Reason, message: String) {
        // Upstream names the object as a whole like this.
        let field = if self.path.is_empty() {
            "[]".to_owned()
        } else {
            self.path.clone()
        };
        self.found.push(Cause {
            reason,
            field,
            message,
        });
    }

    /// The field must be there.
    pub(super) fn required(&mut self, detail: &str) {
        let message = if detail.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {detail}")
        };
        self.push(Reason::Required, message);
    }

    /// [`Causes::required`] for a field beside the current one.
    pub(super) fn at_parent_required(&mut self, detail: &str) {
        let end = self.path.rfind('.').unwrap_or_default();
        let field = format!("{}.limits", &self.path[..end]);
        self.found.push(Cause {
            reason: Reason::Required,
            field,
            message: format!("Required value: {detail}"),
        });
    }

    /// The value is wrong.
    pub(super) fn invalid(&mut self, value: impl Into<Value>, detail: &str) {
        let value = value.into();
        self.push(Reason::Invalid, format!("Invalid value: {value}: {detail}"));
    }

    /// Something is wrong that no single value shows.
    pub(super) fn invalid_bare(&mut self, detail: &str) {
        self.push(Reason::Invalid, format!("Invalid value: {detail}"));
    }

    /// The value breaks all of these rules.
    pub(super) fn invalid_each(&mut self, value: &str, problems: Vec<String>) {
        for problem in problems {
            self.invalid(value, &problem);
        }
    }

    /// The value is none of those allowed.
    pub(super) fn not_supported(&mut self, value: &str, allowed: &[&str]) {
        let allowed = allowed
            .iter()
            .map(|a| format!("{a:?}"))
            .collect::<Vec<_>>()
            .join(", ");
        self.push(
            Reason::NotSupported,
            format!("Unsupported value: {value:?}: supported values: {allowed}"),
        );
    }

    /// The value occurs twice.
    pub(super) fn duplicate(&mut self, value: impl Into<Value>) {
        let value = value.into();
        self.push(Reason::Duplicate, format!("Duplicate value: {value}"));
    }

    /// The field must not be there, or not be changed.
    pub(super) fn forbidden(&mut self, detail: &str) {
        self.push(Reason::Forbidden, format!("Forbidden: {detail}"));
    }

    /// The value has more bytes than allowed.
    pub(super) fn too_long(&mut self, most: usize) {
        self.push(
            Reason::TooLong,
            format!("Too long: may not be more than {most} bytes"),
        );
    }

    /// The list has more items than allowed.
    pub(super) fn too_many(&mut self, items: usize, most: usize) {
        self.push(
            Reason::TooMany,
            format!("Too many: {items}: must have at most {most} items"),
        );
    }

    /// The value names something that is not there.
    pub(super) fn not_found(&mut self, value: &str) {
        self.push(Reason::NotFound, format!("Not found: {value:?}"));
    }

    /// A field of `value` must be one of these texts; if it is absent, that is an error too where `needed`.
    pub(super) fn one_of(&mut self, value: &Value, name: &str, allowed: &[&str], needed: bool) {
        match value.text(&[name]) {
            "" if needed => self.at(name, |c| c.required("")),
            "" => {}
            text if allowed.contains(&text) => {}
            text => self.at(name, |c| c.not_supported(text, allowed)),
        }
    }

    /// A text field of `value` must be there.
    pub(super) fn text_required(&mut self, value: &Value, name: &str) {
        if value.text(&[name]).is_empty() {
            self.at(name, |c| c.required(""));
        }
    }

    /// A text field of `value`, if it is there, must obey a rule of [`crate::names`].
    pub(super) fn name_rule(&mut self, value: &Value, name: &str, rule: fn(&str) -> Vec<String>) {
        let text = value.text(&[name]);
        if !text.is_empty() {
            self.at(name, |c| c.invalid_each(text, rule(text)));
        }
    }

    /// An integer field of `value`, if it is there, must not be negative.
    pub(super) fn not_negative(&mut self, value: &Value, name: &str) {
        if let Some(number) = value.int(&[name]).filter(|n| *n < 0) {
            self.at(name, |c| c.invalid(number, "must be greater than or equal to 0"));
        }
    }

    /// A field of the object must not change.
    pub(super) fn immutable(&mut self, old: &Value, new: &Value, name: &str) {
        if !crate::value::same(old.get(name), new.get(name)) {
            let value = new.get(name).cloned().unwrap_or_default();
            self.at(name, |c| c.invalid(value, "field is immutable"));
        }
    }
}
