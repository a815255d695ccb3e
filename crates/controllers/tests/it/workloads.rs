//! Deployments, StatefulSets and Services, as `kubectl` users see them.

use crate::cluster::{SOON, TestCluster, eventually};
use crate::players::Kubelet;
use anyhow::Result;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Pod, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::Instant;

fn deployment(name: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [
                {"name": "c", "image": "toolbox", "ports": [{"name": "http", "containerPort": 8080}]}]}},
        },
    })
}

/// As `kubectl rollout status` judges.
fn rolled_out(d: &Deployment) -> bool {
    let wanted = d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    let status = d.status.clone().unwrap_or_default();
    status.observed_generation >= d.metadata.generation
        && status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
}

async fn wait_rolled_out(cluster: &TestCluster, name: &str) -> Result<Deployment> {
    eventually("rollout", SOON, || async {
        let deployment = cluster.api::<Deployment>().get(name).await?;
        Ok(rolled_out(&deployment).then_some(deployment))
    })
    .await
}

async fn pods(cluster: &TestCluster, app: &str) -> Result<Vec<Pod>> {
    let list = ListParams::default().labels(&format!("app={app}"));
    Ok(cluster.api::<Pod>().list(&list).await?.items)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_rolls_out_updates_and_goes_back() -> Result<()> {
    let cluster = TestCluster::start().await?;
    let _kubelets = [
        Kubelet::start(&cluster, "n-a").await?,
        Kubelet::start(&cluster, "n-b").await?,
        Kubelet::start(&cluster, "n-c").await?,
    ];
    cluster.create(deployment("web", 3)).await?;
    cluster
        .create(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]},
        }))
        .await?;
    wait_rolled_out(&cluster, "web").await?;
    let first = pods(&cluster, "web").await?;
    let nodes: HashSet<_> = first
        .iter()
        .map(|pod| pod.spec.clone().unwrap().node_name)
        .collect();
    assert_eq!(nodes.len(), 3, "one pod in each region");
    // The Service finds them, in both forms.
    eventually("endpoints", SOON, || async {
        let endpoints = cluster.api::<Endpoints>().get_opt("web").await?;
        let subsets = endpoints.and_then(|e| e.subsets).unwrap_or_default();
        let ready = subsets.iter().flat_map(|s| s.addresses.iter().flatten()).count();
        let port = subsets
            .first()
            .and_then(|s| s.ports.as_ref()?.first().map(|p| p.port));
        let slices = cluster
            .api::<EndpointSlice>()
            .list(&ListParams::default())
            .await?;
        let of = |s: &EndpointSlice| {
            s.metadata
                .labels
                .as_ref()?
                .get("kubernetes.io/service-name")
                .cloned()
        };
        let web = slices.iter().filter(|s| of(s).as_deref() == Some("web"));
        let in_slices = web.flat_map(|s| s.endpoints.iter().flatten()).count();
        Ok((ready == 3 && port == Some(8080) && in_slices == 3).then_some(()))
    })
    .await?;
    // An update.
    let image = |image: &str| {
        json!({"spec": {"template": {"spec": {"containers": [
            {"name": "c", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}]}}}})
    };
    cluster.patch::<Deployment>("web", image("toolbox:2")).await?;
    let updated = wait_rolled_out(&cluster, "web").await?;
    assert_eq!(
        updated.metadata.annotations.unwrap()["deployment.kubernetes.io/revision"],
        "2"
    );
    let sets = cluster.api::<ReplicaSet>().list(&ListParams::default()).await?;
    assert_eq!(sets.items.len(), 2);
    // Back, as `kubectl rollout undo` does it: the old template put in again.
    cluster.patch::<Deployment>("web", image("toolbox")).await?;
    let back = wait_rolled_out(&cluster, "web").await?;
    assert_eq!(
        back.metadata.annotations.unwrap()["deployment.kubernetes.io/revision"],
        "3"
    );
    assert_eq!(
        cluster
            .api::<ReplicaSet>()
            .list(&ListParams::default())
            .await?
            .items
            .len(),
        2
    );
    // Scaled up and down.
    cluster
        .patch::<Deployment>("web", json!({"spec": {"replicas": 6}}))
        .await?;
    wait_rolled_out(&cluster, "web").await?;
    cluster
        .patch::<Deployment>("web", json!({"spec": {"replicas": 1}}))
        .await?;
    wait_rolled_out(&cluster, "web").await?;
    eventually("scaled down", SOON, || async {
        Ok((pods(&cluster, "web").await?.len() == 1).then_some(()))
    })
    .await?;
    // Deleted with all that it owns.
    cluster
        .api::<Deployment>()
        .delete("web", &kube::api::DeleteParams::background())
        .await?;
    eventually("collected", SOON, || async {
        let sets = cluster
            .api::<ReplicaSet>()
            .list(&ListParams::default())
            .await?
            .items
            .len();
        Ok((sets == 0 && pods(&cluster, "web").await?.is_empty()).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_pods_are_scheduled_quickly() -> Result<()> {
    let cluster = TestCluster::start().await?;
    let _kubelets = [
        Kubelet::start(&cluster, "n-a").await?,
        Kubelet::start(&cluster, "n-b").await?,
    ];
    cluster.create(deployment("warm", 1)).await?;
    wait_rolled_out(&cluster, "warm").await?;
    let start = Instant::now();
    cluster.create(deployment("many", 100)).await?;
    eventually("100 pods bound", SOON, || async {
        let bound = pods(&cluster, "many").await?;
        let bound = bound
            .iter()
            .filter(|pod| pod.spec.as_ref().is_some_and(|s| s.node_name.is_some()))
            .count();
        Ok((bound == 100).then_some(()))
    })
    .await?;
    let elapsed = start.elapsed();
    println!("100 pods created and bound in {elapsed:?}");
    assert!(elapsed.as_secs() < 10, "{elapsed:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_starts_updates_and_scales_in_order() -> Result<()> {
    let cluster = TestCluster::start().await?;
    let _kubelets = [
        Kubelet::start(&cluster, "n-a").await?,
        Kubelet::start(&cluster, "n-b").await?,
    ];
    cluster
        .create(json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
            "spec": {
                "replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
                "template": {"metadata": {"labels": {"app": "db"}},
                    "spec": {"containers": [{"name": "c", "image": "toolbox"}]}},
            },
        }))
        .await?;
    let settled = |generation: i64, replicas: i32| {
        let cluster = &cluster;
        async move {
            eventually("stateful set", SOON, || async {
                let set = cluster.api::<StatefulSet>().get("db").await?;
                let status = set.status.unwrap_or_default();
                let done = status.observed_generation == Some(generation)
                    && status.ready_replicas.unwrap_or(0) == replicas
                    && status.replicas == replicas
                    && status.updated_replicas.unwrap_or(0) == replicas
                    && status.current_revision == status.update_revision;
                Ok(done.then_some(()))
            })
            .await
        }
    };
    settled(1, 3).await?;
    let mut all = pods(&cluster, "db").await?;
    all.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|t| t.0));
    let names: Vec<_> = all.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), 3);
    assert!(
        ["db-0", "db-1", "db-2"]
            .iter()
            .all(|name| names.contains(&(*name).to_owned()))
    );
    let update =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "toolbox:2"}]}}}});
    cluster.patch::<StatefulSet>("db", update).await?;
    settled(2, 3).await?;
    let images: HashSet<_> = pods(&cluster, "db")
        .await?
        .iter()
        .map(|pod| pod.spec.clone().unwrap().containers[0].image.clone())
        .collect();
    assert_eq!(images, [Some("toolbox:2".to_owned())].into());
    cluster
        .patch::<StatefulSet>("db", json!({"spec": {"replicas": 1}}))
        .await?;
    settled(3, 1).await?;
    eventually("only db-0", SOON, || async {
        let left = pods(&cluster, "db").await?;
        Ok((left.len() == 1 && left[0].metadata.name.as_deref() == Some("db-0")).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_says_why_and_runs_when_it_can() -> Result<()> {
    let cluster = TestCluster::start().await?;
    let _kubelet = Kubelet::start(&cluster, "n-a").await?;
    cluster
        .create(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "c", "image": "toolbox"}]},
        }))
        .await?;
    eventually("condition", SOON, || async {
        let pod = cluster.api::<Pod>().get("p").await?;
        let message = client::pods::condition(&pod, "PodScheduled").and_then(|c| c.message.clone());
        let wanted = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
        Ok(message.filter(|message| message.starts_with(wanted)))
    })
    .await?;
    let label = json!({"metadata": {"labels": {"disk": "ssd"}}});
    let nodes = cluster.all::<k8s_openapi::api::core::v1::Node>();
    nodes
        .patch("n-a", &Default::default(), &kube::api::Patch::Merge(label))
        .await?;
    eventually("running", SOON, || async {
        let pod = cluster.api::<Pod>().get("p").await?;
        Ok((client::pods::phase(&pod) == "Running").then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_are_furnished_and_emptied() -> Result<()> {
    let cluster = TestCluster::start().await?;
    let _kubelet = Kubelet::start(&cluster, "n-a").await?;
    cluster
        .create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}))
        .await?;
    let accounts: kube::Api<ServiceAccount> = kube::Api::namespaced(cluster.client.clone(), "x");
    let maps: kube::Api<ConfigMap> = kube::Api::namespaced(cluster.client.clone(), "x");
    eventually("furnished", SOON, || async {
        let account = accounts.get_opt("default").await?;
        let authority = maps
            .get_opt("kube-root-ca.crt")
            .await?
            .and_then(|map| map.data?.get("ca.crt").cloned());
        Ok(
            (account.is_some() && authority.is_some_and(|pem| pem.contains("BEGIN CERTIFICATE")))
                .then_some(()),
        )
    })
    .await?;
    let mut inside = deployment("inside", 2);
    inside["metadata"]["namespace"] = "x".into();
    cluster.create(inside).await?;
    let pods: kube::Api<Pod> = kube::Api::namespaced(cluster.client.clone(), "x");
    eventually("pods", SOON, || async {
        let pods = pods.list(&ListParams::default()).await?;
        Ok((pods.items.len() == 2).then_some(()))
    })
    .await?;
    let namespaces = cluster.all::<k8s_openapi::api::core::v1::Namespace>();
    namespaces.delete("x", &Default::default()).await?;
    eventually("gone", SOON, || async {
        Ok(namespaces.get_opt("x").await?.is_none().then_some(()))
    })
    .await
}
