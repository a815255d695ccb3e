//! The supervisor as a process, with real children: restarts, adoption after its own death, order, reloading.
#![allow(clippy::unwrap_used)]

use platform::supervisor::{Component, Request, State, Unit, call};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    dir: tempfile::TempDir,
    supervisor: Option<Child>,
}

impl Bench {
    fn new(components: Vec<Component>) -> Self {
        let bench = Self {
            dir: tempfile::tempdir().unwrap(),
            supervisor: None,
        };
        bench.write(components);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, components: Vec<Component>) {
        let unit = Unit {
            name: "test".into(),
            control: self.path("control.sock"),
            processes: self.path("processes.json"),
            log_dir: self.path("log"),
            own_log: self.path("log/supervisor.log"),
            prepare: Vec::new(),
            components,
        };
        unit.store(&self.path("spec.json")).unwrap();
    }

    fn start(&mut self) {
        let child = Command::new(env!("CARGO_BIN_EXE_hikube"))
            .args(["supervisor", "--spec"])
            .arg(self.path("spec.json"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.supervisor = Some(child);
    }

    fn kill(&mut self) {
        let mut child = self.supervisor.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn ask(&self, request: &Request) -> BTreeMap<String, State> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match call(&self.path("control.sock"), request, PATIENCE) {
                Ok(answer) => return answer.components,
                Err(error) if Instant::now() > deadline => panic!("no answer: {error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Waits until the states are as wanted.
    fn until(
        &self,
        what: &str,
        wanted: impl Fn(&BTreeMap<String, State>) -> bool,
    ) -> BTreeMap<String, State> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let states = self.ask(&Request::Status);
            if wanted(&states) {
                return states;
            }
            assert!(Instant::now() < deadline, "not {what}: {states:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = call(&self.path("control.sock"), &Request::Exit, PATIENCE);
        if let Some(mut child) = self.supervisor.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn shell(name: &str, script: &str) -> Component {
    Component {
        name: name.into(),
        command: vec!["/bin/sh".into(), "-c".into(), script.into()],
        stop_grace_ms: 2000,
        ..Component::default()
    }
}

fn pid(states: &BTreeMap<String, State>, name: &str) -> Option<i32> {
    Some(states.get(name)?.process.as_ref()?.pid)
}

#[test]
fn what_ends_is_started_again_and_survives_its_supervisor() {
    let mut bench = Bench::new(vec![shell("sleeper", "exec sleep 1000")]);
    bench.start();
    let first = bench.until("running", |s| pid(s, "sleeper").is_some());
    let first = pid(&first, "sleeper").unwrap();
    assert!(
        Command::new("kill")
            .args(["-9", &first.to_string()])
            .status()
            .unwrap()
            .success()
    );
    let second = bench.until("restarted", |s| pid(s, "sleeper").is_some_and(|p| p != first));
    let second = pid(&second, "sleeper").unwrap();
    bench.kill();
    assert!(
        Path::new(&format!("/proc/{second}")).exists(),
        "it ended with its supervisor"
    );
    bench.start();
    let third = bench.until("adopted", |s| pid(s, "sleeper").is_some());
    assert_eq!(pid(&third, "sleeper"), Some(second));
    // An adopted process is watched like any other.
    assert!(
        Command::new("kill")
            .args(["-9", &second.to_string()])
            .status()
            .unwrap()
            .success()
    );
    bench.until("restarted", |s| pid(s, "sleeper").is_some_and(|p| p != second));
}

#[test]
fn what_needs_another_waits_until_that_has_succeeded() {
    let mut bench = Bench::new(Vec::new());
    let flag = bench.path("flag");
    let once = Component {
        once: true,
        ..shell("once", &format!("test -e {}", flag.display()))
    };
    let later = Component {
        after: vec!["once".into()],
        ..shell("later", "exec sleep 1000")
    };
    bench.write(vec![later, once]);
    bench.start();
    bench.until("tried again", |s| s.get("once").is_some_and(|s| s.restarts >= 2));
    assert_eq!(pid(&bench.ask(&Request::Status), "later"), None);
    std::fs::write(&flag, "").unwrap();
    let states = bench.until("running", |s| pid(s, "later").is_some());
    assert!(states["once"].done);
}

#[test]
fn levels_stop_in_order_and_reloading_starts_again() {
    let bench_dir = Bench::new(Vec::new());
    let trace = bench_dir.path("trace");
    let traced = |name: &str, level: u8| Component {
        stop_level: level,
        ..shell(
            name,
            &format!(
                "trap 'echo {name} >> {}; exit 0' TERM; while :; do sleep 0.05; done",
                trace.display()
            ),
        )
    };
    let mut bench = bench_dir;
    bench.write(vec![traced("last", 2), traced("first", 0), traced("middle", 1)]);
    bench.start();
    let all = |s: &BTreeMap<String, State>| ["first", "middle", "last"].iter().all(|n| pid(s, n).is_some());
    bench.until("running", all);
    // The shells must have set their traps.
    std::thread::sleep(Duration::from_millis(300));
    let states = bench.ask(&Request::Stop { through: 1 });
    assert_eq!((pid(&states, "first"), pid(&states, "middle")), (None, None));
    assert!(pid(&states, "last").is_some());
    assert_eq!(std::fs::read_to_string(&trace).unwrap(), "first\nmiddle\n");
    bench.ask(&Request::Reload);
    bench.until("running again", all);
}

#[test]
fn a_changed_component_is_restarted_and_a_removed_one_is_stopped() {
    let mut bench = Bench::new(vec![
        shell("same", "exec sleep 1000"),
        shell("changed", "exec sleep 1001"),
        shell("removed", "exec sleep 1002"),
    ]);
    bench.start();
    let all = |s: &BTreeMap<String, State>| s.len() == 3 && s.values().all(|s| s.process.is_some());
    let before = bench.until("running", all);
    bench.write(vec![
        shell("same", "exec sleep 1000"),
        shell("changed", "exec sleep 1003"),
    ]);
    bench.ask(&Request::Reload);
    let after = bench.until("reloaded", |s| {
        s.len() == 2 && s.values().all(|s| s.process.is_some())
    });
    assert_eq!(pid(&after, "same"), pid(&before, "same"));
    assert_ne!(pid(&after, "changed"), pid(&before, "changed"));
    let removed = pid(&before, "removed").unwrap();
    assert!(!Path::new(&format!("/proc/{removed}")).exists());
}

#[test]
fn a_gate_keeps_a_component_down() {
    let mut bench = Bench::new(Vec::new());
    let gate = bench.path("gate");
    std::fs::write(&gate, "").unwrap();
    bench.write(vec![Component {
        unless_exists: Some(gate.clone()),
        ..shell("gated", "exec sleep 1000")
    }]);
    bench.start();
    bench.ask(&Request::Reload);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(pid(&bench.ask(&Request::Status), "gated"), None);
    std::fs::remove_file(&gate).unwrap();
    bench.ask(&Request::Reload);
    bench.until("running", |s| pid(s, "gated").is_some());
}
