//! Eviction: a node that runs out of memory or disk ends pods before the kernel, or everything's writes, fail at
//! random. One pod at a time, first those that use more than they asked for; the rest is upstream's order too.

use crate::context::Context;
use crate::node;
use crate::pods::spec;
use crate::pods::status::Verdict;
use crate::pods::{report, resources};
use crate::sync::lock;
use client::events::reference;
use client::{Informer, pods as facts};
use k8s_openapi::api::core::v1::Pod;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often it is looked whether the node runs short: two or three file reads. A pod that grows faster meets the
/// kernel instead.
const LOOK: Duration = Duration::from_secs(10);
/// With less left of the pods' memory, in bytes, a pod has to go (upstream's threshold).
pub const LEAST_MEMORY: u64 = 100 << 20;
/// With less left of the disk, in bytes, a pod has to go. Upstream takes 10 %, which on a disk that is shared with
/// other nodes would be much.
pub const LEAST_DISK: u64 = 256 << 20;
/// How long to wait for what an evicted pod frees, before another one goes.
const RELIEF: Duration = Duration::from_secs(30);
/// Pods of this priority keep the node working, and stay (upstream's system-critical classes).
const CRITICAL: i32 = 2_000_000_000;
/// Reason in the pod's status.
pub const EVICTED: &str = "Evicted";
/// Seconds that an evicted pod has to end.
pub const GRACE_SECS: i64 = 1;

/// Decisions that the pods' workers have not carried out yet, by UID.
#[derive(Default)]
pub struct Evictions(Mutex<HashMap<String, Verdict>>);

impl Evictions {
    /// The decision about a pod, if there is one.
    pub fn take(&self, uid: &str) -> Option<Verdict> {
        lock(&self.0).remove(uid)
    }
}

/// What the node is short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shortage {
    Memory { left: u64 },
    Disk { left: u64 },
}

impl Shortage {
    fn message(self) -> String {
        let (resource, left, least) = match self {
            Self::Memory { left } => ("memory", left, LEAST_MEMORY),
            Self::Disk { left } => ("ephemeral-storage", left, LEAST_DISK),
        };
        let (left, least) = (left >> 10, least >> 10);
        format!(
            "The node was low on resource: {resource}. Threshold quantity: {least}Ki, available: {left}Ki."
        )
    }
}

/// A pod that could go.
#[derive(Clone, Debug)]
struct Candidate {
    pod: Arc<Pod>,
    priority: i32,
    /// What it uses of the resource, and what it asked for, in bytes.
    used: u64,
    requested: u64,
}

/// Looks after the node for ever.
pub async fn run(context: &Context, pods: &Informer<Pod>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(shortage) = shortage(context) else {
            continue;
        };
        let candidates = candidates(context, pods, shortage).await;
        let Some(victim) = choose(&candidates) else {
            tracing::info!(
                ?shortage,
                "the node is short of a resource, and no pod could free any"
            );
            continue;
        };
        evict(context, victim, shortage).await;
        let uid = victim.pod.metadata.uid.clone().unwrap_or_default();
        let freed = async {
            while context.cgroups.populated(&uid) {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        let _ = tokio::time::timeout(RELIEF, freed).await;
    }
}

fn shortage(context: &Context) -> Option<Shortage> {
    let capacity = u64::try_from(context.allocatable.memory_bytes).unwrap_or(u64::MAX);
    let used = context.cgroups.memory_working_set().unwrap_or(0);
    let left = capacity.saturating_sub(used);
    if left < LEAST_MEMORY {
        return Some(Shortage::Memory { left });
    }
    let left = node::filesystem(&context.paths.root)?.available;
    (left < LEAST_DISK).then_some(Shortage::Disk { left })
}

async fn candidates(context: &Context, pods: &Informer<Pod>, shortage: Shortage) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for pod in pods.list() {
        if facts::is_terminal(&pod) || facts::is_terminating(&pod) {
            continue;
        }
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let spec = spec::spec(&pod);
        let (used, requested) = match shortage {
            Shortage::Memory { .. } => {
                let used = context.cgroups.pod_working_set(&uid).unwrap_or(0);
                (used, resources::of_pod(&spec).memory_request)
            }
            Shortage::Disk { .. } => {
                let dirs = [
                    context.paths.volumes(&uid).join("kubernetes.io~empty-dir"),
                    context.paths.pod_logs(&spec::PodId::of(&pod)),
                ];
                let sizes = tokio::task::spawn_blocking(move || dirs.iter().map(|d| size_of(d)).sum());
                (
                    sizes.await.unwrap_or(0),
                    client::resources::requested(&pod).ephemeral,
                )
            }
        };
        candidates.push(Candidate {
            priority: spec.priority.unwrap_or(0),
            pod,
            used,
            requested: u64::try_from(requested).unwrap_or(0),
        });
    }
    candidates
}

/// Bytes that the files below a directory take. What cannot be read does not count.
fn size_of(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => sum += size_of(&entry.path()),
            Ok(meta) => sum += meta.blocks() * 512,
            Err(_) => {}
        }
    }
    sum
}

/// Who goes first: those that use more than they asked for, of these the least important, of these the one that
/// exceeds its request by most. A pod that uses nothing would free nothing.
fn choose(candidates: &[Candidate]) -> Option<&Candidate> {
    let could = candidates.iter().filter(|c| c.priority < CRITICAL && c.used > 0);
    could.max_by_key(|c| {
        let excess = c.used.saturating_sub(c.requested);
        (excess > 0, std::cmp::Reverse(c.priority), excess, c.used)
    })
}

async fn evict(context: &Context, victim: &Candidate, shortage: Shortage) {
    let pod = &victim.pod;
    let message = shortage.message();
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    tracing::info!(uid, message, "pod evicted");
    context
        .recorder
        .event(&reference(&**pod), "Warning", EVICTED, message.clone());
    report::note_disruption(&context.client, pod, &message).await;
    let verdict = Verdict {
        reason: EVICTED.into(),
        message,
    };
    lock(&context.evictions.0).insert(uid.clone(), verdict);
    context.relist.wake(&uid);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, priority: i32, used: u64, requested: u64) -> Candidate {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        Candidate {
            pod: Arc::new(pod),
            priority,
            used,
            requested,
        }
    }

    fn first(candidates: &[Candidate]) -> Option<&str> {
        choose(candidates)?.pod.metadata.name.as_deref()
    }

    #[test]
    fn who_exceeds_its_request_goes_first() {
        let modest = candidate("modest", 0, 500, 1000);
        let greedy = candidate("greedy", 0, 300, 100);
        let greedier = candidate("greedier", 0, 400, 100);
        let important = candidate("important", 10, 900, 100);
        let critical = candidate("critical", CRITICAL, 9000, 0);
        let idle = candidate("idle", 0, 0, 0);
        let all = [
            modest,
            greedy,
            greedier,
            important,
            critical.clone(),
            idle.clone(),
        ];
        assert_eq!(first(&all), Some("greedier"));
        assert_eq!(first(&[all[0].clone(), all[3].clone()]), Some("important"));
        assert_eq!(first(&[critical, idle]), None);
    }

    #[test]
    fn directories_are_measured() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("a")).expect("made");
        std::fs::write(dir.path().join("a/b"), vec![1; 10_000]).expect("written");
        assert!((10_000..100_000).contains(&size_of(dir.path())));
        assert_eq!(size_of(&dir.path().join("missing")), 0);
    }
}
