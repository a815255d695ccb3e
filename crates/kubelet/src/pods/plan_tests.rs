//! Tests of what a pod needs next.

use super::*;
use crate::runtime::Sandbox;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Default)]
struct Fake {
    verdicts: HashMap<String, Verdict>,
    unstarted: Vec<String>,
}

impl Findings for Fake {
    fn verdict(&self, id: &str) -> Verdict {
        self.verdicts.get(id).copied().unwrap_or(Verdict::Fine)
    }
    fn started(&self, id: &str) -> bool {
        !self.unstarted.iter().any(|u| u == id)
    }
}

fn pod(policy: &str, init: &[(&str, bool)], app: &[&str]) -> PodSpec {
    let init: Vec<_> = init
        .iter()
        .map(|(name, sidecar)| json!({"name": name, "restartPolicy": sidecar.then_some("Always")}))
        .collect();
    let app: Vec<_> = app.iter().map(|name| json!({"name": name})).collect();
    serde_json::from_value(json!({"restartPolicy": policy, "initContainers": init, "containers": app}))
        .expect("a spec")
}

fn sandbox(ready: bool) -> RuntimePod {
    RuntimePod {
        sandboxes: vec![Sandbox {
            id: "s".into(),
            ready,
            ips: vec!["10.0.0.2".into()],
            ..Sandbox::default()
        }],
        containers: Vec::new(),
    }
}

fn with(mut observed: RuntimePod, name: &str, state: State, exit_code: i32) -> RuntimePod {
    let container = Container {
        name: name.into(),
        ..Container::default()
    };
    observed.containers.insert(
        0,
        Arc::new(ContainerRecord {
            id: format!("id-{name}"),
            name: name.into(),
            sandbox_id: "s".into(),
            state,
            exit_code,
            hash: spec::hash(&container),
            ..ContainerRecord::default()
        }),
    );
    observed
}

#[test]
fn a_new_pod_gets_a_sandbox_then_its_containers() {
    let spec = pod("Always", &[], &["a", "b"]);
    let first = plan(&spec, &RuntimePod::default(), &Fake::default());
    assert_eq!(first.new_sandbox, Some(0));
    let second = plan(&spec, &sandbox(true), &Fake::default());
    assert_eq!(second.start, [(Kind::App, 0), (Kind::App, 1)]);
}

#[test]
fn init_containers_run_one_after_the_other() {
    let spec = pod("Always", &[("i", false), ("j", false)], &["a"]);
    let mut observed = sandbox(true);
    assert_eq!(plan(&spec, &observed, &Fake::default()).start, [(Kind::Init, 0)]);
    observed = with(observed, "i", State::Running, 0);
    assert_eq!(plan(&spec, &observed, &Fake::default()), Plan::default());
    let failed = with(sandbox(true), "i", State::Exited, 1);
    assert_eq!(plan(&spec, &failed, &Fake::default()).start, [(Kind::Init, 0)]);
    let never = pod("Never", &[("i", false)], &["a"]);
    assert!(plan(&never, &failed, &Fake::default()).finished);
    observed = with(sandbox(true), "i", State::Exited, 0);
    assert_eq!(plan(&spec, &observed, &Fake::default()).start, [(Kind::Init, 1)]);
    observed = with(observed, "j", State::Exited, 0);
    assert_eq!(plan(&spec, &observed, &Fake::default()).start, [(Kind::App, 0)]);
}

#[test]
fn sidecars_hold_back_until_started_and_come_back() {
    let spec = pod("Always", &[("side", true)], &["a"]);
    let observed = with(sandbox(true), "side", State::Running, 0);
    let waiting = Fake {
        unstarted: vec!["id-side".into()],
        ..Fake::default()
    };
    assert_eq!(plan(&spec, &observed, &waiting), Plan::default());
    assert_eq!(plan(&spec, &observed, &Fake::default()).start, [(Kind::App, 0)]);
    let crashed = with(
        with(sandbox(true), "side", State::Exited, 0),
        "a",
        State::Running,
        0,
    );
    let restarted = plan(&spec, &crashed, &Fake::default());
    assert_eq!(restarted.start, [(Kind::Init, 0)]);
    assert!(!restarted.finished);
}

#[test]
fn a_finished_job_ends_its_sidecar() {
    let spec = pod("OnFailure", &[("side", true)], &["a"]);
    let observed = with(
        with(sandbox(true), "side", State::Running, 0),
        "a",
        State::Exited,
        0,
    );
    assert!(plan(&spec, &observed, &Fake::default()).finished);
}

#[test]
fn restart_policies_after_exit() {
    for (policy, code, restarts) in [
        ("Always", 0, true),
        ("OnFailure", 0, false),
        ("OnFailure", 1, true),
        ("Never", 1, false),
    ] {
        let observed = with(sandbox(true), "a", State::Exited, code);
        let plan = plan(&pod(policy, &[], &["a"]), &observed, &Fake::default());
        assert_eq!(!plan.start.is_empty(), restarts, "{policy} {code}");
        assert_eq!(plan.finished, !restarts, "{policy} {code}");
    }
}

#[test]
fn probes_restart_only_what_may_restart() {
    let observed = with(sandbox(true), "a", State::Running, 0);
    let dead = Fake {
        verdicts: HashMap::from([("id-a".into(), Verdict::NotAlive)]),
        ..Fake::default()
    };
    let always = plan(&pod("Always", &[], &["a"]), &observed, &dead);
    assert_eq!((always.stop.len(), always.start.len()), (1, 1));
    assert_eq!(
        always.stop[0].message,
        "Container a failed liveness probe, will be restarted"
    );
    let never = plan(&pod("Never", &[], &["a"]), &observed, &dead);
    assert_eq!((never.stop.len(), never.start.len()), (1, 0));
}

#[test]
fn a_lost_sandbox_starts_everything_anew() {
    let lost = with(sandbox(false), "a", State::Exited, 137);
    let again = plan(&pod("Always", &[], &["a"]), &lost, &Fake::default());
    assert_eq!(again.new_sandbox, Some(1));
    let over = plan(&pod("Never", &[], &["a"]), &lost, &Fake::default());
    assert!(over.finished && over.new_sandbox.is_none());
    let done = with(sandbox(false), "a", State::Exited, 0);
    assert!(plan(&pod("OnFailure", &[], &["a"]), &done, &Fake::default()).finished);
}

#[test]
fn a_changed_image_replaces_the_container() {
    let mut spec = pod("Never", &[], &["a"]);
    spec.containers[0].image = Some("other".into());
    let observed = with(sandbox(true), "a", State::Running, 0);
    let plan = plan(&spec, &observed, &Fake::default());
    assert_eq!((plan.stop[0].why, plan.start.len()), (Why::Changed, 1));
}
