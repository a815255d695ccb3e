//! Bytes to JSON, noting fields that occur twice (which upstream warns about or refuses).

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// How deep a document may be nested. Every object is read again from the state store, where the parser's own limit is
/// 128: what managed fields and lists put around a value fits between the two.
pub const MAX_DEPTH: usize = 110;
/// Sentences about fields that occur twice, as upstream's limit: a hostile body has hundreds of thousands of them.
const MAX_DUPLICATES: usize = 100;

/// A decoded body.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The document; of fields that occur twice the last wins.
    pub value: Value,
    /// Upstream's sentences: `duplicate field "spec.replicas"`.
    pub duplicates: Vec<String>,
}

/// Parses a JSON document.
pub fn parse(bytes: &[u8]) -> Result<Decoded, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let decoded = read(&mut deserializer)?;
    deserializer.end()?;
    Ok(decoded)
}

/// Reads a document of any format.
pub fn read<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Decoded, D::Error> {
    let mut state = State::default();
    let value = Node { state: &mut state }.deserialize(deserializer)?;
    Ok(Decoded {
        value,
        duplicates: state.duplicates,
    })
}

#[derive(Default)]
struct State {
    path: String,
    duplicates: Vec<String>,
    depth: usize,
}

impl State {
    fn enter<E: serde::de::Error>(&mut self) -> Result<(), E> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(E::custom(format_args!("exceeded max depth {MAX_DEPTH}")));
        }
        Ok(())
    }
}

struct Node<'a> {
    state: &'a mut State,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("not a number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        use std::fmt::Write as _;
        self.state.enter()?;
        let mut items = Vec::new();
        let length = self.state.path.len();
        loop {
            write!(self.state.path, "[{}]", items.len()).map_err(A::Error::custom)?;
            let next = seq.next_element_seed(Node { state: self.state })?;
            self.state.path.truncate(length);
            match next {
                Some(item) => items.push(item),
                None => {
                    self.state.depth -= 1;
                    return Ok(Value::Array(items));
                }
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        self.state.enter()?;
        let mut object = Map::new();
        let length = self.state.path.len();
        while let Some(name) = map.next_key::<String>()? {
            if length > 0 {
                self.state.path.push('.');
            }
            self.state.path.push_str(&name);
            if self.state.duplicates.len() < MAX_DUPLICATES && object.contains_key(&name) {
                let message = format!("duplicate field \"{}\"", self.state.path);
                if !self.state.duplicates.contains(&message) {
                    self.state.duplicates.push(message);
                }
            }
            let value = map.next_value_seed(Node { state: self.state })?;
            self.state.path.truncate(length);
            object.insert(name, value);
        }
        self.state.depth -= 1;
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn last_duplicate_wins_and_is_told() {
        let decoded = parse(br#"{"spec":{"a":1,"a":2,"l":[{"b":1},{"b":2,"b":3,"b":4}]},"n":null}"#).unwrap();
        assert_eq!(
            decoded.value,
            json!({"spec": {"a": 2, "l": [{"b": 1}, {"b": 4}]}, "n": null})
        );
        assert_eq!(
            decoded.duplicates,
            ["duplicate field \"spec.a\"", "duplicate field \"spec.l[1].b\""]
        );
    }

    #[test]
    fn numbers_keep_their_kind() {
        let text = r#"[1,-1,1.5,18446744073709551615,1e3,true,"x"]"#;
        assert_eq!(
            parse(text.as_bytes()).unwrap().value,
            serde_json::from_str::<Value>(text).unwrap()
        );
    }

    #[test]
    fn rubbish_is_refused() {
        assert!(parse(b"{}x").is_err());
        assert!(parse(b"{").is_err());
        assert!(parse("[".repeat(200).as_bytes()).is_err(), "the depth is bounded");
    }

    #[test]
    fn depth_is_that_of_one_branch() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert!(parse(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert!(parse(nested(MAX_DEPTH + 1).as_bytes()).is_err());
        let wide = format!("[{0},{0},{{\"a\":{0}}}]", nested(MAX_DEPTH - 2));
        assert!(parse(wide.as_bytes()).is_ok());
    }

    #[test]
    fn few_duplicates_are_told() {
        let fields: Vec<String> = (0..100_000).map(|n| format!("\"{n}\":1,\"{n}\":2")).collect();
        let decoded = parse(format!("{{{}}}", fields.join(",")).as_bytes()).unwrap();
        assert_eq!(decoded.duplicates.len(), MAX_DUPLICATES);
        assert_eq!(decoded.value["99999"], 2);
    }
}
