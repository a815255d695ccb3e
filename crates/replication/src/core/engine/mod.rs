//! The writing side of one volume.

use super::mutations::Mutations;
use super::types::{Class, Epoch, Member, Nanos, Seq};
use super::wire::Message;
use bytes::Bytes;

/// What an engine is told at its start.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// Name of the volume.
    pub volume: String,
    /// Size as the configuration knows it; the members' word counts.
    pub size_bytes: u64,
    /// How it is replicated.
    pub class: Class,
    /// The configuration, in the same order for the life of the engine.
    pub members: Vec<Member>,
    /// Index of the member in the engine's own region; reads go there first.
    pub home: Option<usize>,
    /// Random, fresh for every engine object.
    pub instance: u128,
    /// Every acknowledgement means stable media in two regions.
    pub write_through: bool,
    /// Rules switched off by the simulator.
    pub mutations: Mutations,
}

/// What happens to an engine.
#[derive(Debug)]
pub enum EngineEvent {
    /// A new session to a member: an ordered stream in both directions. Sessions are never reused.
    Connected {
        /// Index in [`EngineSettings::members`].
        member: usize,
        /// Number of the session, for the engine's filter of late messages.
        session: u64,
    },
    /// That session is gone; what was sent may or may not have arrived.
    Disconnected {
        /// Index in [`EngineSettings::members`].
        member: usize,
        /// Number of the session.
        session: u64,
    },
    /// A message of a member.
    Message {
        /// Index in [`EngineSettings::members`].
        member: usize,
        /// Number of the session.
        session: u64,
        /// What it said.
        message: Message,
    },
    /// A request of the device. Accepted in every phase; completes once the volume is open.
    Submit {
        /// Number that comes back in [`EngineAction::Complete`].
        request: u64,
        /// What to do.
        op: Op,
    },
    /// Nothing but time: [`Engine::deadline`] has passed.
    Tick,
}

/// One request of the device. Bytes, any alignment.
#[derive(Clone, Debug)]
pub enum Op {
    /// Reads exactly `len` bytes.
    Read {
        /// Where.
        offset: u64,
        /// How much.
        len: u32,
    },
    /// Writes `data`.
    Write {
        /// Where.
        offset: u64,
        /// What.
        data: Bytes,
        /// Complete on stable media only.
        fua: bool,
    },
    /// Completes when everything completed before it is on stable media in a quorum.
    Flush,
    /// Makes a range read as zeroes.
    Zero {
        /// Where.
        offset: u64,
        /// How much.
        len: u64,
        /// Space may be freed.
        discard: bool,
    },
    /// Grows the volume to `size_bytes` (rounded up to a block). Completes when durable in a quorum.
    Expand {
        /// New size; not above the present one is a no-op.
        size_bytes: u64,
    },
    /// Compares all members at one position of the log, [`Engine::verify_report`] has the result. Fails with
    /// [`OpError::NotComplete`] when a member is not complete.
    Verify,
    /// Flushes, tells the members that the engine leaves, and completes; the engine takes nothing after it.
    Close,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// Another engine owns the volume now.
    #[error("another engine has taken over the volume")]
    Deposed,
    /// Outside of the device.
    #[error("the range is outside of the volume")]
    OutOfRange,
    /// No member could give a block that matches its checksum.
    #[error("no replica has a good copy of a block")]
    Damaged,
    /// The engine was closed.
    #[error("the engine is closed")]
    Closed,
    /// Verify needs every member complete.
    #[error("not every replica is complete")]
    NotComplete,
}

/// What the driver must do for an engine.
#[derive(Debug)]
pub enum EngineAction {
    /// Send to a member in its present session.
    Send {
        /// Index in [`EngineSettings::members`].
        member: usize,
        /// What.
        message: Message,
    },
    /// Answer a request. Reads carry data, all others are empty.
    Complete {
        /// As submitted.
        request: u64,
        /// What came of it.
        result: Result<Bytes, OpError>,
    },
    /// The volume may be exposed now: the epoch is ours.
    Opened {
        /// The epoch.
        epoch: Epoch,
        /// Size of the volume as its log knows it.
        size_bytes: u64,
    },
    /// Another engine took over; every request was or will be completed with [`OpError::Deposed`].
    Deposed,
    /// The session to that member is of no use any more (protocol error, or silence beyond
    /// [`SILENCE_LIMIT`]): close it and connect again.
    Reconnect {
        /// Index in [`EngineSettings::members`].
        member: usize,
    },
}

/// A member that owes an answer for so long is treated as disconnected, nanoseconds.
pub const SILENCE_LIMIT: Nanos = 5 * super::types::SECOND;

/// What an engine knows about a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// Takes part in the quorum.
    Complete,
    /// Connected, but behind: does not count yet.
    CatchingUp,
    /// No session.
    Absent,
    /// Its disk failed or it refuses this engine.
    Failed,
    /// Connected, formatted as a learner and not yet complete.
    Learner,
}

/// One member in [`EngineStatus`].
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// What it is.
    pub state: MemberState,
    /// Last record known durable there.
    pub durable_seq: Seq,
    /// Bytes written that it does not hold yet (an upper bound while it is absent).
    pub lag_bytes: u64,
}

/// What an engine knows.
#[derive(Clone, Debug)]
pub struct EngineStatus {
    /// Its epoch; counter 0 before the first attempt.
    pub epoch: Epoch,
    /// The device may be used.
    pub open: bool,
    /// Another engine took over.
    pub deposed: bool,
    /// Fewer than a quorum of complete members are connected: I/O waits.
    pub stalled: bool,
    /// Why opening waits, if it does.
    pub waiting: Option<&'static str>,
    /// Size of the volume.
    pub size_bytes: u64,
    /// Last record assigned.
    pub last_seq: Seq,
    /// Last record received by a quorum.
    pub committed_seq: Seq,
    /// Last record durable in a quorum.
    pub durable_seq: Seq,
    /// As [`EngineSettings::members`].
    pub members: Vec<MemberStatus>,
}

/// Result of [`Op::Verify`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// All members hold the same bytes.
    pub equal: bool,
    /// Bytes compared, in each member.
    pub compared_bytes: u64,
    /// (member, offset, what): at most 100.
    pub differences: Vec<(usize, u64, String)>,
    /// Checksum of the whole volume, per member.
    pub checksums: Vec<u64>,
}

/// The state machine.
pub struct Engine {
    settings: EngineSettings,
}

impl Engine {
    /// An engine that opens the volume as soon as a majority of members is connected. `seed` feeds its jitter.
    pub fn new(settings: EngineSettings, now: Nanos, seed: u64) -> Engine {
        let _ = (now, seed);
        Engine { settings }
    }

    /// One event.
    pub fn handle(&mut self, now: Nanos, event: EngineEvent, out: &mut Vec<EngineAction>) {
        self.handle_batch(now, std::iter::once(event), out);
    }

    /// Many events at once: what they submit leaves in as few messages as possible.
    pub fn handle_batch(
        &mut self,
        now: Nanos,
        events: impl IntoIterator<Item = EngineEvent>,
        out: &mut Vec<EngineAction>,
    ) {
        let _ = (now, events.into_iter().count(), out, &self.settings);
    }

    /// When to send [`EngineEvent::Tick`]; none while nothing is pending.
    pub fn deadline(&self) -> Option<Nanos> {
        None
    }

    /// What it knows.
    pub fn status(&self) -> EngineStatus {
        EngineStatus {
            epoch: Epoch::ZERO,
            open: false,
            deposed: false,
            stalled: true,
            waiting: None,
            size_bytes: self.settings.size_bytes,
            last_seq: 0,
            committed_seq: 0,
            durable_seq: 0,
            members: Vec::new(),
        }
    }

    /// Result of the last [`Op::Verify`].
    pub fn verify_report(&self) -> Option<&VerifyReport> {
        None
    }
}
