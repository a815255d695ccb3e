//! The learner's side of catching up by extents (R15), and repair of single blocks.

use super::blocks::Entry;
use super::{During, Fault, Outcome, Replica, ReplicaAction};
use crate::core::checksum;
use crate::core::types::{BLOCK, Nanos, Seq};
use crate::core::wire::{BlockEntry, BlockKind, Message};
use bytes::Bytes;

/// Copied blocks in one such stretch share the reading and writing of their entries: two pages of them.
const SPAN_BLOCKS: u64 = 512;

/// Where copied blocks belong, see [`Message::CopyWrite`].
struct Place {
    cursor: u64,
    snapshot: Seq,
}

impl Replica {
    /// [`Message::CopyWrite`].
    pub(super) fn copied(
        &mut self,
        now: Nanos,
        session: u64,
        message: Message,
        out: &mut Vec<ReplicaAction>,
    ) -> Outcome {
        let Message::CopyWrite {
            request,
            cursor,
            snapshot,
            blocks,
            data,
            ..
        } = message
        else {
            return Err(Fault::Protocol("no copied blocks"));
        };
        self.copy_write(now, &Place { cursor, snapshot }, &blocks, &data)?;
        let message = Message::CopyWritten { request };
        out.push(ReplicaAction::Send { session, message });
        Ok(())
    }

    /// Copied blocks come from applied state of the source, so they never contain what could still be dropped.
    /// Where the stream has brought something newer already, it stays.
    fn copy_write(&mut self, now: Nanos, place: &Place, blocks: &[BlockEntry], data: &Bytes) -> Outcome {
        if self.state.copy.is_none() {
            return Err(Fault::Protocol("a copy for a replica that is no learner"));
        }
        let mut rest = &data[..];
        let mut copied: Vec<(&BlockEntry, &[u8])> = Vec::with_capacity(blocks.len());
        for b in blocks {
            let len = if b.kind == BlockKind::Data { BLOCK } else { 0 };
            let (bytes, after) = rest
                .split_at_checked(len)
                .ok_or(Fault::Protocol("a copy without its data"))?;
            rest = after;
            if b.kind == BlockKind::Data && checksum::block(self.seed, b.block, b.version, bytes) != b.crc {
                return Err(Fault::Protocol("a copied block was damaged on its way"));
            }
            copied.push((b, bytes));
        }
        if !blocks.is_sorted_by(|a, b| a.block < b.block) {
            return Err(Fault::Protocol("copied blocks out of order"));
        }
        if place.snapshot > 0 && self.layer_of(place.snapshot).is_none() {
            // Perhaps its record is not stable here yet.
            self.journal.sync_all().during("syncing the journal")?;
            self.promote(now)?;
        }
        for near in copied.chunk_by(|a, b| a.0.block / SPAN_BLOCKS == b.0.block / SPAN_BLOCKS) {
            match (place.snapshot, self.layer_of(place.snapshot)) {
                (0, _) => self.write_copies(near)?,
                (_, Some(layer)) => self.write_layer(layer, near)?,
                // It was dropped here, which the source does not know yet.
                (dropped, None) => self.write_older(dropped, near)?,
            }
        }
        if place.snapshot == 0 {
            self.cursor = self.cursor.max(place.cursor);
        }
        Ok(())
    }

    /// Writes copied blocks that are near each other: data in as few pieces as there are gaps, entries in one.
    fn write_copies(&mut self, copied: &[(&BlockEntry, &[u8])]) -> Outcome {
        let (Some((first, _)), Some((last, _))) = (copied.first(), copied.last()) else {
            return Ok(());
        };
        let start = first.block;
        let mut entries = self
            .blocks
            .entries(start, last.block + 1 - start)
            .during("reading entries")?;
        let nothing = [0u8; BLOCK];
        let mut run: Vec<&[u8]> = Vec::new();
        let mut run_start = start;
        for (b, bytes) in copied {
            let entry = &mut entries[(b.block - start) as usize];
            // Applied at the source means durable in a quorum.
            self.journal.commit = self.journal.commit.max(b.version);
            if self.newer(entry, b.version) {
                continue;
            }
            self.copied += BLOCK as u64;
            let bytes = match b.kind {
                BlockKind::Data => *bytes,
                BlockKind::Zero => {
                    if entry.is_data() {
                        self.blocks.punch(b.block, 1).during("freeing blocks")?;
                    }
                    *entry = Entry::zero(self.seed, b.block, b.version);
                    continue;
                }
                // No good copy yet: remember what should be here, so that a read finds it bad and looks elsewhere.
                BlockKind::Bad => &nothing[..],
            };
            *entry = Entry::data(b.version, b.crc);
            if run_start + run.len() as u64 != b.block {
                self.blocks.write_data(run_start, &run).during("writing blocks")?;
                run.clear();
                run_start = b.block;
            }
            run.push(bytes);
        }
        self.blocks.write_data(run_start, &run).during("writing blocks")?;
        self.blocks.write(start, &entries, None).during("writing entries")
    }

    /// A record that is nowhere but in the journal cannot be read: the log ends before it, with a hole (R10).
    pub(super) fn damaged(&mut self, session: u64, good: Seq, out: &mut Vec<ReplicaAction>) -> Outcome {
        tracing::error!(volume = %self.state.meta.volume, id = %self.state.meta.id, good,
            "the journal is damaged: the replica will take what it lacks from the others");
        self.drop_after(good);
        self.become_hollow(good);
        self.cut_journal(good, false)?;
        self.persist()?;
        self.session = None;
        out.push(ReplicaAction::Drop { session });
        Ok(())
    }

    /// A learner that does not vote, with what it has up to `good`.
    fn become_hollow(&mut self, good: Seq) {
        self.state.hollow(good);
        self.cursor = 0;
        self.adopted = false;
    }

    pub(super) fn copy_done(&mut self, session: u64, end: Seq, out: &mut Vec<ReplicaAction>) -> Outcome {
        if self.state.copy.is_some() {
            if self.journal.end < end || !self.adopted {
                return Err(Fault::Protocol("the stream is not as far as the copy"));
            }
            if !self.settings.mutations.r15_complete_unsynced {
                self.blocks.sync().during("syncing the blocks")?;
                self.layers.sync().during("syncing the layers")?;
                self.journal.sync_all().during("syncing the journal")?;
            }
            self.state.copy = None;
            self.state.blank = false;
            self.state.lossy = false;
            self.persist()?;
        }
        let message = Message::CopyCompleted {
            epoch: self.state.promised,
            end: self.journal.end,
        };
        out.push(ReplicaAction::Send { session, message });
        Ok(())
    }
}
