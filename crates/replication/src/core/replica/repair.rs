//! Repair of single blocks with another member's good copy (R13): in place, and in what is kept for snapshots.

use super::blocks::Entry;
use super::layers::Kept;
use super::{During, Fault, Outcome, Replica};
use crate::core::checksum;
use crate::core::types::{BLOCK, Seq};
use crate::core::wire::{BlockEntry, BlockKind};
use bytes::Bytes;

impl Replica {
    /// Writes a good copy over one that was reported bad, unless the block has moved on. `snapshot`: it is kept for that
    /// one; 0: of the volume.
    pub(super) fn repair(
        &mut self,
        snapshot: Seq,
        seen: &BlockEntry,
        good: &BlockEntry,
        data: &Bytes,
    ) -> Outcome {
        if self.state.copy.is_some() || !self.adopted || good.kind == BlockKind::Bad {
            return Ok(());
        }
        let wanted = if good.kind == BlockKind::Data { BLOCK } else { 0 };
        if data.len() != wanted || good.block != seen.block {
            return Err(Fault::Protocol("a repair without its data"));
        }
        if wanted > 0 && checksum::block(self.seed, good.block, good.version, data) != good.crc {
            return Err(Fault::Protocol("a repair was damaged on its way"));
        }
        let repaired = if snapshot == 0 {
            self.repair_place(seen, good, data)?
        } else {
            self.repair_kept(snapshot, seen, good, data)?
        };
        if repaired {
            tracing::info!(volume = %self.state.meta.volume, id = %self.state.meta.id, block = good.block, snapshot,
                "repaired");
            self.scrub_repaired(snapshot, good.block);
        }
        Ok(())
    }

    fn repair_place(&mut self, seen: &BlockEntry, good: &BlockEntry, data: &Bytes) -> Result<bool, Fault> {
        let in_journal = |index: &super::Index| !index.lookup(seen.block, seen.block + 1).is_empty();
        let held = in_journal(&self.recent_index)
            || in_journal(&self.stable_index)
            || self.sweep.as_ref().is_some_and(|s| in_journal(&s.index));
        let now = self.blocks.entries(seen.block, 1).during("reading entries")?[0];
        // The good copy is from a member that had applied everything durable when the repair began, so it is not older
        // than what is in place here; its version may be lower than ours where ours is rot.
        let fits = good.version <= self.applied && good.block < self.state.blocks;
        if held || moved(&now, seen) || !fits {
            return Ok(false);
        }
        let entry = match good.kind {
            BlockKind::Data => Entry::data(good.version, good.crc),
            _ if good.version == 0 => Entry::default(),
            _ => Entry::zero(self.seed, good.block, good.version),
        };
        let data: Option<&[&[u8]]> = if data.is_empty() { None } else { Some(&[&data[..]]) };
        self.blocks
            .write(good.block, &[entry], data)
            .during("writing blocks")?;
        Ok(true)
    }

    /// A block of a snapshot: where it was found, or in the snapshot's own layer if it was found nowhere. What an older
    /// snapshot finds there is right for it too: nothing was overwritten between the two, or it would have its own.
    fn repair_kept(
        &mut self,
        snapshot: Seq,
        seen: &BlockEntry,
        good: &BlockEntry,
        data: &Bytes,
    ) -> Result<bool, Fault> {
        let Some(layer) = self.layer_of(snapshot) else {
            return Ok(false);
        };
        if good.block >= self.state.layers[layer].info.blocks || good.version > snapshot {
            return Ok(false);
        }
        let at = match self.kept(layer, good.block, 1)?[0] {
            Kept::Layer(_, entry) if moved(&entry, seen) => return Ok(false),
            Kept::Layer(at, _) => at,
            Kept::Lost(_) => layer,
            // It is the volume's own block, which nothing has overwritten yet.
            Kept::Place(_) => return self.repair_place(seen, good, data),
        };
        let entry = match good.kind {
            BlockKind::Data => Entry::data(good.version, good.crc),
            _ if good.version == 0 => Entry::absent(self.seed, good.block),
            _ => Entry::zero(self.seed, good.block, good.version),
        };
        let data: Option<&[&[u8]]> = if data.is_empty() { None } else { Some(&[&data[..]]) };
        let store = &mut self.layers.stores[at];
        store.dirty = true;
        store
            .blocks
            .write(good.block, &[entry], data)
            .during("writing a layer")?;
        Ok(true)
    }
}

/// The block is no longer what was reported.
fn moved(now: &Entry, seen: &BlockEntry) -> bool {
    now.version != seen.version || now.crc != seen.crc
}
