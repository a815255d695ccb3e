//! Starting a component, adopting one that runs, and waiting for its end.

use super::descriptors::Kept;
use super::spec::Component;
use crate::host::process::{Handle, ProcessId};
use rustix::process::Signal;
use std::io::Result;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// A running component.
pub(super) struct Running {
    /// Which process it is.
    pub id: ProcessId,
    ended: AsyncFd<OwnedFd>,
    /// Ours to reap, unless it was adopted.
    child: Option<Child>,
}

impl Running {
    /// Takes over a process that an earlier supervisor started.
    pub fn adopt(id: &ProcessId) -> Option<Self> {
        let handle = id.open()?;
        Some(Self {
            id: id.clone(),
            ended: watch(handle)?,
            child: None,
        })
    }

    /// Starts the component through `hikube launch`, which enters namespace and cgroup before it becomes the
    /// component.
    pub fn spawn(component: &Component, log: &Path, kept: &Kept) -> Result<Self> {
        let mut command = launcher();
        if let Some(netns) = &component.netns {
            command.arg("--netns").arg(netns);
        }
        if !component.cgroup.is_empty() {
            command.arg("--cgroup").arg(&component.cgroup);
        }
        command.arg("--").args(&component.command).envs(&component.env);
        let mut command = detached(command, log)?;
        if component.keeps_descriptors {
            kept.give(&component.name, &mut command)?;
        }
        let child = command.spawn()?;
        let id = i32::try_from(child.id()).ok().and_then(ProcessId::of);
        let missing = || std::io::Error::other("the process ended at once");
        let id = id.ok_or_else(missing)?;
        let handle = id.open().ok_or_else(missing)?;
        Ok(Self {
            id,
            ended: watch(handle).ok_or_else(missing)?,
            child: Some(child),
        })
    }

    /// Waits for the end and says how it came about.
    pub async fn wait(&mut self) -> Exit {
        // An error of the poll itself would mean that the descriptor is gone, and the process with it.
        let _ = self.ended.readable().await;
        match self.child.as_mut().map(Child::wait) {
            Some(Ok(status)) => Exit {
                success: status.success(),
                text: status.to_string(),
            },
            _ => Exit {
                success: false,
                text: "ended".into(),
            },
        }
    }

    /// SIGTERM, then SIGKILL after the grace period.
    pub async fn stop(&mut self, grace: Duration) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(grace, self.wait()).await.is_err() {
            tracing::info!(pid = self.id.pid, ?grace, "did not end in time, killing it");
            self.signal(Signal::KILL);
            self.wait().await;
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(handle) = self.id.open() {
            handle.signal(signal);
        }
    }
}

/// How a process ended.
pub(super) struct Exit {
    /// With status 0.
    pub success: bool,
    /// For people.
    pub text: String,
}

fn watch(handle: Handle) -> Option<AsyncFd<OwnedFd>> {
    // SAFETY: the `AsyncFd` owns the descriptor, which nobody else knows, so it stays open and the same.
    unsafe { AsyncFd::register_with_interest(handle.into_fd(), tokio::io::Interest::READABLE) }.ok()
}

pub(crate) fn launcher() -> Command {
    // Not `current_exe`: the file may have been replaced since this process started.
    let mut command = Command::new("/proc/self/exe");
    command.arg("launch");
    command
}

/// A command with its output in a log file.
pub(crate) fn detached(mut command: Command, log: &Path) -> Result<Command> {
    if let Some(dir) = log.parent() {
        crate::files::private_dir(dir)?;
    }
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(log)?;
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .current_dir("/");
    Ok(command)
}

/// Runs a hook to its end, at most for `patience`. A failure is logged and does not stop what follows: a hook
/// cleans up, and what it could not clean must not keep the rest from being stopped or started.
pub(super) async fn run_to_end(command: &[String], log: &Path, patience: Duration) {
    let Some((program, arguments)) = command.split_first() else {
        return;
    };
    let mut hook = Command::new(program);
    hook.args(arguments);
    let child = detached(hook, log).and_then(|mut c| c.spawn());
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            tracing::error!(?command, %error, "cannot start a hook");
            return;
        }
    };
    let id = i32::try_from(child.id()).ok().and_then(ProcessId::of);
    let mut running = id.as_ref().and_then(Running::adopt);
    if let Some(running) = &mut running
        && tokio::time::timeout(patience, running.wait()).await.is_err()
    {
        tracing::error!(?command, ?patience, "a hook does not end, killing it");
        let _ = child.kill();
    }
    match child.wait() {
        Ok(status) if status.success() => {}
        Ok(status) => tracing::error!(?command, %status, "a hook failed"),
        Err(error) => tracing::error!(?command, %error, "a hook was lost"),
    }
}
