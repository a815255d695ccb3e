//! The node's engine, as the driver uses it. Every call is bounded, since an engine that stalls must not hold
//! the kubelet's worker for ever.

use protos::engine::engine_client::EngineClient;
use protos::engine::{self as api, Volume};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// Reads answer from memory or from a majority of the stores.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Opening, closing and formatting wait for a majority of the stores; the kubelet gives up after 2 min.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);

/// What a new volume shall be.
pub(crate) struct NewVolume {
    pub(crate) id: String,
    pub(crate) size_bytes: u64,
    pub(crate) class: &'static str,
    pub(crate) regions: Vec<String>,
    pub(crate) labels: std::collections::HashMap<String, String>,
}

/// Client of the engine's socket; clones share the connection.
#[derive(Clone)]
pub(crate) struct Engine {
    client: EngineClient<Channel>,
}

impl Engine {
    pub(crate) fn new(socket: &Path) -> Self {
        Self {
            client: EngineClient::new(crate::socket::channel(socket)),
        }
    }

    pub(crate) async fn create(&self, volume: NewVolume) -> Result<Volume, Status> {
        let request = bounded(
            api::CreateVolumeRequest {
                id: volume.id.clone(),
                size_bytes: volume.size_bytes,
                class: volume.class.into(),
                regions: volume.regions,
                labels: volume.labels,
                ..api::CreateVolumeRequest::default()
            },
            CHANGE_TIMEOUT,
        );
        let reply = self.client.clone().create_volume(request).await?.into_inner();
        reply.volume.ok_or_else(|| incomplete("CreateVolume", &volume.id))
    }

    pub(crate) async fn delete(&self, id: &str) -> Result<(), Status> {
        let request = bounded(api::DeleteVolumeRequest { id: id.into() }, CHANGE_TIMEOUT);
        match self.client.clone().delete_volume(request).await {
            Err(status) if status.code() != Code::NotFound => Err(status),
            _ => Ok(()),
        }
    }

    pub(crate) async fn list(&self) -> Result<Vec<Volume>, Status> {
        let request = bounded(api::ListVolumesRequest {}, READ_TIMEOUT);
        Ok(self
            .client
            .clone()
            .list_volumes(request)
            .await?
            .into_inner()
            .volumes)
    }

    /// The volume, or `None` when there is none of this id.
    pub(crate) async fn find(&self, id: &str) -> Result<Option<Volume>, Status> {
        let request = bounded(api::GetVolumeRequest { id: id.into() }, READ_TIMEOUT);
        match self.client.clone().get_volume(request).await {
            Ok(reply) => Ok(reply.into_inner().volume),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// The volume; NOT_FOUND when there is none.
    pub(crate) async fn get(&self, id: &str) -> Result<Volume, Status> {
        self.find(id)
            .await?
            .ok_or_else(|| Status::not_found(format!("no volume {id}")))
    }

    pub(crate) async fn expand(&self, id: &str, size_bytes: u64) -> Result<Volume, Status> {
        let request = api::ExpandVolumeRequest {
            id: id.into(),
            size_bytes,
        };
        let request = bounded(request, CHANGE_TIMEOUT);
        let reply = self.client.clone().expand_volume(request).await?.into_inner();
        reply.volume.ok_or_else(|| incomplete("ExpandVolume", id))
    }

    /// Opens the volume on this node and returns its device.
    pub(crate) async fn attach(&self, id: &str) -> Result<PathBuf, Status> {
        // Writable even for a read-only mount: a journal may have to be replayed first.
        let request = api::AttachVolumeRequest {
            id: id.into(),
            read_only: false,
            ..api::AttachVolumeRequest::default()
        };
        let request = bounded(request, CHANGE_TIMEOUT);
        let reply = self.client.clone().attach_volume(request).await?.into_inner();
        tracing::info!(
            volume = id,
            device = reply.device_path,
            epoch = reply.epoch,
            "attached"
        );
        Ok(reply.device_path.into())
    }

    pub(crate) async fn detach(&self, id: &str, force: bool) -> Result<(), Status> {
        let request = api::DetachVolumeRequest { id: id.into(), force };
        let request = bounded(request, CHANGE_TIMEOUT);
        match self.client.clone().detach_volume(request).await {
            Err(status) if status.code() != Code::NotFound => Err(status),
            _ => Ok(()),
        }
    }

    pub(crate) async fn status(&self) -> Result<api::StatusResponse, Status> {
        let request = bounded(api::StatusRequest {}, READ_TIMEOUT);
        Ok(self.client.clone().status(request).await?.into_inner())
    }

    /// The device of a volume that is attached here. Asks only this engine, no store.
    pub(crate) async fn attached(&self, id: &str) -> Result<Option<PathBuf>, Status> {
        let status = self.status().await?;
        let volume = status.attached.into_iter().find(|v| v.id == id);
        Ok(volume
            .filter(|v| !v.device_path.is_empty())
            .map(|v| v.device_path.into()))
    }
}

fn bounded<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

fn incomplete(call: &str, id: &str) -> Status {
    Status::internal(format!("the engine's {call} of {id} returned no volume"))
}
