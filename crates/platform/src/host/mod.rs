//! The machine: namespaces, links, cgroups, processes and mounts. Nothing here knows what runs in them.

pub mod cgroup;
pub mod mounts;
pub mod net;
pub mod netns;
pub mod process;
pub mod programs;

/// A command on the machine failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation on a file or kernel object.
    #[error("{action} {what}: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A program ended with an error.
    #[error("{program}: {reason}")]
    Program {
        /// The program.
        program: &'static str,
        /// What it said.
        reason: String,
    },
}

/// Adds what was attempted to an I/O error.
pub(crate) fn io(action: &'static str, what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Error {
    let what = what.to_string();
    move |source| Error::Io { action, what, source }
}
