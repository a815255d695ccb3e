//! Volumes that nobody claims any more: the stored volume first, then its object.

use super::{Error, PROVISIONED_BY, Sidecar, bounded, csi_source, provision::FINALIZER};
use client::Key;
use client::events::reference;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use protos::csi::DeleteVolumeRequest;
use serde_json::json;

impl Sidecar {
    /// Deletes what is to be deleted with its claim, once it is attached nowhere.
    pub(super) async fn reclaim(&self, key: &Key) -> Result<(), Error> {
        let Some(volume) = self.volumes.by_key(key) else {
            return Ok(());
        };
        match decide(&volume) {
            Decision::Keep => Ok(()),
            Decision::LetGo => self.let_go(&volume).await,
            Decision::Delete => {
                let attached = |a: &k8s_openapi::api::storage::v1::VolumeAttachment| {
                    a.spec.source.persistent_volume_name.as_deref() == Some(key.name.as_str())
                };
                if !self.attachments.select(attached).is_empty() {
                    // Looked at again when the attachment is gone.
                    tracing::debug!(volume = %key, "still attached");
                    return Ok(());
                }
                let deleted = self.delete(&volume).await;
                if let Err(error) = &deleted {
                    self.events.event(
                        &reference(&*volume),
                        "Warning",
                        "VolumeFailedDelete",
                        error.to_string(),
                    );
                }
                deleted
            }
        }
    }

    async fn delete(&self, volume: &PersistentVolume) -> Result<(), Error> {
        let Some(source) = csi_source(volume) else {
            return Ok(());
        };
        let request = DeleteVolumeRequest {
            volume_id: source.volume_handle.clone(),
            ..DeleteVolumeRequest::default()
        };
        self.driver.clone().delete_volume(bounded(request)).await?;
        tracing::info!(volume = source.volume_handle, "deleted");
        if volume.metadata.deletion_timestamp.is_none() {
            let api: Api<PersistentVolume> = Api::all(self.client.clone());
            let only_this = DeleteParams {
                preconditions: Some(Preconditions {
                    uid: volume.metadata.uid.clone(),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            ignore_missing(api.delete(&Key::of(volume).name, &only_this).await)?;
        }
        self.let_go(volume).await
    }

    /// Takes our finalizer off.
    async fn let_go(&self, volume: &PersistentVolume) -> Result<(), Error> {
        let finalizers = volume.metadata.finalizers.as_deref().unwrap_or_default();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            return Ok(());
        }
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let name = Key::of(volume).name;
        // The deletion changed the object's version; somebody's new finalizer must not be lost, so look again.
        let Some(now) = api
            .get_opt(&name)
            .await?
            .filter(|v| v.metadata.uid == volume.metadata.uid)
        else {
            return Ok(());
        };
        let mut finalizers = now.metadata.finalizers.unwrap_or_default();
        finalizers.retain(|f| f != FINALIZER);
        let patch =
            json!({"metadata": {"finalizers": finalizers, "resourceVersion": now.metadata.resource_version}});
        ignore_missing(
            api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
                .await,
        )
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Keep,
    LetGo,
    Delete,
}

fn decide(volume: &PersistentVolume) -> Decision {
    let Some(spec) = volume.spec.as_ref().filter(|_| csi_source(volume).is_some()) else {
        return Decision::Keep;
    };
    let meta = &volume.metadata;
    let ours = meta
        .annotations
        .as_ref()
        .and_then(|a| a.get(PROVISIONED_BY))
        .is_some_and(|by| by == crate::DRIVER);
    let held = meta.finalizers.iter().flatten().any(|f| f == FINALIZER);
    let going = meta.deletion_timestamp.is_some();
    let phase = volume
        .status
        .as_ref()
        .and_then(|s| s.phase.as_deref())
        .unwrap_or("Pending");
    let deletes = ours && spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete");
    match (going, deletes) {
        (false, true) if matches!(phase, "Released" | "Failed") => Decision::Delete,
        (false, _) => Decision::Keep,
        // Its claim still uses it; the object goes once the claim does.
        (true, true) if held && phase != "Bound" => Decision::Delete,
        (true, true) => Decision::Keep,
        (true, false) if held => Decision::LetGo,
        (true, false) => Decision::Keep,
    }
}

fn ignore_missing<T>(result: kube::Result<T>) -> Result<(), Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(phase: &str, policy: &str, going: bool, by: &str) -> PersistentVolume {
        let mut value = json!({
            "metadata": {"name": "v", "annotations": {PROVISIONED_BY: by}, "finalizers": [FINALIZER]},
            "spec": {"persistentVolumeReclaimPolicy": policy, "csi": {"driver": crate::DRIVER, "volumeHandle": "v"}},
            "status": {"phase": phase},
        });
        if going {
            value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_released_volumes_of_this_driver_are_deleted() {
        let cases = [
            ("Released", "Delete", false, crate::DRIVER, Decision::Delete),
            ("Released", "Retain", false, crate::DRIVER, Decision::Keep),
            ("Released", "Delete", false, "other", Decision::Keep),
            ("Bound", "Delete", false, crate::DRIVER, Decision::Keep),
            ("Available", "Delete", false, crate::DRIVER, Decision::Keep),
            ("Bound", "Delete", true, crate::DRIVER, Decision::Keep),
            ("Released", "Delete", true, crate::DRIVER, Decision::Delete),
            ("Available", "Delete", true, crate::DRIVER, Decision::Delete),
            ("Released", "Retain", true, crate::DRIVER, Decision::LetGo),
        ];
        for (phase, policy, going, by, expected) in cases {
            assert_eq!(
                decide(&volume(phase, policy, going, by)),
                expected,
                "{phase} {policy} {going} {by}"
            );
        }
    }
}
