//! A test double of `hikube engine`: volumes are sparse files, devices are loop devices on them. It keeps the
//! engine's contract (idempotency, codes) and none of its guarantees.
#![allow(dead_code, reason = "each test uses a part")]

use protos::engine::engine_server::{Engine, EngineServer};
use protos::engine::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

const REGIONS: [&str; 3] = ["geneva", "gland", "lucerne"];

#[derive(Clone)]
pub struct FakeEngine {
    dir: PathBuf,
    volumes: Arc<Mutex<BTreeMap<String, Volume>>>,
}

impl FakeEngine {
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.into(),
            volumes: Arc::default(),
        }
    }

    /// Serves on `socket` until the runtime ends.
    pub fn serve(&self, socket: &Path) -> tokio::task::JoinHandle<()> {
        let _ = std::fs::remove_file(socket);
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(EngineServer::new(self.clone()))
            .serve_with_incoming(UnixListenerStream::new(listener));
        tokio::spawn(async move { server.await.unwrap() })
    }

    /// As if the engine had been killed: its devices are gone, also under mounted file systems.
    pub fn kill_device(&self, id: &str) {
        let mut volumes = self.volumes.lock().unwrap();
        let volume = volumes.get_mut(id).unwrap();
        // Without its file's contents every read of the device fails, as with a dead FUSE server.
        let (file, saved) = (self.file(id), self.saved(id));
        run(
            "cp",
            &["--sparse=always", file.to_str().unwrap(), saved.to_str().unwrap()],
        );
        std::fs::OpenOptions::new()
            .write(true)
            .open(self.file(id))
            .unwrap()
            .set_len(0)
            .unwrap();
        std::fs::remove_file(self.file(id)).unwrap();
        std::fs::rename(self.saved(id), self.file(id)).unwrap();
        run("losetup", &["-d", &volume.device_path]);
        volume.attached_here = false;
        volume.device_path.clear();
    }

    pub fn set_holder(&self, id: &str, node: &str) {
        self.volumes.lock().unwrap().get_mut(id).unwrap().node = node.into();
    }

    pub fn attached(&self) -> usize {
        let volumes = self.volumes.lock().unwrap();
        volumes.values().filter(|v| v.attached_here).count()
    }

    pub fn file(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.img"))
    }

    fn saved(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.saved"))
    }
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        if Arc::strong_count(&self.volumes) == 1 {
            // After a failed test the lock is poisoned; its own panic is the one to read.
            let volumes = self
                .volumes
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            for volume in volumes.values().filter(|v| v.attached_here) {
                let _ = Command::new("losetup").args(["-d", &volume.device_path]).output();
            }
        }
    }
}

pub fn run(tool: &str, args: &[&str]) -> String {
    let output = Command::new(tool).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{tool} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn missing(id: &str) -> Status {
    Status::not_found(format!("no volume {id}"))
}

#[tonic::async_trait]
impl Engine for FakeEngine {
    async fn create_volume(
        &self,
        request: Request<CreateVolumeRequest>,
    ) -> Result<Response<CreateVolumeResponse>, Status> {
        let request = request.into_inner();
        let mut volumes = self.volumes.lock().unwrap();
        if let Some(volume) = volumes.get(&request.id) {
            if volume.size_bytes != request.size_bytes || volume.class != request.class {
                return Err(Status::already_exists("size or class"));
            }
            let volume = Some(volume.clone());
            return Ok(Response::new(CreateVolumeResponse { volume }));
        }
        let file = std::fs::File::create(self.file(&request.id))?;
        file.set_len(request.size_bytes)?;
        let regions = match request.regions.is_empty() {
            true => REGIONS.map(String::from).to_vec(),
            false => request.regions,
        };
        let volume = Volume {
            id: request.id.clone(),
            size_bytes: request.size_bytes,
            class: request.class,
            labels: request.labels,
            replicas: regions
                .into_iter()
                .map(|region| Replica {
                    region,
                    state: "complete".into(),
                    ..Replica::default()
                })
                .collect(),
            ..Volume::default()
        };
        volumes.insert(request.id, volume.clone());
        Ok(Response::new(CreateVolumeResponse { volume: Some(volume) }))
    }

    async fn delete_volume(
        &self,
        request: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        let id = request.into_inner().id;
        let mut volumes = self.volumes.lock().unwrap();
        if volumes.get(&id).is_some_and(|v| v.attached_here) {
            return Err(Status::failed_precondition("attached"));
        }
        if volumes.remove(&id).is_some() {
            std::fs::remove_file(self.file(&id))?;
        }
        Ok(Response::new(DeleteVolumeResponse {}))
    }

    async fn list_volumes(
        &self,
        _: Request<ListVolumesRequest>,
    ) -> Result<Response<ListVolumesResponse>, Status> {
        let volumes = self.volumes.lock().unwrap().values().cloned().collect();
        Ok(Response::new(ListVolumesResponse { volumes }))
    }

    async fn get_volume(
        &self,
        request: Request<GetVolumeRequest>,
    ) -> Result<Response<GetVolumeResponse>, Status> {
        let id = request.into_inner().id;
        let volume = self.volumes.lock().unwrap().get(&id).cloned();
        let volume = Some(volume.ok_or_else(|| missing(&id))?);
        Ok(Response::new(GetVolumeResponse { volume }))
    }

    async fn expand_volume(
        &self,
        request: Request<ExpandVolumeRequest>,
    ) -> Result<Response<ExpandVolumeResponse>, Status> {
        let request = request.into_inner();
        let mut volumes = self.volumes.lock().unwrap();
        let volume = volumes.get_mut(&request.id).ok_or_else(|| missing(&request.id))?;
        if request.size_bytes > volume.size_bytes {
            let file = std::fs::OpenOptions::new()
                .write(true)
                .open(self.file(&request.id))?;
            file.set_len(request.size_bytes)?;
            volume.size_bytes = request.size_bytes;
        }
        if volume.attached_here {
            run("losetup", &["-c", &volume.device_path]);
        }
        let volume = Some(volume.clone());
        Ok(Response::new(ExpandVolumeResponse { volume }))
    }

    async fn attach_volume(
        &self,
        request: Request<AttachVolumeRequest>,
    ) -> Result<Response<AttachVolumeResponse>, Status> {
        let id = request.into_inner().id;
        let mut volumes = self.volumes.lock().unwrap();
        let volume = volumes.get_mut(&id).ok_or_else(|| missing(&id))?;
        if !volume.attached_here {
            let file = self.file(&id);
            volume.device_path = run("losetup", &["-f", "--show", file.to_str().unwrap()]);
            volume.attached_here = true;
            volume.epoch += 1;
            volume.node = "n1".into();
        }
        Ok(Response::new(AttachVolumeResponse {
            device_path: volume.device_path.clone(),
            epoch: volume.epoch,
        }))
    }

    async fn detach_volume(
        &self,
        request: Request<DetachVolumeRequest>,
    ) -> Result<Response<DetachVolumeResponse>, Status> {
        let id = request.into_inner().id;
        let mut volumes = self.volumes.lock().unwrap();
        let volume = volumes.get_mut(&id).ok_or_else(|| missing(&id))?;
        if volume.attached_here {
            run("losetup", &["-d", &volume.device_path]);
            volume.attached_here = false;
            volume.device_path.clear();
        }
        Ok(Response::new(DetachVolumeResponse {}))
    }

    async fn verify_volume(
        &self,
        _: Request<VerifyVolumeRequest>,
    ) -> Result<Response<VerifyVolumeResponse>, Status> {
        Err(Status::unimplemented("not needed by the driver"))
    }

    async fn clone_volume(
        &self,
        _: Request<CloneVolumeRequest>,
    ) -> Result<Response<CloneVolumeResponse>, Status> {
        Err(Status::unimplemented("not needed by the driver"))
    }

    async fn create_snapshot(
        &self,
        _: Request<CreateSnapshotRequest>,
    ) -> Result<Response<CreateSnapshotResponse>, Status> {
        Err(Status::unimplemented("not needed by the driver"))
    }

    async fn delete_snapshot(
        &self,
        _: Request<DeleteSnapshotRequest>,
    ) -> Result<Response<DeleteSnapshotResponse>, Status> {
        Err(Status::unimplemented("not needed by the driver"))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let volumes = self.volumes.lock().unwrap();
        let stores = REGIONS.iter().map(|region| Store {
            region: (*region).into(),
            connected: true,
            capacity_bytes: 100 << 30,
            used_bytes: 1 << 30,
            ..Store::default()
        });
        Ok(Response::new(StatusResponse {
            node: "n1".into(),
            region: "geneva".into(),
            quorum: None,
            stores: stores.collect(),
            attached: volumes.values().filter(|v| v.attached_here).cloned().collect(),
        }))
    }

    async fn scrub_volume(
        &self,
        _: Request<ScrubVolumeRequest>,
    ) -> Result<Response<ScrubVolumeResponse>, Status> {
        Err(Status::unimplemented("nobody scrubs here"))
    }

    type WatchQuorumStream = tokio_stream::Pending<Result<QuorumState, Status>>;

    async fn watch_quorum(
        &self,
        _: Request<WatchQuorumRequest>,
    ) -> Result<Response<Self::WatchQuorumStream>, Status> {
        Ok(Response::new(tokio_stream::pending()))
    }
}
