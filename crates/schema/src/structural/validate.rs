//! Checks of custom resources against their schema, in upstream's words.

use serde_json::Value;

use super::{JsonType, ListKind, Rules, Structural};
use crate::apply::element_text;
use crate::validate::{Cause, Reason};

/// What is wrong with an object.
pub fn validate(schema: &Structural, object: &Value) -> Vec<Cause> {
    let mut checker = Checker::default();
    checker.value(schema, object, true);
    checker.causes
}

#[derive(Default)]
struct Checker {
    path: String,
    causes: Vec<Cause>,
}

impl Checker {
    fn cause(&mut self, reason: Reason, message: String) {
        let field = if self.path.is_empty() { "<nil>" } else { &self.path };
        self.causes.push(Cause {
            reason,
            field: field.to_owned(),
            message,
        });
    }

    /// `Invalid value: 3: spec.a in body should be ...`
    fn invalid(&mut self, value: &Value, problem: &str) {
        let place = if self.path.is_empty() {
            problem.to_owned()
        } else {
            format!("{} in body {problem}", self.path)
        };
        self.cause(
            Reason::Invalid,
            format!("Invalid value: {}: {place}", shown(value)),
        );
    }

    fn value(&mut self, schema: &Structural, value: &Value, root: bool) {
        if value.is_null() && schema.nullable {
            return;
        }
        if !self.has_type(schema, value) {
            return;
        }
        if let Some(rules) = &schema.rules {
            self.rules(rules, value);
        }
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let field = schema.properties.get(name).or(schema.additional.as_deref());
                    let own = (root || schema.embedded)
                        && matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
                    if own && field.is_none_or(|f| f.rules.is_none() && f.properties.is_empty()) {
                        continue;
                    }
                    if let Some(field) = field {
                        self.below(name, |c| c.value(field, value, false));
                    }
                }
            }
            Value::Array(items) => {
                if let Some(item) = schema.items.as_deref() {
                    for (index, value) in items.iter().enumerate() {
                        let length = self.path.len();
                        self.path.push_str(&format!("[{index}]"));
                        self.value(item, value, false);
                        self.path.truncate(length);
                    }
                }
                self.duplicates(schema, items);
            }
            _ => {}
        }
    }

    fn below(&mut self, name: &str, check: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        check(self);
        self.path.truncate(length);
    }

    fn has_type(&mut self, schema: &Structural, value: &Value) -> bool {
        let wanted = if schema.int_or_string {
            if value.is_string() || is_integer(value) {
                return true;
            }
            "integer,string"
        } else {
            let Some(wanted) = schema.json_type else {
                return true;
            };
            let fits = match wanted {
                JsonType::Object => value.is_object(),
                JsonType::Array => value.is_array(),
                JsonType::String => value.is_string(),
                JsonType::Integer => is_integer(value),
                JsonType::Number => value.is_number(),
                JsonType::Boolean => value.is_boolean(),
            };
            if fits {
                return true;
            }
            wanted.name()
        };
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) if is_integer(value) => "integer",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let place = if self.path.is_empty() {
            String::new()
        } else {
            format!("{} in body ", self.path)
        };
        self.cause(
            Reason::TypeInvalid,
            format!("Invalid value: {found:?}: {place}must be of type {wanted}: {found:?}"),
        );
        false
    }

    fn rules(&mut self, rules: &Rules, value: &Value) {
        if !rules.choices.is_empty() && !rules.choices.contains(value) {
            let allowed: Vec<String> = rules.choices.iter().map(shown).collect();
            let message = format!(
                "Unsupported value: {}: supported values: {}",
                shown(value),
                allowed.join(", ")
            );
            self.cause(Reason::NotSupported, message);
        }
        match value {
            Value::Number(number) => self.number(rules, value, number.as_f64().unwrap_or_default()),
            Value::String(text) => self.text(rules, value, text),
            Value::Array(items) => self.list(rules, value, items),
            Value::Object(fields) => {
                for name in rules.required.iter().filter(|name| !fields.contains_key(*name)) {
                    self.below(name, |c| c.cause(Reason::Required, "Required value".to_owned()));
                }
                let count = fields.len() as u64;
                if let Some(least) = rules.min_properties.filter(|least| count < *least) {
                    self.invalid(value, &format!("should have at least {least} properties"));
                }
                if let Some(most) = rules.max_properties.filter(|most| count > *most) {
                    self.cause(
                        Reason::TooMany,
                        format!("Too many: {count}: must have at most {most} items"),
                    );
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
        self.combined(rules, value);
    }

    fn number(&mut self, rules: &Rules, value: &Value, number: f64) {
        if let Some((least, exclusive)) = rules.minimum {
            if exclusive && number <= least {
                self.invalid(value, &format!("should be greater than {least}"));
            } else if number < least {
                self.invalid(value, &format!("should be greater than or equal to {least}"));
            }
        }
        if let Some((most, exclusive)) = rules.maximum {
            if exclusive && number >= most {
                self.invalid(value, &format!("should be less than {most}"));
            } else if number > most {
                self.invalid(value, &format!("should be less than or equal to {most}"));
            }
        }
        if let Some(factor) = rules.multiple_of {
            let quotient = number / factor;
            if (quotient - quotient.round()).abs() > f64::EPSILON * quotient.abs().max(1.0) {
                self.invalid(value, &format!("should be a multiple of {factor}"));
            }
        }
    }

    fn text(&mut self, rules: &Rules, value: &Value, text: &str) {
        let length = text.chars().count() as u64;
        if let Some(least) = rules.min_length.filter(|least| length < *least) {
            self.invalid(value, &format!("should be at least {least} chars long"));
        }
        if let Some(most) = rules.max_length.filter(|most| length > *most) {
            self.cause(
                Reason::TooLong,
                format!("Too long: may not be more than {most} bytes"),
            );
        }
        if let Some(pattern) = rules.pattern.as_ref().filter(|p| !p.is_match(text)) {
            self.invalid(value, &format!("should match '{pattern}'"));
        }
        if !has_format(&rules.format, text) {
            self.invalid(
                value,
                &format!("must be of type {}: {}", rules.format, shown(value)),
            );
        }
    }

    fn list(&mut self, rules: &Rules, value: &Value, items: &[Value]) {
        let count = items.len() as u64;
        if let Some(least) = rules.min_items.filter(|least| count < *least) {
            self.invalid(&count.into(), &format!("should have at least {least} items"));
        }
        if let Some(most) = rules.max_items.filter(|most| count > *most) {
            self.cause(
                Reason::TooMany,
                format!("Too many: {count}: must have at most {most} items"),
            );
        }
        if rules.unique_items && (1..items.len()).any(|at| items[..at].contains(&items[at])) {
            self.invalid(value, "shouldn't contain duplicates");
        }
    }

    /// Whether a value meets a schema of a combination.
    fn meets(schema: &Structural, value: &Value) -> bool {
        let mut checker = Self::default();
        checker.value(schema, value, false);
        checker.causes.is_empty()
    }

    fn combined(&mut self, rules: &Rules, value: &Value) {
        for schema in &rules.all_of {
            self.value(schema, value, false);
        }
        let name = format!("{:?}", self.path);
        if !rules.any_of.is_empty() && !rules.any_of.iter().any(|s| Self::meets(s, value)) {
            self.combination(format!("{name} must validate at least one schema (anyOf)"));
        }
        if !rules.one_of.is_empty() {
            let valid = rules.one_of.iter().filter(|s| Self::meets(s, value)).count();
            if valid != 1 {
                let found = if valid == 0 {
                    "Found none valid".to_owned()
                } else {
                    format!("Found {valid} valid alternatives")
                };
                self.combination(format!(
                    "{name} must validate one and only one schema (oneOf). {found}"
                ));
            }
        }
        if rules
            .not
            .as_ref()
            .is_some_and(|schema| Self::meets(schema, value))
        {
            self.combination(format!("{name} must not validate the schema (not)"));
        }
    }

    fn combination(&mut self, problem: String) {
        self.causes.push(Cause {
            reason: Reason::Invalid,
            field: "<nil>".to_owned(),
            message: format!("Invalid value: \"\": {problem}"),
        });
    }

    /// Sets and lists with keys hold no item twice.
    fn duplicates(&mut self, schema: &Structural, items: &[Value]) {
        let mut seen = std::collections::BTreeSet::new();
        for (index, item) in items.iter().enumerate() {
            let id = match schema.list {
                ListKind::Atomic => return,
                ListKind::Set => item.to_string(),
                ListKind::Map => element_text(schema, item),
            };
            if !seen.insert(id) {
                let shown = match schema.list {
                    ListKind::Set => shown(item),
                    _ => {
                        let keys = schema
                            .list_keys
                            .iter()
                            .map(|key| (key.clone(), item[key].clone()));
                        Value::Object(keys.collect()).to_string()
                    }
                };
                let length = self.path.len();
                self.path.push_str(&format!("[{index}]"));
                self.cause(Reason::Duplicate, format!("Duplicate value: {shown}"));
                self.path.truncate(length);
            }
        }
    }
}

fn shown(value: &Value) -> String {
    value.to_string()
}

fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0)
}

/// Whether a text has a format; formats that are not known are not checked, as upstream does.
fn has_format(format: &str, text: &str) -> bool {
    match format {
        "date-time" => crate::duration::parse_time(text).is_some(),
        "date" => crate::duration::parse_time(&format!("{text}T00:00:00Z")).is_some(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => crate::names::cidr(text).is_empty(),
        "uuid" => is_uuid(text),
        "byte" => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(text).is_ok()
        }
        "email" => text
            .split_once('@')
            .is_some_and(|(user, host)| !user.is_empty() && !host.is_empty() && !host.contains('@')),
        "hostname" => {
            text.len() <= 255
                && text
                    .split('.')
                    .all(|label| crate::names::dns_label(&label.to_lowercase()).is_empty())
        }
        _ => true,
    }
}

fn is_uuid(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 36
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}
