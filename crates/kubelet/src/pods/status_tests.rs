//! Tests of pod statuses.

use super::*;
use crate::pods::containers::{Health, Waiting};
use crate::pods::resize::Resources;
use crate::runtime::{ContainerRecord, RuntimePod, Sandbox, State};
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;

struct Setup {
    pod: Pod,
    observed: RuntimePod,
    waiting: HashMap<String, Waiting>,
    healthy: bool,
    resources: Resources,
}

fn setup(policy: &str, init: &[&str], app: &[&str]) -> Setup {
    let list = |names: &[&str]| {
        names
            .iter()
            .map(|n| json!({"name": n, "image": "i"}))
            .collect::<Vec<_>>()
    };
    let pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 3},
        "spec": {"restartPolicy": policy, "initContainers": list(init), "containers": list(app)},
    }))
    .expect("a pod");
    let sandbox = Sandbox {
        id: "s".into(),
        ready: true,
        ips: vec!["10.0.0.2".into()],
        ..Sandbox::default()
    };
    Setup {
        pod,
        observed: RuntimePod {
            sandboxes: vec![sandbox],
            containers: Vec::new(),
        },
        waiting: HashMap::new(),
        healthy: true,
        resources: Resources::default(),
    }
}

impl Setup {
    fn add(&mut self, name: &str, state: State, exit_code: i32, restart_count: u32) -> &mut Self {
        self.observed.containers.insert(
            0,
            Arc::new(ContainerRecord {
                id: format!("{name}-{restart_count}"),
                name: name.into(),
                sandbox_id: "s".into(),
                state,
                exit_code,
                restart_count,
                started_at: 1_700_000_000_000_000_000,
                finished_at: if state == State::Exited {
                    1_700_000_001_000_000_000
                } else {
                    0
                },
                ..ContainerRecord::default()
            }),
        );
        self
    }

    fn status(&self, terminal: bool) -> PodStatus {
        let healthy = self.healthy;
        let health = move |_: &str| Health {
            started: healthy,
            ready: healthy,
        };
        status(&Input {
            pod: &self.pod,
            view: View {
                pod: &self.pod,
                observed: &self.observed,
                waiting: &self.waiting,
                messages: &HashMap::new(),
                health: &health,
                stopping: terminal,
                resources: &self.resources,
                runtime_name: "containerd",
            },
            host_ips: vec!["10.1.0.1".into()],
            verdict: None,
            terminal,
            now: Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH),
        })
    }
}

fn is(status: &PodStatus, condition: &str) -> String {
    let all = status.conditions.as_ref().expect("conditions");
    let found = all.iter().find(|c| c.type_ == condition).expect("the condition");
    let reason = found.reason.as_ref().map_or(String::new(), |r| format!(" {r}"));
    format!("{}{reason}", found.status)
}

#[test]
fn a_pod_from_pending_to_ready() {
    let mut setup = setup("Always", &["i"], &["a"]);
    let pending = setup.status(false);
    assert_eq!(pending.phase.as_deref(), Some("Pending"));
    assert_eq!(is(&pending, "Initialized"), "False ContainersNotInitialized");
    let waiting = pending.container_statuses.as_ref().expect("statuses")[0]
        .state
        .clone();
    let waiting = waiting.and_then(|s| s.waiting).and_then(|w| w.reason);
    assert_eq!(waiting.as_deref(), Some("PodInitializing"));
    setup.add("i", State::Exited, 0, 0).add("a", State::Running, 0, 0);
    let running = setup.status(false);
    assert_eq!(running.phase.as_deref(), Some("Running"));
    assert_eq!(running.pod_ip.as_deref(), Some("10.0.0.2"));
    for condition in [
        "PodReadyToStartContainers",
        "Initialized",
        "ContainersReady",
        "Ready",
        "PodScheduled",
    ] {
        assert_eq!(is(&running, condition), "True", "{condition}");
    }
    setup.healthy = false;
    assert_eq!(is(&setup.status(false), "Ready"), "False ContainersNotReady");
}

#[test]
fn a_crash_loop_shows_reason_and_last_state() {
    let mut setup = setup("Always", &[], &["a"]);
    setup.add("a", State::Exited, 3, 1);
    let wait = Waiting {
        reason: "CrashLoopBackOff".into(),
        message: "back-off".into(),
    };
    setup.waiting.insert("a".into(), wait);
    let status = setup.status(false);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let container = &status.container_statuses.as_ref().expect("statuses")[0];
    let waiting = container.state.as_ref().and_then(|s| s.waiting.as_ref());
    assert_eq!(
        waiting.and_then(|w| w.reason.as_deref()),
        Some("CrashLoopBackOff")
    );
    let last = container.last_state.as_ref().and_then(|s| s.terminated.as_ref());
    assert_eq!(
        last.map(|t| (t.exit_code, t.reason.as_deref())),
        Some((3, Some("Error")))
    );
    assert_eq!(container.restart_count, 1);
}

#[test]
fn phases_of_pods_that_end() {
    for (policy, codes, phase) in [
        ("Never", [0, 0], "Succeeded"),
        ("Never", [0, 1], "Failed"),
        ("OnFailure", [0, 0], "Succeeded"),
        ("OnFailure", [0, 1], "Running"),
        ("Always", [0, 0], "Running"),
    ] {
        let mut setup = setup(policy, &[], &["a", "b"]);
        setup
            .add("a", State::Exited, codes[0], 0)
            .add("b", State::Exited, codes[1], 0);
        assert_eq!(
            setup.status(false).phase.as_deref(),
            Some(phase),
            "{policy} {codes:?}"
        );
    }
    let mut killed = setup("Always", &[], &["a"]);
    killed.add("a", State::Exited, 137, 0);
    assert_eq!(killed.status(true).phase.as_deref(), Some("Failed"));
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    for (policy, phase) in [
        ("Never", "Failed"),
        ("Always", "Pending"),
        ("OnFailure", "Pending"),
    ] {
        let mut setup = setup(policy, &["i"], &["a"]);
        setup.add("i", State::Exited, 1, 0);
        assert_eq!(setup.status(false).phase.as_deref(), Some(phase), "{policy}");
    }
}

#[test]
fn what_others_reported_is_kept() {
    let mut setup = setup("Always", &[], &["a"]);
    setup.add("a", State::Running, 0, 0);
    let spec = setup.pod.spec.as_mut().expect("a spec");
    spec.readiness_gates = serde_json::from_value(json!([{"conditionType": "x/y"}])).expect("gates");
    assert_eq!(is(&setup.status(false), "Ready"), "False ReadinessGatesNotReady");
    let given = json!({"conditions": [{"type": "x/y", "status": "True"}]});
    setup.pod.status = serde_json::from_value(given).expect("a status");
    let status = setup.status(false);
    assert_eq!(
        (is(&status, "Ready"), is(&status, "x/y")),
        ("True".into(), "True".into())
    );
}

#[test]
fn a_container_lost_with_its_node_counts_as_killed() {
    let mut setup = setup("Always", &[], &["a"]);
    let old = json!({"containerStatuses": [{"name": "a", "image": "i", "imageID": "x", "ready": true,
        "restartCount": 2, "containerID": "containerd://gone", "state": {"running": {}}}]});
    setup.pod.status = serde_json::from_value(old).expect("a status");
    let status = setup.status(true);
    let state = status.container_statuses.as_ref().expect("statuses")[0]
        .state
        .clone();
    assert_eq!(state.and_then(|s| s.terminated).map(|t| t.exit_code), Some(137));
    assert_eq!(status.phase.as_deref(), Some("Failed"));
}

#[test]
fn a_resize_shows_in_conditions_until_it_is_done() {
    let mut setup = setup("Always", &[], &["a"]);
    setup.add("a", State::Running, 0, 0);
    setup.resources.progress = Progress::Pending {
        reason: "Deferred",
        message: "no room".into(),
    };
    let pending = setup.status(false);
    assert_eq!(is(&pending, "PodResizePending"), "True Deferred");
    setup.pod.status = Some(pending);
    setup.resources.progress = Progress::Applying { error: None };
    let applied = setup.status(false);
    assert_eq!(is(&applied, "PodResizeInProgress"), "True");
    setup.pod.status = Some(applied);
    setup.resources.progress = Progress::Done;
    let done = setup.status(false).conditions.expect("conditions");
    assert!(done.iter().all(|c| !c.type_.starts_with("PodResize")), "{done:?}");
}

#[test]
fn an_init_container_is_ready_when_it_is_done() {
    let mut setup = setup("Always", &["i"], &["a"]);
    setup.add("i", State::Running, 0, 0);
    let ready = |status: &PodStatus| status.init_container_statuses.as_ref().expect("statuses")[0].ready;
    let running = setup.status(false);
    assert!(!ready(&running));
    assert_eq!(is(&running, "Initialized"), "False ContainersNotInitialized");
    setup.add("i", State::Exited, 0, 0);
    assert!(ready(&setup.status(false)));
}
