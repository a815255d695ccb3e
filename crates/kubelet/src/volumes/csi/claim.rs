//! What the API says about a claim: its volume, the driver's wishes, and whether it is attached.

use crate::context::Context;
use crate::quantity;
use crate::volumes::Error;
use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimCondition, Secret, SecretReference,
};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Api;
use protos::csi::{self, volume_capability::access_mode::Mode};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::time::Duration;

/// How long one request to the API may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Pauses between looks at an attachment; nodes may read attachments, but not watch them.
const LOOK_FIRST: Duration = Duration::from_millis(100);
const LOOK_MAX: Duration = Duration::from_secs(1);
/// After so long the pod reports that it waits for the attachment.
const ATTACH_PATIENCE: Duration = Duration::from_secs(20);

/// A claim and its volume.
pub struct Claim {
    /// Name of the claim.
    pub name: String,
    /// Name of the PersistentVolume.
    pub volume: String,
    /// The driver.
    pub driver: String,
    /// The driver's name of the volume.
    pub handle: String,
    /// What the driver wants to be told again.
    pub attributes: HashMap<String, String>,
    /// File system, if the volume names one.
    pub fs_type: String,
    /// It is a device.
    pub block: bool,
    /// It must not be written to.
    pub read_only: bool,
    /// Secret for staging.
    pub stage_secret: Option<SecretReference>,
    /// Secret for publishing.
    pub publish_secret: Option<SecretReference>,
    mount_options: Vec<String>,
    access_modes: Vec<String>,
    /// The volume is larger than the claim says: the node has to follow.
    pub growth: Option<Growth>,
}

/// What is known of a claim that the node has to make larger.
pub struct Growth {
    /// Namespace of the claim.
    pub namespace: String,
    /// UID of the claim.
    pub claim_uid: Option<String>,
    /// Size of the volume, as the API writes it.
    pub size: Quantity,
    /// The same in bytes.
    pub bytes: i64,
    /// Conditions of the claim.
    pub conditions: Vec<PersistentVolumeClaimCondition>,
}

/// What the CSIDriver object says.
pub struct DriverInfo {
    /// Volumes must be attached first.
    pub attach_required: bool,
    /// The driver wants to know for which pod it publishes.
    pub pod_info: bool,
    /// When volumes are given to the pod's group.
    pub fs_group_policy: String,
}

/// Asks the API, for a bounded time.
pub async fn ask<T>(what: &str, request: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    match tokio::time::timeout(TIMEOUT, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error @ kube::Error::Api(_))) => Err(Error::Source(format!("{what}: {error}"))),
        Ok(Err(error)) => Err(Error::NotYet(format!("{what}: {error}"))),
        Err(_) => Err(Error::NotYet(format!("{what}: the API does not answer"))),
    }
}

/// Finds the volume of a claim.
pub async fn resolve(context: &Context, namespace: &str, name: &str) -> Result<Claim, Error> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), namespace);
    let found = ask(&format!("persistentvolumeclaim {name:?}"), claims.get_opt(name)).await?;
    let claim = found.ok_or_else(|| Error::Source(format!("persistentvolumeclaim {name:?} not found")))?;
    let spec = claim.spec.unwrap_or_default();
    let status = claim.status.unwrap_or_default();
    let phase = status.phase.clone().unwrap_or_default();
    let Some(volume) = spec.volume_name.filter(|v| !v.is_empty() && phase == "Bound") else {
        return Err(Error::NotYet(format!(
            "persistentvolumeclaim {name:?} is not bound"
        )));
    };
    let volumes: Api<PersistentVolume> = Api::all(context.client.clone());
    let found = ask(&format!("persistentvolume {volume:?}"), volumes.get_opt(&volume)).await?;
    let object = found.ok_or_else(|| Error::Source(format!("persistentvolume {volume:?} not found")))?;
    let spec_of_volume = object.spec.unwrap_or_default();
    let owner = spec_of_volume.claim_ref.as_ref().and_then(|c| c.uid.clone());
    if owner.is_some() && owner != claim.metadata.uid {
        return Err(Error::Source(format!(
            "persistentvolume {volume:?} is bound to another claim"
        )));
    }
    let source = spec_of_volume.csi.ok_or_else(|| {
        Error::Source(format!(
            "persistentvolume {volume:?}: only CSI volumes are supported"
        ))
    })?;
    let read_only = source.read_only == Some(true);
    let size = spec_of_volume.capacity.as_ref().and_then(|c| c.get("storage"));
    let has = status.capacity.as_ref().and_then(|c| c.get("storage"));
    let growth = match (size, has) {
        (Some(size), Some(has)) if !read_only && quantity::value(size) > quantity::value(has) => {
            Some(Growth {
                namespace: namespace.into(),
                claim_uid: claim.metadata.uid,
                size: size.clone(),
                bytes: quantity::value(size).unwrap_or(0),
                conditions: status.conditions.unwrap_or_default(),
            })
        }
        _ => None,
    };
    Ok(Claim {
        growth,
        name: name.into(),
        volume,
        driver: source.driver,
        handle: source.volume_handle,
        attributes: source.volume_attributes.unwrap_or_default().into_iter().collect(),
        fs_type: source.fs_type.unwrap_or_default(),
        block: spec_of_volume.volume_mode.as_deref() == Some("Block"),
        read_only,
        stage_secret: source.node_stage_secret_ref,
        publish_secret: source.node_publish_secret_ref,
        mount_options: spec_of_volume.mount_options.unwrap_or_default(),
        access_modes: spec_of_volume.access_modes.unwrap_or_default(),
    })
}

impl Claim {
    /// Whether one node alone writes to it.
    pub fn single_writer(&self) -> bool {
        self.access_modes
            .iter()
            .any(|m| m == "ReadWriteOnce" || m == "ReadWriteOncePod")
    }

    /// How the driver shall make it accessible. `multi_writer`: the driver tells apart several writers on one
    /// node from a single one.
    pub fn capability(&self, multi_writer: bool) -> csi::VolumeCapability {
        let has = |mode: &str| self.access_modes.iter().any(|m| m == mode);
        let mode = if has("ReadWriteMany") {
            Mode::MultiNodeMultiWriter
        } else if has("ReadWriteOncePod") && multi_writer {
            Mode::SingleNodeSingleWriter
        } else if has("ReadWriteOnce") && multi_writer {
            Mode::SingleNodeMultiWriter
        } else if self.single_writer() {
            Mode::SingleNodeWriter
        } else {
            Mode::MultiNodeReaderOnly
        };
        let access_type = if self.block {
            csi::volume_capability::AccessType::Block(csi::volume_capability::BlockVolume {})
        } else {
            csi::volume_capability::AccessType::Mount(csi::volume_capability::MountVolume {
                fs_type: self.fs_type.clone(),
                mount_flags: self.mount_options.clone(),
                volume_mount_group: String::new(),
            })
        };
        csi::VolumeCapability {
            access_mode: Some(csi::volume_capability::AccessMode { mode: mode as i32 }),
            access_type: Some(access_type),
        }
    }
}

/// Asks for the CSIDriver object; without one the defaults hold.
pub async fn driver_info(context: &Context, name: &str) -> Result<DriverInfo, Error> {
    let drivers: Api<CSIDriver> = Api::all(context.client.clone());
    let spec = ask(&format!("csidriver {name:?}"), drivers.get_opt(name))
        .await?
        .map(|d| d.spec);
    let spec = spec.unwrap_or_default();
    Ok(DriverInfo {
        attach_required: spec.attach_required.unwrap_or(true),
        pod_info: spec.pod_info_on_mount.unwrap_or(false),
        fs_group_policy: spec.fs_group_policy.unwrap_or_default(),
    })
}

/// The name of the attachment of a volume to a node, as the attach/detach controller makes it.
pub fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    let hash = Sha256::digest(format!("{handle}{driver}{node}"));
    let hex: String = hash.iter().map(|b| format!("{b:02x}")).collect();
    format!("csi-{hex}")
}

/// Waits until the volume is attached to this node; returns what the driver said then.
pub async fn wait_attached(context: &Context, claim: &Claim) -> Result<HashMap<String, String>, Error> {
    let node = &context.config.node_name;
    let name = attachment_name(&claim.handle, &claim.driver, node);
    let attachments: Api<VolumeAttachment> = Api::all(context.client.clone());
    let started = tokio::time::Instant::now();
    let mut pause = LOOK_FIRST;
    let mut why = String::new();
    while started.elapsed() < ATTACH_PATIENCE {
        let found = ask(&format!("volumeattachment {name:?}"), attachments.get_opt(&name)).await;
        // An attachment that is on its way out belongs to a pod that was here before.
        let usable = found?.filter(|a| a.metadata.deletion_timestamp.is_none());
        if let Some(status) = usable.and_then(|a| a.status) {
            if status.attached {
                return Ok(status
                    .attachment_metadata
                    .unwrap_or_default()
                    .into_iter()
                    .collect());
            }
            why = status.attach_error.and_then(|e| e.message).unwrap_or_default();
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK_MAX);
    }
    let volume = &claim.volume;
    Err(Error::NotYet(format!(
        "volume {volume} is not attached to node {node} yet {why}"
    )))
}

/// The content of a secret that a volume refers to.
pub async fn secrets(
    context: &Context,
    secret: Option<&SecretReference>,
) -> Result<HashMap<String, String>, Error> {
    let Some(reference) = secret else {
        return Ok(HashMap::new());
    };
    let name = reference.name.clone().unwrap_or_default();
    let namespace = reference.namespace.clone().unwrap_or_default();
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    let found = ask(&format!("secret {namespace}/{name}"), secrets.get(&name)).await?;
    let data = found.data.unwrap_or_default().into_iter();
    Ok(data
        .map(|(key, value)| (key, String::from_utf8_lossy(&value.0).into_owned()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attachments_are_named_as_upstream_names_them() {
        let name = attachment_name("h", "d", "n");
        assert_eq!(name.len(), 68);
        let hex: String = Sha256::digest("hdn").iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(name, format!("csi-{hex}"));
    }
}
