//! Messages between an engine and one replica of one volume. The transport frames them and keeps their order
//! within a session; [`Message::encode`] and [`Message::decode`] are the contents of one frame.
//!
//! Format history: 1, the first; 2, `Welcome` and `Refused` tell the last epoch that the log has begun; 3, snapshots: two
//! kinds of records, and where reads, copies and digests ask for one; 4, `Damaged`, and repairs of what snapshots keep.
//! The two ends name their version when they connect (`net::version`), and every message carries it.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

use super::types::{Epoch, History, Nanos, ReplicaId, Seq, SnapshotInfo};
use bytes::Bytes;

/// Version of the wire format.
pub const WIRE_VERSION: u8 = 4;
/// Most blocks in one record.
pub const MAX_RECORD_BLOCKS: u32 = 256;
/// Most payload of one message, bytes; a frame is at most this and 1 MiB of headers.
pub const MAX_PAYLOAD: usize = 2 << 20;

/// Why a frame cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Ends too early.
    #[error("the message is cut short")]
    Short,
    /// A version or a kind that this build does not know.
    #[error("unknown message version {0} or kind {1}")]
    Unknown(u8, u8),
    /// A count beyond its bound.
    #[error("a field of the message is out of bounds")]
    Bounds,
}

/// What a record does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Replaces blocks from `block` on. `crcs` has one salted checksum per block.
    Write {
        /// First block.
        block: u64,
        /// Checksums, see [`super::checksum::block`].
        crcs: Vec<u32>,
        /// As many blocks as checksums.
        data: Bytes,
    },
    /// Blocks that read as zeroes from now on.
    Zero {
        /// First block.
        block: u64,
        /// How many.
        count: u64,
        /// Space may be freed.
        discard: bool,
    },
    /// The volume has so many blocks from now on.
    Resize {
        /// Blocks.
        blocks: u64,
    },
    /// The volume as it is here is kept under this name.
    Snapshot {
        /// Name.
        name: String,
    },
    /// A snapshot is not needed any more.
    DropSnapshot {
        /// Seq of its record.
        snapshot: Seq,
    },
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Position.
    pub seq: Seq,
    /// What it does.
    pub body: Body,
}

impl Record {
    /// Bytes of payload.
    pub fn data_len(&self) -> usize {
        match &self.body {
            Body::Write { data, .. } => data.len(),
            _ => 0,
        }
    }
}

/// What a block is in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// Reads as zeroes; carries no payload.
    Zero,
    /// Carries 4 KiB of payload.
    Data,
    /// The copy does not match its checksum or cannot be read; carries no payload. Version and checksum are what
    /// the replica has on disk, as a token for [`Message::Repair`].
    Bad,
}

/// Description of one block in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockEntry {
    /// Which.
    pub block: u64,
    /// Seq of its newest record; 0: never written.
    pub version: Seq,
    /// Salted checksum.
    pub crc: u32,
    /// What it is.
    pub kind: BlockKind,
}

/// What one member knows of another (R7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PeerMemory {
    /// Whom.
    pub id: ReplicaId,
    /// How often it had started.
    pub starts: u64,
    /// Its highest promise.
    pub promised: Epoch,
    /// Its durable seq.
    pub durable: Seq,
}

/// A replica's answer to [`Message::Prepare`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// The epoch promised.
    pub epoch: Epoch,
    /// Who promises.
    pub id: ReplicaId,
    /// Random of this start (R4).
    pub incarnation: u128,
    /// How often it has started (R7).
    pub starts: u64,
    /// Last record that it holds; all of them are durable (R1).
    pub end: Seq,
    /// History of its log.
    pub history: History,
    /// It rebooted without a clean stop since an engine last levelled it (R4).
    pub lossy: bool,
    /// It is catching up by extents (R5).
    pub copying: bool,
    /// Formatted as a learner and never complete since: does not vote (R5, R7).
    pub blank: bool,
    /// First seq that its journal still has.
    pub journal_first: Seq,
    /// Highest durable commit that it knows; what it applied is not beyond.
    pub commit: Seq,
    /// Highest seq known to be durable in a quorum (R6).
    pub flushed: Seq,
    /// The read lease of an earlier engine ends in so many nanoseconds at the latest (R14).
    pub lease: Nanos,
    /// Blocks of the volume as of its commit.
    pub blocks: u64,
    /// What it knows of the others (R7).
    pub peers: Vec<PeerMemory>,
    /// Snapshots as of its end.
    pub snapshots: Vec<SnapshotInfo>,
}

/// A message in either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    // Engine to replica.
    /// Who are you? Answered by `Welcome`.
    Hello,
    /// Asks for a promise (R1, R2). Answered by `Promise` or `Refused`. Binds the session to the epoch.
    Prepare {
        /// Wanted.
        epoch: Epoch,
    },
    /// Cuts the log after `keep` (R3) or, with `copy_from`, makes the replica a learner whose stream begins after
    /// that seq (R15). Answered by `Truncated`.
    Truncate {
        /// Present epoch.
        epoch: Epoch,
        /// Last record to keep.
        keep: Seq,
        /// History of the log that continues, cut at `keep` or at `copy_from`.
        history: History,
        /// What is durable in a quorum, at least `keep` for a learner.
        commit: Seq,
        /// The stream will continue after this seq; blocks are copied.
        copy_from: Option<Seq>,
        /// Blocks of the volume, when copying.
        blocks: u64,
        /// Snapshots of the volume where the stream begins, when copying.
        snapshots: Vec<SnapshotInfo>,
    },
    /// Starts the epoch in the log once everything up to its recovery point is durable. Answered by `Adopted`.
    Adopt {
        /// Present epoch.
        epoch: Epoch,
        /// Ends with the present epoch.
        history: History,
        /// What the engine knows of all members.
        peers: Vec<PeerMemory>,
    },
    /// Records in order, none skipped; also, when empty, a ping. Answered by `Ack` for receipt, later again for
    /// durability.
    Append {
        /// Present epoch.
        epoch: Epoch,
        /// The engine's clock; comes back in the answer and renews the read lease.
        sent_at: Nanos,
        /// Durable in a quorum (R8).
        commit: Seq,
        /// Somebody waits until this is durable.
        sync_to: Seq,
        /// The records.
        records: Vec<Record>,
    },
    /// Asks for blocks. Answered by `ReadReply`.
    Read {
        /// Present epoch.
        epoch: Epoch,
        /// Comes back.
        request: u64,
        /// First block.
        block: u64,
        /// How many, at most [`MAX_RECORD_BLOCKS`].
        count: u32,
        /// The answer must contain everything up to here.
        min_seq: Seq,
        /// From applied state only, for a repair.
        applied_only: bool,
        /// Of the snapshot with that seq; 0: of the volume as it is.
        snapshot: Seq,
    },
    /// Asks for records of the journal. Answered by `LogRecords`.
    FetchLog {
        /// Present epoch.
        epoch: Epoch,
        /// Comes back.
        request: u64,
        /// First seq.
        from: Seq,
        /// Last seq wanted.
        to: Seq,
    },
    /// Asks for blocks that are newer than `have`, from applied state (R15). Answered by `CopyData`.
    CopyRead {
        /// Present epoch.
        epoch: Epoch,
        /// Comes back.
        request: u64,
        /// First block.
        from: u64,
        /// Stop before this block.
        to: u64,
        /// Only newer versions.
        have: Seq,
        /// Everything up to here must be applied first.
        applied: Seq,
        /// What is kept for the snapshot with that seq (all of it); 0: the volume as it is.
        snapshot: Seq,
        /// With all that is kept for newer ones before this, which the learner does not have; 0: for all newer ones.
        until: Seq,
    },
    /// Copied blocks for a learner. Answered by `CopyWritten`.
    CopyWrite {
        /// Present epoch.
        epoch: Epoch,
        /// Comes back.
        request: u64,
        /// All blocks before this one are copied with this message.
        cursor: u64,
        /// They are kept for the snapshot with that seq; 0: of the volume as it is.
        snapshot: Seq,
        /// Ascending.
        blocks: Vec<BlockEntry>,
        /// Payload of the blocks with data.
        data: Bytes,
    },
    /// The learner has everything: sync and be complete (R15). Answered by `CopyCompleted`.
    CopyDone {
        /// Present epoch.
        epoch: Epoch,
        /// It must hold its stream up to here, durably.
        end: Seq,
    },
    /// Asks for content checksums at the present position of the stream. Answered by `DigestReply`.
    Digest {
        /// Present epoch.
        epoch: Epoch,
        /// Comes back.
        request: u64,
        /// First block.
        block: u64,
        /// How many.
        count: u32,
        /// Of the snapshot with that seq; 0: of the volume as it is.
        snapshot: Seq,
    },
    /// A good copy of a block that the replica reported as bad.
    Repair {
        /// Present epoch.
        epoch: Epoch,
        /// As reported by the replica.
        seen: BlockEntry,
        /// What it should be.
        good: BlockEntry,
        /// It is kept for the snapshot with that seq; 0: of the volume as it is.
        snapshot: Seq,
        /// The block, empty for zeroes.
        data: Bytes,
    },
    /// The engine leaves: everything is flushed, the lease is given back.
    Close {
        /// Present epoch.
        epoch: Epoch,
    },

    // Replica to engine.
    /// Answer to `Hello`.
    Welcome {
        /// Who.
        id: ReplicaId,
        /// Random of this start.
        incarnation: u128,
        /// Highest promise so far.
        promised: Epoch,
        /// Last epoch that its log has begun.
        begun: Epoch,
        /// The disk failed.
        failed: bool,
    },
    /// The epoch is below a promise made to another engine.
    Refused {
        /// The promise.
        promised: Epoch,
        /// Last epoch that its log has begun: until it is the promised one, that engine does not count on this member.
        begun: Epoch,
    },
    /// Answer to `Prepare`.
    Promise(Box<Promise>),
    /// Answer to `Truncate`.
    Truncated {
        /// Present epoch.
        epoch: Epoch,
        /// Last record that it holds now.
        end: Seq,
        /// What a learner has already: pieces (end block, have seq) in order; empty when not copying.
        pieces: Vec<(u64, Seq)>,
        /// Blocks before this one are copied.
        cursor: u64,
    },
    /// Answer to `Adopt`.
    Adopted {
        /// Present epoch.
        epoch: Epoch,
        /// Last record that it holds.
        end: Seq,
    },
    /// What the replica holds.
    Ack {
        /// Present epoch.
        epoch: Epoch,
        /// Newest `sent_at` seen; 0 when this does not answer an `Append`.
        echo: Nanos,
        /// Last record received.
        received: Seq,
        /// Last record on stable media.
        durable: Seq,
        /// Answers an `Append` (the others tell of durability).
        answers: bool,
    },
    /// Answer to `Read`.
    ReadReply {
        /// As asked.
        request: u64,
        /// The replica could answer; else it lacks records or applied state.
        ready: bool,
        /// One for each block.
        blocks: Vec<BlockEntry>,
        /// Payload of the blocks with data.
        data: Bytes,
    },
    /// Answer to `FetchLog`.
    LogRecords {
        /// As asked.
        request: u64,
        /// Oldest seq in the journal.
        journal_first: Seq,
        /// From the first asked on; empty when the journal no longer has it.
        records: Vec<Record>,
    },
    /// Answer to `CopyRead`.
    CopyData {
        /// As asked.
        request: u64,
        /// All blocks before this one are answered; equal to `from` when the replica has not applied enough yet.
        next: u64,
        /// Everything up to here was applied.
        applied: Seq,
        /// Ascending.
        blocks: Vec<BlockEntry>,
        /// Payload of the blocks with data.
        data: Bytes,
    },
    /// Answer to `CopyWrite`.
    CopyWritten {
        /// As asked.
        request: u64,
    },
    /// Answer to `CopyDone`.
    CopyCompleted {
        /// Present epoch.
        epoch: Epoch,
        /// Its log end; all durable.
        end: Seq,
    },
    /// Answer to `Digest`.
    DigestReply {
        /// As asked.
        request: u64,
        /// Log end at which it was computed.
        at: Seq,
        /// One checksum of content for each 64 KiB.
        digests: Vec<u64>,
        /// Blocks that do not match their own checksum.
        bad: Vec<BlockEntry>,
    },
    /// A scrub found blocks that do not match their checksums; comes again until they are repaired.
    Damaged {
        /// Present epoch.
        epoch: Epoch,
        /// They are kept for the snapshot with that seq; 0: of the volume as it is.
        snapshot: Seq,
        /// As [`Message::Repair`] must name them.
        blocks: Vec<BlockEntry>,
    },
    /// The replica's disk failed; it takes part in nothing until it is rebuilt.
    Failed {
        /// For the log.
        reason: String,
    },
}
