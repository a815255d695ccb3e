//! Bodies in YAML, with the lines of keys that occur twice.

use crate::call::Document;
use crate::http::status::Status;
use std::collections::HashSet;

/// Decodes YAML.
pub fn decode(body: &[u8]) -> Result<Document, Status> {
    let decoded = schema::decode::read(yaml_serde::Deserializer::from_slice(body))
        .map_err(|e| Status::bad_request(format!("error converting YAML to JSON: {e}")))?;
    let duplicates = match decoded.duplicates.is_empty() {
        true => Vec::new(),
        false => said(&String::from_utf8_lossy(body), decoded.duplicates),
    };
    Ok(Document {
        value: decoded.value,
        duplicates,
    })
}

/// Upstream names the line and the key; where the line cannot be told, the field stays as it is named in JSON.
fn said(text: &str, duplicates: Vec<String>) -> Vec<String> {
    let lines = repeated(text);
    if lines.is_empty() {
        return duplicates;
    }
    let say = |(line, key): (usize, &str)| format!("line {line}: key \"{key}\" already set in map");
    lines.into_iter().map(say).collect()
}

/// Keys that occur twice in a mapping in block style, with their lines.
fn repeated(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    // The mappings that the line is in, by their indentation.
    let mut mappings: Vec<(usize, HashSet<&str>)> = Vec::new();
    // Indentation of the key whose text follows on lines of its own.
    let mut literal: Option<usize> = None;
    for (number, line) in text.lines().enumerate() {
        let mut content = line.trim_start();
        let mut indent = line.len() - content.len();
        if content.is_empty() || content.starts_with('#') || literal.is_some_and(|above| indent > above) {
            continue;
        }
        literal = None;
        while let Some(item) = content.strip_prefix("- ") {
            let inner = item.trim_start();
            mappings.retain(|(known, _)| *known <= indent);
            indent += content.len() - inner.len();
            content = inner;
        }
        let Some((key, value)) = key_of(content) else {
            continue;
        };
        mappings.retain(|(known, _)| *known <= indent);
        if mappings.last().is_none_or(|(known, _)| *known < indent) {
            mappings.push((indent, HashSet::new()));
        }
        if let Some((_, keys)) = mappings.last_mut()
            && !keys.insert(key)
        {
            found.push((number + 1, key));
        }
        if value.starts_with(['|', '>']) {
            literal = Some(indent);
        }
    }
    found
}

/// The key of a line and what follows it.
fn key_of(content: &str) -> Option<(&str, &str)> {
    let (key, value) = match content.chars().next()? {
        quote @ ('"' | '\'') => {
            let (key, rest) = content[1..].split_once(quote)?;
            (key, rest.trim_start().strip_prefix(':')?)
        }
        _ => match content.split_once(": ") {
            Some(parts) => parts,
            None => (content.trim_end().strip_suffix(':')?, ""),
        },
    };
    Some((key.trim_end(), value.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn duplicates(text: &str) -> Vec<String> {
        decode(text.as_bytes()).unwrap().duplicates
    }

    #[test]
    fn a_key_that_occurs_twice_is_told_with_its_line() {
        let text = "\nspec:\n  foo: a\n  # foo: no\n  foo: b\n  ports:\n  - name: x\n    port: 1\n  - name: y\n    port: 2\n";
        let document = decode(text.as_bytes()).unwrap();
        assert_eq!(document.duplicates, ["line 5: key \"foo\" already set in map"]);
        assert_eq!(document.value["spec"]["foo"], "b");
        assert_eq!(
            document.value["spec"]["ports"][1],
            json!({"name": "y", "port": 2})
        );
        assert_eq!(
            duplicates("l:\n- a: 1\n  b: 2\n  \"a\": 3\nm:\n  a: 1\n"),
            ["line 4: key \"a\" already set in map"]
        );
    }

    #[test]
    fn text_is_not_taken_for_keys() {
        let text = "a: |\n  b: 1\n  b: 2\nc:\n  b: 1\nd:\n  b: 2\n";
        assert_eq!(duplicates(text), Vec::<String>::new());
        let text = "a: |\n  b: 1\n  b: 2\nc: 1\nc: 2\n";
        assert_eq!(duplicates(text), ["line 5: key \"c\" already set in map"]);
    }

    #[test]
    fn in_flow_style_the_field_is_told() {
        assert_eq!(duplicates("spec: {a: 1, a: 2}\n"), ["duplicate field \"spec.a\""]);
    }

    #[test]
    fn rubbish_is_refused() {
        for text in ["a: [", "a: 1\n---\nb: 1\n", "\t- a"] {
            assert!(decode(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
