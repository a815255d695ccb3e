//! Block devices over one [`BlockDevice`] trait: for the kernel a file in a FUSE mount under a loop device, for
//! everybody else an NBD server. Nothing here knows replication.
//!
//! ```text
//! ext4 ── /dev/loopN ── <dir>/volume (FUSE) ── BlockDevice
//! qemu, libnbd, fio ── Unix or TCP socket ── nbd::Server ── BlockDevice
//! ```
//!
//! - [`BlockDevice`]: what an implementation serves.
//! - [`Attachment`]: exposes one as `/dev/loopN`, grows it, takes it away; in another process goes on with it.
//! - [`nbd`]: serves devices to NBD clients.
//! - [`clean_stale`]: removes what a killed process left under its directory.

mod attach;
mod connection;
mod error;
mod fuse;
pub mod fuzz;
mod loopdev;
mod mounts;
pub mod nbd;

pub use attach::{Attachment, Options, clean_stale, device_on};
pub use error::Error;

use bytes::Bytes;

/// Answer to one request; called exactly once, from any thread. An error is an errno (`libc::EIO`).
pub type Done<T> = Box<dyn FnOnce(Result<T, i32>) + Send>;

/// A device that completes requests in any order. Offsets and lengths are bytes, and need not be aligned.
/// Semantics are Linux's: a completed write may be volatile until a later flush; FLUSH covers every request
/// completed before it was submitted; FUA completes on stable media.
///
/// The calls return at once; a device that is busy holds its requests back by completing them later. After the last of
/// the requests that come together, [`BlockDevice::start`] must be called: until then a device may gather them.
pub trait BlockDevice: Send + Sync + 'static {
    /// Size in bytes now; may grow.
    fn size_bytes(&self) -> u64;
    /// Reads exactly `len` bytes at `offset`.
    fn read(&self, offset: u64, len: u32, done: Done<Bytes>);
    /// Writes `data` at `offset`.
    fn write(&self, offset: u64, data: Bytes, fua: bool, done: Done<()>);
    /// Makes durable what was completed before.
    fn flush(&self, done: Done<()>);
    /// Makes the range read as zeroes; with `discard` its space may be freed.
    fn zero(&self, offset: u64, len: u64, discard: bool, done: Done<()>);
    /// Begins what was submitted before it, at the latest.
    fn start(&self) {}
    /// What is allocated from `offset` on, in order and without gaps: at least one extent that is not empty, at
    /// most `len` bytes of them. Saying [`Allocation::Data`] is always right, if not always helpful.
    fn extents(&self, offset: u64, len: u64, done: Done<Vec<Extent>>) {
        let _ = offset;
        let state = Allocation::Data;
        done(Ok(vec![Extent { len, state }]));
    }
    /// Offsets and lengths must be multiples of it, in bytes; 1 if they need not be aligned.
    fn block_bytes(&self) -> u32 {
        1
    }
    /// Whether zeroing a range costs about the same whatever its length.
    fn zeroes_fast(&self) -> bool {
        false
    }
}

/// What a range holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// Anything.
    Data,
    /// Zeroes that have space.
    Zero,
    /// Zeroes without space.
    Hole,
}

/// A run of bytes in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes.
    pub len: u64,
    /// Its state.
    pub state: Allocation,
}
