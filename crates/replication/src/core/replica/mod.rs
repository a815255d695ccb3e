//! One region's copy of one volume.

use super::disk::{Disk, DiskFile};
use super::types::{Epoch, Nanos, ReplicaId, Seq, VolumeMeta};
use super::wire::Message;
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
    /// Allocated bytes of data.
    pub used_bytes: u64,
    /// Session of the engine that was heard last, if it is still connected.
    pub engine_session: Option<u64>,
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

/// The state machine of one replica. All calls are synchronous; the driver serialises them.
pub struct Replica {
    disk: Box<dyn Disk>,
    meta: VolumeMeta,
}

impl Replica {
    /// Makes a replica in an empty directory, durably.
    pub fn format(disk: &dyn Disk, meta: &VolumeMeta, how: FormatAs) -> Result<(), ReplicaError> {
        let _ = (disk, meta, how);
        Ok(())
    }

    /// Opens what [`Replica::format`] made: replays the journal, clears the clean-stop mark.
    pub fn open(disk: Box<dyn Disk>, settings: ReplicaSettings, now: Nanos) -> Result<Replica, ReplicaError> {
        let _ = (disk, settings, now);
        Err(ReplicaError::BadState("not written yet"))
    }

    /// What was given at format.
    pub fn meta(&self) -> &VolumeMeta {
        let _ = &self.disk;
        &self.meta
    }

    /// One message of an engine. Sessions are numbers that the driver never uses twice; each is an ordered stream.
    pub fn handle(&mut self, now: Nanos, session: u64, message: Message, out: &mut Vec<ReplicaAction>) {
        let _ = (now, session, message, out);
    }

    /// A session ended.
    pub fn disconnected(&mut self, session: u64) {
        let _ = session;
    }

    /// A sync that should run now, if there is one. Ask again after each [`Replica::handle`] batch,
    /// [`Replica::synced`] and [`Replica::background`] until it returns none. Up to two jobs (journal and write-back)
    /// are outstanding at a time; they may run in parallel.
    pub fn begin_sync(&mut self, now: Nanos) -> Option<SyncJob> {
        let _ = now;
        None
    }

    /// The result of a job. After an error the replica is failed for good.
    pub fn synced(&mut self, now: Nanos, ticket: u64, result: io::Result<()>, out: &mut Vec<ReplicaAction>) {
        let _ = (now, ticket, result, out);
    }

    /// Does a bounded slice of background work (write-back) and says when to call again; none: only after
    /// something else happened.
    pub fn background(&mut self, now: Nanos) -> Option<Nanos> {
        let _ = now;
        None
    }

    /// What it knows about itself; reads no disk except for `used_bytes`.
    pub fn status(&self) -> ReplicaStatus {
        ReplicaStatus {
            id: self.meta.id,
            state: ReplicaState::Failed,
            promised: Epoch::ZERO,
            received_seq: 0,
            durable_seq: 0,
            size_bytes: 0,
            used_bytes: 0,
            engine_session: None,
        }
    }

    /// Makes everything durable and leaves the clean-stop mark. The replica must not be used after.
    pub fn stop_clean(&mut self) -> Result<(), ReplicaError> {
        Ok(())
    }
}
