//! What a process tells its service manager.

use crate::SOCKET_VARIABLE;
use crate::message::{Message, valid};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix};
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

/// The service manager of this process.
#[derive(Clone, Debug)]
pub struct Manager {
    socket: PathBuf,
}

impl Manager {
    /// The one that the environment names, if there is one. Its socket must be a path: abstract sockets, which belong to
    /// a network namespace, are passed over.
    pub fn from_env() -> Option<Self> {
        let socket = PathBuf::from(std::env::var_os(SOCKET_VARIABLE)?);
        socket.is_absolute().then_some(Self { socket })
    }

    /// The one that listens on `socket`.
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// Has a duplicate of `descriptor` kept until [`Manager::remove`] or until this process is stopped for good. Does not
    /// wait: a manager that takes nothing is an error.
    pub fn store(&self, name: &str, descriptor: BorrowedFd<'_>) -> Result<()> {
        self.send(Message::Store(name.to_owned()), name, &[descriptor])
    }

    /// Has it forgotten.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.send(Message::Remove(name.to_owned()), name, &[])
    }

    /// Tells one socket of the manager from the next at the same path: a manager that was started anew has nothing.
    pub fn instance(&self) -> Option<(u64, i64, i64)> {
        let found = std::fs::metadata(&self.socket).ok()?;
        // A new file may well get the number of the old one.
        Some((found.ino(), found.ctime(), found.ctime_nsec()))
    }

    fn send(&self, message: Message, name: &str, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        if !valid(name) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("name: {name:?}")));
        }
        let socket = UnixDatagram::unbound()?;
        let text = message.text();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
            debug_assert!(fits, "there is space for one descriptor");
        }
        let address = SocketAddrUnix::new(&self.socket)?;
        rustix::net::sendmsg_addr(
            &socket,
            &address,
            &[IoSlice::new(text.as_bytes())],
            &mut control,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        )?;
        Ok(())
    }
}
