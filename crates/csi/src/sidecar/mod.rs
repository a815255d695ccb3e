//! What upstream's sidecars do: claims become volumes (`provision`), volumes that nobody claims are deleted
//! (`reclaim`), attachments become calls (`attach`), larger claims larger volumes (`resize`). One driver of the
//! cluster leads. Everything goes through the CSI socket, so that upstream's sidecars can take over.

mod attach;
mod provision;
mod quantity;
mod reclaim;
mod resize;

use client::events::Recorder;
use client::{Election, Informer, Key, Outcome, Queue, lead};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec};
use k8s_openapi::api::storage::v1::{CSINode, StorageClass, VolumeAttachment};
use kube::Api;
use kube::runtime::watcher;
use protos::csi::VolumeCapability;
use protos::csi::controller_client::ControllerClient;
use protos::csi::volume_capability::access_mode::Mode;
use protos::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Channel;

/// Lease of the leader.
const LEASE: &str = "csi-hikube-io";
/// Objects worked on at one time, for each kind of work. Calls mostly wait for stores.
const CONCURRENCY: usize = 8;
/// Longest wait for one call to the driver; shorter than what a work queue allows, so that the reason is told.
const CALL_TIMEOUT: Duration = Duration::from_secs(50);
/// Annotation of a volume: who made it.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// Why a piece of work failed. It is tried again, later and later.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The API server refused or did not answer.
    #[error("API: {0}")]
    Api(#[from] kube::Error),
    /// The driver refused or did not answer.
    #[error("{}", .0.message())]
    Driver(#[from] tonic::Status),
    /// An object lacks what is needed.
    #[error("{0}")]
    Incomplete(String),
}

/// What all the work shares.
struct Sidecar {
    client: kube::Client,
    driver: ControllerClient<Channel>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    attachments: Informer<VolumeAttachment>,
    nodes: Informer<CSINode>,
    events: Recorder,
}

/// Takes part in the election for ever, and works while leading.
pub(crate) async fn run(client: kube::Client, socket: &Path, node: &str) {
    let election = Election {
        client: client.clone(),
        name: LEASE.into(),
        identity: node.into(),
    };
    let events = Recorder::new(client.clone(), crate::DRIVER, node);
    lead(&election, || {
        // Caches live as long as the leadership; the others need none.
        let sidecar = Sidecar {
            client: client.clone(),
            driver: ControllerClient::new(crate::socket::channel(socket)),
            claims: Informer::new(),
            volumes: Informer::new(),
            classes: Informer::new(),
            attachments: Informer::new(),
            nodes: Informer::new(),
            events: events.clone(),
        };
        async move { sidecar.work().await }
    })
    .await;
}

type Work = Arc<Queue<Key>>;

impl Sidecar {
    async fn work(&self) {
        let (claims, volumes, attachments) = (Work::default(), Work::default(), Work::default());
        self.route(&claims, &volumes, &attachments);
        let list = watcher::Config::default;
        let all = || self.client.clone();
        let caches = async {
            futures::join!(
                self.claims.run(Api::all(all()), list()),
                self.volumes.run(Api::all(all()), list()),
                self.classes.run(Api::all(all()), list()),
                self.attachments.run(Api::all(all()), list()),
                self.nodes.run(Api::all(all()), list()),
            );
        };
        let work = async {
            futures::join!(
                self.claims.synced(),
                self.volumes.synced(),
                self.classes.synced(),
                self.attachments.synced(),
                self.nodes.synced(),
            );
            futures::join!(
                claims.work(CONCURRENCY, |key| async move { self.claim(&key).await }),
                volumes.work(CONCURRENCY, |key| async move {
                    outcome(&key, self.reclaim(&key).await)
                }),
                attachments.work(CONCURRENCY, |key| async move {
                    outcome(&key, self.attachment(&key).await)
                }),
            );
        };
        futures::join!(caches, work);
    }

    /// Decides which change makes which object worth a look.
    fn route(&self, claims: &Work, volumes: &Work, attachments: &Work) {
        let queue = claims.clone();
        self.claims.on_change(move |change| {
            if let Some(claim) = change.current() {
                queue.add(Key::of(&**claim));
            }
        });
        let (queue, claim_queue) = (volumes.clone(), claims.clone());
        self.volumes.on_change(move |change| {
            queue.add(Key::of(&**change.object()));
            let claim = change.object().spec.as_ref().and_then(|s| s.claim_ref.as_ref());
            if let Some(claim) = claim {
                claim_queue.add(Key::new(
                    claim.namespace.clone().unwrap_or_default(),
                    claim.name.clone().unwrap_or_default(),
                ));
            }
        });
        let (queue, volume_queue) = (attachments.clone(), volumes.clone());
        self.attachments.on_change(move |change| {
            let attachment = change.object();
            if attachment.spec.attacher != crate::DRIVER {
                return;
            }
            match (change.current(), &attachment.spec.source.persistent_volume_name) {
                (Some(_), _) => queue.add(Key::of(&**attachment)),
                // A volume may be waiting to be no longer attached.
                (None, Some(volume)) => volume_queue.add(Key::new("", volume)),
                (None, None) => {}
            }
        });
        // A claim may have come before its class, an attachment before its node or volume was known.
        let (queue, cache) = (claims.clone(), self.claims.clone());
        self.classes
            .on_change(move |_| cache.list().iter().for_each(|c| queue.add(Key::of(&**c))));
        let (queue, cache) = (attachments.clone(), self.attachments.clone());
        self.nodes.on_change(move |change| {
            let node = change.object().metadata.name.clone().unwrap_or_default();
            let waiting = cache.select(|a| a.spec.attacher == crate::DRIVER && a.spec.node_name == node);
            waiting.iter().for_each(|a| queue.add(Key::of(&**a)));
        });
    }

    /// A claim either waits for its volume or wants it larger.
    async fn claim(&self, key: &Key) -> Outcome {
        let Some(claim) = self.claims.by_key(key) else {
            return Outcome::Done;
        };
        let bound = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref());
        if bound.is_none_or(str::is_empty) {
            outcome(key, self.provision(&claim).await)
        } else {
            outcome(key, self.resize(&claim).await)
        }
    }
}

/// What is expected to pass (conflicts, a server that is away) is no matter for an operator.
fn outcome(key: &Key, result: Result<(), Error>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(error) => {
            tracing::info!(%key, %error, "to be tried again");
            Outcome::Retry
        }
    }
}

fn bounded<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// The driver's part of a volume, when the volume is the driver's.
fn csi_source(volume: &PersistentVolume) -> Option<&k8s_openapi::api::core::v1::CSIPersistentVolumeSource> {
    let source = volume.spec.as_ref()?.csi.as_ref()?;
    (source.driver == crate::DRIVER).then_some(source)
}

/// How a volume is used, as CSI says it.
fn capability_of(spec: &PersistentVolumeSpec) -> Result<VolumeCapability, Error> {
    let fs_type = spec
        .csi
        .as_ref()
        .and_then(|c| c.fs_type.as_deref())
        .unwrap_or_default();
    capability(
        spec.access_modes.as_deref().unwrap_or_default(),
        spec.volume_mode.as_deref(),
        fs_type,
        spec.mount_options.as_deref().unwrap_or_default(),
    )
}

/// One capability for all access modes: the widest of them.
fn capability(
    modes: &[String],
    volume_mode: Option<&str>,
    fs_type: &str,
    mount_options: &[String],
) -> Result<VolumeCapability, Error> {
    let has = |mode: &str| modes.iter().any(|m| m == mode);
    let mode = if has("ReadWriteMany") {
        Mode::MultiNodeMultiWriter
    } else if has("ReadOnlyMany") && has("ReadWriteOnce") {
        Mode::MultiNodeSingleWriter
    } else if has("ReadOnlyMany") {
        Mode::MultiNodeReaderOnly
    } else if has("ReadWriteOncePod") {
        Mode::SingleNodeSingleWriter
    } else if has("ReadWriteOnce") {
        Mode::SingleNodeMultiWriter
    } else {
        return Err(Error::Incomplete("no access mode that is known".into()));
    };
    let access_type = if volume_mode == Some("Block") {
        AccessType::Block(BlockVolume {})
    } else {
        AccessType::Mount(MountVolume {
            fs_type: fs_type.into(),
            mount_flags: mount_options.to_vec(),
            volume_mount_group: String::new(),
        })
    };
    Ok(VolumeCapability {
        access_type: Some(access_type),
        access_mode: Some(AccessMode { mode: mode.into() }),
    })
}
