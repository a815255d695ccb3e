//! The writing side of one volume.
//!
//! Opening: greet the members, ask all for a promise, choose the longest log among the complete ones (`opening`), bring a
//! majority to it and begin the epoch there (`join`), wait out the read lease of the engine before. Writing: number,
//! keep, stream to every member (`stream`); receipts and durable seqs of complete members decide what is committed.
//! Reading: from the nearest complete member, elsewhere at once when it is lost and soon when it is silent (`reads`).

mod copy;
mod join;
mod opening;
mod peer;
mod raise;
mod reads;
mod requests;
mod snapshots;
mod stream;
#[cfg(test)]
mod tests;
mod verify;

use super::checksum;
use super::mutations::Mutations;
use super::rng::Rng;
use super::types::{BLOCK, Class, Epoch, MILLI, Member, Nanos, Seq, SnapshotInfo};
use super::wire::{Message, PeerMemory};
use bytes::Bytes;
use peer::{Peer, Stage};
use std::collections::{BTreeMap, VecDeque};
pub use verify::VerifyReport;

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
    /// Ask once, for the epoch after this one, and give way to whoever asks too or has asked since: for work on a volume
    /// that nobody had open. With an `instance` below those of ordinary engines they win a tie.
    pub only_after: Option<u64>,
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
    /// Keeps the volume as it is under a name; completes when durable in a quorum. What completed before is in it, what
    /// is submitted after it completed is not. A name that there is already is a no-op.
    Snapshot {
        /// Name.
        name: String,
    },
    /// Forgets a snapshot; completes when durable in a quorum. A name that there is not is a no-op.
    DropSnapshot {
        /// Name.
        name: String,
    },
    /// Reads exactly `len` bytes of a snapshot.
    ReadSnapshot {
        /// Seq of the snapshot, see [`EngineStatus::snapshots`].
        snapshot: Seq,
        /// Where.
        offset: u64,
        /// How much.
        len: u32,
    },
    /// Compares all members at one position of the log, with their snapshots; [`Engine::verify_report`] has the result. Fails with
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
    /// There are [`super::types::MAX_SNAPSHOTS`] already.
    #[error("the volume has too many snapshots")]
    TooManySnapshots,
    /// There is no such snapshot.
    #[error("there is no such snapshot")]
    NoSnapshot,
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
    /// The volume may be exposed now: the epoch is ours. Comes again when the engine, which may go on in between, had
    /// to ask for a higher epoch.
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

/// A member that owes an answer for so long is no longer shown as complete.
const SILENT: Nanos = 2 * super::types::SECOND;

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
    /// Snapshots that are durable in a quorum, oldest first.
    pub snapshots: Vec<SnapshotInfo>,
}

/// What the epoch begins with.
struct Plan {
    /// Recovery point: the last record of the log before this epoch.
    recovery: Seq,
    /// Ends with this epoch.
    history: super::types::History,
    /// The member whose log was chosen.
    source: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Open,
    Deposed,
    Closed,
}

/// The state machine.
pub struct Engine {
    settings: EngineSettings,
    /// Seed of the volume's checksums.
    seed: u64,
    rng: Rng,
    now: Nanos,
    phase: Phase,
    epoch: Epoch,
    /// Highest counter that any member has promised.
    seen: u64,
    /// Opening: next attempt.
    retry_at: Option<Nanos>,
    attempts: u32,
    /// Opening: when a majority had promised.
    majority_since: Option<Nanos>,
    waiting: Option<&'static str>,
    plan: Option<Plan>,
    /// The read leases of earlier engines end (R14).
    open_not_before: Nanos,
    /// The last epoch in which the device was exposed.
    exposed: Option<Epoch>,
    /// What was seen of the members that took part (R7).
    known: Vec<PeerMemory>,
    raise: raise::Raise,
    peers: Vec<Peer>,
    /// Blocks of the volume.
    blocks: u64,
    snapshots: snapshots::Snapshots,
    stream: stream::Stream,
    requests: requests::Requests,
    reads: reads::Reads,
    verify: Option<verify::Verify>,
    report: Option<VerifyReport>,
    next_request: u64,
    out: Vec<EngineAction>,
}

impl Engine {
    /// An engine that opens the volume as soon as a majority of members is connected. `seed` feeds its jitter.
    pub fn new(settings: EngineSettings, now: Nanos, seed: u64) -> Engine {
        Engine {
            seed: checksum::volume_seed(&settings.volume),
            rng: Rng::new(seed),
            now,
            phase: Phase::Opening,
            epoch: Epoch::ZERO,
            seen: 0,
            retry_at: None,
            attempts: 0,
            majority_since: None,
            waiting: Some("fewer than a majority of replicas answer"),
            plan: None,
            open_not_before: 0,
            exposed: None,
            known: Vec::new(),
            raise: raise::Raise::default(),
            peers: settings.members.iter().map(|_| Peer::default()).collect(),
            blocks: settings.size_bytes.div_ceil(BLOCK as u64),
            snapshots: snapshots::Snapshots::default(),
            stream: stream::Stream::default(),
            requests: requests::Requests::default(),
            reads: reads::Reads::default(),
            verify: None,
            report: None,
            next_request: 0,
            out: Vec::new(),
            settings,
        }
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
        self.now = self.now.max(now);
        for event in events {
            match event {
                EngineEvent::Connected { member, session } => self.connected(member, session),
                EngineEvent::Disconnected { member, session } => {
                    if self.peers[member].session == Some(session) {
                        self.lost(member);
                    }
                }
                EngineEvent::Message {
                    member,
                    session,
                    message,
                } => {
                    if self.peers[member].session == Some(session) {
                        self.message(member, message);
                    }
                }
                EngineEvent::Submit { request, op } => self.submit(request, op),
                EngineEvent::Tick => {}
            }
        }
        self.advance();
        out.append(&mut self.out);
    }

    /// Everything that follows from what happened.
    fn advance(&mut self) {
        if matches!(self.phase, Phase::Deposed | Phase::Closed) {
            return;
        }
        self.check_silence();
        self.leave_slow_sources();
        self.advance_raise();
        self.advance_opening();
        self.advance_joins();
        self.advance_commit();
        self.check_open();
        self.admit();
        self.advance_verify();
        self.pump();
        self.advance_reads();
        self.advance_copies();
        self.check_closing();
    }

    fn message(&mut self, member: usize, message: Message) {
        self.peers[member].heard = self.now;
        match message {
            Message::Welcome {
                promised,
                begun,
                failed,
                ..
            } => self.welcome(member, promised, begun, failed),
            Message::Refused { promised, begun } => self.refused(member, promised, begun),
            Message::Promise(promise) => self.promised(member, *promise),
            Message::Truncated {
                epoch,
                end,
                pieces,
                cursor,
            } if epoch == self.epoch => {
                self.truncated(member, end, pieces, cursor);
            }
            Message::Adopted { epoch, end } if epoch == self.epoch => self.adopted(member, end),
            Message::Ack {
                epoch,
                echo,
                received,
                durable,
                answers,
            } if epoch == self.epoch => {
                self.acked(member, echo, received, durable, answers);
            }
            Message::LogRecords { request, records, .. } => self.fetched(member, request, records),
            Message::ReadReply {
                request,
                ready,
                blocks,
                data,
            } => {
                self.read_reply(member, request, ready, blocks, &data);
            }
            Message::CopyData {
                request,
                next,
                applied,
                blocks,
                data,
            } => {
                self.copy_data(member, request, next, applied, blocks, data);
            }
            Message::CopyWritten { request } => self.copy_written(member, request),
            Message::CopyCompleted { epoch, .. } if epoch == self.epoch => self.copy_completed(member),
            Message::DigestReply {
                request,
                at,
                digests,
                bad,
            } => {
                self.digested(member, request, at, digests, &bad);
            }
            Message::Damaged {
                epoch,
                snapshot,
                blocks,
            } if epoch == self.epoch => self.damaged(member, snapshot, &blocks),
            Message::Failed { reason } => {
                tracing::info!(volume = %self.settings.volume, member, %reason, "replica failed");
                self.lost(member);
                self.peers[member].stage = Stage::Failed;
            }
            _ => {}
        }
    }

    fn send(&mut self, member: usize, message: Message) {
        self.peers[member].sent = self.now;
        self.out.push(EngineAction::Send { member, message });
    }

    fn request_id(&mut self) -> u64 {
        self.next_request += 1;
        self.next_request
    }

    /// Members that make a majority.
    fn quorum(&self) -> usize {
        self.peers.len() / 2 + 1
    }

    fn complete_live(&self) -> usize {
        self.peers.iter().filter(|p| p.counts()).count()
    }

    /// Every request fails, nothing is sent any more.
    fn depose(&mut self) {
        if self.phase == Phase::Deposed {
            return;
        }
        self.phase = Phase::Deposed;
        self.fail_all(OpError::Deposed);
        self.out.push(EngineAction::Deposed);
    }

    /// When to send [`EngineEvent::Tick`]; none while nothing is pending.
    pub fn deadline(&self) -> Option<Nanos> {
        if matches!(self.phase, Phase::Deposed | Phase::Closed) {
            return None;
        }
        let mut next: Option<Nanos> = None;
        let mut at = |t: Option<Nanos>| {
            if let Some(t) = t {
                next = Some(next.map_or(t, |n| n.min(t)));
            }
        };
        at(self.retry_at);
        at(self.raise_deadline());
        if self.phase == Phase::Opening {
            at((self.plan.is_none())
                .then_some(())
                .and(self.majority_since)
                .map(|t| t + opening::LOSSY_GRACE));
            at((self.open_not_before > self.now).then_some(self.open_not_before));
        }
        for peer in &self.peers {
            at(peer.silence_deadline());
            at(peer
                .copy
                .as_ref()
                .and_then(|c| c.deadline())
                .filter(|t| *t > self.now));
        }
        at(self.commit_deadline());
        at(self.source_deadline().filter(|t| *t > self.now));
        at(self.reads_deadline());
        next.map(|t| t.max(self.now + MILLI))
    }

    fn member_state(&self, peer: &Peer) -> MemberState {
        match peer.state() {
            // So far behind that memory does not have what it needs next, or silent.
            MemberState::Complete if peer.next < self.stream.base || peer.slow(self.now, SILENT) => {
                MemberState::CatchingUp
            }
            state => state,
        }
    }

    /// What it knows.
    pub fn status(&self) -> EngineStatus {
        let members = self.peers.iter().map(|p| MemberStatus {
            state: self.member_state(p),
            durable_seq: p.durable,
            lag_bytes: self.lag_bytes(p),
        });
        EngineStatus {
            epoch: self.epoch,
            open: self.phase == Phase::Open,
            deposed: self.phase == Phase::Deposed,
            stalled: self.phase != Phase::Open || self.complete_live() < self.quorum(),
            waiting: if self.phase == Phase::Opening {
                self.waiting
            } else {
                None
            },
            size_bytes: self.blocks * BLOCK as u64,
            last_seq: self.stream.last,
            committed_seq: self.stream.committed,
            durable_seq: self.stream.durable,
            members: members.collect(),
            snapshots: self.snapshots.list().to_vec(),
        }
    }

    /// Result of the last [`Op::Verify`].
    pub fn verify_report(&self) -> Option<&VerifyReport> {
        self.report.as_ref()
    }
}
