//! What is mounted where, from `/proc/self/mountinfo` (proc(5)). The path of a dead file system cannot be looked
//! at with stat; this file always can.

use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Major and minor number of the file system's device.
    pub(crate) device: (u32, u32),
    /// Which part of the file system is mounted; `/` for all of it.
    pub(crate) root: PathBuf,
    /// Where.
    pub(crate) target: PathBuf,
    /// The mount itself is read-only.
    pub(crate) read_only: bool,
    /// The file system as a whole is read-only.
    pub(crate) super_read_only: bool,
    /// Type of the file system.
    pub(crate) fs_type: String,
}

/// All mounts of this process's namespace, in the order in which they were made.
pub(crate) fn read() -> std::io::Result<Vec<Mount>> {
    let bytes = std::fs::read("/proc/self/mountinfo")?;
    Ok(bytes.split(|b| *b == b'\n').filter_map(parse).collect())
}

/// The mount that is visible at `target`.
pub(crate) fn at<'a>(mounts: &'a [Mount], target: &Path) -> Option<&'a Mount> {
    mounts.iter().rev().find(|m| m.target == target)
}

/// Parses one line; `None` for what is no mount.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let root = unescape(fields.next()?);
    let target = unescape(fields.next()?);
    let options = fields.next()?;
    // Any number of optional fields, then a dash.
    fields.find(|f| *f == b"-")?;
    let fs_type = String::from_utf8_lossy(fields.next()?).into_owned();
    let super_options = fields.nth(1)?;
    Some(Mount {
        device: (major.parse().ok()?, minor.parse().ok()?),
        root,
        target,
        read_only: has_ro(options),
        super_read_only: has_ro(super_options),
        fs_type,
    })
}

fn has_ro(options: &[u8]) -> bool {
    options
        .split(|b| *b == b',')
        .any(|o| o == b"ro" || o == b"emergency_ro" || o == b"shutdown")
}

/// Space, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        let code = digits.and_then(|d| u8::from_str_radix(d, 8).ok());
        match code {
            Some(code) if first == b'\\' => {
                bytes.push(code);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_understood() {
        let line = b"93 61 7:3 /a /var/lib/x\\040y rw,nosuid,relatime shared:5 master:2 - ext4 /dev/loop3 ro,errors=continue";
        let mount = parse(line).unwrap();
        assert_eq!(mount.device, (7, 3));
        assert_eq!(mount.root, Path::new("/a"));
        assert_eq!(mount.target, Path::new("/var/lib/x y"));
        assert!(!mount.read_only && mount.super_read_only);
        assert_eq!(mount.fs_type, "ext4");
        assert!(parse(b"").is_none());
        assert!(!read().unwrap().is_empty());
    }

    #[test]
    fn the_last_mount_on_a_path_is_the_visible_one() {
        let lower = parse(b"1 0 7:1 / /m rw - ext4 x rw").unwrap();
        let upper = parse(b"2 1 7:2 / /m ro - xfs y rw").unwrap();
        let mounts = [lower, upper];
        assert_eq!(at(&mounts, Path::new("/m")).unwrap().device, (7, 2));
        assert!(at(&mounts, Path::new("/n")).is_none());
    }

    proptest! {
        #[test]
        fn escaped_paths_come_back(path in "[ -~\t\n]{0,40}") {
            let escaped: String = path.chars().map(|c| match c {
                ' ' | '\t' | '\n' | '\\' => format!("\\{:03o}", u32::from(c)),
                c => c.to_string(),
            }).collect();
            prop_assert_eq!(unescape(escaped.as_bytes()), PathBuf::from(path));
        }

        #[test]
        fn no_line_is_too_odd(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&line);
        }
    }
}
