//! Mounting and unmounting, by syscalls on a thread of their own: they block for as long as the device does.

use crate::mountinfo::{self, Mount};
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::Status;

/// Longest wait for a mount or an unmount, which replays or writes back a journal.
const TIMEOUT: Duration = Duration::from_secs(100);
/// Longest wait for a look at a device that may be stalled.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs what may block, at most `timeout`. A thread that is stuck in the kernel stays behind until the device
/// answers.
pub(crate) async fn blocking<T, F>(what: &str, timeout: Duration, work: F) -> Result<T, Status>
where
    T: Send + 'static,
    F: FnOnce() -> std::io::Result<T> + Send + 'static,
{
    let joined = tokio::time::timeout(timeout, tokio::task::spawn_blocking(work)).await;
    joined
        .map_err(|_| {
            Status::deadline_exceeded(format!(
                "{what}: no answer from the device in {} s",
                timeout.as_secs()
            ))
        })?
        .map_err(|e| Status::internal(format!("{what}: {e}")))?
        .map_err(|e| Status::internal(format!("{what}: {e}")))
}

/// All mounts.
pub(crate) fn mounts() -> Result<Vec<Mount>, Status> {
    mountinfo::read().map_err(|e| Status::internal(format!("read the mount table: {e}")))
}

/// Mounts a file system, with options as `mount -o` takes them.
pub(crate) async fn mount(
    device: &Path,
    target: &Path,
    fs_type: &str,
    options: &[String],
    read_only: bool,
) -> Result<(), Status> {
    let (mut flags, data) = parse_options(options);
    flags.set(
        MountFlags::RDONLY,
        read_only || flags.contains(MountFlags::RDONLY),
    );
    let data = CString::new(data).map_err(|_| Status::invalid_argument("mount_flags: holds a zero byte"))?;
    let (device, target, fs_type) = (device.to_owned(), target.to_owned(), fs_type.to_owned());
    let what = format!("mount {} on {}", device.display(), target.display());
    blocking(&what, TIMEOUT, move || {
        std::fs::create_dir_all(&target)?;
        rustix::mount::mount(&device, &target, fs_type.as_str(), flags, data.as_c_str())?;
        Ok(())
    })
    .await
}

/// Shows what is at `source` at `target` too.
pub(crate) async fn bind(source: &Path, target: &Path, read_only: bool) -> Result<(), Status> {
    let (source, target) = (source.to_owned(), target.to_owned());
    let what = format!("bind {} to {}", source.display(), target.display());
    blocking(&what, TIMEOUT, move || {
        rustix::mount::mount_bind(&source, &target)?;
        if read_only {
            // The first call ignores every flag; only a remount can make a bind mount read-only.
            let flags = MountFlags::BIND | MountFlags::RDONLY;
            if let Err(error) = rustix::mount::mount_remount(&target, flags, c"") {
                let _ = rustix::mount::unmount(&target, UnmountFlags::empty());
                return Err(error.into());
            }
        }
        Ok(())
    })
    .await
}

/// Removes everything that is mounted on `target`. `lazy` only takes it out of the tree, which is all that can be
/// done with a file system whose device is gone.
pub(crate) async fn unmount(target: &Path, lazy: bool) -> Result<(), Status> {
    let target = target.to_owned();
    let what = format!("unmount {}", target.display());
    let flags = if lazy {
        UnmountFlags::DETACH
    } else {
        UnmountFlags::empty()
    };
    blocking(&what, TIMEOUT, move || {
        // Several may lie on top of each other after calls that were cut short.
        while mountinfo::at(&mountinfo::read()?, &target).is_some() {
            rustix::mount::unmount(&target, flags | UnmountFlags::NOFOLLOW)?;
        }
        Ok(())
    })
    .await
}

/// The number of a device node.
pub(crate) async fn device_number(path: &Path) -> Result<(u32, u32), Status> {
    let path = path.to_owned();
    let what = format!("look at {}", path.display());
    blocking(&what, PROBE_TIMEOUT, move || {
        let stat = rustix::fs::stat(&path)?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::BlockDevice {
            return Err(std::io::Error::other("not a block device"));
        }
        Ok((rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)))
    })
    .await
}

/// Whether reads of the device fail. One that does not answer in time is stalled, not dead: it may go on.
pub(crate) async fn is_dead(device: &Path) -> bool {
    let path = device.to_owned();
    let read = blocking("read the device", PROBE_TIMEOUT, move || read_first_block(&path)).await;
    matches!(read, Err(status) if status.code() == tonic::Code::Internal)
}

/// A page, as direct reads need it.
#[repr(align(4096))]
struct Page([u8; 4096]);

/// Reads the first block past the page cache, which would still hold what the device has lost.
pub(crate) fn read_first_block(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT | libc::O_CLOEXEC)
        .open(path)?;
    let mut page = Box::new(Page([0; 4096]));
    file.read_exact_at(&mut page.0, 0)
}

/// Makes a directory to mount on; its parent exists, but a parent made here does no harm.
pub(crate) fn make_dir(path: &Path) -> Result<(), Status> {
    std::fs::create_dir_all(path).map_err(|e| Status::internal(format!("create {}: {e}", path.display())))
}

/// Makes an empty file to bind a device to.
pub(crate) fn make_file(path: &Path) -> Result<(), Status> {
    let make = || -> std::io::Result<()> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map(drop)
    };
    make().map_err(|e| Status::internal(format!("create {}: {e}", path.display())))
}

/// Removes an unmounted target: an empty directory or an empty file, nothing else.
pub(crate) fn remove_target(path: &Path) -> Result<(), Status> {
    let remove = || -> std::io::Result<()> {
        let meta = match std::fs::symlink_metadata(path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if meta.is_dir() {
            std::fs::remove_dir(path)
        } else if meta.is_file() && meta.len() == 0 {
            std::fs::remove_file(path)
        } else {
            Err(std::io::Error::other("holds data that is not the volume's"))
        }
    };
    remove().map_err(|e| Status::internal(format!("remove {}: {e}", path.display())))
}

/// The path without `.`, `..`-free and without a slash at its end, as the mount table has it.
pub(crate) fn normal(path: &str) -> PathBuf {
    Path::new(path).components().collect()
}

/// Splits options into the kernel's flags and the text for the file system.
fn parse_options(options: &[String]) -> (MountFlags, String) {
    let mut flags = MountFlags::empty();
    let mut data = Vec::new();
    for option in options.iter().flat_map(|o| o.split(',')).map(str::trim) {
        match option {
            "" | "defaults" | "rw" | "suid" | "dev" | "exec" | "async" | "atime" => {}
            "ro" => flags |= MountFlags::RDONLY,
            "nosuid" => flags |= MountFlags::NOSUID,
            "nodev" => flags |= MountFlags::NODEV,
            "noexec" => flags |= MountFlags::NOEXEC,
            "sync" => flags |= MountFlags::SYNCHRONOUS,
            "dirsync" => flags |= MountFlags::DIRSYNC,
            "noatime" => flags |= MountFlags::NOATIME,
            "nodiratime" => flags |= MountFlags::NODIRATIME,
            "relatime" => flags |= MountFlags::RELATIME,
            "strictatime" => flags |= MountFlags::STRICTATIME,
            "lazytime" => flags |= MountFlags::LAZYTIME,
            other => data.push(other),
        }
    }
    (flags, data.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_flags_or_data() {
        let options = [
            "noatime,discard".to_owned(),
            "ro".to_owned(),
            "commit=5".to_owned(),
        ];
        let (flags, data) = parse_options(&options);
        assert_eq!(flags, MountFlags::NOATIME | MountFlags::RDONLY);
        assert_eq!(data, "discard,commit=5");
    }

    #[test]
    fn only_empty_targets_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let full = dir.path().join("full");
        std::fs::create_dir_all(full.join("x")).unwrap();
        assert!(remove_target(&full).is_err());
        let file = dir.path().join("file");
        make_file(&file).unwrap();
        remove_target(&file).unwrap();
        remove_target(&file).unwrap();
        std::fs::write(&file, "data").unwrap();
        assert!(remove_target(&file).is_err());
    }

    #[test]
    fn paths_are_normalized() {
        assert_eq!(normal("/a//b/./c/"), Path::new("/a/b/c"));
    }
}
