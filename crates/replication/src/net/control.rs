//! What is said on a connection outside of volume sessions: JSON, so that fields can be added.

use crate::core::types::{Class, Member, ReplicaId, VolumeMeta};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

/// First frame in each direction.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// [`super::frame::PROTOCOL`].
    pub protocol: u32,
    /// [`crate::core::wire::WIRE_VERSION`].
    #[serde(default = "super::version::first_messages")]
    pub messages: u32,
    /// Name of the cluster.
    pub cluster: String,
    /// The store's identity; absent from clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<Uuid>,
}

/// Opens a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Open {
    /// Name of the volume.
    pub volume: String,
    /// Replica that the engine expects there.
    pub replica: Uuid,
    /// The volume is not attached by it.
    #[serde(default)]
    pub brief: bool,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberSpec {
    /// Its replica.
    pub id: Uuid,
    /// Its region.
    pub region: String,
}

/// A volume's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// Name.
    pub volume: String,
    /// Size at creation, bytes.
    pub size_bytes: u64,
    /// `replicated` or `local`.
    pub class: String,
    /// The members.
    pub members: Vec<MemberSpec>,
    /// Labels of the user.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl VolumeSpec {
    /// The member in `region`.
    pub fn member_in(&self, region: &str) -> Option<&MemberSpec> {
        self.members.iter().find(|m| m.region == region)
    }

    /// Members that make a majority.
    pub fn majority(&self) -> usize {
        self.members.len() / 2 + 1
    }

    /// For the core; `None` when the class is unknown.
    pub fn meta(&self, id: Uuid) -> Option<VolumeMeta> {
        Some(VolumeMeta {
            volume: self.volume.clone(),
            size_bytes: self.size_bytes,
            class: Class::parse(&self.class)?,
            members: self.core_members(),
            id: ReplicaId(id.as_u128()),
            labels: self.labels.clone(),
        })
    }

    /// Members for the core.
    pub fn core_members(&self) -> Vec<Member> {
        self.members
            .iter()
            .map(|m| Member {
                id: ReplicaId(m.id.as_u128()),
                region: m.region.clone(),
            })
            .collect()
    }
}

/// A replica as its store sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaInfo {
    /// The volume's configuration, as this replica has it.
    pub spec: VolumeSpec,
    /// Which member it is.
    pub id: Uuid,
    /// `complete`, `catching-up`, `learner`, `failed`, `full` or `opening`.
    pub state: String,
    /// Why it is failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Highest epoch promised.
    pub epoch: u64,
    /// Node of the engine that got that promise; empty when it has closed the volume.
    pub node: String,
    /// That engine has a session now.
    pub engine_connected: bool,
    /// Last record received.
    pub received_seq: u64,
    /// Last record on stable media.
    pub durable_seq: u64,
    /// Size of the volume, bytes.
    pub size_bytes: u64,
    /// Allocated bytes.
    pub used_bytes: u64,
    /// Snapshots, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<SnapshotReport>,
    /// Newest word of the engine about all members, when there is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<MemberReport>,
    /// How far its scrub is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrub: Option<ScrubReport>,
}

/// The scrub of a replica: of the pass that runs, or else of the last one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubReport {
    /// A pass is under way.
    pub running: bool,
    /// How far it is, bytes of volume and snapshots.
    pub position_bytes: u64,
    /// Of so many.
    pub total_bytes: u64,
    /// Blocks with data read.
    pub checked_blocks: u64,
    /// Blocks that did not match their checksum.
    pub found_blocks: u64,
    /// Of these, good again.
    pub repaired_blocks: u64,
    /// Blocks that are known to be bad now.
    pub damaged_blocks: u64,
    /// Passes that ended.
    pub passes: u64,
    /// End of the last one, seconds since 1970; 0: there was none.
    pub ended_unix_s: u64,
    /// Begin of the next one, seconds since 1970; 0: only when told to.
    pub due_unix_s: u64,
}

/// A snapshot as a replica has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotReport {
    /// Name.
    pub name: String,
    /// Position in the log.
    pub seq: u64,
    /// Size of the volume then, bytes.
    pub size_bytes: u64,
    /// Kept for it beyond the volume, bytes.
    pub used_bytes: u64,
}

/// What an engine knows about a member of a volume that it has open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReport {
    /// Region of the member.
    pub region: String,
    /// `complete`, `catching-up`, `absent`, `failed` or `learner`.
    pub state: String,
    /// Bytes that it does not hold yet.
    pub lag_bytes: u64,
    /// Epoch of the engine that says so. What it says is not heard once a later one has spoken.
    #[serde(default)]
    pub epoch: u64,
}

/// A deleted replica set. It stays, so that a member that was away learns that it is to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Name of the volume, which may be in use again.
    pub volume: String,
    /// Its replicas.
    pub members: Vec<MemberSpec>,
}

/// A store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreInfo {
    /// Its random identity.
    pub store: Uuid,
    /// Region.
    pub region: String,
    /// Size of its file system, bytes.
    pub capacity_bytes: u64,
    /// Free there, bytes.
    pub free_bytes: u64,
    /// Allocated by replicas, bytes.
    pub used_bytes: u64,
}

/// Everything in a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// The store.
    pub info: StoreInfo,
    /// Its replicas, by name of volume.
    pub replicas: Vec<ReplicaInfo>,
    /// What was deleted.
    pub tombstones: Vec<Tombstone>,
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request")]
pub enum Request {
    /// When was a node's engine heard?
    Contact {
        /// Name of the node.
        node: String,
    },
    /// Everything in the store, or one volume of it.
    List {
        /// Only this volume.
        #[serde(default)]
        volume: Option<String>,
    },
    /// Makes a replica. Idempotent.
    Create {
        /// Store for which this was decided: a directory that was replaced since refuses.
        store: Uuid,
        /// The configuration.
        spec: VolumeSpec,
        /// Which member.
        id: Uuid,
        /// The volume may have data elsewhere.
        learner: bool,
    },
    /// Deletes the replica, if it is there, and remembers it. Idempotent.
    Delete {
        /// What is deleted.
        tombstone: Tombstone,
    },
    /// Scrubs the replica of a volume now. Answered by `Done`.
    Scrub {
        /// Name of the volume.
        volume: String,
    },
    /// What an engine knows about the volumes that it has open. Answered by `Done`.
    Report {
        /// By name of volume.
        volumes: BTreeMap<String, Vec<MemberReport>>,
    },
}

/// What a store answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "response")]
pub enum Response {
    /// Answer to `Contact`.
    Contact {
        /// Milliseconds since the node's engine was heard; absent when never since the store watches.
        heard_ms: Option<u64>,
        /// Milliseconds for which the store has been watching without a break.
        watching_ms: u64,
    },
    /// Answer to `List`.
    Inventory(Inventory),
    /// It is done.
    Done,
    /// Another configuration of that volume is there.
    Conflict {
        /// That one.
        existing: VolumeSpec,
    },
    /// The volume was deleted.
    Deleted,
    /// Not done.
    Refused {
        /// Why.
        reason: String,
    },
}

/// JSON of a value of this module.
pub fn to_json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value)
        .expect("these types have string keys and no failing serializers")
        .into()
}

/// A value of this module from JSON.
pub fn from_json<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T, super::Error> {
    serde_json::from_slice(bytes).map_err(|e| super::Error::Protocol(e.to_string()))
}
