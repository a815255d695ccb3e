//! A fake CSI driver: a directory for each volume, "staged" and published by bind mounts, and a list of calls.

use protos::csi::node_server::{Node, NodeServer};
use protos::csi::*;
use protos::registration::registration_server::{Registration, RegistrationServer};
use protos::registration::*;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

pub const NAME: &str = "csi.hikube.io";

/// The driver; clones share the list of calls.
#[derive(Clone)]
pub struct Driver {
    volumes: PathBuf,
    socket: PathBuf,
    pub calls: Arc<Mutex<Vec<String>>>,
    /// The device of every volume is gone until it is staged again.
    broken: Arc<AtomicBool>,
    /// A volume cannot grow while it is mounted.
    rigid: Arc<AtomicBool>,
}

type Answer<T> = Result<Response<T>, Status>;

impl Driver {
    fn note(&self, call: &str, volume: &str) {
        self.calls
            .lock()
            .expect("not poisoned")
            .push(format!("{call} {volume}"));
    }

    /// As if the engine had ended under all mounts.
    pub fn break_devices(&self) {
        self.broken.store(true, Ordering::SeqCst);
    }

    /// Whether volumes refuse to grow while they are mounted.
    pub fn set_rigid(&self, rigid: bool) {
        self.rigid.store(rigid, Ordering::SeqCst);
    }

    /// How often a call was made.
    pub fn count(&self, call: &str) -> usize {
        let calls = self.calls.lock().expect("not poisoned");
        calls
            .iter()
            .filter(|c| c.starts_with(&format!("{call} ")))
            .count()
    }

    fn bind(source: &Path, target: &str) -> Result<(), Status> {
        std::fs::create_dir_all(target)?;
        let table = std::fs::read_to_string("/proc/self/mountinfo")?;
        if !table.contains(&format!(" {target} ")) {
            rustix::mount::mount_bind(source, target).map_err(std::io::Error::from)?;
        }
        Ok(())
    }

    fn unbind(target: &str) {
        let _ = rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH);
        let _ = std::fs::remove_dir(target);
    }
}

#[tonic::async_trait]
impl Registration for Driver {
    async fn get_info(&self, _: Request<InfoRequest>) -> Answer<PluginInfo> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".into(),
            name: NAME.into(),
            endpoint: self.socket.to_string_lossy().into(),
            supported_versions: vec!["1.12.0".into()],
        }))
    }
    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Answer<RegistrationStatusResponse> {
        self.note("registered", &request.into_inner().plugin_registered.to_string());
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

#[tonic::async_trait]
impl Node for Driver {
    async fn node_stage_volume(
        &self,
        request: Request<NodeStageVolumeRequest>,
    ) -> Answer<NodeStageVolumeResponse> {
        let request = request.into_inner();
        self.note("stage", &request.volume_id);
        self.broken.store(false, Ordering::SeqCst);
        let source = self.volumes.join(&request.volume_id);
        std::fs::create_dir_all(&source)?;
        Self::bind(&source, &request.staging_target_path)?;
        Ok(Response::new(NodeStageVolumeResponse {}))
    }
    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Answer<NodeUnstageVolumeResponse> {
        let request = request.into_inner();
        self.note("unstage", &request.volume_id);
        Self::unbind(&request.staging_target_path);
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Answer<NodePublishVolumeResponse> {
        let request = request.into_inner();
        self.note("publish", &request.volume_id);
        Self::bind(Path::new(&request.staging_target_path), &request.target_path)?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }
    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Answer<NodeUnpublishVolumeResponse> {
        let request = request.into_inner();
        self.note("unpublish", &request.volume_id);
        Self::unbind(&request.target_path);
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }
    async fn node_get_volume_stats(
        &self,
        _: Request<NodeGetVolumeStatsRequest>,
    ) -> Answer<NodeGetVolumeStatsResponse> {
        let abnormal = self.broken.load(Ordering::SeqCst);
        Ok(Response::new(NodeGetVolumeStatsResponse {
            usage: Vec::new(),
            volume_condition: Some(VolumeCondition {
                abnormal,
                message: if abnormal { "the device is gone" } else { "well" }.into(),
            }),
        }))
    }
    async fn node_expand_volume(
        &self,
        request: Request<NodeExpandVolumeRequest>,
    ) -> Answer<NodeExpandVolumeResponse> {
        let request = request.into_inner();
        if self.rigid.load(Ordering::SeqCst) {
            return Err(Status::failed_precondition("cannot grow while it is mounted"));
        }
        self.note("expand", &request.volume_id);
        let wanted = request.capacity_range.map_or(0, |range| range.required_bytes);
        Ok(Response::new(NodeExpandVolumeResponse {
            capacity_bytes: wanted,
        }))
    }
    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Answer<NodeGetCapabilitiesResponse> {
        use node_service_capability::{Rpc, Type, rpc};
        let kinds = [
            rpc::Type::StageUnstageVolume,
            rpc::Type::GetVolumeStats,
            rpc::Type::VolumeCondition,
            rpc::Type::ExpandVolume,
        ];
        let capabilities = kinds.map(|kind| NodeServiceCapability {
            r#type: Some(Type::Rpc(Rpc { r#type: kind as i32 })),
        });
        Ok(Response::new(NodeGetCapabilitiesResponse {
            capabilities: capabilities.into(),
        }))
    }
    async fn node_get_info(&self, _: Request<NodeGetInfoRequest>) -> Answer<NodeGetInfoResponse> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: "fake-node".into(),
            max_volumes_per_node: 8,
            accessible_topology: Some(Topology {
                segments: [("topology.kubernetes.io/region".to_owned(), "geneva".to_owned())].into(),
            }),
        }))
    }
}

/// Serves the driver and registers it with the kubelet whose directory is `root`.
pub fn serve(root: &Path, volumes: &Path) -> std::io::Result<Driver> {
    let plugins = root.join("plugins").join(NAME);
    std::fs::create_dir_all(&plugins)?;
    std::fs::create_dir_all(root.join("plugins_registry"))?;
    let driver = Driver {
        volumes: volumes.to_owned(),
        socket: plugins.join("csi.sock"),
        calls: Arc::default(),
        broken: Arc::default(),
        rigid: Arc::default(),
    };
    let listener = UnixListener::bind(&driver.socket)?;
    let server = tonic::transport::Server::builder()
        .add_service(NodeServer::new(driver.clone()))
        .serve_with_incoming(UnixListenerStream::new(listener));
    tokio::spawn(server);
    let listener = UnixListener::bind(root.join("plugins_registry/csi.hikube.io-reg.sock"))?;
    let server = tonic::transport::Server::builder()
        .add_service(RegistrationServer::new(driver.clone()))
        .serve_with_incoming(UnixListenerStream::new(listener));
    tokio::spawn(server);
    Ok(driver)
}
