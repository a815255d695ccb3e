//! `subPath`: a part of a volume in a container. A container could replace a directory of its volume by a link
//! to anywhere, so the path is opened without leaving the volume, and what was opened is mounted.

use super::{Error, mounts};
use crate::context::Paths;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// Whether a sub path stays below its volume.
pub fn is_safe(path: &str) -> bool {
    let path = Path::new(path);
    path.components()
        .all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
}

fn open(volume: &OwnedFd, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { "." } else { path };
    rustix::fs::openat2(
        volume,
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH,
    )
}

/// Makes the directory `path` below the volume, following no link out of it.
fn make(volume: &OwnedFd, path: &str) -> rustix::io::Result<()> {
    let mut done = PathBuf::new();
    for component in Path::new(path).components() {
        let Component::Normal(name) = component else {
            continue;
        };
        let parent = open(volume, &done.to_string_lossy(), OFlags::PATH | OFlags::DIRECTORY)?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o750)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        done.push(name);
    }
    Ok(())
}

/// Mounts `sub_path` of a volume at a place of its own and returns the place. `index` tells apart the mounts of
/// one container.
pub fn prepare(
    paths: &Paths,
    uid: &str,
    volume_name: &str,
    volume: &Path,
    sub_path: &str,
    container: &str,
    index: usize,
) -> Result<PathBuf, Error> {
    if !is_safe(sub_path) {
        return Err(Error::Source(format!(
            "subPath {sub_path:?} leads out of the volume"
        )));
    }
    let target = paths
        .subpaths(uid)
        .join(volume_name)
        .join(container)
        .join(index.to_string());
    let failed = |action: &'static str| {
        let shown = volume.join(sub_path);
        move |error: rustix::io::Errno| Error::Io {
            action,
            path: shown,
            source: error.into(),
        }
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(volume, flags, Mode::empty()).map_err(failed("open"))?;
    let part = match open(&root, sub_path, OFlags::PATH) {
        Err(rustix::io::Errno::NOENT) => {
            make(&root, sub_path).map_err(failed("create"))?;
            open(&root, sub_path, OFlags::PATH)
        }
        other => other,
    }
    .map_err(failed("open"))?;
    let stat = rustix::fs::fstat(&part).map_err(failed("stat"))?;
    let is_dir = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
    mounts::detach_all(&target).map_err(Error::io("unmount", &target))?;
    let parent = target.parent().unwrap_or(&target);
    std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    if is_dir {
        std::fs::create_dir_all(&target).map_err(Error::io("create", &target))?;
    } else if !target.exists() {
        std::fs::write(&target, "").map_err(Error::io("create", &target))?;
    }
    let source = PathBuf::from(format!("/proc/self/fd/{}", part.as_raw_fd()));
    mounts::bind(&source, &target, false).map_err(Error::io("bind", &target))?;
    Ok(target)
}

/// Unmounts all sub paths of a pod.
pub fn tear_down(paths: &Paths, uid: &str) -> Result<(), Error> {
    let dir = paths.subpaths(uid);
    mounts::detach_all(&dir).map_err(Error::io("unmount", &dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_do_not_lead_out() {
        let dir = tempfile::tempdir().expect("a directory");
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).expect("a link");
        std::fs::create_dir_all(dir.path().join("a/b")).expect("made");
        let root =
            rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("open");
        assert!(open(&root, "out/passwd", OFlags::PATH).is_err());
        assert!(open(&root, "a/b", OFlags::PATH).is_ok());
        make(&root, "x/y").expect("made");
        assert!(dir.path().join("x/y").is_dir());
        assert!(make(&root, "out/y").is_err());
        assert!(!is_safe("../x") && !is_safe("/x") && is_safe("x/./y"));
    }
}
