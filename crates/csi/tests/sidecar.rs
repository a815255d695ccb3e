//! Provisioner, attacher, resizer and reclaim against a real API server, with the driver's own, least rights. The
//! engine behind the driver is fake.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod fake;

use fake::FakeEngine;
use hikube_csi as csi;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSINode, VolumeAttachment};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

/// Everything here happens in well under this, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Setup {
    admin: kube::Client,
    engine: FakeEngine,
    kubeconfig: PathBuf,
    dir: tempfile::TempDir,
    _cluster: testkit::Cluster,
}

impl Setup {
    async fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("hkn-sidecar-").tempdir().unwrap();
        let cluster = testkit::Cluster::start().await.unwrap();
        let admin = client::connect(&cluster.admin).await.unwrap().client;
        apply(&cluster.admin, csi::MANIFESTS).await;
        let engine = FakeEngine::new(dir.path());
        engine.serve(&dir.path().join("engine.sock"));
        // An identity as `platform` issues it: the group gives the rights.
        let kubeconfig = cluster
            .kubeconfig("csi", "system:hikube-csi:n1", &["hikube:csi"])
            .unwrap();
        Self {
            admin,
            engine,
            kubeconfig,
            dir,
            _cluster: cluster,
        }
    }

    fn driver(&self, node: &str) -> CancellationToken {
        let shutdown = CancellationToken::new();
        let config = csi::Config {
            kubeconfig: Some(self.kubeconfig.clone()),
            node_name: node.into(),
            region: "geneva".into(),
            endpoint: self.dir.path().join(format!("{node}.sock")),
            registration: None,
            engine_socket: self.dir.path().join("engine.sock"),
        };
        let token = shutdown.clone();
        tokio::spawn(async move { csi::run(config, token).await.unwrap() });
        shutdown
    }

    fn claims(&self) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.admin.clone(), "default")
    }

    fn all<K: kube::Resource<Scope = kube::core::ClusterResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.admin.clone())
    }

    async fn claim(&self, name: &str, class: &str, annotations: Value) -> String {
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "annotations": annotations},
            "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}},
        });
        let claim: PersistentVolumeClaim = create(&self.claims(), claim).await;
        format!("pvc-{}", claim.metadata.uid.unwrap())
    }
}

/// As `kubectl apply`, so that the documents are what users could apply too.
async fn apply(kubeconfig: &Path, documents: &str) {
    let mut kubectl = Command::new("kubectl")
        .args(["--kubeconfig", kubeconfig.to_str().unwrap(), "apply", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = kubectl.stdin.take().unwrap();
    input.write_all(documents.as_bytes()).await.unwrap();
    drop(input);
    assert!(kubectl.wait().await.unwrap().success());
}

async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: Clone + DeserializeOwned + Debug + Serialize,
{
    let object: K = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap()
}

/// Polls until the object is as wanted and returns it as JSON.
async fn wait<K>(api: &Api<K>, name: &str, what: &str, wanted: impl Fn(Option<&Value>) -> bool) -> Value
where
    K: Clone + DeserializeOwned + Debug + Serialize,
{
    let start = Instant::now();
    loop {
        let object = api
            .get_opt(name)
            .await
            .unwrap()
            .map(|o| serde_json::to_value(o).unwrap());
        if wanted(object.as_ref()) {
            return object.unwrap_or_default();
        }
        assert!(start.elapsed() < PATIENCE, "{what}: {object:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn nodes(setup: &Setup) {
    for (node, region) in [("n1", "geneva"), ("n2", "gland")] {
        let labels = json!({"topology.kubernetes.io/region": region});
        let object = json!({"metadata": {"name": node, "labels": labels}});
        create::<Node>(&setup.all(), object).await;
        let drivers =
            json!([{"name": csi::DRIVER, "nodeID": node, "topologyKeys": ["topology.kubernetes.io/region"]}]);
        create::<CSINode>(
            &setup.all(),
            json!({"metadata": {"name": node}, "spec": {"drivers": drivers}}),
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_attachments_and_releases_are_served() {
    let setup = Setup::new().await;
    nodes(&setup).await;
    let first = setup.driver("n1");
    let asked = json!({"volume.kubernetes.io/storage-provisioner": csi::DRIVER});
    let volume = setup.claim("data", "replicated", asked.clone()).await;
    let object = wait(&setup.all::<PersistentVolume>(), &volume, "provisioned", |v| {
        v.is_some()
    })
    .await;
    assert_eq!(object["spec"]["claimRef"]["name"], "data");
    assert_eq!(object["spec"]["capacity"]["storage"], "1Gi");
    assert_eq!(object["spec"]["csi"]["fsType"], "ext4");
    assert!(
        object["spec"]["nodeAffinity"].is_null(),
        "replicated volumes are everywhere"
    );
    assert!(setup.engine.file(&volume).exists());

    attach_and_release(&setup, &volume).await;

    // Another candidate takes over.
    let second = setup.driver("n2");
    tokio::time::sleep(Duration::from_millis(500)).await;
    first.cancel();
    waits_for_its_consumer(&setup).await;
    let volume = setup.claim("large", "replicated", asked).await;
    grow(&setup, &volume).await;
    second.cancel();
}

async fn attach_and_release(setup: &Setup, volume: &str) {
    let attachments = setup.all::<VolumeAttachment>();
    let attachment = |name: &str, node: &str| {
        json!({"metadata": {"name": name}, "spec": {"attacher": csi::DRIVER, "nodeName": node,
            "source": {"persistentVolumeName": volume}}})
    };
    let start = Instant::now();
    create(&attachments, attachment("a1", "n1")).await;
    wait(&attachments, "a1", "attached", |a| {
        a.is_some_and(|a| a["status"]["attached"] == true)
    })
    .await;
    println!("attached after {:?}", start.elapsed());
    create(&attachments, attachment("a2", "nowhere")).await;
    let failed = |a: Option<&Value>| a.is_some_and(|a| a["status"]["attachError"]["message"].is_string());
    wait(&attachments, "a2", "not attached", failed).await;
    attachments.delete("a2", &DeleteParams::default()).await.unwrap();
    wait(&attachments, "a2", "gone", |a| a.is_none()).await;

    // Released, but attached: kept until it is detached.
    let volumes = setup.all::<PersistentVolume>();
    setup
        .claims()
        .delete("data", &DeleteParams::default())
        .await
        .unwrap();
    let released = Patch::Merge(json!({"status": {"phase": "Released"}}));
    volumes
        .patch_status(volume, &PatchParams::default(), &released)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(setup.engine.file(volume).exists());
    attachments.delete("a1", &DeleteParams::default()).await.unwrap();
    wait(&attachments, "a1", "detached", |a| a.is_none()).await;
    let ours = "external-provisioner.volume.kubernetes.io/finalizer";
    // Other finalizers are their owners' business.
    let deleted = |v: Option<&Value>| {
        v.is_none_or(|v| {
            !v["metadata"]["finalizers"].to_string().contains(ours)
                && !v["metadata"]["deletionTimestamp"].is_null()
        })
    };
    wait(&volumes, volume, "deleted", deleted).await;
    assert!(!setup.engine.file(volume).exists());
}

async fn waits_for_its_consumer(setup: &Setup) {
    let asked = json!({"volume.kubernetes.io/storage-provisioner": csi::DRIVER});
    let volume = setup.claim("near", "local", asked).await;
    let volumes = setup.all::<PersistentVolume>();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(volumes.get_opt(&volume).await.unwrap().is_none());
    let selected = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n2"}}});
    let start = Instant::now();
    setup
        .claims()
        .patch("near", &PatchParams::default(), &Patch::Merge(selected))
        .await
        .unwrap();
    let object = wait(&volumes, &volume, "provisioned by the second driver", |v| {
        v.is_some()
    })
    .await;
    println!("taken over after {:?}", start.elapsed());
    let term = &object["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0];
    assert_eq!(term["values"][0], "gland");
}

async fn grow(setup: &Setup, volume: &str) {
    let volumes = setup.all::<PersistentVolume>();
    wait(&volumes, volume, "provisioned", |v| v.is_some()).await;
    let claims = setup.claims();
    let bound = json!({"spec": {"volumeName": volume}});
    claims
        .patch("large", &PatchParams::default(), &Patch::Merge(bound))
        .await
        .unwrap();
    let status = json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
    claims
        .patch_status("large", &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
    let more = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    claims
        .patch("large", &PatchParams::default(), &Patch::Merge(more))
        .await
        .unwrap();
    let pending = |c: Option<&Value>| {
        c.is_some_and(|c| {
            c["status"]["conditions"]
                .to_string()
                .contains("FileSystemResizePending")
        })
    };
    wait(&claims, "large", "handed over to the node", pending).await;
    let object = wait(&volumes, volume, "there", |v| v.is_some()).await;
    assert_eq!(object["spec"]["capacity"]["storage"], "2Gi");
    assert_eq!(
        std::fs::metadata(setup.engine.file(volume)).unwrap().len(),
        2 << 30
    );
}
