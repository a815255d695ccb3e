//! Documents are complete and say the same in every form.

use super::*;

fn parsed(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn version_2_has_what_kubectl_looks_up() {
    let document = parsed(&v2_json());
    let pod = &document["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(pod["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(pod["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(pod["items"]["$ref"], "#/definitions/io.k8s.api.core.v1.Container");
    let gvk = &document["definitions"]["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"];
    assert_eq!(
        *gvk,
        json!([{"group": "apps", "version": "v1", "kind": "Deployment"}])
    );
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "kind": "Deployment", "version": "v1"})
    );
    let names: Vec<&str> = patch["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|p| p["name"].as_str())
        .collect();
    assert!(
        names.contains(&"dryRun") && names.contains(&"fieldValidation"),
        "{names:?}"
    );
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    let paths = document["paths"].as_object().unwrap();
    for path in [
        "/api/v1/pods",
        "/api/v1/namespaces/{namespace}/pods/{name}/exec",
        "/version/",
        "/apis/apps/",
    ] {
        assert!(paths.contains_key(path), "{path}");
    }
    let id = &paths["/apis/rbac.authorization.k8s.io/v1/clusterroles"]["delete"]["operationId"];
    assert_eq!(id, "deleteRbacAuthorizationV1CollectionClusterRole");
}

/// Every reference leads somewhere, and every operation has its own name.
fn check_references(document: &Value, root: &Value) {
    match document {
        Value::Object(map) => {
            if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
                assert!(root.pointer(&reference[1..]).is_some(), "{reference}");
            }
            map.values().for_each(|value| check_references(value, root));
        }
        Value::Array(items) => items.iter().for_each(|value| check_references(value, root)),
        _ => {}
    }
}

fn operation_ids(document: &Value) -> Vec<String> {
    let items = document["paths"].as_object().unwrap().values();
    let operations = items.flat_map(|item| item.as_object().unwrap().values());
    operations
        .filter_map(|o| o.get("operationId")?.as_str().map(str::to_owned))
        .collect()
}

#[test]
fn documents_are_consistent() {
    let mut documents = vec![parsed(&v2_json())];
    for (group, version) in registry().group_versions() {
        let name = if group.is_empty() {
            version.to_owned()
        } else {
            format!("{group}/{version}")
        };
        documents.push(parsed(&v3(&name, &undescribed).unwrap()));
    }
    for document in &documents {
        check_references(document, document);
        let mut ids = operation_ids(document);
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count, "operation names are unique");
    }
    assert!(v3("nosuch/v1", &undescribed).is_none());
}

#[test]
fn version_3_index_and_schemas() {
    let index = parsed(&v3_index());
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap();
    assert!(url.starts_with("/openapi/v3/apis/apps/v1?hash="));
    assert!(index["paths"].get("api/v1").is_some());
    let apps = parsed(&v3("apps/v1", &undescribed).unwrap());
    let strategy =
        &apps["components"]["schemas"]["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"];
    assert_eq!(
        *strategy,
        json!({"allOf": [{"$ref": "#/components/schemas/io.k8s.api.apps.v1.DeploymentStrategy"}],
               "x-kubernetes-patch-strategy": "retainKeys"})
    );
    let patch = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert!(
        patch["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .any(|p| p["name"] == "fieldValidation")
    );
}

/// Reads one level of a protobuf message: (tag, content) of length-delimited fields.
fn fields(bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let mut found = Vec::new();
    let mut at = 0;
    let varint = |at: &mut usize| {
        let (mut value, mut shift) = (0_u64, 0);
        loop {
            let byte = bytes[*at];
            *at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    };
    while at < bytes.len() {
        let key = varint(&mut at);
        match key & 7 {
            0 => {
                varint(&mut at);
            }
            2 => {
                let length = usize::try_from(varint(&mut at)).unwrap();
                found.push((key >> 3, &bytes[at..at + length]));
                at += length;
            }
            other => panic!("wire type {other}"),
        }
    }
    found
}

fn get(bytes: &[u8], tag: u64) -> &[u8] {
    fields(bytes).into_iter().find(|(t, _)| *t == tag).unwrap().1
}

fn named<'a>(bytes: &'a [u8], tag: u64, name: &str) -> &'a [u8] {
    let entries = fields(bytes).into_iter().filter(|(t, _)| *t == tag);
    let mut values = entries.filter(|(_, entry)| get(entry, 1) == name.as_bytes());
    get(values.next().unwrap().1, 2)
}

#[test]
fn protobuf_says_the_same() {
    let bytes = v2_protobuf();
    assert_eq!(get(&bytes, 1), b"2.0");
    let definitions = get(&bytes, 9);
    assert_eq!(fields(definitions).len(), facts().types().count());
    let deployment = named(definitions, 1, "io.k8s.api.apps.v1.Deployment");
    let gvk = named(deployment, 31, "x-kubernetes-group-version-kind");
    assert_eq!(
        get(gvk, 2),
        br#"[{"group":"apps","version":"v1","kind":"Deployment"}]"#
    );
    let pod = named(definitions, 1, "io.k8s.api.core.v1.PodSpec");
    let containers = named(get(pod, 25), 1, "containers");
    assert_eq!(get(get(containers, 22), 1), b"array");
    assert_eq!(
        get(named(containers, 31, "x-kubernetes-patch-merge-key"), 2),
        b"\"name\""
    );
    let item = get(get(containers, 23), 1);
    assert_eq!(get(item, 1), b"#/definitions/io.k8s.api.core.v1.Container");
    let path = named(
        get(&bytes, 8),
        2,
        "/apis/apps/v1/namespaces/{namespace}/deployments/{name}",
    );
    let patch = get(path, 8);
    let parameters = fields(patch).into_iter().filter(|(tag, _)| *tag == 8);
    // Parameter -> non-body -> query -> name.
    let mut names = parameters.filter_map(|(_, item)| {
        let parameter = fields(item).into_iter().find(|(tag, _)| *tag == 1)?.1;
        let other = fields(parameter).into_iter().find(|(tag, _)| *tag == 2)?.1;
        Some(get(get(other, 3), 4).to_vec())
    });
    assert!(names.any(|name| name == b"dryRun"));
}

#[test]
fn descriptions_stand_beside_what_they_describe() {
    let words = |ty: &str, field: &str| match (ty, field) {
        ("io.k8s.api.core.v1.Pod", "") => Some("of the type"),
        ("io.k8s.api.core.v1.Pod", "spec") => Some("of a reference"),
        ("io.k8s.api.core.v1.Pod", "kind") => Some("of a text"),
        _ => None,
    };
    let old = parsed(&v2_json_with(&[], &words));
    let pod = &old["definitions"]["io.k8s.api.core.v1.Pod"];
    assert_eq!(pod["description"], "of the type");
    assert_eq!(
        pod["properties"]["spec"],
        json!({"$ref": "#/definitions/io.k8s.api.core.v1.PodSpec", "description": "of a reference"})
    );
    assert_eq!(
        pod["properties"]["kind"],
        json!({"type": "string", "description": "of a text"})
    );
    assert!(pod["properties"]["status"].get("description").is_none());
    let new = parsed(&v3("v1", &words).unwrap());
    let spec = &new["components"]["schemas"]["io.k8s.api.core.v1.Pod"]["properties"]["spec"];
    let reference = json!({"$ref": "#/components/schemas/io.k8s.api.core.v1.PodSpec"});
    assert_eq!(
        *spec,
        json!({"allOf": [reference], "description": "of a reference"})
    );
    let encoded = v2_protobuf_with(&[], &words);
    for text in ["of the type", "of a reference", "of a text"] {
        assert!(
            encoded.windows(text.len()).any(|part| part == text.as_bytes()),
            "{text}"
        );
    }
}
