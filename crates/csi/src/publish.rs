//! Publishing: what is staged appears at the path that a pod uses, as a bind mount.

use crate::capability::Capability;
use crate::mount::{self as sys};
use crate::mountinfo::{self, Mount};
use crate::node::Host;
use crate::stage;
use std::path::{Path, PathBuf};
use tonic::Status;

/// One wish to see a volume somewhere.
pub(crate) struct Publication {
    pub(crate) id: String,
    pub(crate) staging: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
    pub(crate) capability: Capability,
}

/// Publishes a file system.
pub(crate) async fn mount(host: &Host, wish: &Publication) -> Result<(), Status> {
    let mounts = sys::mounts()?;
    let staged = staged(host, wish, &mounts).await?;
    if let Some(present) = mountinfo::at(&mounts, &wish.target) {
        if present.device == staged.device {
            return already(present, wish);
        }
        sys::unmount(&wish.target, true).await?;
    }
    let other = |m: &&Mount| m.device == staged.device && m.target != wish.staging && m.target != wish.target;
    refuse_second(wish, mounts.iter().find(other))?;
    sys::make_dir(&wish.target)?;
    sys::bind(&wish.staging, &wish.target, wish.read_only).await
}

/// The staging mount. One whose device died is staged again, provided that the volume has not moved to another
/// node: a kubelet that believes in its staging mount would otherwise never start the pod.
async fn staged(host: &Host, wish: &Publication, mounts: &[Mount]) -> Result<Mount, Status> {
    let missing = || Status::failed_precondition(format!("volume {} is not staged here", wish.id));
    let staged = mountinfo::at(mounts, &wish.staging).ok_or_else(missing)?;
    let attached = host.engine.attached(&wish.id).await?;
    if stage::is_alive(staged, attached.as_deref(), wish.capability.read_only).await {
        return Ok(staged.clone());
    }
    let holder = host.engine.get(&wish.id).await?.node;
    if !holder.is_empty() && holder != host.node_name {
        return Err(Status::failed_precondition(format!(
            "volume {} has moved to node {holder}",
            wish.id
        )));
    }
    stage::stage(host, &wish.id, &wish.staging, &wish.capability).await?;
    let mounts = sys::mounts()?;
    mountinfo::at(&mounts, &wish.staging).cloned().ok_or_else(missing)
}

fn already(present: &Mount, wish: &Publication) -> Result<(), Status> {
    if present.read_only != wish.read_only && !present.super_read_only {
        return Err(Status::already_exists(format!(
            "volume {} is at {} with another access",
            wish.id,
            wish.target.display()
        )));
    }
    Ok(())
}

fn refuse_second(wish: &Publication, other: Option<&Mount>) -> Result<(), Status> {
    match other {
        Some(other) if wish.capability.single_user => Err(Status::failed_precondition(format!(
            "volume {} may be used once and is at {}",
            wish.id,
            other.target.display()
        ))),
        _ => Ok(()),
    }
}

/// Publishes the raw device.
pub(crate) async fn block(host: &Host, wish: &Publication) -> Result<(), Status> {
    let attached = host.engine.attached(&wish.id).await?;
    let device = attached
        .ok_or_else(|| Status::failed_precondition(format!("volume {} is not staged here", wish.id)))?;
    let number = sys::device_number(&device).await?;
    let mounts = sys::mounts()?;
    if mountinfo::at(&mounts, &wish.target).is_some() {
        if matches!(sys::device_number(&wish.target).await, Ok(n) if n == number) {
            return Ok(());
        }
        sys::unmount(&wish.target, true).await?;
    }
    let node = device.file_name().map(|name| Path::new("/").join(name));
    let other =
        |m: &&Mount| node.as_ref() == Some(&m.root) && m.fs_type == "devtmpfs" && m.target != wish.target;
    refuse_second(wish, mounts.iter().find(other))?;
    sys::make_file(&wish.target)?;
    sys::bind(&device, &wish.target, wish.read_only).await
}

/// Takes a volume away from a pod's path, dead or alive.
pub(crate) async fn unpublish(target: &Path) -> Result<(), Status> {
    if let Err(status) = sys::unmount(target, false).await {
        // A bind mount that is in use by a process about to end, or whose device is gone. The volume itself stays
        // mounted at its staging path, so nothing unwritten is lost by not waiting.
        tracing::info!(target = %target.display(), %status, "unmounting lazily");
        sys::unmount(target, true).await?;
    }
    sys::remove_target(target)
}
