//! The replicas of a store and what was deleted.
//!
//! ```text
//! <data_dir>/hikube-store.json          superblock
//!            tombstones/<volume>.<id>   what was deleted, by name and first replica
//!            volumes/<volume>/volume.json, owner.json, replica/...
//!            volumes/<volume>.new       being made; removed at start
//!            volumes/<volume>.gone      being removed; removed at start
//! ```

use super::host::Host;
use super::superblock::{self, sync_dir};
use crate::clock;
use crate::core::mutations::Mutations;
use crate::core::replica::{
    FormatAs, Replica, ReplicaSettings, ReplicaState, ReplicaStatus, ScrubSettings, ScrubStatus, ScrubTurns,
};
use crate::core::types::{BLOCK, SECOND, SnapshotInfo};
use crate::net::control::{
    Inventory, MemberReport, ReplicaInfo, Response, ScrubReport, SnapshotReport, StoreInfo, Tombstone,
    VolumeSpec,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// How long an inventory waits for one replica's word; a replica whose disk hangs is shown as failed.
const STATUS_TIMEOUT: Duration = Duration::from_millis(1000);
/// Longest time between scrubs, ten years: what is longer means never.
const MAX_SCRUB_PERIOD: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Label of a volume with its own time between scrubs, in hours; 0: only when told to.
pub const SCRUB_LABEL: &str = "scrub-hours";

/// `volume.json`: what the replica was formatted with.
#[derive(Clone, Serialize, Deserialize)]
struct VolumeFile {
    spec: VolumeSpec,
    id: Uuid,
}

struct Entry {
    file: VolumeFile,
    host: Arc<Host>,
    reported: Mutex<Vec<MemberReport>>,
}

/// The catalog.
pub struct Catalog {
    dir: PathBuf,
    region: String,
    store: Uuid,
    boot_id: u128,
    /// From one scrub of a replica to the next; zero: only when told to.
    scrub_period: Duration,
    scrub_turns: ScrubTurns,
    volumes: Mutex<BTreeMap<String, Arc<Entry>>>,
    tombstones: Mutex<Vec<Tombstone>>,
    /// Serialises what changes directories.
    changing: tokio::sync::Mutex<()>,
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> superblock::Error {
    let path = path.to_owned();
    move |source| superblock::Error::Io { action, path, source }
}

/// Whether a volume's name can be a directory: a DNS label of up to 63 characters.
pub fn valid_name(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn boot_id() -> u128 {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .ok()
        .and_then(|text| text.trim().parse::<Uuid>().ok())
        // Without one, each start counts as a reboot, which is always safe.
        .unwrap_or_else(Uuid::new_v4)
        .as_u128()
}

impl Catalog {
    /// Finishes what a crash interrupted and starts every replica.
    pub fn open(
        dir: &Path,
        region: &str,
        store: Uuid,
        scrub_period: Duration,
    ) -> Result<Self, superblock::Error> {
        let (volumes, stones) = (dir.join("volumes"), dir.join("tombstones"));
        for path in [&volumes, &stones] {
            std::fs::create_dir_all(path).map_err(io("create", path))?;
        }
        sync_dir(dir)?;
        let catalog = Self {
            dir: dir.into(),
            region: region.into(),
            store,
            boot_id: boot_id(),
            scrub_period,
            scrub_turns: ScrubTurns::default(),
            volumes: Mutex::default(),
            tombstones: Mutex::new(read_tombstones(&stones)?),
            changing: tokio::sync::Mutex::new(()),
        };
        for entry in std::fs::read_dir(&volumes).map_err(io("list", &volumes))? {
            let path = entry.map_err(io("list", &volumes))?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if valid_name(name) {
                catalog.start(&path)?;
            } else {
                std::fs::remove_dir_all(&path).map_err(io("remove", &path))?;
            }
        }
        Ok(catalog)
    }

    fn start(&self, dir: &Path) -> Result<(), superblock::Error> {
        let path = dir.join("volume.json");
        let text = std::fs::read(&path).map_err(io("read", &path))?;
        let file: VolumeFile = serde_json::from_slice(&text).map_err(|e| superblock::Error::Damaged {
            path: path.clone(),
            reason: e.to_string(),
        })?;
        let settings = ReplicaSettings {
            boot_id: self.boot_id,
            incarnation: Uuid::new_v4().as_u128(),
            scrub: self.scrub_of(&file.spec),
            mutations: Mutations::default(),
        };
        let host = Host::start(dir, settings).map_err(io("start a thread for", dir))?;
        let entry = Entry {
            host: Arc::new(host),
            reported: Mutex::default(),
            file,
        };
        self.volumes
            .lock()
            .insert(entry.file.spec.volume.clone(), Arc::new(entry));
        Ok(())
    }

    /// Scrubs a replica now, if it is here; whether it is.
    pub fn scrub(&self, volume: &str) -> bool {
        let host = self.volumes.lock().get(volume).map(|entry| entry.host.clone());
        host.inspect(|host| host.scrub()).is_some()
    }

    fn scrub_of(&self, spec: &VolumeSpec) -> ScrubSettings {
        let own = spec.labels.get(SCRUB_LABEL).and_then(|text| text.parse().ok());
        let period = own.map_or(self.scrub_period, |hours: u64| {
            Duration::from_secs(hours.saturating_mul(3600))
        });
        let period_s = period.min(MAX_SCRUB_PERIOD).as_secs();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        ScrubSettings {
            period_s,
            unix_at_zero_s: unix.as_secs().saturating_sub(clock::now() / SECOND),
            turns: self.scrub_turns.clone(),
        }
    }

    /// The store's identity.
    pub fn store(&self) -> Uuid {
        self.store
    }

    /// The running replica `id` of `volume`, or why there is none.
    pub fn host(&self, volume: &str, id: Uuid) -> Result<Arc<Host>, String> {
        match self.volumes.lock().get(volume) {
            Some(entry) if entry.file.id == id => Ok(entry.host.clone()),
            Some(_) => Err("this store has another replica of that volume".into()),
            None => Err("this store has no replica of that volume".into()),
        }
    }

    /// Stops every replica with its clean-stop mark.
    pub async fn stop(&self) {
        let entries: Vec<_> = self.volumes.lock().values().cloned().collect();
        futures::future::join_all(entries.iter().map(|entry| entry.host.stop())).await;
    }

    /// What engines report about all members of their volumes.
    pub fn report(&self, volumes: BTreeMap<String, Vec<MemberReport>>) {
        for (volume, members) in volumes {
            let entry = self.volumes.lock().get(&volume).cloned();
            if let Some(entry) = entry {
                let mut known = entry.reported.lock();
                if !is_older(&members, &known) {
                    *known = members;
                }
            }
        }
    }

    /// Everything, or one volume.
    pub async fn inventory(&self, only: Option<&str>) -> Inventory {
        let entries: Vec<Arc<Entry>> = self
            .volumes
            .lock()
            .iter()
            .filter(|(name, _)| only.is_none_or(|only| only == *name))
            .map(|(_, entry)| entry.clone())
            .collect();
        let replicas = futures::future::join_all(entries.iter().map(|entry| describe(entry))).await;
        let tombstones = self.tombstones.lock();
        let tombstones = tombstones
            .iter()
            .filter(|stone| only.is_none_or(|only| only == stone.volume));
        Inventory {
            info: self.info(replicas.iter().map(|r| r.used_bytes).sum()),
            tombstones: tombstones.cloned().collect(),
            replicas,
        }
    }

    fn info(&self, used_bytes: u64) -> StoreInfo {
        let space = rustix::fs::statvfs(&self.dir);
        let bytes = |blocks: fn(&rustix::fs::StatVfs) -> u64| {
            space.as_ref().map_or(0, |s| blocks(s).saturating_mul(s.f_frsize))
        };
        StoreInfo {
            store: self.store,
            region: self.region.clone(),
            capacity_bytes: bytes(|s| s.f_blocks),
            free_bytes: bytes(|s| s.f_bavail),
            used_bytes,
        }
    }

    /// Makes a replica, durably. Idempotent.
    pub async fn create(
        self: &Arc<Self>,
        store: Uuid,
        spec: VolumeSpec,
        id: Uuid,
        learner: bool,
    ) -> Response {
        if store != self.store {
            return refused("this is another store than the one for which that was decided");
        }
        if !valid_name(&spec.volume) || spec.member_in(&self.region).map(|m| m.id) != Some(id) {
            return refused("the configuration does not fit this store");
        }
        let _one_at_a_time = self.changing.lock().await;
        if self
            .tombstones
            .lock()
            .iter()
            .any(|t| t.members.iter().any(|m| m.id == id))
        {
            return Response::Deleted;
        }
        let existing = self.volumes.lock().get(&spec.volume).cloned();
        if let Some(existing) = existing {
            let rebuild = existing.file.id == id && learner && is_failed(&existing).await;
            if existing.file.id == id && !rebuild {
                return Response::Done;
            }
            if rebuild {
                tracing::info!(
                    volume = spec.volume,
                    "the failed replica is made anew and filled from the others"
                );
            } else if !supersedes(&spec, &existing).await {
                return Response::Conflict {
                    existing: existing.file.spec.clone(),
                };
            }
            if let Err(error) = self.remove(&existing).await {
                return failed(&error);
            }
        }
        let catalog = self.clone();
        let how = if learner {
            FormatAs::Learner
        } else {
            FormatAs::Fresh
        };
        let made = tokio::task::spawn_blocking(move || catalog.format(&VolumeFile { spec, id }, how)).await;
        let made = made.unwrap_or_else(|e| Err(e.to_string())).and_then(|dir| {
            // The thread that formats is not in the runtime's context, which the host needs.
            self.start(&dir).map_err(|e| e.to_string())
        });
        match made {
            Ok(()) => Response::Done,
            Err(reason) => Response::Refused { reason },
        }
    }

    fn format(&self, file: &VolumeFile, how: FormatAs) -> Result<PathBuf, String> {
        let volumes = self.dir.join("volumes");
        let (path, temporary) = (
            volumes.join(&file.spec.volume),
            volumes.join(format!("{}.new", file.spec.volume)),
        );
        let meta = file
            .spec
            .meta(file.id)
            .ok_or_else(|| format!("unknown class {:?}", file.spec.class))?;
        let prepare = || -> io::Result<()> {
            if temporary.exists() {
                std::fs::remove_dir_all(&temporary)?;
            }
            std::fs::create_dir_all(temporary.join("replica"))?;
            let json = serde_json::to_vec_pretty(file)?;
            std::fs::write(temporary.join("volume.json"), json)?;
            std::fs::File::open(temporary.join("volume.json"))?.sync_all()
        };
        prepare().map_err(|e| format!("make {}: {e}", temporary.display()))?;
        Replica::format(&super::files::Directory(temporary.join("replica")), &meta, how)
            .map_err(|e| e.to_string())?;
        sync_dir(&temporary).map_err(|e| e.to_string())?;
        std::fs::rename(&temporary, &path).map_err(|e| format!("make {}: {e}", path.display()))?;
        sync_dir(&volumes).map_err(|e| e.to_string())?;
        Ok(path)
    }

    /// Remembers the deletion durably, then removes the replica. Idempotent.
    pub async fn delete(self: &Arc<Self>, tombstone: Tombstone) -> Response {
        let Some(first) = tombstone.members.first() else {
            return refused("a tombstone without members");
        };
        if !valid_name(&tombstone.volume) {
            return refused("that is no name of a volume");
        }
        let _one_at_a_time = self.changing.lock().await;
        if !self.tombstones.lock().contains(&tombstone) {
            let path = self
                .dir
                .join("tombstones")
                .join(format!("{}.{}", tombstone.volume, first.id));
            if let Err(error) = write_tombstone(&path, &tombstone) {
                return failed(&error);
            }
            self.tombstones.lock().push(tombstone.clone());
        }
        let existing = self.volumes.lock().get(&tombstone.volume).cloned();
        if let Some(existing) = existing
            && tombstone.members.iter().any(|m| m.id == existing.file.id)
            && let Err(error) = self.remove(&existing).await
        {
            return failed(&error);
        }
        Response::Done
    }

    async fn remove(&self, entry: &Entry) -> Result<(), superblock::Error> {
        let name = &entry.file.spec.volume;
        self.volumes.lock().remove(name);
        entry.host.stop().await;
        let volumes = self.dir.join("volumes");
        let (path, gone) = (volumes.join(name), volumes.join(format!("{name}.gone")));
        let removing = volumes.clone();
        let work = move || -> Result<(), superblock::Error> {
            if gone.exists() {
                std::fs::remove_dir_all(&gone).map_err(io("remove", &gone))?;
            }
            std::fs::rename(&path, &gone).map_err(io("rename", &path))?;
            sync_dir(&removing)?;
            std::fs::remove_dir_all(&gone).map_err(io("remove", &gone))
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(e) => Err(io("remove", &volumes)(io::Error::other(e))),
        }
    }
}

fn refused(reason: &str) -> Response {
    Response::Refused {
        reason: reason.into(),
    }
}

fn failed(error: &superblock::Error) -> Response {
    tracing::error!(%error, "a change of the store failed");
    Response::Refused {
        reason: error.to_string(),
    }
}

/// Two engines may create the same volume at once, each with its own replicas. As long as a volume was never
/// opened, the configuration with the lower first id replaces the other everywhere, so they agree in the end.
async fn supersedes(spec: &VolumeSpec, existing: &Entry) -> bool {
    let status = tokio::time::timeout(STATUS_TIMEOUT, existing.host.status()).await;
    let never_opened = matches!(status, Ok(Ok(status)) if status.promised.counter == 0);
    let first = |spec: &VolumeSpec| spec.members.iter().map(|m| m.id).min();
    never_opened && first(spec) < first(&existing.file.spec)
}

/// Whether a replica is surely of no use: it says so itself. One that does not answer may only be slow.
async fn is_failed(existing: &Entry) -> bool {
    match tokio::time::timeout(STATUS_TIMEOUT, existing.host.status()).await {
        Ok(Ok(status)) => status.state == ReplicaState::Failed,
        Ok(Err(_)) => true,
        Err(_) => false,
    }
}

/// Whether a report is of an engine before the one that is known: one that was cut off, for example, and tells of its
/// members once more before it notices that it was deposed.
fn is_older(report: &[MemberReport], known: &[MemberReport]) -> bool {
    let epoch = |members: &[MemberReport]| members.iter().map(|m| m.epoch).max();
    epoch(report) < epoch(known)
}

async fn describe(entry: &Entry) -> ReplicaInfo {
    let status = tokio::time::timeout(STATUS_TIMEOUT, entry.host.status()).await;
    let owner = entry.host.owner();
    let spec = entry.file.spec.clone();
    let mut info = ReplicaInfo {
        id: entry.file.id,
        state: "failed".into(),
        error: None,
        epoch: owner.epoch,
        node: owner.node,
        engine_connected: false,
        received_seq: 0,
        durable_seq: 0,
        size_bytes: spec.size_bytes,
        used_bytes: 0,
        snapshots: Vec::new(),
        members: Vec::new(),
        scrub: None,
        spec,
    };
    match status {
        Err(_) => {
            info.state = "opening".into();
            info.error = Some("does not answer: it is starting, or its disk hangs".into());
        }
        Ok(Err(reason)) => info.error = Some(reason),
        Ok(Ok(status)) => fill(&mut info, &status),
    }
    if info.engine_connected {
        info.members = entry.reported.lock().clone();
    }
    info
}

fn fill(info: &mut ReplicaInfo, status: &ReplicaStatus) {
    info.state = match status.state {
        ReplicaState::Complete => "complete",
        ReplicaState::CatchingUp => "catching-up",
        ReplicaState::Learner => "learner",
        ReplicaState::Failed => "failed",
        ReplicaState::Full => "full",
    }
    .into();
    info.epoch = status.promised.counter;
    info.engine_connected = status.engine_session.is_some();
    info.received_seq = status.received_seq;
    info.durable_seq = status.durable_seq;
    info.size_bytes = status.size_bytes;
    info.used_bytes = status.used_bytes;
    let report = |(snapshot, used_bytes): &(SnapshotInfo, u64)| SnapshotReport {
        name: snapshot.name.clone(),
        seq: snapshot.seq,
        size_bytes: snapshot.blocks * BLOCK as u64,
        used_bytes: *used_bytes,
    };
    info.snapshots = status.snapshots.iter().map(report).collect();
    info.scrub = Some(scrub_report(&status.scrub));
}

fn scrub_report(scrub: &ScrubStatus) -> ScrubReport {
    let result = if scrub.running { scrub.pass } else { scrub.last };
    ScrubReport {
        running: scrub.running,
        position_bytes: scrub.position_blocks * BLOCK as u64,
        total_bytes: scrub.total_blocks * BLOCK as u64,
        checked_blocks: result.checked_blocks,
        found_blocks: result.found_blocks,
        repaired_blocks: result.repaired_blocks,
        damaged_blocks: scrub.damaged_blocks,
        passes: scrub.passes,
        ended_unix_s: scrub.last.ended_unix_s,
        due_unix_s: scrub.due_unix_s,
    }
}

fn read_tombstones(dir: &Path) -> Result<Vec<Tombstone>, superblock::Error> {
    let mut stones = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io("list", dir))? {
        let path = entry.map_err(io("list", dir))?.path();
        if path.extension().is_some_and(|e| e == "tmp") {
            continue;
        }
        let text = std::fs::read(&path).map_err(io("read", &path))?;
        stones.push(
            serde_json::from_slice(&text).map_err(|e| superblock::Error::Damaged {
                path: path.clone(),
                reason: e.to_string(),
            })?,
        );
    }
    Ok(stones)
}

fn write_tombstone(path: &Path, tombstone: &Tombstone) -> Result<(), superblock::Error> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let temporary = dir.join("new.tmp");
    let text = serde_json::to_vec(tombstone).expect("strings and ids only");
    std::fs::write(&temporary, text).map_err(io("write", &temporary))?;
    std::fs::File::open(&temporary)
        .and_then(|f| f.sync_all())
        .map_err(io("sync", &temporary))?;
    std::fs::rename(&temporary, path).map_err(io("rename", &temporary))?;
    sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deposed_engine_is_not_heard_any_more() {
        let of = |epoch| {
            vec![MemberReport {
                region: "geneva".into(),
                state: "absent".into(),
                lag_bytes: 0,
                epoch,
            }]
        };
        assert!(is_older(&of(4), &of(5)));
        assert!(!is_older(&of(5), &of(5)) && !is_older(&of(6), &of(5)));
        assert!(!is_older(&of(1), &[]), "the first report");
    }
}
