//! Snapshots. A snapshot costs nothing when it is taken: from then on, before a block is overwritten for the first time,
//! what it was goes into the *layer* of the newest snapshot, a pair of sparse files as the volume's own (`snap.<seq>.data`
//! and `.meta`). So space is shared, on any file system.
//!
//! - A snapshot is a record of the log. When it becomes stable, everything before it is applied in place first, so one
//!   sweep never has records from both sides of it. Hence the rule that finds a snapshot's block: in its own layer, else
//!   in the next newer one, and so on, else in place; the first that is found has a version not above the snapshot's.
//! - Before a sweep overwrites anything, all that must be kept is in the layer and synced. After a crash the records are
//!   applied again; what the layer has already is replaced only by a copy that matches its checksum.
//! - A block that was never written is kept as a mark, so that a lost layer does not read as zeroes.
//! - A dropped snapshot's layer is merged into the next older one, in the background, and removed.
//! - A learner gets its layers whole from a complete member after the volume itself; the higher version wins, because
//!   what a learner kept itself may be older than what it should have had.

use super::blocks::{Blocks, Entry};
use super::index::HeldKind;
use super::state::{LayerState, State};
use super::writeback::{SLICE_BLOCKS, SLICE_PAUSE, SLICE_ZEROES};
use super::{During, Outcome, Replica};
use crate::core::checksum;
use crate::core::disk::{Disk, DiskFile};
use crate::core::types::{BLOCK, Nanos, Seq, SnapshotInfo};
use crate::core::wire::{BlockEntry, BlockKind};
use std::io;
use std::sync::Arc;

/// Beginning of the names of all files of layers.
const PREFIX: &str = "snap.";
/// Blocks looked at in one piece of keeping: a page of entries.
const SPAN: u64 = 256;

/// Name of one of a layer's files.
fn file_name(seq: Seq, what: &str) -> String {
    format!("{PREFIX}{seq}.{what}")
}

/// The files of one layer.
pub(super) struct Store {
    pub blocks: Blocks,
    /// Written since the last sync began.
    pub dirty: bool,
    /// A sync has begun and has not been seen to end.
    pub syncing: bool,
}

impl Store {
    fn create(disk: &dyn Disk, info: &SnapshotInfo) -> io::Result<Store> {
        let names = [file_name(info.seq, "data"), file_name(info.seq, "meta")];
        let blocks = Blocks::create_as(disk, &names[0], &names[1], info.blocks)?;
        Ok(Store {
            blocks,
            dirty: false,
            syncing: false,
        })
    }

    fn open(disk: &dyn Disk, seq: Seq) -> io::Result<Store> {
        let blocks = Blocks::open_as(disk, &file_name(seq, "data"), &file_name(seq, "meta"))?;
        // What the last life of this process wrote may not be synced.
        Ok(Store {
            blocks,
            dirty: true,
            syncing: false,
        })
    }
}

/// Moving a dropped layer into the next older one.
struct Merge {
    /// The layer that goes.
    seq: Seq,
    next_block: u64,
    next: Nanos,
}

/// The layers' files, in the order of [`State::layers`].
#[derive(Default)]
pub(super) struct Layers {
    pub stores: Vec<Store>,
    merge: Option<Merge>,
}

impl Layers {
    /// Opens what the state lists and removes what it does not.
    pub fn open(disk: &dyn Disk, state: &State) -> io::Result<Layers> {
        let known: Vec<String> = state
            .layers
            .iter()
            .flat_map(|l| [file_name(l.info.seq, "data"), file_name(l.info.seq, "meta")])
            .collect();
        for name in disk.list()? {
            if name.starts_with(PREFIX) && !known.contains(&name) {
                disk.remove(&name)?;
            }
        }
        let stores = state.layers.iter().map(|l| Store::open(disk, l.info.seq));
        Ok(Layers {
            stores: stores.collect::<io::Result<_>>()?,
            merge: None,
        })
    }

    /// Makes durable what was written.
    pub fn sync(&mut self) -> io::Result<()> {
        for store in self.stores.iter_mut().filter(|s| s.dirty || s.syncing) {
            store.blocks.sync()?;
            (store.dirty, store.syncing) = (false, false);
        }
        Ok(())
    }

    /// Something is perhaps not durable.
    pub fn unsynced(&self) -> bool {
        self.stores.iter().any(|s| s.dirty || s.syncing)
    }

    /// The files to sync for everything written so far to be durable; [`Layers::synced`] follows.
    pub fn begin_sync(&mut self) -> Vec<Arc<dyn DiskFile>> {
        let mut files = Vec::new();
        for store in self.stores.iter_mut().filter(|s| s.dirty || s.syncing) {
            (store.dirty, store.syncing) = (false, true);
            files.extend([store.blocks.data.clone(), store.blocks.meta.clone()]);
        }
        files
    }

    /// That sync is done.
    pub fn synced(&mut self) {
        self.stores.iter_mut().for_each(|s| s.syncing = false);
    }
}

/// Where a snapshot's block is.
#[derive(Clone, Copy)]
pub(super) enum Kept {
    /// In the layer with that index.
    Layer(usize, Entry),
    /// In place.
    Place(Entry),
    /// Nowhere: what is in place is newer. Damage.
    Lost(Entry),
}

impl Replica {
    /// Snapshots as of the end of the log here.
    pub(super) fn snapshots_at_end(&self) -> Vec<SnapshotInfo> {
        let mut list = self.snapshots();
        let mut blocks = self.state.blocks;
        for held in &self.recent {
            match &held.kind {
                HeldKind::Resize { blocks: grown } => blocks = blocks.max(*grown),
                HeldKind::Snapshot { name } => list.push(SnapshotInfo {
                    name: name.clone(),
                    seq: held.seq,
                    blocks,
                }),
                HeldKind::DropSnapshot { snapshot } => list.retain(|s| s.seq != *snapshot),
                _ => {}
            }
        }
        list
    }

    /// Snapshots that were taken and not dropped.
    pub(super) fn snapshots(&self) -> Vec<SnapshotInfo> {
        let live = self.state.layers.iter().filter(|l| !l.dropped);
        live.map(|l| l.info.clone()).collect()
    }

    /// Index of a snapshot's layer.
    pub(super) fn layer_of(&self, snapshot: Seq) -> Option<usize> {
        let found = |l: &LayerState| l.info.seq == snapshot && !l.dropped;
        self.state.layers.iter().position(found)
    }

    /// A snapshot's record became stable; `self.stable` is just before it.
    pub(super) fn take_snapshot(&mut self, name: &str, seq: Seq) -> Outcome {
        self.apply_all()?;
        let at = self.state.layers.partition_point(|l| l.info.seq < seq);
        if self.state.layers.get(at).is_some_and(|l| l.info.seq == seq) {
            return Ok(());
        }
        let info = SnapshotInfo {
            name: name.to_owned(),
            seq,
            blocks: self.state.blocks,
        };
        let store = Store::create(&*self.disk, &info).during("making a layer")?;
        self.disk.sync_dir().during("syncing the directory")?;
        self.layers.stores.insert(at, store);
        let layer = LayerState { info, dropped: false };
        self.state.layers.insert(at, layer);
        self.persist()
    }

    /// The record that drops a snapshot became stable.
    pub(super) fn drop_snapshot(&mut self, snapshot: Seq) -> Outcome {
        let Some(at) = self.layer_of(snapshot) else {
            return Ok(());
        };
        self.state.layers[at].dropped = true;
        // Nobody needs what the oldest ones keep.
        let gone = self.state.layers.iter().take_while(|l| l.dropped).count();
        self.remove_layers(0..gone)
    }

    /// Removes layers from the state first, then their files: a crash in between leaves files that the next start removes.
    fn remove_layers(&mut self, range: std::ops::Range<usize>) -> Outcome {
        let gone: Vec<LayerState> = self.state.layers.drain(range.clone()).collect();
        self.layers.stores.drain(range);
        self.layers.merge = None;
        self.persist()?;
        for layer in gone {
            for what in ["data", "meta"] {
                let name = file_name(layer.info.seq, what);
                self.disk.remove(&name).during("removing a layer")?;
            }
        }
        Ok(())
    }

    /// A learner's layers, as its stream begins: those that it has stay, unless `anew`. The caller persists the state and
    /// then removes the files that are returned.
    pub(super) fn replace_layers(
        &mut self,
        wanted: &[SnapshotInfo],
        anew: bool,
    ) -> Result<Vec<String>, super::Fault> {
        let old = std::mem::take(&mut self.state.layers);
        let mut stores: Vec<Option<Store>> = self.layers.stores.drain(..).map(Some).collect();
        self.layers.merge = None;
        for info in wanted {
            let had = old
                .iter()
                .position(|l| l.info.seq == info.seq && !l.dropped && !anew);
            let store = match had.and_then(|at| stores[at].take()) {
                Some(store) => store,
                None => Store::create(&*self.disk, info).during("making a layer")?,
            };
            self.layers.stores.push(store);
            self.state.layers.push(LayerState {
                info: info.clone(),
                dropped: false,
            });
        }
        self.disk.sync_dir().during("syncing the directory")?;
        let gone = old.iter().filter(|l| !wanted.iter().any(|w| w.seq == l.info.seq));
        Ok(gone
            .flat_map(|l| [file_name(l.info.seq, "data"), file_name(l.info.seq, "meta")])
            .collect())
    }

    /// Index of the layer for what records up to `upto` overwrite: that of the newest snapshot before them. After a crash
    /// records come again from before snapshots whose layers are there already.
    pub(super) fn target_layer(&self, upto: Seq) -> Option<usize> {
        let before = |l: &LayerState| !l.dropped && l.info.seq <= upto;
        self.state.layers.iter().rposition(before)
    }

    /// Keeps what blocks `start..end` are, as far as a snapshot needs it, before records up to `upto` overwrite them.
    /// Returns how many blocks of data were copied.
    pub(super) fn keep_range(&mut self, start: u64, end: u64, upto: Seq) -> Result<u64, super::Fault> {
        let Some(at) = self.target_layer(upto) else {
            return Ok(0);
        };
        let info = &self.state.layers[at].info;
        let (seq, end) = (info.seq, end.min(info.blocks));
        let mut copied = 0;
        let mut from = start;
        while from < end {
            let to = end.min(from + SPAN);
            copied += self.keep_span(at, seq, from, to)?;
            from = to;
        }
        Ok(copied)
    }

    fn keep_span(&mut self, at: usize, seq: Seq, start: u64, end: u64) -> Result<u64, super::Fault> {
        let count = end - start;
        let place = self.blocks.entries(start, count).during("reading entries")?;
        if place.iter().all(|e| e.version > seq) {
            return Ok(0);
        }
        let store = &self.layers.stores[at].blocks;
        let mut entries = store.entries(start, count).during("reading a layer")?;
        let mut data = vec![0u8; BLOCK];
        let mut copied = 0;
        for (i, (now, kept)) in place.iter().zip(&mut entries).enumerate() {
            let block = start + i as u64;
            let had = *kept != Entry::default();
            if now.version > seq || (had && kept.version > now.version) {
                continue;
            }
            if !now.is_data() && now.is_sound_zero(self.seed, block) {
                if *now != Entry::default() {
                    *kept = *now;
                } else if !had {
                    *kept = Entry::absent(self.seed, block);
                }
                continue;
            }
            self.blocks.read(block, &mut data).during("reading blocks")?;
            // After a crash what is in place may be torn; then this or another layer has it already.
            if checksum::block(self.seed, block, now.version, &data) != now.crc {
                continue;
            }
            store.write_data(block, &[&data]).during("writing a layer")?;
            *kept = *now;
            copied += 1;
        }
        store.write(start, &entries, None).during("writing a layer")?;
        self.layers.stores[at].dirty = true;
        Ok(copied)
    }

    /// Where the blocks of a snapshot are.
    pub(super) fn kept(&self, layer: usize, block: u64, count: u64) -> Result<Vec<Kept>, super::Fault> {
        let seq = self.state.layers[layer].info.seq;
        let found = self.layered(layer, self.state.layers.len(), block, count)?;
        let place = self.blocks.entries(block, count).during("reading entries")?;
        let of = |(found, place): (Option<(usize, Entry)>, Entry)| match found {
            Some((_, entry)) if entry.version > seq => Kept::Lost(entry),
            Some((at, entry)) => Kept::Layer(at, entry),
            None if place.version > seq => Kept::Lost(place),
            None => Kept::Place(place),
        };
        Ok(found.into_iter().zip(place).map(of).collect())
    }

    /// What layers `first..past` have of blocks; the oldest that has something counts.
    fn layered(
        &self,
        first: usize,
        past: usize,
        block: u64,
        count: u64,
    ) -> Result<Vec<Option<(usize, Entry)>>, super::Fault> {
        let mut found: Vec<Option<(usize, Entry)>> = vec![None; count as usize];
        for at in first..past {
            let store = &self.layers.stores[at].blocks;
            let entries = store.entries(block, count).during("reading a layer")?;
            for (slot, entry) in found.iter_mut().zip(entries) {
                if slot.is_none() && entry != Entry::default() {
                    *slot = Some((at, entry));
                }
            }
        }
        Ok(found)
    }

    /// What a learner needs for a snapshot beyond the volume itself: its layer, and those after it of snapshots that the
    /// learner does not have. These are dropped here too, or will be: the record may not be stable here yet.
    pub(super) fn layer_blocks(
        &self,
        layer: usize,
        until: Seq,
        block: u64,
        count: u64,
    ) -> Result<Vec<Option<(usize, Entry)>>, super::Fault> {
        let seq = self.state.layers[layer].info.seq;
        let lacks = |l: &&LayerState| l.dropped || until == 0 || l.info.seq < until;
        let lacking = self.state.layers[layer + 1..].iter().take_while(lacks);
        let mut found = self.layered(layer, layer + 1 + lacking.count(), block, count)?;
        for slot in &mut found {
            *slot = slot.filter(|(_, entry)| entry.version <= seq);
        }
        Ok(found)
    }

    /// Blocks of a layer for a learner. The higher version wins, and what is bad at the source replaces nothing.
    pub(super) fn write_layer(&mut self, layer: usize, copied: &[(&BlockEntry, &[u8])]) -> Outcome {
        let (Some((first, _)), Some((last, _))) = (copied.first(), copied.last()) else {
            return Ok(());
        };
        let info = &self.state.layers[layer].info;
        if last.block >= info.blocks {
            return Err(super::Fault::Protocol("a copied block outside of the snapshot"));
        }
        let seed = self.seed;
        let store = &self.layers.stores[layer].blocks;
        let start = first.block;
        let mut entries = store
            .entries(start, last.block + 1 - start)
            .during("reading a layer")?;
        for (b, bytes) in copied {
            let kept = &mut entries[(b.block - start) as usize];
            let had = *kept != Entry::default();
            if had && (kept.version > b.version || b.kind == BlockKind::Bad) {
                continue;
            }
            *kept = match b.kind {
                BlockKind::Zero if b.version == 0 => Entry::absent(seed, b.block),
                BlockKind::Zero => Entry::zero(seed, b.block, b.version),
                // Remember what should be here, so that a read finds it bad and looks elsewhere.
                BlockKind::Bad => Entry::data(b.version, b.crc),
                BlockKind::Data => {
                    store.write_data(b.block, &[bytes]).during("writing a layer")?;
                    Entry::data(b.version, b.crc)
                }
            };
        }
        store.write(start, &entries, None).during("writing a layer")?;
        self.layers.stores[layer].dirty = true;
        Ok(())
    }

    /// Blocks of a layer that is gone, or is being merged: the next older one takes what it needs.
    pub(super) fn write_older(&mut self, dropped: Seq, copied: &[(&BlockEntry, &[u8])]) -> Outcome {
        let older = |l: &LayerState| !l.dropped && l.info.seq < dropped;
        let Some(layer) = self.state.layers.iter().rposition(older) else {
            return Ok(());
        };
        let info = &self.state.layers[layer].info;
        let needed = |b: &BlockEntry| b.version <= info.seq && b.block < info.blocks;
        let needed: Vec<_> = copied.iter().copied().filter(|(b, _)| needed(b)).collect();
        self.write_layer(layer, &needed)
    }

    /// When a slice of merging is due.
    pub(super) fn merge_due(&self, now: Nanos) -> Option<Nanos> {
        match &self.layers.merge {
            Some(merge) => Some(merge.next),
            None => self.mergeable().map(|_| now),
        }
    }

    /// A dropped layer with an older one below it.
    fn mergeable(&self) -> Option<usize> {
        let past_first = self.state.layers.iter().skip(1);
        past_first.clone().position(|l| l.dropped).map(|at| at + 1)
    }

    /// Moves a slice of a dropped layer into the older one, which then has everything that it needs; at the end the
    /// dropped one goes.
    pub(super) fn merge_slice(&mut self, now: Nanos) -> Outcome {
        let Some(at) = self.mergeable() else {
            self.layers.merge = None;
            return Ok(());
        };
        let seq = self.state.layers[at].info.seq;
        let from = match &self.layers.merge {
            Some(merge) if merge.seq == seq => merge.next_block,
            _ => 0,
        };
        let older = self.state.layers[at - 1].info.clone();
        if from >= older.blocks {
            self.layers.stores[at - 1]
                .blocks
                .sync()
                .during("syncing a layer")?;
            (
                self.layers.stores[at - 1].dirty,
                self.layers.stores[at - 1].syncing,
            ) = (false, false);
            return self.remove_layers(at..at + 1);
        }
        let next_block = self.merge_blocks(at, older.seq, from, older.blocks)?;
        self.layers.merge = Some(Merge {
            seq,
            next_block,
            next: now + SLICE_PAUSE,
        });
        Ok(())
    }

    /// Merges from `from` on, at most a slice; where to go on.
    fn merge_blocks(&mut self, at: usize, older: Seq, from: u64, end: u64) -> Result<u64, super::Fault> {
        let count = SLICE_ZEROES.min(end - from);
        let (below, above) = self.layers.stores.split_at_mut(at);
        let (target, source) = (&mut below[at - 1], &above[0].blocks);
        let entries = source.entries(from, count).during("reading a layer")?;
        let mut kept = target.blocks.entries(from, count).during("reading a layer")?;
        let mut data = vec![0u8; BLOCK];
        let (mut copied, mut done) = (0, 0);
        for (i, (entry, kept)) in entries.iter().zip(&mut kept).enumerate() {
            if copied >= SLICE_BLOCKS {
                break;
            }
            done = i as u64 + 1;
            let needed = *entry != Entry::default() && entry.version <= older;
            if !needed || *kept != Entry::default() {
                continue;
            }
            if entry.is_data() {
                let block = from + i as u64;
                source.read(block, &mut data).during("reading a layer")?;
                target
                    .blocks
                    .write_data(block, &[&data])
                    .during("writing a layer")?;
            }
            *kept = *entry;
            copied += 1;
        }
        if copied > 0 {
            target
                .blocks
                .write(from, &kept[..done as usize], None)
                .during("writing a layer")?;
            target.dirty = true;
        }
        Ok(from + done)
    }
}
