//! Log files of bounded size. Components hold their file open for appending and are not told of a rotation, so
//! the content is copied aside and the file is cut to nothing; a line written between the two is lost.

use std::io::Result;
use std::path::Path;

/// A file above this size is rotated; one older file is kept.
const MOST_BYTES: u64 = 16 << 20;

/// Rotates the file if it has grown too large.
pub(super) fn rotate(path: &Path) -> Result<()> {
    rotate_above(path, MOST_BYTES)
}

fn rotate_above(path: &Path, most_bytes: u64) -> Result<()> {
    let size = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    if size <= most_bytes {
        return Ok(());
    }
    std::fs::copy(path, path.with_extension("log.1"))?;
    std::fs::OpenOptions::new().write(true).open(path)?.set_len(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn an_open_log_goes_on_after_rotation() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.log");
        let mut log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .expect("opened");
        log.write_all(b"first line\n").expect("written");
        rotate_above(&path, 100).expect("too small to rotate");
        rotate_above(&path, 5).expect("rotated");
        log.write_all(b"second\n").expect("written");
        assert_eq!(std::fs::read(&path).expect("there"), b"second\n");
        assert_eq!(
            std::fs::read(dir.path().join("x.log.1")).expect("kept"),
            b"first line\n"
        );
    }
}
