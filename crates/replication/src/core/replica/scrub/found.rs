//! What a scrub found: told to the engine, again and again until it is good.

use super::super::blocks::Entry;
use super::super::layers::Kept;
use super::super::{Fault, Outcome, Replica, ReplicaAction};
use super::{TELL_AGAIN, TELL_BLOCKS};
use crate::core::types::{Nanos, Seq};
use crate::core::wire::{BlockEntry, BlockKind, Message};

impl Replica {
    /// Somebody is there to be told of what was found.
    pub(super) fn scrub_tells(&self) -> bool {
        !self.scrub.found.is_empty()
            && self.adopted
            && self.session.is_some()
            && !self.settings.mutations.scrub_tells_nobody
    }

    pub(super) fn scrub_found(&mut self, now: Nanos, layer: Seq, bad: &[u64]) {
        tracing::warn!(volume = %self.state.meta.volume, id = %self.state.meta.id, block = bad[0], bad = bad.len(),
            snapshot = layer, "the scrub found blocks that do not match their checksums");
        for block in bad {
            if self.scrub.found.insert((layer, *block)) {
                self.state.scrub.pass.found_blocks += 1;
            }
        }
        if self.scrub.told == 0 {
            self.scrub.tell = now;
        }
    }

    /// The entry of a block that is still bad.
    pub(super) fn scrub_look(&self, layer: Seq, block: u64) -> Result<Option<Entry>, Fault> {
        if block >= self.scrub_end_of(layer) {
            return Ok(None);
        }
        let copies = self.scrub_copies(layer, block, 1)?;
        let mut bad = Vec::new();
        self.scrub_run(block, &copies, &mut bad);
        let entry = match copies[0] {
            Some(Kept::Layer(_, e) | Kept::Place(e) | Kept::Lost(e)) => Some(e),
            None => None,
        };
        Ok(entry.filter(|_| !bad.is_empty()))
    }

    /// Tells the engine of some of what is bad, and of others the next time.
    pub(super) fn scrub_tell(&mut self, now: Nanos, out: &mut Vec<ReplicaAction>) -> Outcome {
        let Some(session) = self.session else {
            return Ok(());
        };
        let last = self.scrub.told_to;
        let after = self.scrub.found.range((last.0, last.1 + 1)..);
        let next: Vec<(Seq, u64)> = after
            .chain(self.scrub.found.range(..=last))
            .take(TELL_BLOCKS)
            .copied()
            .collect();
        let mut still: Vec<(Seq, BlockEntry)> = Vec::new();
        for (layer, block) in next {
            self.scrub.told_to = (layer, block);
            match self.scrub_look(layer, block)? {
                // It was written anew, or its snapshot is gone.
                None => {
                    self.scrub_good(layer, block);
                    self.scrub_not_kept(layer, block)?;
                }
                Some(entry) => still.push((
                    layer,
                    BlockEntry {
                        block,
                        version: entry.version,
                        crc: entry.crc,
                        kind: BlockKind::Bad,
                    },
                )),
            }
        }
        self.scrub.told = still.len();
        self.scrub.tell = now + TELL_AGAIN;
        for group in still.chunk_by(|a, b| a.0 == b.0) {
            let message = Message::Damaged {
                epoch: self.state.promised,
                snapshot: group[0].0,
                blocks: group.iter().map(|(_, b)| *b).collect(),
            };
            out.push(ReplicaAction::Send { session, message });
        }
        Ok(())
    }

    /// A bad block of the volume was written anew before it was repaired: snapshots that needed it have nothing of it.
    pub(super) fn scrub_not_kept(&mut self, layer: Seq, block: u64) -> Outcome {
        if layer > 0 {
            return Ok(());
        }
        for snapshot in self.snapshots() {
            let bad = self.scrub_look(snapshot.seq, block)?.is_some();
            if bad && self.scrub.found.insert((snapshot.seq, block)) {
                let scrub = &mut self.state.scrub;
                let of = if scrub.running {
                    &mut scrub.pass
                } else {
                    &mut scrub.last
                };
                of.found_blocks += 1;
            }
        }
        Ok(())
    }

    pub(super) fn scrub_good(&mut self, layer: Seq, block: u64) {
        if !self.scrub.found.remove(&(layer, block)) {
            return;
        }
        let scrub = &mut self.state.scrub;
        let of = if scrub.running {
            &mut scrub.pass
        } else {
            &mut scrub.last
        };
        of.repaired_blocks += 1;
    }

    /// A block was repaired. With the last that the engine knew of it is told of more at once.
    pub(in super::super) fn scrub_repaired(&mut self, layer: Seq, block: u64) {
        self.scrub_good(layer, block);
        self.scrub.told = self.scrub.told.saturating_sub(1);
        if self.scrub.told == 0 {
            self.scrub.tell = 0;
        }
    }
}
