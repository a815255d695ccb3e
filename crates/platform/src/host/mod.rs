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

/// Whether this machine's kernel is of this version or later.
pub(crate) fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    version(&rustix::system::uname().release().to_string_lossy()) >= Some((major, minor))
}

/// The first two numbers of a kernel's release, such as `6.12.3-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(version("6.12.3-amd64"), Some((6, 12)));
        assert_eq!(version("6.18.44-fc-v595"), Some((6, 18)));
        assert!(version("6.9.0") < version("6.12-rc1"));
        assert!(version("5.10.0") < Some((6, 9)) && version("odd") < Some((6, 9)));
    }
}
