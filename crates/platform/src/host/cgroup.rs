//! Cgroups, in whichever version the machine has. A group has one path, the same in every v1 hierarchy.

use super::{Error, io};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const ROOT: &str = "/sys/fs/cgroup";
/// The v1 hierarchies that matter to us; others are left alone.
const CONTROLLERS: &[&str] = &[
    "cpu", "cpuacct", "memory", "pids", "cpuset", "freezer", "devices", "blkio", "hugetlb",
];
/// Controllers of v2 that are switched on for groups.
const UNIFIED: &str = "+cpu +memory +pids +cpuset +io";
/// How long killed processes may take to leave; a process in uninterruptible sleep on a dead device needs it.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

/// Limits of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Thousandths of a CPU.
    pub cpu_millis: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

/// Whether the machine has only cgroup v2.
pub fn is_unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// The roots of all hierarchies.
fn roots() -> Vec<PathBuf> {
    let root = PathBuf::from(ROOT);
    if is_unified() {
        return vec![root];
    }
    let mut roots: Vec<PathBuf> = Vec::new();
    for controller in CONTROLLERS {
        let path = root.join(controller);
        // `cpu` and `cpuacct` may be two names of one hierarchy.
        let real = std::fs::canonicalize(&path).unwrap_or(path);
        if real.join("cgroup.procs").exists() && !roots.contains(&real) {
            roots.push(real);
        }
    }
    roots
}

fn directories(group: &str) -> impl Iterator<Item = PathBuf> {
    let relative = group.trim_start_matches('/').to_owned();
    roots().into_iter().map(move |root| root.join(&relative))
}

/// The group in every hierarchy that is mounted, those too in which only the container runtime makes groups.
fn everywhere(group: &str) -> Vec<PathBuf> {
    let relative = group.trim_start_matches('/');
    let mut roots = roots();
    if !is_unified() {
        for entry in std::fs::read_dir(ROOT).into_iter().flatten().flatten() {
            let real = std::fs::canonicalize(entry.path()).unwrap_or_else(|_| entry.path());
            if real.join("cgroup.procs").exists() && !roots.contains(&real) {
                roots.push(real);
            }
        }
    }
    roots.into_iter().map(|root| root.join(relative)).collect()
}

/// Makes the group and its parents in every hierarchy.
pub fn ensure(group: &str) -> Result<(), Error> {
    let parts: Vec<&str> = group.split('/').filter(|p| !p.is_empty()).collect();
    for root in roots() {
        let mut path = root.clone();
        for part in &parts {
            delegate(&path)?;
            let parent = path.clone();
            path.push(part);
            match std::fs::create_dir(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                result => {
                    result.map_err(io("create", path.display()))?;
                    inherit_cpuset(&parent, &path)?;
                }
            }
        }
    }
    Ok(())
}

/// Switches controllers on for the children of a v2 group. Each by itself: one that the kernel lacks must not
/// keep the others off.
fn delegate(parent: &Path) -> Result<(), Error> {
    if !is_unified() {
        return Ok(());
    }
    let control = parent.join("cgroup.subtree_control");
    for controller in UNIFIED.split(' ') {
        let _ = std::fs::write(&control, controller);
    }
    Ok(())
}

/// A new v1 cpuset is empty and takes no process until it has CPUs and memory nodes.
fn inherit_cpuset(parent: &Path, path: &Path) -> Result<(), Error> {
    for key in ["cpuset.cpus", "cpuset.mems"] {
        if is_unified() || !path.join(key).exists() {
            continue;
        }
        let value = std::fs::read_to_string(parent.join(key)).map_err(io("read", parent.display()))?;
        std::fs::write(path.join(key), value.trim()).map_err(io("write", path.join(key).display()))?;
    }
    Ok(())
}

/// Limits what all processes of the group may use together.
pub fn limit(group: &str, limits: Limits) -> Result<(), Error> {
    const PERIOD_MICROS: u64 = 100_000;
    let quota = limits.cpu_millis * PERIOD_MICROS / 1000;
    let memory = limits.memory_bytes;
    for path in directories(group) {
        let settings = [
            ("cpu.cfs_period_us", PERIOD_MICROS.to_string()),
            ("cpu.cfs_quota_us", quota.to_string()),
            ("memory.limit_in_bytes", memory.to_string()),
            ("cpu.max", format!("{quota} {PERIOD_MICROS}")),
            ("memory.max", memory.to_string()),
        ];
        for (key, value) in settings {
            let file = path.join(key);
            if file.exists() {
                std::fs::write(&file, value).map_err(io("write", file.display()))?;
            }
        }
    }
    Ok(())
}

/// Moves the calling process into the group.
pub fn join(group: &str) -> Result<(), Error> {
    for path in directories(group) {
        let file = path.join("cgroup.procs");
        std::fs::write(&file, "0").map_err(io("write", file.display()))?;
    }
    Ok(())
}

/// All processes in the group and below it.
pub fn processes(group: &str) -> Vec<i32> {
    let mut all = Vec::new();
    for path in everywhere(group) {
        walk(&path, &mut |dir| {
            let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            all.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
        });
    }
    // 0 stands for a process of another pid namespace; it must never be signalled.
    all.retain(|pid| *pid > 1);
    all.sort_unstable();
    all.dedup();
    all
}

/// Calls `visit` for the directory and all below it, children first.
fn walk(dir: &Path, visit: &mut dyn FnMut(&Path)) {
    if let Ok(entries) = std::fs::read_dir(dir) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                walk(&entry.path(), visit);
            }
        }
    }
    if dir.exists() {
        visit(dir);
    }
}

/// SIGKILLs everything in the group at once, and waits until it is gone. The group is frozen meanwhile, so that
/// nothing escapes by forking and nothing reacts to the death of another.
pub fn kill(group: &str) -> Result<(), Error> {
    let deadline = Instant::now() + KILL_PATIENCE;
    loop {
        freeze(group, true);
        let processes = processes(group);
        for pid in &processes {
            signal(*pid, rustix::process::Signal::KILL);
        }
        freeze(group, false);
        if processes.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::Program {
                program: "kill",
                reason: format!("processes {processes:?} of cgroup {group} do not end"),
            });
        }
        std::thread::sleep(PAUSE);
    }
}

/// Sends SIGTERM to everything in the group, and SIGKILL to what is left after `patience`.
pub fn terminate(group: &str, patience: Duration) -> Result<(), Error> {
    let deadline = Instant::now() + patience;
    for pid in processes(group) {
        signal(pid, rustix::process::Signal::TERM);
    }
    while !processes(group).is_empty() && Instant::now() < deadline {
        std::thread::sleep(PAUSE);
    }
    kill(group)
}

fn signal(pid: i32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        // It may be gone already, which is what we want.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn freeze(group: &str, frozen: bool) {
    for path in directories(group) {
        let (v1, v2) = (path.join("freezer.state"), path.join("cgroup.freeze"));
        if v1.exists() {
            let _ = std::fs::write(v1, if frozen { "FROZEN" } else { "THAWED" });
        } else if v2.exists() {
            let _ = std::fs::write(v2, if frozen { "1" } else { "0" });
        }
    }
    if !frozen {
        return;
    }
    // Freezing is asynchronous; a few reads are enough, since killing repeats until nothing is left.
    for path in directories(group) {
        for _ in 0..20 {
            match std::fs::read_to_string(path.join("freezer.state")) {
                Ok(state) if state.trim() == "FREEZING" => std::thread::sleep(Duration::from_millis(1)),
                _ => break,
            }
        }
    }
}

/// Removes the group and everything below it. Its processes must be gone.
pub fn remove(group: &str) -> Result<(), Error> {
    let mut failed = None;
    for path in everywhere(group) {
        walk(&path, &mut |dir| {
            // The kernel lets go of a group a moment after its last process.
            for attempt in 0..200 {
                match std::fs::remove_dir(dir) {
                    Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy && attempt < 199 => {
                        std::thread::sleep(PAUSE);
                    }
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        failed = Some((dir.to_owned(), e));
                        break;
                    }
                    _ => break,
                }
            }
        });
    }
    // The parent of all clusters goes with the last of them.
    for path in everywhere("/hikube") {
        let _ = std::fs::remove_dir(path);
    }
    match failed {
        None => Ok(()),
        Some((dir, e)) => Err(io("remove", dir.display())(e)),
    }
}
