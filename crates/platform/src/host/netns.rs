//! Network namespaces by name, under `/run/netns` as iproute2 keeps them. Namespaces are entered with setns on a
//! thread made for it: `ip netns exec` would remount /sys and hide the cgroups.

use super::{Error, io};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// The file that stands for the namespace.
pub fn path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// Names of all namespaces that start with `prefix`.
pub fn list(prefix: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return Vec::new();
    };
    let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
    names.filter(|n| n.starts_with(prefix)).collect()
}

/// Moves the calling thread into the namespace. Only for a thread that ends afterwards, or a process that is
/// about to execute another program.
pub fn enter(path: &Path) -> Result<(), Error> {
    let file = std::fs::File::open(path).map_err(io("open", path.display()))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|e| io("enter", path.display())(e.into()))
}

/// Runs `work` inside the namespace and waits for it.
pub fn within<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    let path = path(name);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| enter(&path).map(|()| work()));
        thread.join().unwrap_or_else(|_| {
            Err(Error::Program {
                program: "hikube",
                reason: format!("work in namespace {name} panicked"),
            })
        })
    })
}

/// Whether the name stands for a living namespace, not for the empty file that a reboot or a failed deletion
/// leaves.
pub fn exists(name: &str) -> bool {
    let path = path(name);
    path.exists() && within(name, || ()).is_ok()
}
