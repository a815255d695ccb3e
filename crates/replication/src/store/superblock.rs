//! What makes a directory a store: a random identity, its cluster and region, and the proof that it is the very
//! directory that was formatted, not a copy (R7).

use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Version of the directory's layout. History: 1, the first release.
const FORMAT: u32 = 1;
const NAME: &str = "hikube-store.json";

/// Why a directory cannot be used as this store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// There is something in it already.
    #[error("{0} is not empty: a store is formatted into an empty directory")]
    NotEmpty(PathBuf),
    /// It was never formatted.
    #[error("{0} is not a store: format it first")]
    NotFormatted(PathBuf),
    /// The superblock cannot be read.
    #[error("{path}: the superblock is damaged: {reason}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A newer release wrote it.
    #[error("{path} has format {found}; this release knows formats up to {FORMAT}")]
    Newer {
        /// Which directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It belongs to another cluster or region.
    #[error("{path} is the store of region {region} of cluster {cluster}, not of {wanted}")]
    Foreign {
        /// Which directory.
        path: PathBuf,
        /// Its cluster.
        cluster: String,
        /// Its region.
        region: String,
        /// What was expected.
        wanted: String,
    },
    /// The directory was copied or restored from a backup.
    #[error(
        "{0} is a copy of a store's directory: it may lack writes that its original acknowledged. Format an empty \
         directory instead; it is filled from the other regions"
    )]
    Copied(PathBuf),
    /// Another process has it.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
}

#[derive(Serialize, Deserialize)]
struct Content {
    format: u32,
    cluster: String,
    region: String,
    store: Uuid,
    /// Inode of the superblock's own file: a copy has another.
    inode: u64,
}

/// An opened store directory, locked for this process.
pub struct Superblock {
    /// The store's random identity.
    pub store: Uuid,
    _lock: File,
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

/// Formats an empty or missing directory.
pub fn format(dir: &Path, cluster: &str, region: &str) -> Result<(), Error> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .create(dir)
        .map_err(io("create", dir))?;
    let mut entries = std::fs::read_dir(dir).map_err(io("list", dir))?;
    if entries.next().is_some() {
        return Err(Error::NotEmpty(dir.into()));
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(dir, mode).map_err(io("change the mode of", dir))?;
    let (path, temporary) = (dir.join(NAME), dir.join("hikube-store.new"));
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(io("create", &temporary))?;
    let content = Content {
        format: FORMAT,
        cluster: cluster.into(),
        region: region.into(),
        store: Uuid::new_v4(),
        inode: file.metadata().map_err(io("stat", &temporary))?.ino(),
    };
    let text = serde_json::to_vec_pretty(&content).expect("a flat struct of strings and numbers");
    file.write_all(&text).map_err(io("write", &temporary))?;
    file.sync_all().map_err(io("sync", &temporary))?;
    std::fs::rename(&temporary, &path).map_err(io("rename", &temporary))?;
    sync_dir(dir)
}

/// Makes renames and removals in `dir` durable.
pub fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(io("sync", dir))
}

/// Opens a directory that was formatted for that cluster and region.
pub fn open(dir: &Path, cluster: &str, region: &str) -> Result<Superblock, Error> {
    let path = dir.join(NAME);
    let mut file = match File::options().read(true).write(true).open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(Error::NotFormatted(dir.into())),
        Err(e) => return Err(io("open", &path)(e)),
    };
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(io("read", &path))?;
    let damaged = |e: serde_json::Error| Error::Damaged {
        path: path.clone(),
        reason: e.to_string(),
    };
    // The version first: a newer layout may lack every other field.
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let version: Version = serde_json::from_slice(&text).map_err(damaged)?;
    if version.format > FORMAT {
        return Err(Error::Newer {
            path: dir.into(),
            found: version.format,
        });
    }
    let content: Content = serde_json::from_slice(&text).map_err(damaged)?;
    if content.cluster != cluster || content.region != region {
        return Err(Error::Foreign {
            path: dir.into(),
            cluster: content.cluster,
            region: content.region,
            wanted: format!("region {region} of cluster {cluster}"),
        });
    }
    if file.metadata().map_err(io("stat", &path))?.ino() != content.inode {
        return Err(Error::Copied(dir.into()));
    }
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| Error::InUse(dir.into()))?;
    Ok(Superblock {
        store: content.store,
        _lock: file,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_directory_of_that_cluster_and_region_opens() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("s");
        assert!(matches!(open(&dir, "c", "r"), Err(Error::NotFormatted(_))));
        format(&dir, "c", "r").unwrap();
        assert!(matches!(format(&dir, "c", "r"), Err(Error::NotEmpty(_))));
        assert!(matches!(open(&dir, "d", "r"), Err(Error::Foreign { .. })));
        assert!(matches!(open(&dir, "c", "q"), Err(Error::Foreign { .. })));
        let held = open(&dir, "c", "r").unwrap();
        assert!(matches!(open(&dir, "c", "r"), Err(Error::InUse(_))));
        let id = held.store;
        drop(held);
        assert_eq!(open(&dir, "c", "r").unwrap().store, id);
        let copy = temporary.path().join("copy");
        std::fs::create_dir(&copy).unwrap();
        std::fs::copy(dir.join(NAME), copy.join(NAME)).unwrap();
        assert!(matches!(open(&copy, "c", "r"), Err(Error::Copied(_))));
        let text = std::fs::read_to_string(dir.join(NAME)).unwrap();
        std::fs::write(dir.join(NAME), text.replace("\"format\": 1", "\"format\": 2")).unwrap();
        assert!(matches!(open(&dir, "c", "r"), Err(Error::Newer { found: 2, .. })));
        std::fs::write(dir.join(NAME), "{").unwrap();
        assert!(matches!(open(&dir, "c", "r"), Err(Error::Damaged { .. })));
    }
}
