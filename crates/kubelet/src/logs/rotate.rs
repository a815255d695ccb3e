//! Keeps logs small: a file that grew too large is renamed, the runtime is told to begin a new one, and the
//! oldest are removed.

use crate::context::Context;
use crate::runtime::labels;
use protos::cri::ContainerState;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A larger file is rotated, as upstream.
const MAX_BYTES: u64 = 10 << 20;
/// Files that are kept of one container instance, the one being written included.
const MAX_FILES: usize = 5;
/// Sizes are looked at so often: one `stat` for each container. (inotify would report each single write.)
const INTERVAL: Duration = Duration::from_secs(10);

/// Runs for ever.
pub async fn run(context: &Context) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let large = large_logs(&context.paths.logs);
        if large.is_empty() {
            continue;
        }
        let Ok(containers) = context.runtime.list_containers(None).await else {
            continue;
        };
        for container in containers {
            if container.state != ContainerState::ContainerRunning as i32 {
                continue;
            }
            let label = |key: &str| container.labels.get(key).cloned().unwrap_or_default();
            let dir = format!(
                "{}_{}_{}",
                label(labels::POD_NAMESPACE),
                label(labels::POD_NAME),
                label(labels::POD_UID)
            );
            let attempt = container.metadata.as_ref().map_or(0, |m| m.attempt);
            let name = label(labels::CONTAINER_NAME);
            let path = context
                .paths
                .logs
                .join(dir)
                .join(name)
                .join(format!("{attempt}.log"));
            if large.contains(&path) {
                rotate(context, &container.id, &path).await;
            }
        }
    }
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
}

fn large_logs(root: &Path) -> Vec<PathBuf> {
    entries(root)
        .flat_map(|pod| entries(&pod).collect::<Vec<_>>())
        .flat_map(|container| entries(&container).collect::<Vec<_>>())
        .filter(|file| file.extension().is_some_and(|e| e == "log"))
        .filter(|file| std::fs::metadata(file).is_ok_and(|m| m.len() > MAX_BYTES))
        .collect()
}

async fn rotate(context: &Context, id: &str, path: &Path) {
    let stamp = k8s_openapi::jiff::Timestamp::now()
        .strftime("%Y%m%d-%H%M%S%.3f")
        .to_string();
    let rotated = PathBuf::from(format!("{}.{stamp}", path.display()));
    if let Err(error) = std::fs::rename(path, &rotated) {
        tracing::info!(path = %path.display(), %error, "log not rotated");
        return;
    }
    if let Err(error) = context.runtime.reopen_log(id).await {
        tracing::info!(%error, "the runtime did not begin a new log");
        // It still writes to the renamed file.
        let _ = std::fs::rename(&rotated, path);
        return;
    }
    prune(path, MAX_FILES - 1);
}

/// Removes all but the newest `kept` rotated files of a log.
fn prune(path: &Path, kept: usize) {
    let Some((dir, name)) = path.parent().zip(path.file_name().and_then(|n| n.to_str())) else {
        return;
    };
    let prefix = format!("{name}.");
    let mut old: Vec<PathBuf> = entries(dir)
        .filter(|file| {
            file.file_name()
                .and_then(|n| n.to_str())
                .is_some_and(|n| n.starts_with(&prefix))
        })
        .collect();
    // Their names end with their time.
    old.sort();
    for file in &old[..old.len().saturating_sub(kept)] {
        let _ = std::fs::remove_file(file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("0.log");
        for stamp in ["20260101-1", "20260101-3", "20260101-2"] {
            std::fs::write(format!("{}.{stamp}", log.display()), "").expect("written");
        }
        std::fs::write(&log, "").expect("written");
        prune(&log, 2);
        let mut left: Vec<_> = entries(dir.path()).collect();
        left.sort();
        let expected = ["0.log", "0.log.20260101-2", "0.log.20260101-3"].map(|n| dir.path().join(n));
        assert_eq!(left, expected);
    }
}
