//! Promises, cuts, adoption and the stream of records.

use super::blocks::Blocks;
use super::index::{Held, HeldKind, Index};
use super::state::CopyState;
use super::{During, Fault, Outcome, Replica, ReplicaAction};
use crate::core::checksum;
use crate::core::types::{BLOCK, Epoch, History, Nanos, Seq, SnapshotInfo};
use crate::core::wire::{Body, Message, PeerMemory, Promise, Record};
use std::sync::Arc;

/// [`Message::Append`].
pub(super) struct Batch {
    pub epoch: Epoch,
    pub sent_at: Nanos,
    pub commit: Seq,
    pub sync_to: Seq,
    pub records: Vec<Record>,
}

/// [`Message::Truncate`].
pub(super) struct Cut {
    pub keep: Seq,
    pub history: History,
    pub commit: Seq,
    pub copy_from: Option<Seq>,
    pub blocks: u64,
    pub snapshots: Vec<SnapshotInfo>,
}

impl Replica {
    pub(super) fn prepare(
        &mut self,
        now: Nanos,
        session: u64,
        epoch: Epoch,
        out: &mut Vec<ReplicaAction>,
    ) -> Outcome {
        if epoch < self.state.promised {
            out.push(self.refusal(session));
            return Ok(());
        }
        // R1: from here on nothing lower is accepted; then the log, then the promise, then the answer.
        let raised = epoch > self.state.promised;
        self.state.promised = epoch;
        if let Some(old) = self.session.replace(session)
            && old != session
            && !self.settings.mutations.r2_accept_lower_epochs
        {
            if raised {
                out.push(self.refusal(old));
            }
            out.push(ReplicaAction::Drop { session: old });
        }
        if !self.settings.mutations.r1_promise_without_sync {
            self.journal.sync_all().during("syncing the journal")?;
            self.promote(now)?;
        }
        if raised {
            self.persist()?;
        }
        self.adopted = self.state.history.last_epoch() == epoch;
        let lease = if self.lease_instance == epoch.instance {
            0
        } else {
            self.lease_until
        };
        let resize = self.recent.iter().rev().find_map(|h| match h.kind {
            HeldKind::Resize { blocks } => Some(blocks),
            _ => None,
        });
        let promise = Promise {
            epoch,
            id: self.state.meta.id,
            incarnation: self.settings.incarnation,
            starts: self.state.starts,
            end: self.journal.end,
            history: self.state.history.clone(),
            lossy: self.state.lossy,
            copying: self.state.copy.is_some(),
            blank: self.state.blank,
            journal_first: self.journal.first(),
            commit: self.journal.commit,
            flushed: self.journal.commit,
            lease: lease.saturating_sub(now),
            blocks: resize.unwrap_or(self.state.blocks),
            peers: self.state.peers.clone(),
            snapshots: self.snapshots_at_end(),
        };
        out.push(ReplicaAction::Send {
            session,
            message: Message::Promise(Box::new(promise)),
        });
        Ok(())
    }

    pub(super) fn truncate(
        &mut self,
        now: Nanos,
        session: u64,
        cut: Cut,
        out: &mut Vec<ReplicaAction>,
    ) -> Outcome {
        if cut.keep > self.journal.end {
            return Err(Fault::Protocol("cannot keep what is not there"));
        }
        if let Some(from) = cut.copy_from {
            self.begin_copy(now, &cut, from)?;
        } else if cut.keep < self.journal.end {
            if cut.keep < self.stable {
                return Err(Fault::Protocol("cannot cut what is applied"));
            }
            self.drop_after(cut.keep);
            self.cut_journal(cut.keep, false)?;
            self.state.history = cut.history;
            self.persist()?;
        } else if self.state.history != cut.history && !self.adopted {
            self.state.history = cut.history;
            self.persist()?;
        }
        let copy = self.state.copy.as_ref();
        let message = Message::Truncated {
            epoch: self.state.promised,
            end: self.journal.end,
            pieces: copy.map_or_else(Vec::new, |c| c.pieces.clone()),
            cursor: self.cursor,
        };
        out.push(ReplicaAction::Send { session, message });
        Ok(())
    }

    /// Becomes a learner whose stream begins after `from` (R15): what it has up to `keep` goes in place, the journal
    /// begins anew.
    fn begin_copy(&mut self, now: Nanos, cut: &Cut, from: Seq) -> Outcome {
        let wipe = cut.keep < self.stable;
        let old = self.state.copy.clone().unwrap_or_else(|| CopyState {
            pieces: vec![(self.state.blocks, cut.keep)],
            cursor: 0,
            from: 0,
        });
        let resumed = CopyState {
            cursor: self.cursor.min(old.cursor),
            ..old
        };
        let pieces = if wipe {
            // What is in place belongs to a log that did not continue. Only after a loss beyond the guarantees.
            tracing::error!(volume = %self.state.meta.volume, "blocks beyond the common log: all are copied again");
            vec![(cut.blocks, 0)]
        } else {
            self.drop_after(cut.keep);
            self.journal.sync_all().during("syncing the journal")?;
            self.journal.commit = self.journal.commit.max(cut.commit);
            self.promote(now)?;
            self.apply_all()?;
            self.blocks.sync().during("syncing the blocks")?;
            // What is kept but not known to be durable in a quorum is not in place (R8), and goes with the journal.
            resumed.resume(cut.keep.min(self.applied), cut.blocks)
        };
        // Perhaps an earlier copy of everything was interrupted: what layers have may be of another log.
        let anew = pieces.iter().any(|(_, have)| *have == 0);
        // A crash from here on finds a learner that has at least these pieces.
        self.state.copy = Some(CopyState {
            pieces,
            cursor: 0,
            from,
        });
        if wipe {
            self.state.blank = true;
            self.persist()?;
            self.blocks = Blocks::create(&*self.disk, cut.blocks).during("making the blocks anew")?;
            self.disk.sync_dir().during("syncing the directory")?;
        }
        if self.state.blocks != cut.blocks {
            self.state.blocks = cut.blocks;
            self.blocks.resize(cut.blocks).during("growing the blocks")?;
        }
        self.cursor = 0;
        self.copied = 0;
        self.recent.clear();
        self.recent_index = Index::default();
        self.stable_index = Index::default();
        self.sweep = None;
        self.stable = from;
        self.applied = from;
        self.applied_synced = from;
        self.state.history = cut.history.clone();
        self.adopted = self.state.history.last_epoch() == self.state.promised;
        let gone = self.replace_layers(&cut.snapshots, anew)?;
        self.cut_journal(from, true)?;
        self.persist()?;
        for name in gone {
            self.disk.remove(&name).during("removing a layer")?;
        }
        Ok(())
    }

    pub(super) fn cut_journal(&mut self, keep: Seq, jump: bool) -> Outcome {
        self.jobs.forget_journal();
        self.unsynced_since = None;
        let cut = self.journal.cut(&*self.disk, keep, jump, self.applied_synced);
        let mut done = cut.during("cutting the journal")?;
        if !done {
            // No segment is free: make room at the cost of this call.
            self.apply_all()?;
            self.blocks.sync().during("syncing the blocks")?;
            self.applied_synced = self.applied;
            let cut = self.journal.cut(&*self.disk, keep, jump, self.applied_synced);
            done = cut.during("cutting the journal")?;
        }
        if !done {
            return Err(Fault::Full);
        }
        self.marked = self.journal.durable;
        Ok(())
    }

    /// Forgets the records after `keep`, which are not stable.
    pub(super) fn drop_after(&mut self, keep: Seq) {
        while self.recent.back().is_some_and(|h| h.seq > keep) {
            self.recent.pop_back();
        }
        self.recent_index = Index::default();
        for held in &self.recent {
            self.recent_index.insert(held);
        }
    }

    pub(super) fn adopt(
        &mut self,
        session: u64,
        history: History,
        peers: Vec<PeerMemory>,
        out: &mut Vec<ReplicaAction>,
    ) -> Outcome {
        if !self.adopted {
            let Some((epoch, first)) = history.entries.last().copied() else {
                return Err(Fault::Protocol("adoption without a history"));
            };
            let behind = self.journal.end + 1 < first;
            let ahead = self.journal.end >= first && self.state.copy.is_none();
            if epoch != self.state.promised || behind || ahead {
                return Err(Fault::Protocol("adoption away from the recovery point"));
            }
            self.journal.sync_all().during("syncing the journal")?;
            self.cut_journal(self.journal.end, false)?;
            self.state.history = history;
            self.state.lossy = false;
            self.state.remember(peers);
            self.persist()?;
            self.adopted = true;
        } else if self.state.remember(peers) {
            self.persist()?;
        }
        let message = Message::Adopted {
            epoch: self.state.promised,
            end: self.journal.end,
        };
        out.push(ReplicaAction::Send { session, message });
        Ok(())
    }

    pub(super) fn append(
        &mut self,
        now: Nanos,
        session: u64,
        batch: Batch,
        out: &mut Vec<ReplicaAction>,
    ) -> Outcome {
        let mut records = batch.records;
        let old = records.iter().take_while(|r| r.seq <= self.journal.end).count();
        records.drain(..old);
        if records.first().is_some_and(|r| r.seq != self.journal.end + 1) {
            return Err(Fault::Protocol("a gap in the stream"));
        }
        self.verify(&records)?;
        self.journal.commit = self.journal.commit.max(batch.commit);
        // A batch in the journal is at most half of a segment.
        let limit = (self.state.segment / 2) as usize;
        let mut rest = &records[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|r| {
                bytes += r.data_len() + 1024;
                bytes <= limit
            });
            let (now_part, later) = rest.split_at(fits.count().max(1));
            self.write_batch(now_part)?;
            rest = later;
        }
        if !records.is_empty() {
            self.last_append = now;
            self.unsynced_since.get_or_insert(now);
        }
        self.sync_to = self.sync_to.max(batch.sync_to.min(self.journal.end));
        self.promote(now)?;
        let message = Message::Ack {
            epoch: batch.epoch,
            echo: batch.sent_at,
            received: self.journal.end,
            durable: self.journal.durable,
            answers: true,
        };
        out.push(ReplicaAction::Send { session, message });
        Ok(())
    }

    fn verify(&self, records: &[Record]) -> Outcome {
        for record in records {
            let Body::Write { block, crcs, data } = &record.body else {
                continue;
            };
            for (i, (crc, bytes)) in crcs.iter().zip(data.chunks_exact(BLOCK)).enumerate() {
                if checksum::block(self.seed, block + i as u64, record.seq, bytes) != *crc {
                    return Err(Fault::Protocol("a record was damaged on its way"));
                }
            }
        }
        Ok(())
    }

    fn write_batch(&mut self, records: &[Record]) -> Outcome {
        for attempt in 0..2 {
            let synced = self.applied_synced;
            let written = self
                .journal
                .append(&*self.disk, records, synced)
                .during("appending to the journal")?;
            if let Some(held) = written {
                for h in held {
                    self.recent_index.insert(&h);
                    self.recent.push_back(h);
                }
                return Ok(());
            }
            if attempt == 0 {
                // Full: apply what may be applied now, at the cost of this stream.
                self.apply_all()?;
                self.blocks.sync().during("syncing the blocks")?;
                self.applied_synced = self.applied;
            }
        }
        Err(Fault::Full)
    }

    /// Moves records that became durable here and in a quorum from `recent` to `stable` (R8).
    pub(super) fn promote(&mut self, now: Nanos) -> Outcome {
        let mut target = self.journal.commit.min(self.journal.durable);
        if self.settings.mutations.r8_apply_uncommitted {
            target = self.journal.end;
        }
        while self.recent.front().is_some_and(|h| h.seq <= target) {
            let held: Arc<Held> = self.recent.pop_front().expect("the front was just seen");
            self.recent_index.remove(&held);
            // A restart comes past growth that was applied long ago, and perhaps not past what followed.
            if let HeldKind::Resize { blocks } = held.kind
                && blocks > self.state.blocks
            {
                self.blocks.resize(blocks).during("growing the blocks")?;
                self.state.blocks = blocks;
                self.persist()?;
            }
            match &held.kind {
                HeldKind::Snapshot { name } => self.take_snapshot(name, held.seq)?,
                HeldKind::DropSnapshot { snapshot } => self.drop_snapshot(*snapshot)?,
                _ => {}
            }
            self.stable = held.seq;
            self.stable_index.insert(&held);
            self.stable_since.get_or_insert(now);
        }
        Ok(())
    }
}
