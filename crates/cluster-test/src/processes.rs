//! The processes of a cluster, found as an operator would find them: in /proc.

use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::fs;

/// One process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its arguments, joined by spaces.
    pub command: String,
}

/// All processes of the cluster: those in its cgroups, and those that name its state directory. Containers
/// are in its cgroups too.
pub fn of_cluster(name: &str) -> Vec<Process> {
    let own = std::process::id();
    all()
        .into_iter()
        .filter(|p| p.pid != own && belongs(p, name))
        .collect()
}

fn belongs(process: &Process, name: &str) -> bool {
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).unwrap_or_default();
    let inside = format!("/hikube/{name}");
    let is_inside = cgroups.lines().any(|line| {
        let path = line.splitn(3, ':').nth(2).unwrap_or_default();
        path == inside || path.starts_with(&format!("{inside}/"))
    });
    is_inside
        || process.command.contains(&format!("/var/lib/hikube/{name}/"))
        || process.command.contains(&format!("/run/hikube/{name}/"))
}

fn all() -> Vec<Process> {
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let bytes = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&bytes)
            .replace('\0', " ")
            .trim()
            .to_owned();
        if !command.is_empty() {
            processes.push(Process { pid, command });
        }
    }
    processes
}

/// SIGKILL to these processes at once.
pub fn kill(processes: &[Process]) -> Result<()> {
    if processes.is_empty() {
        bail!("no such process");
    }
    let pids: Vec<String> = processes.iter().map(|p| p.pid.to_string()).collect();
    // Some end because others do; kill reports those as missing, which is what was asked for.
    let _ = crate::shell::attempt(std::process::Command::new("kill").arg("-9").args(&pids))?;
    Ok(())
}

/// Memory and CPU of each component of the cluster (processes of the hikube binary outside of containers).
pub fn usage(name: &str) -> BTreeMap<String, Usage> {
    let mut components: BTreeMap<String, Usage> = BTreeMap::new();
    for process in of_cluster(name) {
        let Some(component) = component(&process) else {
            continue;
        };
        let usage = components.entry(component).or_default();
        usage.processes += 1;
        usage.pss_kib += pss_kib(process.pid);
        usage.cpu_ticks += cpu_ticks(process.pid);
    }
    components
}

/// Sums over the processes of one component.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// How many processes.
    pub processes: u32,
    /// Proportional set size, KiB.
    pub pss_kib: u64,
    /// CPU time in clock ticks (1/100 s).
    pub cpu_ticks: u64,
}

fn component(process: &Process) -> Option<String> {
    let exe = fs::read_link(format!("/proc/{}/exe", process.pid)).ok()?;
    let program = exe
        .file_name()?
        .to_str()?
        .trim_end_matches(" (deleted)")
        .to_owned();
    match program.as_str() {
        "hikube" => process
            .command
            .split(' ')
            .nth(1)
            .map(|sub| format!("hikube {sub}")),
        "etcd" | "containerd" => Some(program),
        other if other.starts_with("containerd-shim") => Some("containerd-shim".into()),
        _ => None,
    }
}

fn pss_kib(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find(|l| l.starts_with("Pss:")).unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold spaces; utime and stime are the 12th and 13th fields after it.
    let after = stat.rsplit(')').next().unwrap_or_default();
    let field = |n: usize| {
        after
            .split_whitespace()
            .nth(n)
            .and_then(|t| t.parse::<u64>().ok())
            .unwrap_or(0)
    };
    field(11) + field(12)
}
