//! A [`BlockDevice`] as `/dev/loopN`.

use crate::fuse::{FILE_NAME, VolumeFs};
use crate::{BlockDevice, Error, loopdev, mounts};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

/// How to expose a device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Refuse writes.
    pub read_only: bool,
}

/// Logical block size of the loop device: that of the replicas, so that no write is smaller than a block.
const BLOCK_BYTES: u32 = 4096;

/// A device that the kernel uses. Dropping it leaves the device there (its requests then fail); take it away
/// with [`Attachment::detach`].
pub struct Attachment {
    dir: PathBuf,
    loop_device: PathBuf,
    server: Option<JoinHandle<()>>,
}

impl Attachment {
    /// Mounts `device` on the directory `dir`, which is made when missing, and puts a loop device on it.
    /// Blocks for as long as the kernel needs; the device must answer reads meanwhile.
    pub fn attach(device: Arc<dyn BlockDevice>, dir: &Path, options: Options) -> Result<Self, Error> {
        remove_below(dir)?;
        std::fs::create_dir_all(dir).map_err(Error::file("create", dir))?;
        let connection = mounts::mount(dir)?;
        let server = match serve(device, connection, options) {
            Ok(server) => server,
            Err(e) => {
                let _ = mounts::unmount(dir, true);
                return Err(Error::file("start a FUSE thread for", dir)(e));
            }
        };
        match expose(dir, options) {
            Ok(loop_device) => Ok(Self {
                dir: dir.into(),
                loop_device,
                server: Some(server),
            }),
            Err(error) => {
                let _ = mounts::unmount(dir, true);
                let _ = server.join();
                Err(error)
            }
        }
    }

    /// Path of the block device.
    pub fn path(&self) -> &Path {
        &self.loop_device
    }

    /// Whether the loop device still stands on this mount and the mount is served.
    pub fn is_alive(&self) -> bool {
        self.server.as_ref().is_some_and(|server| !server.is_finished())
            && loopdev::backing_file(&self.loop_device) == Some(self.dir.join(FILE_NAME))
    }

    /// Whether a file system is mounted on the device or something else holds it.
    pub fn in_use(&self) -> bool {
        matches!(loopdev::claim(&self.loop_device), Err(Error::InUse { .. }))
    }

    /// Makes the kernel see that the device has grown.
    pub fn grow(&self) -> Result<(), Error> {
        // Older kernels take the size that they know: let them ask for it.
        let file = self.dir.join(FILE_NAME);
        std::fs::metadata(&file).map_err(Error::file("stat", &file))?;
        loopdev::refresh_size(&self.loop_device)
    }

    /// Removes the loop device and the mount. A device in use is refused, unless `force`: then its requests
    /// fail, and it goes when its last user closes it. What the device was told to keep is flushed unless forced.
    pub fn detach(&mut self, force: bool) -> Result<(), Error> {
        if force {
            // First, so that nothing below waits for requests that cannot be completed.
            mounts::unmount(&self.dir, true)?;
        } else if self.is_alive() {
            let claim = loopdev::claim(&self.loop_device)?;
            claim
                .sync_all()
                .map_err(Error::on_loop("flush", &self.loop_device))?;
        }
        // A device that was cleared by somebody else may have another file by now.
        if force || loopdev::backing_file(&self.loop_device) == Some(self.dir.join(FILE_NAME)) {
            let gone = loopdev::clear(&self.loop_device)?;
            if !gone && !force {
                return Err(Error::InUse {
                    device: self.loop_device.clone(),
                });
            }
        }
        mounts::unmount(&self.dir, force)?;
        if let Some(server) = self.server.take() {
            // A lazily detached mount with an open descriptor is served until that is closed.
            if force && !server.is_finished() {
                drop(server);
            } else {
                let _ = server.join();
            }
        }
        let _ = std::fs::remove_dir(&self.dir);
        Ok(())
    }
}

fn serve(
    device: Arc<dyn BlockDevice>,
    connection: File,
    options: Options,
) -> std::io::Result<JoinHandle<()>> {
    let (started, ready) = std::sync::mpsc::sync_channel(1);
    let server = std::thread::Builder::new().name("fuse".into()).spawn(move || {
        let fs = VolumeFs::new(device, options.read_only);
        let session = fuser::Session::from_fd(
            fs,
            connection.into(),
            fuser::SessionACL::All,
            fuser::Config::default(),
        );
        match session {
            Ok(session) => {
                let _ = started.send(Ok(()));
                if let Err(error) = session.run() {
                    tracing::debug!(%error, "FUSE connection ended");
                }
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        }
    })?;
    match ready.recv() {
        Ok(Ok(())) => Ok(server),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(std::io::Error::other("the FUSE thread ended")),
    }
}

fn expose(dir: &Path, options: Options) -> Result<PathBuf, Error> {
    let path = dir.join(FILE_NAME);
    let file = File::options()
        .read(true)
        .write(!options.read_only)
        .open(&path)
        .map_err(Error::file("open", &path))?;
    let device = loopdev::attach(&file, &path, BLOCK_BYTES, options.read_only)?;
    if !loopdev::is_direct(&device) {
        tracing::info!(device = %device.display(), "this kernel caches the loop device's file");
    }
    Ok(device)
}

/// Removes the mounts and loop devices that a killed process left below `dir`. What is mounted on such a loop
/// device has lost it: it goes when that is unmounted. Returns how many mounts there were.
pub fn clean_stale(dir: &Path) -> Result<usize, Error> {
    remove_below(dir)
}

fn remove_below(dir: &Path) -> Result<usize, Error> {
    let mounted = mounts::find_below(dir)?;
    // While they are mounted, the loop devices can be told by the path of their file.
    let loops = loopdev::find_below(dir)?;
    for point in &mounted {
        mounts::unmount(point, true)?;
    }
    for (device, file) in loops {
        let gone = loopdev::clear(&device)?;
        tracing::info!(device = %device.display(), file = %file.display(), gone, "removed a stale loop device");
    }
    for point in &mounted {
        let _ = std::fs::remove_dir(point);
    }
    Ok(mounted.len())
}
