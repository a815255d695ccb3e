//! What a replica needs of a file system, for the directory of one volume. The driver implements it with real
//! files, the simulator with memory that tears, rots and forgets.

use std::io;
use std::sync::Arc;

/// A directory that belongs to one replica alone. Names have no slashes.
pub trait Disk: Send + 'static {
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Creates (or truncates) a file. Durable only after `sync` of the file and [`Disk::sync_dir`].
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Removes a file; `NotFound` is an error.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations and removals durable.
    fn sync_dir(&self) -> io::Result<()>;
}

/// One open file. Offsets are bytes; reads past the end return what there is.
pub trait DiskFile: Send + Sync {
    /// Reads at `offset` until `buf` is full or the file ends; returns the bytes read.
    fn pread(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of the slices one after the other, growing the file when needed.
    fn pwritev(&self, parts: &[&[u8]], offset: u64) -> io::Result<()>;
    /// fdatasync: everything written before the call is on stable media when it returns. After an error the file
    /// must not be used again.
    fn sync(&self) -> io::Result<()>;
    /// Reserves and writes zeroes for `len` bytes, so that later writes allocate nothing.
    fn preallocate(&self, len: u64) -> io::Result<()>;
    /// Frees the space of a range, which then reads as zeroes. May do nothing.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Makes a sparse file of that size, keeping its content.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Allocated bytes, for accounting only.
    fn allocated(&self) -> io::Result<u64>;
}
