//! What a service manager keeps for one process.

use crate::message::Message;
use parking_lot::Mutex;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use std::collections::BTreeMap;
use std::io::{IoSliceMut, Result};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

/// Descriptors kept for one process: two for each of the volumes that a node can have.
const MAX_DESCRIPTORS: usize = 1024;
/// Longest notification, bytes.
const MAX_TEXT: usize = 4096;
/// Descriptors that one notification may carry; those beyond are closed by the kernel.
const MAX_IN_MESSAGE: usize = 8;

type Kept = Arc<Mutex<BTreeMap<String, OwnedFd>>>;

/// Receives and keeps the descriptors of one process, across its restarts.
#[derive(Debug)]
pub struct Store {
    socket: PathBuf,
    kept: Kept,
    receiver: JoinHandle<()>,
}

impl Store {
    /// Listens on `socket`, which only this user can write to. Must be called in a tokio runtime.
    pub fn listen(socket: &Path) -> Result<Self> {
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixDatagram::bind(socket)?;
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        // SAFETY: the `AsyncFd` owns the socket, which nobody else knows, so it stays open and the same.
        let listener = unsafe { AsyncFd::register_with_interest(listener, tokio::io::Interest::READABLE) }?;
        let kept = Kept::default();
        let receiver = tokio::spawn(receive_all(listener, kept.clone()));
        Ok(Self {
            socket: socket.into(),
            kept,
            receiver,
        })
    }

    /// Duplicates of what is kept, by name, to start the process with.
    pub fn descriptors(&self) -> Result<Vec<(String, OwnedFd)>> {
        let kept = self.kept.lock();
        let copies = kept.iter().map(|(name, fd)| Ok((name.clone(), fd.try_clone()?)));
        copies.collect()
    }

    /// Closes what is kept: the process was stopped for good.
    pub fn clear(&self) {
        self.kept.lock().clear();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.receiver.abort();
        let _ = std::fs::remove_file(&self.socket);
    }
}

async fn receive_all(listener: AsyncFd<UnixDatagram>, kept: Kept) {
    loop {
        let Ok(mut ready) = listener.readable().await else {
            return;
        };
        match ready.try_io(|listener| receive(listener.get_ref())) {
            Ok(Ok((message, descriptor))) => apply(&mut kept.lock(), message, descriptor),
            Ok(Err(error)) => tracing::info!(%error, "a notification could not be received"),
            // Somebody was faster, or nothing was there.
            Err(_would_block) => {}
        }
    }
}

fn receive(listener: &UnixDatagram) -> Result<(Option<Message>, Option<OwnedFd>)> {
    let mut text = [0; MAX_TEXT];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_IN_MESSAGE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        listener,
        &mut [IoSliceMut::new(&mut text)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )?;
    let descriptors = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
        _ => Vec::new(),
    });
    // Whatever is not kept is closed here.
    let descriptor = descriptors.collect::<Vec<_>>().into_iter().next();
    Ok((Message::parse(&text[..received.bytes.min(MAX_TEXT)]), descriptor))
}

fn apply(kept: &mut BTreeMap<String, OwnedFd>, message: Option<Message>, descriptor: Option<OwnedFd>) {
    match (message, descriptor) {
        (Some(Message::Store(name)), Some(descriptor)) => {
            if kept.len() >= MAX_DESCRIPTORS && !kept.contains_key(&name) {
                tracing::warn!(
                    name,
                    MAX_DESCRIPTORS,
                    "too many descriptors to keep: a restart will lose this one"
                );
                return;
            }
            kept.insert(name, descriptor);
        }
        (Some(Message::Remove(name)), _) => drop(kept.remove(&name)),
        _ => tracing::debug!("a notification about something else"),
    }
}
