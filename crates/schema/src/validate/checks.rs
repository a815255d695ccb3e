//! Shapes of rules that occur again and again, on top of the collector of causes.

use std::ops::RangeInclusive;

use serde_json::Value;

use super::cause::Causes;
use crate::names;
use crate::value::ValueExt as _;

/// A rule of [`crate::names`]: the messages that a text deserves.
pub(super) type NameRule = fn(&str) -> Vec<String>;

/// Upstream's words for a number below its range.
pub(super) const NOT_POSITIVE: &str = "must be greater than zero";

/// Upstream's words for a number outside of a range.
pub(super) fn inclusive(range: &RangeInclusive<i64>) -> String {
    format!("must be between {} and {}, inclusive", range.start(), range.end())
}

/// `domain/path`, such as the names of controllers.
pub(super) fn domain_prefixed_path(text: &str) -> Vec<String> {
    let Some((domain, path)) = text.split_once('/') else {
        return vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned()];
    };
    if domain.is_empty() || path.is_empty() {
        return vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned()];
    }
    names::dns_subdomain(domain)
        .into_iter()
        .map(|problem| format!("Invalid domain prefix: {problem}"))
        .collect()
}

/// A name in Go, C and CEL.
pub(super) fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl Causes {
    /// A text field must be there and obey a rule.
    pub(super) fn name_required(&mut self, value: &Value, name: &str, rule: NameRule) {
        self.text_required(value, name);
        self.name_rule(value, name, rule);
    }

    /// A text field must be there; the reason is told.
    pub(super) fn text_required_for(&mut self, value: &Value, name: &str, detail: &str) {
        if value.text(&[name]).is_empty() {
            self.at(name, |c| c.required(detail));
        }
    }

    /// Looks at each text of a list field.
    pub(super) fn texts(&mut self, value: &Value, name: &str, mut check: impl FnMut(&mut Causes, &str)) {
        let items = value.items(&[name]);
        if items.is_empty() {
            return;
        }
        self.at(name, |c| {
            for (index, item) in items.iter().enumerate() {
                c.index(index, |c| check(c, item.as_str().unwrap_or_default()));
            }
        });
    }

    /// Each text of a list field obeys a rule.
    pub(super) fn text_rules(&mut self, value: &Value, name: &str, rule: NameRule) {
        self.texts(value, name, |c, text| c.invalid_each(text, rule(text)));
    }

    /// The texts of a list field are among these, and none occurs twice.
    pub(super) fn text_set(&mut self, value: &Value, name: &str, allowed: &[&str]) {
        let mut seen: Vec<String> = Vec::new();
        self.texts(value, name, |c, text| {
            if !allowed.contains(&text) {
                c.not_supported(text, allowed);
            }
            if seen.iter().any(|other| other == text) {
                c.duplicate(text);
            }
            seen.push(text.to_owned());
        });
    }

    /// An integer field, if it is there, is in a range.
    pub(super) fn in_range(&mut self, value: &Value, name: &str, range: RangeInclusive<i64>) {
        if let Some(number) = value.int(&[name]).filter(|n| !range.contains(n)) {
            self.at(name, |c| c.invalid(number, &inclusive(&range)));
        }
    }

    /// An integer field, if it is there, is above zero.
    pub(super) fn positive(&mut self, value: &Value, name: &str, detail: &str) {
        if let Some(number) = value.int(&[name]).filter(|n| *n <= 0) {
            self.at(name, |c| c.invalid(number, detail));
        }
    }

    /// A port's number.
    pub(super) fn port_number(&mut self, value: &Value, name: &str) {
        let number = value.int(&[name]).unwrap_or_default();
        self.at(name, |c| {
            for problem in names::port_number(number) {
                c.invalid(number, &problem);
            }
        });
    }

    /// A field that must not be there.
    pub(super) fn forbidden_field(&mut self, value: &Value, name: &str, detail: &str) {
        if !crate::value::is_empty(value.get(name)) {
            self.at(name, |c| c.forbidden(detail));
        }
    }

    /// [`Causes::forbidden_field`] one step down.
    pub(super) fn forbidden_in(&mut self, o: &Value, part: &str, name: &str, detail: &str) {
        self.field(o, part, |c, part| c.forbidden_field(part, name, detail));
    }

    /// The texts of a key in a list of objects all differ.
    pub(super) fn unique(&mut self, value: &Value, list: &str, key: &str) {
        let mut seen: Vec<&str> = Vec::new();
        self.each_ref(value, list, |c, item| {
            let text = item.text(&[key]);
            if !text.is_empty() && seen.contains(&text) {
                c.at(key, |c| c.duplicate(text));
            }
            seen.push(text);
        });
    }

    /// A list has at most so many items.
    pub(super) fn at_most(&mut self, value: &Value, list: &str, most: usize) {
        let items = value.items(&[list]).len();
        if items > most {
            self.at(list, |c| c.too_many(items, most));
        }
    }

    /// A text has at most so many bytes.
    pub(super) fn short(&mut self, value: &Value, name: &str, most: usize) {
        if value.text(&[name]).len() > most {
            self.at(name, |c| c.too_long(most));
        }
    }
}
