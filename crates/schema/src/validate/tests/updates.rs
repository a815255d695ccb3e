//! What must not change, and what a status must obey.

use super::*;

/// (group, plural, object, path of what changes, new value, causes).
type Case = (
    &'static str,
    &'static str,
    Value,
    &'static str,
    Value,
    &'static [&'static str],
);

fn set(object: &mut Value, path: &str, value: Value) {
    let mut slot = object;
    for step in path.split('/') {
        slot = &mut slot[step];
    }
    *slot = value;
}

fn named(group: &str, plural: &str, mut object: Value) -> Value {
    object["metadata"] = if resource(group, plural).namespaced {
        metadata()
    } else {
        json!({"name": "a"})
    };
    object
}

/// Changes that are refused: workloads and the core group.
fn workloads_and_core() -> Vec<Case> {
    vec![
        (
            "apps",
            "controllerrevisions",
            json!({"data": {"a": 1}}),
            "data",
            json!({"a": 2}),
            &["data: Invalid value: {\"a\":2}: field is immutable"],
        ),
        (
            "",
            "resourcequotas",
            json!({"spec": {"scopes": ["BestEffort"]}}),
            "spec/scopes",
            json!(["NotBestEffort"]),
            &["spec.scopes: Invalid value: [\"NotBestEffort\"]: field is immutable"],
        ),
        (
            "",
            "secrets",
            json!({"type": "a"}),
            "type",
            json!("b"),
            &["type: Invalid value: \"b\": field is immutable"],
        ),
        (
            "",
            "services",
            json!({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1", "ports": [{"port": 1}]}}),
            "spec/clusterIP",
            json!("10.0.0.2"),
            &["spec.clusterIPs[0]: Invalid value: \"10.0.0.2\": may not change once set"],
        ),
        (
            "",
            "services",
            json!({"spec": {"type": "LoadBalancer", "loadBalancerClass": "a/b", "ports": [{"port": 1}]}}),
            "spec/loadBalancerClass",
            json!("a/c"),
            &["spec.loadBalancerClass: Invalid value: \"a/c\": may not change once set"],
        ),
        (
            "",
            "persistentvolumes",
            json!({"spec": {"capacity": {"storage": "1"}, "accessModes": ["ReadWriteOnce"], "nfs": {"server": "a", "path": "/p"}}}),
            "spec/nfs/path",
            json!("/q"),
            &[
                "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation",
            ],
        ),
        (
            "batch",
            "jobs",
            json!({"spec": {"completionMode": "NonIndexed", "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}),
            "spec/completions",
            json!(5),
            &["spec.completions: Invalid value: 5: field is immutable"],
        ),
        (
            "discovery.k8s.io",
            "endpointslices",
            json!({"addressType": "IPv4"}),
            "addressType",
            json!("IPv6"),
            &["addressType: Invalid value: \"IPv6\": field is immutable"],
        ),
        (
            "networking.k8s.io",
            "ingressclasses",
            json!({"spec": {"controller": "a.io/b"}}),
            "spec/controller",
            json!("a.io/c"),
            &["spec.controller: Invalid value: \"a.io/c\": field is immutable"],
        ),
        (
            "networking.k8s.io",
            "servicecidrs",
            json!({"spec": {"cidrs": ["10.0.0.0/8"]}}),
            "spec/cidrs",
            json!(["11.0.0.0/8"]),
            &["spec.cidrs[0]: Invalid value: \"11.0.0.0/8\": field is immutable"],
        ),
        (
            "networking.k8s.io",
            "servicecidrs",
            json!({"spec": {"cidrs": ["10.0.0.0/8"]}}),
            "spec/cidrs",
            json!(["10.0.0.0/8", "fd00::/64"]),
            &[],
        ),
    ]
}

/// Changes that are refused in the other groups, and one that is not.
fn others() -> Vec<Case> {
    vec![
        (
            "node.k8s.io",
            "runtimeclasses",
            json!({"handler": "a"}),
            "handler",
            json!("b"),
            &["handler: Invalid value: \"b\": field is immutable"],
        ),
        (
            "rbac.authorization.k8s.io",
            "clusterrolebindings",
            json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "a"}}),
            "roleRef/name",
            json!("b"),
            &[
                "roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\",\"name\":\"b\"}: cannot change roleRef",
            ],
        ),
        (
            "scheduling.k8s.io",
            "priorityclasses",
            json!({"value": 1}),
            "value",
            json!(2),
            &["value: Forbidden: may not be changed in an update."],
        ),
        (
            "storage.k8s.io",
            "storageclasses",
            json!({"provisioner": "a"}),
            "provisioner",
            json!("b"),
            &["provisioner: Forbidden: updates to provisioner are forbidden."],
        ),
        (
            "storage.k8s.io",
            "csidrivers",
            json!({"spec": {"attachRequired": true}}),
            "spec/attachRequired",
            json!(false),
            &["spec.attachRequired: Invalid value: false: field is immutable"],
        ),
        (
            "storage.k8s.io",
            "csinodes",
            json!({"spec": {"drivers": [{"name": "d", "nodeID": "n"}]}}),
            "spec/drivers",
            json!([{"name": "d", "nodeID": "m"}]),
            &["spec.drivers[0]: Invalid value: {\"name\":\"d\",\"nodeID\":\"m\"}: field is immutable"],
        ),
        (
            "storage.k8s.io",
            "csistoragecapacities",
            json!({"storageClassName": "a"}),
            "storageClassName",
            json!("b"),
            &["storageClassName: Invalid value: \"b\": field is immutable"],
        ),
        (
            "storage.k8s.io",
            "volumeattributesclasses",
            json!({"driverName": "d", "parameters": {"a": "b"}}),
            "driverName",
            json!("e"),
            &["driverName: Invalid value: \"e\": field is immutable"],
        ),
        (
            "resource.k8s.io",
            "resourceclaimtemplates",
            json!({"spec": {"spec": {}}}),
            "spec/metadata",
            json!({"labels": {"a": "b"}}),
            &[
                "spec: Invalid value: {\"spec\":{},\"metadata\":{\"labels\":{\"a\":\"b\"}}}: field is immutable",
            ],
        ),
        (
            "events.k8s.io",
            "events",
            json!({"eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "c", "reportingInstance": "i", "reason": "r", "action": "a", "type": "Normal", "regarding": {"namespace": "default"}}),
            "action",
            json!("b"),
            &["action: Invalid value: \"b\": field is immutable"],
        ),
    ]
}

#[test]
fn fields_stay_as_they_are() {
    let mut wrong = Vec::new();
    for (group, plural, object, path, value, expected) in workloads_and_core().into_iter().chain(others()) {
        let found = update(group, plural, &named(group, plural, object), |o| {
            set(o, path, value)
        });
        if found != expected {
            wrong.push(format!("{plural}.{group}: {found:#?}\n  expected {expected:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn status(group: &str, plural: &str, old: Value, new: Value) -> Vec<String> {
    let resource = resource(group, plural);
    let mut before = named(group, plural, json!({"spec": {"accessModes": ["ReadWriteOnce"]}}));
    let mut after = before.clone();
    before["status"] = old;
    after["status"] = new;
    lines(validate_status_update(resource, &before, &after))
}

#[test]
fn statuses() {
    assert_eq!(
        status(
            "apps",
            "deployments",
            json!({"collisionCount": 2}),
            json!({"replicas": 1, "readyReplicas": 2, "availableReplicas": -1, "collisionCount": 1})
        ),
        [
            "status.availableReplicas: Invalid value: -1: must be greater than or equal to 0",
            "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
            "status.collisionCount: Invalid value: 1: cannot be decremented",
        ]
    );
    assert_eq!(
        status(
            "batch",
            "jobs",
            json!({}),
            json!({"active": 1, "conditions": [{"type": "Complete", "status": "True"}]})
        ),
        [
            "status.completionTime: Required value: completionTime is required for Complete jobs",
            "status.active: Invalid value: 1: active>0 is invalid for finished job",
        ]
    );
    assert_eq!(
        status(
            "certificates.k8s.io",
            "certificatesigningrequests",
            json!({"certificate": "eA=="}),
            json!({"certificate": "eQ==", "conditions": [{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "False"}]})
        ),
        [
            "status.conditions[1].status: Unsupported value: \"False\": supported values: \"True\"",
            "status.conditions: Invalid value: Approved and Denied conditions are mutually exclusive",
            "status.certificate: Forbidden: updates may not set certificate content",
        ]
    );
    assert_eq!(
        status(
            "",
            "nodes",
            json!({}),
            json!({"capacity": {"cpu": "-1"}, "addresses": [{"type": "a", "address": "b"}, {"type": "a", "address": "b"}]})
        ),
        [
            "status.capacity[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            "status.addresses[1]: Duplicate value: {\"type\":\"a\",\"address\":\"b\"}",
        ]
    );
    assert_eq!(
        status(
            "",
            "namespaces",
            json!({"phase": "Active"}),
            json!({"phase": "Terminating"})
        ),
        [
            "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"
        ]
    );
    assert_eq!(
        status(
            "",
            "services",
            json!({}),
            json!({"loadBalancer": {"ingress": [{"ip": "x"}]}})
        ),
        [
            "status.loadBalancer.ingress[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
        ]
    );
    assert_eq!(
        status(
            "policy",
            "poddisruptionbudgets",
            json!({}),
            json!({"disruptionsAllowed": -1})
        ),
        ["status.disruptionsAllowed: Invalid value: -1: must be greater than or equal to 0"]
    );
    assert_eq!(
        status(
            "resource.k8s.io",
            "resourceclaims",
            json!({}),
            json!({"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]})
        ),
        ["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"]
    );
}

#[test]
fn ephemeral_containers_stay() {
    let pod = |containers: Value| {
        let mut pod = container(json!({}));
        pod["spec"]["ephemeralContainers"] = containers;
        default(resource("", "pods"), &mut pod);
        pod
    };
    let old = pod(json!([{"name": "d", "image": "i"}]));
    assert_eq!(
        lines(validate_ephemeral_containers(
            &old,
            &pod(
                json!([{"name": "e", "image": "i", "ports": [{"containerPort": 1}], "targetContainerName": "x"}])
            )
        )),
        [
            "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
            "spec.ephemeralContainers[0].targetContainerName: Not found: \"x\"",
            "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"d\" may not be removed\n",
        ]
    );
    assert_eq!(
        lines(validate_ephemeral_containers(
            &old,
            &pod(json!([{"name": "d", "image": "j"}]))
        )),
        ["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"d\" may not be changed\n"]
    );
    assert_eq!(
        lines(validate_ephemeral_containers(
            &old,
            &pod(
                json!([{"name": "d", "image": "i"}, {"name": "e", "image": "i", "targetContainerName": "c"}])
            )
        )),
        [""; 0]
    );
}
