//! Staging: the volume is opened on this node (a new epoch, which deposes every earlier writer), gets a file
//! system if it is blank, and is mounted once at the staging path. Everything can be repeated, and whatever an
//! engine that died left behind is cleared away first.

use crate::capability::{Access, Capability};
use crate::filesystem::{self, Content};
use crate::mount;
use crate::mountinfo::{self, Mount};
use crate::node::Host;
use std::path::Path;
use tonic::{Code, Status};

/// Options of every mount: access times would turn each read into a replicated write.
const MOUNT_OPTIONS: &str = "noatime";

/// Opens the volume and mounts it at `path`; a raw volume is only opened.
pub(crate) async fn stage(host: &Host, id: &str, path: &Path, wanted: &Capability) -> Result<(), Status> {
    // Returns the present device if it works, and otherwise makes a new one: no state of the engine is asked for
    // beforehand, which would cost a question to all stores.
    let mut device = host.engine.attach(id).await?;
    let Access::Mount { fs_type, options } = &wanted.access else {
        return Ok(());
    };
    let mounts = mount::mounts()?;
    if let Some(staged) = mountinfo::at(&mounts, path) {
        if is_alive(staged, Some(&device), wanted.read_only).await {
            if !fs_type.is_empty() && *fs_type != staged.fs_type {
                return Err(Status::already_exists(format!(
                    "volume {id} is staged as {}",
                    staged.fs_type
                )));
            }
            return Ok(());
        }
        tracing::info!(volume = id, path = %path.display(), "clearing a mount whose device is gone");
        mount::unmount(path, true).await?;
        if mount::is_dead(&device).await {
            host.engine.detach(id, true).await?;
            device = host.engine.attach(id).await?;
        }
    }
    let result = prepare_and_mount(host, id, &device, path, (fs_type, options, wanted.read_only)).await;
    if result.is_err() {
        // Nobody would come to detach what was never staged. Refused while anything still uses the device.
        if let Err(error) = host.engine.detach(id, false).await {
            tracing::info!(volume = id, %error, "left attached after staging failed");
        }
    }
    result
}

/// Whether a mount shows the attached device, and that device answers.
pub(crate) async fn is_alive(mounted: &Mount, device: Option<&Path>, read_only: bool) -> bool {
    let Some(device) = device else { return false };
    let same = matches!(mount::device_number(device).await, Ok(number) if number == mounted.device);
    // A file system that met an error turns itself read-only.
    same && (read_only || !mounted.super_read_only) && !mount::is_dead(device).await
}

async fn prepare_and_mount(
    host: &Host,
    id: &str,
    device: &Path,
    path: &Path,
    (fs_type, options, read_only): (&str, &[String], bool),
) -> Result<(), Status> {
    let fs_type = match filesystem::probe(device).await? {
        Content::FileSystem(found) if fs_type.is_empty() || found == fs_type => found,
        Content::FileSystem(found) => {
            return Err(Status::failed_precondition(format!(
                "volume {id} holds a file system of type {found}, not {fs_type}"
            )));
        }
        Content::Other(what) => {
            return Err(Status::failed_precondition(format!(
                "volume {id} holds {what}; it is not formatted over"
            )));
        }
        Content::Blank if read_only => {
            return Err(Status::failed_precondition(format!(
                "volume {id} is blank and to be mounted read-only"
            )));
        }
        Content::Blank => {
            let wanted = if fs_type.is_empty() {
                filesystem::SUPPORTED[0]
            } else {
                fs_type
            };
            let untouched = host.engine.get(id).await?.used_bytes == 0;
            filesystem::format(device, wanted, untouched).await?;
            wanted.to_owned()
        }
    };
    filesystem::check(device, &fs_type).await?;
    let mut all = vec![MOUNT_OPTIONS.to_owned()];
    if fs_type == "xfs" {
        // The same file system may still be known to the kernel from a device that died under it. That there is one
        // writer is the engine's business.
        all.push("nouuid".into());
    }
    all.extend_from_slice(options);
    mount::mount(device, path, &fs_type, &all, read_only).await?;
    if !read_only && filesystem::is_smaller_than_device(device, &fs_type).await {
        // The volume grew while it was not mounted.
        filesystem::grow(device, path, &fs_type).await?;
    }
    tracing::info!(volume = id, device = %device.display(), fs_type, path = %path.display(), "staged");
    Ok(())
}

/// Unmounts and closes the volume. A stalled volume makes this wait; a dead one does not.
pub(crate) async fn unstage(host: &Host, id: &str, path: &Path) -> Result<(), Status> {
    let attached = match host.engine.attached(id).await {
        Ok(device) => device,
        // The engine is down: what it had attached is dead, unmount now and report the rest later.
        Err(status) if status.code() == Code::Unavailable => None,
        Err(status) => return Err(status),
    };
    let mounts = mount::mounts()?;
    let mut dead = false;
    if let Some(staged) = mountinfo::at(&mounts, path) {
        // A file system that turned read-only after an error is unmounted as usual.
        dead = !is_alive(staged, attached.as_deref(), true).await;
        mount::unmount(path, dead).await?;
        let others = mount::mounts()?;
        if let (false, Some(other)) = (dead, others.iter().find(|m| m.device == staged.device)) {
            return Err(Status::failed_precondition(format!(
                "volume {id} is still mounted on {}",
                other.target.display()
            )));
        }
    }
    if let Some(device) = &attached {
        dead = dead || mount::is_dead(device).await;
    }
    host.engine.detach(id, dead).await?;
    tracing::info!(volume = id, dead, "unstaged");
    Ok(())
}

/// Makes device and file system at least `wanted` bytes large and returns the size.
pub(crate) async fn expand(host: &Host, id: &str, path: &Path, wanted: u64) -> Result<u64, Status> {
    let mut volume = host.engine.get(id).await?;
    // Told to this node's engine even when the stores know already: its device has to grow.
    volume = host.engine.expand(id, wanted.max(volume.size_bytes)).await?;
    let attached = host.engine.attached(id).await?;
    let device = attached.ok_or_else(|| Status::not_found(format!("volume {id} is not attached here")))?;
    let mounts = mount::mounts()?;
    let number = mount::device_number(&device).await?;
    match mountinfo::at(&mounts, path) {
        Some(mounted) if mounted.device == number => {
            filesystem::grow(&device, path, &mounted.fs_type).await?;
        }
        // A raw volume: its target is the device node, bound from devtmpfs.
        Some(_) if matches!(mount::device_number(path).await, Ok(n) if n == number) => {}
        _ => {
            return Err(Status::not_found(format!(
                "volume {id} is not at {}",
                path.display()
            )));
        }
    }
    Ok(volume.size_bytes)
}
