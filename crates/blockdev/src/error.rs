//! Why a device could not be exposed or taken away.

use std::path::PathBuf;

/// What was attempted, on what, and why it failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be used.
    #[error("{action} {path}: {source}")]
    File {
        /// What was attempted, for example `open`.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The kernel refused a loop device operation.
    #[error("{action} on {device}: {source}")]
    Loop {
        /// Which operation.
        action: &'static str,
        /// On which device.
        device: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Each free loop device that the kernel offered was taken by somebody else first.
    #[error("no free loop device after {attempts} attempts")]
    NoLoopDevice {
        /// How many devices were tried.
        attempts: u32,
    },
    /// An NBD server cannot listen there.
    #[error("listen on {address}: {source}")]
    Listen {
        /// Where.
        address: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// No loop device stands on this file any more.
    #[error("no loop device is on {file}")]
    NotThere {
        /// The file of the device that was to be resumed.
        file: PathBuf,
    },
    /// The device is mounted or otherwise held.
    #[error("{device} is in use")]
    InUse {
        /// Which device.
        device: PathBuf,
    },
}

impl Error {
    /// For `map_err` on file operations.
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { action, path, source }
    }

    /// For `map_err` on loop device operations.
    pub(crate) fn on_loop(
        action: &'static str,
        device: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Error {
        let device = device.into();
        move |source| Error::Loop {
            action,
            device,
            source,
        }
    }
}
