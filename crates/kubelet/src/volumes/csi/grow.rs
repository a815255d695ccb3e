//! The node's part of growing a volume: file system (or device) first, then the claim's status says so.

use super::claim::{self, Claim, Growth};
use crate::context::Context;
use crate::volumes::Error;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolumeClaim};
use kube::Api;
use kube::api::{Patch, PatchParams};
use protos::csi;
use serde_json::{Value, json};
use std::path::Path;

/// The claim waits for the node.
const PENDING: &str = "FileSystemResizePending";

/// Grows the volume at `target` to the size of its PersistentVolume and reports it in the claim.
pub async fn grow(context: &Context, claim: &Claim, target: &Path, staging: &Path) -> Result<(), Error> {
    let Some(growth) = &claim.growth else {
        return Ok(());
    };
    let driver = context.plugins.driver(&claim.driver)?;
    let reference = reference(claim, growth);
    if driver.expands {
        let request = csi::NodeExpandVolumeRequest {
            volume_id: claim.handle.clone(),
            volume_path: target.to_string_lossy().into(),
            capacity_range: Some(csi::CapacityRange {
                required_bytes: growth.bytes,
                limit_bytes: 0,
            }),
            staging_target_path: if driver.stages {
                staging.to_string_lossy().into()
            } else {
                String::new()
            },
            volume_capability: Some(claim.capability(driver.multi_writer)),
            ..csi::NodeExpandVolumeRequest::default()
        };
        if let Err(error) = driver.expand(request).await {
            let why = error.to_string();
            if report(context, growth, claim, pending(growth, &why)).await? {
                context
                    .recorder
                    .event(&reference, "Warning", "VolumeResizeFailed", why);
            }
            return Err(error);
        }
    }
    let kept: Vec<Value> = growth
        .conditions
        .iter()
        .filter(|c| !matches!(c.type_.as_str(), PENDING | "Resizing" | "NodeResizeError"))
        .map(|c| json!(c))
        .collect();
    let done = json!({
        "capacity": {"storage": growth.size},
        "conditions": kept,
        "allocatedResourceStatuses": {"storage": null},
    });
    report(context, growth, claim, Some(done)).await?;
    let message = format!(
        "MountVolume.NodeExpandVolume succeeded for volume {:?}",
        claim.volume
    );
    context
        .recorder
        .event(&reference, "Normal", "FileSystemResizeSuccessful", message);
    tracing::info!(
        volume = claim.volume,
        bytes = growth.bytes,
        "volume grown on the node"
    );
    Ok(())
}

/// The status of a claim whose file system could not grow, unless it says so already.
fn pending(growth: &Growth, why: &str) -> Option<Value> {
    let known = growth.conditions.iter().find(|c| c.type_ == PENDING);
    if known.is_some_and(|c| c.message.as_deref() == Some(why)) {
        return None;
    }
    let mut conditions: Vec<Value> = growth
        .conditions
        .iter()
        .filter(|c| !matches!(c.type_.as_str(), PENDING | "Resizing"))
        .map(|c| json!(c))
        .collect();
    let now = k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    conditions.push(json!({
        "type": PENDING,
        "status": "True",
        "lastTransitionTime": known.and_then(|c| c.last_transition_time.clone()).map_or_else(|| json!(now.to_string()), |t| json!(t)),
        "message": why,
    }));
    Some(json!({"conditions": conditions, "allocatedResourceStatuses": {"storage": "NodeResizePending"}}))
}

/// Writes the claim's status; false when there is nothing to write.
async fn report(
    context: &Context,
    growth: &Growth,
    claim: &Claim,
    status: Option<Value>,
) -> Result<bool, Error> {
    let Some(status) = status else {
        return Ok(false);
    };
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &growth.namespace);
    let patch = Patch::Merge(json!({"status": status}));
    let params = PatchParams::default();
    let what = format!("status of persistentvolumeclaim {:?}", claim.name);
    claim::ask(&what, api.patch_status(&claim.name, &params, &patch)).await?;
    Ok(true)
}

fn reference(claim: &Claim, growth: &Growth) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("PersistentVolumeClaim".into()),
        namespace: Some(growth.namespace.clone()),
        name: Some(claim.name.clone()),
        uid: growth.claim_uid.clone(),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_reported_once_and_keeps_other_conditions() {
        let mut growth: Growth = Growth {
            namespace: "n".into(),
            claim_uid: None,
            size: k8s_openapi::apimachinery::pkg::api::resource::Quantity("2Gi".into()),
            bytes: 2 << 30,
            conditions: serde_json::from_value(json!([
                {"type": "Resizing", "status": "True"},
                {"type": PENDING, "status": "True", "message": "waiting"},
                {"type": "x", "status": "True"},
            ]))
            .expect("conditions"),
        };
        let status = pending(&growth, "busy").expect("news");
        let types: Vec<&str> = status["conditions"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|c| c["type"].as_str())
            .collect();
        assert_eq!(types, ["x", PENDING]);
        assert_eq!(status["conditions"][1]["message"], "busy");
        growth.conditions = serde_json::from_value(status["conditions"].clone()).expect("conditions");
        assert_eq!(pending(&growth, "busy"), None);
    }
}
