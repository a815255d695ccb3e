//! A [`BlockDevice`] as `/dev/loopN`.

use crate::fuse::{FILE_NAME, VolumeFs};
use crate::{BlockDevice, Error, connection, loopdev, mounts};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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
    /// A duplicate of the FUSE connection, for those who keep it beyond this process.
    connection: OwnedFd,
    server: Option<JoinHandle<()>>,
}

impl Attachment {
    /// Mounts `device` on the directory `dir`, which is made when missing, and puts a loop device on it.
    /// Blocks for as long as the kernel needs; the device must answer reads meanwhile.
    pub fn attach(device: Arc<dyn BlockDevice>, dir: &Path, options: Options) -> Result<Self, Error> {
        remove_below(dir, &[])?;
        std::fs::create_dir_all(dir).map_err(Error::file("create", dir))?;
        let file = mounts::mount(dir)?;
        let connection = duplicate(file.as_fd(), dir)?;
        let server = match serve(device, file.into(), options, connection::greet) {
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
                connection,
                server: Some(server),
            }),
            Err(error) => {
                let _ = mounts::unmount(dir, true);
                let _ = server.join();
                Err(error)
            }
        }
    }

    /// Goes on with a device that another process has served on `dir`, over the connection that somebody has kept
    /// ([`Attachment::connection`]). Requests that the other has taken and not answered are asked for again, so that the
    /// users of the device notice a pause only; Linux 6.9 and later do that. `device` must serve what the other served, and
    /// `options` be the same.
    ///
    /// After an error the mount is still there: [`clean_stale`] removes it.
    pub fn resume(
        device: Arc<dyn BlockDevice>,
        dir: &Path,
        kept: OwnedFd,
        options: Options,
    ) -> Result<Self, Error> {
        let file = dir.join(FILE_NAME);
        let loop_device = device_on(dir).ok_or(Error::NotThere { file })?;
        let connection = duplicate(kept.as_fd(), dir)?;
        let server = serve(device, kept, options, connection::rejoin)
            .map_err(Error::file("go on with the FUSE connection of", dir))?;
        Ok(Self {
            dir: dir.into(),
            loop_device,
            connection,
            server: Some(server),
        })
    }

    /// What must be kept for [`Attachment::resume`]. As long as somebody keeps it the device waits for its next server;
    /// else its requests fail when this process ends.
    pub fn connection(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
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

/// Serves the connection on a thread of its own, which begins with `begin`.
fn serve(
    device: Arc<dyn BlockDevice>,
    connection: OwnedFd,
    options: Options,
    begin: fn(VolumeFs, OwnedFd) -> std::io::Result<fuser::Session<VolumeFs>>,
) -> std::io::Result<JoinHandle<()>> {
    let (started, ready) = std::sync::mpsc::sync_channel(1);
    let server = std::thread::Builder::new().name("fuse".into()).spawn(move || {
        let fs = VolumeFs::new(device, options.read_only);
        match begin(fs, connection) {
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

fn duplicate(connection: BorrowedFd<'_>, dir: &Path) -> Result<OwnedFd, Error> {
    connection
        .try_clone_to_owned()
        .map_err(Error::file("duplicate the FUSE connection of", dir))
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

/// The device that a process, which may have ended, has exposed on the directory `dir`.
pub fn device_on(dir: &Path) -> Option<PathBuf> {
    let path = dir.join(FILE_NAME);
    // Not a look at the file itself: perhaps nobody answers.
    let devices = loopdev::find_below(dir).ok()?;
    devices
        .into_iter()
        .find_map(|(device, file)| (file == path).then_some(device))
}

/// Removes the mounts and loop devices that a killed process left below `dir`. What is mounted on such a loop
/// device has lost it: it goes when that is unmounted. What lies on or below one of `kept`, whose connections somebody has,
/// stays. Returns how many mounts there were.
pub fn clean_stale(dir: &Path, kept: &[PathBuf]) -> Result<usize, Error> {
    remove_below(dir, kept)
}

fn remove_below(dir: &Path, kept: &[PathBuf]) -> Result<usize, Error> {
    let stale = |path: &Path| !kept.iter().any(|kept| path.starts_with(kept));
    let mut mounted = mounts::find_below(dir)?;
    mounted.retain(|point| stale(point));
    // While they are mounted, the loop devices can be told by the path of their file.
    let mut loops = loopdev::find_below(dir)?;
    loops.retain(|(_, file)| stale(file));
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
