//! `fsGroup`: gives a volume to a group.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

const DIR_BITS: u32 = 0o2770;
const FILE_BITS: u32 = 0o660;
const READ_ONLY_BITS: u32 = 0o440;

/// Gives everything below `path` to `group`, readable and (unless `read_only`) writable for it; new files in
/// its directories belong to the group too. With `only_on_mismatch`, nothing is done when the root of the volume
/// is right already.
pub fn give(path: &Path, group: u32, read_only: bool, only_on_mismatch: bool) -> io::Result<()> {
    if only_on_mismatch {
        let root = std::fs::metadata(path)?;
        let wanted = if read_only {
            READ_ONLY_BITS | 0o2110
        } else {
            DIR_BITS
        };
        if root.gid() == group && root.mode() & wanted == wanted {
            return Ok(());
        }
    }
    walk(path, group, read_only)
}

fn walk(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let metadata = std::fs::symlink_metadata(path)?;
    lchown(path, None, Some(group))?;
    if metadata.file_type().is_symlink() {
        return Ok(());
    }
    let bits = match (metadata.is_dir(), read_only) {
        (true, false) => DIR_BITS,
        (true, true) => READ_ONLY_BITS | 0o2110,
        (false, false) => FILE_BITS,
        (false, true) => READ_ONLY_BITS,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(metadata.mode() | bits))?;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            walk(&entry?.path(), group, read_only)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_may_write() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("f");
        std::fs::write(&file, "x").expect("written");
        let own = std::fs::metadata(dir.path()).expect("metadata").gid();
        give(dir.path(), own, false, false).expect("given");
        assert_eq!(std::fs::metadata(&file).expect("metadata").mode() & 0o777, 0o664);
        assert_eq!(
            std::fs::metadata(dir.path()).expect("metadata").mode() & 0o2070,
            0o2070
        );
    }
}
