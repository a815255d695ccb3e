//! The heart: a node dies, its pods move; a node that only seems dead keeps them.

use crate::cluster::{SOON, TestCluster, eventually};
use crate::players::{Kubelet, csi};
use anyhow::Result;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::api::ListParams;
use serde_json::json;
use std::time::{Duration, Instant};

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

async fn has_taint(cluster: &TestCluster, node: &str, key: &str) -> Result<bool> {
    let node = cluster.all::<Node>().get(node).await?;
    let taints = node.spec.unwrap_or_default().taints.unwrap_or_default();
    Ok(taints.iter().any(|taint| taint.key == key))
}

async fn running(cluster: &TestCluster, name: &str) -> Result<Option<Pod>> {
    let pod = cluster.api::<Pod>().get_opt(name).await?;
    Ok(pod.filter(|pod| client::pods::is_ready(pod) && pod.metadata.deletion_timestamp.is_none()))
}

/// A StatefulSet of one with a claim, and a Service.
async fn database(cluster: &TestCluster) -> Result<()> {
    cluster
        .create(json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "replicated"},
            "provisioner": "csi.test", "volumeBindingMode": "WaitForFirstConsumer"}))
        .await?;
    cluster
        .create(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"},
            "spec": {"selector": {"app": "db"}, "ports": [{"port": 80}]}}),
        )
        .await?;
    cluster
        .create(json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
            "spec": {
                "replicas": 1, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
                "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{
                    "name": "c", "image": "toolbox"}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                    "storageClassName": "replicated", "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1Gi"}}}}],
            },
        }))
        .await?;
    Ok(())
}

async fn ready_endpoints(cluster: &TestCluster) -> Result<usize> {
    let slices = cluster
        .api::<EndpointSlice>()
        .list(&ListParams::default().labels("kubernetes.io/service-name=db"))
        .await?;
    let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    Ok(endpoints
        .filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true)))
        .count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_loses_its_pod_and_volume_and_comes_back() -> Result<()> {
    let mut cluster = TestCluster::start().await?;
    let _sidecars = csi(&cluster);
    let kubelets = [
        Kubelet::start(&cluster, "n-a").await?,
        Kubelet::start(&cluster, "n-b").await?,
    ];
    database(&cluster).await?;
    let pod = eventually("db-0", SOON, || running(&cluster, "db-0")).await?;
    eventually("endpoint", SOON, || async {
        Ok((ready_endpoints(&cluster).await? == 1).then_some(()))
    })
    .await?;
    let node = client::pods::node_name(&pod).to_owned();
    let attached = cluster
        .all::<VolumeAttachment>()
        .list(&ListParams::default())
        .await?;
    assert_eq!(attached.items.len(), 1);
    assert_eq!(attached.items[0].spec.node_name, node);

    let dead = Instant::now();
    kubelets
        .iter()
        .find(|kubelet| kubelet.name == node)
        .unwrap()
        .kill();
    cluster.stores.lose(&node);
    eventually("endpoint dropped", SOON, || async {
        Ok((ready_endpoints(&cluster).await? == 0).then_some(()))
    })
    .await?;
    let dropped = dead.elapsed();
    let moved = eventually("db-0 elsewhere", Duration::from_secs(30), || async {
        Ok(running(&cluster, "db-0")
            .await?
            .filter(|pod| client::pods::node_name(pod) != node))
    })
    .await?;
    let elapsed = dead.elapsed();
    println!("endpoint dropped after {dropped:?}, pod ready elsewhere after {elapsed:?}");
    assert!(
        elapsed >= Duration::from_secs(13),
        "before the node is fenced: {elapsed:?}"
    );
    assert!(elapsed < Duration::from_secs(22), "{elapsed:?}");
    assert_ne!(moved.metadata.uid, pod.metadata.uid);
    eventually("attachment moved", SOON, || async {
        let attached = cluster
            .all::<VolumeAttachment>()
            .list(&ListParams::default())
            .await?
            .items;
        Ok((attached.len() == 1 && attached[0].spec.node_name != node).then_some(()))
    })
    .await?;
    assert!(has_taint(&cluster, &node, OUT_OF_SERVICE).await?);

    // Back: the taint that the fail-over set goes by itself.
    cluster.stores.find(&node);
    let _back = Kubelet::start(&cluster, &node).await?;
    eventually("in service again", SOON, || async {
        let node = cluster.all::<Node>().get(&node).await?;
        let taints = node.spec.unwrap_or_default().taints.unwrap_or_default();
        Ok(taints.is_empty().then_some(()))
    })
    .await?;
    // And its pod stays where it is now.
    let now = running(&cluster, "db-0").await?;
    assert_eq!(now.and_then(|pod| pod.metadata.uid), moved.metadata.uid);
    cluster.kill_managers();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_the_stores_hear_keeps_its_pods() -> Result<()> {
    let cluster = TestCluster::start().await?;
    let _sidecars = csi(&cluster);
    let kubelets = [
        Kubelet::start(&cluster, "n-a").await?,
        Kubelet::start(&cluster, "n-b").await?,
    ];
    database(&cluster).await?;
    let pod = eventually("db-0", SOON, || running(&cluster, "db-0")).await?;
    let node = client::pods::node_name(&pod).to_owned();
    // Only the API loses it.
    kubelets
        .iter()
        .find(|kubelet| kubelet.name == node)
        .unwrap()
        .kill();
    eventually("unreachable", SOON, || async {
        Ok(has_taint(&cluster, &node, "node.kubernetes.io/unreachable")
            .await?
            .then_some(()))
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert!(!has_taint(&cluster, &node, OUT_OF_SERVICE).await?);
    // Nor when the stores cannot tell.
    cluster.stores.lose(&node);
    cluster.stores.set_unknown(true);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!has_taint(&cluster, &node, OUT_OF_SERVICE).await?);
    let now = cluster.api::<Pod>().get("db-0").await?;
    assert_eq!(now.metadata.uid, pod.metadata.uid);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_control_plane_moves_nothing() -> Result<()> {
    let mut cluster = TestCluster::start().await?;
    let _sidecars = csi(&cluster);
    let _kubelets = [
        Kubelet::start(&cluster, "n-a").await?,
        Kubelet::start(&cluster, "n-b").await?,
    ];
    database(&cluster).await?;
    let pod = eventually("db-0", SOON, || running(&cluster, "db-0")).await?;
    cluster.inner.stop_server().await?;
    tokio::time::sleep(Duration::from_secs(25)).await;
    cluster.inner.start_server();
    cluster.inner.wait_ready().await?;
    // New leader, and old Leases that are only slowly renewed.
    tokio::time::sleep(Duration::from_secs(12)).await;
    for node in cluster.all::<Node>().list(&ListParams::default()).await? {
        assert!(!has_taint(&cluster, node.metadata.name.as_deref().unwrap(), OUT_OF_SERVICE).await?);
    }
    let now = cluster.api::<Pod>().get("db-0").await?;
    assert_eq!(now.metadata.uid, pod.metadata.uid);
    eventually("still working", SOON, || async {
        Ok(has_taint(&cluster, "n-a", "node.kubernetes.io/unreachable")
            .await?
            .then_some(())
            .map_or(Some(()), |()| None))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_finishes_what_the_old_one_began() -> Result<()> {
    let mut cluster = TestCluster::start().await?;
    let _sidecars = csi(&cluster);
    let kubelets = [
        Kubelet::start(&cluster, "n-a").await?,
        Kubelet::start(&cluster, "n-b").await?,
    ];
    cluster.start_managers("two");
    database(&cluster).await?;
    let pod = eventually("db-0", SOON, || running(&cluster, "db-0")).await?;
    let node = client::pods::node_name(&pod).to_owned();
    // The leader dies together with the node, as when a region is lost.
    let dead = Instant::now();
    kubelets
        .iter()
        .find(|kubelet| kubelet.name == node)
        .unwrap()
        .kill();
    cluster.stores.lose(&node);
    cluster.kill_managers();
    eventually("db-0 elsewhere", Duration::from_secs(30), || async {
        Ok(running(&cluster, "db-0")
            .await?
            .filter(|pod| client::pods::node_name(pod) != node))
    })
    .await?;
    let elapsed = dead.elapsed();
    println!("with a new leader: pod ready elsewhere after {elapsed:?}");
    assert!(elapsed < Duration::from_secs(28), "{elapsed:?}");
    Ok(())
}
