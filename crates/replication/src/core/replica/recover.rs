//! Reading the journal after a start: where the log ends, and whether it ends too early (R10).

use super::index::{Held, HeldKind};
use super::journal::{Journal, Slot, slot_name};
use super::segment::{BatchHead, SECTOR, SegmentHead};
use crate::core::checksum;
use crate::core::disk::Disk;
use crate::core::rng::Rng;
use crate::core::types::{BLOCK, Seq};
use std::io;
use std::sync::Arc;

/// What the journal had.
pub struct Recovered {
    /// Ready for a new generation: the caller must [`Journal::cut`] at its end.
    pub journal: Journal,
    /// Records that may not be in place yet, ascending and without gaps.
    pub records: Vec<Arc<Held>>,
    /// Everything up to here is in place and synced.
    pub applied: Seq,
    /// The log reached further once than what is here without a hole; that is up to here.
    pub damaged: Option<Seq>,
    /// Something is missing before the end that had been synced: between records that are in place already, where it does
    /// no harm by itself.
    pub gap: bool,
    /// Segments to void with [`Journal::invalidate`] once the state is written.
    pub stale: Vec<usize>,
}

/// What the state knows of the journal.
pub struct Known {
    /// Bytes of a segment.
    pub segment: u64,
    /// Segments above it are of an unfinished cut.
    pub generation: u64,
    /// (number, first seq) of the segment with which the generation began.
    pub active: (u64, Seq),
    /// The log reached this.
    pub log_end: Seq,
    /// R10 is switched off.
    pub damage_is_end: bool,
}

/// Reads what is there.
pub fn recover(disk: &dyn Disk, volume: u64, known: &Known, rng: Rng) -> io::Result<Recovered> {
    let mut slots = Vec::new();
    let names = disk.list()?;
    while names.contains(&slot_name(slots.len())) {
        slots.push(Slot::new(disk.open(&slot_name(slots.len()))?));
    }
    let Heads {
        order,
        mut stale,
        in_place,
        overwritten,
    } = read_heads(&slots, volume, known);
    let mut scan = Scan::new(volume, known.segment);
    scan.blind = known.damage_is_end;
    for (head, at) in &order {
        if !scan.blind {
            scan.note(0, head.commit, head.applied);
        }
        scan.evidence(&slots[*at], head);
    }
    scan.applied = scan.applied.max(in_place);
    scan.durable = 0;
    let mut previous: Option<u64> = None;
    let (mut broken, mut gap) = (false, false);
    for (i, (head, at)) in order.iter().enumerate() {
        // What was durable beyond the beginning of a newer segment was cut.
        scan.durable = scan.durable.min(head.first - 1);
        let missing = previous.is_some_and(|p| p + 1 != head.number) || head.first > scan.end + 1;
        if !scan.blind || !(broken || missing) {
            scan.note(head.durable, head.commit, head.applied);
        }
        previous = Some(head.number);
        if i == 0 || head.jump || (scan.applied + 1 >= head.first && (missing || broken)) {
            // Nothing before this segment is needed.
            gap = i > 0 && !head.jump;
            scan.records.clear();
            scan.base = head.first - 1;
            scan.end = scan.base;
            for (_, old) in &order[..i] {
                slots[*old].head = None;
                slots[*old].batches.clear();
                stale.push(*old);
            }
        } else if broken || missing {
            broken = true;
            scan.evidence(&slots[*at], head);
            stale.push(*at);
            continue;
        } else {
            // Perhaps a cut: what the older segments have beyond it is void.
            scan.end = head.first - 1;
            while scan.records.last().is_some_and(|r| r.seq > scan.end) {
                scan.records.pop();
            }
            for (_, old) in &order[..i] {
                slots[*old].last = slots[*old].last.min(scan.end);
                slots[*old].batches.retain(|(first, _)| *first < head.first);
            }
        }
        scan.segment(&mut slots[*at], *at, head);
        // A torn tail is the end of the log unless a newer segment goes on behind it.
        broken = order
            .get(i + 1)
            .is_some_and(|(next, _)| next.first > scan.end + 1);
    }
    scan.end_of_generation(known, &order, overwritten, &mut slots);
    let good = if scan.base > scan.applied {
        scan.applied
    } else {
        scan.end
    };
    let damaged = (scan.durable > good && !known.damage_is_end).then_some(good);
    let applied = scan.applied.min(scan.end).max(scan.base);
    let records: Vec<Arc<Held>> = scan.records.into_iter().filter(|r| r.seq > applied).collect();
    stale.sort_unstable();
    stale.dedup();
    let journal = Journal {
        volume,
        segment: known.segment,
        active: (0..slots.len())
            .max_by_key(|at| slots[*at].head.map_or(0, |h| h.number))
            .unwrap_or(0),
        slots,
        rng,
        end: scan.end,
        durable: 0,
        commit: scan.commit,
        generation: known.generation,
        began: known.active,
        unsynced: 0,
    };
    Ok(Recovered {
        journal,
        records,
        applied,
        damaged,
        gap,
        stale,
    })
}

/// The segments' headers.
struct Heads {
    /// Valid ones in order.
    order: Vec<(SegmentHead, usize)>,
    /// Slots to void.
    stale: Vec<usize>,
    /// Everything up to here is in place, as headers of unfinished cuts say.
    in_place: Seq,
    /// The generation's first segment was begun again by an unfinished cut.
    overwritten: bool,
}

fn read_heads(slots: &[Slot], volume: u64, known: &Known) -> Heads {
    let mut order: Vec<(SegmentHead, usize)> = Vec::new();
    let mut stale = Vec::new();
    let mut in_place = 0;
    let mut overwritten = false;
    for (at, slot) in slots.iter().enumerate() {
        let mut sector = vec![0u8; SECTOR as usize];
        // A sector that cannot be read is a header that is gone: evidence elsewhere tells whether it matters.
        if slot.file.pread(&mut sector, 0).is_ok()
            && let Some(head) = SegmentHead::decode(volume, &sector)
        {
            if head.generation <= known.generation {
                order.push((head, at));
            } else {
                // What it says of blocks in place holds although the cut does not, except for a jump.
                in_place = in_place.max(if head.jump { 0 } else { head.applied });
                overwritten |= head.number == known.active.0;
                stale.push(at);
            }
        }
    }
    order.sort_by_key(|(head, _)| head.number);
    Heads {
        order,
        stale,
        in_place,
        overwritten,
    }
}

struct Scan {
    volume: u64,
    segment: u64,
    /// The log before it is in place.
    base: Seq,
    end: Seq,
    applied: Seq,
    commit: Seq,
    /// Evidence: the log reached this durably.
    durable: Seq,
    records: Vec<Arc<Held>>,
    /// R10 is switched off.
    blind: bool,
}

impl Scan {
    fn new(volume: u64, segment: u64) -> Scan {
        Scan {
            volume,
            segment,
            base: 0,
            end: 0,
            applied: 0,
            commit: 0,
            durable: 0,
            records: Vec::new(),
            blind: false,
        }
    }

    fn note(&mut self, durable: Seq, commit: Seq, applied: Seq) {
        self.durable = self.durable.max(durable);
        self.commit = self.commit.max(commit);
        self.applied = self.applied.max(applied);
    }

    /// Reads the batches of a segment whose first record follows `self.end`.
    fn segment(&mut self, slot: &mut Slot, at: usize, segment: &SegmentHead) {
        slot.head = Some(*segment);
        slot.used = SECTOR;
        slot.chain = segment.salt;
        slot.last = segment.first - 1;
        slot.batches.clear();
        let mut bytes = vec![0u8; self.segment as usize];
        if slot.file.pread(&mut bytes, 0).is_err() {
            return;
        }
        while let Some((head, held)) = self.batch(&bytes, slot.used, slot.chain, segment.salt, at) {
            self.note(head.durable, head.commit, head.applied);
            if head.count > 0 {
                slot.batches.push((head.first, slot.used));
                self.records.extend(held.into_iter().map(Arc::new));
            }
            self.end += u64::from(head.count);
            slot.last = self.end;
            slot.used += head.total();
            slot.chain = head.crc;
        }
        self.scan_heads(&bytes, slot.used, segment.salt);
    }

    /// What the state knows of the log's end and of the segment with which its generation began.
    fn end_of_generation(
        &mut self,
        known: &Known,
        order: &[(SegmentHead, usize)],
        overwritten: bool,
        slots: &mut [Slot],
    ) {
        self.durable = self.durable.max(known.log_end);
        let present = order.iter().any(|(head, _)| head.number == known.active.0);
        if !present && overwritten {
            // It was empty, and was begun again by a cut that did not come to pass: only its beginning counts.
            self.end = self.end.min(known.active.1 - 1);
            while self.records.last().is_some_and(|r| r.seq > self.end) {
                self.records.pop();
            }
            for slot in slots {
                slot.last = slot.last.min(self.end);
                slot.batches.retain(|(first, _)| *first <= self.end);
            }
        } else if !present && order.first().is_none_or(|(head, _)| head.number < known.active.0) {
            // Its header is gone, and nobody knows what it had. (When all are newer, it was used again.)
            self.durable = self.durable.max(self.end + 1);
        }
    }

    fn batch(
        &self,
        bytes: &[u8],
        offset: u64,
        chain: u64,
        salt: u64,
        at: usize,
    ) -> Option<(BatchHead, Vec<Held>)> {
        let rest = bytes.get(offset as usize..)?;
        let head = BatchHead::decode(rest)?;
        let whole = head.total() <= rest.len() as u64;
        if head.salt != salt || head.chain != chain || head.first != self.end + 1 || !whole {
            return None;
        }
        if !head.verify(rest) {
            return None;
        }
        let held = head.records(rest, at, offset)?;
        for record in &held {
            let HeldKind::Data { offset, crcs, .. } = &record.kind else {
                continue;
            };
            for (i, crc) in crcs.iter().enumerate() {
                let from = *offset as usize + i * BLOCK;
                let data = bytes.get(from..from + BLOCK)?;
                if checksum::block(self.volume, record.block + i as u64, record.seq, data) != *crc {
                    return None;
                }
            }
        }
        Some((head, held))
    }

    /// Looks for headers of this use of the segment behind a bad batch: they tell what was durable.
    fn scan_heads(&mut self, bytes: &[u8], from: u64, salt: u64) {
        let mut offset = if self.blind { bytes.len() } else { from as usize };
        while offset + SECTOR as usize <= bytes.len() {
            let rest = &bytes[offset..];
            if let Some(head) = BatchHead::decode(rest)
                && head.salt == salt
                && head.head_len as usize <= rest.len()
                && head.verify(rest)
            {
                self.note(head.durable, head.commit, head.applied);
            }
            offset += SECTOR as usize;
        }
    }

    fn evidence(&mut self, slot: &Slot, segment: &SegmentHead) {
        let mut bytes = vec![0u8; self.segment as usize];
        if slot.file.pread(&mut bytes, 0).is_ok() {
            self.scan_heads(&bytes, SECTOR, segment.salt);
        }
    }
}
