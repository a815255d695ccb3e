//! ReplicationControllers, CronJobs, quotas, autoscalers and mirrored Endpoints.

use crate::cluster::{SOON, TestCluster, eventually};
use crate::players::Kubelet;
use anyhow::Result;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Endpoints, ReplicationController, ResourceQuota};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

async fn replicas(cluster: &TestCluster, wanted: i32) -> Result<()> {
    eventually("replication controller", SOON, || async {
        let controller = cluster.api::<ReplicationController>().get("old").await?;
        let status = controller.status.unwrap_or_default();
        Ok((status.replicas == wanted && status.ready_replicas == Some(wanted)).then_some(()))
    })
    .await
}

async fn used(cluster: &TestCluster, name: &str, wanted: &str) -> Result<()> {
    eventually(&format!("{wanted} {name} used"), SOON, || async {
        let quota = cluster.api::<ResourceQuota>().get("q").await?;
        let used = quota.status.and_then(|s| s.used).unwrap_or_default();
        Ok((used.get(name).map(|q| q.0.as_str()) == Some(wanted)).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sizes_are_kept_counted_and_bounded() -> Result<()> {
    let cluster = TestCluster::start().await?;
    let _kubelet = Kubelet::start(&cluster, "n-a").await?;
    cluster
        .create(
            json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {
                "pods": "20", "requests.cpu": "10", "count/replicationcontrollers": "5", "services": "5"}}}),
        )
        .await?;
    used(&cluster, "pods", "0").await?;
    cluster
        .create(json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "old"},
            "spec": {"replicas": 2, "selector": {"app": "old"}, "template": {
                "metadata": {"labels": {"app": "old"}}, "spec": {"containers": [{"name": "c", "image": "toolbox",
                    "resources": {"requests": {"cpu": "100m"}}}]}}}}))
        .await?;
    replicas(&cluster, 2).await?;
    used(&cluster, "pods", "2").await?;
    used(&cluster, "requests.cpu", "200m").await?;
    used(&cluster, "count/replicationcontrollers", "1").await?;
    cluster
        .create(
            json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "h"}, "spec": {"minReplicas": 3, "maxReplicas": 5, "scaleTargetRef": {
                "apiVersion": "v1", "kind": "ReplicationController", "name": "old"},
                "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {
                    "type": "Utilization", "averageUtilization": 50}}}]}}),
        )
        .await?;
    replicas(&cluster, 3).await?;
    let scaler = cluster.api::<HorizontalPodAutoscaler>().get("h").await?;
    let conditions = scaler.status.and_then(|s| s.conditions).unwrap_or_default();
    let active = conditions.iter().find(|c| c.type_ == "ScalingActive");
    assert!(
        active.is_some_and(|c| c.status == "False"),
        "nothing is scaled by load: {conditions:?}"
    );
    cluster
        .api::<HorizontalPodAutoscaler>()
        .delete("h", &DeleteParams::default())
        .await?;
    cluster
        .patch::<ReplicationController>("old", json!({"spec": {"replicas": 1}}))
        .await?;
    replicas(&cluster, 1).await?;
    used(&cluster, "pods", "1").await?;
    used(&cluster, "requests.cpu", "100m").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedules_start_jobs_and_endpoints_are_mirrored() -> Result<()> {
    let cluster = TestCluster::start().await?;
    let _kubelet = Kubelet::start(&cluster, "n-a").await?;
    cluster
        .create(
            json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick"}, "spec": {
            "schedule": "@every 2s", "jobTemplate": {"spec": {"template": {
                "metadata": {"annotations": {"test/ends-as": "Succeeded"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "toolbox"}]}}}}}}),
        )
        .await?;
    cluster
        .create(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "elsewhere"},
            "spec": {"ports": [{"port": 5432}]}}),
        )
        .await?;
    cluster
        .create(
            json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "elsewhere"},
            "subsets": [{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"port": 5432}]}]}),
        )
        .await?;
    let mirrored = async || {
        let list = ListParams::default().labels("kubernetes.io/service-name=elsewhere");
        let slices = cluster.api::<EndpointSlice>().list(&list).await?;
        let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        anyhow::Ok(
            endpoints
                .flat_map(|e| e.addresses.clone())
                .collect::<Vec<String>>(),
        )
    };
    eventually("mirrored", SOON, || async {
        Ok((mirrored().await? == ["192.0.2.7"]).then_some(()))
    })
    .await?;
    cluster
        .api::<Endpoints>()
        .delete("elsewhere", &DeleteParams::default())
        .await?;
    eventually("not mirrored any more", SOON, || async {
        Ok(mirrored().await?.is_empty().then_some(()))
    })
    .await?;
    let cron = eventually("a job has run", SOON, || async {
        let cron = cluster.api::<CronJob>().get("tick").await?;
        let status = cron.status.unwrap_or_default();
        Ok(status.last_successful_time.is_some().then_some(status))
    })
    .await?;
    assert!(cron.last_schedule_time.is_some());
    let jobs = cluster.api::<Job>().list(&ListParams::default()).await?;
    let owner = jobs.items[0]
        .metadata
        .owner_references
        .clone()
        .unwrap_or_default();
    assert_eq!(owner[0].kind, "CronJob");
    Ok(())
}
