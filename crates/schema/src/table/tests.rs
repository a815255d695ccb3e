//! What kubectl get shows.

use super::*;
use crate::registry;
use serde_json::json;

/// 2026-01-01T00:00:00Z.
const NOW: i64 = 1_767_225_600;

fn cells(group: &str, plural: &str, object: Value) -> Vec<Value> {
    let resource = registry()
        .find(group, "v1", plural)
        .or_else(|| registry().find(group, "v2", plural))
        .unwrap();
    let cells = row(resource, &object, NOW);
    assert_eq!(cells.len(), columns(resource).len());
    cells
}

fn shown(group: &str, plural: &str, object: Value) -> String {
    let cells = cells(group, plural, object);
    cells
        .iter()
        .map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned))
        .collect::<Vec<_>>()
        .join("|")
}

#[test]
fn every_resource_prints_an_empty_object() {
    for resource in registry().resources() {
        let cells = row(resource, &json!({}), NOW);
        assert_eq!(
            cells.len(),
            columns(resource).len(),
            "{}",
            resource.qualified_name()
        );
        assert!(
            columns(resource).iter().any(|c| c.format == "name"),
            "{}",
            resource.qualified_name()
        );
    }
}

fn pod(spec: Value, status: Value) -> String {
    let metadata = json!({"name": "p", "creationTimestamp": "2025-12-31T23:55:00Z"});
    let line = shown(
        "",
        "pods",
        json!({"metadata": metadata, "spec": spec, "status": status}),
    );
    line.split('|').take(5).collect::<Vec<_>>().join("|")
}

fn one() -> Value {
    json!({"containers": [{"name": "a"}]})
}

#[test]
fn pods() {
    let running = json!({"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [
        {"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}}]});
    assert_eq!(pod(one(), running), "p|1/1|Running|0|5m");
    assert_eq!(pod(one(), json!({"phase": "Pending"})), "p|0/1|Pending|0|5m");
    let crash = json!({"phase": "Running", "containerStatuses": [{"name": "a", "ready": false, "restartCount": 3,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2025-12-31T23:59:30Z"}}}]});
    assert_eq!(pod(one(), crash), "p|0/1|CrashLoopBackOff|3 (30s ago)|5m");
    let done = json!({"phase": "Succeeded", "containerStatuses": [
        {"name": "a", "restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]});
    assert_eq!(pod(one(), done), "p|0/1|Completed|0|5m");
    let exit = json!({"phase": "Failed", "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 3}}}]});
    assert_eq!(pod(one(), exit), "p|0/1|ExitCode:3|0|5m");
    let signal = json!({"phase": "Failed", "containerStatuses": [{"name": "a", "state": {"terminated": {"signal": 9}}}]});
    assert_eq!(pod(one(), signal), "p|0/1|Signal:9|0|5m");
    assert_eq!(
        pod(one(), json!({"phase": "Failed", "reason": "Evicted"})),
        "p|0/1|Evicted|0|5m"
    );
    let gated =
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]});
    assert_eq!(pod(one(), gated), "p|0/1|SchedulingGated|0|5m");
}

#[test]
fn pods_with_init_containers() {
    let spec = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
    let first =
        json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]});
    assert_eq!(pod(spec.clone(), first), "p|0/1|Init:0/2|0|5m");
    let second = json!({"phase": "Pending", "initContainerStatuses": [
        {"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "restartCount": 2,
         "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]});
    assert_eq!(pod(spec.clone(), second), "p|0/1|Init:CrashLoopBackOff|2|5m");
    let failed = json!({"phase": "Pending", "initContainerStatuses": [
        {"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]});
    assert_eq!(pod(spec, failed), "p|0/1|Init:Error|0|5m");
    let sidecar =
        json!({"containers": [{"name": "a"}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]});
    let running = json!({"phase": "Running",
        "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "restartCount": 1, "state": {"running": {}}}],
        "containerStatuses": [{"name": "a", "ready": true, "state": {"running": {}}}]});
    assert_eq!(pod(sidecar, running), "p|2/2|Running|1|5m");
}

#[test]
fn pods_on_their_way_out() {
    let object = |phase: &str, reason: &str| {
        json!({"metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": one(),
               "status": {"phase": phase, "reason": reason}})
    };
    assert!(shown("", "pods", object("Running", "")).starts_with("p|0/1|Terminating|0|<unknown>"));
    assert!(shown("", "pods", object("Running", "NodeLost")).starts_with("p|0/1|Unknown|"));
    assert!(shown("", "pods", object("Succeeded", "")).starts_with("p|0/1|Succeeded|"));
}

#[test]
fn wide_pods() {
    let object = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "readinessGates": [{"conditionType": "x"}]},
                        "status": {"podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "x", "status": "True"}]}});
    assert!(shown("", "pods", object).ends_with("|10.0.0.1|n|<none>|1/1"));
}

#[test]
fn nodes() {
    let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/db": ""}},
        "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.36.0"},
                   "addresses": [{"type": "InternalIP", "address": "10.0.0.2"}]}});
    assert_eq!(
        shown("", "nodes", node),
        "n|Ready,SchedulingDisabled|db,worker|<unknown>|v1.36.0|10.0.0.2|<none>|<unknown>|<unknown>|<unknown>"
    );
    assert!(shown("", "nodes", json!({"metadata": {"name": "n"}})).starts_with("n|Unknown|<none>"));
}

#[test]
fn workloads() {
    let template =
        json!({"spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y"}]}});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 3, "template": template,
        "selector": {"matchLabels": {"app": "d"}}}, "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1}});
    assert_eq!(
        shown("apps", "deployments", deployment),
        "d|2/3|3|1|<unknown>|a,b|x:1,y|app=d"
    );
    let job = json!({"metadata": {"name": "j"}, "spec": {"completions": 2}, "status": {"succeeded": 1,
        "startTime": "2025-12-31T23:59:00Z"}});
    assert!(shown("batch", "jobs", job).starts_with("j|Running|1/2|60s|"));
    let cron = json!({"metadata": {"name": "c"}, "spec": {"schedule": "* * * * *", "suspend": false}});
    assert!(shown("batch", "cronjobs", cron).starts_with("c|* * * * *|<none>|False|0|<none>|"));
    let revision = json!({"metadata": {"name": "r", "ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "controller": true}]}, "revision": 2});
    assert!(shown("apps", "controllerrevisions", revision).starts_with("r|statefulset.apps/web|2|"));
    let hpa = json!({"metadata": {"name": "h"}, "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "minReplicas": 1,
        "maxReplicas": 5, "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}}]}});
    assert!(
        shown("autoscaling", "horizontalpodautoscalers", hpa)
            .starts_with("h|Deployment/d|cpu: <unknown>/80%|1|5|0|")
    );
}

#[test]
fn services_and_endpoints() {
    let service = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "clusterIP": "10.96.0.1",
        "ports": [{"port": 80, "nodePort": 30000, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}], "selector": {"a": "b"}}});
    assert_eq!(
        shown("", "services", service),
        "s|NodePort|10.96.0.1|<none>|80:30000/TCP,53/UDP|<unknown>|a=b"
    );
    let balancer = json!({"metadata": {"name": "s"}, "spec": {"type": "LoadBalancer"}});
    assert_eq!(
        shown("", "services", balancer),
        "s|LoadBalancer|<none>|<pending>|<none>|<unknown>|<none>"
    );
    let ips: Vec<Value> = (1..6).map(|i| json!({"ip": format!("10.0.0.{i}")})).collect();
    let endpoints =
        json!({"metadata": {"name": "e"}, "subsets": [{"addresses": ips, "ports": [{"port": 80}]}]});
    assert_eq!(
        shown("", "endpoints", endpoints),
        "e|10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...|<unknown>"
    );
    let slice = json!({"metadata": {"name": "e"}, "addressType": "IPv4", "ports": [{"port": 80}],
                       "endpoints": [{"addresses": ["10.0.0.1"]}]});
    assert_eq!(
        shown("discovery.k8s.io", "endpointslices", slice),
        "e|IPv4|80|10.0.0.1|<unknown>"
    );
}

#[test]
fn volumes() {
    let claim = json!({"metadata": {"name": "c"}, "spec": {"volumeName": "v", "storageClassName": "replicated", "volumeMode": "Filesystem"},
        "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"]}});
    assert_eq!(
        shown("", "persistentvolumeclaims", claim),
        "c|Bound|v|1Gi|RWO,RWX|replicated|<unset>|<unknown>|Filesystem"
    );
    let class = json!({"metadata": {"name": "replicated", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "csi.hikube.io", "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true});
    assert_eq!(
        shown("storage.k8s.io", "storageclasses", class),
        "replicated (default)|csi.hikube.io|Delete|WaitForFirstConsumer|true|<unknown>"
    );
}

#[test]
fn events() {
    let event = json!({"metadata": {"name": "e"}, "type": "Normal", "reason": "Pulled", "message": " text\n", "count": 4,
        "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{a}"}, "source": {"component": "kubelet", "host": "n"},
        "firstTimestamp": "2025-12-31T23:00:00Z", "lastTimestamp": "2025-12-31T23:59:55Z"});
    assert_eq!(
        shown("", "events", event),
        "5s|Normal|Pulled|pod/p|spec.containers{a}|kubelet, n|text|60m|4|e"
    );
    let event = json!({"metadata": {"name": "e"}, "note": "n", "eventTime": "2025-12-31T23:59:55.000000Z",
        "regarding": {"kind": "Node", "name": "x"}, "reportingController": "c", "series": {"count": 3, "lastObservedTime": "2025-12-31T23:59:59.000000Z"}});
    assert_eq!(shown("events.k8s.io", "events", event), "1s|||node/x||c|n|5s|3|e");
}

#[test]
fn roles_show_their_date() {
    let role = json!({"metadata": {"name": "r", "creationTimestamp": "2025-12-31T23:00:00Z"}});
    assert_eq!(
        shown("rbac.authorization.k8s.io", "clusterroles", role),
        "r|2025-12-31T23:00:00Z"
    );
}
