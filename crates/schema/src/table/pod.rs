//! Pods.

use serde_json::Value;

use super::{AGE, Column, NAME, age, is_true, name, or, text, wide};
use crate::duration;
use crate::value::ValueExt as _;

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    text("Ready", "Containers that are ready, of all that run side by side"),
    text("Status", "Phase of the pod, or what its containers say"),
    text(
        "Restarts",
        "Restarts of its containers, and how long ago the last was",
    ),
    AGE,
    wide("IP", "Address of the pod"),
    wide("Node", "Node that it runs on"),
    wide("Nominated Node", "Node that is being cleared for it"),
    wide(
        "Readiness Gates",
        "Conditions that readiness waits for, and how many are met",
    ),
];

pub(super) fn row(pod: &Value, now: i64) -> Vec<Value> {
    let summary = Summary::of(pod);
    let restarts = match summary.last_restart {
        Some(last) if summary.restarts != 0 => {
            format!("{} ({} ago)", summary.restarts, duration::human(now - last))
        }
        _ => summary.restarts.to_string(),
    };
    let address = pod
        .items(&["status", "podIPs"])
        .first()
        .map_or("", |ip| ip.text(&["ip"]));
    let address = if address.is_empty() {
        pod.text(&["status", "podIP"])
    } else {
        address
    };
    vec![
        name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        age(pod, now),
        or(address, "<none>"),
        or(pod.text(&["spec", "nodeName"]), "<none>"),
        or(pod.text(&["status", "nominatedNodeName"]), "<none>"),
        gates(pod).into(),
    ]
}

fn gates(pod: &Value) -> String {
    let gates = pod.items(&["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let met = gates
        .iter()
        .filter(|gate| is_true(pod, gate.text(&["conditionType"])))
        .count();
    format!("{met}/{}", gates.len())
}

/// What the containers of a pod add up to.
struct Summary {
    total: usize,
    ready: usize,
    restarts: i64,
    /// Seconds since 1970.
    last_restart: Option<i64>,
    reason: String,
}

impl Summary {
    fn of(pod: &Value) -> Summary {
        let sidecars = pod
            .items(&["spec", "initContainers"])
            .iter()
            .filter(|c| c.text(&["restartPolicy"]) == "Always");
        let phase = pod.text(&["status", "phase"]);
        let reason = pod.text(&["status", "reason"]);
        let mut summary = Summary {
            total: pod.items(&["spec", "containers"]).len() + sidecars.count(),
            ready: 0,
            restarts: 0,
            last_restart: None,
            reason: if reason.is_empty() { phase } else { reason }.to_owned(),
        };
        let gated =
            |c: &&Value| c.text(&["type"]) == "PodScheduled" && c.text(&["reason"]) == "SchedulingGated";
        if pod.items(&["status", "conditions"]).iter().any(|c| gated(&c)) {
            summary.reason = "SchedulingGated".to_owned();
        }
        let initializing = summary.add_init_containers(pod);
        if !initializing || is_true(pod, "Initialized") {
            summary.add_containers(pod);
        }
        if pod.at(&["metadata", "deletionTimestamp"]).is_some() {
            if pod.text(&["status", "reason"]) == "NodeLost" {
                summary.reason = "Unknown".to_owned();
            } else if !matches!(phase, "Succeeded" | "Failed") {
                summary.reason = "Terminating".to_owned();
            }
        }
        summary
    }

    /// Counts the init containers up to the first that is not done; whether there is such a one.
    fn add_init_containers(&mut self, pod: &Value) -> bool {
        let specs = pod.items(&["spec", "initContainers"]);
        let is_sidecar = |status: &Value| {
            let name = status.text(&["name"]);
            specs
                .iter()
                .any(|c| c.text(&["name"]) == name && c.text(&["restartPolicy"]) == "Always")
        };
        // Once the pod is initialized only the restarts of sidecars go on counting.
        let (mut sidecar_restarts, mut sidecar_last) = (0, None);
        let mut initializing = false;
        for (index, status) in pod.items(&["status", "initContainerStatuses"]).iter().enumerate() {
            self.add_restarts(status);
            if is_sidecar(status) {
                sidecar_restarts += status.int(&["restartCount"]).unwrap_or_default();
                sidecar_last = sidecar_last.max(last_finished(status));
            }
            let terminated = status.at(&["state", "terminated"]);
            if terminated.is_some_and(|t| t.int(&["exitCode"]).unwrap_or_default() == 0) {
                continue;
            }
            if is_sidecar(status) && status.flag(&["started"]) {
                self.ready += usize::from(status.flag(&["ready"]));
                continue;
            }
            let waiting = status.text(&["state", "waiting", "reason"]);
            self.reason = if let Some(terminated) = terminated {
                format!("Init:{}", ended(terminated))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{index}/{}", specs.len())
            };
            initializing = true;
            break;
        }
        if !initializing || is_true(pod, "Initialized") {
            (self.restarts, self.last_restart) = (sidecar_restarts, sidecar_last);
        }
        initializing
    }

    fn add_containers(&mut self, pod: &Value) {
        let mut running = false;
        for status in pod.items(&["status", "containerStatuses"]).iter().rev() {
            self.add_restarts(status);
            let waiting = status.text(&["state", "waiting", "reason"]);
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if let Some(terminated) = status.at(&["state", "terminated"]) {
                self.reason = ended(terminated);
            } else if status.flag(&["ready"]) && status.at(&["state", "running"]).is_some() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            self.reason = if is_true(pod, "Ready") {
                "Running"
            } else {
                "NotReady"
            }
            .to_owned();
        }
    }

    fn add_restarts(&mut self, status: &Value) {
        self.restarts += status.int(&["restartCount"]).unwrap_or_default();
        self.last_restart = self.last_restart.max(last_finished(status));
    }
}

fn last_finished(status: &Value) -> Option<i64> {
    duration::parse_time(status.text(&["lastState", "terminated", "finishedAt"])).map(|t| t.seconds)
}

/// Why a container ended.
fn ended(terminated: &Value) -> String {
    let reason = terminated.text(&["reason"]);
    if !reason.is_empty() {
        return reason.to_owned();
    }
    match terminated.int(&["signal"]).unwrap_or_default() {
        0 => format!("ExitCode:{}", terminated.int(&["exitCode"]).unwrap_or_default()),
        signal => format!("Signal:{signal}"),
    }
}
