//! One region's copy of one volume.
//!
//! Files: `state` (promise, history, what is lacking), `journal.N` (the log's newest stretch), `data` and `meta` (the
//! blocks in place). A record travels: received into the page cache of the journal (`recent`), synced; once it is
//! durable here and in a quorum it is `stable` and may be applied in place (R8); a sweep applies all stable pieces in
//! the order of blocks, syncs both files, and only then may the journal's segments be used again (R9). What a snapshot
//! needs of what is overwritten goes to `snap.N.data` and `snap.N.meta` first ([`layers`]).

mod blocks;
mod bounds;
mod index;
mod journal;
mod layers;
mod learn;
mod log;
mod recover;
mod repair;
mod scrub;
mod segment;
mod serve;
mod start;
mod state;

mod sync;
mod writeback;

use super::disk::{Disk, DiskFile};
use super::types::{Epoch, MILLI, Nanos, ReplicaId, Seq, SnapshotInfo, VolumeMeta};
use super::wire::Message;
use blocks::Blocks;
use index::{Held, Index};
use journal::Journal;
pub use scrub::{PassResult, ScrubSettings, ScrubStatus, ScrubTurns};
use state::State;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// How a replica starts its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatAs {
    /// Part of a volume that was never opened: complete and empty. Allowed only when a majority of the members
    /// answers, and each of these is either not formatted or was never opened (promised counter 0).
    Fresh,
    /// The volume may have data elsewhere: neither votes nor counts until it has caught up.
    Learner,
}

/// What the driver must do for a replica.
#[derive(Debug)]
pub enum ReplicaAction {
    /// Send to the engine of that session.
    Send {
        /// Session as given to [`Replica::handle`].
        session: u64,
        /// What.
        message: Message,
    },
    /// Close the session: its engine broke the protocol or must start again.
    Drop {
        /// Session as given to [`Replica::handle`].
        session: u64,
    },
}

/// Settings of the driver.
#[derive(Clone, Debug)]
pub struct ReplicaSettings {
    /// Identity of this boot of the machine: data written but not synced survives until it changes
    /// (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: u128,
    /// Random, fresh at every start (R4); also seeds salts.
    pub incarnation: u128,
    /// When to scrub.
    pub scrub: ScrubSettings,
    /// Rules switched off by the simulator.
    pub mutations: super::mutations::Mutations,
}

/// Why a replica cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The disk said no.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// The error of the system.
        source: io::Error,
    },
    /// Neither copy of the state is readable, or it is not ours.
    #[error("the replica's state cannot be used: {0}")]
    BadState(&'static str),
}

/// State as `hikube status` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// Holds a gap-free log.
    Complete,
    /// Is catching up by extents.
    CatchingUp,
    /// Formatted as a learner and never complete since.
    Learner,
    /// Its disk failed; must be rebuilt.
    Failed,
    /// Its disk is full; opened again when there is space, it goes on.
    Full,
}

/// What a replica knows about itself.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    /// Its identity.
    pub id: ReplicaId,
    /// What it is.
    pub state: ReplicaState,
    /// Highest promise.
    pub promised: Epoch,
    /// Last record received.
    pub received_seq: Seq,
    /// Last record on stable media.
    pub durable_seq: Seq,
    /// Size of the volume now.
    pub size_bytes: u64,
    /// Allocated bytes of data, with what snapshots keep.
    pub used_bytes: u64,
    /// Snapshots, and the bytes that are kept for each alone.
    pub snapshots: Vec<(SnapshotInfo, u64)>,
    /// Session of the engine that was heard last, if it is still connected.
    pub engine_session: Option<u64>,
    /// How far its scrub is.
    pub scrub: ScrubStatus,
}

/// A sync to run on any thread, without the replica.
pub struct SyncJob {
    ticket: u64,
    files: Vec<Arc<dyn DiskFile>>,
}

impl SyncJob {
    /// Number to give back to [`Replica::synced`].
    pub fn ticket(&self) -> u64 {
        self.ticket
    }

    /// Blocks until everything is on stable media.
    pub fn run(&self) -> io::Result<()> {
        for file in &self.files {
            file.sync()?;
        }
        Ok(())
    }
}

/// How long a replica keeps a new engine from completing anything after it last heard the old one: the old one's read
/// lease (500 ms) and a tenth for clocks that drift (R14).
pub const LEASE_GRANT: Nanos = 550 * MILLI;

/// Why a message was not carried out.
#[derive(Debug)]
enum Fault {
    /// The engine broke the protocol, or this session is not the owner.
    Protocol(&'static str),
    /// The journal has no room until more is applied; the engine comes again.
    Full,
    /// The disk.
    Io(&'static str, io::Error),
}

type Outcome = Result<(), Fault>;

/// Marks errors of the disk with what was attempted.
trait During<T> {
    fn during(self, what: &'static str) -> Result<T, Fault>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, what: &'static str) -> Result<T, Fault> {
        self.map_err(|e| Fault::Io(what, e))
    }
}

/// The state machine of one replica. All calls are synchronous; the driver serialises them.
pub struct Replica {
    disk: Box<dyn Disk>,
    settings: ReplicaSettings,
    state: State,
    state_file: Arc<dyn DiskFile>,
    /// Seed of the volume's checksums.
    seed: u64,
    journal: Journal,
    blocks: Blocks,
    layers: layers::Layers,
    /// Records after `stable`, ascending.
    recent: VecDeque<Arc<Held>>,
    recent_index: Index,
    /// Newest pieces of records in (sweep, `stable`].
    stable_index: Index,
    sweep: Option<writeback::Sweep>,
    /// Everything up to here is durable here and in a quorum.
    stable: Seq,
    /// Everything up to here is in place.
    applied: Seq,
    /// Everything up to here is in place and synced.
    applied_synced: Seq,
    /// Somebody needs everything up to here in place.
    want_applied: Seq,
    /// Somebody waits until this is durable.
    sync_to: Seq,
    /// When the oldest record that is not synced was received.
    unsynced_since: Option<Nanos>,
    /// When the oldest stable record came.
    stable_since: Option<Nanos>,
    /// Last append, for the idle header (R10).
    last_append: Nanos,
    /// The durable seq that is written in a header.
    marked: Seq,
    jobs: sync::Jobs,
    /// Session of the engine that has the promise.
    session: Option<u64>,
    /// The present epoch has begun in the log.
    adopted: bool,
    /// A new engine must wait until then (R14).
    lease_until: Nanos,
    lease_instance: u128,
    /// Learner: blocks before it are written; durable up to `state.copy.cursor`.
    cursor: u64,
    /// Learner: bytes written since the cursor was persisted.
    copied: u64,
    scrub: scrub::Scrub,
    failed: Option<String>,
    /// It failed only because its disk is full: nothing is lost, as after a crash.
    full: bool,
}

impl Replica {
    /// What was given at format.
    pub fn meta(&self) -> &VolumeMeta {
        &self.state.meta
    }

    /// One message of an engine. Sessions are numbers that the driver never uses twice; each is an ordered stream.
    pub fn handle(&mut self, now: Nanos, session: u64, message: Message, out: &mut Vec<ReplicaAction>) {
        if let Some(reason) = &self.failed {
            let reason = reason.clone();
            out.push(ReplicaAction::Send {
                session,
                message: Message::Failed { reason },
            });
            return;
        }
        match self.dispatch(now, session, message, out) {
            Ok(()) => {}
            Err(Fault::Protocol(what)) => {
                tracing::debug!(volume = %self.state.meta.volume, session, what, "session dropped");
                out.push(ReplicaAction::Drop { session });
            }
            Err(Fault::Full) => out.push(ReplicaAction::Drop { session }),
            Err(Fault::Io(what, e)) => {
                // A full disk passes; what was written and could not be synced does not.
                if e.kind() != io::ErrorKind::StorageFull {
                    self.record_failure();
                }
                self.fail_io(what, &e, out);
            }
        }
    }

    fn dispatch(&mut self, now: Nanos, session: u64, m: Message, out: &mut Vec<ReplicaAction>) -> Outcome {
        let epoch = match &m {
            Message::Hello => {
                let message = Message::Welcome {
                    id: self.state.meta.id,
                    incarnation: self.settings.incarnation,
                    promised: self.state.promised,
                    begun: self.state.history.last_epoch(),
                    failed: false,
                };
                out.push(ReplicaAction::Send { session, message });
                return Ok(());
            }
            Message::Prepare { epoch } => return self.prepare(now, session, *epoch, out),
            Message::Truncate { epoch, .. }
            | Message::Adopt { epoch, .. }
            | Message::Append { epoch, .. }
            | Message::Read { epoch, .. }
            | Message::FetchLog { epoch, .. }
            | Message::CopyRead { epoch, .. }
            | Message::CopyWrite { epoch, .. }
            | Message::CopyDone { epoch, .. }
            | Message::Digest { epoch, .. }
            | Message::Repair { epoch, .. }
            | Message::Close { epoch } => *epoch,
            _ => return Err(Fault::Protocol("a message that only replicas send")),
        };
        let any = self.settings.mutations.r2_accept_lower_epochs;
        if epoch < self.state.promised && !any {
            out.push(self.refusal(session));
            return Ok(());
        }
        if !any && (epoch != self.state.promised || self.session != Some(session)) {
            return Err(Fault::Protocol("not the session of the promise"));
        }
        self.check_bounds(&m)?;
        if self.adopted {
            self.lease_until = self.lease_until.max(now + LEASE_GRANT);
            self.lease_instance = epoch.instance;
        }
        self.scrub.heard(now, &m);
        match m {
            Message::Append {
                sent_at,
                commit,
                sync_to,
                records,
                ..
            } => self.append(
                now,
                session,
                log::Batch {
                    epoch,
                    sent_at,
                    commit,
                    sync_to,
                    records,
                },
                out,
            ),
            Message::Truncate {
                keep,
                history,
                commit,
                copy_from,
                blocks,
                snapshots,
                ..
            } => {
                let cut = log::Cut {
                    snapshots,
                    keep,
                    history,
                    commit,
                    copy_from,
                    blocks,
                };
                self.truncate(now, session, cut, out)
            }
            Message::Adopt { history, peers, .. } => self.adopt(session, history, peers, out),
            Message::Close { .. } => {
                self.lease_until = 0;
                self.session = None;
                Ok(())
            }
            m @ Message::CopyWrite { .. } => self.copied(now, session, m, out),
            Message::CopyDone { end, .. } => self.copy_done(session, end, out),
            Message::Repair {
                seen,
                good,
                snapshot,
                data,
                ..
            } => self.repair(snapshot, &seen, &good, &data),
            m => self.serve(now, session, m, out),
        }
    }

    fn refusal(&self, session: u64) -> ReplicaAction {
        let message = Message::Refused {
            promised: self.state.promised,
            begun: self.state.history.last_epoch(),
        };
        ReplicaAction::Send { session, message }
    }

    /// A session ended.
    pub fn disconnected(&mut self, session: u64) {
        if self.session == Some(session) {
            self.session = None;
        }
    }

    fn fail_io(&mut self, what: &str, e: &io::Error, out: &mut Vec<ReplicaAction>) {
        self.full = e.kind() == io::ErrorKind::StorageFull;
        self.fail(format!("{what}: {e}"), out);
    }

    /// Its disk is full: it does nothing until it is opened again.
    pub fn is_full(&self) -> bool {
        self.full
    }

    fn fail(&mut self, reason: String, out: &mut Vec<ReplicaAction>) {
        tracing::error!(volume = %self.state.meta.volume, id = %self.state.meta.id, %reason, "replica failed");
        if let Some(session) = self.session.take() {
            let message = Message::Failed {
                reason: reason.clone(),
            };
            out.push(ReplicaAction::Send { session, message });
        }
        self.failed = Some(reason);
        self.scrub_rests();
    }

    fn persist(&mut self) -> Outcome {
        self.state.log_end = self.journal.end.min(self.journal.durable);
        self.state.generation = self.journal.generation;
        self.state.active = self.journal.began;
        self.state.commit = self.journal.commit;
        self.state
            .store(&self.state_file)
            .during("writing the replica's state")
    }

    /// What it was told of another member, durably: the last epoch and the last start with which that took part (R7).
    pub fn remembers(&self, member: ReplicaId) -> Option<(Epoch, u64)> {
        let known = self.state.peers.iter().find(|p| p.id == member)?;
        Some((known.promised, known.starts))
    }

    /// What it knows about itself; reads no disk except for `used_bytes`.
    pub fn status(&self) -> ReplicaStatus {
        let state = match (&self.failed, self.state.blank, &self.state.copy) {
            (Some(_), _, _) if self.full => ReplicaState::Full,
            (Some(_), _, _) => ReplicaState::Failed,
            (None, true, _) => ReplicaState::Learner,
            (None, false, Some(_)) => ReplicaState::CatchingUp,
            (None, false, None) => ReplicaState::Complete,
        };
        let kept = |store: &layers::Store| store.blocks.data.allocated().unwrap_or(0);
        let layers = self.state.layers.iter().zip(&self.layers.stores);
        let live = layers.filter(|(layer, _)| !layer.dropped);
        ReplicaStatus {
            snapshots: live
                .map(|(layer, store)| (layer.info.clone(), kept(store)))
                .collect(),
            id: self.state.meta.id,
            state,
            promised: self.state.promised,
            received_seq: self.journal.end,
            durable_seq: self.journal.durable,
            size_bytes: self.state.blocks * super::types::BLOCK as u64,
            used_bytes: self.blocks.data.allocated().unwrap_or(0)
                + self.layers.stores.iter().map(kept).sum::<u64>(),
            engine_session: self.session,
            scrub: self.scrub_status(),
        }
    }
}
