//! Larger claims: the stored volume grows here, device and file system on the node, by the kubelet.

use super::{Error, Sidecar, bounded, capability_of, csi_source, quantity};
use client::Key;
use client::events::reference;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, Patch, PatchParams};
use protos::csi::{CapacityRange, ControllerExpandVolumeRequest};
use serde_json::{Value, json};

impl Sidecar {
    /// Grows the volume of a bound claim that asks for more than it has.
    pub(super) async fn resize(&self, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        let Some((volume, wanted)) = self.growing(claim) else {
            return Ok(());
        };
        let on = reference(claim);
        let result = self.grow(claim, &volume, wanted).await;
        if let Err(error) = &result {
            self.events
                .event(&on, "Warning", "VolumeResizeFailed", error.to_string());
        }
        result
    }

    /// The volume and the size wanted in bytes, when that is more than the claim has.
    fn growing(&self, claim: &PersistentVolumeClaim) -> Option<(std::sync::Arc<PersistentVolume>, i64)> {
        let spec = claim.spec.as_ref()?;
        let status = claim.status.as_ref()?;
        if status.phase.as_deref() != Some("Bound") {
            return None;
        }
        let wanted = spec.resources.as_ref()?.requests.as_ref()?.get("storage")?;
        let has = status.capacity.as_ref()?.get("storage")?;
        let (wanted, has) = (quantity::bytes(wanted)?, quantity::bytes(has)?);
        let volume = self.volumes.get("", spec.volume_name.as_deref()?)?;
        let ours = csi_source(&volume).is_some();
        (ours && wanted > has).then_some((volume, wanted))
    }

    async fn grow(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
        wanted: i64,
    ) -> Result<(), Error> {
        let spec = volume
            .spec
            .as_ref()
            .ok_or_else(|| Error::Incomplete("no spec".into()))?;
        let stored = spec
            .capacity
            .as_ref()
            .and_then(|c| c.get("storage"))
            .and_then(quantity::bytes);
        let mut size = stored.unwrap_or(0);
        if size < wanted {
            let handle = csi_source(volume)
                .map(|s| s.volume_handle.clone())
                .unwrap_or_default();
            let request = ControllerExpandVolumeRequest {
                volume_id: handle,
                capacity_range: Some(CapacityRange {
                    required_bytes: wanted,
                    limit_bytes: 0,
                }),
                volume_capability: Some(capability_of(spec)?),
                ..ControllerExpandVolumeRequest::default()
            };
            let reply = self
                .driver
                .clone()
                .controller_expand_volume(bounded(request))
                .await?;
            size = reply.into_inner().capacity_bytes;
            let api: Api<PersistentVolume> = Api::all(self.client.clone());
            let patch = json!({"spec": {"capacity": {"storage": quantity::quantity(size)}}});
            let name = Key::of(volume).name;
            let grown = api
                .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
                .await?;
            self.volumes.observe(grown);
            tracing::info!(volume = name, size, "grown");
        }
        self.hand_over(claim, wanted).await
    }

    /// Tells the kubelet that the rest is its part.
    async fn hand_over(&self, claim: &PersistentVolumeClaim, size: i64) -> Result<(), Error> {
        const PENDING: &str = "FileSystemResizePending";
        let status = claim.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        if conditions
            .iter()
            .any(|c| c.type_ == PENDING && c.status == "True")
        {
            return Ok(());
        }
        let mut kept: Vec<Value> = conditions
            .iter()
            .filter(|c| c.type_ != "Resizing" && c.type_ != PENDING)
            .map(|c| json!(c))
            .collect();
        kept.push(json!({
            "type": PENDING,
            "status": "True",
            "lastTransitionTime": k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "message": "Waiting for the node to grow the file system.",
        }));
        let patch = json!({"status": {
            "conditions": kept,
            "allocatedResources": {"storage": quantity::quantity(size)},
            "allocatedResourceStatuses": {"storage": "NodeResizePending"},
        }});
        let key = Key::of(claim);
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let updated = api
            .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        self.claims.observe(updated);
        let message = "Require file system resize of volume on node";
        self.events
            .event(&reference(claim), "Normal", "FileSystemResizeRequired", message);
        Ok(())
    }
}
