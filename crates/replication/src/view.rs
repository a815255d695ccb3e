//! Volumes as they look from the inventories of several stores: what `hikube volume list` and `hikube status` show.

use crate::net::control::{Inventory, ReplicaInfo, ScrubReport, SnapshotReport, Tombstone, VolumeSpec};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Bytes of a record that is missing, for an estimate of the lag of a replica without an engine's word.
const RECORD_BYTES: u64 = 4096;

/// A replica of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaView {
    /// Region.
    pub region: String,
    /// Random identity.
    pub id: Uuid,
    /// `complete`, `catching-up`, `absent`, `failed` or `learner`.
    pub state: String,
    /// Last record on stable media; 0 when unknown.
    pub durable_seq: u64,
    /// Bytes written that it does not hold yet: exact from the engine, an estimate without one.
    pub lag_bytes: u64,
    /// How far its scrub is.
    pub scrub: Option<ScrubReport>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeView {
    /// Its configuration.
    pub spec: VolumeSpec,
    /// Size now, bytes.
    pub size_bytes: u64,
    /// Highest epoch seen; 0: never opened.
    pub epoch: u64,
    /// Node whose engine holds that epoch; empty: none, it was closed.
    pub node: String,
    /// That engine is connected to a store.
    pub engine_connected: bool,
    /// Allocated in the largest replica, bytes.
    pub used_bytes: u64,
    /// In the order of the configuration.
    pub replicas: Vec<ReplicaView>,
    /// Snapshots as the complete replica with the longest log has them, oldest first.
    pub snapshots: Vec<SnapshotReport>,
    /// Replicas that were seen.
    pub seen: usize,
}

/// A volume's configuration and its replicas by region.
pub type Configuration = (VolumeSpec, BTreeMap<String, ReplicaInfo>);

/// Ids of all replicas that were deleted.
pub fn deleted_ids<'a>(inventories: impl IntoIterator<Item = &'a Inventory>) -> BTreeSet<Uuid> {
    let stones = inventories.into_iter().flat_map(|i| &i.tombstones);
    stones
        .flat_map(|t: &Tombstone| t.members.iter().map(|m| m.id))
        .collect()
}

/// For each volume the configuration that counts, with its replicas by region: what most members have; in a tie,
/// which only volumes that were never opened can have, the one that replaces the others.
pub fn configurations(inventories: &[Inventory]) -> BTreeMap<String, Configuration> {
    let deleted = deleted_ids(inventories);
    let mut found: BTreeMap<String, Vec<Configuration>> = BTreeMap::new();
    for inventory in inventories {
        for replica in &inventory.replicas {
            if deleted.contains(&replica.id) {
                continue;
            }
            let candidates = found.entry(replica.spec.volume.clone()).or_default();
            let region = inventory.info.region.clone();
            match candidates
                .iter_mut()
                .find(|(spec, _)| spec.members == replica.spec.members)
            {
                Some((_, replicas)) => {
                    replicas.insert(region, replica.clone());
                }
                None => {
                    candidates.push((replica.spec.clone(), BTreeMap::from([(region, replica.clone())])));
                }
            }
        }
    }
    let first = |spec: &VolumeSpec| spec.members.iter().map(|m| m.id).min();
    found
        .into_iter()
        .filter_map(|(volume, candidates)| {
            let best = candidates.into_iter().min_by(|a, b| {
                let opened = |c: &BTreeMap<String, ReplicaInfo>| c.values().any(|r| r.epoch > 0);
                (opened(&b.1), b.1.len())
                    .cmp(&(opened(&a.1), a.1.len()))
                    .then_with(|| first(&a.0).cmp(&first(&b.0)))
            });
            best.map(|best| (volume, best))
        })
        .collect()
}

/// All volumes that the inventories tell of.
pub fn volumes(inventories: &[Inventory]) -> Vec<VolumeView> {
    configurations(inventories)
        .into_values()
        .map(|(spec, replicas)| view(spec, &replicas))
        .collect()
}

fn view(spec: VolumeSpec, replicas: &BTreeMap<String, ReplicaInfo>) -> VolumeView {
    let newest = replicas
        .values()
        .max_by_key(|r| (r.epoch, r.engine_connected, !r.node.is_empty()));
    let end = replicas.values().map(|r| r.received_seq).max().unwrap_or(0);
    let reported = replicas
        .values()
        .filter(|r| newest.is_some_and(|n| n.epoch == r.epoch) && r.engine_connected)
        .find(|r| !r.members.is_empty())
        .map(|r| r.members.as_slice())
        .unwrap_or_default();
    let members = spec.members.iter().map(|member| {
        let replica = replicas.get(&member.region);
        let report = reported.iter().find(|m| m.region == member.region);
        ReplicaView {
            region: member.region.clone(),
            id: member.id,
            state: match (report, replica) {
                // The engine may not have noticed yet that a store is gone, and the other way round.
                (Some(report), _) => report.state.clone(),
                (None, Some(replica)) if replica.state == "opening" => "absent".into(),
                (None, Some(replica)) => replica.state.clone(),
                (None, None) => "absent".into(),
            },
            durable_seq: replica.map_or(0, |r| r.durable_seq),
            lag_bytes: match (report, replica) {
                (Some(report), _) => report.lag_bytes,
                (None, Some(replica)) => end.saturating_sub(replica.received_seq) * RECORD_BYTES,
                (None, None) => 0,
            },
            scrub: replica.and_then(|r| r.scrub.clone()),
        }
    });
    let members = members.collect();
    VolumeView {
        size_bytes: replicas
            .values()
            .map(|r| r.size_bytes)
            .max()
            .unwrap_or(spec.size_bytes),
        epoch: newest.map_or(0, |r| r.epoch),
        node: newest.map_or_else(String::new, |r| r.node.clone()),
        engine_connected: newest.is_some_and(|r| r.engine_connected),
        used_bytes: replicas.values().map(|r| r.used_bytes).max().unwrap_or(0),
        replicas: members,
        snapshots: replicas
            .values()
            .filter(|r| r.state == "complete")
            .max_by_key(|r| r.durable_seq)
            .map_or_else(Vec::new, |r| r.snapshots.clone()),
        seen: replicas.len(),
        spec,
    }
}
