//! hostPath: a path of the node, checked or made as its type says.

use super::Error;
use std::fs::OpenOptions;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Checks that `path` is what `type_` says; the `OrCreate` types make it.
pub fn check(path: &Path, type_: &str) -> Result<(), Error> {
    let found = std::fs::metadata(path).ok().map(|m| m.file_type());
    let failed = |what: &str| {
        Err(Error::Source(format!(
            "hostPath type check failed: {} is not {what}",
            path.display()
        )))
    };
    match (type_, found) {
        ("", _) => Ok(()),
        ("DirectoryOrCreate", None) => std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path)
            .map_err(Error::io("create", path)),
        ("FileOrCreate", None) => OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o644)
            .open(path)
            .map(drop)
            .map_err(Error::io("create", path)),
        ("Directory" | "DirectoryOrCreate", found) if !found.is_some_and(|t| t.is_dir()) => {
            failed("a directory")
        }
        ("File" | "FileOrCreate", found) if !found.is_some_and(|t| t.is_file()) => failed("a file"),
        ("Socket", found) if !found.is_some_and(|t| t.is_socket()) => failed("a socket file"),
        ("CharDevice", found) if !found.is_some_and(|t| t.is_char_device()) => failed("a character device"),
        ("BlockDevice", found) if !found.is_some_and(|t| t.is_block_device()) => failed("a block device"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("new");
        assert!(check(&path, "Directory").is_err());
        check(&path, "DirectoryOrCreate").expect("made");
        check(&path, "Directory").expect("there");
        assert!(check(&path, "File").is_err());
        check(Path::new("/dev/null"), "CharDevice").expect("a device");
    }
}
