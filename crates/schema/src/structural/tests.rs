//! Schemas of custom resources: what is refused, pruned and defaulted.

use super::*;
use serde_json::json;

fn schema(value: Value) -> Structural {
    Structural::parse(&value)
}

fn messages(value: Value, object: Value) -> Vec<String> {
    let causes = validate(&schema(value), &object);
    causes
        .into_iter()
        .map(|c| format!("{}: {}", c.field, c.message))
        .collect()
}

#[test]
fn unknown_fields_go() {
    let schema = schema(json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "a": {"type": "integer"},
            "list": {"type": "array", "items": {"type": "object", "properties": {"b": {"type": "string"}}}},
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"strict": {"type": "object"}}},
        }},
    }}));
    let mut object = json!({
        "apiVersion": "a/v1", "kind": "A", "metadata": {"name": "x", "nope": 1, "labels": {"a": "b"}},
        "spec": {"a": 1, "b": 2, "list": [{"b": "x", "c": 1}], "map": {"any": "x"},
            "free": {"x": {"y": 1}, "strict": {"z": 1}}},
        "status": {},
    });
    let mut issues: Vec<String> = prune(&schema, &mut object)
        .into_iter()
        .map(|i| i.message)
        .collect();
    issues.sort();
    assert_eq!(
        issues,
        [
            "unknown field \"metadata.nope\"",
            "unknown field \"spec.b\"",
            "unknown field \"spec.free.strict.z\"",
            "unknown field \"spec.list[0].c\"",
            "unknown field \"status\"",
        ]
    );
    assert_eq!(
        object["spec"],
        json!({"a": 1, "list": [{"b": "x"}], "map": {"any": "x"}, "free": {"x": {"y": 1}, "strict": {}}})
    );
}

#[test]
fn embedded_resources_keep_their_metadata() {
    let schema = schema(json!({"type": "object", "properties": {"template": {
        "type": "object", "x-kubernetes-embedded-resource": true,
        "properties": {"spec": {"type": "object"}},
    }}}));
    let mut object =
        json!({"template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "x": 1}});
    assert_eq!(prune(&schema, &mut object).len(), 1);
    assert_eq!(
        object,
        json!({"template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}})
    );
}

#[test]
fn defaults_fill_what_is_missing() {
    let schema = schema(json!({"type": "object", "properties": {
        "spec": {"type": "object", "default": {}, "properties": {
            "a": {"type": "string", "default": "x"},
            "n": {"type": "string", "nullable": true, "default": "x"},
        }},
        "list": {"type": "array", "items": {"type": "object", "properties": {"b": {"type": "integer", "default": 1}}}},
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {
            "c": {"type": "boolean", "default": true},
        }}},
    }}));
    let mut object = json!({"list": [{}, {"b": 2}], "map": {"k": {}}});
    default(&schema, &mut object);
    assert_eq!(
        object,
        json!({"list": [{"b": 1}, {"b": 2}], "map": {"k": {"c": true}}, "spec": {"a": "x", "n": "x"}})
    );
    let mut nulls = json!({"spec": {"a": null, "n": null}});
    prune(&schema, &mut nulls);
    default(&schema, &mut nulls);
    assert_eq!(nulls["spec"], json!({"n": null, "a": "x"}));
}

#[test]
fn rules_are_told_as_upstream_does() {
    let field = |rule: Value| json!({"type": "object", "properties": {"a": rule}});
    for (rule, value, expected) in [
        (
            json!({"type": "integer"}),
            json!("x"),
            "a: Invalid value: \"string\": a in body must be of type integer: \"string\"",
        ),
        (
            json!({"type": "string", "enum": ["x", "y"]}),
            json!("z"),
            "a: Unsupported value: \"z\": supported values: \"x\", \"y\"",
        ),
        (
            json!({"type": "integer", "minimum": 1}),
            json!(0),
            "a: Invalid value: 0: a in body should be greater than or equal to 1",
        ),
        (
            json!({"type": "integer", "maximum": 9, "exclusiveMaximum": true}),
            json!(9),
            "a: Invalid value: 9: a in body should be less than 9",
        ),
        (
            json!({"type": "string", "pattern": "^b+$"}),
            json!("a"),
            "a: Invalid value: \"a\": a in body should match '^b+$'",
        ),
        (
            json!({"type": "string", "minLength": 2}),
            json!("a"),
            "a: Invalid value: \"a\": a in body should be at least 2 chars long",
        ),
        (
            json!({"type": "string", "maxLength": 2}),
            json!("abc"),
            "a: Too long: may not be more than 2 bytes",
        ),
        (
            json!({"type": "string", "format": "date-time"}),
            json!("x"),
            "a: Invalid value: \"x\": a in body must be of type date-time: \"x\"",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "maxItems": 1}),
            json!(["a", "b"]),
            "a: Too many: 2: must have at most 1 items",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}),
            json!(["a", "a"]),
            "a[1]: Duplicate value: \"a\"",
        ),
        (
            json!({"type": "object", "required": ["b"]}),
            json!({}),
            "a.b: Required value",
        ),
        (
            json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            "a: Invalid value: \"boolean\": a in body must be of type integer,string: \"boolean\"",
        ),
        (
            json!({"type": "object", "properties": {"b": {"type": "string"}}, "oneOf": [{"required": ["b"]}]}),
            json!({}),
            "<nil>: Invalid value: \"\": \"a\" must validate one and only one schema (oneOf). Found none valid",
        ),
    ] {
        assert_eq!(messages(field(rule), json!({"a": value})), [expected]);
    }
    assert!(messages(field(json!({"type": "integer"})), json!({"a": 1.0})).is_empty());
    assert!(
        messages(
            field(json!({"type": "string", "nullable": true})),
            json!({"a": null})
        )
        .is_empty()
    );
}

#[test]
fn keyed_lists_hold_no_key_twice() {
    let list = json!({"type": "object", "properties": {"l": {
        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
        "items": {"type": "object", "properties": {"k": {"type": "string"}}},
    }}});
    let twice = json!({"l": [{"k": "a"}, {"k": "b"}, {"k": "a"}]});
    assert_eq!(messages(list, twice), ["l[2]: Duplicate value: {\"k\":\"a\"}"]);
}

#[test]
fn schemas_must_be_structural() {
    let problems =
        |value: Value| -> Vec<String> { check(&value, "s").into_iter().map(|c| c.field).collect() };
    assert!(problems(json!({"type": "object"})).is_empty());
    assert_eq!(problems(json!({})), ["s.type"]);
    assert_eq!(
        problems(json!({"type": "object", "properties": {"a": {}, "b": {"type": "array"}}})),
        ["s.properties[a].type", "s.properties[b].items"]
    );
    let wrong_default = json!({"type": "object", "properties": {"a": {"type": "string", "default": 1}}});
    assert_eq!(problems(wrong_default), ["s.properties[a].default"]);
    let pattern = json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}});
    assert_eq!(problems(pattern), ["s.properties[a].pattern"]);
    let keys = json!({"type": "object", "properties": {"a": {
        "type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["k"],
    }}});
    assert_eq!(problems(keys), ["s.properties[a].x-kubernetes-list-map-keys[0]"]);
    assert!(has_cel_rules(
        &json!({"properties": {"a": {"x-kubernetes-validations": [{"rule": "self > 1"}]}}})
    ));
}
