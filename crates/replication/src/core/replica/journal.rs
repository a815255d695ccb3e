//! The journal: a ring of preallocated segments that holds a gap-free stretch of the log up to its end.
//!
//! Segments whose records are all in place and synced may be used again (R9), the oldest first; until then they serve
//! members that missed a little. Every start, cut and adoption begins a new segment with a new salt (R10).

use super::index::{Held, HeldKind};
use super::segment::{BatchHead, SECTOR, SegmentHead, sectors};
use crate::core::disk::{Disk, DiskFile};
use crate::core::rng::Rng;
use crate::core::types::{BLOCK, Seq};
use crate::core::wire::{Body, Record};
use bytes::Bytes;
use std::io;
use std::sync::Arc;

/// Segments kept for members that missed a little, before old ones are used again: 16 MiB.
const KEEP_SEGMENTS: usize = 4;
/// Most segments: 64 MiB. The engine has at most 16 MiB in flight that is not durable in a quorum, and write-back
/// frees the rest.
pub const MAX_SEGMENTS: usize = 16;

/// Cuts may go beyond it: each takes a segment however little is in it, and the engine that they serve is the only one
/// who can make room.
const CUT_SEGMENTS: usize = 16;

/// Why a segment begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Roll {
    /// The last one is full.
    Next,
    /// A start, a cut or an adoption.
    Cut,
    /// A learner's stream begins. No old segment is used again: the cut may not come to pass.
    Jump,
}

/// A file of the ring.
pub(super) struct Slot {
    pub file: Arc<dyn DiskFile>,
    /// None: never used, or of an unfinished cut.
    pub head: Option<SegmentHead>,
    /// Bytes in use.
    pub used: u64,
    /// Last record in it; `first - 1` when there is none.
    pub last: Seq,
    /// Checksum that the next batch carries.
    pub chain: u64,
    /// (first seq, offset) of each batch with records.
    pub batches: Vec<(Seq, u64)>,
    /// Written since the last sync job took it.
    pub dirty: bool,
}

impl Slot {
    pub(super) fn new(file: Arc<dyn DiskFile>) -> Slot {
        Slot {
            file,
            head: None,
            used: 0,
            last: 0,
            chain: 0,
            batches: Vec::new(),
            dirty: false,
        }
    }
}

/// The ring.
pub struct Journal {
    pub(super) volume: u64,
    /// Bytes of a segment.
    pub(super) segment: u64,
    pub(super) slots: Vec<Slot>,
    pub(super) active: usize,
    pub(super) rng: Rng,
    /// Last record in the log.
    pub end: Seq,
    /// Last record on stable media.
    pub durable: Seq,
    /// What batch headers say of the durable commit.
    pub commit: Seq,
    /// See [`super::state::State::generation`].
    pub generation: u64,
    /// (number, first seq) of the segment with which the generation began.
    pub began: (u64, Seq),
    /// Bytes since the last sync job began.
    pub unsynced: u64,
}

/// What a fetch finds.
pub enum Fetched {
    /// Records from the first asked on.
    Records(Vec<Record>),
    /// No longer in the journal, or damaged there.
    Gone,
}

impl Journal {
    /// An empty journal for a new replica, durable but for the directory.
    pub fn create(disk: &dyn Disk, volume: u64, segment: u64, mut rng: Rng) -> io::Result<()> {
        let file = disk.create(&slot_name(0))?;
        file.preallocate(segment)?;
        let head = SegmentHead {
            number: 1,
            salt: rng.draw(),
            first: 1,
            ..SegmentHead::default()
        };
        file.pwritev(&[&head.encode(volume)], 0)?;
        file.sync()
    }

    /// First seq that can be fetched.
    pub fn first(&self) -> Seq {
        let heads = self.slots.iter().filter_map(|s| s.head);
        heads.map(|h| h.first).min().unwrap_or(self.end + 1)
    }

    /// Bytes in segments that cannot be used again yet.
    pub fn pinned_segments(&self, applied_synced: Seq) -> usize {
        self.slots
            .iter()
            .filter(|s| s.head.is_some() && s.last > applied_synced)
            .count()
    }

    /// Appends one batch in the page cache. `None`: the journal is full until more is in place and synced.
    pub fn append(
        &mut self,
        disk: &dyn Disk,
        records: &[Record],
        applied_synced: Seq,
    ) -> io::Result<Option<Vec<Arc<Held>>>> {
        let data_len: usize = records.iter().map(Record::data_len).sum();
        let crcs: usize = records.iter().map(|r| r.data_len() / BLOCK).sum();
        let space = sectors((80 + records.len() * 24 + crcs * 4) as u64) + SECTOR + data_len as u64;
        if self.slots[self.active].used + space > self.segment
            && !self.roll(disk, self.end + 1, Roll::Next, applied_synced)?
        {
            return Ok(None);
        }
        let slot = &mut self.slots[self.active];
        let mut head = BatchHead {
            crc: 0,
            salt: slot.head.map_or(0, |h| h.salt),
            chain: slot.chain,
            first: self.end + 1,
            count: records.len() as u32,
            head_len: 0,
            data_len: data_len as u32,
            durable: self.durable,
            commit: self.commit,
            applied: applied_synced,
        };
        let bytes = head.encode(records);
        let mut parts: Vec<&[u8]> = Vec::with_capacity(records.len() + 1);
        parts.push(&bytes);
        parts.extend(records.iter().filter_map(|r| match &r.body {
            Body::Write { data, .. } => Some(&data[..]),
            _ => None,
        }));
        slot.file.pwritev(&parts, slot.used)?;
        slot.dirty = true;
        let held = head
            .records(&bytes, self.active, slot.used)
            .ok_or_else(|| io::Error::other("a batch that cannot be read back"))?;
        if !records.is_empty() {
            slot.batches.push((head.first, slot.used));
        }
        slot.used += head.total();
        slot.chain = head.crc;
        self.end += records.len() as u64;
        slot.last = self.end;
        self.unsynced += head.total();
        Ok(Some(held.into_iter().map(Arc::new).collect()))
    }

    /// Begins a new segment whose first record is `first`. False: none is free.
    pub fn roll(&mut self, disk: &dyn Disk, first: Seq, how: Roll, applied_synced: Seq) -> io::Result<bool> {
        let Some(at) = self.free_slot(disk, applied_synced, how)? else {
            return Ok(false);
        };
        let highest = self
            .slots
            .iter()
            .filter_map(|s| s.head)
            .map(|h| h.number)
            .max()
            .unwrap_or(0);
        // An empty segment is begun again in place; the state tells what it was until the cut is recorded.
        let number = if self.slots[at].head.is_some() && at == self.active {
            highest
        } else {
            highest + 1
        };
        let head = SegmentHead {
            number,
            salt: self.rng.draw(),
            generation: self.generation,
            first,
            jump: how == Roll::Jump,
            applied: applied_synced,
            commit: self.commit,
            durable: self.durable.min(first - 1),
        };
        let slot = &mut self.slots[at];
        slot.file.pwritev(&[&head.encode(self.volume)], 0)?;
        // The header before any batch: else a crash could leave old batches cut short under their old header.
        slot.file.sync()?;
        slot.dirty = false;
        slot.head = Some(head);
        slot.used = SECTOR;
        slot.last = first - 1;
        slot.chain = head.salt;
        slot.batches = Vec::new();
        self.active = at;
        Ok(true)
    }

    fn free_slot(&mut self, disk: &dyn Disk, applied_synced: Seq, how: Roll) -> io::Result<Option<usize>> {
        let active = &self.slots[self.active];
        let empty = active.used == SECTOR && active.head.is_some_and(|h| !h.jump && h.number == self.began.0);
        if how != Roll::Next && empty {
            return Ok(Some(self.active));
        }
        if let Some(at) = self.slots.iter().position(|s| s.head.is_none()) {
            return Ok(Some(at));
        }
        let number = |s: &Slot| s.head.map_or(0, |h| h.number);
        let oldest = (0..self.slots.len())
            .min_by_key(|at| number(&self.slots[*at]))
            .unwrap_or(0);
        let idle = oldest != self.active && self.slots[oldest].last <= applied_synced;
        if idle && how != Roll::Jump && self.slots.len() >= KEEP_SEGMENTS {
            return Ok(Some(oldest));
        }
        let limit = if how == Roll::Next {
            MAX_SEGMENTS
        } else {
            MAX_SEGMENTS + CUT_SEGMENTS
        };
        if self.slots.len() >= limit {
            return Ok(None);
        }
        let file = disk.create(&slot_name(self.slots.len()))?;
        file.preallocate(self.segment)?;
        file.sync()?;
        disk.sync_dir()?;
        self.slots.push(Slot::new(file));
        Ok(Some(self.slots.len() - 1))
    }

    /// Cuts the log after `keep`, in a new generation and segment, durably. The caller then persists the state with
    /// the new generation; until it has, a restart ignores the cut.
    pub fn cut(&mut self, disk: &dyn Disk, keep: Seq, jump: bool, applied_synced: Seq) -> io::Result<bool> {
        self.generation += 1;
        let how = if jump { Roll::Jump } else { Roll::Cut };
        if !self.roll(disk, keep + 1, how, applied_synced)? {
            return Ok(false);
        }
        self.end = keep;
        self.began = self.slots[self.active]
            .head
            .map_or((0, 0), |h| (h.number, h.first));
        let active = self.active;
        for (at, slot) in self.slots.iter_mut().enumerate() {
            if at != active && slot.head.is_some() {
                slot.last = slot.last.min(keep);
                slot.batches.retain(|(first, _)| *first <= keep);
                if jump {
                    slot.head = None;
                }
            }
        }
        self.sync_all()?;
        self.durable = keep;
        Ok(true)
    }

    /// Voids segments that recovery did not use, durably: their numbers are given again.
    pub fn invalidate(&mut self, slots: &[usize]) -> io::Result<()> {
        for at in slots {
            let slot = &mut self.slots[*at];
            slot.file.pwritev(&[&[0u8; SECTOR as usize]], 0)?;
            slot.file.sync()?;
            slot.head = None;
        }
        Ok(())
    }

    /// Files to sync for everything appended so far to be durable.
    pub fn take_dirty(&mut self) -> Vec<Arc<dyn DiskFile>> {
        self.unsynced = 0;
        let taken = self
            .slots
            .iter_mut()
            .map(|s| (std::mem::take(&mut s.dirty), &s.file));
        taken
            .filter(|(dirty, _)| *dirty)
            .map(|(_, file)| file.clone())
            .collect()
    }

    /// Makes everything appended durable, now.
    pub fn sync_all(&mut self) -> io::Result<()> {
        let _ = self.take_dirty();
        // Also what a job in flight has taken: it may not have begun.
        for slot in self
            .slots
            .iter()
            .filter(|s| s.head.is_some() && s.last >= self.durable)
        {
            slot.file.sync()?;
        }
        self.durable = self.end;
        Ok(())
    }

    /// Reads the data of blocks of a record.
    pub fn read(&self, held: &Held, block: u64, buf: &mut [u8]) -> io::Result<()> {
        if let HeldKind::Data { slot, offset, .. } = &held.kind {
            let at = offset + (block - held.block) * BLOCK as u64;
            let n = self.slots[*slot].file.pread(buf, at)?;
            buf[n..].fill(0);
        }
        Ok(())
    }

    /// Records `from..=to`, at most about `max_bytes` of data.
    pub fn fetch(&self, from: Seq, to: Seq, max_bytes: usize) -> io::Result<Fetched> {
        let to = to.min(self.end);
        let mut next = from;
        let mut bytes = 0;
        let mut out: Vec<Record> = Vec::new();
        while next <= to && bytes < max_bytes {
            let Some((slot, offset)) = self.find(next) else {
                break;
            };
            let Some(batch) = self.read_batch(slot, offset)? else {
                break;
            };
            let before = next;
            let last = self.slots[slot].last.min(to);
            for held in batch {
                if held.seq == next && next <= last && bytes < max_bytes {
                    let record = self.load(&held)?;
                    bytes += record.data_len().max(64);
                    out.push(record);
                    next += 1;
                }
            }
            if next == before {
                break;
            }
        }
        Ok(if out.is_empty() {
            Fetched::Gone
        } else {
            Fetched::Records(out)
        })
    }

    /// The newest batch that begins at or before `seq`. Cut tails of older segments are not in `batches` beyond the
    /// cut, but the batch that straddles it is: the newer segment wins.
    fn find(&self, seq: Seq) -> Option<(usize, u64)> {
        let mut best: Option<(u64, usize, u64)> = None;
        for (at, slot) in self.slots.iter().enumerate() {
            let Some(head) = slot.head else { continue };
            if head.first > seq || slot.last < seq {
                continue;
            }
            let i = slot.batches.partition_point(|(first, _)| *first <= seq);
            if i > 0 && best.is_none_or(|b| b.0 < head.number) {
                best = Some((head.number, at, slot.batches[i - 1].1));
            }
        }
        best.map(|(_, at, offset)| (at, offset))
    }

    fn read_batch(&self, slot: usize, offset: u64) -> io::Result<Option<Vec<Held>>> {
        let mut bytes = vec![0u8; SECTOR as usize];
        self.slots[slot].file.pread(&mut bytes, offset)?;
        let Some(head) = BatchHead::decode(&bytes) else {
            return Ok(None);
        };
        bytes.resize(sectors(u64::from(head.head_len)) as usize, 0);
        self.slots[slot].file.pread(&mut bytes, offset)?;
        if !head.verify(&bytes) {
            return Ok(None);
        }
        Ok(head.records(&bytes, slot, offset))
    }

    fn load(&self, held: &Held) -> io::Result<Record> {
        let body = match &held.kind {
            HeldKind::Data { crcs, .. } => {
                let mut data = vec![0u8; held.count as usize * BLOCK];
                self.read(held, held.block, &mut data)?;
                Body::Write {
                    block: held.block,
                    crcs: crcs.clone(),
                    data: Bytes::from(data),
                }
            }
            HeldKind::Zero { discard } => Body::Zero {
                block: held.block,
                count: held.count,
                discard: *discard,
            },
            HeldKind::Resize { blocks } => Body::Resize { blocks: *blocks },
            HeldKind::Snapshot { name } => Body::Snapshot { name: name.clone() },
            HeldKind::DropSnapshot { snapshot } => Body::DropSnapshot { snapshot: *snapshot },
        };
        Ok(Record { seq: held.seq, body })
    }
}

/// File name of a slot.
pub(super) fn slot_name(index: usize) -> String {
    format!("journal.{index}")
}
