//! The driver against a fake engine on loop devices: the public conformance suite (csi-sanity) and what it does
//! not ask. Needs root and loop devices.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod fake;

use fake::{FakeEngine, run};
use hikube_csi as csi;
use protos::csi::controller_client::ControllerClient;
use protos::csi::node_client::NodeClient;
use protos::csi::volume_capability::access_mode::Mode;
use protos::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use protos::csi::*;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

struct Setup {
    engine: FakeEngine,
    dir: tempfile::TempDir,
    socket: PathBuf,
    shutdown: CancellationToken,
    channel: Channel,
}

impl Setup {
    async fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("hkn-csi-").tempdir().unwrap();
        let engine = FakeEngine::new(dir.path());
        let engine_socket = dir.path().join("engine.sock");
        engine.serve(&engine_socket);
        let socket = dir.path().join("csi.sock");
        let shutdown = CancellationToken::new();
        let config = csi::Config {
            kubeconfig: None,
            node_name: "n1".into(),
            region: "geneva".into(),
            endpoint: socket.clone(),
            registration: Some(dir.path().join("reg.sock")),
            engine_socket,
        };
        tokio::spawn(csi::run(config, shutdown.clone()));
        let channel = loop {
            let path = socket.clone();
            let connector = tower::service_fn(move |_: tonic::transport::Uri| {
                let path = path.clone();
                async move {
                    let stream = tokio::net::UnixStream::connect(path).await;
                    stream.map(hyper_util::rt::TokioIo::new)
                }
            });
            let endpoint = Endpoint::from_static("http://localhost");
            if let Ok(channel) = endpoint.connect_with_connector(connector).await {
                break channel;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        Self {
            engine,
            dir,
            socket,
            shutdown,
            channel,
        }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    async fn create(&self, name: &str, capability: VolumeCapability) -> String {
        let request = CreateVolumeRequest {
            name: name.into(),
            capacity_range: Some(CapacityRange {
                required_bytes: 400 << 20,
                limit_bytes: 0,
            }),
            volume_capabilities: vec![capability],
            ..CreateVolumeRequest::default()
        };
        let mut client = ControllerClient::new(self.channel.clone());
        let volume = client.create_volume(request).await.unwrap().into_inner().volume;
        volume.unwrap().volume_id
    }

    async fn stage(&self, id: &str, capability: &VolumeCapability) -> Result<(), tonic::Status> {
        let request = NodeStageVolumeRequest {
            volume_id: id.into(),
            staging_target_path: self.path("staging"),
            volume_capability: Some(capability.clone()),
            ..NodeStageVolumeRequest::default()
        };
        NodeClient::new(self.channel.clone())
            .node_stage_volume(request)
            .await
            .map(drop)
    }

    async fn publish(
        &self,
        id: &str,
        target: &str,
        capability: &VolumeCapability,
        readonly: bool,
    ) -> Result<(), tonic::Status> {
        let request = NodePublishVolumeRequest {
            volume_id: id.into(),
            staging_target_path: self.path("staging"),
            target_path: self.path(target),
            volume_capability: Some(capability.clone()),
            readonly,
            ..NodePublishVolumeRequest::default()
        };
        NodeClient::new(self.channel.clone())
            .node_publish_volume(request)
            .await
            .map(drop)
    }

    async fn unpublish(&self, id: &str, target: &str) {
        let request = NodeUnpublishVolumeRequest {
            volume_id: id.into(),
            target_path: self.path(target),
        };
        let mut client = NodeClient::new(self.channel.clone());
        client.node_unpublish_volume(request).await.unwrap();
        assert!(!Path::new(&self.path(target)).exists());
    }

    async fn is_abnormal(&self, id: &str, target: &str) -> bool {
        let request = NodeGetVolumeStatsRequest {
            volume_id: id.into(),
            volume_path: self.path(target),
            ..NodeGetVolumeStatsRequest::default()
        };
        let mut client = NodeClient::new(self.channel.clone());
        let stats = client.node_get_volume_stats(request).await.unwrap().into_inner();
        stats.volume_condition.unwrap().abnormal
    }

    async fn unstage(&self, id: &str) -> Result<(), tonic::Status> {
        let request = NodeUnstageVolumeRequest {
            volume_id: id.into(),
            staging_target_path: self.path("staging"),
        };
        NodeClient::new(self.channel.clone())
            .node_unstage_volume(request)
            .await
            .map(drop)
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let inside = |line: &str| {
            let target = line.split(' ').nth(4)?;
            target
                .starts_with(self.dir.path().to_str()?)
                .then(|| target.to_owned())
        };
        for target in mounts.lines().rev().filter_map(inside) {
            let _ = std::process::Command::new("umount")
                .args(["-l", &target])
                .status();
        }
    }
}

fn mounted(fs_type: &str, mode: Mode) -> VolumeCapability {
    VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume {
            fs_type: fs_type.into(),
            ..MountVolume::default()
        })),
        access_mode: Some(AccessMode { mode: mode.into() }),
    }
}

fn raw() -> VolumeCapability {
    VolumeCapability {
        access_type: Some(AccessType::Block(BlockVolume {})),
        access_mode: Some(AccessMode {
            mode: Mode::SingleNodeWriter.into(),
        }),
    }
}

/// The version of the suite that is installed when the machine has none.
const SANITY: &str = "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity@v5.6.0";

/// The suite's binary: `$CSI_SANITY`, or wherever PATH has it, or else installed by Go below the target directory.
fn sanity() -> Result<PathBuf, String> {
    let named = std::env::var_os("CSI_SANITY").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|d| d.join("csi-sanity"));
    let tools = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-tools");
    let installed = tools.join("csi-sanity");
    let mut places = named.into_iter().chain(in_path).chain([installed.clone()]);
    if let Some(found) = places.find(|p| p.is_file()) {
        return Ok(found);
    }
    let output = std::process::Command::new("go")
        .args(["install", SANITY])
        .env("GOBIN", &tools)
        .output()
        .map_err(|e| format!("no csi-sanity, and no Go to install it ({e}): go install {SANITY}"))?;
    if output.status.success() {
        return Ok(installed);
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("no csi-sanity, and it cannot be installed: {said}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn csi_sanity_passes() {
    let suite = match sanity() {
        Ok(suite) => suite,
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    let setup = Setup::new().await;
    let output = tokio::process::Command::new(suite)
        .arg(format!("--csi.endpoint=unix://{}", setup.socket.display()))
        .arg(format!("--csi.mountdir={}", setup.path("sanity-target")))
        .arg(format!("--csi.stagingdir={}", setup.path("sanity-staging")))
        .arg("--csi.testvolumesize=1073741824")
        .arg("--csi.testvolumeexpandsize=2147483648")
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success());
    assert_eq!(setup.engine.attached(), 0, "everything was detached");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_survives_restaging_and_a_dead_device() {
    for fs_type in ["ext4", "xfs"] {
        let setup = Setup::new().await;
        let capability = mounted(fs_type, Mode::SingleNodeWriter);
        let id = setup.create("pvc-1", capability.clone()).await;
        setup.stage(&id, &capability).await.unwrap();
        setup.publish(&id, "pod", &capability, false).await.unwrap();
        let file = setup.dir.path().join("pod/data");
        std::fs::write(&file, "kept").unwrap();
        run("sync", &["-f", file.to_str().unwrap()]);

        assert!(!setup.is_abnormal(&id, "pod").await);
        setup.engine.kill_device(&id);
        assert!(setup.is_abnormal(&id, "pod").await, "{fs_type}");
        setup.stage(&id, &capability).await.unwrap();
        assert!(
            setup.is_abnormal(&id, "pod").await,
            "the pod's mount is the dead one"
        );
        setup.publish(&id, "pod", &capability, false).await.unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept", "{fs_type}");

        // Without a new NodeStage too, as long as the volume is still this node's.
        setup.engine.kill_device(&id);
        setup.engine.set_holder(&id, "n2");
        let moved = setup.publish(&id, "pod2", &capability, false).await.unwrap_err();
        assert_eq!(moved.code(), Code::FailedPrecondition);
        setup.engine.set_holder(&id, "n1");
        setup.publish(&id, "pod2", &capability, true).await.unwrap();
        assert_eq!(
            std::fs::read_to_string(setup.dir.path().join("pod2/data")).unwrap(),
            "kept"
        );
        assert!(std::fs::write(setup.dir.path().join("pod2/new"), "x").is_err());

        let busy = setup.unstage(&id).await.unwrap_err();
        assert_eq!(busy.code(), Code::FailedPrecondition);
        setup.unpublish(&id, "pod").await;
        setup.unpublish(&id, "pod2").await;
        setup.unstage(&id).await.unwrap();
        setup.unstage(&id).await.unwrap();
        assert_eq!(setup.engine.attached(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_grew_while_it_was_away_is_used_to_its_end() {
    for fs_type in ["ext4", "xfs"] {
        let setup = Setup::new().await;
        let capability = mounted(fs_type, Mode::SingleNodeWriter);
        let id = setup.create("pvc-1", capability.clone()).await;
        setup.stage(&id, &capability).await.unwrap();
        setup.unstage(&id).await.unwrap();
        let request = ControllerExpandVolumeRequest {
            volume_id: id.clone(),
            capacity_range: Some(CapacityRange {
                required_bytes: 1 << 30,
                limit_bytes: 0,
            }),
            ..ControllerExpandVolumeRequest::default()
        };
        let mut client = ControllerClient::new(setup.channel.clone());
        let grown = client
            .controller_expand_volume(request)
            .await
            .unwrap()
            .into_inner();
        assert!(grown.capacity_bytes == 1 << 30 && grown.node_expansion_required);
        setup.stage(&id, &capability).await.unwrap();
        let staging = setup.path("staging");
        let size = run("stat", &["-f", "-c", "%b", &staging]).parse::<u64>().unwrap();
        let block = run("stat", &["-f", "-c", "%S", &staging]).parse::<u64>().unwrap();
        assert!(size * block > 850 << 20, "{fs_type}: {}", size * block);
        setup.unstage(&id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_formatted_over() {
    let setup = Setup::new().await;
    let capability = mounted("ext4", Mode::SingleNodeWriter);
    let id = setup.create("pvc-1", raw()).await;
    let image = setup.engine.file(&id);
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(&image).unwrap();
    file.write_all_at(b"somebody's bytes", 2000).unwrap();
    let refused = setup.stage(&id, &capability).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(setup.engine.attached(), 0, "detached after the failure");
    run("mkfs.xfs", &["-q", "-f", image.to_str().unwrap()]);
    let refused = setup.stage(&id, &capability).await.unwrap_err();
    assert!(refused.message().contains("xfs"), "{refused}");
    setup
        .stage(&id, &mounted("", Mode::SingleNodeWriter))
        .await
        .unwrap();
    setup.unstage(&id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_volumes_are_published_as_devices() {
    let setup = Setup::new().await;
    let id = setup.create("pvc-raw", raw()).await;
    setup.stage(&id, &raw()).await.unwrap();
    setup.publish(&id, "device", &raw(), false).await.unwrap();
    setup.publish(&id, "device", &raw(), false).await.unwrap();
    let device = setup.path("device");
    run(
        "dd",
        &[
            "if=/dev/zero",
            &format!("of={device}"),
            "bs=4096",
            "count=1",
            "conv=notrunc",
        ],
    );
    let mut node = NodeClient::new(setup.channel.clone());
    let grown = node
        .node_expand_volume(NodeExpandVolumeRequest {
            volume_id: id.clone(),
            volume_path: device.clone(),
            capacity_range: Some(CapacityRange {
                required_bytes: 512 << 20,
                limit_bytes: 0,
            }),
            ..NodeExpandVolumeRequest::default()
        })
        .await
        .unwrap();
    assert_eq!(grown.into_inner().capacity_bytes, 512 << 20);
    let stats = node
        .node_get_volume_stats(NodeGetVolumeStatsRequest {
            volume_id: id.clone(),
            volume_path: device,
            ..NodeGetVolumeStatsRequest::default()
        })
        .await
        .unwrap();
    assert_eq!(stats.into_inner().usage[0].total, 512 << 20);
    setup.unpublish(&id, "device").await;
    setup.unstage(&id).await.unwrap();
    assert_eq!(setup.engine.attached(), 0);
}
