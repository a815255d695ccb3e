//! Persistent volumes through CSI drivers.
//!
//! A claim's volume is declared in use in the node's status, attached by the attach/detach controller, staged
//! once for the node (`NodeStageVolume`) and published for each pod (`NodePublishVolume`). Records on disk
//! ([`record`]) say what is staged and published, so that a restarted kubelet can take down what pods left that
//! are gone. Staging and publishing are repeated whenever a container is about to start: both are idempotent,
//! and the device under a mount may have died meanwhile with its engine.

mod care;
mod claim;
mod grow;
mod record;
mod unmount;

pub use care::{Broken, run as look_after};
pub use record::{pods_of_driver, uses_driver};
pub use unmount::{reconcile, staged_names, tear_down};

use super::{Error, Mounted, PodView, mounts, ownership};
use crate::context::Context;
use crate::sync::lock;
use claim::Claim;
use protos::csi;
use record::Record;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a pod waits for the API to take over that a volume is in use, before it says why it waits.
const IN_USE_TIMEOUT: Duration = Duration::from_secs(10);

/// What is known of CSI volumes in this process.
#[derive(Default)]
pub struct Volumes {
    /// One volume is staged, published or taken down at a time.
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Published by this process: (pod UID, claim).
    published: Mutex<HashMap<(String, String), Mounted>>,
    /// Found dead: pod UID, claims and what is wrong.
    broken: Mutex<HashMap<String, Broken>>,
}

impl Volumes {
    fn lock_of(&self, volume: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = lock(&self.locks);
        locks.retain(|name, l| name == volume || Arc::strong_count(l) > 1);
        locks.entry(volume.to_owned()).or_default().clone()
    }

    /// The pod's volumes are no longer what they were.
    pub fn forget(&self, uid: &str) {
        lock(&self.published).retain(|key, _| key.0 != uid);
        lock(&self.broken).remove(uid);
    }
}

/// The name by which node status and attachments know a volume.
fn unique_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// Makes the volume of a claim ready for a pod. `starting`: a container is about to start.
pub async fn ensure(
    context: &Context,
    pod: &PodView<'_>,
    claim: &str,
    read_only: bool,
    starting: bool,
) -> Result<Mounted, Error> {
    let key = (pod.id.uid.clone(), claim.to_owned());
    let known = lock(&context.volumes.published).get(&key).cloned();
    if let Some(mounted) = known.clone().filter(|_| !starting) {
        return Ok(mounted);
    }
    let claim = match (claim::resolve(context, &pod.id.namespace, claim).await, known) {
        // An API that is away keeps no container from being restarted on the mount that is there.
        (Err(Error::NotYet(_)), Some(mounted)) if mounts::is_mounted(&mounted.path) => return Ok(mounted),
        (resolved, _) => resolved?,
    };
    let driver = context.plugins.driver(&claim.driver)?;
    let name = unique_name(&claim.driver, &claim.handle);
    let in_use = context.node.use_volume(&name);
    if tokio::time::timeout(IN_USE_TIMEOUT, in_use).await.is_err() {
        return Err(Error::NotYet(
            "the API has not taken over yet that the volume is in use".into(),
        ));
    }
    let info = claim::driver_info(context, &claim.driver).await?;
    let publish_context = if info.attach_required {
        claim::wait_attached(context, &claim).await?
    } else {
        HashMap::new()
    };
    let lock_of = context.volumes.lock_of(&name);
    let _guard = lock_of.lock().await;
    let record = Record {
        driver_name: claim.driver.clone(),
        volume_handle: claim.handle.clone(),
        persistent_volume: claim.volume.clone(),
        claim: claim.name.clone(),
        block: claim.block,
    };
    let paths = Places::new(context, &record, &pod.id.uid);
    record.write(&paths.pod_record)?;
    record.write(&paths.node_record)?;
    if driver.stages {
        std::fs::create_dir_all(&paths.staging).map_err(Error::io("create", &paths.staging))?;
        let request = csi::NodeStageVolumeRequest {
            volume_id: claim.handle.clone(),
            publish_context: publish_context.clone(),
            staging_target_path: paths.staging.to_string_lossy().into(),
            volume_capability: Some(claim.capability(driver.multi_writer)),
            secrets: claim::secrets(context, claim.stage_secret.as_ref()).await?,
            volume_context: claim.attributes.clone(),
        };
        driver.stage(request).await?;
    }
    drop_stale(&paths)?;
    let parent = paths.target.parent().unwrap_or(&paths.target);
    std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    let read_only = read_only || claim.read_only;
    let mut volume_context = claim.attributes.clone();
    if info.pod_info {
        volume_context.extend(pod_info(pod));
    }
    let request = csi::NodePublishVolumeRequest {
        volume_id: claim.handle.clone(),
        publish_context,
        staging_target_path: if driver.stages {
            paths.staging.to_string_lossy().into()
        } else {
            String::new()
        },
        target_path: paths.target.to_string_lossy().into(),
        volume_capability: Some(claim.capability(driver.multi_writer)),
        readonly: read_only,
        secrets: claim::secrets(context, claim.publish_secret.as_ref()).await?,
        volume_context,
    };
    driver.publish(request).await?;
    own(pod, &claim, &info, &paths.target, read_only).await?;
    if let Err(error) = grow::grow(context, &claim, &paths.target, &paths.staging).await {
        // It is as large as it was: no reason not to start.
        tracing::info!(volume = claim.volume, %error, "volume not grown");
    }
    let mounted = Mounted {
        path: paths.target,
        read_only,
        block: claim.block,
    };
    context.volumes.is_whole(&key.0, &key.1);
    lock(&context.volumes.published).insert(key, mounted.clone());
    Ok(mounted)
}

/// Where a volume is staged, published and recorded.
struct Places {
    staging: PathBuf,
    target: PathBuf,
    pod_record: PathBuf,
    node_record: PathBuf,
}

impl Places {
    fn new(context: &Context, record: &Record, uid: &str) -> Self {
        let node = record.node_dir(&context.paths.staged());
        let pod = context
            .paths
            .volumes(uid)
            .join("kubernetes.io~csi")
            .join(&record.persistent_volume);
        Self {
            staging: if record.block {
                node.join("dev")
            } else {
                node.join("globalmount")
            },
            target: if record.block {
                pod.join("device")
            } else {
                pod.join("mount")
            },
            pod_record: pod.join(record::FILE),
            node_record: node.join(record::FILE),
        }
    }
}

/// A pod's mount of a volume that was staged anew since shows the dead device: it is taken away.
fn drop_stale(paths: &Places) -> Result<(), Error> {
    let device = |path: &Path| mounts::device_of(path);
    if let (Some(target), Some(staged)) = (device(&paths.target), device(&paths.staging))
        && target != staged
    {
        mounts::detach_all(&paths.target).map_err(Error::io("unmount", &paths.target))?;
    }
    Ok(())
}

fn pod_info(pod: &PodView<'_>) -> HashMap<String, String> {
    let account = pod
        .pod
        .spec
        .as_ref()
        .and_then(|s| s.service_account_name.clone())
        .unwrap_or_default();
    [
        ("csi.storage.k8s.io/pod.name", pod.id.name.clone()),
        ("csi.storage.k8s.io/pod.namespace", pod.id.namespace.clone()),
        ("csi.storage.k8s.io/pod.uid", pod.id.uid.clone()),
        ("csi.storage.k8s.io/serviceAccount.name", account),
        ("csi.storage.k8s.io/ephemeral", "false".into()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// Gives the volume to the pod's group, as far as the driver's policy wants it.
async fn own(
    pod: &PodView<'_>,
    claim: &Claim,
    info: &claim::DriverInfo,
    target: &Path,
    read_only: bool,
) -> Result<(), Error> {
    let Some(group) = pod.fs_group().filter(|_| !claim.block) else {
        return Ok(());
    };
    let wanted = match info.fs_group_policy.as_str() {
        "None" => false,
        "File" => true,
        _ => !claim.fs_type.is_empty() && claim.single_writer() && !read_only,
    };
    if !wanted {
        return Ok(());
    }
    let only_on_mismatch = pod.only_on_mismatch();
    let path = target.to_owned();
    let given =
        tokio::task::spawn_blocking(move || ownership::give(&path, group, read_only, only_on_mismatch));
    given
        .await
        .unwrap_or_else(|e| Err(std::io::Error::other(e)))
        .map_err(Error::io("chown", target))
}
