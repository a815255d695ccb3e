//! What each path keeps and takes.

use super::*;
use crate::{default, registry};

fn resource(group: &str, plural: &str) -> &'static Resource {
    registry().find(group, "v1", plural).unwrap()
}

fn created(group: &str, plural: &str, mut object: Value) -> Value {
    default(resource(group, plural), &mut object);
    prepare_create(resource(group, plural), &mut object);
    object
}

fn pod(resources: Value) -> Value {
    json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}})
}

#[test]
fn pods_start_pending_with_their_class() {
    let limits = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    for (resources, class) in [
        (json!({}), "BestEffort"),
        (json!({"requests": {"cpu": "1"}}), "Burstable"),
        (limits, "Guaranteed"),
        (
            json!({"requests": {"cpu": "1", "memory": "1"}, "limits": {"cpu": "2", "memory": "1"}}),
            "Burstable",
        ),
    ] {
        let pod = created("", "pods", pod(resources));
        assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": class}));
        assert_eq!(pod["metadata"]["generation"], 1);
    }
}

#[test]
fn clients_do_not_set_the_status_nor_the_generation() {
    let sent = json!({"metadata": {"name": "a", "generation": 7, "deletionTimestamp": "2026-01-01T00:00:00Z"},
                      "spec": {"replicas": 3}, "status": {"replicas": 3}});
    let old = created("apps", "deployments", sent);
    assert!(old.get("status").is_none());
    assert_eq!(old["metadata"], json!({"name": "a", "generation": 1}));
    let mut new = old.clone();
    new["status"] = json!({"replicas": 9});
    new["metadata"]["labels"] = json!({"a": "b"});
    prepare_update(resource("apps", "deployments"), &old, &mut new);
    assert!(new.get("status").is_none());
    assert_eq!(new["metadata"]["generation"], 1);
    new["spec"]["replicas"] = 4.into();
    prepare_update(resource("apps", "deployments"), &old, &mut new);
    assert_eq!(new["metadata"]["generation"], 2);
}

#[test]
fn annotations_count_for_deployments_only() {
    for (plural, generation) in [("deployments", 2), ("replicasets", 1)] {
        let old = created("apps", plural, json!({"metadata": {"name": "a"}, "spec": {}}));
        let mut new = old.clone();
        new["metadata"]["annotations"] = json!({"a": "b"});
        prepare_update(resource("apps", plural), &old, &mut new);
        assert_eq!(new["metadata"]["generation"], generation, "{plural}");
    }
}

#[test]
fn status_updates_change_the_status_alone() {
    let old = json!({"metadata": {"name": "a", "uid": "u", "generation": 3, "ownerReferences": [{"uid": "o"}]},
                     "spec": {"nodeName": "n"}, "status": {"phase": "Pending", "qosClass": "BestEffort"}});
    let mut new = json!({"metadata": {"name": "a", "annotations": {"x": "y"}},
                         "spec": {"nodeName": "other"}, "status": {"phase": "Running", "qosClass": "Guaranteed"}});
    prepare_status_update(resource("", "pods"), &old, &mut new);
    assert_eq!(new["spec"], old["spec"]);
    assert_eq!(
        new["status"],
        json!({"phase": "Running", "qosClass": "BestEffort"})
    );
    assert_eq!(
        new["metadata"]["ownerReferences"],
        old["metadata"]["ownerReferences"]
    );
    assert_eq!(new["metadata"]["annotations"], json!({"x": "y"}));
    assert_eq!(
        (&new["metadata"]["uid"], &new["metadata"]["generation"]),
        (&json!("u"), &json!(3))
    );
}

#[test]
fn namespaces_are_active_and_finalized() {
    let namespace = created("", "namespaces", json!({"metadata": {"name": "a"}}));
    assert_eq!(namespace["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(namespace["status"], json!({"phase": "Active"}));
    assert_eq!(
        namespace["metadata"]["labels"]["kubernetes.io/metadata.name"],
        "a"
    );
    let mut new = namespace.clone();
    new["spec"]["finalizers"] = json!([]);
    prepare_update(resource("", "namespaces"), &namespace, &mut new);
    assert_eq!(new["spec"]["finalizers"], json!(["kubernetes"]));
    prepare_finalize(&namespace, &mut new);
    new["spec"]["finalizers"] = json!([]);
    prepare_finalize(&namespace, &mut new);
    assert_eq!(new["spec"]["finalizers"], json!([]));
}

#[test]
fn services_keep_what_was_allocated() {
    let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
        "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30000}, {"port": 81, "protocol": "TCP", "nodePort": 30001}]}});
    let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 81, "protocol": "TCP"}, {"port": 82, "protocol": "TCP"}]}});
    prepare_update(resource("", "services"), &old, &mut new);
    assert_eq!(new["spec"]["clusterIP"], "10.96.0.1");
    assert_eq!(new["spec"]["clusterIPs"], json!(["10.96.0.1"]));
    assert_eq!(new["spec"]["ports"][0]["nodePort"], 30001);
    assert!(new["spec"]["ports"][1].get("nodePort").is_none());
}

#[test]
fn services_lose_what_their_new_type_does_not_need() {
    let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
        "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30000}]}});
    let mut new = old.clone();
    new["spec"]["type"] = "ClusterIP".into();
    prepare_update(resource("", "services"), &old, &mut new);
    assert_eq!(
        new["spec"],
        json!({"type": "ClusterIP", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
               "ports": [{"port": 80, "protocol": "TCP"}]})
    );
    new["spec"]["type"] = "ExternalName".into();
    prepare_update(resource("", "services"), &old, &mut new);
    assert!(new["spec"].get("clusterIP").is_none() && new["spec"].get("clusterIPs").is_none());
}

#[test]
fn jobs_select_their_own_pods() {
    let sent =
        json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {"containers": []}}}});
    let job = created("batch", "jobs", sent);
    let labels = &job["spec"]["template"]["metadata"]["labels"];
    assert_eq!(
        (&labels["job-name"], &labels["batch.kubernetes.io/controller-uid"]),
        (&json!("j"), &json!("u"))
    );
    assert_eq!(
        job["spec"]["selector"]["matchLabels"],
        json!({"batch.kubernetes.io/controller-uid": "u"})
    );
}

#[test]
fn deletion_marks_stay_and_count() {
    let old =
        json!({"metadata": {"generation": 2, "deletionTimestamp": "t", "deletionGracePeriodSeconds": 30}});
    let mut new = json!({"metadata": {}});
    prepare_update(resource("", "pods"), &old, &mut new);
    assert_eq!(new["metadata"], old["metadata"]);
    count_generation(&mut new);
    assert_eq!(new["metadata"]["generation"], 3);
}

#[test]
fn approval_is_apart_from_status() {
    let csr = resource("certificates.k8s.io", "certificatesigningrequests");
    let old = json!({"metadata": {}, "spec": {"signerName": "s"}});
    let mut new = json!({"metadata": {}, "spec": {}, "status": {"conditions": [{"type": "Approved"}], "certificate": "x"}});
    let mut status = new.clone();
    prepare_approval_update(&old, &mut new);
    assert_eq!(new["status"], json!({"conditions": [{"type": "Approved"}]}));
    assert_eq!(new["spec"], old["spec"]);
    prepare_status_update(csr, &old, &mut status);
    assert_eq!(status["status"], json!({"certificate": "x"}));
}

#[test]
fn approval_takes_conditions_of_any_type() {
    let old = json!({"metadata": {}, "spec": {}, "status": {"conditions": [{"type": "Other"}], "certificate": "x"}});
    let conditions = json!([{"type": "Other"}, {"type": "Mine"}]);
    let mut new =
        json!({"metadata": {}, "spec": {}, "status": {"conditions": conditions, "certificate": "y"}});
    prepare_approval_update(&old, &mut new);
    assert_eq!(
        new["status"],
        json!({"conditions": conditions, "certificate": "x"})
    );
}

#[test]
fn annotations_go_with_the_status_where_upstream_lets_them() {
    let old = json!({"metadata": {}, "spec": {}});
    let sent = json!({"metadata": {"annotations": {"a": "b"}}, "status": {}});
    for (group, plural, kept) in [
        ("networking.k8s.io", "ingresses", true),
        ("networking.k8s.io", "servicecidrs", false),
        ("storage.k8s.io", "volumeattachments", false),
    ] {
        let mut new = sent.clone();
        prepare_status_update(resource(group, plural), &old, &mut new);
        assert_eq!(new["metadata"].get("annotations").is_some(), kept, "{plural}");
    }
}
