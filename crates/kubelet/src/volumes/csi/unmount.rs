//! Unpublishes and unstages volumes.

use super::record::{self, Record};
use super::unique_name;
use crate::context::Context;
use crate::volumes::{Error, mounts};
use protos::csi;
use std::path::Path;
use std::time::Duration;

/// Pause between attempts to unstage what a former life left behind.
const RETRY: Duration = Duration::from_secs(5);

/// Takes down all CSI volumes of a pod whose containers are dead.
pub async fn tear_down(context: &Context, uid: &str) -> Result<(), Error> {
    context.volumes.forget(uid);
    for (dir, record) in record::of_pod(&context.paths.volumes(uid)) {
        let name = unique_name(&record.driver_name, &record.volume_handle);
        let lock = context.volumes.lock_of(&name);
        let _guard = lock.lock().await;
        unpublish(context, &dir, &record).await?;
        if record::users(&context.paths.pods(), &record).is_empty() {
            unstage(context, &record).await?;
        }
    }
    Ok(())
}

async fn unpublish(context: &Context, dir: &Path, record: &Record) -> Result<(), Error> {
    let driver = context.plugins.driver(&record.driver_name)?;
    let target = if record.block {
        dir.join("device")
    } else {
        dir.join("mount")
    };
    let request = csi::NodeUnpublishVolumeRequest {
        volume_id: record.volume_handle.clone(),
        target_path: target.to_string_lossy().into(),
    };
    if let Err(error) = driver.unpublish(request).await {
        // The pod is dead: what the driver cannot unmount cleanly is taken out of the tree. Unstaging, which
        // flushes, is never skipped.
        tracing::info!(volume = record.persistent_volume, %error, "volume not unpublished; detached instead");
        mounts::detach_all(&target).map_err(Error::io("unmount", &target))?;
    }
    let _ = std::fs::remove_dir(&target);
    let _ = std::fs::remove_file(&target);
    std::fs::remove_file(dir.join(record::FILE)).map_err(Error::io("remove", dir))?;
    let _ = std::fs::remove_dir(dir);
    Ok(())
}

async fn unstage(context: &Context, record: &Record) -> Result<(), Error> {
    let dir = record.node_dir(&context.paths.staged());
    let driver = context.plugins.driver(&record.driver_name)?;
    if driver.stages {
        let staging = if record.block {
            dir.join("dev")
        } else {
            dir.join("globalmount")
        };
        let request = csi::NodeUnstageVolumeRequest {
            volume_id: record.volume_handle.clone(),
            staging_target_path: staging.to_string_lossy().into(),
        };
        driver.unstage(request).await?;
        let _ = std::fs::remove_dir(&staging);
    }
    if let Err(error) = std::fs::remove_file(dir.join(record::FILE))
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(Error::io("remove", &dir)(error));
    }
    let _ = std::fs::remove_dir(&dir);
    context
        .node
        .release_volume(&unique_name(&record.driver_name, &record.volume_handle));
    Ok(())
}

/// Names of all volumes that are staged on this node, for the node's first status.
pub fn staged_names(context_staged: &Path) -> Vec<String> {
    record::of_node(context_staged)
        .iter()
        .map(|r| unique_name(&r.driver_name, &r.volume_handle))
        .collect()
}

/// Unstages what is staged for no pod any more: a former life may have ended between unpublishing and
/// unstaging. Runs once, at the start, until all of it is done.
pub async fn reconcile(context: &Context) {
    loop {
        let mut left = false;
        for record in record::of_node(&context.paths.staged()) {
            let lock = context
                .volumes
                .lock_of(&unique_name(&record.driver_name, &record.volume_handle));
            let _guard = lock.lock().await;
            if !record::users(&context.paths.pods(), &record).is_empty() {
                continue;
            }
            if let Err(error) = unstage(context, &record).await {
                tracing::debug!(volume = record.persistent_volume, %error, "volume not unstaged yet");
                left = true;
            }
        }
        if !left {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}
