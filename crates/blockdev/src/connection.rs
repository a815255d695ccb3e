//! How a FUSE session begins: with the kernel's greeting on a new mount, or in the midst of one that another process has
//! served (`linux/fuse.h`; FUSE_NOTIFY_RESEND is in Linux since 6.9).

use crate::fuse::VolumeFs;
use fuser::{Config, Session, SessionACL};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io::{Error, ErrorKind, Result};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// FUSE_INIT, the greeting.
const INIT: u32 = 26;
/// Protocol version 7.40: what the library must know is in it, and no reply of ours depends on what came later.
const VERSION: [u32; 2] = [7, 40];
/// FUSE_NOTIFY_RESEND.
const RESEND: i32 = 7;
/// Length of `fuse_in_header` and of `fuse_init_in`, bytes.
const HEADER_BYTES: usize = 40;
const INIT_BYTES: usize = 64;
/// Room for the reply to the greeting, bytes.
const REPLY_BYTES: usize = 256;

/// Begins on a fresh mount.
pub(crate) fn greet(fs: VolumeFs, connection: OwnedFd) -> Result<Session<VolumeFs>> {
    Session::from_fd(fs, connection, SessionACL::All, Config::default())
}

/// Begins on a mount whose greeting is long past.
///
/// The library knows no such thing: it waits for the greeting first. So it is greeted over a socket, with the same words as
/// the kernel's, and the connection is put into the socket's place afterwards. What the kernel and the first server agreed
/// on stays as it is; both run this code.
pub(crate) fn rejoin(fs: VolumeFs, connection: OwnedFd) -> Result<Session<VolumeFs>> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::io::write(&ours, &greeting())?;
    let session = Session::from_fd(fs, theirs, SessionACL::All, Config::default())?;
    let mut reply = [0; REPLY_BYTES];
    let length = rustix::io::read(&ours, &mut reply)?;
    check_reply(&reply[..length.min(REPLY_BYTES)])?;
    let number = session.as_fd().as_raw_fd();
    // SAFETY: the descriptor is the session's, which outlives this borrow of it; `ManuallyDrop` leaves it open.
    let mut place = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
    // Atomic: whoever uses the number afterwards uses the connection.
    rustix::io::dup3(&connection, &mut place, rustix::io::DupFlags::CLOEXEC)?;
    // Before the first request is read: what this session has taken must not come again.
    ask_again(connection.as_fd())?;
    Ok(session)
}

fn greeting() -> Vec<u8> {
    let length = (HEADER_BYTES + INIT_BYTES) as u32;
    let mut message = Vec::with_capacity(length as usize);
    message.extend(length.to_ne_bytes());
    message.extend(INIT.to_ne_bytes());
    // The number of the request; the rest of the header is zero, as in the kernel's.
    message.extend(1u64.to_ne_bytes());
    message.resize(HEADER_BYTES, 0);
    for word in VERSION {
        message.extend(word.to_ne_bytes());
    }
    message.resize(length as usize, 0);
    message
}

/// `fuse_out_header`: length, error, number of the request.
fn check_reply(reply: &[u8]) -> Result<()> {
    let word = |at: usize| reply.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    match word(4).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(Error::from_raw_os_error(-error)),
        None => Err(ErrorKind::InvalidData.into()),
    }
}

/// Has the kernel send what was taken from the connection and never answered.
fn ask_again(connection: BorrowedFd<'_>) -> Result<()> {
    let mut message = [0; 16];
    message[..4].copy_from_slice(&16u32.to_ne_bytes());
    message[4..8].copy_from_slice(&RESEND.to_ne_bytes());
    rustix::io::write(connection, &message)?;
    Ok(())
}
