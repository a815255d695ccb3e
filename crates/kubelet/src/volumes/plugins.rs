//! CSI drivers: found through the sockets that they put into `plugins_registry`, asked who they are, and
//! announced in the node's CSINode object. A driver whose socket disappears is forgotten; one that comes back
//! registers again.

mod announce;

use super::Error;
use crate::context::Context;
use crate::sync::lock;
use protos::csi;
use protos::csi::node_client::NodeClient;
use protos::registration::registration_client::RegistrationClient;
use protos::registration::{InfoRequest, RegistrationStatus};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint, Uri};

/// Kind of plugin that is understood.
const KIND: &str = "CSIPlugin";
/// Pause before a socket that does not answer is asked again: the driver may be starting.
const RETRY: Duration = Duration::from_secs(1);
/// Deadline of a registration call.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(5);
/// Deadlines of calls about volumes: staging may check a file system; unpublishing must not hang for long on a
/// dead one.
const STAGE_TIMEOUT: Duration = Duration::from_secs(120);
const UNPUBLISH_TIMEOUT: Duration = Duration::from_secs(30);
/// Deadline of a question about a volume; a driver bounds how long it waits for a file system.
const STATS_TIMEOUT: Duration = Duration::from_secs(15);
/// Events are only a reason to look; more than fit say nothing new.
const EVENT_BYTES: usize = 4096;

/// A registered driver.
#[derive(Clone)]
pub struct Driver {
    name: String,
    node: NodeClient<Channel>,
    /// It stages volumes once for the node.
    pub stages: bool,
    /// It tells apart several writers on one node from a single one.
    pub multi_writer: bool,
    /// It says whether volumes are well.
    pub tells_condition: bool,
    /// It has a part in growing volumes.
    pub expands: bool,
    info: csi::NodeGetInfoResponse,
}

/// The registered drivers.
pub struct Plugins {
    drivers: Mutex<HashMap<String, (PathBuf, Driver)>>,
    changed: watch::Sender<u64>,
}

impl Default for Plugins {
    fn default() -> Self {
        Self {
            drivers: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }
}

fn channel(path: &Path) -> Channel {
    let path = path.to_owned();
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(path).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    }))
}

/// Makes a call with a deadline.
async fn call<T>(
    what: &str,
    limit: Duration,
    request: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, request).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Error::Source(format!(
            "rpc {what}: code = {:?} desc = {}",
            status.code(),
            status.message()
        ))),
        Err(_) => Err(Error::Source(format!(
            "rpc {what}: no answer within {}s",
            limit.as_secs()
        ))),
    }
}

impl Driver {
    /// `NodeStageVolume`.
    pub async fn stage(&self, request: csi::NodeStageVolumeRequest) -> Result<(), Error> {
        let mut node = self.node.clone();
        call("NodeStageVolume", STAGE_TIMEOUT, node.node_stage_volume(request))
            .await
            .map(drop)
    }

    /// `NodeUnstageVolume`.
    pub async fn unstage(&self, request: csi::NodeUnstageVolumeRequest) -> Result<(), Error> {
        let mut node = self.node.clone();
        call(
            "NodeUnstageVolume",
            STAGE_TIMEOUT,
            node.node_unstage_volume(request),
        )
        .await
        .map(drop)
    }

    /// `NodePublishVolume`.
    pub async fn publish(&self, request: csi::NodePublishVolumeRequest) -> Result<(), Error> {
        let mut node = self.node.clone();
        call(
            "NodePublishVolume",
            STAGE_TIMEOUT,
            node.node_publish_volume(request),
        )
        .await
        .map(drop)
    }

    /// `NodeUnpublishVolume`.
    pub async fn unpublish(&self, request: csi::NodeUnpublishVolumeRequest) -> Result<(), Error> {
        let mut node = self.node.clone();
        call(
            "NodeUnpublishVolume",
            UNPUBLISH_TIMEOUT,
            node.node_unpublish_volume(request),
        )
        .await
        .map(drop)
    }

    /// `NodeExpandVolume`.
    pub async fn expand(&self, request: csi::NodeExpandVolumeRequest) -> Result<(), Error> {
        let mut node = self.node.clone();
        call(
            "NodeExpandVolume",
            STAGE_TIMEOUT,
            node.node_expand_volume(request),
        )
        .await
        .map(drop)
    }

    /// `NodeGetVolumeStats`: use and condition of a published volume; `None` when it is not there.
    pub async fn stats(
        &self,
        volume: &str,
        path: &Path,
    ) -> Result<Option<csi::NodeGetVolumeStatsResponse>, Error> {
        let mut node = self.node.clone();
        let request = csi::NodeGetVolumeStatsRequest {
            volume_id: volume.into(),
            volume_path: path.to_string_lossy().into(),
            ..csi::NodeGetVolumeStatsRequest::default()
        };
        let asked = async {
            match node.node_get_volume_stats(request).await {
                Err(status) if status.code() == tonic::Code::NotFound => Ok(tonic::Response::new(None)),
                answer => answer.map(|response| response.map(Some)),
            }
        };
        call("NodeGetVolumeStats", STATS_TIMEOUT, asked).await
    }

    /// The condition of a published volume; `None` when it is not there.
    pub async fn condition(&self, volume: &str, path: &Path) -> Result<Option<csi::VolumeCondition>, Error> {
        let stats = self.stats(volume, path).await?;
        Ok(stats.and_then(|s| s.volume_condition))
    }
}

impl Plugins {
    /// Counts how often drivers came or went.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A driver by its name.
    pub fn driver(&self, name: &str) -> Result<Driver, Error> {
        let drivers = lock(&self.drivers);
        let found = drivers.get(name).map(|(_, driver)| driver.clone());
        found.ok_or_else(|| {
            Error::NotYet(format!(
                "driver name {name} not found in the list of registered CSI drivers"
            ))
        })
    }

    /// Watches the directory for ever.
    pub async fn run(&self, context: &Context) {
        let dir = context.paths.plugin_sockets();
        tokio::join!(self.watch(&dir), announce::run(context, self.changed.subscribe()));
    }

    async fn watch(&self, dir: &Path) {
        let events = match watch_dir(dir) {
            Ok(events) => events,
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "CSI drivers cannot be found");
                return;
            }
        };
        let mut buffer = [0; EVENT_BYTES];
        let mut registered: HashMap<PathBuf, Option<std::time::SystemTime>> = HashMap::new();
        loop {
            while events.try_read(&mut buffer).is_ok() {}
            let complete = self.scan(dir, &mut registered).await;
            let retry = async {
                if complete {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(RETRY).await;
            };
            tokio::select! {
                _ = events.readable() => {}
                () = retry => {}
            }
        }
    }

    /// Registers new sockets and forgets those that are gone. False when one did not answer.
    async fn scan(
        &self,
        dir: &Path,
        registered: &mut HashMap<PathBuf, Option<std::time::SystemTime>>,
    ) -> bool {
        let sockets = sockets(dir);
        let gone: Vec<PathBuf> = registered
            .keys()
            .filter(|p| !sockets.contains_key(*p))
            .cloned()
            .collect();
        for path in gone {
            registered.remove(&path);
            let mut drivers = lock(&self.drivers);
            drivers.retain(|name, (socket, _)| {
                if *socket == path {
                    tracing::info!(driver = name, "CSI driver is gone");
                }
                *socket != path
            });
            drop(drivers);
            self.changed.send_modify(|n| *n += 1);
        }
        let mut complete = true;
        for (path, made) in sockets {
            // A socket that was made anew belongs to a new process.
            if registered.get(&path) == Some(&made) {
                continue;
            }
            match register(&path).await {
                Ok(Some(driver)) => {
                    tracing::info!(
                        driver = driver.name,
                        node = driver.info.node_id,
                        "CSI driver registered"
                    );
                    lock(&self.drivers).insert(driver.name.clone(), (path.clone(), driver));
                    self.changed.send_modify(|n| *n += 1);
                    registered.insert(path, made);
                }
                Ok(None) => {
                    registered.insert(path, made);
                }
                Err(error) => {
                    tracing::debug!(path = %path.display(), %error, "plugin not registered yet");
                    complete = false;
                }
            }
        }
        complete
    }
}

fn watch_dir(dir: &Path) -> std::io::Result<pipe::Receiver> {
    let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    let flags = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM;
    inotify::add_watch(&fd, dir, flags)?;
    pipe::Receiver::from_owned_fd_unchecked(fd)
}

fn sockets(dir: &Path) -> BTreeMap<PathBuf, Option<std::time::SystemTime>> {
    use std::os::unix::fs::FileTypeExt;
    let mut sockets = BTreeMap::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_socket()) {
            let made = entry.metadata().and_then(|m| m.modified()).ok();
            sockets.insert(entry.path(), made);
        }
    }
    sockets
}

/// Asks a plugin who it is; `None` for plugins of other kinds.
async fn register(path: &Path) -> Result<Option<Driver>, Error> {
    let mut registration = RegistrationClient::new(channel(path));
    let plugin = call("GetInfo", REGISTER_TIMEOUT, registration.get_info(InfoRequest {})).await?;
    if plugin.r#type != KIND {
        return Ok(None);
    }
    let socket = if plugin.endpoint.is_empty() {
        path.to_owned()
    } else {
        PathBuf::from(&plugin.endpoint)
    };
    let result = driver(plugin.name, &socket).await;
    let status = RegistrationStatus {
        plugin_registered: result.is_ok(),
        error: result.as_ref().err().map(ToString::to_string).unwrap_or_default(),
    };
    let notify = registration.notify_registration_status(status);
    call("NotifyRegistrationStatus", REGISTER_TIMEOUT, notify).await?;
    result.map(Some)
}

async fn driver(name: String, socket: &Path) -> Result<Driver, Error> {
    use csi::node_service_capability::{Type, rpc};
    let mut node = NodeClient::new(channel(socket));
    let info = node.node_get_info(csi::NodeGetInfoRequest {});
    let info = call("NodeGetInfo", REGISTER_TIMEOUT, info).await?;
    let capabilities = node.node_get_capabilities(csi::NodeGetCapabilitiesRequest {});
    let capabilities = call("NodeGetCapabilities", REGISTER_TIMEOUT, capabilities)
        .await?
        .capabilities;
    let has = |wanted: rpc::Type| {
        let mut types = capabilities.iter().filter_map(|c| c.r#type.as_ref());
        types.any(|Type::Rpc(rpc)| rpc.r#type == wanted as i32)
    };
    Ok(Driver {
        stages: has(rpc::Type::StageUnstageVolume),
        multi_writer: has(rpc::Type::SingleNodeMultiWriter),
        tells_condition: has(rpc::Type::VolumeCondition) && has(rpc::Type::GetVolumeStats),
        expands: has(rpc::Type::ExpandVolume),
        name,
        node,
        info,
    })
}
