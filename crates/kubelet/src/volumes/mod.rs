//! The volumes of pods: made before the containers start, kept up to date while they run, taken down after them.
//!
//! Layout below the kubelet's directory, as upstream's: `pods/<uid>/volumes/kubernetes.io~<kind>/<name>` for a
//! pod's volumes, `pods/<uid>/volume-subpaths` for `subPath` mounts, `plugins/kubernetes.io/csi/<driver>/<hash>`
//! for staged volumes. What is mounted is found again from these directories and the mount table, so a restarted
//! kubelet needs no memory of its own.

mod atomic;
pub mod csi;
mod hostpath;
pub mod mounts;
mod ownership;
mod payload;
pub mod plugins;
pub mod subpath;
pub mod tokens;

use crate::context::Context;
use crate::objects::{self, Kind, ObjectKey};
use crate::pods::spec::PodId;
use crate::quantity;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Why a volume is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A ConfigMap or Secret is missing.
    #[error(transparent)]
    Object(#[from] objects::Error),
    /// What the volume is made from is wrong or missing.
    #[error("{0}")]
    Source(String),
    /// The node failed.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// It takes part in another pod's life, or another component has to act first: not an error yet.
    #[error("{0}")]
    NotYet(String),
}

impl Error {
    /// Names action and path of a failed system call.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// A volume that is ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounted {
    /// Where it is on the node: a directory, or a device for block volumes.
    pub path: PathBuf,
    /// Containers must not write to it.
    pub read_only: bool,
    /// It is a block device.
    pub block: bool,
}

/// A pod as its volumes see it.
#[derive(Clone, Copy)]
pub struct PodView<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its identity.
    pub id: &'a PodId,
    /// Its addresses, once it has some.
    pub ips: &'a [String],
}

impl PodView<'_> {
    /// The key of an object in the pod's namespace.
    pub fn key(&self, kind: Kind, name: &str) -> ObjectKey {
        ObjectKey {
            kind,
            namespace: self.id.namespace.clone(),
            name: name.into(),
        }
    }

    /// The group that volumes belong to.
    pub fn fs_group(&self) -> Option<u32> {
        let context = self.pod.spec.as_ref()?.security_context.as_ref()?;
        context.fs_group.and_then(|g| u32::try_from(g).ok())
    }

    fn only_on_mismatch(&self) -> bool {
        let context = self.pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
        context.and_then(|c| c.fs_group_change_policy.as_deref()) == Some("OnRootMismatch")
    }
}

/// What went wrong with which volume.
#[derive(Debug)]
pub struct Failure {
    /// Name in the pod's spec.
    pub volume: String,
    /// Why.
    pub error: Error,
}

/// ConfigMaps and Secrets that a pod's volumes need.
pub fn references(pod: &Pod) -> HashSet<ObjectKey> {
    let volumes = pod
        .spec
        .as_ref()
        .and_then(|s| s.volumes.as_deref())
        .unwrap_or_default();
    payload::references(volumes, pod.metadata.namespace.as_deref().unwrap_or_default())
}

/// Makes all volumes of a pod ready, or brings them up to date. Called again whenever something changed;
/// `starting`: a container is about to start.
pub async fn ensure(
    context: &Context,
    pod: &PodView<'_>,
    starting: bool,
) -> Result<BTreeMap<String, Mounted>, Vec<Failure>> {
    let volumes = pod
        .pod
        .spec
        .as_ref()
        .and_then(|s| s.volumes.as_deref())
        .unwrap_or_default();
    let one = async |volume: &Volume| {
        (
            volume.name.clone(),
            ensure_one(context, pod, volume, starting).await,
        )
    };
    let results = futures::future::join_all(volumes.iter().map(one)).await;
    let mut mounted = BTreeMap::new();
    let mut failures = Vec::new();
    for (volume, result) in results {
        match result {
            Ok(one) => {
                mounted.insert(volume, one);
            }
            Err(error) => failures.push(Failure { volume, error }),
        }
    }
    if failures.is_empty() {
        Ok(mounted)
    } else {
        Err(failures)
    }
}

async fn ensure_one(
    context: &Context,
    pod: &PodView<'_>,
    volume: &Volume,
    starting: bool,
) -> Result<Mounted, Error> {
    let dirs = context.paths.volumes(&pod.id.uid);
    let name = &volume.name;
    if let Some(in_memory) = payload::is_projection(volume) {
        let kind = if volume.config_map.is_some() {
            "configmap"
        } else if volume.secret.is_some() {
            "secret"
        } else if volume.downward_api.is_some() {
            "downward-api"
        } else {
            "projected"
        };
        let path = dirs.join(format!("kubernetes.io~{kind}")).join(name);
        let content = payload::payload(context, pod, volume).await?;
        if in_memory {
            // Secrets never reach a disk.
            mounts::tmpfs(&path, None, "0755").map_err(Error::io("mount", &path))?;
        } else {
            std::fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        }
        atomic::write(&path, &content, pod.fs_group()).map_err(Error::io("write", &path))?;
        return Ok(Mounted {
            path,
            read_only: false,
            block: false,
        });
    }
    if let Some(source) = &volume.empty_dir {
        let path = dirs.join("kubernetes.io~empty-dir").join(name);
        empty_dir(&path, source, pod)?;
        return Ok(Mounted {
            path,
            ..Mounted::default()
        });
    }
    if let Some(source) = &volume.host_path {
        let path = PathBuf::from(&source.path);
        hostpath::check(&path, source.type_.as_deref().unwrap_or_default())?;
        return Ok(Mounted {
            path,
            ..Mounted::default()
        });
    }
    let claim = match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => (source.claim_name.clone(), source.read_only == Some(true)),
        (_, Some(_)) => (format!("{}-{name}", pod.id.name), false),
        _ => {
            return Err(Error::Source(format!(
                "volume {name}: this kind of volume is not supported"
            )));
        }
    };
    csi::ensure(context, pod, &claim.0, claim.1, starting).await
}

fn empty_dir(path: &Path, source: &EmptyDirVolumeSource, pod: &PodView<'_>) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    let in_memory = source.medium.as_deref() == Some("Memory");
    let fresh = if in_memory {
        !mounts::is_mounted(path)
    } else {
        !path.exists()
    };
    if !fresh {
        return Ok(());
    }
    std::fs::create_dir_all(path).map_err(Error::io("create", path))?;
    if in_memory {
        let size = source.size_limit.as_ref().and_then(quantity::value);
        let size = size.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
        mounts::tmpfs(path, size, "0777").map_err(Error::io("mount", path))?;
    }
    let all = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(path, all).map_err(Error::io("chmod", path))?;
    if let Some(group) = pod.fs_group() {
        ownership::give(path, group, false, false).map_err(Error::io("chown", path))?;
    }
    Ok(())
}

/// When a volume of the pod must be looked at again: a token ends.
pub fn next_refresh(context: &Context, uid: &str) -> Option<SystemTime> {
    context.tokens.next_renewal(uid)
}

/// Takes down all volumes of a pod whose containers are dead, and removes its directory. What the pod left in
/// its emptyDirs is removed with it.
pub async fn tear_down(context: &Context, uid: &str) -> Result<(), Error> {
    context.tokens.release(uid);
    let dir = context.paths.pod(uid);
    if !dir.exists() {
        return Ok(());
    }
    subpath::tear_down(&context.paths, uid)?;
    csi::tear_down(context, uid).await?;
    let root = dir.clone();
    let removed = tokio::task::spawn_blocking(move || {
        mounts::detach_all(&root)?;
        match std::fs::remove_dir_all(&root) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    });
    removed
        .await
        .unwrap_or_else(|e| Err(std::io::Error::other(e)))
        .map_err(Error::io("remove", &dir))
}
