//! Both directions of the encoding, and what is not protobuf.

use super::wire::put_bytes;
use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn body(api_version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
    let (mut meta, mut out) = (Vec::new(), MAGIC.to_vec());
    put_bytes(&mut meta, 1, api_version.as_bytes());
    put_bytes(&mut meta, 2, kind.as_bytes());
    put_bytes(&mut out, 1, &meta);
    put_bytes(&mut out, 2, object);
    out
}

fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, number, bytes);
    out
}

#[test]
fn empty_fields_of_go_are_left_out() {
    let metadata = [field(1, b"a"), field(2, b""), field(8, b"")].concat();
    let entry = [field(1, b"k"), field(2, b"")].concat();
    let object = [field(1, &metadata), field(2, &entry)].concat();
    assert_eq!(
        decode(&body("v1", "ConfigMap", &object)).unwrap(),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": ""}})
    );
}

#[test]
fn fields_of_an_inlined_struct_are_the_parents() {
    // spec.volumes[0] = {name, emptyDir}
    let volume = [field(1, b"v"), field(2, &field(2, b""))].concat();
    let value = decode(&body("v1", "Pod", &field(2, &field(1, &volume)))).unwrap();
    assert_eq!(value["spec"]["volumes"], json!([{"name": "v", "emptyDir": {}}]));
    assert_eq!(decode(&encode(&value).unwrap()).unwrap(), value);
}

#[test]
fn every_kind_of_value_comes_back() {
    let objects = [
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {
            "name": "s", "creationTimestamp": "2026-01-02T03:04:05Z", "generation": -7, "labels": {"a": ""},
            "managedFields": [{"manager": "m", "fieldsV1": {"f:data": {".": {}}}}]}, "data": {"k": "AAEC/w=="}}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
            "replicas": 0, "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}}, "selector": {},
            "template": {"metadata": {}, "spec": {"containers": [{"name": "c", "resources": {
                "limits": {"cpu": "100m"}}, "securityContext": {"privileged": false}}]}}}}),
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {}, "spec": {
            "renewTime": "2026-01-02T03:04:05.000678Z", "leaseTransitions": 0}}),
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {}, "spec": {
            "extra": {"scopes": ["a", "b"]}}, "status": {"allowed": false}}),
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {}, "spec": {
            "group": "g", "names": {"plural": "p", "kind": "K"}, "scope": "Cluster", "versions": [{
                "name": "v1", "served": true, "storage": false, "subresources": {"status": {}}, "schema": {
                "openAPIV3Schema": {"type": "object", "default": {"a": [1, null]}, "maximum": 1.5,
                    "additionalProperties": false, "properties": {"x": {"items": {"type": "string"}},
                    "y": {"additionalProperties": {"$ref": "z"}, "enum": ["a", 1, true]}}}}}]}}),
        json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "code": 404, "details": {
            "name": "x", "causes": [{"reason": "r", "message": "m", "field": "f"}]}}),
        json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "5", "remainingItemCount": 0},
            "items": [{"metadata": {"name": "a"}, "immutable": false}]}),
    ];
    for object in objects {
        assert_eq!(decode(&encode(&object).unwrap()).unwrap(), object);
    }
}

#[test]
fn a_list_of_objects_is_the_list() {
    let items = [
        json!({"metadata": {"name": "a"}}),
        json!({"metadata": {"name": "b"}}),
    ];
    let metadata = json!({"resourceVersion": "9"});
    let list = encode_list("v1", "PodList", "Pod", &metadata, items.iter().map(Ok)).unwrap();
    let whole = json!({"apiVersion": "v1", "kind": "PodList", "metadata": metadata, "items": items});
    assert_eq!(decode(&list).unwrap(), whole);
    assert_eq!(encode(&whole).unwrap(), list);
}

#[test]
fn an_event_is_framed() {
    let object =
        encode(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x".repeat(200)}})).unwrap();
    let frame = watch_event("ADDED", &object);
    assert_eq!(
        frame.len() - 4,
        u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize
    );
    let expected = [field(1, b"ADDED"), field(2, &field(1, &object))].concat();
    assert_eq!(frame[4..], expected);
}

#[test]
fn an_entry_without_a_value_has_that_of_go() {
    // status.disruptedPods is a map of times, spec.overhead one of quantities, data one of texts.
    let entry = field(1, b"k");
    let budget = body("policy/v1", "PodDisruptionBudget", &field(3, &field(2, &entry)));
    let read = decode(&budget).unwrap();
    assert!(read["status"]["disruptedPods"].get("k").is_none(), "{read}");
    encode(&read).unwrap();
    let pod = decode(&body("v1", "Pod", &field(2, &field(32, &entry)))).unwrap();
    assert_eq!(pod["spec"]["overhead"], json!({"k": "0"}));
    let map = decode(&body("v1", "ConfigMap", &field(2, &entry))).unwrap();
    assert_eq!(map["data"], json!({"k": ""}));
}

#[test]
fn rubbish_is_refused() {
    assert!(matches!(decode(b"{}"), Err(Error::Magic)));
    assert!(matches!(
        decode(&body("v1", "NoSuch", b"")),
        Err(Error::UnknownType { .. })
    ));
    assert!(decode(&body("v1", "Pod", &[0x0a, 0x7f])).is_err());
    assert!(encode(&json!({"apiVersion": "v1", "kind": "Pod", "spec": []})).is_err());
    // Schemas in schemas.
    let mut schema = Vec::new();
    for _ in 0..5000 {
        schema = field(28, &schema);
    }
    let kind = "CustomResourceDefinition";
    let spec = field(2, &field(7, &field(4, &field(1, &schema))));
    assert!(decode(&body("apiextensions.k8s.io/v1", kind, &spec)).is_err());
    // Times that no text can show.
    let far = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    assert!(decode(&body("v1", "Pod", &field(1, &field(8, &far)))).is_err());
}

proptest! {
    /// Whatever arrives, an answer comes and no panic.
    #[test]
    fn damaged_bodies_do_no_harm(at in 0usize..400, byte: u8, cut in 0usize..400) {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
            "name": "a", "creationTimestamp": "2026-01-02T03:04:05Z", "managedFields": [{"fieldsV1": {"f:x": {}}}]},
            "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}],
                "livenessProbe": {"httpGet": {"port": "http", "path": "/"}},
                "resources": {"limits": {"cpu": "1"}}}], "terminationGracePeriodSeconds": 0}});
        let mut bytes = encode(&pod).unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        let _: Result<Value, _> = decode(&bytes);
        let _: Result<Value, _> = decode(&bytes[..cut.min(bytes.len())]);
    }
}
