//! How an attached volume is exposed: as a block device of this node's kernel, or to NBD clients.

use super::crypt::{self, CryptDevice, VolumeKey};
use super::node::{Error, Node};
use super::volume::Volume;
use crate::net::control::VolumeSpec;
use crate::net::identity::Identity;
use blockdev::nbd::{Address, Export, Server, Tls};
use blockdev::{Attachment, BlockDevice, Options};
use parking_lot::Mutex;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// What an attach asks for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Refuse writes.
    pub read_only: bool,
    /// Serve NBD there instead of making a device.
    pub nbd: Option<Address>,
    /// Secret of an encrypted volume; empty if it is not.
    pub key: Vec<u8>,
}

/// The exposed device.
pub enum Exposed {
    /// A device of the kernel.
    Device(Mutex<Attachment>),
    /// An NBD server, and where it was asked to be.
    Nbd(Server, Address),
}

/// TLS for NBD on TCP, with the engine's own identity. Who may write volumes may connect.
pub fn nbd_tls(files: &tls::IdentityFiles, cluster: &str) -> Result<Tls, tls::Error> {
    let config = tls::server_config(files, tls::ClientAuth::Required, &[])?;
    let cluster = cluster.to_owned();
    Ok(Tls {
        acceptor: TlsAcceptor::from(config),
        allow: Arc::new(move |chain| {
            Identity::of_chain(chain).is_some_and(|peer| peer.cluster == cluster && peer.may_write())
        }),
    })
}

/// The cipher of a volume, if it is encrypted, or why the key given does not fit.
pub(super) fn check_key(spec: &VolumeSpec, wanted: &Wanted) -> Result<Option<VolumeKey>, Error> {
    crypt::unlock(&spec.labels, &wanted.key).map_err(|error| match error {
        crypt::Error::Length(_) => Error::Invalid(error.to_string()),
        other => Error::State(other.to_string()),
    })
}

/// What is exposed of a volume.
fn device(volume: &Volume, wanted: &Wanted) -> Result<Arc<dyn BlockDevice>, Error> {
    let plain: Arc<dyn BlockDevice> = Arc::new(volume.device());
    Ok(match check_key(&volume.spec, wanted)? {
        None => plain,
        Some(key) => Arc::new(CryptDevice::new(plain, key)),
    })
}

impl Exposed {
    /// Exposes an open volume.
    pub async fn make(node: &Node, volume: &Volume, wanted: &Wanted, dir: PathBuf) -> Result<Self, Error> {
        let device = device(volume, wanted)?;
        let read_only = wanted.read_only;
        let Some(address) = &wanted.nbd else {
            let made = blocking(move || Attachment::attach(device, &dir, Options { read_only })).await?;
            return Ok(Self::Device(Mutex::new(made)));
        };
        let export = Export {
            name: volume.spec.volume.clone(),
            description: format!("{} volume of Hikube", volume.spec.class),
            read_only,
            device,
        };
        // A Unix socket is protected by its mode; a network is not protected by anything.
        let tls = matches!(address, Address::Tcp(_)).then(|| node.nbd_tls.clone());
        let server = Server::start(address, vec![export], tls).await?;
        Ok(Self::Nbd(server, address.clone()))
    }

    /// Goes on with the device that another process has served on `dir`, see [`Attachment::resume`].
    pub async fn resume(
        volume: &Volume,
        wanted: &Wanted,
        dir: PathBuf,
        connection: OwnedFd,
    ) -> Result<Self, Error> {
        let device = device(volume, wanted)?;
        let read_only = wanted.read_only;
        let resumed =
            blocking(move || Attachment::resume(device, &dir, connection, Options { read_only })).await?;
        Ok(Self::Device(Mutex::new(resumed)))
    }

    /// A duplicate of what must be kept for [`Exposed::resume`]. NBD clients connect again by themselves.
    pub fn connection(&self) -> Option<OwnedFd> {
        match self {
            Self::Device(attachment) => attachment.lock().connection().try_clone_to_owned().ok(),
            Self::Nbd(..) => None,
        }
    }

    /// What a user opens: the path of a device, or an NBD URI.
    pub fn name(&self, volume: &str) -> String {
        match self {
            Self::Device(attachment) => attachment.lock().path().display().to_string(),
            Self::Nbd(server, _) => match server.address() {
                Address::Unix(path) => format!("nbd+unix:///{volume}?socket={}", path.display()),
                Address::Tcp(address) => format!("nbds://{address}/{volume}"),
            },
        }
    }

    /// Whether this is what `wanted` asks for.
    pub fn is_at(&self, wanted: Option<&Address>) -> bool {
        match self {
            Self::Device(_) => wanted.is_none(),
            Self::Nbd(_, asked) => wanted == Some(asked),
        }
    }

    /// Whether it still works.
    pub fn is_alive(&self) -> bool {
        match self {
            Self::Device(attachment) => attachment.lock().is_alive(),
            Self::Nbd(server, _) => server.is_alive(),
        }
    }

    /// Whether somebody uses it. Blocks.
    pub fn in_use(&self) -> bool {
        match self {
            Self::Device(attachment) => attachment.lock().in_use(),
            Self::Nbd(server, _) => server.connections() > 0,
        }
    }

    /// Tells the kernel that the device has grown; NBD clients see it when they connect again. Blocks.
    pub fn grow(&self) -> Result<(), blockdev::Error> {
        match self {
            Self::Device(attachment) => attachment.lock().grow(),
            Self::Nbd(..) => Ok(()),
        }
    }

    /// Takes it away. Blocks.
    pub fn detach(&self, force: bool) -> Result<(), blockdev::Error> {
        match self {
            Self::Device(attachment) => attachment.lock().detach(force),
            Self::Nbd(server, _) => {
                server.stop();
                Ok(())
            }
        }
    }
}

/// Runs what blocks on a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, blockdev::Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(Error::State(error.to_string())),
    }
}
