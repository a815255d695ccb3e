//! The core group.

use super::*;

pub(super) fn core() -> Vec<Case> {
    vec![
        (
            "",
            "bindings",
            json!({"target": {"kind": "Pod"}}),
            &[
                "target.kind: Unsupported value: \"Pod\": supported values: \"Node\", \"<empty>\"",
                "target.name: Required value",
            ],
        ),
        (
            "",
            "configmaps",
            json!({"binaryData": {"a": ""}, "data": {"a": ""}}),
            &["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"],
        ),
        (
            "",
            "endpoints",
            json!({"subsets": [{"ports": [{"port": 0}]}, {"addresses": [{"ip": "127.0.0.1"}]}]}),
            &[
                "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
                "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "subsets[1].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ],
        ),
        (
            "",
            "events",
            json!({"involvedObject": {"namespace": "other"}, "eventTime": "2026-01-01T00:00:00.000000Z",
            "reportingComponent": "c", "reportingInstance": "i", "action": "a"}),
            &[
                "involvedObject.namespace: Invalid value: \"other\": does not match event.namespace",
                "reason: Required value",
            ],
        ),
        (
            "",
            "limitranges",
            json!({"spec": {"limits": [
            {"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "500m"}},
            {"type": "Container"}, {"type": "PersistentVolumeClaim"}, {"type": "Pod", "default": {"cpu": "1"}}, {"type": "X"}]}}),
            &[
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than default request value 1",
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than default value 1",
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1",
                "spec.limits[1].type: Duplicate value: \"Container\"",
                "spec.limits[2]: Required value: either minimum or maximum storage value is required, but neither was provided",
                "spec.limits[3].default: Forbidden: may not be specified when `type` is 'Pod'",
                "spec.limits[4].type: Invalid value: \"X\": must be a standard limit type or fully qualified",
            ],
        ),
        (
            "",
            "namespaces",
            json!({"spec": {"finalizers": ["mine"]}}),
            &[
                "spec.finalizers: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified",
            ],
        ),
        (
            "",
            "nodes",
            json!({"spec": {"taints": [{"effect": "X"}], "podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.1.0/24"]}}),
            &[
                "spec.taints[0].key: Required value",
                "spec.taints[0].effect: Unsupported value: \"X\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
                "spec.podCIDRs[0]: Invalid value: \"10.0.1.0/24\": must match `podCIDR`",
            ],
        ),
        (
            "",
            "persistentvolumeclaims",
            json!({"spec": {"accessModes": ["X"], "volumeMode": "Y",
            "resources": {"requests": {"storage": "0"}}, "dataSource": {"kind": "K", "name": "n"}}}),
            &[
                "spec.accessModes: Unsupported value: \"X\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                "spec.resources[storage]: Invalid value: \"0\": must be greater than zero",
                "spec.volumeMode: Unsupported value: \"Y\": supported values: \"Block\", \"Filesystem\"",
                "spec.dataSource: Invalid value: \"K\": must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            ],
        ),
        (
            "",
            "persistentvolumes",
            json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Recycle", "hostPath": {"path": "/"}, "csi": {"driver": "d"}}}),
            &[
                "spec.csi: Forbidden: may not specify more than 1 volume type",
                "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'",
            ],
        ),
    ]
}

pub(super) fn claims_and_services() -> Vec<Case> {
    vec![
        (
            "",
            "pods",
            json!({"spec": {"containers": [], "nodeName": "n", "schedulingGates": [{"name": "g"}]}}),
            &[
                "spec.containers: Required value",
                "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
            ],
        ),
        (
            "",
            "podtemplates",
            json!({"template": {"metadata": {"labels": {"a": "!"}}, "spec": {}}}),
            &[
                "template.metadata.labels: Invalid value: \"!\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
                "template.spec.containers: Required value",
            ],
        ),
        (
            "",
            "replicationcontrollers",
            json!({"spec": {"replicas": -1, "selector": {"a": "c"}, "template": template()}}),
            &[
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
            ],
        ),
        (
            "",
            "resourcequotas",
            json!({"spec": {"hard": {"pods": "1500m", "foo": "1", "secrets": "1"}, "scopes": ["BestEffort", "NotBestEffort"],
            "scopeSelector": {"matchExpressions": [{"scopeName": "Terminating", "operator": "In"}]}}}),
            &[
                "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
                "spec.hard[foo]: Invalid value: \"foo\": must be a standard resource for quota",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: unsupported scope applied to resource",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: unsupported scope applied to resource",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
                "spec.scopeSelector.matchExpressions.operator: Invalid value: \"In\": must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
                "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
                "spec.scopeSelector.matchExpressions: Invalid value: [{\"scopeName\":\"Terminating\",\"operator\":\"In\"}]: unsupported scope applied to resource",
            ],
        ),
        (
            "",
            "secrets",
            json!({"type": "kubernetes.io/basic-auth"}),
            &["data[username]: Required value", "data[password]: Required value"],
        ),
        (
            "",
            "services",
            json!({"spec": {"ports": [{"port": 10250, "name": "a"}], "type": "LoadBalancer", "clusterIP": "None",
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}, "externalIPs": ["0.0.0.0"],
            "loadBalancerSourceRanges": ["x"], "trafficDistribution": "Y", "healthCheckNodePort": 1}}),
            &[
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for LoadBalancer services",
                "spec.ports[0].port: Invalid value: 10250: may not expose port 10250 externally since it is used by kubelet",
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400",
                "spec.externalIPs[0]: Invalid value: \"0.0.0.0\": may not be unspecified (0.0.0.0)",
                "spec.healthCheckNodePort: Invalid value: 1: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
                "spec.loadBalancerSourceRanges[0]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
                "spec.trafficDistribution: Unsupported value: \"Y\": supported values: \"PreferClose\", \"PreferSameNode\", \"PreferSameZone\"",
            ],
        ),
        (
            "",
            "services",
            json!({"spec": {"type": "ExternalName", "clusterIP": "10.0.0.1", "loadBalancerClass": "a/b", "externalTrafficPolicy": "Local"}}),
            &[
                "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
                "spec.externalName: Required value",
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
                "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ],
        ),
    ]
}
