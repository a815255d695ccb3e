//! Removes containers and sandboxes of a living pod that nobody will ask about any more: of each container the
//! present instance and the one before it are kept, with their logs.

use super::spec::PodId;
use crate::context::Context;
use crate::runtime::{RuntimePod, State};
use std::collections::{HashMap, HashSet};

/// Instances that are kept of each container.
const KEPT: usize = 2;

/// Removes what is not needed any more. A failure is no harm: the next call finds it again.
pub async fn collect(context: &Context, id: &PodId, observed: &RuntimePod) {
    let mut count: HashMap<&str, usize> = HashMap::new();
    let mut needed: HashSet<&str> = observed
        .sandboxes
        .first()
        .map(|s| s.id.as_str())
        .into_iter()
        .collect();
    for container in &observed.containers {
        let count = count.entry(&container.name).or_default();
        *count += 1;
        if *count <= KEPT || container.state == State::Running {
            needed.insert(&container.sandbox_id);
            continue;
        }
        if context.runtime.remove_container(&container.id).await.is_ok() {
            remove_logs(context, id, &container.name, container.restart_count);
        }
    }
    for sandbox in observed
        .sandboxes
        .iter()
        .filter(|s| !s.ready && !needed.contains(s.id.as_str()))
    {
        if context.runtime.stop_sandbox(&sandbox.id).await.is_ok() {
            let _ = context.runtime.remove_sandbox(&sandbox.id).await;
        }
    }
}

/// The log of an instance and its rotated parts, and its last words.
fn remove_logs(context: &Context, id: &PodId, container: &str, restart_count: u32) {
    let dir = context.paths.pod_logs(id).join(container);
    let prefix = format!("{restart_count}.log");
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(&prefix))
        {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    let _ = std::fs::remove_file(context.paths.termination_log(&id.uid, container, restart_count));
}
