//! Comparing stored blocks with their checksums.

use super::super::blocks::{Blocks, Entry};
use super::super::layers::Kept;
use super::super::{During, Fault, Replica};
use crate::core::checksum;
use crate::core::types::{BLOCK, Seq};

impl Replica {
    /// Blocks of the volume or of a snapshot; none for a snapshot that is no more.
    pub(super) fn scrub_end_of(&self, layer: Seq) -> u64 {
        match (layer, self.layer_of(layer)) {
            (0, _) => self.state.blocks,
            (_, Some(at)) => self.state.layers[at].info.blocks,
            (_, None) => 0,
        }
    }

    /// What is to be compared of a range: of a snapshot only what is kept for it alone, since the rest is looked at where it
    /// belongs.
    pub(super) fn scrub_copies(
        &self,
        layer: Seq,
        block: u64,
        count: u64,
    ) -> Result<Vec<Option<Kept>>, Fault> {
        let Some(own) = self.layer_of(layer) else {
            let entries = self.blocks.entries(block, count).during("reading entries")?;
            return Ok(entries.into_iter().map(|e| Some(Kept::Place(e))).collect());
        };
        let merging = self.state.layers[own + 1..].iter().take_while(|l| l.dropped);
        let last = own + merging.count();
        let mine = |kept: Kept| match kept {
            Kept::Layer(at, _) if at > last => None,
            Kept::Place(_) => None,
            kept => Some(kept),
        };
        Ok(self.kept(own, block, count)?.into_iter().map(mine).collect())
    }

    /// Compares consecutive blocks of one kind.
    pub(super) fn scrub_run(&self, block: u64, run: &[Option<Kept>], bad: &mut Vec<u64>) {
        let entries: Vec<Entry> = run.iter().filter_map(data_entry).collect();
        if entries.len() < run.len() {
            let unsound = |(at, copy): (u64, &Option<Kept>)| match copy {
                None => false,
                Some(Kept::Layer(_, e)) if *e == Entry::absent(self.seed, at) => false,
                Some(Kept::Layer(_, e) | Kept::Place(e)) => !e.is_sound_zero(self.seed, at),
                Some(Kept::Lost(_)) => true,
            };
            bad.extend((block..).zip(run).filter(|c| unsound(*c)).map(|(at, _)| at));
            return;
        }
        let files = match run[0] {
            Some(Kept::Layer(at, _)) => &self.layers.stores[at].blocks,
            _ => &self.blocks,
        };
        let mut data = vec![0u8; run.len() * BLOCK];
        let whole = files.read(block, &mut data).is_ok();
        for (i, entry) in entries.iter().enumerate() {
            let (at, bytes) = (block + i as u64, &mut data[i * BLOCK..(i + 1) * BLOCK]);
            // One block that cannot be read does not condemn its neighbours.
            let there = whole || read_alone(files, at, bytes);
            if !there || checksum::block(self.seed, at, entry.version, bytes) != entry.crc {
                bad.push(at);
            }
        }
    }
}

/// The entry of a copy with data.
pub(super) fn data_entry(copy: &Option<Kept>) -> Option<Entry> {
    match copy {
        Some(Kept::Layer(_, e) | Kept::Place(e)) if e.is_data() => Some(*e),
        _ => None,
    }
}

/// Both have data in the same file, or neither has any.
pub(super) fn same_file(a: &Option<Kept>, b: &Option<Kept>) -> bool {
    let data = (data_entry(a).is_some(), data_entry(b).is_some());
    match (data, a, b) {
        ((true, true), Some(Kept::Layer(i, _)), Some(Kept::Layer(j, _))) => i == j,
        ((true, true), Some(Kept::Place(_)), Some(Kept::Place(_))) => true,
        ((false, false), _, _) => true,
        _ => false,
    }
}

fn read_alone(files: &Blocks, block: u64, bytes: &mut [u8]) -> bool {
    files.read(block, bytes).is_ok()
}
