//! Mounts and loop devices below a directory, and their removal after the processes behind them are gone.

use super::programs::run;
use super::{Error, io};
use rustix::mount::{UnmountFlags, unmount};
use std::path::{Path, PathBuf};

#[derive(Debug)]
struct Mount {
    point: PathBuf,
    kind: String,
    source: String,
}

/// The mounts at or below any of the directories, newest first.
fn below(directories: &[PathBuf]) -> Vec<Mount> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut mounts: Vec<Mount> = text.lines().filter_map(parse).collect();
    mounts.retain(|m| directories.iter().any(|d| m.point.starts_with(d)));
    mounts.reverse();
    mounts
}

fn parse(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    Some(Mount {
        point: PathBuf::from(unescape(before.split(' ').nth(4)?)),
        kind: after.next()?.into(),
        source: after.next()?.into(),
    })
}

/// mountinfo writes blanks as `\040`.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\134", "\\")
}

/// Whether anything is mounted below the directories, or a loop device has its file there.
pub fn any(directories: &[PathBuf]) -> bool {
    !below(directories).is_empty() || !loops(directories).is_empty()
}

/// Unmounts everything below the directories and detaches the loop devices whose files lie there. Mounts are
/// detached lazily, since the daemon behind one may be dead: filesystems on loop devices first, then the loop
/// devices, then the FUSE mounts that hold their files.
pub fn clear(directories: &[PathBuf]) -> Result<(), Error> {
    let mut devices = loops(directories);
    let mounts = below(directories);
    devices.extend(
        mounts
            .iter()
            .filter(|m| m.source.starts_with("/dev/loop"))
            .map(|m| m.source.clone()),
    );
    for mount in mounts.iter().filter(|m| !m.kind.starts_with("fuse")) {
        detach(&mount.point)?;
    }
    devices.sort();
    devices.dedup();
    for device in devices {
        // A device that nothing uses any more detaches itself when it was set up so.
        if let Err(error) = run("losetup", &["--detach", &device], "") {
            tracing::debug!(%error, device, "loop device was already detached");
        }
    }
    for mount in below(directories) {
        detach(&mount.point)?;
    }
    Ok(())
}

/// Unmounts the filesystems of block devices below a directory in order, so that all they hold reaches the devices.
/// One that is still used is detached lazily, after its data was synced.
pub fn unmount_volumes(directory: &Path) -> Result<(), Error> {
    let mounts = below(&[directory.to_owned()]);
    for mount in mounts.iter().filter(|m| m.source.starts_with("/dev/")) {
        if unmount(&mount.point, UnmountFlags::empty()).is_ok() {
            continue;
        }
        if let Ok(dir) = std::fs::File::open(&mount.point) {
            let _ = rustix::fs::syncfs(&dir);
        }
        detach(&mount.point)?;
    }
    Ok(())
}

fn detach(point: &Path) -> Result<(), Error> {
    match unmount(point, UnmountFlags::DETACH) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        result => result.map_err(|e| io("unmount", point.display())(e.into())),
    }
}

/// Loop devices whose backing file is below any of the directories.
fn loops(directories: &[PathBuf]) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/block") else {
        return Vec::new();
    };
    let mut devices = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(file) = std::fs::read_to_string(entry.path().join("loop/backing_file")) else {
            continue;
        };
        let file = Path::new(file.trim_end().trim_end_matches(" (deleted)")).to_owned();
        if directories.iter().any(|d| file.starts_with(d)) {
            devices.push(format!("/dev/{name}"));
        }
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_are_understood() {
        let line = "36 35 98:0 /mnt1 /mnt/a\\040b rw,noatime master:1 - ext4 /dev/loop3 rw,errors=continue";
        let mount = parse(line).expect("a good line");
        assert_eq!(mount.point, Path::new("/mnt/a b"));
        assert_eq!(
            (mount.kind.as_str(), mount.source.as_str()),
            ("ext4", "/dev/loop3")
        );
        assert!(parse("nonsense").is_none());
    }
}
