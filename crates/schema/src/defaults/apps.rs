//! Workloads: `apps`, `batch`, `autoscaling`.

use serde_json::{Value, json};

use super::{Object, empty, ensure, object, objects, pod, set, set_absent, storage, text};

/// Fills in the defaults of a workload.
pub(super) fn default(kind: &str, o: &mut Object) {
    match kind {
        "Deployment" => deployment(o),
        "ReplicaSet" => {
            if let Some(spec) = ensure(o, "spec") {
                set_absent(spec, "replicas", 1);
                pod::template(spec);
            }
        }
        "StatefulSet" => stateful_set(o),
        "DaemonSet" => daemon_set(o),
        "Job" => job(o),
        "CronJob" => cron_job(o),
        _ => {}
    }
}

fn deployment(o: &mut Object) {
    let Some(spec) = ensure(o, "spec") else { return };
    set_absent(spec, "replicas", 1);
    set_absent(spec, "revisionHistoryLimit", 10);
    set_absent(spec, "progressDeadlineSeconds", 600);
    if let Some(strategy) = ensure(spec, "strategy") {
        set(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = ensure(strategy, "rollingUpdate")
        {
            set_absent(rolling, "maxUnavailable", "25%");
            set_absent(rolling, "maxSurge", "25%");
        }
    }
    pod::template(spec);
}

fn stateful_set(o: &mut Object) {
    let Some(spec) = ensure(o, "spec") else { return };
    set(spec, "podManagementPolicy", "OrderedReady");
    if let Some(strategy) = ensure(spec, "updateStrategy") {
        set(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = ensure(strategy, "rollingUpdate")
        {
            set_absent(rolling, "partition", 0);
        }
    }
    if let Some(policy) = ensure(spec, "persistentVolumeClaimRetentionPolicy") {
        set(policy, "whenDeleted", "Retain");
        set(policy, "whenScaled", "Retain");
    }
    set_absent(spec, "replicas", 1);
    set_absent(spec, "revisionHistoryLimit", 10);
    pod::template(spec);
    for claim in objects(spec, "volumeClaimTemplates") {
        set(claim, "apiVersion", "v1");
        set(claim, "kind", "PersistentVolumeClaim");
        storage::persistent_volume_claim(claim);
    }
}

fn daemon_set(o: &mut Object) {
    let Some(spec) = ensure(o, "spec") else { return };
    if let Some(strategy) = ensure(spec, "updateStrategy") {
        set(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = ensure(strategy, "rollingUpdate")
        {
            set_absent(rolling, "maxUnavailable", 1);
            set_absent(rolling, "maxSurge", 0);
        }
    }
    set_absent(spec, "revisionHistoryLimit", 10);
    pod::template(spec);
}

fn job(o: &mut Object) {
    if let Some(labels) = pod::template_labels(o) {
        pod::adopt_labels(o, &labels);
    }
    let Some(spec) = ensure(o, "spec") else { return };
    if empty(spec, "completions") && empty(spec, "parallelism") {
        set_absent(spec, "completions", 1);
    }
    set_absent(spec, "parallelism", 1);
    // With a limit for each index the limit for the whole is only a formality.
    let backoff = if empty(spec, "backoffLimitPerIndex") {
        6
    } else {
        i32::MAX
    };
    set_absent(spec, "backoffLimit", backoff);
    set(spec, "completionMode", "NonIndexed");
    set_absent(spec, "suspend", false);
    set_absent(spec, "manualSelector", false);
    let replace = if empty(spec, "podFailurePolicy") {
        "TerminatingOrFailed"
    } else {
        "Failed"
    };
    set(spec, "podReplacementPolicy", replace);
    if let Some(policy) = object(spec, "podFailurePolicy") {
        for rule in objects(policy, "rules") {
            for condition in objects(rule, "onPodConditions") {
                set(condition, "status", "True");
            }
        }
    }
    pod::template(spec);
}

fn cron_job(o: &mut Object) {
    let Some(spec) = ensure(o, "spec") else { return };
    set(spec, "concurrencyPolicy", "Allow");
    set_absent(spec, "suspend", false);
    set_absent(spec, "successfulJobsHistoryLimit", 3);
    set_absent(spec, "failedJobsHistoryLimit", 1);
    if let Some(job) = object(spec, "jobTemplate").and_then(|template| object(template, "spec")) {
        pod::template(job);
    }
}

/// `HorizontalPodAutoscaler`.
pub(super) fn autoscaler(version: &str, o: &mut Object) {
    let Some(spec) = ensure(o, "spec") else { return };
    set_absent(spec, "minReplicas", 1);
    if version == "v1" {
        return;
    }
    if empty(spec, "metrics") {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
        spec.insert("metrics".to_owned(), Value::Array(vec![metric]));
    }
    let Some(behavior) = object(spec, "behavior") else {
        return;
    };
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    if let Some(up) = ensure(behavior, "scaleUp") {
        set_absent(up, "stabilizationWindowSeconds", 0);
        set(up, "selectPolicy", "Max");
        set_absent(up, "policies", vec![pods, percent.clone()]);
    }
    if let Some(down) = ensure(behavior, "scaleDown") {
        set(down, "selectPolicy", "Max");
        set_absent(down, "policies", vec![percent]);
    }
}
