//! Defaults of each kind.

use super::*;
use crate::registry;
use proptest::prelude::*;
use serde_json::json;

fn defaulted(group: &str, version: &str, plural: &str, mut object: Value) -> Value {
    let resource = registry().find(group, version, plural).unwrap();
    default(resource, &mut object);
    let once = object.clone();
    default(resource, &mut object);
    assert_eq!(object, once, "defaulting is idempotent");
    object
}

#[test]
fn deployment() {
    let template = json!({"spec": {"containers": [{"name": "a", "image": "nginx", "ports": [{"containerPort": 80}],
        "livenessProbe": {"httpGet": {"port": 80}}}]}});
    let object = defaulted(
        "apps",
        "v1",
        "deployments",
        json!({"spec": {"template": template}}),
    );
    let spec = &object["spec"];
    assert_eq!(
        (
            &spec["replicas"],
            &spec["revisionHistoryLimit"],
            &spec["progressDeadlineSeconds"]
        ),
        (&json!(1), &json!(10), &json!(600))
    );
    assert_eq!(
        spec["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
    );
    let pod = &spec["template"]["spec"];
    assert_eq!(pod["dnsPolicy"], "ClusterFirst");
    assert_eq!(pod["restartPolicy"], "Always");
    assert_eq!(pod["terminationGracePeriodSeconds"], 30);
    assert_eq!(pod["schedulerName"], "default-scheduler");
    assert_eq!(pod["securityContext"], json!({}));
    assert!(
        pod.get("enableServiceLinks").is_none(),
        "only pods get this, not templates"
    );
    assert_eq!(
        pod["containers"][0],
        json!({"name": "a", "image": "nginx", "imagePullPolicy": "Always",
            "ports": [{"containerPort": 80, "protocol": "TCP"}],
            "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                              "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
            "resources": {},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"})
    );
    let recreate = defaulted(
        "apps",
        "v1",
        "deployments",
        json!({"spec": {"replicas": 0, "strategy": {"type": "Recreate"}}}),
    );
    assert_eq!(recreate["spec"]["strategy"], json!({"type": "Recreate"}));
    assert_eq!(recreate["spec"]["replicas"], 0);
}

#[test]
fn pod() {
    let object = defaulted(
        "",
        "v1",
        "pods",
        json!({"spec": {"hostNetwork": true, "serviceAccount": "sa",
            "containers": [{"name": "a", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "0.5u"}}}],
            "volumes": [{"name": "e"}, {"name": "s", "secret": {"secretName": "x"}},
                        {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}},
                          {"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}},
                        {"name": "h", "hostPath": {"path": "/"}}]}}),
    );
    let spec = &object["spec"];
    assert_eq!(spec["serviceAccountName"], "sa");
    assert_eq!(spec["enableServiceLinks"], true);
    assert_eq!(spec["containers"][0]["ports"][0]["hostPort"], 80);
    assert_eq!(
        spec["containers"][0]["resources"],
        json!({"limits": {"cpu": "1m"}, "requests": {"cpu": "1m"}})
    );
    assert_eq!(spec["volumes"][0]["emptyDir"], json!({}));
    assert_eq!(spec["volumes"][1]["secret"]["defaultMode"], 420);
    let sources = &spec["volumes"][2]["projected"]["sources"];
    assert_eq!(sources[0]["serviceAccountToken"]["expirationSeconds"], 3600);
    assert_eq!(
        sources[1]["downwardAPI"]["items"][0]["fieldRef"]["apiVersion"],
        "v1"
    );
    assert_eq!(spec["volumes"][3]["hostPath"]["type"], "");
}

#[test]
fn pod_level_requests() {
    let object = defaulted(
        "",
        "v1",
        "pods",
        json!({"spec": {"resources": {"limits": {"cpu": "4", "memory": "1Gi"}},
            "containers": [{"resources": {"requests": {"cpu": "1"}}}, {"resources": {"requests": {"cpu": "500m"}}}]}}),
    );
    assert_eq!(
        object["spec"]["resources"]["requests"],
        json!({"cpu": "1500m", "memory": "1Gi"})
    );
}

#[test]
fn services() {
    let object = defaulted(
        "",
        "v1",
        "services",
        json!({"spec": {"ports": [{"port": 80}, {"port": 1, "targetPort": "a"}]}}),
    );
    assert_eq!(
        object["spec"],
        json!({"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}, {"port": 1, "targetPort": "a", "protocol": "TCP"}],
            "sessionAffinity": "None", "type": "ClusterIP", "internalTrafficPolicy": "Cluster"})
    );
    let sticky = defaulted(
        "",
        "v1",
        "services",
        json!({"spec": {"type": "LoadBalancer", "sessionAffinity": "ClientIP"}}),
    );
    assert_eq!(
        sticky["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"],
        10_800
    );
    assert_eq!(sticky["spec"]["externalTrafficPolicy"], "Cluster");
    assert_eq!(sticky["spec"]["allocateLoadBalancerNodePorts"], true);
}

#[test]
fn workloads() {
    let set = defaulted(
        "apps",
        "v1",
        "statefulsets",
        json!({"spec": {"volumeClaimTemplates": [{"metadata": {"name": "d"}, "spec": {}}]}}),
    );
    assert_eq!(set["spec"]["podManagementPolicy"], "OrderedReady");
    assert_eq!(
        set["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
    );
    assert_eq!(
        set["spec"]["volumeClaimTemplates"][0],
        json!({"metadata": {"name": "d"}, "spec": {"volumeMode": "Filesystem"}, "apiVersion": "v1",
               "kind": "PersistentVolumeClaim", "status": {"phase": "Pending"}})
    );
    let daemon = defaulted("apps", "v1", "daemonsets", json!({}));
    assert_eq!(
        daemon["spec"]["updateStrategy"]["rollingUpdate"],
        json!({"maxUnavailable": 1, "maxSurge": 0})
    );
    let job = defaulted(
        "batch",
        "v1",
        "jobs",
        json!({"spec": {"template": {"metadata": {"labels": {"a": "b"}}}}}),
    );
    assert_eq!(
        (&job["spec"]["completions"], &job["spec"]["backoffLimit"]),
        (&json!(1), &json!(6))
    );
    assert_eq!(job["metadata"]["labels"], json!({"a": "b"}));
    let cron = defaulted(
        "batch",
        "v1",
        "cronjobs",
        json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": {}}}}}}),
    );
    assert_eq!(cron["spec"]["concurrencyPolicy"], "Allow");
    assert_eq!(
        cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["restartPolicy"],
        "Always"
    );
}

#[test]
fn storage() {
    let class = defaulted(
        "storage.k8s.io",
        "v1",
        "storageclasses",
        json!({"provisioner": "p"}),
    );
    assert_eq!(
        class,
        json!({"provisioner": "p", "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"})
    );
    let driver = defaulted(
        "storage.k8s.io",
        "v1",
        "csidrivers",
        json!({"spec": {"attachRequired": false}}),
    );
    assert_eq!(driver["spec"]["attachRequired"], false);
    assert_eq!(driver["spec"]["volumeLifecycleModes"], json!(["Persistent"]));
    assert_eq!(driver["spec"]["fsGroupPolicy"], "ReadWriteOnceWithFSType");
    let volume = defaulted("", "v1", "persistentvolumes", json!({"spec": {}}));
    assert_eq!(
        volume["spec"],
        json!({"persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem"})
    );
}

#[test]
fn others() {
    let secret = defaulted(
        "",
        "v1",
        "secrets",
        json!({"data": {"a": "eA=="}, "stringData": {"b": "y"}}),
    );
    assert_eq!(
        secret,
        json!({"data": {"a": "eA==", "b": "eQ=="}, "type": "Opaque"})
    );
    let policy = defaulted(
        "networking.k8s.io",
        "v1",
        "networkpolicies",
        json!({"spec": {"egress": [{}]}}),
    );
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    let hpa = defaulted(
        "autoscaling",
        "v2",
        "horizontalpodautoscalers",
        json!({"spec": {}}),
    );
    assert_eq!(
        hpa["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"],
        80
    );
    let mut token = json!({});
    default_kind("authentication.k8s.io", "v1", "TokenRequest", &mut token);
    assert_eq!(token["spec"]["expirationSeconds"], 3600);
    let crd = json!({"spec": {"names": {"kind": "Foo", "plural": "foos"}}});
    let crd = defaulted("apiextensions.k8s.io", "v1", "customresourcedefinitions", crd);
    assert_eq!(
        crd["spec"]["names"],
        json!({"kind": "Foo", "plural": "foos", "singular": "foo", "listKind": "FooList"})
    );
}

fn any_json() -> impl Strategy<Value = Value> {
    let names = "spec template metadata labels containers volumes ports resources limits strategy type data status \
        conditions name rules metrics subsets addresses nodePort finalizers $patch $retainKeys \
        $setElementOrder/containers $deleteFromPrimitiveList/finalizers";
    let name = proptest::sample::select(names.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3..100_i64).prop_map(Value::from),
        "[a-z0-9]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map(name.clone(), inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Whatever a client sends: no panic, pruning twice is pruning once, defaulting twice is defaulting once.
    #[test]
    fn steps_are_idempotent(object in any_json(), other in any_json(), index in 0..200_usize) {
        let resources = registry().resources();
        let resource = &resources[index % resources.len()];
        let mut pruned = object;
        crate::prune(resource, &mut pruned);
        let mut again = pruned.clone();
        let issues = crate::prune(resource, &mut again);
        prop_assert_eq!(&pruned, &again);
        prop_assert!(issues.iter().all(|i| i.kind == crate::IssueKind::WrongType));
        default(resource, &mut pruned);
        let mut again = pruned.clone();
        default(resource, &mut again);
        prop_assert_eq!(&pruned, &again);
        never_panics(resource, &pruned, other);
    }
}

fn never_panics(resource: &Resource, object: &Value, other: Value) {
    use crate::strategy;
    let mut new = other;
    strategy::prepare_create(resource, &mut new);
    strategy::prepare_update(resource, object, &mut new);
    strategy::prepare_status_update(resource, object, &mut new);
    strategy::prepare_approval_update(object, &mut new);
    strategy::prepare_ephemeral_containers_update(object, &mut new);
    let _ = crate::validate_create(resource, &new);
    let _ = crate::validate_update(resource, object, &new);
    let _ = crate::validate_status_update(resource, object, &new);
    let _ = crate::strategic_merge(resource, object, &new);
    let _ = crate::field_labels(resource, &new);
    let _ = crate::table::row(resource, &new, 0);
    crate::convert::to_storage(resource, &mut new);
    crate::convert::from_storage(resource, &mut new);
}
