//! What a supervisor is to run, and what it reports.

use super::Error;
use crate::host::process::ProcessId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Everything that one supervisor runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// A region, or `host`.
    pub name: String,
    /// Where it takes requests.
    pub control: PathBuf,
    /// Where it notes the processes.
    pub processes: PathBuf,
    /// Directory of the components' logs.
    pub log_dir: PathBuf,
    /// Its own log, for the output of hooks.
    pub own_log: PathBuf,
    /// Steps before the first start.
    pub prepare: Vec<Prepare>,
    /// What it runs.
    pub components: Vec<Component>,
}

/// A step before the first start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    /// Not done when this component still runs.
    pub unless_alive: String,
    /// The command.
    pub command: Vec<String>,
}

/// One process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// Its name, unique in the cluster; its log is called so.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Additional environment.
    pub env: BTreeMap<String, String>,
    /// Network namespace to start in.
    pub netns: Option<PathBuf>,
    /// Cgroup to start in.
    pub cgroup: String,
    /// Runs to its end once instead of for ever.
    pub once: bool,
    /// Components that must run (or, if they run once, have succeeded) before this one starts.
    pub after: Vec<String>,
    /// While this file exists the component is not started.
    pub unless_exists: Option<PathBuf>,
    /// Components are stopped in the order of their levels.
    pub stop_level: u8,
    /// Run before the component is stopped.
    pub before_stop: Vec<String>,
    /// How long it may take to end after SIGTERM, milliseconds.
    pub stop_grace_ms: u64,
    /// Whether everything in its cgroup ends with it (containerd's shims would stay).
    pub kill_cgroup: bool,
    /// Kept running when only its program was replaced: its restart would interrupt containers or I/O.
    pub sticky: bool,
    /// Descriptors that it hands over survive its restarts, by systemd's protocol; like systemd's
    /// `FileDescriptorStoreMax=`. They are closed when it is stopped.
    #[serde(default)]
    pub keeps_descriptors: bool,
    /// Stands for configuration files: another value restarts the component.
    pub digest: String,
}

impl Component {
    /// Whether the running component must be restarted to become `wanted`.
    pub(super) fn needs_restart(&self, wanted: &Component) -> bool {
        if !wanted.sticky {
            return self != wanted;
        }
        let without_program = |c: &Component| {
            let mut c = c.clone();
            c.command = c.command.iter().skip(1).cloned().collect();
            c.before_stop.clear();
            c
        };
        without_program(self) != without_program(wanted)
    }
}

impl Unit {
    /// Reads a specification.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|source| Error::File {
            action: "read",
            path: path.into(),
            source,
        })?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Spec {
            path: path.into(),
            source,
        })
    }

    /// Writes a specification. Returns whether it changed.
    pub fn store(&self, path: &Path) -> Result<bool, Error> {
        let bytes = serde_json::to_vec_pretty(self).map_err(|source| Error::Spec {
            path: path.into(),
            source,
        })?;
        crate::files::ensure(path, &bytes).map_err(|source| Error::File {
            action: "write",
            path: path.into(),
            source,
        })
    }
}

/// What became of a component.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The running process.
    pub process: Option<ProcessId>,
    /// The command that it was started with.
    pub command: Vec<String>,
    /// What `digest` was when it was started.
    pub digest: String,
    /// It runs to its end once instead of for ever.
    #[serde(default)]
    pub once: bool,
    /// A component that runs once has succeeded.
    pub done: bool,
    /// How often it was started anew since the supervisor started.
    pub restarts: u32,
    /// How it last ended.
    pub last_exit: Option<String>,
}

impl State {
    /// Whether what waits for this component may start.
    pub(super) fn is_met(&self) -> bool {
        self.done || (self.process.is_some() && !self.once)
    }
}

/// The states of all components, as kept in a file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// By name.
    pub components: BTreeMap<String, State>,
}

impl Status {
    /// Reads the file; `None` if it is missing or was cut off.
    pub fn load(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// What of it is still true: an ended process is nothing to wait for.
    pub(super) fn living(mut self) -> Self {
        for state in self.components.values_mut() {
            state.process.take_if(|p| !p.is_alive());
            state.done = false;
            state.restarts = 0;
        }
        self
    }

    /// Writes the file.
    pub(super) fn store(&self, path: &Path) -> std::io::Result<()> {
        crate::files::ensure(path, &serde_json::to_vec(self)?).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sticky_component_survives_a_new_program() {
        let component = |program: &str, sticky| Component {
            command: vec![program.into(), "run".into()],
            sticky,
            ..Component::default()
        };
        assert!(component("a", false).needs_restart(&component("b", false)));
        assert!(!component("a", true).needs_restart(&component("b", true)));
        let mut other = component("b", true);
        other.digest = "x".into();
        assert!(component("a", true).needs_restart(&other));
    }
}
