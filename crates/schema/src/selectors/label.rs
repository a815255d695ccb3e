//! Label selectors: `a=b,c!=d,e in (x,y),!f`.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use super::SelectorError;
use super::lexer::{Token, tokens};
use crate::names;

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `=` and `==`.
    Equals,
    /// `!=`: also true where the label is absent.
    NotEquals,
    /// `in`.
    In,
    /// `notin`: also true where the label is absent.
    NotIn,
    /// The label alone.
    Exists,
    /// `!` and the label.
    DoesNotExist,
    /// `>`, of integers.
    Greater,
    /// `<`, of integers.
    Less,
}

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelRequirement {
    /// The label.
    pub key: String,
    /// The comparison.
    pub operator: Operator,
    /// What it compares with.
    pub values: BTreeSet<String>,
}

/// A conjunction of requirements on labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<LabelRequirement>,
    /// Made from an absent selector, which matches nothing.
    nothing: bool,
}

impl LabelSelector {
    /// Parses the string form. An empty text matches everything.
    pub fn parse(text: &str) -> Result<LabelSelector, SelectorError> {
        let mut requirements = Parser {
            tokens: tokens(text).into_iter().peekable(),
        }
        .requirements()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(LabelSelector {
            requirements,
            nothing: false,
        })
    }

    /// From the structured form (`matchLabels`, `matchExpressions`). An absent selector matches nothing, an empty one
    /// everything.
    pub fn from_structured(selector: Option<&Value>) -> Result<LabelSelector, SelectorError> {
        let Some(selector) = selector.filter(|s| !s.is_null()) else {
            return Ok(LabelSelector {
                requirements: Vec::new(),
                nothing: true,
            });
        };
        let mut requirements = Vec::new();
        for (key, value) in selector
            .get("matchLabels")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(requirement(
                key.clone(),
                Operator::Equals,
                BTreeSet::from([value]),
            )?);
        }
        let expressions = selector.get("matchExpressions").and_then(Value::as_array);
        for expression in expressions.into_iter().flatten() {
            let text = |name| expression.get(name).and_then(Value::as_str).unwrap_or_default();
            let operator = match text("operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError::new(format!(
                        "{other:?} is not a valid label selector operator"
                    )));
                }
            };
            let values = expression
                .get("values")
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            let values = values.filter_map(|v| v.as_str().map(str::to_owned)).collect();
            requirements.push(requirement(text("key").to_owned(), operator, values)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(LabelSelector {
            requirements,
            nothing: false,
        })
    }

    /// From a map of labels that must all be there, as `spec.selector` of a Service. An empty map matches everything.
    pub fn from_map(labels: Option<&Value>) -> LabelSelector {
        let mut requirements: Vec<LabelRequirement> = labels
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(key, value)| LabelRequirement {
                key: key.clone(),
                operator: Operator::Equals,
                values: BTreeSet::from([value.as_str().unwrap_or_default().to_owned()]),
            })
            .collect();
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        LabelSelector {
            requirements,
            nothing: false,
        }
    }

    /// The requirements, sorted by label.
    pub fn requirements(&self) -> &[LabelRequirement] {
        &self.requirements
    }

    /// Whether labels (the value of `metadata.labels`) match.
    pub fn matches(&self, labels: Option<&Value>) -> bool {
        !self.nothing
            && self
                .requirements
                .iter()
                .all(|r| r.matches(labels.and_then(|l| l.get(&r.key)).and_then(Value::as_str)))
    }

    /// Whether labels match, looked up by the caller.
    pub fn matches_with<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(lookup(&r.key)))
    }

    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }
}

impl LabelRequirement {
    fn matches(&self, value: Option<&str>) -> bool {
        match self.operator {
            Operator::Equals | Operator::In => value.is_some_and(|v| self.values.contains(v)),
            Operator::NotEquals | Operator::NotIn => value.is_none_or(|v| !self.values.contains(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Greater | Operator::Less => {
                let bound = self.values.first().and_then(|v| v.parse::<i64>().ok());
                let (Some(value), Some(bound)) = (value.and_then(|v| v.parse::<i64>().ok()), bound) else {
                    return false;
                };
                if self.operator == Operator::Greater {
                    value > bound
                } else {
                    value < bound
                }
            }
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, r) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let list = || r.values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
            match r.operator {
                Operator::Exists => write!(f, "{}", r.key)?,
                Operator::DoesNotExist => write!(f, "!{}", r.key)?,
                Operator::Equals => write!(f, "{}={}", r.key, list())?,
                Operator::NotEquals => write!(f, "{}!={}", r.key, list())?,
                Operator::Greater => write!(f, "{}>{}", r.key, list())?,
                Operator::Less => write!(f, "{}<{}", r.key, list())?,
                Operator::In => write!(f, "{} in ({})", r.key, list())?,
                Operator::NotIn => write!(f, "{} notin ({})", r.key, list())?,
            }
        }
        Ok(())
    }
}

/// Checks a requirement as upstream's constructor does.
fn requirement(
    key: String,
    operator: Operator,
    values: BTreeSet<String>,
) -> Result<LabelRequirement, SelectorError> {
    let problems = names::qualified_name(&key);
    if !problems.is_empty() {
        return Err(SelectorError::new(format!(
            "key: Invalid value: {key:?}: {}",
            problems.join("; ")
        )));
    }
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => {
            return Err(SelectorError::new(
                "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty",
            ));
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            return Err(SelectorError::new(
                "values set must be empty for exists and does not exist",
            ));
        }
        Operator::Greater | Operator::Less if values.iter().any(|v| v.parse::<i64>().is_err()) => {
            return Err(SelectorError::new(format!(
                "values[0]: Invalid value: {:?}: for 'Gt', 'Lt' operators, the value must be an integer",
                values.first().map_or("", String::as_str)
            )));
        }
        _ => {}
    }
    for (index, value) in values.iter().enumerate() {
        let problems = names::label_value(value);
        if !problems.is_empty() {
            return Err(SelectorError::new(format!(
                "values[{index}][{key}]: Invalid value: {value:?}: {}",
                problems.join("; ")
            )));
        }
    }
    Ok(LabelRequirement {
        key,
        operator,
        values,
    })
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
}

impl Parser {
    /// Consumes a token where `in` and `notin` are ordinary words.
    fn next(&mut self) -> Token {
        match self.tokens.next() {
            Some(Token::Word(word)) => Token::Identifier(word.to_owned()),
            Some(token) => token,
            None => Token::End,
        }
    }

    /// Looks at the next token where `in` and `notin` are ordinary words.
    fn peek(&mut self) -> Token {
        match self.tokens.peek() {
            Some(Token::Word(word)) => Token::Identifier((*word).to_owned()),
            Some(token) => token.clone(),
            None => Token::End,
        }
    }

    fn requirements(mut self) -> Result<Vec<LabelRequirement>, SelectorError> {
        let mut found = Vec::new();
        loop {
            match self.peek() {
                Token::Identifier(_) | Token::Not => {}
                Token::End => return Ok(found),
                token => {
                    return Err(expected(&token, "!, identifier, or 'end of string'"));
                }
            }
            let next = self.requirement();
            found.push(next.map_err(|e| SelectorError(format!("unable to parse requirement: {e}")))?);
            match self.next() {
                Token::End => return Ok(found),
                Token::Comma => match self.peek() {
                    Token::Identifier(_) | Token::Not => {}
                    token => return Err(expected(&token, "identifier after ','")),
                },
                token => return Err(expected(&token, "',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<LabelRequirement, SelectorError> {
        let mut token = self.next();
        let negated = token == Token::Not;
        if negated {
            token = self.next();
        }
        let Token::Identifier(key) = token else {
            return Err(expected(&token, "identifier"));
        };
        let problems = names::qualified_name(&key);
        if !problems.is_empty() {
            return Err(SelectorError(format!(
                "<nil>: Invalid value: {key:?}: {}",
                problems.join("; ")
            )));
        }
        if negated {
            return requirement(key, Operator::DoesNotExist, BTreeSet::new());
        }
        if matches!(self.peek(), Token::End | Token::Comma) {
            return requirement(key, Operator::Exists, BTreeSet::new());
        }
        let operator = match self.tokens.next().unwrap_or(Token::End) {
            Token::Word("in") => Operator::In,
            Token::Word(_) => Operator::NotIn,
            Token::Equals | Token::DoubleEquals => Operator::Equals,
            Token::NotEquals => Operator::NotEquals,
            Token::Greater => Operator::Greater,
            Token::Less => Operator::Less,
            token => return Err(expected(&token, "in, notin, =, ==, !=, gt, lt")),
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.value_list()?,
            _ => BTreeSet::from([self.exact_value()?]),
        };
        requirement(key, operator, values)
    }

    fn exact_value(&mut self) -> Result<String, SelectorError> {
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.next() {
            Token::Identifier(value) => Ok(value),
            token => Err(expected(&token, "identifier")),
        }
    }

    fn value_list(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        let open = self.next();
        if open != Token::Open {
            return Err(SelectorError(format!("found '{}' expected: '('", open.text())));
        }
        let mut values = BTreeSet::new();
        loop {
            // An empty place between commas or parentheses is the empty value.
            match self.peek() {
                Token::Identifier(value) => {
                    self.next();
                    values.insert(value);
                }
                Token::Comma | Token::Close => {
                    values.insert(String::new());
                }
                token => return Err(expected(&token, "',', ')' or identifier")),
            }
            match self.next() {
                Token::Comma => {}
                Token::Close => return Ok(values),
                token => return Err(expected(&token, "',' or ')'")),
            }
        }
    }
}

fn expected(found: &Token, what: &str) -> SelectorError {
    SelectorError(format!("found '{}', expected: {what}", found.text()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn matches(selector: &str, labels: Value) -> bool {
        LabelSelector::parse(selector).unwrap().matches(Some(&labels))
    }

    #[test]
    fn requirements_match_as_upstream() {
        let labels = json!({"a": "b", "n": "5", "empty": ""});
        for (selector, expected) in [
            ("", true),
            ("a=b", true),
            ("a==b", true),
            ("a = b", true),
            ("a!=b", false),
            ("x!=b", true),
            ("a in (b,c)", true),
            ("a in (c)", false),
            ("x notin (b)", true),
            ("a notin (b)", false),
            ("a", true),
            ("!a", false),
            ("!x", true),
            ("n>4", true),
            ("n<5", false),
            ("empty=", true),
            ("empty in ()", true),
            ("a=b,n,!x", true),
            ("in=b", false),
            ("example.com/in notin (a,b),a", true),
        ] {
            assert_eq!(matches(selector, labels.clone()), expected, "{selector}");
        }
        assert!(!LabelSelector::parse("a").unwrap().matches(None));
    }

    #[test]
    fn errors_are_upstreams() {
        for (selector, message) in [
            ("a=b,", "found '', expected: identifier after ','"),
            (",a", "found ',', expected: !, identifier, or 'end of string'"),
            ("a in", "unable to parse requirement: found '' expected: '('"),
            (
                "a in (b",
                "unable to parse requirement: found '', expected: ',' or ')'",
            ),
            (
                "a b",
                "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
            ),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("!=b", "found '!=', expected: !, identifier, or 'end of string'"),
        ] {
            assert_eq!(
                LabelSelector::parse(selector).unwrap_err().0,
                message,
                "{selector}"
            );
        }
        assert!(
            LabelSelector::parse("a_=b")
                .unwrap_err()
                .0
                .contains("Invalid value: \"a_\"")
        );
        assert!(LabelSelector::parse("n>x").is_err());
    }

    #[test]
    fn structured_form() {
        let selector = json!({"matchLabels": {"a": "b"},
            "matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["d"]}, {"key": "e", "operator": "Exists"}]});
        let parsed = LabelSelector::from_structured(Some(&selector)).unwrap();
        assert!(parsed.matches(Some(&json!({"a": "b", "e": ""}))));
        assert!(!parsed.matches(Some(&json!({"a": "b", "c": "d", "e": ""}))));
        assert!(
            LabelSelector::from_structured(Some(&json!({})))
                .unwrap()
                .matches(None)
        );
        assert!(
            !LabelSelector::from_structured(None)
                .unwrap()
                .matches(Some(&json!({})))
        );
        assert!(LabelSelector::from_map(Some(&json!({"a": "b"}))).matches(Some(&json!({"a": "b"}))));
    }

    proptest! {
        #[test]
        fn text_form_round_trips(parts in proptest::collection::vec(
            "[a-z]{1,3}(=[a-z]{0,3}|!=[a-z]{1,3}| in \\([a-z]{1,2},[a-z]{1,2}\\)| notin \\([a-z]{1,2}\\)|)", 0..5)) {
            let text = parts.join(",");
            let selector = LabelSelector::parse(&text).unwrap();
            prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
        }

        #[test]
        fn rubbish_never_panics(text in "\\PC{0,30}") {
            let _ = LabelSelector::parse(&text);
        }
    }
}
