//! Calls to the runtime, each with a deadline.

use protos::cri::image_service_client::ImageServiceClient;
use protos::cri::runtime_service_client::RuntimeServiceClient;
use protos::cri::*;
use std::path::Path;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint, Uri};

/// Deadline of an ordinary call, as upstream's `runtimeRequestTimeout`.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Deadline of a call that only reads memory; the relist must not hang behind a stuck runtime.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// A pull may take long; after so long it is tried again.
const PULL_TIMEOUT: Duration = Duration::from_secs(60);
/// What a call may take beyond the grace period or command timeout that it carries.
const MARGIN: Duration = Duration::from_secs(20);
/// Longest command timeout: a probe or hook without limit ends with its container anyway.
const MAX_EXEC: Duration = Duration::from_secs(3600);
/// Responses of a node with many containers exceed tonic's default of 4 MiB.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// A call that failed.
#[derive(Debug, thiserror::Error)]
#[error("{call} {subject}: {}", status.message())]
pub struct Error {
    /// Name of the call.
    pub call: &'static str,
    /// What it was about.
    pub subject: String,
    /// The runtime's answer.
    pub status: tonic::Status,
}

impl Error {
    /// Whether the object does not exist.
    pub fn not_found(&self) -> bool {
        self.status.code() == tonic::Code::NotFound
    }
}

type Result<T> = std::result::Result<T, Error>;

/// A client of the runtime; clones share one connection, which is made when first used and again when lost.
#[derive(Clone)]
pub struct Runtime {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

/// Makes the request with a deadline, and names call and subject in its error.
macro_rules! call {
    ($client:expr, $method:ident, $name:literal, $subject:expr, $timeout:expr, $request:expr) => {{
        let mut request = tonic::Request::new($request);
        request.set_timeout($timeout);
        let mut client = $client.clone();
        match tokio::time::timeout($timeout, client.$method(request)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Error {
                call: $name,
                subject: $subject.to_string(),
                status,
            }),
            Err(_) => Err(Error {
                call: $name,
                subject: $subject.to_string(),
                status: tonic::Status::deadline_exceeded("no answer in time"),
            }),
        }
    }};
}

/// Removing or stopping what is not there is what was wanted.
fn ignore_missing<T: Default>(result: Result<T>) -> Result<()> {
    match result {
        Err(error) if !error.not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Seconds, at least zero, as a duration.
fn seconds(value: i64) -> Duration {
    Duration::from_secs(u64::try_from(value).unwrap_or(0))
}

impl Runtime {
    /// A client of the socket at `path`. Nothing is connected yet.
    pub fn new(path: &Path) -> Self {
        let path = path.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(path).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        });
        // The URI is needed by HTTP/2 and means nothing on a Unix socket.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES),
        }
    }

    /// Name and version of the runtime.
    pub async fn version(&self) -> Result<VersionResponse> {
        let request = VersionRequest { version: "v1".into() };
        call!(self.runtime, version, "Version", "", READ_TIMEOUT, request)
    }

    /// Conditions of the runtime: `RuntimeReady`, `NetworkReady`.
    pub async fn conditions(&self) -> Result<Vec<RuntimeCondition>> {
        let request = StatusRequest { verbose: false };
        let response: StatusResponse = call!(self.runtime, status, "Status", "", READ_TIMEOUT, request)?;
        Ok(response.status.map(|s| s.conditions).unwrap_or_default())
    }

    /// Tells the runtime the node's pod subnet.
    pub async fn set_pod_cidr(&self, pod_cidr: &str) -> Result<()> {
        let request = UpdateRuntimeConfigRequest {
            runtime_config: Some(RuntimeConfig {
                network_config: Some(NetworkConfig {
                    pod_cidr: pod_cidr.into(),
                }),
            }),
        };
        let name = "UpdateRuntimeConfig";
        let result: Result<UpdateRuntimeConfigResponse> = call!(
            self.runtime,
            update_runtime_config,
            "UpdateRuntimeConfig",
            name,
            READ_TIMEOUT,
            request
        );
        result.map(drop)
    }

    /// Starts a sandbox and returns its ID. `handler` names the runtime's way to run it; empty is its usual one.
    pub async fn run_sandbox(&self, config: PodSandboxConfig, handler: String) -> Result<String> {
        let subject = config
            .metadata
            .as_ref()
            .map_or_else(String::new, |m| m.name.clone());
        let request = RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: handler,
        };
        let response: RunPodSandboxResponse = call!(
            self.runtime,
            run_pod_sandbox,
            "RunPodSandbox",
            subject,
            CALL_TIMEOUT * 2,
            request
        )?;
        Ok(response.pod_sandbox_id)
    }

    /// Kills what is left in a sandbox and gives back its network. Succeeds when it does not exist.
    pub async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: id.into(),
        };
        let result: Result<StopPodSandboxResponse> = call!(
            self.runtime,
            stop_pod_sandbox,
            "StopPodSandbox",
            id,
            CALL_TIMEOUT,
            request
        );
        ignore_missing(result)
    }

    /// Removes a stopped sandbox and its containers. Succeeds when it does not exist.
    pub async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: id.into(),
        };
        let result: Result<RemovePodSandboxResponse> = call!(
            self.runtime,
            remove_pod_sandbox,
            "RemovePodSandbox",
            id,
            CALL_TIMEOUT,
            request
        );
        ignore_missing(result)
    }

    /// One sandbox in detail.
    pub async fn sandbox_status(&self, id: &str) -> Result<PodSandboxStatus> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.into(),
            verbose: false,
        };
        let response: PodSandboxStatusResponse = call!(
            self.runtime,
            pod_sandbox_status,
            "PodSandboxStatus",
            id,
            READ_TIMEOUT,
            request
        )?;
        response.status.ok_or_else(|| Error {
            call: "PodSandboxStatus",
            subject: id.into(),
            status: tonic::Status::not_found("the answer is empty"),
        })
    }

    /// All sandboxes, or those of one pod.
    pub async fn list_sandboxes(&self, pod_uid: Option<&str>) -> Result<Vec<PodSandbox>> {
        let filter = pod_uid.map(|uid| PodSandboxFilter {
            label_selector: [(super::labels::POD_UID.into(), uid.into())].into(),
            ..PodSandboxFilter::default()
        });
        let request = ListPodSandboxRequest { filter };
        let response: ListPodSandboxResponse = call!(
            self.runtime,
            list_pod_sandbox,
            "ListPodSandbox",
            "",
            READ_TIMEOUT,
            request
        )?;
        Ok(response.items)
    }

    /// All containers, or those of one pod.
    pub async fn list_containers(&self, pod_uid: Option<&str>) -> Result<Vec<Container>> {
        let filter = pod_uid.map(|uid| ContainerFilter {
            label_selector: [(super::labels::POD_UID.into(), uid.into())].into(),
            ..ContainerFilter::default()
        });
        let request = ListContainersRequest { filter };
        let response: ListContainersResponse = call!(
            self.runtime,
            list_containers,
            "ListContainers",
            "",
            READ_TIMEOUT,
            request
        )?;
        Ok(response.containers)
    }

    /// Creates a container and returns its ID.
    pub async fn create_container(&self, request: CreateContainerRequest) -> Result<String> {
        let metadata = request.config.as_ref().and_then(|c| c.metadata.as_ref());
        let subject = metadata.map_or_else(String::new, |m| m.name.clone());
        let response: CreateContainerResponse = call!(
            self.runtime,
            create_container,
            "CreateContainer",
            subject,
            CALL_TIMEOUT,
            request
        )?;
        Ok(response.container_id)
    }

    /// Starts a created container.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        let request = StartContainerRequest {
            container_id: id.into(),
        };
        let result: Result<StartContainerResponse> = call!(
            self.runtime,
            start_container,
            "StartContainer",
            id,
            CALL_TIMEOUT,
            request
        );
        result.map(drop)
    }

    /// Stops a container: its stop signal, and SIGKILL after `grace` seconds. Succeeds when it does not exist.
    pub async fn stop_container(&self, id: &str, grace: i64) -> Result<()> {
        let request = StopContainerRequest {
            container_id: id.into(),
            timeout: grace,
        };
        let result: Result<StopContainerResponse> = call!(
            self.runtime,
            stop_container,
            "StopContainer",
            id,
            seconds(grace) + MARGIN,
            request
        );
        ignore_missing(result)
    }

    /// Removes a container. Succeeds when it does not exist.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let request = RemoveContainerRequest {
            container_id: id.into(),
        };
        let result: Result<RemoveContainerResponse> = call!(
            self.runtime,
            remove_container,
            "RemoveContainer",
            id,
            CALL_TIMEOUT,
            request
        );
        ignore_missing(result)
    }

    /// Changes the limits of a running container.
    pub async fn update_resources(&self, id: &str, linux: LinuxContainerResources) -> Result<()> {
        let request = UpdateContainerResourcesRequest {
            container_id: id.into(),
            linux: Some(linux),
        };
        let result: Result<UpdateContainerResourcesResponse> = call!(
            self.runtime,
            update_container_resources,
            "UpdateContainerResources",
            id,
            CALL_TIMEOUT,
            request
        );
        result.map(drop)
    }

    /// One container in detail.
    pub async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        let request = ContainerStatusRequest {
            container_id: id.into(),
            verbose: false,
        };
        let response: ContainerStatusResponse = call!(
            self.runtime,
            container_status,
            "ContainerStatus",
            id,
            READ_TIMEOUT,
            request
        )?;
        response.status.ok_or_else(|| Error {
            call: "ContainerStatus",
            subject: id.into(),
            status: tonic::Status::not_found("the answer is empty"),
        })
    }

    /// Makes the runtime write to a new log file after the old one was renamed.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        let request = ReopenContainerLogRequest {
            container_id: id.into(),
        };
        let result: Result<ReopenContainerLogResponse> = call!(
            self.runtime,
            reopen_container_log,
            "ReopenContainerLog",
            id,
            READ_TIMEOUT,
            request
        );
        result.map(drop)
    }

    /// Runs a command in a container until it ends, at most `limit` long.
    pub async fn exec_sync(&self, id: &str, command: &[String], limit: Duration) -> Result<ExecSyncResponse> {
        let limit = limit.min(MAX_EXEC);
        let request = ExecSyncRequest {
            container_id: id.into(),
            cmd: command.to_vec(),
            timeout: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        };
        call!(
            self.runtime,
            exec_sync,
            "ExecSync",
            id,
            limit + Duration::from_secs(2),
            request
        )
    }

    /// URL of the runtime's streaming server for a command.
    pub async fn exec(&self, request: ExecRequest) -> Result<String> {
        let id = request.container_id.clone();
        let response: ExecResponse = call!(self.runtime, exec, "Exec", id, READ_TIMEOUT, request)?;
        Ok(response.url)
    }

    /// URL of the runtime's streaming server for a container's own streams.
    pub async fn attach(&self, request: AttachRequest) -> Result<String> {
        let id = request.container_id.clone();
        let response: AttachResponse = call!(self.runtime, attach, "Attach", id, READ_TIMEOUT, request)?;
        Ok(response.url)
    }

    /// URL of the runtime's streaming server for a pod's ports.
    pub async fn port_forward(&self, request: PortForwardRequest) -> Result<String> {
        let id = request.pod_sandbox_id.clone();
        let response: PortForwardResponse = call!(
            self.runtime,
            port_forward,
            "PortForward",
            id,
            READ_TIMEOUT,
            request
        )?;
        Ok(response.url)
    }

    /// What every container uses now.
    pub async fn container_stats(&self) -> Result<Vec<ContainerStats>> {
        let request = ListContainerStatsRequest { filter: None };
        let response: ListContainerStatsResponse = call!(
            self.runtime,
            list_container_stats,
            "ListContainerStats",
            "",
            READ_TIMEOUT,
            request
        )?;
        Ok(response.stats)
    }

    /// Events of containers; `Unimplemented` from runtimes that have none (containerd before 1.7).
    pub async fn container_events(&self) -> Result<tonic::Streaming<ContainerEventResponse>> {
        let mut client = self.runtime.clone();
        let response = client.get_container_events(GetEventsRequest {}).await;
        response.map(tonic::Response::into_inner).map_err(|status| Error {
            call: "GetContainerEvents",
            subject: String::new(),
            status,
        })
    }

    /// All images.
    pub async fn list_images(&self) -> Result<Vec<Image>> {
        let request = ListImagesRequest { filter: None };
        let response: ListImagesResponse =
            call!(self.images, list_images, "ListImages", "", READ_TIMEOUT, request)?;
        Ok(response.images)
    }

    /// The image of that name, if the runtime holds it.
    pub async fn image(&self, name: &str) -> Result<Option<Image>> {
        let request = ImageStatusRequest {
            image: Some(image_spec(name)),
            verbose: false,
        };
        let response: ImageStatusResponse = call!(
            self.images,
            image_status,
            "ImageStatus",
            name,
            READ_TIMEOUT,
            request
        )?;
        Ok(response.image)
    }

    /// Fetches an image from its registry.
    pub async fn pull_image(&self, name: &str, auth: Option<AuthConfig>) -> Result<String> {
        let request = PullImageRequest {
            image: Some(image_spec(name)),
            auth,
            sandbox_config: None,
        };
        let response: PullImageResponse =
            call!(self.images, pull_image, "PullImage", name, PULL_TIMEOUT, request)?;
        Ok(response.image_ref)
    }
}

/// The spec that names an image.
pub fn image_spec(name: &str) -> ImageSpec {
    ImageSpec {
        image: name.into(),
        user_specified_image: name.into(),
        ..ImageSpec::default()
    }
}
