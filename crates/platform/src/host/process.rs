//! Processes that outlive the one that started them. A process is known by its id, its start time and the boot,
//! so that a reused id is never mistaken for it.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;

/// Which process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot.
    pub started: u64,
    /// The boot in which it was started.
    pub boot: String,
}

impl ProcessId {
    /// The identity of a running process.
    pub fn of(pid: i32) -> Option<Self> {
        Some(Self {
            pid,
            started: start_time(pid)?,
            boot: boot_id(),
        })
    }

    /// A handle to the process, if it still runs.
    pub fn open(&self) -> Option<Handle> {
        if self.boot != boot_id() {
            return None;
        }
        let fd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::NONBLOCK).ok()?;
        // Checked after opening: from here on the handle cannot change its meaning.
        (start_time(self.pid)? == self.started).then_some(Handle { fd })
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        self.open().is_some()
    }
}

/// A running process.
#[derive(Debug)]
pub struct Handle {
    fd: OwnedFd,
}

impl Handle {
    /// Sends a signal; a process that has ended is no error.
    pub fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.fd, signal);
    }

    /// The descriptor, readable once the process has ended.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

/// Field 22 of `/proc/<pid>/stat`. A zombie counts as ended.
fn start_time(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command in parentheses may contain anything; the fields after it are counted from its end.
    let mut fields = text[text.rfind(')')? + 1..].split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_until_it_ends() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("started");
        let id = ProcessId::of(child.id() as i32).expect("it runs");
        assert!(id.is_alive());
        let other = ProcessId {
            started: id.started + 1,
            ..id.clone()
        };
        assert!(!other.is_alive(), "another process with the same id");
        id.open().expect("it runs").signal(Signal::KILL);
        child.wait().expect("it ended");
        assert!(!id.is_alive());
    }
}
