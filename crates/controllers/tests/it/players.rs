//! Players of the parts that are not under test, each as an ordinary client.

use crate::cluster::TestCluster;
use anyhow::Result;
use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use serde_json::json;
use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// A kubelet: renews its Lease, runs whatever is bound to its node at once, ends what is deleted.
pub struct Kubelet {
    pub name: String,
    task: JoinHandle<()>,
    /// When set, pods stay not ready.
    #[allow(dead_code, reason = "kept alive for the task that reads it")]
    pub broken: Arc<AtomicBool>,
}

impl Kubelet {
    /// Registers the node (in a region of its name's last letter) and starts.
    pub async fn start(cluster: &TestCluster, name: &str) -> Result<Self> {
        let region = name.chars().last().unwrap().to_string();
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {
                "kubernetes.io/hostname": name, "topology.kubernetes.io/region": region}},
        });
        if cluster.all::<Node>().get_opt(name).await?.is_none() {
            cluster.create(node).await?;
        }
        let kubeconfig = cluster.inner.node(name)?;
        let client = client::connect(&kubeconfig).await?.client;
        let broken = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(run(client, name.to_owned(), broken.clone()));
        Ok(Self {
            name: name.into(),
            task,
            broken,
        })
    }

    /// The machine is gone.
    pub fn kill(&self) {
        self.task.abort();
    }
}

async fn run(client: kube::Client, name: String, broken: Arc<AtomicBool>) {
    let beat = async {
        loop {
            if let Err(error) = renew(&client, &name).await {
                tracing::debug!(%error, "lease");
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    };
    // As a real one: what is gone from the API is killed before the node reports Ready.
    let work = async {
        if let Err(error) = report_ready(&client, &name).await {
            tracing::warn!(%error, "node status");
        }
        let pods: Api<Pod> = Api::all(client.clone());
        let config = watcher::Config::default().fields(&format!("spec.nodeName={name}"));
        let mut events = pin!(watcher::watcher(pods, config));
        let mut started = HashSet::new();
        while let Some(event) = events.next().await {
            let pod = match event {
                Ok(Event::Apply(pod) | Event::InitApply(pod)) => pod,
                Ok(_) => continue,
                Err(_) => {
                    pause().await;
                    continue;
                }
            };
            if let Err(error) = handle(&client, &pod, &broken, &mut started).await {
                tracing::debug!(%error, "pod");
            }
        }
    };
    tokio::join!(beat, work);
}

/// A watch that fails is not tried again at once: a loop that never waits starves all else.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn renew(client: &kube::Client, name: &str) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let spec = json!({
        "holderIdentity": name, "leaseDurationSeconds": 8,
        "renewTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(Timestamp::now()),
    });
    if leases.get_opt(name).await?.is_none() {
        let lease = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?;
        leases.create(&PostParams::default(), &lease).await?;
    } else {
        leases
            .patch(
                name,
                &PatchParams::default(),
                &Patch::Merge(json!({"spec": spec})),
            )
            .await?;
    }
    Ok(())
}

async fn report_ready(client: &kube::Client, name: &str) -> Result<()> {
    let now = Timestamp::now().to_string();
    let condition = |kind: &str, status: &str| {
        json!({"type": kind, "status": status, "lastHeartbeatTime": now, "lastTransitionTime": now,
            "reason": "Test", "message": "test"})
    };
    let patch = json!({"status": {
        "capacity": {"cpu": "8", "memory": "16Gi", "pods": "110"},
        "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "110"},
        "conditions": [condition("Ready", "True"), condition("MemoryPressure", "False"),
            condition("DiskPressure", "False"), condition("PIDPressure", "False")],
    }});
    let nodes: Api<Node> = Api::all(client.clone());
    nodes
        .patch_status(name, &PatchParams::default(), &Patch::Strategic(patch))
        .await?;
    Ok(())
}

async fn handle(
    client: &kube::Client,
    pod: &Pod,
    broken: &AtomicBool,
    started: &mut HashSet<String>,
) -> Result<()> {
    let namespace = pod.metadata.namespace.as_deref().unwrap();
    let name = pod.metadata.name.as_deref().unwrap();
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    if pod.metadata.deletion_timestamp.is_some() {
        api.delete(name, &DeleteParams::default().grace_period(0)).await?;
        return Ok(());
    }
    let uid = pod.metadata.uid.clone().unwrap();
    if !started.insert(uid) {
        return Ok(());
    }
    let now = Timestamp::now().to_string();
    let ready = if broken.load(Ordering::Relaxed) {
        "False"
    } else {
        "True"
    };
    let octet = |shift: u32| started.len() >> shift & 0xff;
    let ip = format!("10.128.{}.{}", octet(8), octet(0));
    let patch = json!({"status": {
        "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "startTime": now,
        "conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": now},
            {"type": "ContainersReady", "status": ready, "lastTransitionTime": now},
            {"type": "Initialized", "status": "True", "lastTransitionTime": now}],
    }});
    api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch))
        .await?;
    // What ends by itself says so in an annotation.
    let end = pod
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get("test/ends-as"));
    if let Some(phase) = end {
        let patch = json!({"status": {"phase": phase}});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
    }
    Ok(())
}

/// A CSI driver's sidecars: makes volumes for claims and attaches them.
pub fn csi(cluster: &TestCluster) -> JoinHandle<()> {
    let client = cluster.client.clone();
    tokio::spawn(async move {
        let config = watcher::Config::default();
        let provision = async {
            let api = Api::<PersistentVolumeClaim>::all(client.clone());
            let mut events = pin!(watcher::watcher(api, config.clone()));
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Apply(claim) | Event::InitApply(claim)) => {
                        if let Err(error) = provision(&client, &claim).await {
                            tracing::debug!(%error, "provision");
                        }
                    }
                    Ok(_) => {}
                    Err(_) => pause().await,
                }
            }
        };
        let attach = async {
            let api = Api::<VolumeAttachment>::all(client.clone());
            let mut events = pin!(watcher::watcher(api, config.clone()));
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Apply(attachment) | Event::InitApply(attachment)) => {
                        if let Err(error) = attach(&client, &attachment).await {
                            tracing::debug!(%error, "attach");
                        }
                    }
                    Ok(_) => {}
                    Err(_) => pause().await,
                }
            }
        };
        tokio::join!(provision, attach);
    })
}

async fn provision(client: &kube::Client, claim: &PersistentVolumeClaim) -> Result<()> {
    let annotations = claim.metadata.annotations.clone().unwrap_or_default();
    let ours = annotations
        .get("volume.kubernetes.io/storage-provisioner")
        .is_some_and(|p| p == "csi.test");
    let spec = claim.spec.clone().unwrap_or_default();
    if !ours || spec.volume_name.is_some() || claim.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let uid = claim.metadata.uid.clone().unwrap();
    let volume: PersistentVolume = serde_json::from_value(json!({
        "metadata": {"name": format!("pvc-{uid}"),
            "annotations": {"pv.kubernetes.io/provisioned-by": "csi.test"}},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": spec.access_modes,
            "storageClassName": spec.storage_class_name, "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": client::events::reference(claim),
            "csi": {"driver": "csi.test", "volumeHandle": uid},
        },
    }))?;
    Api::<PersistentVolume>::all(client.clone())
        .create(&PostParams::default(), &volume)
        .await?;
    Ok(())
}

async fn attach(client: &kube::Client, attachment: &VolumeAttachment) -> Result<()> {
    let done = attachment.status.as_ref().is_some_and(|status| status.attached);
    if done || attachment.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let api: Api<VolumeAttachment> = Api::all(client.clone());
    let name = attachment.metadata.name.as_deref().unwrap();
    let patch = json!({"status": {"attached": true}});
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(())
}
