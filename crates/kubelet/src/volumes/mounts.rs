//! Mounts as the kernel has them.

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use std::io;
use std::path::{Path, PathBuf};

/// Whether something is mounted at exactly this path. Reads the mount table, since `stat` hangs or fails on a
/// filesystem whose device is gone.
pub fn is_mounted(path: &Path) -> bool {
    mounted_below(path).iter().any(|point| point == path)
}

/// The device (`major:minor`) of what is mounted last at exactly this path; `None` when nothing is.
pub fn device_of(path: &Path) -> Option<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let last = table.lines().rfind(|line| {
        let point = line.split(' ').nth(4).unwrap_or_default();
        Path::new(&unescape(point)) == path
    })?;
    last.split(' ').nth(2).map(str::to_owned)
}

/// Mount points at and below a path, in the order of mounting.
pub fn mounted_below(path: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    points(&table)
        .into_iter()
        .filter(|point| point.starts_with(path))
        .collect()
}

fn points(table: &str) -> Vec<PathBuf> {
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescape(point)))
        .collect()
}

/// The mount table writes blanks as `\040`.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|o| std::str::from_utf8(o).ok())
            .and_then(|o| u8::from_str_radix(o, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into()
}

/// Mounts a filesystem in memory, `size` bytes at most (`None`: half of the machine's memory).
pub fn tmpfs(path: &Path, size: Option<u64>, mode: &str) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    if is_mounted(path) {
        return Ok(());
    }
    let size = size.map_or_else(String::new, |s| format!(",size={s}"));
    let data = std::ffi::CString::new(format!("mode={mode}{size}")).map_err(io::Error::other)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", path, "tmpfs", flags, data.as_c_str())?;
    Ok(())
}

/// Mounts what `source` shows at `target` too; what is mounted below it, as well.
pub fn bind(source: &Path, target: &Path, read_only: bool) -> io::Result<()> {
    rustix::mount::mount_bind_recursive(source, target)?;
    if read_only {
        rustix::mount::mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, "")?;
    }
    Ok(())
}

/// Makes mounts below `path` visible in containers that ask for it, and theirs on the node. The directory
/// becomes a mount of its own.
pub fn make_shared(path: &Path) -> io::Result<()> {
    if !is_mounted(path) {
        rustix::mount::mount_bind(path, path)?;
    }
    rustix::mount::mount_change(path, MountPropagationFlags::SHARED)?;
    Ok(())
}

/// Unmounts everything at and below a path, at once even if it is in use or its device is gone. What was
/// mounted disappears from the tree; the kernel lets go of it when the last user does.
pub fn detach_all(path: &Path) -> io::Result<()> {
    for point in mounted_below(path).iter().rev() {
        match rustix::mount::unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // Unmounted together with another one.
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_mount_table() {
        let table = "1 0 0:1 / / rw - ext4 /dev/vda rw\n2 1 0:2 / /a\\040b rw shared:1 - tmpfs tmpfs rw\n";
        assert_eq!(points(table), [PathBuf::from("/"), PathBuf::from("/a b")]);
        assert!(is_mounted(Path::new("/proc")));
        assert!(!is_mounted(Path::new("/proc/self")));
    }
}
