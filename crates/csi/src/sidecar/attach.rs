//! Attachments: ControllerPublish and -Unpublish. The driver's part is a check only; what takes time is the API
//! server, so that there is one write before and one after the call.

use super::{Error, Sidecar, bounded, capability_of, csi_source};
use client::Key;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::api::{Api, Patch, PatchParams};
use protos::csi::{ControllerPublishVolumeRequest, ControllerUnpublishVolumeRequest};
use serde_json::{Value, json};

/// Keeps an attachment's object until the volume is detached (as upstream's attacher names it).
const FINALIZER: &str = "external-attacher/csi-hikube-io";
/// Longest message in a status. Bytes, less than what the API takes.
const MESSAGE_LIMIT: usize = 500;

impl Sidecar {
    /// Brings one attachment to where its object says.
    pub(super) async fn attachment(&self, key: &Key) -> Result<(), Error> {
        let Some(attachment) = self.attachments.by_key(key) else {
            return Ok(());
        };
        if attachment.spec.attacher != crate::DRIVER {
            return Ok(());
        }
        let attached = attachment.status.as_ref().is_some_and(|s| s.attached);
        let result = match (&attachment.metadata.deletion_timestamp, attached) {
            (Some(_), _) => self.detach(&attachment).await,
            (None, false) => self.attach(&attachment).await,
            (None, true) => return Ok(()),
        };
        if let Err(error @ (Error::Driver(_) | Error::Incomplete(_))) = &result {
            let field = if attachment.metadata.deletion_timestamp.is_some() {
                "detachError"
            } else {
                "attachError"
            };
            self.report(&attachment, field, &error.to_string()).await;
        }
        result
    }

    async fn attach(&self, attachment: &VolumeAttachment) -> Result<(), Error> {
        let (handle, capability, context) = {
            let name = attachment
                .spec
                .source
                .persistent_volume_name
                .as_deref()
                .unwrap_or_default();
            let volume = self.volumes.get("", name);
            let volume = volume.ok_or_else(|| Error::Incomplete(format!("no PersistentVolume {name}")))?;
            let source = csi_source(&volume).ok_or_else(|| {
                Error::Incomplete(format!("PersistentVolume {name} is not of {}", crate::DRIVER))
            })?;
            let spec = volume
                .spec
                .as_ref()
                .ok_or_else(|| Error::Incomplete("no spec".into()))?;
            let context = source.volume_attributes.clone().unwrap_or_default();
            (source.volume_handle.clone(), capability_of(spec)?, context)
        };
        let node_id = self.node_id(&attachment.spec.node_name)?;
        if !finalizers(attachment).iter().any(|f| f == FINALIZER) {
            let mut all = finalizers(attachment).to_vec();
            all.push(FINALIZER.into());
            self.set_finalizers(attachment, &all).await?;
        }
        let request = ControllerPublishVolumeRequest {
            volume_id: handle.clone(),
            node_id,
            volume_capability: Some(capability),
            volume_context: context.into_iter().collect(),
            ..ControllerPublishVolumeRequest::default()
        };
        let reply = self
            .driver
            .clone()
            .controller_publish_volume(bounded(request))
            .await?;
        let metadata = reply.into_inner().publish_context;
        let status = json!({"attached": true, "attachError": null, "attachmentMetadata": metadata});
        self.set_status(attachment, status).await?;
        tracing::info!(volume = handle, node = attachment.spec.node_name, "attached");
        Ok(())
    }

    async fn detach(&self, attachment: &VolumeAttachment) -> Result<(), Error> {
        if !finalizers(attachment).iter().any(|f| f == FINALIZER) {
            return Ok(());
        }
        let name = attachment
            .spec
            .source
            .persistent_volume_name
            .as_deref()
            .unwrap_or_default();
        let volume = self.volumes.get("", name);
        // Without its PersistentVolume there is nothing to tell the driver.
        if let Some(source) = volume.as_deref().and_then(csi_source) {
            let request = ControllerUnpublishVolumeRequest {
                volume_id: source.volume_handle.clone(),
                // A node that is gone for good has no CSINode; its name is its id with this driver.
                node_id: self
                    .node_id(&attachment.spec.node_name)
                    .unwrap_or(attachment.spec.node_name.clone()),
                ..ControllerUnpublishVolumeRequest::default()
            };
            self.driver
                .clone()
                .controller_unpublish_volume(bounded(request))
                .await?;
            tracing::info!(
                volume = source.volume_handle,
                node = attachment.spec.node_name,
                "detached"
            );
        }
        let mut rest = finalizers(attachment).to_vec();
        rest.retain(|f| f != FINALIZER);
        self.set_finalizers(attachment, &rest).await
    }

    /// The driver's name for a node, once the driver has registered there.
    fn node_id(&self, node: &str) -> Result<String, Error> {
        let missing = || Error::Incomplete(format!("{} is not registered on node {node}", crate::DRIVER));
        let info = self.nodes.get("", node).ok_or_else(missing)?;
        let drivers = &info.spec.drivers;
        let driver = drivers
            .iter()
            .find(|d| d.name == crate::DRIVER)
            .ok_or_else(missing)?;
        Ok(driver.node_id.clone())
    }

    async fn set_finalizers(&self, attachment: &VolumeAttachment, all: &[String]) -> Result<(), Error> {
        let patch = json!({"metadata": {
            "finalizers": all,
            "uid": attachment.metadata.uid,
            "resourceVersion": attachment.metadata.resource_version,
        }});
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        let name = Key::of(attachment).name;
        match api
            .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn set_status(&self, attachment: &VolumeAttachment, status: Value) -> Result<(), Error> {
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        let patch = json!({"metadata": {"uid": attachment.metadata.uid}, "status": status});
        let name = Key::of(attachment).name;
        let updated = api
            .patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        self.attachments.observe(updated);
        Ok(())
    }

    /// Shows a failure to whoever waits. Only news: each write would lead to another look.
    async fn report(&self, attachment: &VolumeAttachment, field: &str, message: &str) {
        let message: String = message.chars().take(MESSAGE_LIMIT).collect();
        let status = attachment.status.as_ref();
        let known = match field {
            "attachError" => status.and_then(|s| s.attach_error.as_ref()),
            _ => status.and_then(|s| s.detach_error.as_ref()),
        };
        if known.and_then(|e| e.message.as_deref()) == Some(message.as_str()) {
            return;
        }
        let error = json!({"message": message, "time": k8s_openapi::jiff::Timestamp::now().to_string()});
        let attached = status.is_some_and(|s| s.attached);
        if let Err(error) = self
            .set_status(attachment, json!({"attached": attached, field: error}))
            .await
        {
            tracing::debug!(%error, "failure not reported");
        }
    }
}

fn finalizers(attachment: &VolumeAttachment) -> &[String] {
    attachment.metadata.finalizers.as_deref().unwrap_or_default()
}
