//! What is staged and published, on disk: `vol_data.json` beside each mount. Same file name and fields as
//! upstream's, and two of our own.

use crate::volumes::Error;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Name of the file.
pub const FILE: &str = "vol_data.json";

/// One volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// The driver.
    pub driver_name: String,
    /// The driver's name of the volume.
    pub volume_handle: String,
    /// The PersistentVolume.
    #[serde(rename = "specVolID")]
    pub persistent_volume: String,
    /// The claim.
    pub claim: String,
    /// It is published as a device.
    pub block: bool,
}

impl Record {
    /// Reads a record; `None` when there is none that can be read.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// Writes it so that a crash leaves the old one or the new one.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        if Self::read(path).as_ref() == Some(self) {
            return Ok(());
        }
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        let write = || {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            let temporary = path.with_extension("new");
            std::fs::write(&temporary, &bytes)?;
            std::fs::rename(&temporary, path)
        };
        write().map_err(Error::io("write", path))
    }

    /// The volume's directory for the whole node.
    pub fn node_dir(&self, staged: &Path) -> PathBuf {
        let hash: String = Sha256::digest(&self.volume_handle)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        staged.join(&self.driver_name).join(hash)
    }
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
}

/// Volumes that are published for a pod, with their directories.
pub fn of_pod(volumes: &Path) -> Vec<(PathBuf, Record)> {
    entries(&volumes.join("kubernetes.io~csi"))
        .filter_map(|dir| Record::read(&dir.join(FILE)).map(|record| (dir, record)))
        .collect()
}

/// Volumes that are staged on the node.
pub fn of_node(staged: &Path) -> Vec<Record> {
    entries(staged)
        .flat_map(|driver| entries(&driver).collect::<Vec<_>>())
        .filter_map(|dir| Record::read(&dir.join(FILE)))
        .collect()
}

/// UIDs of the pods for which a volume is published.
pub fn users(pods: &Path, record: &Record) -> BTreeSet<String> {
    entries(pods)
        .filter(|pod| {
            let mut published = of_pod(&pod.join("volumes")).into_iter();
            published
                .any(|(_, r)| r.driver_name == record.driver_name && r.volume_handle == record.volume_handle)
        })
        .filter_map(|pod| pod.file_name()?.to_str().map(str::to_owned))
        .collect()
}

/// Whether the pod with this directory uses a volume of this driver.
pub fn uses_driver(pod: &Path, driver: &str) -> bool {
    of_pod(&pod.join("volumes"))
        .iter()
        .any(|(_, r)| r.driver_name == driver)
}

/// UIDs of the pods that use a volume of this driver.
pub fn pods_of_driver(pods: &Path, driver: &str) -> BTreeSet<String> {
    entries(pods)
        .filter(|pod| uses_driver(pod, driver))
        .filter_map(|pod| pod.file_name()?.to_str().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_users_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let record = Record {
            driver_name: "d".into(),
            volume_handle: "h".into(),
            persistent_volume: "pv".into(),
            ..Record::default()
        };
        let pods = dir.path().join("pods");
        record
            .write(&pods.join("u1/volumes/kubernetes.io~csi/pv").join(FILE))
            .expect("written");
        std::fs::create_dir_all(pods.join("u2/volumes/kubernetes.io~csi/other")).expect("made");
        assert_eq!(users(&pods, &record), ["u1".to_owned()].into());
        assert_eq!(pods_of_driver(&pods, "d"), ["u1".to_owned()].into());
        assert!(pods_of_driver(&pods, "e").is_empty());
        let staged = dir.path().join("staged");
        record
            .write(&record.node_dir(&staged).join(FILE))
            .expect("written");
        assert_eq!(of_node(&staged), [record]);
    }
}
