//! The kubelet on a real containerd, against our API server on a real etcd. Needs root; the namespaces, mounts
//! and cgroups that it makes carry the process ID in their names and are removed again.
#![allow(clippy::unwrap_used)]
// What took how long is worth reading in the test's output.
#![allow(clippy::print_stdout)]

mod support;

use anyhow::{Context, Result, bail, ensure};
use hikube_kubelet::{Config, run};
use k8s_openapi::api::core::v1::{
    ConfigMap, Event, Node, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount,
};
use k8s_openapi::api::storage::v1::CSINode;
use kube::api::{AttachParams, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};
use support::{Containerd, csi, engine};
use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const NODE: &str = "test-node";
const PATIENCE: Duration = Duration::from_secs(40);

/// Asks until the answer is there.
async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    let mut last = None;
    while started.elapsed() < PATIENCE {
        match ask().await {
            Ok(Some(answer)) => {
                println!("{what}: after {} ms", started.elapsed().as_millis());
                return Ok(answer);
            }
            Ok(None) => {}
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("{what}: not within {PATIENCE:?} ({last:?})")
}

struct Setup {
    cluster: testkit::Cluster,
    containerd: Containerd,
    client: Client,
    config: Config,
    kubelet: Option<(CancellationToken, JoinHandle<Result<(), hikube_kubelet::Error>>)>,
    _dir: tempfile::TempDir,
}

impl Setup {
    async fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("hikube-kubelet-").tempdir()?;
        let containerd = Containerd::start(&dir.path().join("containerd"), "10.213.80.0/24")?;
        let cluster = testkit::Cluster::start().await?;
        let client = client::connect(&cluster.admin).await?.client;
        let serving = cluster.pki.server("kubelet-serving", &[[127, 0, 0, 1].into()])?;
        let config = Config {
            kubeconfig: cluster.node(NODE)?,
            node_name: NODE.into(),
            node_ip: [127, 0, 0, 1].into(),
            node_labels: vec!["hikube.io/node-group=test".into()],
            pod_cidr: "10.213.80.0/24".into(),
            root_dir: dir.path().join("kubelet"),
            pod_logs_dir: dir.path().join("logs"),
            container_runtime_endpoint: containerd.socket(),
            cgroup_root: containerd.cgroup(),
            client_ca: serving.ca.clone(),
            tls_cert: serving.cert,
            tls_key: serving.key,
            port: testkit::free_port()?,
            cluster_dns: [10, 96, 0, 10].into(),
            cluster_domain: "cluster.local".into(),
            cpu_millis: Some(2000),
            memory_bytes: Some(1 << 30),
            ephemeral_storage_bytes: None,
            max_pods: 20,
            engine_socket: Some(dir.path().join("engine.sock")),
            image_hint: "load it".into(),
        };
        let mut setup = Self {
            cluster,
            containerd,
            client,
            config,
            kubelet: None,
            _dir: dir,
        };
        setup.start();
        Ok(setup)
    }

    fn start(&mut self) {
        let token = CancellationToken::new();
        let task = tokio::spawn(run(self.config.clone(), token.clone()));
        self.kubelet = Some((token, task));
    }

    async fn stop(&mut self) -> Result<()> {
        if let Some((token, task)) = self.kubelet.take() {
            token.cancel();
            task.await??;
        }
        Ok(())
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn create<K>(&self, api: &Api<K>, value: Value) -> Result<K>
    where
        K: serde::de::DeserializeOwned + serde::Serialize + Clone + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(value)?;
        Ok(api.create(&PostParams::default(), &object).await?)
    }

    /// Writes an object and its status, as a controller would.
    async fn create_with_status(&self, path: &str, name: &str, value: Value) -> Result<()> {
        let kind = [("Content-Type", "application/json")];
        let (code, text) = self
            .cluster
            .admin_request("POST", path, &kind, &value.to_string())
            .await?;
        ensure!(code == 201, "{path}: {text}");
        let merge = [("Content-Type", "application/merge-patch+json")];
        let status = json!({"status": value["status"]}).to_string();
        let path = format!("{path}/{name}/status");
        let (code, text) = self
            .cluster
            .admin_request("PATCH", &path, &merge, &status)
            .await?;
        ensure!(code == 200, "{path}: {text}");
        Ok(())
    }

    /// The only container of a pod once it is ready: (runtime's ID, restarts).
    async fn ready(&self, name: &str, restarts: i32) -> Result<(String, i32)> {
        eventually(&format!("{name} ready with {restarts} restarts"), async || {
            let status = self.pods().get(name).await?.status.context("no status")?;
            let container = status
                .container_statuses
                .and_then(|c| c.into_iter().next())
                .context("no container")?;
            ensure!(
                container.ready && container.restart_count >= restarts,
                "{container:?}"
            );
            let id = container.container_id.unwrap_or_default();
            Ok(Some((id, container.restart_count)))
        })
        .await
    }

    async fn exec(&self, pod: &str, command: &[&str]) -> Result<String> {
        let parameters = AttachParams::default().stdout(true).stderr(false);
        let mut process = self.pods().exec(pod, command.to_vec(), &parameters).await?;
        let mut text = String::new();
        process
            .stdout()
            .context("no output")?
            .read_to_string(&mut text)
            .await?;
        process.join().await?;
        Ok(text)
    }

    async fn gone(&self, name: &str) -> Result<()> {
        self.pods().delete(name, &DeleteParams::default()).await?;
        eventually(&format!("{name} deleted"), async || {
            Ok(self.pods().get_opt(name).await?.is_none().then_some(()))
        })
        .await
    }
}

fn published(root: &Path) -> usize {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let root = root.join("pods").display().to_string();
    table
        .lines()
        .filter(|l| l.contains(&root) && l.contains("kubernetes.io~csi"))
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_live_and_die() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return Ok(());
    }
    let mut setup = Setup::new().await?;
    let nodes: Api<Node> = Api::all(setup.client.clone());
    eventually("node ready", async || {
        let conditions = nodes
            .get(NODE)
            .await?
            .status
            .and_then(|s| s.conditions)
            .unwrap_or_default();
        Ok(conditions
            .iter()
            .any(|c| c.type_ == "Ready" && c.status == "True")
            .then_some(()))
    })
    .await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(setup.client.clone(), "default");
    setup
        .create(&accounts, json!({"metadata": {"name": "default"}}))
        .await?;
    let maps: Api<ConfigMap> = Api::namespaced(setup.client.clone(), "default");
    setup
        .create(
            &maps,
            json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "x"}}),
        )
        .await?;
    setup
        .create(
            &maps,
            json!({"metadata": {"name": "settings"}, "data": {"colour": "red"}}),
        )
        .await?;
    life_of_a_pod(&mut setup, &maps).await?;
    what_does_not_fit(&mut setup).await?;
    volumes_and_fencing(&mut setup).await?;
    setup.stop().await
}

async fn life_of_a_pod(setup: &mut Setup, maps: &Api<ConfigMap>) -> Result<()> {
    let script = "echo hello; trap 'exit 0' TERM; while true; do sleep 1; done";
    let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": NODE, "terminationGracePeriodSeconds": 5,
        "initContainers": [{"name": "first", "image": "test/busybox:1", "command": ["true"]}],
        "containers": [{"name": "c", "image": "test/busybox:1", "command": ["sh", "-c", script],
            "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1},
            "volumeMounts": [{"name": "settings", "mountPath": "/settings"}]}],
        "volumes": [{"name": "settings", "configMap": {"name": "settings"}}]}});
    setup.create(&setup.pods(), pod).await?;
    let (first, _) = setup.ready("a", 0).await?;
    let logs = setup.pods().logs("a", &LogParams::default()).await?;
    ensure!(logs == "hello\n", "{logs:?}");
    ensure!(setup.exec("a", &["cat", "/settings/colour"]).await? == "red");
    taken_for_dead(setup).await?;
    let change = Patch::Merge(json!({"data": {"colour": "blue"}}));
    maps.patch("settings", &PatchParams::default(), &change).await?;
    eventually("configmap updated", async || {
        Ok((setup.exec("a", &["cat", "/settings/colour"]).await? == "blue").then_some(()))
    })
    .await?;
    setup.stop().await?;
    setup.start();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (same, restarts) = setup.ready("a", 0).await?;
    ensure!(
        same == first && restarts == 0,
        "a new kubelet restarted the container"
    );
    let _ = setup.exec("a", &["kill", "-9", "-1"]).await;
    let _ = setup.exec("a", &["kill", "1"]).await;
    let (second, _) = setup.ready("a", 1).await?;
    ensure!(second != first);
    setup.stop().await?;
    setup.containerd.crash()?;
    setup.start();
    setup.ready("a", 2).await?;
    setup.gone("a").await?;
    let left = std::fs::read_dir(setup.config.root_dir.join("pods"))?.count();
    ensure!(left == 0, "{left} pods are left on disk");
    Ok(())
}

/// Creates a pod that the node refuses, and removes it: the reason that was given.
async fn refused(setup: &Setup, name: &str, pod: Value) -> Result<String> {
    setup.create(&setup.pods(), pod).await?;
    let reason = eventually("a pod refused", async || {
        let status = setup.pods().get(name).await?.status.unwrap_or_default();
        Ok((status.phase.as_deref() == Some("Failed")).then_some(status.reason))
    })
    .await?;
    setup.gone(name).await?;
    Ok(reason.unwrap_or_default())
}

/// Pods that were put on the node by name, past the scheduler, are refused when it has no room for them; what runs
/// stays, and a port is free again as soon as its pod has ended.
async fn what_does_not_fit(setup: &mut Setup) -> Result<()> {
    let pod = |name: &str, cpu: &str, selector: Value| {
        json!({"metadata": {"name": name}, "spec": {"nodeName": NODE, "terminationGracePeriodSeconds": 1,
            "nodeSelector": selector, "containers": [{"name": "c", "image": "test/busybox:1", "command": ["sleep", "99"],
            "resources": {"requests": {"cpu": cpu}}, "ports": [{"containerPort": 1, "hostPort": 31999}]}]}})
    };
    setup.create(&setup.pods(), pod("first", "1", json!({}))).await?;
    setup.ready("first", 0).await?;
    for (cpu, selector, reason) in [
        ("100m", json!({}), "NodePorts"),
        ("1100m", json!({}), "OutOfcpu"),
        ("100m", json!({"kubernetes.io/os": "plan9"}), "NodeAffinity"),
    ] {
        let given = refused(setup, "second", pod("second", cpu, selector)).await?;
        ensure!(given == reason, "refused for {given:?}, not {reason}");
    }
    // A pod that was taken in stays so.
    setup.stop().await?;
    setup.start();
    setup.ready("first", 0).await?;
    let given = refused(setup, "second", pod("second", "100m", json!({}))).await?;
    ensure!(given == "NodePorts", "{given}");
    setup.gone("first").await?;
    setup
        .create(&setup.pods(), pod("second", "1100m", json!({})))
        .await?;
    setup.ready("second", 0).await?;
    setup.gone("second").await
}

/// After a silence the node controller calls the node unknown and its pods not ready. A kubelet that lives corrects
/// that, although nothing of what it reports has changed.
async fn taken_for_dead(setup: &Setup) -> Result<()> {
    let nodes: Api<Node> = Api::all(setup.client.clone());
    let ready = |conditions: Value| {
        let conditions = conditions.as_array().cloned().unwrap_or_default();
        conditions
            .iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let unknown = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let params = PatchParams::default();
    nodes
        .patch_status(NODE, &params, &Patch::Strategic(unknown))
        .await?;
    setup
        .pods()
        .patch_status("a", &params, &Patch::Strategic(unready))
        .await?;
    let started = Instant::now();
    eventually("the node says that it lives", async || {
        let node = serde_json::to_value(nodes.get(NODE).await?)?;
        Ok(ready(node["status"]["conditions"].clone()).then_some(()))
    })
    .await?;
    eventually("and its pod, too", async || {
        let pod = serde_json::to_value(setup.pods().get("a").await?)?;
        Ok(ready(pod["status"]["conditions"].clone()).then_some(()))
    })
    .await?;
    let took = started.elapsed();
    // At once for the node, after its bounded pause for the pod; by polling or the heartbeat it would be later.
    ensure!(took < Duration::from_secs(8), "only after {took:?}");
    Ok(())
}

async fn volumes_and_fencing(setup: &mut Setup) -> Result<()> {
    let root = setup.config.root_dir.clone();
    let socket = setup.config.engine_socket.clone().context("a socket")?;
    let mut engine = engine::serve(&socket)?;
    let driver = csi::serve(&root, &root.join("../volumes"))?;
    let nodes: Api<CSINode> = Api::all(setup.client.clone());
    eventually("CSINode announced", async || {
        Ok(nodes
            .get(NODE)
            .await?
            .spec
            .drivers
            .into_iter()
            .find(|d| d.name == csi::NAME && d.node_id == "fake-node"))
    })
    .await?;
    let kind = [("Content-Type", "application/json")];
    let object = json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": csi::NAME},
        "spec": {"attachRequired": false}});
    let path = "/apis/storage.k8s.io/v1/csidrivers";
    let (code, text) = setup
        .cluster
        .admin_request("POST", path, &kind, &object.to_string())
        .await?;
    ensure!(code == 201, "{text}");
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "x",
        "claimRef": {"namespace": "default", "name": "claim"},
        "csi": {"driver": csi::NAME, "volumeHandle": "v1"}}, "status": {"phase": "Bound"}});
    setup
        .create_with_status("/api/v1/persistentvolumes", "pv", volume)
        .await?;
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "claim"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": "x", "volumeName": "pv",
        "resources": {"requests": {"storage": "2Gi"}}},
        "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
    setup
        .create_with_status(
            "/api/v1/namespaces/default/persistentvolumeclaims",
            "claim",
            claim,
        )
        .await?;
    let script = "echo kept >> /data/f; sleep 100000";
    let pod = json!({"metadata": {"name": "v"}, "spec": {"nodeName": NODE, "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "test/busybox:1", "command": ["sh", "-c", script],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "claim"}}]}});
    setup.create(&setup.pods(), pod).await?;
    setup.ready("v", 0).await?;
    ensure!(setup.exec("v", &["cat", "/data/f"]).await? == "kept\n");
    ensure!(published(&root) == 1 && driver.count("stage") > 0);
    let all: Api<Node> = Api::all(setup.client.clone());
    let in_use = all
        .get(NODE)
        .await?
        .status
        .and_then(|s| s.volumes_in_use)
        .unwrap_or_default();
    ensure!(in_use == ["kubernetes.io/csi/csi.hikube.io^v1"], "{in_use:?}");

    engine = growth_and_a_dead_engine(setup, &driver, engine).await?;

    engine
        .quorum
        .send_modify(|q| (q.majority, q.fenced) = (false, true));
    eventually("fenced pod killed, its mount gone", async || {
        let status = setup.pods().get("v").await?.status.context("no status")?;
        let running = status.container_statuses.iter().flatten().any(|c| c.ready);
        Ok((!running && published(&root) == 0).then_some(()))
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let status = setup.pods().get("v").await?.status.context("no status")?;
    ensure!(
        !status.container_statuses.iter().flatten().any(|c| c.ready),
        "started while fenced"
    );
    engine
        .quorum
        .send_modify(|q| (q.majority, q.fenced) = (true, false));
    setup.ready("v", 2).await?;
    ensure!(setup.exec("v", &["cat", "/data/f"]).await? == "kept\n".repeat(3));
    setup.gone("v").await?;
    eventually("volume unstaged", async || {
        Ok(
            (driver.count("unpublish") > 0 && driver.count("unstage") == 1 && published(&root) == 0)
                .then_some(()),
        )
    })
    .await?;
    eventually("volume not in use any more", async || {
        let in_use = all
            .get(NODE)
            .await?
            .status
            .and_then(|s| s.volumes_in_use)
            .unwrap_or_default();
        Ok(in_use.is_empty().then_some(()))
    })
    .await
}

/// The volume has grown, but cannot follow while it is mounted; then its engine is killed. The pod's container is
/// restarted on a new device by itself, which grows the volume, too.
async fn growth_and_a_dead_engine(
    setup: &Setup,
    driver: &csi::Driver,
    engine: engine::FakeEngine,
) -> Result<engine::FakeEngine> {
    let socket = setup.config.engine_socket.clone().context("a socket")?;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(setup.client.clone(), "default");
    let volumes: Api<PersistentVolume> = Api::all(setup.client.clone());
    let larger = Patch::Merge(json!({"spec": {"capacity": {"storage": "2Gi"}}}));
    volumes.patch("pv", &PatchParams::default(), &larger).await?;
    let status = async || {
        let status = claims.get("claim").await?.status.context("no status")?;
        let size = status
            .capacity
            .and_then(|c| c.get("storage").map(|q| q.0.clone()));
        let pending = status
            .conditions
            .into_iter()
            .flatten()
            .find(|c| c.type_ == "FileSystemResizePending");
        anyhow::Ok((size, pending.and_then(|c| c.message)))
    };
    driver.set_rigid(true);
    engine.kill().await;
    let engine = engine::serve(&socket)?;
    eventually("the claim says why it has not grown", async || {
        let (size, message) = status().await?;
        ensure!(size.as_deref() == Some("1Gi"), "{size:?}");
        Ok(message.filter(|m| m.contains("cannot grow while it is mounted")))
    })
    .await?;
    driver.set_rigid(false);
    driver.break_devices();
    engine.kill().await;
    let engine = engine::serve(&socket)?;
    let started = Instant::now();
    setup.ready("v", 1).await?;
    println!(
        "container restarted on a new device after {:?}",
        started.elapsed()
    );
    ensure!(setup.exec("v", &["cat", "/data/f"]).await? == "kept\nkept\n");
    let (size, message) = status().await?;
    ensure!(
        size.as_deref() == Some("2Gi") && message.is_none(),
        "{size:?} {message:?}"
    );
    ensure!(driver.count("expand") == 1);
    let events: Api<Event> = Api::namespaced(setup.client.clone(), "default");
    eventually("an event says why", async || {
        let events = events.list(&ListParams::default()).await?;
        let told = |e: &Event| e.reason.as_deref() == Some("VolumeConditionAbnormal");
        Ok(events.iter().any(told).then_some(()))
    })
    .await?;
    Ok(engine)
}
