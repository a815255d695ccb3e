//! Names and numbers of the protocol.

use std::collections::BTreeMap;
use std::fmt;

/// Monotonic time in nanoseconds; its zero is arbitrary and local to a process.
pub type Nanos = u64;
/// Position in a volume's log; the first record is 1.
pub type Seq = u64;

/// Bytes of a block, the unit of versions and checksums.
pub const BLOCK: usize = 4096;
/// One millisecond.
pub const MILLI: Nanos = 1_000_000;
/// One second.
pub const SECOND: Nanos = 1_000_000_000;

/// Random identity of a replica, drawn when it is formatted (R7).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ReplicaId(pub u128);

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The reign of one engine over a volume. Ordered by counter, then by the engine's random instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch {
    /// Strictly increasing; 0 is "never opened".
    pub counter: u64,
    /// Random identity of the engine object that asked for it.
    pub instance: u128,
}

impl Epoch {
    /// Before the first engine.
    pub const ZERO: Epoch = Epoch {
        counter: 0,
        instance: 0,
    };
}

/// Longest name of a snapshot, bytes: a DNS label.
pub const MAX_SNAPSHOT_NAME: usize = 63;
/// Most snapshots of a volume at a time; each makes reads of older ones a little slower.
pub const MAX_SNAPSHOTS: usize = 32;

/// A snapshot: the volume as it was at one place of its log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotInfo {
    /// Name, unique in the volume.
    pub name: String,
    /// Seq of its record; what came before is in it.
    pub seq: Seq,
    /// Blocks of the volume then.
    pub blocks: u64,
}

/// One member of a volume's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its replica.
    pub id: ReplicaId,
    /// The region that hosts it.
    pub region: String,
}

/// How a volume is replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Three members, a write counts at two.
    Replicated,
    /// One member.
    Local,
}

impl Class {
    /// Name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Replicated => "replicated",
            Class::Local => "local",
        }
    }

    /// The class of that name.
    pub fn parse(name: &str) -> Option<Class> {
        match name {
            "replicated" => Some(Class::Replicated),
            "local" => Some(Class::Local),
            _ => None,
        }
    }
}

/// What every replica of a volume knows about the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeMeta {
    /// Name, unique in the cluster.
    pub volume: String,
    /// Size when the replica was formatted; [`crate::core::replica::ReplicaStatus::size_bytes`] is the size now.
    pub size_bytes: u64,
    /// How it is replicated.
    pub class: Class,
    /// The configuration.
    pub members: Vec<Member>,
    /// Which member this replica is.
    pub id: ReplicaId,
    /// Free-form labels of the user ("claim", "namespace").
    pub labels: BTreeMap<String, String>,
}

/// The epochs of a log with their first seqs, ascending in both.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct History {
    /// (epoch, first seq of that epoch).
    pub entries: Vec<(Epoch, Seq)>,
}

/// Longest history kept. Older entries are folded: only a member that missed this many openings needs them, and
/// it then takes the whole volume again.
pub const MAX_HISTORY: usize = 512;

impl History {
    /// The epoch in which `seq` was written.
    pub fn epoch_of(&self, seq: Seq) -> Epoch {
        let at = self.entries.partition_point(|(_, first)| *first <= seq);
        if at == 0 {
            Epoch::ZERO
        } else {
            self.entries[at - 1].0
        }
    }

    /// The newest epoch.
    pub fn last_epoch(&self) -> Epoch {
        self.entries.last().map_or(Epoch::ZERO, |e| e.0)
    }

    /// The last position that a log with history `self` ending at `end` shares with one of history `other` that
    /// ends at `other_end`.
    pub fn common(&self, end: Seq, other: &History, other_end: Seq) -> Seq {
        let mut points: Vec<Seq> = self.entries.iter().chain(&other.entries).map(|e| e.1).collect();
        points.sort_unstable();
        points.dedup();
        let limit = end.min(other_end);
        for first in points {
            if first > limit {
                break;
            }
            if self.epoch_of(first) != other.epoch_of(first) {
                return first - 1;
            }
        }
        limit
    }

    /// The history of a log cut after `end`.
    pub fn cut(&self, end: Seq) -> History {
        History {
            entries: self
                .entries
                .iter()
                .copied()
                .filter(|(_, first)| *first <= end)
                .collect(),
        }
    }

    /// Adds an epoch that begins at `first`.
    pub fn push(&mut self, epoch: Epoch, first: Seq) {
        self.entries.retain(|e| e.1 < first);
        self.entries.push((epoch, first));
        if self.entries.len() > MAX_HISTORY {
            self.entries.remove(0);
        }
    }
}
