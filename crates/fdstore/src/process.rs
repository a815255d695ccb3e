//! How descriptors come from a service manager into a new process.

use command_fds::{CommandFdExt, FdMapping};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// First descriptor that is passed (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;
/// For which process they are. A program that becomes another by exec(2) sets it last.
pub const PID_VARIABLE: &str = "LISTEN_PID";
const COUNT_VARIABLE: &str = "LISTEN_FDS";
const NAMES_VARIABLE: &str = "LISTEN_FDNAMES";

/// Has `command` started with these descriptors. [`PID_VARIABLE`] is for the started process to set, since its number is
/// not known before.
pub fn pass(command: &mut Command, descriptors: Vec<(String, OwnedFd)>) -> Result<()> {
    if descriptors.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = descriptors.iter().map(|(name, _)| name.as_str()).collect();
    command.env(NAMES_VARIABLE, names.join(":"));
    command.env(COUNT_VARIABLE, descriptors.len().to_string());
    let mappings = (FIRST..)
        .zip(descriptors)
        .map(|(child_fd, (_, parent_fd))| FdMapping { parent_fd, child_fd })
        .collect();
    command.fd_mappings(mappings).map_err(Error::other)?;
    Ok(())
}

/// Whether descriptors were passed to this process or to what it becomes.
pub fn is_passed() -> bool {
    std::env::var_os(COUNT_VARIABLE).is_some()
}

/// The descriptors that this process was started with, with their names. They are given out once: a second call returns
/// none. An environment that does not fit together is an error.
pub fn inherited() -> Result<Vec<(String, OwnedFd)>> {
    static GIVEN: AtomicBool = AtomicBool::new(false);
    let ours = std::env::var(PID_VARIABLE).is_ok_and(|pid| pid == std::process::id().to_string());
    if !ours || GIVEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let wrong = |what: &'static str| Error::new(ErrorKind::InvalidInput, what);
    let Ok(count) = std::env::var(COUNT_VARIABLE) else {
        return Ok(Vec::new());
    };
    let count: usize = count.parse().map_err(|_| wrong("LISTEN_FDS is not a number"))?;
    let names = std::env::var(NAMES_VARIABLE).map_err(|_| wrong("LISTEN_FDNAMES is missing"))?;
    let names: Vec<&str> = names.split(':').collect();
    if names.len() != count {
        return Err(wrong("LISTEN_FDNAMES has another length than LISTEN_FDS"));
    }
    let mut found = Vec::with_capacity(count);
    for (number, name) in (FIRST..).zip(names) {
        // SAFETY: the service manager passed the descriptor to this process, as the process number says; nobody else
        // knows of it, and `GIVEN` makes sure that it gets one owner.
        let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
        // Programs that this process starts have no use for it. Fails if there is no such descriptor.
        if let Err(error) = rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC) {
            tracing::info!(name, fd = descriptor.as_raw_fd(), %error, "a passed descriptor is missing");
            std::mem::forget(descriptor);
            continue;
        }
        found.push((name.to_owned(), descriptor));
    }
    Ok(found)
}
