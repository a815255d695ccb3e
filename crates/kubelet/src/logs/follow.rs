//! Waits for a file to grow or to be rotated, through inotify.

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::os::fd::AsFd;
use std::path::Path;
use tokio::net::unix::pipe;

/// Room for events between two reads; more of them mean no more than these.
const BUFFER_BYTES: usize = 1024;
/// Size of an event of a watched file: watch, mask, cookie, length of the name (0), four bytes each.
const EVENT_BYTES: usize = 16;
/// The file was renamed, removed, or is not watched any more.
const GONE: u32 = 0x0000_0800 | 0x0000_0400 | 0x0000_8000;

/// A watched file.
pub struct Watch {
    /// The inotify descriptor is read like a pipe.
    events: pipe::Receiver,
    rotated: bool,
}

impl Watch {
    /// Watches `path`.
    pub fn new(path: &Path) -> std::io::Result<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let watch = Self {
            events: pipe::Receiver::from_owned_fd_unchecked(fd)?,
            rotated: false,
        };
        watch.add(path)?;
        Ok(watch)
    }

    fn add(&self, path: &Path) -> std::io::Result<()> {
        let flags = WatchFlags::MODIFY | WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF | WatchFlags::ATTRIB;
        inotify::add_watch(self.events.as_fd(), path, flags)?;
        Ok(())
    }

    /// Watches the file that took the place of the rotated one.
    pub fn renew(&mut self, path: &Path) -> std::io::Result<()> {
        self.rotated = false;
        self.add(path)
    }

    /// Whether the file was moved away, as far as is known now.
    pub fn rotated(&mut self) -> bool {
        self.drain();
        self.rotated
    }

    /// Returns when something happened to the file.
    pub async fn changed(&mut self) {
        // Fails only when the runtime shuts down.
        let _ = self.events.readable().await;
        self.drain();
    }

    fn drain(&mut self) {
        let mut buffer = [0; BUFFER_BYTES];
        while let Ok(count @ 1..) = self.events.try_read(&mut buffer) {
            for event in buffer[..count].chunks_exact(EVENT_BYTES) {
                let mask = u32::from_ne_bytes([event[4], event[5], event[6], event[7]]);
                self.rotated |= mask & GONE != 0;
            }
        }
    }
}
