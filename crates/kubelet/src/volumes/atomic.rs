//! Writes a set of files so that readers see either the old set or the new one: the files lie in a directory of
//! their own, `..data` points to it, and only that link is exchanged. Upstream's scheme; programs watch `..data`.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

/// A file to project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Content.
    pub data: Vec<u8>,
    /// Permissions.
    pub mode: u32,
    /// Owner, if not root.
    pub uid: Option<u32>,
}

/// Files by their path below the volume.
pub type Payload = BTreeMap<String, File>;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Whether a path stays below the volume and does not touch our own names.
pub fn is_safe(path: &str) -> bool {
    let path = Path::new(path);
    let mut components = path.components().peekable();
    let hidden = path.to_str().is_none_or(|p| p.starts_with(".."));
    components.peek().is_some() && !hidden && components.all(|c| matches!(c, Component::Normal(_)))
}

/// Makes the volume hold exactly `payload`, readable by `group` if given. True when something changed.
pub fn write(dir: &Path, payload: &Payload, group: Option<u32>) -> io::Result<bool> {
    let old = std::fs::read_link(dir.join(DATA))
        .ok()
        .map(|target| dir.join(target));
    if let Some(old) = &old
        && same(old, payload, group)
    {
        return Ok(false);
    }
    let version = dir.join(format!("..{}", uuid::Uuid::new_v4().simple()));
    let result = write_version(&version, payload, group).and_then(|()| switch(dir, &version, payload));
    if let Err(error) = result {
        let _ = std::fs::remove_dir_all(&version);
        return Err(error);
    }
    remove_unused(dir, &version, payload);
    Ok(true)
}

fn write_version(version: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    std::fs::create_dir_all(version)?;
    std::fs::set_permissions(version, std::fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        if !is_safe(path) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("invalid path {path:?}"),
            ));
        }
        let target = version.join(path);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&target, &file.data)?;
        let mode = file.mode | if group.is_some() { 0o440 } else { 0 };
        if file.uid.is_some() || group.is_some() {
            std::os::unix::fs::chown(&target, file.uid, group)?;
        }
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(mode))?;
    }
    if group.is_some() {
        own_dirs(version, group)?;
    }
    Ok(())
}

fn own_dirs(dir: &Path, group: Option<u32>) -> io::Result<()> {
    std::os::unix::fs::chown(dir, None, group)?;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            own_dirs(&entry.path(), group)?;
        }
    }
    Ok(())
}

fn switch(dir: &Path, version: &Path, payload: &Payload) -> io::Result<()> {
    let name = version.file_name().unwrap_or_default();
    let new = dir.join(DATA_NEW);
    let _ = std::fs::remove_file(&new);
    symlink(name, &new)?;
    std::fs::rename(&new, dir.join(DATA))?;
    for top in tops(payload) {
        let link = dir.join(&top);
        if std::fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(&top), &link)?;
        }
    }
    Ok(())
}

/// First components of the paths: what is seen in the volume's directory.
fn tops(payload: &Payload) -> std::collections::BTreeSet<PathBuf> {
    payload
        .keys()
        .filter_map(|path| {
            Path::new(path)
                .components()
                .next()
                .map(|c| PathBuf::from(c.as_os_str()))
        })
        .collect()
}

/// Removes older versions, and links to what is not there any more. What cannot be removed does no harm.
fn remove_unused(dir: &Path, version: &Path, payload: &Payload) {
    let tops = tops(payload);
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = PathBuf::from(entry.file_name());
        let path = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with("..");
        let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
        if ours && is_dir && path != version {
            let _ = std::fs::remove_dir_all(&path);
        } else if !ours && !is_dir && !tops.contains(&name) {
            let _ = std::fs::remove_file(&path);
        }
    }
}

fn same(version: &Path, payload: &Payload, group: Option<u32>) -> bool {
    use std::os::unix::fs::MetadataExt;
    let mut files = Vec::new();
    list(version, version, &mut files);
    files.len() == payload.len()
        && payload.iter().all(|(path, file)| {
            let target = version.join(path);
            let owned = std::fs::metadata(&target)
                .is_ok_and(|m| group.is_none_or(|g| m.gid() == g) && m.uid() == file.uid.unwrap_or(0));
            owned && std::fs::read(&target).is_ok_and(|data| data == file.data)
        })
}

fn list(root: &Path, dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            list(root, &path, files);
        } else if let Ok(relative) = path.strip_prefix(root) {
            files.push(relative.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |data: &str| File {
            data: data.into(),
            mode: 0o644,
            uid: None,
        };
        files
            .iter()
            .map(|(path, data)| ((*path).into(), file(data)))
            .collect()
    }

    #[test]
    fn replaces_the_whole_set_through_one_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path();
        assert!(write(root, &payload(&[("a", "1"), ("sub/b", "2")]), None).expect("written"));
        assert_eq!(std::fs::read_to_string(root.join("sub/b")).expect("read"), "2");
        let before = std::fs::read_link(root.join("..data")).expect("a link");
        assert!(!write(root, &payload(&[("a", "1"), ("sub/b", "2")]), None).expect("unchanged"));
        assert_eq!(std::fs::read_link(root.join("..data")).expect("a link"), before);
        assert!(write(root, &payload(&[("a", "3")]), None).expect("written"));
        assert_eq!(std::fs::read_to_string(root.join("a")).expect("read"), "3");
        assert!(std::fs::symlink_metadata(root.join("sub")).is_err());
        let versions = std::fs::read_dir(root).expect("list").flatten();
        assert_eq!(
            versions.filter(|e| e.file_type().expect("type").is_dir()).count(),
            1
        );
    }

    #[test]
    fn refuses_paths_that_lead_out() {
        let dir = tempfile::tempdir().expect("a directory");
        for path in ["../x", "/etc/x", "a/../../x", "..data", ""] {
            assert!(
                write(dir.path(), &payload(&[(path, "1")]), None).is_err(),
                "{path}"
            );
        }
    }

    proptest! {
        #[test]
        fn safe_paths_have_no_parents(path in "[a./]{0,12}") {
            if is_safe(&path) {
                prop_assert!(!path.starts_with('/') && !path.split('/').any(|c| c == ".."));
            }
        }
    }
}
