//! The Node service: checks the calls; `stage` and `publish` do the work, one operation per volume at a time.

use crate::capability::{self, Access, REGION_KEY};
use crate::engine::Engine;
use crate::locks::Locks;
use crate::publish::Publication;
use crate::{mount, publish, stage};
use protos::csi::node_server::Node;
use protos::csi::node_service_capability::{Rpc, Type, rpc};
use protos::csi::*;
use std::collections::HashMap;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Volumes per node; each takes a loop device and some memory of the engine.
const MAXIMUM_VOLUMES: i64 = 128;

/// What the operations on this node share.
pub(crate) struct Host {
    pub(crate) engine: Engine,
    pub(crate) node_name: String,
    pub(crate) region: String,
    pub(crate) locks: Locks,
    pub(crate) questions: crate::stats::Questions,
}

/// Serves CSI's Node.
pub(crate) struct NodeService {
    pub(crate) host: Arc<Host>,
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn node_stage_volume(
        &self,
        request: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = capability::text("volume_id", &request.volume_id)?.to_owned();
        let path = mount::normal(capability::text(
            "staging_target_path",
            &request.staging_target_path,
        )?);
        let capability = capability::required(request.volume_capability.as_ref())?;
        let host = self.host.clone();
        let key = id.clone();
        let work = async move { stage::stage(&host, &id, &path, &capability).await };
        self.host.locks.run(&key, work).await?;
        Ok(Response::new(NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = capability::text("volume_id", &request.volume_id)?.to_owned();
        let path = mount::normal(capability::text(
            "staging_target_path",
            &request.staging_target_path,
        )?);
        let host = self.host.clone();
        let key = id.clone();
        let work = async move { stage::unstage(&host, &id, &path).await };
        self.host.locks.run(&key, work).await?;
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = capability::text("volume_id", &request.volume_id)?.to_owned();
        let target = mount::normal(capability::text("target_path", &request.target_path)?);
        let capability = capability::required(request.volume_capability.as_ref())?;
        if request.staging_target_path.is_empty() {
            return Err(Status::failed_precondition(
                "staging_target_path is missing: stage the volume first",
            ));
        }
        let publication = Publication {
            id: id.clone(),
            staging: mount::normal(&request.staging_target_path),
            target,
            read_only: request.readonly || capability.read_only,
            capability,
        };
        let host = self.host.clone();
        let work = async move {
            match publication.capability.access {
                Access::Block => publish::block(&host, &publication).await,
                Access::Mount { .. } => publish::mount(&host, &publication).await,
            }
        };
        self.host.locks.run(&id, work).await?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = capability::text("volume_id", &request.volume_id)?;
        let target = mount::normal(capability::text("target_path", &request.target_path)?);
        let work = async move { publish::unpublish(&target).await };
        self.host.locks.run(id, work).await?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let request = request.into_inner();
        capability::text("volume_id", &request.volume_id)?;
        let path = mount::normal(capability::text("volume_path", &request.volume_path)?);
        crate::stats::of(&self.host, &request.volume_id, &path)
            .await
            .map(Response::new)
    }

    async fn node_expand_volume(
        &self,
        request: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = capability::text("volume_id", &request.volume_id)?.to_owned();
        let path = mount::normal(capability::text("volume_path", &request.volume_path)?);
        let wanted = match &request.capacity_range {
            Some(range) => capability::size(Some(range))?.0,
            None => 0,
        };
        let host = self.host.clone();
        let key = id.clone();
        let work = async move { stage::expand(&host, &id, &path, wanted.unsigned_abs()).await };
        let size = self.host.locks.run(&key, work).await?;
        Ok(Response::new(NodeExpandVolumeResponse {
            capacity_bytes: i64::try_from(size).unwrap_or(i64::MAX),
        }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let kinds = [
            rpc::Type::StageUnstageVolume,
            rpc::Type::GetVolumeStats,
            rpc::Type::ExpandVolume,
            rpc::Type::VolumeCondition,
            rpc::Type::SingleNodeMultiWriter,
        ];
        let capabilities = kinds.into_iter().map(|kind| NodeServiceCapability {
            r#type: Some(Type::Rpc(Rpc { r#type: kind.into() })),
        });
        Ok(Response::new(NodeGetCapabilitiesResponse {
            capabilities: capabilities.collect(),
        }))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        let region = self.host.region.clone();
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.host.node_name.clone(),
            max_volumes_per_node: MAXIMUM_VOLUMES,
            accessible_topology: Some(Topology {
                segments: HashMap::from([(REGION_KEY.to_owned(), region)]),
            }),
        }))
    }
}
