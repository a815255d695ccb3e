//! Which journal record has the newest content of a block: a map of disjoint block ranges.

use crate::core::types::Seq;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a record lies in the journal.
#[derive(Debug)]
pub struct Held {
    /// Position in the log.
    pub seq: Seq,
    /// First block.
    pub block: u64,
    /// How many blocks.
    pub count: u64,
    /// What it does there.
    pub kind: HeldKind,
}

/// What a record in the journal does.
#[derive(Debug)]
pub enum HeldKind {
    /// Data of `crcs.len()` blocks at `offset` of journal slot `slot`.
    Data {
        /// Index of the slot.
        slot: usize,
        /// Byte offset in the slot's file.
        offset: u64,
        /// Salted checksums.
        crcs: Vec<u32>,
    },
    /// Zeroes.
    Zero {
        /// Space may be freed.
        discard: bool,
    },
    /// The volume has `blocks` blocks from here on.
    Resize {
        /// Blocks.
        blocks: u64,
    },
    /// The volume as it is here is kept.
    Snapshot {
        /// Name.
        name: String,
    },
    /// A snapshot goes.
    DropSnapshot {
        /// Seq of its record.
        snapshot: Seq,
    },
}

/// Part of a record that is still the newest for its blocks.
#[derive(Clone, Debug)]
pub struct Piece {
    /// First block.
    pub start: u64,
    /// Block after the last.
    pub end: u64,
    /// The record.
    pub held: Arc<Held>,
    /// Zeroes over data that may never have been in place: their version must be kept although the block looks as if
    /// it had never been written.
    pub stamp: bool,
}

#[derive(Clone, Debug)]
struct Part {
    end: u64,
    held: Arc<Held>,
    stamp: bool,
}

/// The map.
#[derive(Debug, Default)]
pub struct Index {
    map: BTreeMap<u64, Part>,
    blocks: u64,
}

impl Index {
    /// Nothing in it.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Blocks covered by records with data.
    pub fn data_blocks(&self) -> u64 {
        self.blocks
    }

    fn weight(part: &Part, start: u64) -> u64 {
        if matches!(part.held.kind, HeldKind::Data { .. }) {
            part.end - start
        } else {
            0
        }
    }

    fn put(&mut self, start: u64, part: Part) {
        self.blocks += Self::weight(&part, start);
        self.map.insert(start, part);
    }

    fn take(&mut self, start: u64) -> Option<Part> {
        let part = self.map.remove(&start)?;
        self.blocks -= Self::weight(&part, start);
        Some(part)
    }

    /// Removes everything in the range, splitting what sticks out.
    fn clear(&mut self, start: u64, end: u64) {
        if let Some((&s, part)) = self.map.range(..start).next_back()
            && part.end > start
        {
            let part = self.take(s).expect("the key was just seen");
            let past = part.end;
            self.put(
                s,
                Part {
                    end: start,
                    ..part.clone()
                },
            );
            if past > end {
                self.put(end, part);
            }
        }
        let keys: Vec<u64> = self.map.range(start..end).map(|(k, _)| *k).collect();
        for key in keys {
            let part = self.take(key).expect("the key was just seen");
            if part.end > end {
                self.put(end, part);
            }
        }
    }

    /// A record that is newer than everything in the map.
    pub fn insert(&mut self, held: &Arc<Held>) {
        if held.count == 0 {
            return;
        }
        let (start, end) = (held.block, held.block + held.count);
        let zero = matches!(held.kind, HeldKind::Zero { .. });
        let covered = if zero { self.lookup(start, end) } else { Vec::new() };
        self.clear(start, end);
        let mut at = start;
        for old in covered {
            let stamp = old.stamp || matches!(old.held.kind, HeldKind::Data { .. });
            if stamp {
                if at < old.start {
                    self.put(
                        at,
                        Part {
                            end: old.start,
                            held: held.clone(),
                            stamp: false,
                        },
                    );
                }
                self.put(
                    old.start,
                    Part {
                        end: old.end,
                        held: held.clone(),
                        stamp: true,
                    },
                );
                at = old.end;
            }
        }
        if at < end {
            self.put(
                at,
                Part {
                    end,
                    held: held.clone(),
                    stamp: false,
                },
            );
        }
    }

    /// Forgets the pieces of one record.
    pub fn remove(&mut self, held: &Held) {
        let end = held.block + held.count;
        let own = self
            .map
            .range(held.block..end)
            .filter(|(_, part)| part.held.seq == held.seq);
        let keys: Vec<u64> = own.map(|(k, _)| *k).collect();
        for key in keys {
            self.take(key);
        }
    }

    /// The pieces in a range, clipped to it, ascending.
    pub fn lookup(&self, start: u64, end: u64) -> Vec<Piece> {
        let piece = |from: u64, part: &Part| Piece {
            start: from.max(start),
            end: part.end.min(end),
            held: part.held.clone(),
            stamp: part.stamp,
        };
        let before = self
            .map
            .range(..start)
            .next_back()
            .filter(|(_, part)| part.end > start);
        before
            .into_iter()
            .chain(self.map.range(start..end))
            .map(|(from, part)| piece(*from, part))
            .collect()
    }

    /// The first range at or after `from` that has something, at most `max` blocks of it.
    pub fn range_from(&self, from: u64, max: u64) -> Option<(u64, u64)> {
        let before = self
            .map
            .range(..=from)
            .next_back()
            .filter(|(_, part)| part.end > from);
        let (start, part) = before.or_else(|| self.map.range(from..).next())?;
        let start = (*start).max(from);
        Some((start, part.end.min(start + max)))
    }

    /// Takes the lowest piece, at most `max` blocks of it.
    pub fn pop_first(&mut self, max: u64) -> Option<Piece> {
        let (&start, _) = self.map.first_key_value()?;
        let part = self.take(start).expect("the key was just seen");
        let cut = part.end.min(start + max);
        if cut < part.end {
            self.put(cut, part.clone());
        }
        Some(Piece {
            start,
            end: cut,
            held: part.held,
            stamp: part.stamp,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::rng::Rng;

    #[test]
    fn the_newest_record_of_a_block_wins() {
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let mut index = Index::default();
            let mut model = vec![0u64; 64];
            let mut all = Vec::new();
            for seq in 1..40 {
                let block = rng.below(60);
                let count = 1 + rng.below(64 - block);
                let kind = HeldKind::Zero { discard: false };
                let held = Arc::new(Held {
                    seq,
                    block,
                    count,
                    kind,
                });
                index.insert(&held);
                model[block as usize..(block + count) as usize].fill(seq);
                all.push(held);
                if rng.percent(20) {
                    let gone = all.swap_remove(rng.below(all.len() as u64) as usize);
                    index.remove(&gone);
                    model.iter_mut().filter(|s| **s == gone.seq).for_each(|s| *s = 0);
                }
            }
            let (from, to) = (rng.below(32), 32 + rng.below(32));
            let mut seen = vec![0u64; 64];
            for p in index.lookup(from, to) {
                seen[p.start as usize..p.end as usize].fill(p.held.seq);
            }
            assert_eq!(
                seen[from as usize..to as usize],
                model[from as usize..to as usize],
                "seed {seed}"
            );
        }
    }
}
