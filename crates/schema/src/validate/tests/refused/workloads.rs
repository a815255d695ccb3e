//! Workloads and what steers them.

use super::*;

pub(super) fn workloads() -> Vec<Case> {
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
    ]
}

pub(super) fn jobs_and_more() -> Vec<Case> {
    vec![
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
