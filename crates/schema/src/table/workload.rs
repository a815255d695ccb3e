//! Workloads: `apps`, `batch`, `autoscaling`, `policy`.

use serde_json::Value;

use super::{
    AGE, BY_AGE, CONTAINERS, Column, IMAGES, NAME, Printer, SELECTOR, age, containers, count, is_true,
    labels, name, number, or, scalar, selector, text,
};
use crate::duration;
use crate::value::ValueExt as _;

/// The printer of a resource of these groups.
pub(super) fn printer(plural: &str) -> Printer {
    match plural {
        "deployments" => Printer {
            columns: DEPLOYMENT,
            row: deployment,
        },
        "replicasets" => Printer {
            columns: REPLICA_SET,
            row: replica_set,
        },
        "statefulsets" => Printer {
            columns: STATEFUL_SET,
            row: stateful_set,
        },
        "daemonsets" => Printer {
            columns: DAEMON_SET,
            row: daemon_set,
        },
        "controllerrevisions" => Printer {
            columns: REVISION,
            row: revision,
        },
        "jobs" => Printer {
            columns: JOB,
            row: job,
        },
        "cronjobs" => Printer {
            columns: CRON_JOB,
            row: cron_job,
        },
        "poddisruptionbudgets" => Printer {
            columns: BUDGET,
            row: budget,
        },
        "horizontalpodautoscalers" => Printer {
            columns: AUTOSCALER,
            row: autoscaler,
        },
        _ => BY_AGE,
    }
}

const DEPLOYMENT: &[Column] = &[
    NAME,
    text("Ready", "Pods that are ready, of those wanted"),
    text("Up-to-date", "Pods of the current template"),
    text("Available", "Pods that have been ready for long enough"),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn deployment(o: &Value, now: i64) -> Vec<Value> {
    let [names, images] = containers(o.at(&["spec", "template", "spec"]));
    vec![
        name(o),
        ready_of_wanted(o).into(),
        count(o, &["status", "updatedReplicas"]),
        count(o, &["status", "availableReplicas"]),
        age(o, now),
        names,
        images,
        selector(o.at(&["spec", "selector"])).into(),
    ]
}

fn ready_of_wanted(o: &Value) -> String {
    let ready = o.int(&["status", "readyReplicas"]).unwrap_or_default();
    format!("{ready}/{}", o.int(&["spec", "replicas"]).unwrap_or_default())
}

pub(super) const REPLICA_SET: &[Column] = &[
    NAME,
    number("Desired", "Pods wanted"),
    number("Current", "Pods there are"),
    number("Ready", "Pods that are ready"),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn replicas(o: &Value, now: i64, selector: String) -> Vec<Value> {
    let [names, images] = containers(o.at(&["spec", "template", "spec"]));
    vec![
        name(o),
        count(o, &["spec", "replicas"]),
        count(o, &["status", "replicas"]),
        count(o, &["status", "readyReplicas"]),
        age(o, now),
        names,
        images,
        selector.into(),
    ]
}

fn replica_set(o: &Value, now: i64) -> Vec<Value> {
    replicas(o, now, selector(o.at(&["spec", "selector"])))
}

pub(super) fn replication_controller(o: &Value, now: i64) -> Vec<Value> {
    replicas(o, now, labels(o.at(&["spec", "selector"])))
}

const STATEFUL_SET: &[Column] = &[
    NAME,
    text("Ready", "Pods that are ready, of those wanted"),
    AGE,
    CONTAINERS,
    IMAGES,
];

fn stateful_set(o: &Value, now: i64) -> Vec<Value> {
    let [names, images] = containers(o.at(&["spec", "template", "spec"]));
    vec![name(o), ready_of_wanted(o).into(), age(o, now), names, images]
}

const DAEMON_SET: &[Column] = &[
    NAME,
    number("Desired", "Nodes that should run a pod"),
    number("Current", "Nodes that run one"),
    number("Ready", "Nodes whose pod is ready"),
    number("Up-to-date", "Nodes whose pod is of the current template"),
    number("Available", "Nodes whose pod has been ready for long enough"),
    text("Node Selector", "Labels of the nodes"),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn daemon_set(o: &Value, now: i64) -> Vec<Value> {
    let [names, images] = containers(o.at(&["spec", "template", "spec"]));
    vec![
        name(o),
        count(o, &["status", "desiredNumberScheduled"]),
        count(o, &["status", "currentNumberScheduled"]),
        count(o, &["status", "numberReady"]),
        count(o, &["status", "updatedNumberScheduled"]),
        count(o, &["status", "numberAvailable"]),
        labels(o.at(&["spec", "template", "spec", "nodeSelector"])).into(),
        age(o, now),
        names,
        images,
        selector(o.at(&["spec", "selector"])).into(),
    ]
}

const REVISION: &[Column] = &[
    NAME,
    text("Controller", "Whose revision it is"),
    text("Revision", "Number of the revision"),
    AGE,
];

fn revision(o: &Value, now: i64) -> Vec<Value> {
    let owner = o
        .items(&["metadata", "ownerReferences"])
        .iter()
        .find(|owner| owner.flag(&["controller"]));
    let controller = owner.map_or_else(String::new, |owner| {
        let kind = owner.text(&["kind"]).to_lowercase();
        match owner.text(&["apiVersion"]).split_once('/') {
            Some((group, _)) => format!("{kind}.{group}/{}", owner.text(&["name"])),
            None => format!("{kind}/{}", owner.text(&["name"])),
        }
    });
    vec![
        name(o),
        or(&controller, "<none>"),
        count(o, &["revision"]),
        age(o, now),
    ]
}

pub(super) const TEMPLATE: &[Column] = &[
    NAME,
    text("Containers", "Names of the containers of the template"),
    text("Images", "Images of the containers of the template"),
    text("Pod Labels", "Labels of the template"),
];

pub(super) fn template(o: &Value, _now: i64) -> Vec<Value> {
    let [names, images] = containers(o.at(&["template", "spec"]));
    vec![
        name(o),
        names,
        images,
        labels(o.at(&["template", "metadata", "labels"])).into(),
    ]
}

const JOB: &[Column] = &[
    NAME,
    text("Status", "Whether it runs, waits or has ended"),
    text("Completions", "Pods that succeeded, of those wanted"),
    text("Duration", "Time from its start to its end"),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn job(o: &Value, now: i64) -> Vec<Value> {
    let succeeded = o.int(&["status", "succeeded"]).unwrap_or_default();
    let parallelism = o.int(&["spec", "parallelism"]).unwrap_or_default();
    let completions = match o.int(&["spec", "completions"]) {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    };
    let time = |field| duration::parse_time(o.text(&["status", field])).map(|t| t.seconds);
    let took = time("startTime")
        .map(|start| duration::human(time("completionTime").unwrap_or(now) - start))
        .unwrap_or_default();
    let status = if is_true(o, "Complete") {
        "Complete"
    } else if is_true(o, "Failed") {
        "Failed"
    } else if o.at(&["metadata", "deletionTimestamp"]).is_some() {
        "Terminating"
    } else {
        let states = ["Suspended", "FailureTarget", "SuccessCriteriaMet"];
        states
            .into_iter()
            .find(|kind| is_true(o, kind))
            .unwrap_or("Running")
    };
    let [names, images] = containers(o.at(&["spec", "template", "spec"]));
    vec![
        name(o),
        status.into(),
        completions.into(),
        took.into(),
        age(o, now),
        names,
        images,
        selector(o.at(&["spec", "selector"])).into(),
    ]
}

const CRON_JOB: &[Column] = &[
    NAME,
    text("Schedule", "When it runs"),
    text("Timezone", "Time zone of the schedule"),
    text("Suspend", "Whether it is held back"),
    number("Active", "Jobs that run now"),
    text("Last Schedule", "Time since it last ran"),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn cron_job(o: &Value, now: i64) -> Vec<Value> {
    let last = o.text(&["status", "lastScheduleTime"]);
    let last = if last.is_empty() {
        "<none>".to_owned()
    } else {
        duration::age(last, now)
    };
    let suspend = match o.at(&["spec", "suspend"]).and_then(Value::as_bool) {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let job = o.at(&["spec", "jobTemplate", "spec"]);
    let [names, images] = containers(job.and_then(|job| job.at(&["template", "spec"])));
    vec![
        name(o),
        o.text(&["spec", "schedule"]).into(),
        or(o.text(&["spec", "timeZone"]), "<none>"),
        suspend.into(),
        o.items(&["status", "active"]).len().into(),
        last.into(),
        age(o, now),
        names,
        images,
        selector(job.and_then(|job| job.at(&["selector"]))).into(),
    ]
}

const BUDGET: &[Column] = &[
    NAME,
    text("Min Available", "Pods that must stay available"),
    text("Max Unavailable", "Pods that may be unavailable"),
    number("Allowed Disruptions", "Pods that may be disrupted now"),
    AGE,
];

fn budget(o: &Value, now: i64) -> Vec<Value> {
    vec![
        name(o),
        scalar(o.at(&["spec", "minAvailable"]), "N/A").into(),
        scalar(o.at(&["spec", "maxUnavailable"]), "N/A").into(),
        count(o, &["status", "disruptionsAllowed"]),
        age(o, now),
    ]
}

const AUTOSCALER: &[Column] = &[
    NAME,
    text("Reference", "What it scales"),
    text("Targets", "Metrics, current and wanted"),
    text("MinPods", "Least number of pods"),
    text("MaxPods", "Largest number of pods"),
    text("Replicas", "Pods there are"),
    AGE,
];

fn autoscaler(o: &Value, now: i64) -> Vec<Value> {
    let target = o.at(&["spec", "scaleTargetRef"]);
    let part = |field| target.map_or("", |t| t.text(&[field]));
    vec![
        name(o),
        format!("{}/{}", part("kind"), part("name")).into(),
        targets(o).into(),
        scalar(o.at(&["spec", "minReplicas"]), "<unset>").into(),
        count(o, &["spec", "maxReplicas"]),
        count(o, &["status", "currentReplicas"]),
        age(o, now),
    ]
}

fn targets(o: &Value) -> String {
    if let Some(percent) = o.int(&["spec", "targetCPUUtilizationPercentage"]) {
        let current = o.int(&["status", "currentCPUUtilizationPercentage"]);
        let current = current.map_or_else(|| "<unknown>".to_owned(), |c| format!("{c}%"));
        return format!("cpu: {current}/{percent}%");
    }
    let list: Vec<String> = o
        .items(&["spec", "metrics"])
        .iter()
        .enumerate()
        .map(|(index, metric)| target(metric, o.items(&["status", "currentMetrics"]).get(index)))
        .collect();
    super::at_most(&list, 2, "<none>").replace(',', ", ")
}

/// One metric as `cpu: 5%/80%`.
fn target(metric: &Value, current: Option<&Value>) -> String {
    let source = match metric.text(&["type"]) {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        "External" => "external",
        _ => return "<unknown type>".to_owned(),
    };
    let amount = |holder: Option<&Value>| -> Option<String> {
        let holder = holder?;
        if let Some(percent) = holder.int(&["averageUtilization"]) {
            return Some(format!("{percent}%"));
        }
        let value = ["averageValue", "value"]
            .into_iter()
            .find_map(|field| holder.at(&[field]))?;
        Some(scalar(Some(value), "<unknown>"))
    };
    let now =
        amount(current.and_then(|c| c.at(&[source, "current"]))).unwrap_or_else(|| "<unknown>".to_owned());
    let wanted = amount(metric.at(&[source, "target"])).unwrap_or_else(|| "<auto>".to_owned());
    match metric.text(&[source, "name"]) {
        "" => format!("{now}/{wanted}"),
        name => format!("{name}: {now}/{wanted}"),
    }
}
