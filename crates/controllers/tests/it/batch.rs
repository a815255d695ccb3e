//! Jobs and DaemonSets.

use crate::cluster::{SOON, TestCluster, eventually};
use crate::players::Kubelet;
use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn job(name: &str, ends_as: &str, more: Value) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"template": {"metadata": {"annotations": {"test/ends-as": ends_as}}, "spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "toolbox"}]}}},
    });
    for (key, value) in more.as_object().unwrap() {
        job["spec"][key] = value.clone();
    }
    job
}

fn condition(job: &Job) -> Option<(String, String)> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let end = conditions
        .iter()
        .find(|c| c.type_ == "Complete" || c.type_ == "Failed")?;
    Some((end.type_.clone(), end.reason.clone().unwrap_or_default()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_complete_fail_and_expire() -> Result<()> {
    let cluster = TestCluster::start().await?;
    let _kubelet = Kubelet::start(&cluster, "n-a").await?;
    let jobs = cluster.api::<Job>();
    let end = |name: &'static str| {
        let jobs = jobs.clone();
        async move {
            eventually(name, SOON, || async {
                Ok(jobs.get_opt(name).await?.filter(|job| condition(job).is_some()))
            })
            .await
        }
    };
    cluster
        .create(job(
            "good",
            "Succeeded",
            json!({"completions": 3, "parallelism": 2}),
        ))
        .await?;
    let good = end("good").await?;
    assert_eq!(
        condition(&good),
        Some(("Complete".into(), "CompletionsReached".into()))
    );
    assert_eq!(good.status.unwrap().succeeded, Some(3));
    cluster
        .create(job(
            "indexed",
            "Succeeded",
            json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed"}),
        ))
        .await?;
    let indexed = end("indexed").await?;
    assert_eq!(indexed.status.unwrap().completed_indexes.as_deref(), Some("0-2"));
    cluster
        .create(job("bad", "Failed", json!({"backoffLimit": 0})))
        .await?;
    let bad = end("bad").await?;
    assert_eq!(
        condition(&bad),
        Some(("Failed".into(), "BackoffLimitExceeded".into()))
    );
    let policies =
        json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 0});
    cluster.create(job("apart", "Failed", policies)).await?;
    let apart = end("apart").await?;
    assert_eq!(condition(&apart), Some(("Failed".into(), "FailedIndexes".into())));
    assert_eq!(apart.status.unwrap().failed_indexes.as_deref(), Some("0-2"));
    let policies = json!({"completions": 3, "parallelism": 1, "completionMode": "Indexed",
        "successPolicy": {"rules": [{"succeededCount": 1}]}});
    cluster.create(job("enough", "Succeeded", policies)).await?;
    assert_eq!(
        condition(&end("enough").await?),
        Some(("Complete".into(), "SuccessPolicy".into()))
    );
    // Its pods are gone with it, though it can count them no more.
    let mut left = job("left", "", json!({}));
    left["spec"]["template"]["metadata"] = json!({});
    cluster.create(left).await?;
    let of_left = ListParams::default().labels("job-name=left");
    let pods = cluster.api::<Pod>();
    eventually("started", SOON, || async {
        Ok((!pods.list(&of_left).await?.items.is_empty()).then_some(()))
    })
    .await?;
    jobs.delete("left", &DeleteParams::background()).await?;
    eventually("pods gone", SOON, || async {
        Ok(pods.list(&of_left).await?.items.is_empty().then_some(()))
    })
    .await?;
    cluster
        .create(job("short", "Succeeded", json!({"ttlSecondsAfterFinished": 1})))
        .await?;
    eventually("expired", SOON, || async {
        let pods = cluster
            .api::<Pod>()
            .list(&ListParams::default().labels("job-name=short"))
            .await?;
        Ok((jobs.get_opt("short").await?.is_none() && pods.items.is_empty()).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_set_is_on_every_node() -> Result<()> {
    let cluster = TestCluster::start().await?;
    let _kubelets = [
        Kubelet::start(&cluster, "n-a").await?,
        Kubelet::start(&cluster, "n-b").await?,
    ];
    cluster
        .create(json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"},
            "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": {
                "metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "c", "image": "toolbox"}]}}},
        }))
        .await?;
    let settled = |nodes: i32, generation: i64| {
        let cluster = &cluster;
        async move {
            eventually("daemon set", SOON, || async {
                let status = cluster
                    .api::<DaemonSet>()
                    .get("agent")
                    .await?
                    .status
                    .unwrap_or_default();
                let done = status.number_ready == nodes
                    && status.desired_number_scheduled == nodes
                    && status.updated_number_scheduled == Some(nodes)
                    && status.observed_generation == Some(generation);
                Ok(done.then_some(()))
            })
            .await
        }
    };
    settled(2, 1).await?;
    let _third = Kubelet::start(&cluster, "n-c").await?;
    settled(3, 1).await?;
    let update =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "toolbox:2"}]}}}});
    cluster.patch::<DaemonSet>("agent", update).await?;
    settled(3, 2).await?;
    // Clients find a pod's revision, and the revisions of the set, by this label.
    let hash = |labels: Option<BTreeMap<String, String>>| labels?.get("controller-revision-hash").cloned();
    let mut revisions = cluster
        .api::<ControllerRevision>()
        .list(&ListParams::default())
        .await?
        .items;
    revisions.sort_by_key(|revision| revision.revision);
    ensure!(revisions.len() == 2, "{revisions:?}");
    let newest = hash(revisions[1].metadata.labels.clone());
    ensure!(
        newest.is_some() && newest != hash(revisions[0].metadata.labels.clone()),
        "{revisions:?}"
    );
    for pod in cluster
        .api::<Pod>()
        .list(&ListParams::default().labels("app=agent"))
        .await?
    {
        ensure!(
            pod.metadata.deletion_timestamp.is_some() || hash(pod.metadata.labels.clone()) == newest,
            "{pod:?}"
        );
    }
    Ok(())
}
