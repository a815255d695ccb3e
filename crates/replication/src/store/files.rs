//! The core's [`Disk`] on a real directory.

use crate::core::disk::{Disk, DiskFile};
use rustix::fs::FallocateFlags;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

/// A directory that belongs to one replica.
pub struct Directory(pub PathBuf);

impl Disk for Directory {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = File::options().read(true).write(true).open(self.0.join(name))?;
        Ok(Arc::new(OpenFile(file)))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.0.join(name))?;
        Ok(Arc::new(OpenFile(file)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.0.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

struct OpenFile(File);

/// Most pieces in one system call (Linux: 1024).
const MAX_PIECES: usize = 512;
/// Zeroes written at a time while a file is preallocated, bytes.
const ZERO_BYTES: usize = 1 << 20;

impl DiskFile for OpenFile {
    fn pread(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn pwritev(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        let mut offset = offset;
        for group in parts.chunks(MAX_PIECES) {
            let mut slices: Vec<IoSlice<'_>> = group.iter().map(|part| IoSlice::new(part)).collect();
            let mut rest = &mut slices[..];
            while rest.iter().any(|slice| !slice.is_empty()) {
                match rustix::io::pwritev(&self.0, rest, offset) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(n) => {
                        offset += n as u64;
                        IoSlice::advance_slices(&mut rest, n);
                    }
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(e) => return Err(e.into()),
                }
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        // Written, not only reserved: an extent that was never written costs a metadata commit at its first sync.
        rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, len)?;
        let zeroes = vec![0; ZERO_BYTES.min(len as usize)];
        let mut at = 0;
        while at < len {
            let piece = zeroes.len().min((len - at) as usize);
            self.0.write_all_at(&zeroes[..piece], at)?;
            at += piece as u64;
        }
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        rustix::fs::fallocate(
            &self.0,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            offset,
            len,
        )?;
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.blocks() * 512)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_do_what_the_core_expects() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Directory(temporary.path().into());
        assert!(dir.open("a").is_err());
        let file = dir.create("a").unwrap();
        let many: Vec<Vec<u8>> = (0..1500).map(|i| vec![i as u8; 3]).collect();
        let parts: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
        file.pwritev(&parts, 10).unwrap();
        file.sync().unwrap();
        dir.sync_dir().unwrap();
        let mut back = vec![9; 5000];
        assert_eq!(file.pread(&mut back, 0).unwrap(), 4510);
        assert_eq!(&back[..10], &[0; 10]);
        assert_eq!(back[10..4510], many.concat());
        file.set_len(1 << 20).unwrap();
        let sparse = file.allocated().unwrap();
        let full = dir.create("b").unwrap();
        full.preallocate(1 << 20).unwrap();
        assert!(full.allocated().unwrap() >= 1 << 20 && sparse < 1 << 16);
        full.punch(0, 1 << 19).unwrap();
        assert!(full.allocated().unwrap() < 1 << 20);
        let mut names = dir.list().unwrap();
        names.sort();
        assert_eq!(names, ["a", "b"]);
        dir.remove("a").unwrap();
        assert_eq!(dir.remove("a").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
