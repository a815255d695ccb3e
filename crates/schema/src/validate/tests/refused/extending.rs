//! What extends and governs the API.

use super::*;

pub(super) fn admission() -> Vec<Case> {
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
    ]
}

pub(super) fn access() -> Vec<Case> {
    vec![
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
