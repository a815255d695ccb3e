//! Refusals, as upstream words them.

use super::*;
use crate::{default, registry, strategy};
use serde_json::json;

fn resource(group: &str, plural: &str) -> &'static Resource {
    registry()
        .resources()
        .iter()
        .find(|r| r.group == group && r.plural == plural)
        .unwrap()
}

/// What a create of this object is answered with: `field: message` for each cause.
fn create(group: &str, plural: &str, mut object: Value) -> Vec<String> {
    let resource = resource(group, plural);
    assert_eq!(
        crate::prune(resource, &mut object),
        [],
        "the test's object fits the schema"
    );
    default(resource, &mut object);
    object["metadata"]["uid"] = "u".into();
    strategy::prepare_create(resource, &mut object);
    lines(validate_create(resource, &object))
}

fn lines(causes: Vec<Cause>) -> Vec<String> {
    causes
        .into_iter()
        .map(|c| format!("{}: {}", c.field, c.message))
        .collect()
}

fn metadata() -> Value {
    json!({"name": "a", "namespace": "default"})
}

fn pod_with(spec: Value) -> Value {
    json!({"metadata": metadata(), "spec": spec})
}

fn container(extra: Value) -> Value {
    let mut container = json!({"name": "c", "image": "i"});
    for (name, value) in extra.as_object().unwrap() {
        container[name] = value.clone();
    }
    pod_with(json!({"containers": [container]}))
}

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

#[test]
fn good_objects_pass() {
    assert_eq!(create("", "pods", container(json!({}))), [""; 0]);
    let pod = container(json!({
        "env": [{"name": "A", "value": "b"}, {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a/b']"}}}],
        "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "example.com/gpu": "1"}},
        "readinessProbe": {"httpGet": {"port": "http"}, "successThreshold": 2}, "ports": [{"name": "http", "containerPort": 80}]}));
    assert_eq!(create("", "pods", pod), [""; 0]);
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let selector = json!({"matchLabels": {"a": "b"}});
    for plural in ["deployments", "replicasets", "statefulsets", "daemonsets"] {
        let spec = json!({"selector": selector, "template": template});
        assert_eq!(
            create("apps", plural, json!({"metadata": metadata(), "spec": spec})),
            [""; 0],
            "{plural}"
        );
    }
    let service = json!({"metadata": metadata(), "spec": {"ports": [{"port": 80}]}});
    assert_eq!(create("", "services", service), [""; 0]);
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    assert_eq!(
        create(
            "",
            "persistentvolumeclaims",
            json!({"metadata": metadata(), "spec": claim})
        ),
        [""; 0]
    );
}

#[test]
fn metadata_rules() {
    let bad = json!({"metadata": {"name": "A", "namespace": "default"}, "data": {}});
    assert_eq!(create("", "configmaps", bad).len(), 1);
    assert_eq!(
        create("", "configmaps", json!({"metadata": {"namespace": "default"}})),
        ["metadata.name: Required value: name or generateName is required"]
    );
    assert_eq!(
        create("", "namespaces", json!({"metadata": {"name": "A"}})),
        [format!("metadata.name: Invalid value: \"A\": {LABEL}")]
    );
    assert_eq!(
        create(
            "",
            "namespaces",
            json!({"metadata": {"name": "a", "namespace": "b"}})
        ),
        ["metadata.namespace: Forbidden: not allowed on this type"]
    );
    assert_eq!(
        create("", "configmaps", json!({"metadata": {"name": "a"}})),
        ["metadata.namespace: Required value"]
    );
    let labels = json!({"metadata": {"name": "a", "namespace": "b", "labels": {"x": "a b", "/y": ""}}});
    let found = create("", "configmaps", labels);
    assert!(
        found[0]
            .starts_with("metadata.labels: Invalid value: \"a b\": a valid label must be an empty string or")
    );
    assert_eq!(
        found[1],
        "metadata.labels: Invalid value: \"/y\": prefix part must be non-empty"
    );
    let generated = json!({"metadata": {"generateName": "a-", "name": "a-x", "namespace": "b"}});
    assert_eq!(create("", "configmaps", generated), [""; 0]);
    let long = json!({"metadata": {"name": "a".repeat(53), "namespace": "b"}});
    assert!(create("batch", "cronjobs", long)[0].ends_with("must be no more than 52 characters"));
    assert!(
        create(
            "rbac.authorization.k8s.io",
            "clusterroles",
            json!({"metadata": {"name": "system:a"}})
        )
        .is_empty()
    );
}

#[test]
fn pod_rules() {
    let spec = |spec| create("", "pods", pod_with(spec));
    assert_eq!(spec(json!({})), ["spec.containers: Required value"]);
    assert_eq!(
        spec(json!({"containers": [{"name": "C_"}, {"image": " i"}]})),
        [
            format!("spec.containers[0].name: Invalid value: \"C_\": {LABEL}"),
            "spec.containers[0].image: Required value".to_owned(),
            "spec.containers[1].name: Required value".to_owned(),
            "spec.containers[1].image: Invalid value: \" i\": must not have leading or trailing whitespace"
                .to_owned(),
        ]
    );
    assert_eq!(
        spec(json!({"containers": [{"name": "a", "image": "i"}, {"name": "a", "image": "i"}]})),
        ["spec.containers[1].name: Duplicate value: \"a\""]
    );
    assert_eq!(
        spec(
            json!({"containers": [{"name": "a", "image": "i"}], "restartPolicy": "Sometimes", "dnsPolicy": "X"})
        ),
        [
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
            "spec.dnsPolicy: Unsupported value: \"X\": supported values: \"ClusterFirst\", \"ClusterFirstWithHostNet\", \"Default\", \"None\"",
        ]
    );
    assert_eq!(
        spec(
            json!({"containers": [{"name": "a", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/x"}, {"name": "w", "mountPath": "/x"}]}],
                    "volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]})
        ),
        [
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
            "spec.containers[0].volumeMounts[1].name: Not found: \"w\"",
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/x\": must be unique",
        ]
    );
}

#[test]
fn container_rules() {
    let with = |extra| create("", "pods", container(extra));
    assert_eq!(
        with(json!({"ports": [{"containerPort": 70000}, {}, {"containerPort": 1, "protocol": "ICMP"}]})),
        [
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "spec.containers[0].ports[1].containerPort: Required value",
            "spec.containers[0].ports[2].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ]
    );
    assert_eq!(
        with(
            json!({"resources": {"requests": {"cpu": "2", "memory": "-1"}, "limits": {"cpu": "1", "foo": "1"}}})
        ),
        [
            "spec.containers[0].resources.limits[foo]: Invalid value: \"foo\": must be a standard resource for containers",
            "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
            "spec.containers[0].resources.requests[foo]: Invalid value: \"foo\": must be a standard resource for containers",
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ]
    );
    assert_eq!(
        with(json!({"livenessProbe": {"httpGet": {"port": 0}, "successThreshold": 2}, "readinessProbe": {}})),
        [
            "spec.containers[0].livenessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            "spec.containers[0].readinessProbe: Required value: must specify a handler type",
        ]
    );
    assert_eq!(
        with(
            json!({"env": [{"name": "A=", "value": "x"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "spec.foo"}}}]})
        ),
        [
            "spec.containers[0].env[0].name: Invalid value: \"A=\": a valid environment variable name must consist only of printable ASCII characters other than '='",
            "spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Unsupported value: \"spec.foo\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.hostIP\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
        ]
    );
    let init = json!({"containers": [{"name": "a", "image": "i"}], "initContainers": [{"name": "b", "image": "i", "livenessProbe": {}}]});
    assert_eq!(
        create("", "pods", pod_with(init)),
        [
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always"
        ]
    );
}

#[test]
fn workload_rules() {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": -1, "selector": {"matchLabels": {"a": "c"}}, "template": template});
    assert_eq!(
        create(
            "apps",
            "deployments",
            json!({"metadata": metadata(), "spec": spec})
        ),
        [
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ]
    );
    let strategy = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}});
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"selector": {}, "template": template, "strategy": strategy});
    assert_eq!(
        create(
            "apps",
            "deployments",
            json!({"metadata": metadata(), "spec": spec})
        ),
        [
            "spec.selector: Invalid value: {}: empty selector is invalid for deployment",
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
        ]
    );
    let job = json!({"metadata": metadata(), "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    assert_eq!(
        create("batch", "jobs", job),
        ["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""]
    );
}

#[test]
fn service_rules() {
    let with = |spec| create("", "services", json!({"metadata": metadata(), "spec": spec}));
    assert_eq!(with(json!({})), ["spec.ports: Required value"]);
    assert_eq!(with(json!({"clusterIP": "None"})), [""; 0]);
    assert_eq!(
        with(json!({"ports": [{"port": 0}, {"port": 1, "nodePort": 30000}]})),
        [
            "spec.ports[0].name: Required value",
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[1].name: Required value",
            "spec.ports[1].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ]
    );
    let bad_name = json!({"metadata": {"name": "1a", "namespace": "b"}, "spec": {"ports": [{"port": 1}]}});
    assert!(
        create("", "services", bad_name)[0]
            .starts_with("metadata.name: Invalid value: \"1a\": a DNS-1035 label")
    );
}

#[test]
fn config_rules() {
    let map = json!({"metadata": metadata(), "data": {"a/b": "", "c": ""}, "binaryData": {"c": ""}});
    let found = create("", "configmaps", map);
    assert!(found[0].starts_with("data[a/b]: Invalid value: \"a/b\": a valid config key must consist of"));
    assert_eq!(
        found[1],
        "data[c]: Invalid value: \"c\": duplicate of key present in binaryData"
    );
    let tls = json!({"metadata": metadata(), "type": "kubernetes.io/tls"});
    assert_eq!(
        create("", "secrets", tls),
        ["data[tls.crt]: Required value", "data[tls.key]: Required value"]
    );
    let big = json!({"metadata": metadata(), "data": {"a": "x".repeat(1024 * 1024 + 1)}});
    assert_eq!(
        create("", "configmaps", big),
        ["[]: Too long: may not be more than 1048576 bytes"]
    );
}

#[test]
fn storage_rules() {
    let claim = json!({"metadata": metadata(), "spec": {}});
    assert_eq!(
        create("", "persistentvolumeclaims", claim),
        [
            "spec.accessModes: Required value: at least 1 access mode is required",
            "spec.resources[storage]: Required value",
        ]
    );
    let volume = json!({"metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}});
    assert_eq!(
        create("", "persistentvolumes", volume),
        ["spec: Required value: must specify a volume type"]
    );
    let class = json!({"metadata": {"name": "c"}, "provisioner": "", "reclaimPolicy": "X"});
    assert_eq!(
        create("storage.k8s.io", "storageclasses", class),
        [
            "provisioner: Required value",
            "reclaimPolicy: Unsupported value: \"X\": supported values: \"Delete\", \"Retain\"",
        ]
    );
}

#[test]
fn access_rules() {
    let role = json!({"metadata": metadata(), "rules": [{}, {"verbs": ["get"], "nonResourceURLs": ["/x"]}]});
    assert_eq!(
        create("rbac.authorization.k8s.io", "roles", role),
        [
            "rules[0].verbs: Required value: verbs must contain at least one value",
            "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
            "rules[0].resources: Required value: resource rules must supply at least one resource",
            "rules[1].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
        ]
    );
    let binding = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "ServiceAccount", "name": "s"}]});
    assert_eq!(
        create("rbac.authorization.k8s.io", "clusterrolebindings", binding),
        [
            "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
            "subjects[0].namespace: Required value",
        ]
    );
}

fn update(group: &str, plural: &str, old: &Value, change: impl FnOnce(&mut Value)) -> Vec<String> {
    let resource = resource(group, plural);
    let mut old = old.clone();
    default(resource, &mut old);
    let mut new = old.clone();
    change(&mut new);
    default(resource, &mut new);
    strategy::prepare_update(resource, &old, &mut new);
    lines(validate_update(resource, &old, &new))
}

#[test]
fn pods_change_little() {
    let mut pod = container(json!({}));
    pod["metadata"]["uid"] = "u".into();
    let changed = |change: fn(&mut Value)| update("", "pods", &pod, change);
    assert_eq!(
        changed(|p| p["spec"]["containers"][0]["image"] = "j".into()),
        [""; 0]
    );
    assert_eq!(changed(|p| p["metadata"]["labels"] = json!({"a": "b"})), [""; 0]);
    assert_eq!(
        changed(|p| p["spec"]["containers"][0]["tty"] = false.into()),
        [""; 0]
    );
    assert_eq!(
        changed(|p| p["spec"]["tolerations"] = json!([{"operator": "Exists"}])),
        [""; 0]
    );
    assert_eq!(
        changed(|p| p["spec"]["nodeName"] = "n".into()),
        [format!(
            "spec: Forbidden: {}",
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
        )]
    );
    assert_eq!(
        changed(
            |p| p["spec"]["containers"] = json!([{"name": "c", "image": "i"}, {"name": "d", "image": "i"}])
        ),
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
    assert_eq!(
        changed(|p| p["metadata"]["name"] = "b".into()),
        ["metadata.name: Invalid value: \"b\": field is immutable"]
    );
    assert_eq!(
        changed(|p| p["metadata"]["uid"] = "v".into()),
        ["metadata.uid: Invalid value: \"v\": field is immutable"]
    );
}

#[test]
fn selectors_and_claims_stay() {
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let object = json!({"metadata": metadata(), "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template,
        "volumeClaimTemplates": [{"metadata": {"name": "d"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]}});
    let found = update("apps", "statefulsets", &object, |o| {
        o["spec"]["serviceName"] = "s".into()
    });
    assert!(
        found[0].starts_with("spec: Forbidden: updates to statefulset spec for fields other than 'replicas'")
    );
    assert_eq!(
        update("apps", "statefulsets", &object, |o| o["spec"]["replicas"] =
            5.into()),
        [""; 0]
    );
    let object = json!({"metadata": metadata(), "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": object["spec"]["template"]}});
    let found = update("apps", "deployments", &object, |o| {
        o["spec"]["selector"] = json!({"matchLabels": {"c": "d"}});
        o["spec"]["template"]["metadata"]["labels"] = json!({"c": "d"});
    });
    assert_eq!(
        found,
        ["spec.selector: Invalid value: {\"matchLabels\":{\"c\":\"d\"}}: field is immutable"]
    );
    let claim = json!({"metadata": metadata(), "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}},
                       "status": {"phase": "Bound", "capacity": {"storage": "2Gi"}}});
    let sized = |size: &str| {
        let size = size.to_owned();
        update("", "persistentvolumeclaims", &claim, move |o| {
            o["spec"]["resources"]["requests"]["storage"] = size.into()
        })
    };
    assert_eq!(sized("3Gi"), [""; 0]);
    assert_eq!(
        sized("1Gi"),
        ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
    );
    assert_eq!(
        update(
            "",
            "persistentvolumeclaims",
            &claim,
            |o| o["spec"]["accessModes"] = json!(["ReadWriteMany"])
        ),
        [
            "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
        ]
    );
    let secret = json!({"metadata": metadata(), "data": {"a": "eA=="}, "immutable": true});
    assert_eq!(
        update("", "secrets", &secret, |o| o["data"]["a"] = "eQ==".into()),
        ["data: Forbidden: field is immutable when `immutable` is set"]
    );
}

#[test]
fn finalizers_of_the_dying() {
    let map = json!({"metadata": {"name": "a", "namespace": "b", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x.io/a"]}});
    let found = update("", "configmaps", &map, |o| {
        o["metadata"]["finalizers"] = json!(["x.io/a", "x.io/b"])
    });
    assert_eq!(
        found,
        [
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"x.io/b\"}"
        ]
    );
    assert_eq!(
        update("", "configmaps", &map, |o| o["metadata"]["finalizers"] =
            json!([])),
        [""; 0]
    );
}

#[test]
fn message_of_the_status() {
    let cause = |field: &str| Cause {
        reason: Reason::Required,
        field: field.into(),
        message: "Required value".into(),
    };
    assert_eq!(
        invalid_message("Deployment.apps", "d", &[cause("a"), cause("b"), cause("a")]),
        "Deployment.apps \"d\" is invalid: [a: Required value, b: Required value]"
    );
    assert_eq!(
        invalid_message("Pod", "p", &[cause("a")]),
        "Pod \"p\" is invalid: a: Required value"
    );
}

#[test]
fn nothing_panics_on_empty_objects() {
    for resource in registry().resources() {
        let object = json!({});
        let _ = validate_create(resource, &object);
        let _ = validate_update(resource, &object, &json!({"spec": {"a": 1}}));
        let _ = validate_status_update(resource, &object, &json!({"status": {"a": 1}}));
    }
}

#[test]
fn a_stateful_set_mounts_the_volumes_of_its_claim_templates() {
    let object = |mount: &str| {
        json!({"metadata": {"name": "s", "namespace": "d"}, "spec": {
            "serviceName": "s", "replicas": 1, "podManagementPolicy": "OrderedReady",
            "updateStrategy": {"type": "RollingUpdate"},
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {
                "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
                "containers": [{"name": "c", "image": "i", "terminationMessagePolicy": "File",
                    "imagePullPolicy": "Always", "volumeMounts": [{"name": mount, "mountPath": "/d"}]}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]}})
    };
    let set = crate::registry().find("apps", "v1", "statefulsets").unwrap();
    let refused = |mount: &str| {
        let causes = crate::validate_create(set, &object(mount));
        causes.iter().filter(|c| c.field.contains("volumeMounts")).count()
    };
    assert_eq!(refused("data"), 0);
    assert_eq!(refused("other"), 1);
}

mod pods;
mod refused;
mod updates;
