//! Version 2 as protobuf: the message `openapi.v2.Document` of gnostic. The numbers are its field tags.

use serde_json::{Map, Value};

use crate::value::ValueExt as _;

/// A message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            // The low seven bits, with the mark that more follow.
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, tag: u64, bytes: &[u8]) {
        const LENGTH_DELIMITED: u64 = 2;
        self.varint(tag << 3 | LENGTH_DELIMITED);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A text; empty ones are not written.
    fn text(&mut self, tag: u64, text: &str) {
        if !text.is_empty() {
            self.bytes(tag, text.as_bytes());
        }
    }

    fn texts(&mut self, tag: u64, list: &[Value]) {
        for text in list.iter().filter_map(Value::as_str) {
            self.bytes(tag, text.as_bytes());
        }
    }

    fn flag(&mut self, tag: u64, flag: bool) {
        if flag {
            self.varint(tag << 3);
            self.varint(1);
        }
    }

    fn message(&mut self, tag: u64, message: Message) {
        self.bytes(tag, &message.0);
    }

    /// A name with its value, as maps are written.
    fn named(&mut self, tag: u64, name: &str, value: Message) {
        let mut entry = Message::default();
        entry.text(1, name);
        entry.message(2, value);
        self.message(tag, entry);
    }

    /// The fields `x-*` of an object; their values are YAML, of which JSON is a part.
    fn extensions(&mut self, tag: u64, object: &Value) {
        for (name, value) in object.as_object().into_iter().flatten() {
            if name.starts_with("x-") {
                let mut any = Message::default();
                any.text(2, &value.to_string());
                self.named(tag, name, any);
            }
        }
    }
}

/// The whole document.
pub(super) fn document(
    version: &str,
    paths: impl Iterator<Item = (String, Value)>,
    definitions: impl Iterator<Item = (String, Value)>,
    parameters: impl Iterator<Item = (String, Value)>,
) -> Vec<u8> {
    let mut document = Message(Vec::with_capacity(1 << 20));
    document.text(1, "2.0");
    let mut info = Message::default();
    info.text(1, "Kubernetes");
    info.text(2, version);
    document.message(2, info);
    let mut all = Message::default();
    for (name, value) in paths {
        all.named(2, &name, path_item(&value));
    }
    document.message(8, all);
    let mut all = Message::default();
    for (name, value) in definitions {
        all.named(1, &name, schema(&value));
    }
    document.message(9, all);
    let mut all = Message::default();
    for (name, value) in parameters {
        all.named(1, &name, parameter(&value));
    }
    document.message(10, all);
    let mut key = Message::default();
    key.text(1, "apiKey");
    key.text(2, "authorization");
    key.text(3, "header");
    let mut scheme = Message::default();
    scheme.message(2, key);
    let mut schemes = Message::default();
    schemes.named(1, "BearerToken", scheme);
    document.message(13, schemes);
    document.0
}

fn path_item(value: &Value) -> Message {
    let mut item = Message::default();
    for (tag, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(value) = value.at(&[method]) {
            item.message(tag, operation(value));
        }
    }
    for value in value.items(&["parameters"]) {
        item.message(9, parameters_item(value));
    }
    item
}

fn operation(value: &Value) -> Message {
    let mut operation = Message::default();
    operation.texts(1, value.items(&["tags"]));
    operation.text(5, value.text(&["operationId"]));
    operation.texts(6, value.items(&["produces"]));
    operation.texts(7, value.items(&["consumes"]));
    for value in value.items(&["parameters"]) {
        operation.message(8, parameters_item(value));
    }
    let mut responses = Message::default();
    for (code, value) in value
        .at(&["responses"])
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let mut response = Message::default();
        response.text(1, value.text(&["description"]));
        if let Some(value) = value.at(&["schema"]) {
            let mut item = Message::default();
            item.message(1, schema(value));
            response.message(2, item);
        }
        let mut one = Message::default();
        one.message(1, response);
        responses.named(1, code, one);
    }
    operation.message(9, responses);
    operation.texts(10, value.items(&["schemes"]));
    operation.extensions(13, value);
    operation
}

fn parameters_item(value: &Value) -> Message {
    let mut item = Message::default();
    match value.text(&["$ref"]) {
        "" => item.message(1, parameter(value)),
        reference => {
            let mut message = Message::default();
            message.text(1, reference);
            item.message(2, message);
        }
    }
    item
}

fn parameter(value: &Value) -> Message {
    let mut parameter = Message::default();
    if value.text(&["in"]) == "body" {
        let mut body = Message::default();
        body.text(2, value.text(&["name"]));
        body.text(3, "body");
        body.flag(4, value.flag(&["required"]));
        if let Some(value) = value.at(&["schema"]) {
            body.message(5, schema(value));
        }
        parameter.message(1, body);
        return parameter;
    }
    let mut simple = Message::default();
    simple.flag(1, value.flag(&["required"]));
    simple.text(2, value.text(&["in"]));
    simple.text(4, value.text(&["name"]));
    let mut other = Message::default();
    if value.text(&["in"]) == "path" {
        simple.text(5, value.text(&["type"]));
        simple.flag(19, value.flag(&["uniqueItems"]));
        other.message(4, simple);
    } else {
        simple.text(6, value.text(&["type"]));
        simple.flag(20, value.flag(&["uniqueItems"]));
        other.message(3, simple);
    }
    parameter.message(2, other);
    parameter
}

fn schema(value: &Value) -> Message {
    let mut message = Message::default();
    message.text(1, value.text(&["$ref"]));
    message.text(2, value.text(&["format"]));
    message.text(4, value.text(&["description"]));
    message.texts(19, value.items(&["required"]));
    if let Some(values) = value.at(&["additionalProperties"]) {
        let mut item = Message::default();
        item.message(1, schema(values));
        message.message(21, item);
    }
    if let Some(kind) = value.at(&["type"]).and_then(Value::as_str) {
        let mut item = Message::default();
        item.text(1, kind);
        message.message(22, item);
    }
    if let Some(items) = value.at(&["items"]) {
        let mut item = Message::default();
        item.message(1, schema(items));
        message.message(23, item);
    }
    if let Some(properties) = value.at(&["properties"]).and_then(Value::as_object) {
        message.message(25, named_schemas(properties));
    }
    message.extensions(31, value);
    message
}

fn named_schemas(properties: &Map<String, Value>) -> Message {
    let mut message = Message::default();
    for (name, value) in properties {
        message.named(1, name, schema(value));
    }
    message
}
