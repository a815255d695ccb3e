//! The cgroups of pods: `<root>/pod<uid>` for guaranteed pods, `<root>/burstable/pod<uid>` and
//! `<root>/besteffort/pod<uid>` for the others, in every hierarchy of cgroup v1 or in the one of v2.
//!
//! Killing a pod through its cgroup needs neither the runtime nor the API: that is what fencing relies on.

use crate::pods::resources::{CPU_PERIOD_US, Use};
use crate::pods::spec::Qos;
use std::io;
use std::path::{Path, PathBuf};

/// Rounds of killing: a process that forks while it is being killed is found in the next round.
const KILL_ROUNDS: usize = 20;

/// Where the cgroups lie.
#[derive(Clone, Debug)]
pub struct Cgroups {
    /// Mount points of the hierarchies with their controllers (`cpu`, `memory`, ...; `unified` for v2).
    hierarchies: Vec<(Vec<String>, PathBuf)>,
    root: String,
}

impl Cgroups {
    /// Reads the mount table; all pods lie below `root`.
    pub fn discover(root: &str) -> Self {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self::from_table(&table, root)
    }

    fn from_table(table: &str, root: &str) -> Self {
        let mut hierarchies = Vec::new();
        for line in table.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let Some(point) = left.split(' ').nth(4) else {
                continue;
            };
            let mut right = right.split(' ');
            let kind = right.next().unwrap_or_default();
            let options = right.nth(1).unwrap_or_default();
            let known = hierarchies
                .iter()
                .any(|(_, p): &(_, PathBuf)| p == Path::new(point));
            match kind {
                "cgroup" if !known => {
                    let controllers = options.split(',').map(str::to_owned).collect();
                    hierarchies.push((controllers, PathBuf::from(point)));
                }
                "cgroup2" if !known => hierarchies.push((vec!["unified".into()], PathBuf::from(point))),
                _ => {}
            }
        }
        Self {
            hierarchies,
            root: format!("/{}", root.trim_matches('/')),
        }
    }

    /// The cgroup of a pod, relative to each hierarchy: what the runtime gets as `cgroup_parent`.
    pub fn pod_path(&self, qos: Qos, uid: &str) -> String {
        let root = self.root.trim_end_matches('/');
        match qos {
            Qos::Guaranteed => format!("{root}/pod{uid}"),
            Qos::Burstable => format!("{root}/burstable/pod{uid}"),
            Qos::BestEffort => format!("{root}/besteffort/pod{uid}"),
        }
    }

    fn hierarchy(&self, controller: &str) -> Option<&PathBuf> {
        let found = self
            .hierarchies
            .iter()
            .find(|(c, _)| c.iter().any(|c| c == controller));
        found.map(|(_, point)| point)
    }

    /// Makes the pod's cgroup and sets its limits.
    pub fn ensure(&self, path: &str, usage: &Use) -> io::Result<()> {
        let relative = path.trim_start_matches('/');
        if let Some(point) = self.hierarchy("cpu") {
            let dir = point.join(relative);
            std::fs::create_dir_all(&dir)?;
            std::fs::write(dir.join("cpu.shares"), usage.shares().to_string())?;
            std::fs::write(dir.join("cpu.cfs_period_us"), CPU_PERIOD_US.to_string())?;
            std::fs::write(
                dir.join("cpu.cfs_quota_us"),
                usage.quota_us().unwrap_or(-1).to_string(),
            )?;
        }
        if let Some(point) = self.hierarchy("memory") {
            let dir = point.join(relative);
            std::fs::create_dir_all(&dir)?;
            std::fs::write(
                dir.join("memory.limit_in_bytes"),
                usage.memory_limit.unwrap_or(-1).to_string(),
            )?;
        } else if let Some(point) = self.hierarchy("unified") {
            let dir = point.join(relative);
            std::fs::create_dir_all(&dir)?;
            let max = usage
                .memory_limit
                .map_or_else(|| "max".to_owned(), |v| v.to_string());
            // Controllers that the parents do not pass on are not there to be set.
            let _ = std::fs::write(dir.join("memory.max"), max);
        }
        Ok(())
    }

    /// Every directory that belongs to a pod, whatever its class.
    fn pod_dirs(&self, uid: &str) -> Vec<PathBuf> {
        let classes = [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort];
        let paths: Vec<String> = classes.iter().map(|qos| self.pod_path(*qos, uid)).collect();
        let mut dirs = Vec::new();
        for (_, point) in &self.hierarchies {
            for path in &paths {
                let dir = point.join(path.trim_start_matches('/'));
                if dir.is_dir() {
                    dirs.push(dir);
                }
            }
        }
        dirs
    }

    /// SIGKILLs every process of the pod. True once none is left.
    pub fn kill(&self, uid: &str) -> bool {
        for _ in 0..KILL_ROUNDS {
            let mut pids = std::collections::BTreeSet::new();
            for dir in self.pod_dirs(uid) {
                collect_pids(&dir, &mut pids);
            }
            if pids.is_empty() {
                return true;
            }
            for pid in pids {
                if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                    // It may have ended by itself.
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        false
    }

    /// Whether the pod has processes.
    pub fn populated(&self, uid: &str) -> bool {
        let mut pids = std::collections::BTreeSet::new();
        for dir in self.pod_dirs(uid) {
            collect_pids(&dir, &mut pids);
        }
        !pids.is_empty()
    }

    /// Removes the pod's cgroups. They must have no process left.
    pub fn remove(&self, uid: &str) {
        for dir in self.pod_dirs(uid) {
            remove_tree(&dir);
        }
    }

    /// UIDs of all pods that have a cgroup.
    pub fn pods(&self) -> std::collections::BTreeSet<String> {
        let mut uids = std::collections::BTreeSet::new();
        for (_, point) in &self.hierarchies {
            for class in ["", "burstable", "besteffort"] {
                let dir = point.join(self.root.trim_start_matches('/')).join(class);
                for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                    let name = entry.file_name();
                    if let Some(uid) = name.to_str().and_then(|n| n.strip_prefix("pod")) {
                        uids.insert(uid.to_owned());
                    }
                }
            }
        }
        uids
    }

    /// Bytes that all pods use together and that the kernel cannot take back at once; `None` when it cannot be
    /// read.
    pub fn memory_working_set(&self) -> Option<u64> {
        let root = self.root.trim_start_matches('/');
        working_set(&self.hierarchy("memory")?.join(root))
    }

    /// The same of one pod.
    pub fn pod_working_set(&self, uid: &str) -> Option<u64> {
        let memory = self.hierarchy("memory")?;
        let mut dirs = self.pod_dirs(uid).into_iter();
        working_set(&dirs.find(|dir| dir.starts_with(memory))?)
    }

    /// CPU time of all pods so far, nanoseconds; `None` when it cannot be read.
    pub fn cpu_usage_ns(&self) -> Option<u64> {
        let dir = self.hierarchy("cpuacct")?.join(self.root.trim_start_matches('/'));
        let text = std::fs::read_to_string(dir.join("cpuacct.usage")).ok()?;
        text.trim().parse().ok()
    }
}

/// What a cgroup (v1) uses without the file pages that nobody has asked for lately.
fn working_set(dir: &Path) -> Option<u64> {
    let usage: u64 = std::fs::read_to_string(dir.join("memory.usage_in_bytes"))
        .ok()?
        .trim()
        .parse()
        .ok()?;
    let stat = std::fs::read_to_string(dir.join("memory.stat")).ok()?;
    let idle = stat
        .lines()
        .find_map(|line| line.strip_prefix("total_inactive_file "))
        .and_then(|n| n.trim().parse::<u64>().ok());
    Some(usage.saturating_sub(idle.unwrap_or(0)))
}

fn collect_pids(dir: &Path, pids: &mut std::collections::BTreeSet<i32>) {
    if let Ok(text) = std::fs::read_to_string(dir.join("cgroup.procs")) {
        pids.extend(
            text.lines()
                .filter_map(|line| line.parse::<i32>().ok())
                .filter(|pid| *pid > 1),
        );
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            collect_pids(&entry.path(), pids);
        }
    }
}

fn remove_tree(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    // Still in use, or gone already: the next cleaning finds it.
    let _ = std::fs::remove_dir(dir);
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
25 20 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
26 25 0:23 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct
27 25 0:24 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
28 25 0:25 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";

    #[test]
    fn idle_file_pages_are_not_in_the_working_set() {
        let dir = tempfile::tempdir().expect("a directory");
        let table = format!(
            "1 0 0:1 / {} rw - cgroup cgroup rw,memory\n",
            dir.path().display()
        );
        let cgroups = Cgroups::from_table(&table, "/pods");
        for (path, usage, idle) in [("pods", 900, 300), ("pods/burstable/podu", 500, 100)] {
            let dir = dir.path().join(path);
            std::fs::create_dir_all(&dir).expect("made");
            std::fs::write(dir.join("memory.usage_in_bytes"), format!("{usage}\n")).expect("written");
            let stat = format!("total_active_file 7\ntotal_inactive_file {idle}\n");
            std::fs::write(dir.join("memory.stat"), stat).expect("written");
        }
        assert_eq!(cgroups.memory_working_set(), Some(600));
        assert_eq!(cgroups.pod_working_set("u"), Some(400));
        assert_eq!(cgroups.pod_working_set("v"), None);
    }

    #[test]
    fn finds_the_hierarchies() {
        let cgroups = Cgroups::from_table(TABLE, "hikube/pods/");
        assert_eq!(
            cgroups.hierarchy("cpuacct"),
            Some(&PathBuf::from("/sys/fs/cgroup/cpu,cpuacct"))
        );
        assert_eq!(
            cgroups.hierarchy("memory"),
            Some(&PathBuf::from("/sys/fs/cgroup/memory"))
        );
        assert_eq!(cgroups.hierarchy("freezer"), None);
        assert_eq!(
            cgroups.pod_path(Qos::Burstable, "u"),
            "/hikube/pods/burstable/podu"
        );
        assert_eq!(cgroups.pod_path(Qos::Guaranteed, "u"), "/hikube/pods/podu");
    }
}
