//! Numbers of the clusters on this machine: cluster n has the addresses `10.201.n.0/24` and `10.(128+n).0.0/16`.
//! They are kept in one file, changed under a lock.

use crate::layout::Layout;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::path::PathBuf;

/// Why a number cannot be given or released.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file of numbers cannot be used.
    #[error("{action} {path}: {source}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Its content is not what this program wrote.
    #[error("{path}: {source}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// All numbers are given.
    #[error("this machine already has {MAX_CLUSTERS} clusters")]
    Full,
}

/// Most clusters on one machine: the second byte of the pods' addresses has 128 values.
const MAX_CLUSTERS: u8 = 128;

#[derive(Default, Serialize, Deserialize)]
struct Registry {
    clusters: BTreeMap<String, u8>,
    /// Value of `net.ipv4.ip_forward` before the first cluster, to be restored after the last.
    #[serde(default)]
    ip_forward_before: Option<String>,
}

/// The number of a cluster, a new one if it has none yet.
pub fn number(layout: &Layout) -> Result<u8, Error> {
    number_unless(layout, is_taken)
}

/// Whether a cluster that this registry does not know has the addresses of a number: one below another root.
fn is_taken(number: u8) -> bool {
    // Only an address of this machine can be bound.
    UdpSocket::bind((crate::plan::host_address(number), 0)).is_ok()
}

fn number_unless(layout: &Layout, is_taken: impl Fn(u8) -> bool) -> Result<u8, Error> {
    change(layout, |registry| {
        if let Some(number) = registry.clusters.get(layout.cluster()) {
            return Ok(*number);
        }
        let used: Vec<u8> = registry.clusters.values().copied().collect();
        let number = (0..MAX_CLUSTERS)
            .find(|n| !used.contains(n) && !is_taken(*n))
            .ok_or(Error::Full)?;
        registry.clusters.insert(layout.cluster().into(), number);
        Ok(number)
    })
}

/// The number of a cluster, if it has one.
pub fn existing(layout: &Layout) -> Result<Option<u8>, Error> {
    Ok(load(layout)?.clusters.get(layout.cluster()).copied())
}

/// The clusters of this machine.
pub fn clusters(layout: &Layout) -> Result<Vec<String>, Error> {
    Ok(load(layout)?.clusters.into_keys().collect())
}

/// Notes the value that `ip_forward` had before Hikube changed it; the first note stays.
pub fn note_ip_forward(layout: &Layout, value: &str) -> Result<(), Error> {
    change(layout, |registry| {
        registry.ip_forward_before.get_or_insert_with(|| value.into());
        Ok(())
    })
}

/// Gives the number back. Returns the former value of `ip_forward` when this was the last cluster.
pub fn release(layout: &Layout) -> Result<Option<String>, Error> {
    if !path(layout).exists() {
        return Ok(None);
    }
    let before = change(layout, |registry| {
        registry.clusters.remove(layout.cluster());
        Ok(match registry.clusters.is_empty() {
            true => Some(registry.ip_forward_before.take()),
            false => None,
        })
    })?;
    if before.is_some() {
        let _ = std::fs::remove_file(path(layout));
        let _ = std::fs::remove_file(path(layout).with_extension("lock"));
        // Only if nothing else lies there.
        let _ = std::fs::remove_dir(layout.clusters());
    }
    Ok(before.flatten())
}

fn path(layout: &Layout) -> PathBuf {
    layout.clusters().join("clusters.json")
}

fn load(layout: &Layout) -> Result<Registry, Error> {
    let path = path(layout);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| Error::Content { path, source }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Registry::default()),
        Err(source) => Err(Error::File {
            action: "read",
            path,
            source,
        }),
    }
}

fn change<T>(layout: &Layout, edit: impl FnOnce(&mut Registry) -> Result<T, Error>) -> Result<T, Error> {
    let path = path(layout);
    let failed = |action: &'static str, path: &PathBuf| {
        let path = path.clone();
        move |source| Error::File { action, path, source }
    };
    crate::files::private_dir(&layout.clusters()).map_err(failed("create", &layout.clusters()))?;
    let lock_path = path.with_extension("lock");
    let lock = std::fs::File::create(&lock_path).map_err(failed("create", &lock_path))?;
    lock.lock().map_err(failed("lock", &lock_path))?;
    let mut registry = load(layout)?;
    let result = edit(&mut registry)?;
    let bytes = serde_json::to_vec_pretty(&registry).map_err(|source| Error::Content {
        path: path.clone(),
        source,
    })?;
    crate::files::replace(&path, &bytes).map_err(failed("write", &path))?;
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(_: u8) -> bool {
        false
    }

    #[test]
    fn addresses_of_a_cluster_below_another_root_are_left_alone() {
        let root = tempfile::tempdir().expect("a directory");
        let layout = Layout::below(root.path(), "a").expect("a good name");
        assert_eq!(number_unless(&layout, |n| n < 2).expect("free"), 2);
        // Its own addresses are there once it runs.
        assert_eq!(number_unless(&layout, |_| true).expect("known"), 2);
        let other = Layout::below(root.path(), "b").expect("a good name");
        assert!(matches!(number_unless(&other, |_| true), Err(Error::Full)));
    }

    #[test]
    fn numbers_are_stable_and_reused() {
        let root = tempfile::tempdir().expect("a directory");
        let layout = |name: &str| Layout::below(root.path(), name).expect("a good name");
        assert_eq!(number_unless(&layout("a"), free).expect("free"), 0);
        assert_eq!(number_unless(&layout("b"), free).expect("free"), 1);
        assert_eq!(number_unless(&layout("a"), free).expect("known"), 0);
        note_ip_forward(&layout("a"), "0").expect("noted");
        note_ip_forward(&layout("a"), "1").expect("the first stays");
        assert_eq!(release(&layout("a")).expect("released"), None);
        assert_eq!(number_unless(&layout("c"), free).expect("free"), 0);
        assert_eq!(release(&layout("c")).expect("released"), None);
        assert_eq!(release(&layout("b")).expect("released"), Some("0".into()));
        assert_eq!(existing(&layout("b")).expect("readable"), None);
        assert!(!layout("b").clusters().exists());
    }
}
