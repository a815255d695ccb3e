//! The last step before a component runs: a process that enters the component's namespace and cgroup, and then
//! becomes the component. Being a process of its own, it has no threads that could stay behind.

use crate::host::{Error, cgroup, io, netns};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Replaces this process by `command`. Returns only if that fails.
pub fn launch(network: Option<&Path>, group: Option<&str>, command: &[String]) -> Error {
    if let Some(network) = network
        && let Err(error) = netns::enter(network)
    {
        return error;
    }
    if let Some(group) = group
        && let Err(error) = cgroup::ensure(group).and_then(|()| cgroup::join(group))
    {
        return error;
    }
    // A session of its own: no terminal's signal reaches it.
    let _ = rustix::process::setsid();
    raise_open_files();
    let Some((program, arguments)) = command.split_first() else {
        return Error::Program {
            program: "launch",
            reason: "no command was given".into(),
        };
    };
    let mut command = Command::new(program);
    // glibc makes an arena for each thread otherwise, and each keeps memory.
    command.args(arguments).env("MALLOC_ARENA_MAX", "2");
    if fdstore::is_passed() {
        // Through execve(2) this process becomes the one that they are for.
        command.env(fdstore::PID_VARIABLE, std::process::id().to_string());
    }
    io("execute", program)(command.exec())
}

/// As many open files as the machine allows without asking it for more: stores and containerd need them.
fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}
