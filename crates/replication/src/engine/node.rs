//! The engine of a node: its links, its quorum, its volumes, and what can be done with them.

use super::expose::Exposed;
use super::gather::Gathered;
use super::keep::Keeper;
use super::link::Link;
use super::placement;
use super::quorum::Quorum;
use super::volume::{Claim, Volume};
use crate::net::control::{Inventory, MemberReport, Request, Response, VolumeSpec};
use crate::view::{self, VolumeView};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Rounds of reconciliation after a store appeared: deletions, creations, and one for surprises. A store that is
/// lost meanwhile causes another reconciliation when it appears again.
const RECONCILE_ROUNDS: usize = 6;
/// Pause before the next round while a replica is still replaying its journal.
const OPENING_PAUSE: Duration = Duration::from_secs(2);
/// How often what is known about the members is told to the stores, while volumes are attached.
const REPORT_INTERVAL: Duration = Duration::from_millis(1000);
/// Limit of one request to a store that changes its disk.
pub(super) const CHANGE_TIMEOUT: Duration = Duration::from_secs(8);

/// Why an operation was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is wrong; names the field.
    #[error("{0}")]
    Invalid(String),
    /// There is no such volume.
    #[error("there is no volume {0:?}")]
    NotFound(String),
    /// There is another one of that name.
    #[error("{0}")]
    Exists(String),
    /// The state forbids it.
    #[error("{0}")]
    State(String),
    /// Fewer than a majority of the needed stores answer.
    #[error("{0}")]
    Unavailable(String),
    /// The device could not be made or removed.
    #[error(transparent)]
    Device(blockdev::Error),
}

impl From<blockdev::Error> for Error {
    fn from(error: blockdev::Error) -> Self {
        match error {
            blockdev::Error::InUse { .. } => Error::State(error.to_string()),
            blockdev::Error::Listen { .. } => Error::Invalid(format!("nbd: {error}")),
            other => Error::Device(other),
        }
    }
}

/// A volume with its device.
pub struct Attached {
    /// The volume.
    pub volume: Volume,
    /// How it is exposed.
    pub exposed: Exposed,
    /// Path of the device, or URI.
    pub device: String,
    /// Epoch counter.
    pub epoch: u64,
    /// Refuses writes.
    pub read_only: bool,
}

/// The node.
pub struct Node {
    /// Name.
    pub name: String,
    /// Region.
    pub region: String,
    /// Directory of the mount points.
    pub mounts: PathBuf,
    /// Links to all stores, in the order of the configuration.
    pub links: Vec<Arc<Link>>,
    /// Contact with the stores.
    pub quorum: Arc<Quorum>,
    /// For NBD clients that come over a network.
    pub nbd_tls: blockdev::nbd::Tls,
    /// What becomes of the devices when this process ends.
    pub(super) keeper: Keeper,
    /// Volumes with a device.
    pub(super) attached: Mutex<HashMap<String, Arc<Attached>>>,
    /// All volumes that are open or opening; they are told when a link comes up.
    open: Mutex<HashMap<u64, Volume>>,
    /// One operation at a time for each volume.
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Reconciliations run one after the other.
    reconciling: tokio::sync::Mutex<()>,
    next_open: AtomicU64,
    /// Volumes that nobody has attached are mended one after the other.
    pub(super) mending: tokio::sync::Mutex<()>,
    /// A store appeared that knows nothing of what was reported.
    report_all: AtomicBool,
}

/// Keeps a volume registered as open; stops its thread at the end.
pub struct OpenVolume {
    node: Arc<Node>,
    number: u64,
    /// The volume.
    pub volume: Volume,
    keep: bool,
}

impl OpenVolume {
    /// Leaves the volume running.
    pub fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for OpenVolume {
    fn drop(&mut self) {
        if !self.keep {
            self.node.open.lock().remove(&self.number);
            self.volume.stop();
        }
    }
}

impl Node {
    /// A node without volumes.
    pub fn new(
        name: String,
        region: String,
        mounts: PathBuf,
        links: Vec<Arc<Link>>,
        quorum: Arc<Quorum>,
        nbd_tls: blockdev::nbd::Tls,
        keeper: Keeper,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            region,
            mounts,
            links,
            quorum,
            nbd_tls,
            keeper,
            attached: Mutex::default(),
            open: Mutex::default(),
            locks: Mutex::default(),
            reconciling: tokio::sync::Mutex::default(),
            next_open: AtomicU64::new(1),
            mending: tokio::sync::Mutex::default(),
            report_all: AtomicBool::new(false),
        })
    }

    /// The lock of a volume's operations.
    pub(super) async fn lock(&self, volume: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock();
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(volume.to_owned()).or_default().clone()
        };
        lock.lock_owned().await
    }

    /// The volume's device here, if there is one.
    pub fn attached(&self, volume: &str) -> Option<Arc<Attached>> {
        self.attached.lock().get(volume).cloned()
    }

    /// All attached volumes.
    pub fn all_attached(&self) -> Vec<Arc<Attached>> {
        self.attached.lock().values().cloned().collect()
    }

    /// Starts to open a volume.
    pub(super) fn open(self: &Arc<Self>, spec: VolumeSpec) -> Result<OpenVolume, Error> {
        self.open_as(spec, Claim::Attach)
    }

    /// As [`Node::open`], with another right.
    pub(super) fn open_as(self: &Arc<Self>, spec: VolumeSpec, claim: Claim) -> Result<OpenVolume, Error> {
        let links = spec.members.iter().map(|m| self.link(&m.region)).collect();
        let volume = Volume::start(spec, links, &self.region, claim)
            .map_err(|e| Error::State(format!("start a thread for the volume: {e}")))?;
        let number = self.next_open.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(number, volume.clone());
        // A link that came up between the start of the thread and the line above told nobody.
        for link in self.links.iter().filter(|link| link.store().is_some()) {
            volume.link_up(&link.address.region);
        }
        Ok(OpenVolume {
            node: self.clone(),
            number,
            volume,
            keep: false,
        })
    }

    /// Forgets and stops the thread of a volume that was kept.
    pub(super) fn close(&self, volume: &Volume) {
        self.open
            .lock()
            .retain(|_, v| !Arc::ptr_eq(&v.spec, &volume.spec));
        volume.stop();
    }

    /// The link to a region's store.
    pub fn link(&self, region: &str) -> Option<Arc<Link>> {
        self.links.iter().find(|l| l.address.region == region).cloned()
    }

    /// A store was reached: its volumes go on, and what it missed is made up for.
    pub async fn store_appeared(self: &Arc<Self>, region: &str) {
        let open: Vec<Volume> = self.open.lock().values().cloned().collect();
        for volume in open {
            volume.link_up(region);
        }
        self.report_all.store(true, Ordering::Relaxed);
        self.reconcile().await;
        self.mend().await;
    }

    /// Makes the stores agree about which volumes there are.
    pub async fn reconcile(self: &Arc<Self>) {
        let _one_at_a_time = self.reconciling.lock().await;
        for _ in 0..RECONCILE_ROUNDS {
            let mut gathered = Gathered::ask(&self.links, &Request::List { volume: None }).patiently();
            let mut inventories = Vec::new();
            while let Some((_, response)) = gathered.next().await {
                if let Response::Inventory(inventory) = response {
                    inventories.push(inventory);
                }
            }
            let actions = placement::plan(&inventories);
            let mut replicas = inventories.iter().flat_map(|i| &i.replicas);
            if actions.is_empty() && replicas.any(|r| r.state == "opening") {
                tokio::time::sleep(OPENING_PAUSE).await;
                continue;
            }
            if actions.is_empty() {
                return;
            }
            for (region, request) in actions {
                let Some(link) = self.link(&region) else { continue };
                let answer = tokio::time::timeout(CHANGE_TIMEOUT, link.ask(&request)).await;
                let (what, volume) = placement::describe(&request);
                let done = matches!(answer, Ok(Some(Response::Done)));
                tracing::info!(region, what, volume, done, "making up for what a store missed");
            }
        }
    }

    /// Inventories of the connected stores, of one volume or all. Waits for all of them, but not longer than
    /// [`super::gather::ASK_TIMEOUT`], nor once `enough` says so.
    pub async fn inventories(
        &self,
        volume: Option<&str>,
        enough: impl Fn(&[Inventory]) -> bool,
    ) -> Vec<Inventory> {
        let request = Request::List {
            volume: volume.map(str::to_owned),
        };
        let mut gathered = Gathered::ask(&self.links, &request);
        let mut inventories = Vec::new();
        while let Some((_, response)) = gathered.next().await {
            if let Response::Inventory(inventory) = response {
                inventories.push(inventory);
                if enough(&inventories) {
                    break;
                }
            }
        }
        inventories
    }

    /// All volumes that a majority of the stores which answer can vouch for.
    pub async fn list(&self) -> Result<Vec<VolumeView>, Error> {
        let inventories = self.inventories(None, |_| false).await;
        self.require_majority(inventories.len())?;
        Ok(view::volumes(&inventories))
    }

    /// One volume.
    pub async fn get(&self, volume: &str) -> Result<VolumeView, Error> {
        let inventories = self.inventories(Some(volume), |_| false).await;
        let found = view::volumes(&inventories)
            .into_iter()
            .find(|v| v.spec.volume == volume);
        match found {
            Some(view) => Ok(view),
            None => {
                self.require_majority(inventories.len())?;
                Err(Error::NotFound(volume.to_owned()))
            }
        }
    }

    /// An error with the missing regions unless `answers` stores are a majority.
    pub(super) fn require_majority(&self, answers: usize) -> Result<(), Error> {
        if answers > self.links.len() / 2 {
            return Ok(());
        }
        Err(Error::Unavailable(format!(
            "{answers} of {} stores answer; missing: {}",
            self.links.len(),
            self.missing().join(", ")
        )))
    }

    /// Regions whose stores are not connected, with the reason.
    pub fn missing(&self) -> Vec<String> {
        let down = self.links.iter().filter(|link| link.store().is_none());
        down.map(|link| format!("{} ({})", link.address.region, link.error()))
            .collect()
    }

    /// Tells the stores what this engine knows about the members of its volumes, when it changes.
    pub async fn report(self: Arc<Self>) {
        let mut told: BTreeMap<String, Vec<MemberReport>> = BTreeMap::new();
        let mut tick = tokio::time::interval(REPORT_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.keeper.refresh();
            if self.report_all.swap(false, Ordering::Relaxed) {
                told.clear();
            }
            let mut now = BTreeMap::new();
            for attached in self.all_attached() {
                if let Some(status) = attached.volume.status().await {
                    let spec = &attached.volume.spec;
                    now.insert(spec.volume.clone(), super::describe::reports(spec, &status));
                }
            }
            let changed: BTreeMap<_, _> = now
                .iter()
                .filter(|(volume, members)| told.get(*volume) != Some(members))
                .map(|(volume, members)| (volume.clone(), members.clone()))
                .collect();
            let failed = |members: &Vec<MemberReport>| members.iter().any(|m| m.state == "failed");
            if changed.values().any(failed) {
                let node = self.clone();
                tokio::spawn(async move { node.reconcile().await });
            }
            if !changed.is_empty() {
                let request = Request::Report { volumes: changed };
                let mut gathered = Gathered::ask(&self.links, &request);
                while gathered.next().await.is_some() {}
            }
            told = now;
        }
    }
}
