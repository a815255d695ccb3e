//! Tests of in-place resize.

use super::*;
use serde_json::{Value, json};

const NODE: Allocatable = Allocatable {
    cpu_millis: 1000,
    memory_bytes: 1 << 30,
    storage_bytes: 0,
};

fn pod(resources: &Value, policy: &Value, status: &Value) -> Arc<Pod> {
    let pod = json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"containers": [{"name": "a", "resources": resources, "resizePolicy": policy}]},
        "status": {"containerStatuses": status},
    });
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn limits(cpu: &str, memory: &str) -> Value {
    json!({"limits": {"cpu": cpu, "memory": memory}})
}

fn running(id: &str) -> RuntimePod {
    RuntimePod {
        containers: vec![Arc::new(ContainerRecord {
            id: id.into(),
            name: "a".into(),
            state: State::Running,
            ..ContainerRecord::default()
        })],
        ..RuntimePod::default()
    }
}

fn usage(cpu: i64) -> Use {
    Use {
        cpu_request: cpu,
        ..Use::default()
    }
}

#[test]
fn a_node_promises_what_it_has_and_wakes_those_that_wait() {
    let promised = Promised::default();
    let wake = Arc::new(Notify::new());
    promised.keep("other", usage(700));
    promised.keep("u", usage(100));
    assert_eq!(
        promised.ask("u", usage(300), NODE, &wake),
        Progress::Applying { error: None }
    );
    let deferred = promised.ask("u", usage(400), NODE, &wake);
    assert!(
        matches!(
            deferred,
            Progress::Pending {
                reason: "Deferred",
                ..
            }
        ),
        "{deferred:?}"
    );
    let never = promised.ask("u", usage(1001), NODE, &wake);
    assert!(
        matches!(
            never,
            Progress::Pending {
                reason: "Infeasible",
                ..
            }
        ),
        "{never:?}"
    );
    let _ = promised.ask("u", usage(400), NODE, &wake);
    let woken = |wake: &Notify| {
        use futures::FutureExt;
        wake.notified().now_or_never().is_some()
    };
    assert!(!woken(&wake));
    promised.release("other");
    assert!(woken(&wake));
    assert_eq!(
        promised.ask("u", usage(400), NODE, &wake),
        Progress::Applying { error: None }
    );
}

#[test]
fn a_new_pod_is_taken_in_if_there_is_room_for_it() {
    let promised = Promised::default();
    let port = |number| vec![("TCP".to_owned(), "0.0.0.0".to_owned(), number)];
    let take = |uid: &str, cpu, number| {
        let taken = promised.take_in(uid, usage(cpu), port(number), NODE, 2);
        taken.map_err(|(resource, _)| resource.unwrap_or("port"))
    };
    assert_eq!(take("a", 600, 1), Ok(()));
    assert_eq!(take("a", 600, 1), Ok(()), "it does not stand in its own way");
    assert_eq!(take("b", 500, 2), Err("cpu"));
    assert_eq!(take("b", 400, 1), Err("port"));
    assert_eq!(take("b", 400, 2), Ok(()));
    assert_eq!(take("c", 0, 3), Err("pods"));
    promised.release("a");
    assert_eq!(take("c", 600, 1), Ok(()));
}

#[test]
fn a_running_container_is_given_what_changed_and_started_anew_if_it_wants_so() {
    let mut resources = Resources::default();
    let change = |resources: &mut Resources, pod: &Pod| {
        let spec = spec::spec(pod);
        let changes = resources.outdated(pod, &spec, &running("1"));
        changes.iter().map(|c| c.restart).collect::<Vec<_>>()
    };
    let small = pod(&limits("100m", "64Mi"), &json!([]), &json!([]));
    assert!(change(&mut resources, &small).is_empty(), "started with it");
    let same = pod(&limits("0.1", "65536Ki"), &json!([]), &json!([]));
    assert!(change(&mut resources, &same).is_empty(), "written in another way");
    let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let faster = pod(&limits("200m", "64Mi"), &policy, &json!([]));
    assert_eq!(change(&mut resources, &faster), [false]);
    let larger = pod(&limits("100m", "128Mi"), &policy, &json!([]));
    assert_eq!(change(&mut resources, &larger), [true]);
}

#[test]
fn what_the_api_was_told_outlives_the_kubelet() {
    let before = limits("100m", "64Mi");
    let status = json!([{"name": "a", "containerID": "containerd://1", "resources": before,
        "image": "", "imageID": "", "ready": true, "restartCount": 0}]);
    let pod = pod(&limits("200m", "64Mi"), &json!([]), &status);
    let spec = spec::spec(&pod);
    assert_eq!(Resources::default().outdated(&pod, &spec, &running("1")).len(), 1);
    assert!(
        Resources::default()
            .outdated(&pod, &spec, &running("2"))
            .is_empty(),
        "another container"
    );
    let told = told(&pod, Kind::App, "a", None).expect("told");
    let kept = with(&pod, &BTreeMap::from([("a".to_owned(), told)]));
    assert_eq!(resources::of_pod(&spec::spec(&kept)).cpu_limit, Some(100));
}

#[test]
fn the_pods_limits_hold_both_sizes_while_it_changes() {
    let limited = |cpu| Use {
        cpu_limit: Some(cpu),
        ..usage(cpu)
    };
    assert_eq!(wider(&limited(5), &limited(7)), limited(7));
    assert_eq!(wider(&usage(5), &limited(3)), usage(5), "no limit is the widest");
}

#[test]
fn a_status_shows_what_was_promised_and_what_is_so() {
    let given = |cpu: &str| -> ResourceRequirements {
        serde_json::from_value(json!({"requests": {"cpu": cpu}})).expect("resources")
    };
    let resources = Resources {
        promised: BTreeMap::from([("a".to_owned(), given("2"))]),
        applied: HashMap::from([("1".to_owned(), given("1"))]),
        ..Resources::default()
    };
    let mut status = ContainerStatus {
        name: "a".into(),
        ..ContainerStatus::default()
    };
    resources.show(&mut status, Some("1"));
    assert_eq!(status.allocated_resources, given("2").requests);
    assert_eq!(status.resources, Some(given("1")));
    resources.show(&mut status, None);
    assert_eq!(status.resources, Some(given("2")));
}
