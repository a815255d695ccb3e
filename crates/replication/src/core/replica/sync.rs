//! Group commit: which syncs to run, and what their results mean.

use super::writeback::Stage;
use super::{Fault, Replica, ReplicaAction, SyncJob};
use crate::core::types::{MILLI, Nanos, Seq};
use crate::core::wire::Message;
use std::io;
use std::sync::Arc;

/// Nobody waits for it: sync anyway after so long, so that the engine may forget its copy.
const SYNC_AGE: Nanos = 100 * MILLI;
/// Nobody waits for it: sync anyway at so many bytes.
const SYNC_BYTES: u64 = 4 << 20;

/// Jobs in flight.
#[derive(Default)]
pub(super) struct Jobs {
    next: u64,
    /// (ticket, log end that it makes durable, generation).
    journal: Option<(u64, Option<(Seq, u64)>)>,
    /// (ticket, what it makes durable).
    blocks: Option<(u64, BlocksJob)>,
}

/// What a sync of the blocks makes durable.
#[derive(Clone, Copy)]
struct BlocksJob {
    applied: Seq,
    cursor: u64,
    generation: u64,
}

impl Jobs {
    /// The journal was cut: a job in flight says nothing about what is there now.
    pub(super) fn forget_journal(&mut self) {
        if let Some((_, meaning)) = &mut self.journal {
            *meaning = None;
        }
    }

    pub(super) fn blocks_busy(&self) -> bool {
        self.blocks.is_some()
    }
}

impl Replica {
    /// A sync that should run now, if there is one. Ask again after each [`Replica::handle`] batch,
    /// [`Replica::synced`] and [`Replica::background`] until it returns none. Up to three jobs (journal, write-back and
    /// layers) are outstanding at a time; they may run in parallel.
    pub fn begin_sync(&mut self, now: Nanos) -> Option<SyncJob> {
        if self.failed.is_some() {
            return None;
        }
        if self.jobs.journal.is_none() && self.journal_due(now) {
            self.jobs.next += 1;
            let meaning = (self.journal.end, self.journal.generation);
            self.jobs.journal = Some((self.jobs.next, Some(meaning)));
            self.unsynced_since = None;
            return Some(SyncJob {
                ticket: self.jobs.next,
                files: self.journal.take_dirty(),
            });
        }
        if self.jobs.blocks.is_none() && self.blocks_due() {
            self.jobs.next += 1;
            let job = BlocksJob {
                applied: self.applied,
                cursor: self.cursor,
                generation: self.journal.generation,
            };
            self.copied = 0;
            self.jobs.blocks = Some((self.jobs.next, job));
            let files = vec![Arc::clone(&self.blocks.data), Arc::clone(&self.blocks.meta)];
            return Some(SyncJob {
                ticket: self.jobs.next,
                files,
            });
        }
        if let Some(sweep) = &mut self.sweep
            && sweep.stage == Stage::Kept
        {
            self.jobs.next += 1;
            sweep.stage = Stage::Syncing(self.jobs.next);
            return Some(SyncJob {
                ticket: self.jobs.next,
                files: self.layers.begin_sync(),
            });
        }
        None
    }

    fn journal_due(&self, now: Nanos) -> bool {
        self.journal.durable < self.journal.end
            && (self.sync_to > self.journal.durable
                || self.journal.unsynced >= SYNC_BYTES
                || self.unsynced_since.is_some_and(|t| t + SYNC_AGE <= now))
    }

    /// When the journal is due by age.
    pub(super) fn sync_deadline(&self) -> Option<Nanos> {
        let pending = self.jobs.journal.is_none() && self.journal.durable < self.journal.end;
        self.unsynced_since.filter(|_| pending).map(|t| t + SYNC_AGE)
    }

    /// The result of a job. After an error the replica is failed for good.
    pub fn synced(&mut self, now: Nanos, ticket: u64, result: io::Result<()>, out: &mut Vec<ReplicaAction>) {
        let journal = self.jobs.journal.take_if(|(t, _)| *t == ticket);
        let blocks = self.jobs.blocks.take_if(|(t, _)| *t == ticket);
        if self.failed.is_some() {
            return;
        }
        if let Err(e) = result {
            // What was written and could not be synced is gone or not, nobody knows. Never again (and never retried
            // into success): the mark outlives this process if the disk takes it at all.
            self.record_failure();
            self.fail(format!("syncing: {e}"), out);
            return;
        }
        if let Some(sweep) = &mut self.sweep
            && sweep.stage == Stage::Syncing(ticket)
        {
            sweep.stage = Stage::Apply;
            sweep.next = now;
            self.layers.synced();
        }
        let outcome = match (journal, blocks) {
            (Some((_, Some((end, generation)))), _) if generation == self.journal.generation => {
                self.journal_synced(now, end, out)
            }
            (_, Some((_, job))) if job.generation == self.journal.generation || self.state.copy.is_none() => {
                self.blocks_synced(job)
            }
            _ => Ok(()),
        };
        if let Err(Fault::Io(what, e)) = outcome {
            self.fail_io(what, &e, out);
        }
    }

    /// Keeps the failure for later starts, if the disk takes it.
    pub(super) fn record_failure(&mut self) {
        self.state.failed = true;
        if self.persist().is_err() {
            tracing::warn!(volume = %self.state.meta.volume, "the failure could not be recorded");
        }
    }

    fn journal_synced(&mut self, now: Nanos, end: Seq, out: &mut Vec<ReplicaAction>) -> Result<(), Fault> {
        if end <= self.journal.durable {
            return Ok(());
        }
        self.journal.durable = end;
        self.promote(now)?;
        if let Some(session) = self.session {
            let message = Message::Ack {
                epoch: self.state.promised,
                echo: 0,
                received: self.journal.end,
                durable: self.journal.durable,
                answers: false,
            };
            out.push(ReplicaAction::Send { session, message });
        }
        Ok(())
    }

    fn blocks_synced(&mut self, job: BlocksJob) -> Result<(), Fault> {
        self.applied_synced = self.applied_synced.max(job.applied);
        if let Some(copy) = &mut self.state.copy
            && job.cursor > copy.cursor
            && job.cursor <= self.cursor
        {
            copy.cursor = job.cursor;
            self.persist()?;
        }
        Ok(())
    }
}
