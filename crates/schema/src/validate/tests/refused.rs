//! A bad object of every kind, and the causes that it is refused with.

use super::*;

/// (group, plural, object without its name, causes).
type Case = (&'static str, &'static str, Value, &'static [&'static str]);

/// Kinds whose metadata is all that can be wrong.
const METADATA_ONLY: &[&str] = &[
    "componentstatuses",
    "serviceaccounts",
    "selfsubjectreviews",
    "selfsubjectrulesreviews",
];

fn template() -> Value {
    json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn job_template() -> Value {
    json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}})
}

fn selector() -> Value {
    json!({"matchLabels": {"a": "b"}})
}

fn core() -> Vec<Case> {
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

fn extending() -> Vec<Case> {
    vec![
        (
            "admissionregistration.k8s.io",
            "mutatingadmissionpolicies",
            json!({"spec": {"mutations": [{"patchType": "JSONPatch"}, {"patchType": "X"}]}}),
            &[
                "spec.matchConstraints: Required value",
                "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch",
                "spec.mutations[1].patchType: Unsupported value: \"X\": supported values: \"ApplyConfiguration\", \"JSONPatch\"",
            ],
        ),
        (
            "admissionregistration.k8s.io",
            "mutatingadmissionpolicybindings",
            json!({"spec": {"paramRef": {"name": "a", "selector": {}}}}),
            &[
                "spec.policyName: Required value",
                "spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
            ],
        ),
        (
            "admissionregistration.k8s.io",
            "mutatingwebhookconfigurations",
            json!({"webhooks": [{"name": "a.b", "sideEffects": "Some",
            "admissionReviewVersions": ["v2"], "clientConfig": {"url": "http://u@h/p?q#f"}, "timeoutSeconds": 31,
            "rules": [{"operations": ["*", "CREATE"], "apiGroups": [""], "apiVersions": ["*"], "resources": ["*/*", "pods"], "scope": "X"}],
            "matchConditions": [{"name": "c", "expression": ""}]}]}),
            &[
                "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
                "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1, v1beta1",
                "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
                "webhooks[0].rules[0].resources: Invalid value: [\"*/*\",\"pods\"]: if '*/*' is present, must not specify other resources",
                "webhooks[0].rules[0].scope: Unsupported value: \"X\": supported values: \"*\", \"Cluster\", \"Namespaced\"",
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
                "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                "webhooks[0].clientConfig.url: Invalid value: \"u\": user information is not permitted in the URL",
                "webhooks[0].clientConfig.url: Invalid value: \"f\": fragments are not permitted in the URL",
                "webhooks[0].clientConfig.url: Invalid value: \"q#f\": query parameters are not permitted in the URL",
                "webhooks[0].matchConditions[0].expression: Required value",
            ],
        ),
        (
            "admissionregistration.k8s.io",
            "validatingadmissionpolicies",
            json!({"spec": {"failurePolicy": "X", "paramKind": {"kind": "K"},
            "matchConstraints": {"resourceRules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": [], "resources": ["pods"]}]},
            "variables": [{"name": "a-b", "expression": "1"}], "validations": [{"expression": " ", "message": "a\nb", "reason": "Z"}]}}),
            &[
                "spec.failurePolicy: Unsupported value: \"X\": supported values: \"Fail\", \"Ignore\"",
                "spec.paramKind.apiVersion: Required value",
                "spec.matchConstraints.resourceRules[0].apiVersions: Required value",
                "spec.variables[0].name: Invalid value: \"a-b\": name is not a valid CEL identifier",
                "spec.validations[0].expression: Required value: expression is not specified",
                "spec.validations[0].message: Invalid value: \"a\\nb\": message must not contain line breaks",
                "spec.validations[0].reason: Unsupported value: \"Z\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\", \"Unauthorized\"",
            ],
        ),
        (
            "admissionregistration.k8s.io",
            "validatingadmissionpolicybindings",
            json!({"spec": {"policyName": "p", "validationActions": ["Deny", "Warn", "Deny"], "paramRef": {}}}),
            &[
                "spec.paramRef: Required value: one of name or selector must be specified",
                "spec.validationActions[2]: Duplicate value: \"Deny\"",
                "spec.validationActions: Invalid value: [\"Deny\",\"Warn\",\"Deny\"]: must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
            ],
        ),
        (
            "admissionregistration.k8s.io",
            "validatingwebhookconfigurations",
            json!({"webhooks": [{"name": "a.b.c", "clientConfig": {"service": {"port": 0, "path": "x"}}, "sideEffects": "None"}]}),
            &[
                "webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1",
                "webhooks[0].clientConfig.service.name: Required value: service name is required",
                "webhooks[0].clientConfig.service.namespace: Required value: service namespace is required",
                "webhooks[0].clientConfig.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
                "webhooks[0].clientConfig.service.path: Invalid value: \"x\": must start with a '/'",
            ],
        ),
        (
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            json!({"spec": {"group": "nodot", "scope": "X", "names": {"plural": "ps", "kind": "P", "listKind": "P"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}},
                "subresources": {"scale": {"specReplicasPath": ".status.x", "statusReplicasPath": "status"}},
                "additionalPrinterColumns": [{"name": "c", "type": "X", "jsonPath": "spec"}], "deprecationWarning": "w"},
                {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
            "conversion": {"strategy": "Webhook"}}}),
            &[
                "metadata.name: Invalid value: \"a\": must be spec.names.plural+\".\"+spec.group",
                "spec.group: Invalid value: \"nodot\": should be a domain with at least one dot",
                "spec.scope: Unsupported value: \"X\": supported values: \"Cluster\", \"Namespaced\"",
                "spec.names.listKind: Invalid value: \"P\": kind and listKind may not be the same",
                "spec.versions[0].subresources.scale.specReplicasPath: Invalid value: \".status.x\": should be a json path under .spec",
                "spec.versions[0].subresources.scale.statusReplicasPath: Invalid value: \"status\": must be a simple json path with dot notation and no array notation",
                "spec.versions[0].additionalPrinterColumns[0].type: Unsupported value: \"X\": supported values: \"boolean\", \"date\", \"integer\", \"number\", \"string\"",
                "spec.versions[0].additionalPrinterColumns[0].jsonPath: Invalid value: \"spec\": invalid JSON path",
                "spec.versions[0].deprecationWarning: Invalid value: \"w\": can only be set for deprecated versions",
                "spec.versions: Invalid value: […]: must contain unique version names",
                "spec.versions: Invalid value: […]: must have exactly one version marked as storage version",
                "spec.conversion.webhook.clientConfig: Required value: required when strategy is set to Webhook",
                "spec.conversion.webhook.conversionReviewVersions: Required value",
            ],
        ),
        (
            "apiregistration.k8s.io",
            "apiservices",
            json!({"spec": {"group": "g.io", "version": "v1", "groupPriorityMinimum": 0, "versionPriority": 1001, "insecureSkipTLSVerify": true}}),
            &[
                "metadata.name: Invalid value: \"a\": must be `spec.version+\".\"+spec.group`",
                "spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000",
                "spec.versionPriority: Invalid value: 1001: must be positive and less than 1000",
                "spec.insecureSkipTLSVerify: Invalid value: true: local APIServices may not have insecureSkipTLSVerify",
            ],
        ),
        (
            "authentication.k8s.io",
            "tokenreviews",
            json!({"spec": {}}),
            &["spec.token: Required value"],
        ),
        (
            "authorization.k8s.io",
            "localsubjectaccessreviews",
            json!({"spec": {"user": "u", "resourceAttributes": {"namespace": "x"}}}),
            &["spec.resourceAttributes.namespace: Invalid value: \"x\": must match metadata.namespace"],
        ),
        (
            "authorization.k8s.io",
            "selfsubjectaccessreviews",
            json!({"spec": {}}),
            &[
                "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ],
        ),
        (
            "authorization.k8s.io",
            "subjectaccessreviews",
            json!({"spec": {"nonResourceAttributes": {"path": "/"}}}),
            &["spec.user: Invalid value: \"\": at least one of user or group must be specified"],
        ),
        (
            "certificates.k8s.io",
            "certificatesigningrequests",
            json!({"spec": {"request": "eA==", "signerName": "nodot/x", "usages": ["fun"], "expirationSeconds": 1}}),
            &[
                "spec.request: Invalid value: \"eA==\": PEM block type must be CERTIFICATE REQUEST",
                "spec.usages[0]: Unsupported value: \"fun\": supported values: \"any\", \"cert sign\", \"client auth\", \"code signing\", \"content commitment\", \"crl sign\", \"data encipherment\", \"decipher only\", \"digital signature\", \"email protection\", \"encipher only\", \"ipsec end system\", \"ipsec tunnel\", \"ipsec user\", \"key agreement\", \"key encipherment\", \"microsoft sgc\", \"netscape sgc\", \"ocsp signing\", \"s/mime\", \"server auth\", \"signing\", \"timestamping\"",
                "spec.signerName: Invalid value: \"nodot\": should be a domain with at least two segments separated by dots",
                "spec.expirationSeconds: Invalid value: 1: may not specify a duration less than 600 seconds (10 minutes)",
            ],
        ),
        (
            "flowcontrol.apiserver.k8s.io",
            "flowschemas",
            json!({"spec": {"matchingPrecedence": 10001, "distinguisherMethod": {"type": "X"},
            "rules": [{"subjects": [{"kind": "User", "group": {"name": "g"}}], "resourceRules": [{"verbs": ["get", "*"], "apiGroups": ["*"], "resources": ["*"]}]}, {}]}}),
            &[
                "spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000",
                "spec.distinguisherMethod.type: Unsupported value: \"X\": supported values: \"ByNamespace\", \"ByUser\"",
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
                "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
                "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'",
                "spec.rules[0].resourceRules[0].verbs: Invalid value: [\"get\",\"*\"]: if '*' is present, must not specify other verbs",
                "spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace",
                "spec.rules[1].subjects: Required value: subjects must contain at least one value",
                "spec.rules[1]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
            ],
        ),
        (
            "flowcontrol.apiserver.k8s.io",
            "prioritylevelconfigurations",
            json!({"spec": {"type": "Limited", "exempt": {},
            "limited": {"lendablePercent": 101, "limitResponse": {"type": "Queue", "queuing": {"queues": 2, "handSize": 3}}}}}),
            &[
                "spec.exempt: Forbidden: must be nil if the type is Limited",
                "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 3: should not be greater than queues (2)",
            ],
        ),
        (
            "rbac.authorization.k8s.io",
            "clusterrolebindings",
            json!({"roleRef": {"kind": "Role", "name": "r"}}),
            &["roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\""],
        ),
        (
            "rbac.authorization.k8s.io",
            "clusterroles",
            json!({"aggregationRule": {}, "rules": [{"verbs": ["get"]}]}),
            &[
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[0].resources: Required value: resource rules must supply at least one resource",
                "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil",
            ],
        ),
        (
            "rbac.authorization.k8s.io",
            "rolebindings",
            json!({"roleRef": {"kind": "Role"}, "subjects": [{"kind": "X", "name": "n"}]}),
            &[
                "roleRef.name: Required value",
                "subjects[0].kind: Unsupported value: \"X\": supported values: \"Group\", \"ServiceAccount\", \"User\"",
            ],
        ),
        (
            "rbac.authorization.k8s.io",
            "roles",
            json!({"rules": [{"verbs": [], "apiGroups": [""], "resources": ["pods"]}]}),
            &["rules[0].verbs: Required value: verbs must contain at least one value"],
        ),
    ]
}

fn workloads() -> Vec<Case> {
    vec![
        (
            "apps",
            "controllerrevisions",
            json!({"revision": -1}),
            &[
                "data: Required value: data is mandatory",
                "revision: Invalid value: -1: must be greater than or equal to 0",
            ],
        ),
        (
            "apps",
            "daemonsets",
            json!({"spec": {"selector": selector(), "template": template(), "updateStrategy": {"rollingUpdate": {"maxUnavailable": 1, "maxSurge": "5%"}}}}),
            &[
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: \"5%\": may not be set when maxUnavailable is non-zero",
            ],
        ),
        (
            "apps",
            "deployments",
            json!({"spec": {"selector": selector(), "template": template(), "progressDeadlineSeconds": 5, "minReadySeconds": 5, "strategy": {"type": "X"}}}),
            &[
                "spec.strategy.type: Unsupported value: \"X\": supported values: \"Recreate\", \"RollingUpdate\"",
                "spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds",
            ],
        ),
        (
            "apps",
            "replicasets",
            json!({"spec": {"template": template(), "minReadySeconds": -1}}),
            &[
                "spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0",
                "spec.selector: Required value",
            ],
        ),
        (
            "apps",
            "statefulsets",
            json!({"spec": {"selector": selector(), "template": template(), "podManagementPolicy": "X", "updateStrategy": {"type": "Y"}}}),
            &[
                "spec.podManagementPolicy: Invalid value: \"X\": must be 'OrderedReady' or 'Parallel'",
                "spec.updateStrategy: Invalid value: \"Y\": must be 'RollingUpdate' or 'OnDelete'",
            ],
        ),
        (
            "autoscaling",
            "horizontalpodautoscalers",
            json!({"spec": {"maxReplicas": 0, "scaleTargetRef": {"kind": "K"},
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 0}}}, {"type": "Pods"},
                {"type": "External", "external": {"metric": {"name": "m"}, "target": {"type": "Z", "value": "-1"}}}, {"type": "W"}],
            "behavior": {"scaleUp": {"stabilizationWindowSeconds": 3601, "policies": [{"type": "Pods", "value": 0, "periodSeconds": 1801}]}}}}),
            &[
                "spec.maxReplicas: Invalid value: 0: must be greater than 0",
                "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`",
                "spec.scaleTargetRef.name: Required value",
                "spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0",
                "spec.metrics[1].pods: Required value: must populate information for the given metric source",
                "spec.metrics[2].external.target.type: Invalid value: \"Z\": must be either Utilization, Value, or AverageValue",
                "spec.metrics[2].external.target.value: Invalid value: \"-1\": must be positive",
                "spec.metrics[3].type: Unsupported value: \"W\": supported values: \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"",
                "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
                "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
                "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
            ],
        ),
        (
            "batch",
            "cronjobs",
            json!({"spec": {"schedule": "* * * *", "timeZone": "Mars/Base", "concurrencyPolicy": "X", "jobTemplate": {"spec": {"manualSelector": true, "template": job_template()}}}}),
            &[
                "spec.schedule: Invalid value: \"* * * *\": expected exactly 5 fields, found 4: [\"*\", \"*\", \"*\", \"*\"]",
                "spec.concurrencyPolicy: Unsupported value: \"X\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
                "spec.timeZone: Invalid value: \"Mars/Base\": unknown time zone Mars/Base",
                "spec.jobTemplate.spec.manualSelector: Unsupported value: \"true\": supported values: \"nil\", \"false\"",
            ],
        ),
        (
            "batch",
            "jobs",
            json!({"spec": {"template": job_template(), "completionMode": "NonIndexed", "maxFailedIndexes": 1, "managedBy": "me",
            "podFailurePolicy": {"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [2, 1, 0, 1], "containerName": "x"}}, {"action": "X"}]},
            "successPolicy": {"rules": [{}]}}}),
            &[
                "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
                "spec.managedBy: Invalid value: \"me\": must be a domain-prefixed path (such as \"acme.io/foo\")",
                "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
                "spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: \"x\": must be one of the container or initContainer names in the pod template",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[2]: Invalid value: 0: must not be 0 for the In operator",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[3]: Duplicate value: 1",
                "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [2,1,0,1]: must be ordered",
                "spec.podFailurePolicy.rules[1].action: Unsupported value: \"X\": supported values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\"",
                "spec.podFailurePolicy.rules[1]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
                "spec.successPolicy: Invalid value: {\"rules\":[{}]}: requires indexed completion mode",
                "spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified",
            ],
        ),
        (
            "batch",
            "jobs",
            json!({"spec": {"template": job_template(), "completionMode": "Indexed", "completions": 3,
            "successPolicy": {"rules": [{"succeededIndexes": "0-5", "succeededCount": 4}]}}}),
            &[
                "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"0-5\": error parsing succeededIndexes: too large index: 5",
                "spec.successPolicy.rules[0].succeededCount: Invalid value: 4: must be less than or equal to 3 (the number of specified completions)",
            ],
        ),
        (
            "coordination.k8s.io",
            "leases",
            json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1, "preferredHolder": "h"}}),
            &[
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
                "spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined",
            ],
        ),
        (
            "node.k8s.io",
            "runtimeclasses",
            json!({"handler": "H", "scheduling": {"tolerations": [{"operator": "Exists"}, {"operator": "Exists"}]}}),
            &[
                "handler: Invalid value: \"H\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                "scheduling.tolerations[1]: Duplicate value: {\"operator\":\"Exists\"}",
            ],
        ),
        (
            "policy",
            "poddisruptionbudgets",
            json!({"spec": {"minAvailable": "101%", "unhealthyPodEvictionPolicy": "X"}}),
            &[
                "spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%",
                "spec.unhealthyPodEvictionPolicy: Unsupported value: \"X\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\"",
            ],
        ),
        (
            "scheduling.k8s.io",
            "priorityclasses",
            json!({"value": 1_000_000_001, "preemptionPolicy": "X"}),
            &[
                "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
                "preemptionPolicy: Unsupported value: \"X\": supported values: \"Never\", \"PreemptLowerPriority\"",
            ],
        ),
    ]
}

fn networks() -> Vec<Case> {
    vec![
        (
            "discovery.k8s.io",
            "endpointslices",
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["::1"]}, {"addresses": []}], "ports": [{"name": "a"}, {"name": "a"}]}),
            &[
                "endpoints[0].addresses[0]: Invalid value: \"::1\": must be a valid IPv4 address",
                "endpoints[1].addresses: Required value: must contain at least 1 address",
                "ports[1].name: Duplicate value: \"a\"",
            ],
        ),
        (
            "events.k8s.io",
            "events",
            json!({"eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "c/d", "reportingInstance": "i", "reason": "r", "action": "a",
            "type": "Odd", "regarding": {"namespace": "default"}, "deprecatedCount": 1, "series": {"count": 1}}),
            &[
                "type: Invalid value: \"\": has invalid value: Odd",
                "count: Invalid value: \"\": needs to be unset",
                "series.count: Invalid value: \"\": should be at least 2",
                "series.lastObservedTime: Required value",
            ],
        ),
        (
            "networking.k8s.io",
            "ingressclasses",
            json!({"spec": {"controller": "c", "parameters": {"kind": "K", "name": "n", "scope": "Namespace"}}}),
            &[
                "spec.controller: Invalid value: \"c\": must be a domain-prefixed path (such as \"acme.io/foo\")",
                "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'",
            ],
        ),
        (
            "networking.k8s.io",
            "ingresses",
            json!({"spec": {"tls": [{"hosts": ["A"]}], "rules": [{"host": "1.2.3.4", "http": {"paths": [
            {"pathType": "Prefix", "path": "a//b", "backend": {"service": {"name": "s", "port": {}}}}, {"path": "/", "backend": {"resource": {"kind": "K", "name": "n"}}}]}}]}}),
            &[
                "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
                "spec.rules[0].http.paths[0].path: Invalid value: \"a//b\": must be an absolute path",
                "spec.rules[0].http.paths[0].path: Invalid value: \"a//b\": must not contain '//'",
                "spec.rules[0].http.paths[0].backend.service: Required value: port name or number is required",
                "spec.rules[0].http.paths[1].pathType: Required value: pathType must be specified",
                "spec.tls[0].hosts[0]: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            ],
        ),
        (
            "networking.k8s.io",
            "ipaddresses",
            json!({"spec": {}}),
            &[
                "metadata.name: Invalid value: \"a\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                "spec.parentRef: Required value",
            ],
        ),
        (
            "networking.k8s.io",
            "networkpolicies",
            json!({"spec": {"podSelector": {}, "policyTypes": ["Sideways"], "ingress": [{"ports": [{"endPort": 1}, {"port": "a", "endPort": 2}, {"port": 3, "endPort": 2}],
            "from": [{}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8", "10.1.0.0/16", "192.168.0.0/24"]}}]}]}}),
            &[
                "spec.ingress[0].ports[0].endPort: Invalid value: 1: may not be specified when `port` is not specified",
                "spec.ingress[0].ports[1].endPort: Invalid value: 2: may not be specified when `port` is non-numeric",
                "spec.ingress[0].ports[2].endPort: Invalid value: 2: must be greater than or equal to `port`",
                "spec.ingress[0].from[0]: Required value: must specify a peer",
                "spec.ingress[0].from[1].ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
                "spec.ingress[0].from[1].ipBlock.except[2]: Invalid value: \"192.168.0.0/24\": must be a strict subset of `cidr`",
                "spec.policyTypes[0]: Unsupported value: \"Sideways\": supported values: \"Egress\", \"Ingress\"",
            ],
        ),
        (
            "networking.k8s.io",
            "servicecidrs",
            json!({"spec": {"cidrs": ["10.0.0.0/8", "11.0.0.0/8"]}}),
            &[
                "spec.cidrs: Invalid value: [\"10.0.0.0/8\",\"11.0.0.0/8\"]: may specify no more than one IP for each IP family, i.e. 192.168.0.0/24 and 2001:db8::/64",
            ],
        ),
    ]
}

fn resources() -> Vec<Case> {
    vec![
        (
            "resource.k8s.io",
            "deviceclasses",
            json!({"spec": {"selectors": [{"cel": {"expression": ""}}, {}], "config": [{}]}}),
            &[
                "spec.selectors[0].cel.expression: Required value",
                "spec.selectors[1].cel: Required value",
                "spec.config[0].opaque: Required value",
            ],
        ),
        (
            "resource.k8s.io",
            "resourceclaims",
            json!({"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c", "allocationMode": "All", "count": 2}}, {"name": "r"}],
            "constraints": [{"requests": ["x"], "matchAttribute": "a"}]}}}),
            &[
                "spec.devices.requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'",
                "spec.devices.requests[1]: Required value: exactly one of `exactly` or `firstAvailable` is required",
                "spec.devices.requests[1].name: Duplicate value: \"r\"",
                "spec.devices.constraints[0].requests[0]: Invalid value: \"x\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
                "spec.devices.constraints[0].matchAttribute: Invalid value: \"a\": must include a domain",
            ],
        ),
        (
            "resource.k8s.io",
            "resourceclaimtemplates",
            json!({"spec": {"spec": {"devices": {"requests": [{"name": "r", "exactly": {}}]}}}}),
            &["spec.spec.devices.requests[0].exactly.deviceClassName: Required value"],
        ),
        (
            "resource.k8s.io",
            "resourceslices",
            json!({"spec": {"driver": "d", "pool": {"name": "p"}, "nodeName": "n", "allNodes": true, "devices": [{"name": "A"}]}}),
            &[
                "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
                "spec: Invalid value: \"{nodeName, allNodes}\": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set",
                "spec.devices[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            ],
        ),
        (
            "storage.k8s.io",
            "csidrivers",
            json!({"spec": {"fsGroupPolicy": "X", "tokenRequests": [{"audience": "a", "expirationSeconds": 1}, {"audience": "a"}], "nodeAllocatableUpdatePeriodSeconds": 1}}),
            &[
                "spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 1: must be greater than or equal to 10 seconds",
                "spec.fsGroupPolicy: Unsupported value: \"X\": supported values: \"File\", \"None\", \"ReadWriteOnceWithFSType\"",
                "spec.tokenRequests[0].expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
                "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
            ],
        ),
        (
            "storage.k8s.io",
            "csinodes",
            json!({"spec": {"drivers": [{"name": "d", "nodeID": "", "topologyKeys": ["a", "a"]}]}}),
            &[
                "spec.drivers[0].nodeID: Required value",
                "spec.drivers[0].topologyKeys: Duplicate value: \"a\"",
            ],
        ),
        (
            "storage.k8s.io",
            "csistoragecapacities",
            json!({"capacity": "-1"}),
            &[
                "storageClassName: Required value",
                "capacity: Invalid value: \"-1\": must be greater than or equal to 0",
            ],
        ),
        (
            "storage.k8s.io",
            "storageclasses",
            json!({"provisioner": "p", "volumeBindingMode": "X", "parameters": {"": "v"}}),
            &[
                "parameters: Invalid value: \"\": field can not be empty.",
                "volumeBindingMode: Unsupported value: \"X\": supported values: \"Immediate\", \"WaitForFirstConsumer\"",
            ],
        ),
        (
            "storage.k8s.io",
            "volumeattachments",
            json!({"spec": {"nodeName": "n", "source": {}}}),
            &[
                "spec.attacher: Required value",
                "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            ],
        ),
        (
            "storage.k8s.io",
            "volumeattributesclasses",
            json!({"driverName": "d"}),
            &["parameters: Required value: must contain at least one key/value pair"],
        ),
    ]
}

fn all() -> Vec<Case> {
    [core(), extending(), workloads(), networks(), resources()].concat()
}

/// Whole lists of versions are too long to be told in a table.
fn shortened(line: &str) -> String {
    match (
        line.starts_with("spec.versions: Invalid value: ["),
        line.rfind("]: "),
    ) {
        (true, Some(end)) => format!("spec.versions: Invalid value: […{}", &line[end..]),
        _ => line.to_owned(),
    }
}

#[test]
fn bad_objects_are_refused_with_upstreams_causes() {
    let mut wrong = Vec::new();
    for (group, plural, mut object, expected) in all() {
        object["metadata"] = if resource(group, plural).namespaced {
            metadata()
        } else {
            json!({"name": "a"})
        };
        let found: Vec<String> = create(group, plural, object)
            .iter()
            .map(|line| shortened(line))
            .collect();
        if found != expected {
            wrong.push(format!(
                "{plural}.{group}:\n  found    {found:#?}\n  expected {expected:#?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_stable_kind_has_a_bad_object() {
    let cases = all();
    for resource in registry().resources() {
        let stable = !resource.version.contains("beta") && !resource.version.contains("alpha");
        let told = cases.iter().any(|(group, plural, ..)| resource.is(group, plural));
        let metadata_only = METADATA_ONLY.contains(&&*resource.plural);
        assert!(
            !stable || told || metadata_only,
            "{} has none",
            resource.qualified_name()
        );
    }
}

#[test]
fn names_are_checked_for_every_stored_kind() {
    for resource in registry().resources().iter().filter(|r| r.is_stored()) {
        let object = json!({"metadata": {"name": "a/b", "namespace": "default"}});
        let causes = validate_create(resource, &object);
        assert!(
            causes
                .iter()
                .any(|c| c.field == "metadata.name" && c.reason == Reason::Invalid),
            "{}",
            resource.qualified_name()
        );
    }
}
