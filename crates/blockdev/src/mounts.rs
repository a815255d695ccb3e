//! FUSE mounts of ours: made, found again after a crash, removed.

use crate::Error;
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Source of our mounts in /proc/mounts, by which an administrator knows them.
const SOURCE: &str = "hikube-volume";

/// Mounts a fresh FUSE connection on `dir` and returns its descriptor. The kernel's first request waits there.
pub(crate) fn mount(dir: &Path) -> Result<File, Error> {
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map_err(Error::file("open", "/dev/fuse"))?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
        device.as_raw_fd()
    );
    let options = CString::new(options).expect("no NUL in formatted numbers");
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    rustix::mount::mount(SOURCE, dir, "fuse", flags, options.as_c_str())
        .map_err(|e| Error::file("mount FUSE on", dir)(e.into()))?;
    Ok(device)
}

/// Unmounts `dir` at once or, if something still uses it, as soon as it is unused. With `abort`, requests in
/// flight fail.
pub(crate) fn unmount(dir: &Path, abort: bool) -> Result<(), Error> {
    let flags = if abort {
        UnmountFlags::DETACH | UnmountFlags::FORCE
    } else {
        UnmountFlags::DETACH
    };
    match rustix::mount::unmount(dir, flags) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(e) => Err(Error::file("unmount", dir)(e.into())),
    }
}

/// Mount points of ours at or below `dir`, newest first.
pub(crate) fn find_below(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let table = std::fs::read("/proc/self/mountinfo").map_err(Error::file("read", "/proc/self/mountinfo"))?;
    let mut found = parse_mountinfo(&table, dir);
    found.reverse();
    Ok(found)
}

/// Fields are separated by spaces: the fifth is the mount point; after a `-` come type and source.
fn parse_mountinfo(table: &[u8], dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in table.split(|b| *b == b'\n') {
        let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
        let Some(dash) = fields.iter().position(|f| *f == b"-") else {
            continue;
        };
        let ours =
            fields.get(dash + 1) == Some(&&b"fuse"[..]) && fields.get(dash + 2) == Some(&SOURCE.as_bytes());
        let Some(point) = fields.get(4) else { continue };
        let point = PathBuf::from(std::ffi::OsString::from_vec(unescape(point)));
        if ours && point.as_os_str().as_bytes().starts_with(b"/") && point.starts_with(dir) {
            found.push(point);
        }
    }
    found
}

/// The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'\\' && tail.len() >= 3 && tail[..3].iter().all(|d| (b'0'..=b'7').contains(d)) {
            let value = tail[..3]
                .iter()
                .fold(0u32, |sum, digit| sum * 8 + u32::from(digit - b'0'));
            out.push(value as u8);
            rest = &tail[3..];
        } else {
            out.push(first);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_only_our_mounts_below_the_directory() {
        let table = b"22 1 254:0 / / rw - ext4 /dev/vda rw\n\
            90 22 0:50 / /run/e\\040x/vol-a/mnt rw,nosuid - fuse hikube-volume rw,user_id=0\n\
            91 22 0:51 / /run/other/vol-b rw shared:3 - fuse hikube-volume rw\n\
            92 22 0:52 / /run/e\\040x/vol-c rw - fuse sshfs rw\n";
        let found = parse_mountinfo(table, Path::new("/run/e x"));
        assert_eq!(found, [PathBuf::from("/run/e x/vol-a/mnt")]);
    }
}
