//! Claims, volumes and attachments.

use crate::cluster::{SOON, TestCluster, eventually};
use crate::players::{Kubelet, csi};
use anyhow::Result;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

fn phase(claim: &PersistentVolumeClaim) -> &str {
    claim
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_provisioned_used_and_released() -> Result<()> {
    let cluster = TestCluster::start().await?;
    let _sidecars = csi(&cluster);
    let _kubelet = Kubelet::start(&cluster, "n-a").await?;
    cluster
        .create(json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "s",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "csi.test"}))
        .await?;
    cluster
        .create(
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
        )
        .await?;
    let claims = cluster.api::<PersistentVolumeClaim>();
    let claim = eventually("bound", SOON, || async {
        let claim = claims.get("c").await?;
        Ok((phase(&claim) == "Bound").then_some(claim))
    })
    .await?;
    assert_eq!(
        claim.spec.as_ref().unwrap().storage_class_name.as_deref(),
        Some("s")
    );
    cluster
        .create(
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "c", "image": "toolbox"}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}}),
        )
        .await?;
    // The kubelet is told that the volume is there.
    eventually("attached", SOON, || async {
        let node = cluster.all::<Node>().get("n-a").await?;
        let attached = node
            .status
            .unwrap_or_default()
            .volumes_attached
            .unwrap_or_default();
        Ok(
            (attached.len() == 1 && attached[0].name.starts_with("kubernetes.io/csi/csi.test^"))
                .then_some(()),
        )
    })
    .await?;
    // In use: it stays until the pod is gone.
    claims.delete("c", &DeleteParams::default()).await?;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert!(claims.get_opt("c").await?.is_some());
    cluster.api::<Pod>().delete("p", &DeleteParams::default()).await?;
    eventually("claim gone", SOON, || async {
        Ok(claims.get_opt("c").await?.is_none().then_some(()))
    })
    .await?;
    eventually("released and detached", SOON, || async {
        let volumes = cluster
            .all::<PersistentVolume>()
            .list(&ListParams::default())
            .await?;
        let released = volumes.iter().all(|volume| {
            volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Released")
        });
        let attached = cluster
            .all::<VolumeAttachment>()
            .list(&ListParams::default())
            .await?;
        Ok((released && attached.items.is_empty()).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_made_by_hand_finds_its_claim() -> Result<()> {
    let cluster = TestCluster::start().await?;
    cluster
        .create(
            json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": {
            "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "manual",
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/tmp"}}}),
        )
        .await?;
    cluster
        .create(
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec": {
            "storageClassName": "manual", "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}}),
        )
        .await?;
    let claims = cluster.api::<PersistentVolumeClaim>();
    let claim = eventually("bound", SOON, || async {
        let claim = claims.get("c").await?;
        Ok((phase(&claim) == "Bound").then_some(claim))
    })
    .await?;
    assert_eq!(claim.spec.unwrap().volume_name.as_deref(), Some("v"));
    assert_eq!(claim.status.unwrap().capacity.unwrap()["storage"].0, "2Gi");
    Ok(())
}
