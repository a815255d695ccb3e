//! The engine API over gRPC.

use super::create::Wanted;
use super::node::{Error, Node};
use super::{crypt, describe};
use crate::core::types::BLOCK;
use crate::view::VolumeView;
use futures::Stream;
use futures::stream;
use protos::engine as api;
use protos::engine::engine_server::Engine;
use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tonic::{Request, Response, Status};

/// The service.
pub struct Service {
    node: Arc<Node>,
}

impl Service {
    /// Serves `node`.
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    async fn describe(&self, id: &str) -> Result<api::Volume, Status> {
        let view = match self.node.get(id).await {
            Ok(view) => view,
            // What is attached here is known without the stores.
            Err(Error::Unavailable(reason)) => match self.node.attached(id) {
                Some(attached) => return Ok(describe::attached(&self.node, &attached).await),
                None => return Err(Status::unavailable(reason)),
            },
            Err(error) => return Err(error.into()),
        };
        Ok(self.describe_view(&view).await)
    }

    async fn describe_view(&self, view: &VolumeView) -> api::Volume {
        let mut volume = describe::volume(view);
        if let Some(attached) = self.node.attached(&volume.id) {
            describe::add_attached(&mut volume, &attached).await;
        } else if let Some(waiting) = describe::waiting(&self.node, &volume.id) {
            volume.attached_here = waiting.attached_here;
            volume.device_path = waiting.device_path;
        }
        volume
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        let text = error.to_string();
        match error {
            Error::Invalid(_) => Status::invalid_argument(text),
            Error::NotFound(_) => Status::not_found(text),
            Error::Exists(_) => Status::already_exists(text),
            Error::State(_) => Status::failed_precondition(text),
            Error::Unavailable(_) => Status::unavailable(text),
            Error::Device(_) => Status::internal(text),
        }
    }
}

/// Finishes an operation even if its caller goes away meanwhile: a half-made device would be worse.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Status> {
    match tokio::spawn(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(Status::internal(error.to_string())),
    }
}

/// Labels of a new volume; that of the encryption is ours.
fn labels(given: HashMap<String, String>, encryption_key: &[u8]) -> Result<BTreeMap<String, String>, Status> {
    let mut labels: BTreeMap<_, _> = given.into_iter().collect();
    if labels.contains_key(crypt::LABEL) {
        return Err(Status::invalid_argument(format!(
            "labels: {:?} is reserved",
            crypt::LABEL
        )));
    }
    if !encryption_key.is_empty() {
        let label =
            crypt::new_label(encryption_key).map_err(|error| Status::invalid_argument(error.to_string()))?;
        labels.insert(crypt::LABEL.to_owned(), label);
    }
    Ok(labels)
}

type QuorumStream = Pin<Box<dyn Stream<Item = Result<api::QuorumState, Status>> + Send>>;

#[tonic::async_trait]
impl Engine for Service {
    async fn create_volume(
        &self,
        request: Request<api::CreateVolumeRequest>,
    ) -> Result<Response<api::CreateVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = request.id.clone();
        let wanted = Wanted {
            id: request.id,
            size_bytes: request.size_bytes,
            class: request.class,
            regions: request.regions,
            labels: labels(request.labels, &request.encryption_key)?,
        };
        let node = self.node.clone();
        detached(async move { node.create(wanted).await }).await?;
        let volume = Some(self.describe(&id).await?);
        Ok(Response::new(api::CreateVolumeResponse { volume }))
    }

    async fn delete_volume(
        &self,
        request: Request<api::DeleteVolumeRequest>,
    ) -> Result<Response<api::DeleteVolumeResponse>, Status> {
        let (node, id) = (self.node.clone(), request.into_inner().id);
        detached(async move { node.delete(&id).await }).await?;
        Ok(Response::new(api::DeleteVolumeResponse {}))
    }

    async fn list_volumes(
        &self,
        _request: Request<api::ListVolumesRequest>,
    ) -> Result<Response<api::ListVolumesResponse>, Status> {
        let mut volumes = Vec::new();
        for view in self.node.list().await? {
            volumes.push(self.describe_view(&view).await);
        }
        Ok(Response::new(api::ListVolumesResponse { volumes }))
    }

    async fn get_volume(
        &self,
        request: Request<api::GetVolumeRequest>,
    ) -> Result<Response<api::GetVolumeResponse>, Status> {
        let volume = Some(self.describe(&request.into_inner().id).await?);
        Ok(Response::new(api::GetVolumeResponse { volume }))
    }

    async fn expand_volume(
        &self,
        request: Request<api::ExpandVolumeRequest>,
    ) -> Result<Response<api::ExpandVolumeResponse>, Status> {
        let request = request.into_inner();
        let (node, id) = (self.node.clone(), request.id.clone());
        detached(async move { node.expand(&id, request.size_bytes).await }).await?;
        let volume = Some(self.describe(&request.id).await?);
        Ok(Response::new(api::ExpandVolumeResponse { volume }))
    }

    async fn attach_volume(
        &self,
        request: Request<api::AttachVolumeRequest>,
    ) -> Result<Response<api::AttachVolumeResponse>, Status> {
        let request = request.into_inner();
        let node = self.node.clone();
        let nbd = match request.nbd.as_str() {
            "" => None,
            address => Some(
                address
                    .parse()
                    .map_err(|reason| Status::invalid_argument(format!("nbd: {reason}")))?,
            ),
        };
        let wanted = super::expose::Wanted {
            read_only: request.read_only,
            nbd,
            key: request.encryption_key,
        };
        let attached = detached(async move { node.attach(&request.id, &wanted).await }).await?;
        Ok(Response::new(api::AttachVolumeResponse {
            device_path: attached.device.clone(),
            epoch: attached.epoch,
        }))
    }

    async fn detach_volume(
        &self,
        request: Request<api::DetachVolumeRequest>,
    ) -> Result<Response<api::DetachVolumeResponse>, Status> {
        let request = request.into_inner();
        let node = self.node.clone();
        detached(async move { node.detach(&request.id, request.force).await }).await?;
        Ok(Response::new(api::DetachVolumeResponse {}))
    }

    async fn verify_volume(
        &self,
        request: Request<api::VerifyVolumeRequest>,
    ) -> Result<Response<api::VerifyVolumeResponse>, Status> {
        let (spec, report) = self.node.verify(&request.into_inner().id).await?;
        let region = |member: usize| spec.members.get(member).map_or("?", |m| m.region.as_str());
        let differences = report
            .differences
            .iter()
            .map(|(member, offset, what)| format!("{} at {offset}: {what}", region(*member)));
        let checksums = report.checksums.iter().enumerate();
        Ok(Response::new(api::VerifyVolumeResponse {
            equal: report.equal,
            compared_bytes: report.compared_bytes,
            differences: differences.collect(),
            checksums: checksums
                .map(|(member, sum)| (region(member).to_owned(), format!("{sum:016x}")))
                .collect(),
        }))
    }

    async fn scrub_volume(
        &self,
        request: Request<api::ScrubVolumeRequest>,
    ) -> Result<Response<api::ScrubVolumeResponse>, Status> {
        let request = request.into_inner();
        let reports = if request.begin {
            let node = self.node.clone();
            detached(async move { node.scrub(&request.id).await }).await?
        } else {
            self.node.scrub_reports(&request.id).await
        };
        let regions = reports
            .iter()
            .map(|(region, report)| describe::scrub(region, report));
        Ok(Response::new(api::ScrubVolumeResponse {
            regions: regions.collect(),
        }))
    }

    async fn create_snapshot(
        &self,
        request: Request<api::CreateSnapshotRequest>,
    ) -> Result<Response<api::CreateSnapshotResponse>, Status> {
        let request = request.into_inner();
        let node = self.node.clone();
        let taken = detached(async move { node.snapshot(&request.id, &request.name).await }).await?;
        let snapshot = api::Snapshot {
            name: taken.name,
            seq: taken.seq,
            size_bytes: taken.blocks * BLOCK as u64,
            used_bytes: 0,
        };
        Ok(Response::new(api::CreateSnapshotResponse {
            snapshot: Some(snapshot),
        }))
    }

    async fn clone_volume(
        &self,
        request: Request<api::CloneVolumeRequest>,
    ) -> Result<Response<api::CloneVolumeResponse>, Status> {
        let request = request.into_inner();
        let (node, new) = (self.node.clone(), request.new_id.clone());
        detached(async move {
            node.clone_volume(&request.id, &request.snapshot, &request.new_id)
                .await
        })
        .await?;
        let volume = Some(self.describe(&new).await?);
        Ok(Response::new(api::CloneVolumeResponse { volume }))
    }

    async fn delete_snapshot(
        &self,
        request: Request<api::DeleteSnapshotRequest>,
    ) -> Result<Response<api::DeleteSnapshotResponse>, Status> {
        let request = request.into_inner();
        let node = self.node.clone();
        detached(async move { node.drop_snapshot(&request.id, &request.name).await }).await?;
        Ok(Response::new(api::DeleteSnapshotResponse {}))
    }

    async fn status(
        &self,
        _request: Request<api::StatusRequest>,
    ) -> Result<Response<api::StatusResponse>, Status> {
        let inventories = self.node.inventories(Some(""), |_| false).await;
        let stores = self.node.links.iter().map(|link| {
            let region = &link.address.region;
            let info = inventories.iter().map(|i| &i.info).find(|i| i.region == *region);
            api::Store {
                region: region.clone(),
                address: link.address.address.clone(),
                connected: link.store().is_some(),
                error: link.error(),
                capacity_bytes: info.map_or(0, |i| i.capacity_bytes),
                used_bytes: info.map_or(0, |i| i.capacity_bytes.saturating_sub(i.free_bytes)),
            }
        });
        let stores = stores.collect();
        let mut attached = Vec::new();
        for volume in self.node.all_attached() {
            attached.push(describe::attached(&self.node, &volume).await);
        }
        for id in self.node.keeper.waiting() {
            attached.extend(describe::waiting(&self.node, &id));
        }
        Ok(Response::new(api::StatusResponse {
            node: self.node.name.clone(),
            region: self.node.region.clone(),
            quorum: Some(describe::quorum(self.node.quorum.state())),
            stores,
            attached,
        }))
    }

    type WatchQuorumStream = QuorumStream;

    async fn watch_quorum(
        &self,
        _request: Request<api::WatchQuorumRequest>,
    ) -> Result<Response<QuorumStream>, Status> {
        // Subscribed before the present state is read, so that no change is lost between the two.
        let changes = self.node.quorum.subscribe();
        let first = self.node.quorum.state();
        let quorum = self.node.quorum.clone();
        let later = stream::unfold((changes, quorum), |(mut changes, quorum)| async move {
            let state = match changes.recv().await {
                Ok(state) => state,
                Err(RecvError::Lagged(_)) => quorum.state(),
                Err(RecvError::Closed) => return None,
            };
            Some((Ok(describe::quorum(state)), (changes, quorum)))
        });
        let now = stream::once(async move { Ok(describe::quorum(first)) });
        Ok(Response::new(Box::pin(stream::StreamExt::chain(now, later))))
    }
}
