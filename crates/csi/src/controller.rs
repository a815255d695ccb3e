//! The Controller service: volumes as such. Any node's driver answers for the whole cluster, since any engine
//! reaches the stores.

use crate::capability::{self, REGION_KEY};
use crate::engine::{Engine, NewVolume};
use crate::locks::Locks;
use crate::nodes::Nodes;
use protos::csi::controller_server::Controller;
use protos::csi::controller_service_capability::{Rpc, Type, rpc};
use protos::csi::validate_volume_capabilities_response::Confirmed;
use protos::csi::*;
use protos::engine;
use std::collections::HashMap;
use tonic::{Code, Request, Response, Status};

/// Tokens of pages start with this and go on with the last id of the page before.
const TOKEN_PREFIX: &str = "after:";

/// Serves CSI's Controller.
pub(crate) struct ControllerService {
    pub(crate) engine: Engine,
    pub(crate) nodes: Nodes,
    pub(crate) region: String,
    pub(crate) locks: Locks,
}

/// Which regions of a new volume were asked for: empty for all.
fn fits(
    volume: &engine::Volume,
    class: &str,
    regions: &[String],
    (least, most): (i64, i64),
) -> Result<(), String> {
    let size = i64::try_from(volume.size_bytes).unwrap_or(i64::MAX);
    if size < least || size > most {
        return Err(format!("it has {size} bytes, not {least} to {most}"));
    }
    if volume.class != class {
        return Err(format!("its class is {}, not {class}", volume.class));
    }
    match (regions.first(), volume.replicas.first()) {
        (Some(wanted), Some(replica)) if replica.region != *wanted => {
            Err(format!("it is in region {}, not {wanted}", replica.region))
        }
        _ => Ok(()),
    }
}

/// A volume as CSI describes it. Only a local one is bound to a place.
fn describe(volume: &engine::Volume) -> Volume {
    let mut accessible_topology = Vec::new();
    if let (true, Some(replica)) = (volume.class == "local", volume.replicas.first()) {
        accessible_topology.push(Topology {
            segments: HashMap::from([(REGION_KEY.to_owned(), replica.region.clone())]),
        });
    }
    Volume {
        capacity_bytes: i64::try_from(volume.size_bytes).unwrap_or(i64::MAX),
        volume_id: volume.id.clone(),
        volume_context: HashMap::from([("class".to_owned(), volume.class.clone())]),
        content_source: None,
        accessible_topology,
    }
}

fn check_all(capabilities: &[VolumeCapability]) -> Result<(), String> {
    capabilities
        .iter()
        .try_for_each(|c| capability::check(c).map(drop))
}

#[tonic::async_trait]
impl Controller for ControllerService {
    async fn create_volume(
        &self,
        request: Request<CreateVolumeRequest>,
    ) -> Result<Response<CreateVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = capability::volume_id(&request.name)?;
        if request.volume_capabilities.is_empty() {
            return Err(Status::invalid_argument("volume_capabilities is missing"));
        }
        check_all(&request.volume_capabilities).map_err(Status::invalid_argument)?;
        if request.volume_content_source.is_some() {
            return Err(Status::invalid_argument("volume_content_source: not supported"));
        }
        if !request.mutable_parameters.is_empty() {
            return Err(Status::invalid_argument("mutable_parameters: not supported"));
        }
        let parameters = capability::parameters(&request.parameters)?;
        let bounds = capability::size(request.capacity_range.as_ref())?;
        let regions = match parameters.class {
            "local" => vec![capability::region(
                request.accessibility_requirements.as_ref(),
                &self.region,
            )?],
            _ => Vec::new(),
        };
        let engine = self.engine.clone();
        let create = async move {
            let existing = engine.find(&id).await?;
            if let Some(volume) = &existing {
                fits(volume, parameters.class, &regions, bounds)
                    .map_err(|why| Status::already_exists(format!("volume {id} exists: {why}")))?;
            }
            // Repeated for one that exists too: an earlier call may have been cut short between the replicas.
            let size = existing
                .as_ref()
                .map_or(bounds.0.unsigned_abs(), |v| v.size_bytes);
            let labels = existing.map_or(parameters.labels, |v| v.labels);
            let new = NewVolume {
                id,
                size_bytes: size,
                class: parameters.class,
                regions,
                labels,
            };
            engine.create(new).await
        };
        let volume = self.locks.run(&request.name, create).await?;
        let volume = Some(describe(&volume));
        Ok(Response::new(CreateVolumeResponse { volume }))
    }

    async fn delete_volume(
        &self,
        request: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        let id = request.into_inner().volume_id;
        capability::text("volume_id", &id)?;
        let engine = self.engine.clone();
        let key = id.clone();
        let delete = async move {
            match engine.delete(&id).await {
                // An id that cannot be is an id that is not.
                Err(status) if status.code() == Code::InvalidArgument => Ok(()),
                result => result,
            }
        };
        self.locks.run(&key, delete).await?;
        Ok(Response::new(DeleteVolumeResponse {}))
    }

    /// Only checks: the volume is opened when it is staged, and the engine's epochs see to it that there is one
    /// writer, whatever the API server believes.
    async fn controller_publish_volume(
        &self,
        request: Request<ControllerPublishVolumeRequest>,
    ) -> Result<Response<ControllerPublishVolumeResponse>, Status> {
        let request = request.into_inner();
        capability::text("volume_id", &request.volume_id)?;
        capability::text("node_id", &request.node_id)?;
        capability::required(request.volume_capability.as_ref())?;
        let (volume, node) = futures::join!(
            self.engine.get(&request.volume_id),
            self.nodes.check(&request.node_id)
        );
        volume?;
        node?;
        Ok(Response::new(ControllerPublishVolumeResponse::default()))
    }

    async fn controller_unpublish_volume(
        &self,
        request: Request<ControllerUnpublishVolumeRequest>,
    ) -> Result<Response<ControllerUnpublishVolumeResponse>, Status> {
        capability::text("volume_id", &request.into_inner().volume_id)?;
        Ok(Response::new(ControllerUnpublishVolumeResponse {}))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<ValidateVolumeCapabilitiesResponse>, Status> {
        let request = request.into_inner();
        capability::text("volume_id", &request.volume_id)?;
        if request.volume_capabilities.is_empty() {
            return Err(Status::invalid_argument("volume_capabilities is missing"));
        }
        let volume = self.engine.get(&request.volume_id).await?;
        let supported = check_all(&request.volume_capabilities).and_then(|()| {
            let wanted = capability::parameters(&request.parameters).map_err(|s| s.message().to_owned())?;
            if request.parameters.contains_key("class") && wanted.class != volume.class {
                return Err(format!("the volume's class is {}", volume.class));
            }
            Ok(())
        });
        Ok(Response::new(match supported {
            Ok(()) => ValidateVolumeCapabilitiesResponse {
                confirmed: Some(Confirmed {
                    volume_context: request.volume_context,
                    volume_capabilities: request.volume_capabilities,
                    parameters: request.parameters,
                    mutable_parameters: HashMap::new(),
                }),
                message: String::new(),
            },
            Err(message) => ValidateVolumeCapabilitiesResponse {
                confirmed: None,
                message,
            },
        }))
    }

    async fn list_volumes(
        &self,
        request: Request<ListVolumesRequest>,
    ) -> Result<Response<ListVolumesResponse>, Status> {
        let request = request.into_inner();
        let most = usize::try_from(request.max_entries)
            .map_err(|_| Status::invalid_argument("max_entries: negative"))?;
        let after = match request.starting_token.as_str() {
            "" => "",
            token => token.strip_prefix(TOKEN_PREFIX).ok_or_else(|| {
                Status::aborted(format!("starting_token: {token} was not given by this driver"))
            })?,
        };
        let mut volumes = self.engine.list().await?;
        volumes.sort_by(|a, b| a.id.cmp(&b.id));
        volumes.retain(|v| v.id.as_str() > after);
        let mut next_token = String::new();
        if most > 0 && volumes.len() > most {
            volumes.truncate(most);
            next_token = volumes
                .last()
                .map(|v| format!("{TOKEN_PREFIX}{}", v.id))
                .unwrap_or_default();
        }
        let entries = volumes.iter().map(|v| list_volumes_response::Entry {
            volume: Some(describe(v)),
            status: None,
        });
        Ok(Response::new(ListVolumesResponse {
            entries: entries.collect(),
            next_token,
        }))
    }

    /// What can still be provisioned: of a replicated volume, as much as the fullest store takes.
    async fn get_capacity(
        &self,
        request: Request<GetCapacityRequest>,
    ) -> Result<Response<GetCapacityResponse>, Status> {
        let request = request.into_inner();
        check_all(&request.volume_capabilities).map_err(Status::invalid_argument)?;
        let class = capability::parameters(&request.parameters)?.class;
        let region = request
            .accessible_topology
            .as_ref()
            .and_then(|t| t.segments.get(REGION_KEY))
            .unwrap_or(&self.region);
        let stores = self.engine.status().await?.stores;
        let free = stores
            .iter()
            .filter(|s| s.capacity_bytes > 0 && (class != "local" || s.region == *region))
            .map(|s| s.capacity_bytes.saturating_sub(s.used_bytes))
            .min()
            .unwrap_or(0);
        Ok(Response::new(GetCapacityResponse {
            available_capacity: i64::try_from(free).unwrap_or(i64::MAX),
            maximum_volume_size: Some(capability::MAXIMUM_SIZE),
            minimum_volume_size: None,
        }))
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<ControllerGetCapabilitiesResponse>, Status> {
        let kinds = [
            rpc::Type::CreateDeleteVolume,
            rpc::Type::PublishUnpublishVolume,
            rpc::Type::ListVolumes,
            rpc::Type::GetCapacity,
            rpc::Type::ExpandVolume,
            rpc::Type::SingleNodeMultiWriter,
        ];
        let capabilities = kinds.into_iter().map(|kind| ControllerServiceCapability {
            r#type: Some(Type::Rpc(Rpc { r#type: kind.into() })),
        });
        Ok(Response::new(ControllerGetCapabilitiesResponse {
            capabilities: capabilities.collect(),
        }))
    }

    async fn controller_expand_volume(
        &self,
        request: Request<ControllerExpandVolumeRequest>,
    ) -> Result<Response<ControllerExpandVolumeResponse>, Status> {
        let request = request.into_inner();
        capability::text("volume_id", &request.volume_id)?;
        if request.capacity_range.is_none() {
            return Err(Status::invalid_argument("capacity_range is missing"));
        }
        let (least, most) = capability::size(request.capacity_range.as_ref())?;
        let engine = self.engine.clone();
        let id = request.volume_id.clone();
        let expand = async move {
            let volume = engine.get(&id).await?;
            let size = i64::try_from(volume.size_bytes).unwrap_or(i64::MAX);
            if size > most {
                return Err(Status::out_of_range(format!(
                    "volume {id} has {size} bytes already"
                )));
            }
            if size >= least {
                return Ok(volume);
            }
            match engine.expand(&id, least.unsigned_abs()).await {
                // Open on another node: only that node's engine can grow it, which NodeExpandVolume asks for.
                Err(status) if status.code() == Code::FailedPrecondition && !volume.node.is_empty() => {
                    Ok(engine::Volume {
                        size_bytes: least.unsigned_abs(),
                        ..volume
                    })
                }
                result => result,
            }
        };
        let volume = self.locks.run(&request.volume_id, expand).await?;
        Ok(Response::new(ControllerExpandVolumeResponse {
            capacity_bytes: i64::try_from(volume.size_bytes).unwrap_or(i64::MAX),
            // Also for a raw device: the node's engine has to learn the size.
            node_expansion_required: true,
        }))
    }
}
