//! The journal's formats: a segment's header and batches of records, each starting on a sector.
//!
//! A segment is a preallocated file that is used again and again; a random salt tells this use from earlier ones.
//! A batch's header carries the salt, the checksum of the batch before it, and the seq that was durable when it was
//! written (R10). The checksum of a batch covers its header and records' headers, and these carry the checksum of
//! every block.
//!
//! Format history: 1, the first release. Records of snapshots came with version 2 of the replica's state, which keeps
//! builds that do not know them away.

use super::index::{Held, HeldKind};
use super::state::Fields;
use crate::core::checksum;
use crate::core::types::{BLOCK, MAX_SNAPSHOT_NAME, Seq};
use crate::core::wire::{Body, MAX_RECORD_BLOCKS, Record};
use bytes::BufMut;

/// Bytes of a segment, unless formatted otherwise.
pub const SEGMENT: u64 = 4 << 20;
/// A batch that claims to be longer is not one.
const MAX_BATCH: u64 = 64 << 20;
/// Alignment of batches; what a disk writes as a whole.
pub const SECTOR: u64 = 512;
/// "HKSG".
const SEGMENT_MAGIC: u32 = 0x4853_4753;
/// "HKBT".
const BATCH_MAGIC: u32 = 0x4842_5448;
const VERSION: u32 = 1;
/// Bytes of a batch header before the records' headers.
const BATCH_HEAD: usize = 72;

/// Rounds up to a sector.
pub fn sectors(len: u64) -> u64 {
    len.div_ceil(SECTOR) * SECTOR
}

/// Header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SegmentHead {
    /// Grows by one with every use of any segment.
    pub number: u64,
    /// Tells the batches of this use from older ones.
    pub salt: u64,
    /// See [`super::state::State::generation`].
    pub generation: u64,
    /// Seq of its first record.
    pub first: Seq,
    /// The log before it is not in the journal but in place (a learner's stream begins here).
    pub jump: bool,
    /// Everything up to here was in place and synced.
    pub applied: Seq,
    /// Durable commit known.
    pub commit: Seq,
    /// Was durable here.
    pub durable: Seq,
}

impl SegmentHead {
    /// One sector.
    pub fn encode(&self, volume: u64) -> Vec<u8> {
        let mut b = Vec::with_capacity(SECTOR as usize);
        b.put_u32_le(SEGMENT_MAGIC);
        b.put_u32_le(VERSION);
        let fields = [
            volume,
            self.number,
            self.salt,
            self.generation,
            self.first,
            u64::from(self.jump),
        ];
        for v in fields
            .into_iter()
            .chain([self.applied, self.commit, self.durable])
        {
            b.put_u64_le(v);
        }
        let crc = checksum::wide(&b);
        b.put_u64_le(crc);
        b.resize(SECTOR as usize, 0);
        b
    }

    /// Reads a sector; none if it is not a header of this volume.
    pub fn decode(volume: u64, bytes: &[u8]) -> Option<SegmentHead> {
        let mut r = Fields(bytes);
        if r.u32()? != SEGMENT_MAGIC || r.u32()? != VERSION || r.u64()? != volume {
            return None;
        }
        let head = SegmentHead {
            number: r.u64()?,
            salt: r.u64()?,
            generation: r.u64()?,
            first: r.u64()?,
            jump: r.u64()? != 0,
            applied: r.u64()?,
            commit: r.u64()?,
            durable: r.u64()?,
        };
        let covered = bytes.len() - r.0.len();
        (r.u64()? == checksum::wide(&bytes[..covered])).then_some(head)
    }
}

/// Header of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHead {
    /// Checksum of this header and its records' headers; the next batch carries it.
    pub crc: u64,
    /// Salt of the segment.
    pub salt: u64,
    /// Checksum of the batch before; the salt for the first.
    pub chain: u64,
    /// Seq of its first record.
    pub first: Seq,
    /// Records.
    pub count: u32,
    /// Bytes of this header and the records' headers.
    pub head_len: u32,
    /// Bytes of data after it, from the next sector on.
    pub data_len: u32,
    /// Everything up to here was durable (R10).
    pub durable: Seq,
    /// Durable commit known.
    pub commit: Seq,
    /// Everything up to here was in place and synced.
    pub applied: Seq,
}

impl BatchHead {
    /// Bytes from this batch to the next.
    pub fn total(&self) -> u64 {
        sectors(u64::from(self.head_len)) + sectors(u64::from(self.data_len))
    }

    /// Reads the fixed part and checks what can be checked without the rest.
    pub fn decode(bytes: &[u8]) -> Option<BatchHead> {
        let mut r = Fields(bytes);
        if r.u32()? != BATCH_MAGIC {
            return None;
        }
        let head_len = r.u32()?;
        let head = BatchHead {
            head_len,
            crc: r.u64()?,
            salt: r.u64()?,
            chain: r.u64()?,
            first: r.u64()?,
            count: r.u32()?,
            data_len: r.u32()?,
            durable: r.u64()?,
            commit: r.u64()?,
            applied: r.u64()?,
        };
        let sane = head_len as usize >= BATCH_HEAD && head.total() <= MAX_BATCH;
        sane.then_some(head)
    }

    /// The header with its records' headers, padded to a sector; sets `crc`.
    pub fn encode(&mut self, records: &[Record]) -> Vec<u8> {
        let mut b = Vec::with_capacity(BATCH_HEAD + records.len() * 24 + SECTOR as usize);
        b.put_u32_le(BATCH_MAGIC);
        b.put_u32_le(self.head_len);
        b.put_u64_le(0);
        for v in [self.salt, self.chain, self.first] {
            b.put_u64_le(v);
        }
        b.put_u32_le(self.count);
        b.put_u32_le(self.data_len);
        for v in [self.durable, self.commit, self.applied] {
            b.put_u64_le(v);
        }
        for record in records {
            put_record(&mut b, record);
        }
        self.head_len = b.len() as u32;
        b[4..8].copy_from_slice(&self.head_len.to_le_bytes());
        self.crc = checksum::wide(&b);
        b[8..16].copy_from_slice(&self.crc.to_le_bytes());
        b.resize(sectors(b.len() as u64) as usize, 0);
        b
    }

    /// The checksum of a header as read holds. `bytes` has at least `head_len`.
    pub fn verify(&self, bytes: &[u8]) -> bool {
        let mut head = bytes[..self.head_len as usize].to_vec();
        head[8..16].fill(0);
        checksum::wide(&head) == self.crc
    }

    /// The records of a batch that lies at `offset` of slot `slot`; `bytes` is its header part.
    pub fn records(&self, bytes: &[u8], slot: usize, offset: u64) -> Option<Vec<Held>> {
        let mut r = Fields(bytes.get(BATCH_HEAD..self.head_len as usize)?);
        let mut at = offset + sectors(u64::from(self.head_len));
        let mut records = Vec::with_capacity((self.count as usize).min(bytes.len()));
        for i in 0..u64::from(self.count) {
            let kind = r.u8()?;
            let (block, count) = (r.u64()?, r.u64()?);
            let held = match kind {
                1 => {
                    if count > u64::from(MAX_RECORD_BLOCKS) {
                        return None;
                    }
                    let crcs = (0..count).map(|_| r.u32()).collect::<Option<Vec<u32>>>()?;
                    let data = HeldKind::Data {
                        slot,
                        offset: at,
                        crcs,
                    };
                    at += count * BLOCK as u64;
                    data
                }
                2 | 3 => HeldKind::Zero { discard: kind == 3 },
                4 => HeldKind::Resize { blocks: block },
                5 => {
                    if count > MAX_SNAPSHOT_NAME as u64 {
                        return None;
                    }
                    let name = (0..count).map(|_| r.u8()).collect::<Option<Vec<u8>>>()?;
                    HeldKind::Snapshot {
                        name: String::from_utf8(name).ok()?,
                    }
                }
                6 => HeldKind::DropSnapshot { snapshot: block },
                _ => return None,
            };
            let (block, count) = if kind >= 4 { (0, 0) } else { (block, count) };
            records.push(Held {
                seq: self.first + i,
                block,
                count,
                kind: held,
            });
        }
        Some(records)
    }
}

fn put_record(b: &mut Vec<u8>, record: &Record) {
    match &record.body {
        Body::Write { block, crcs, .. } => {
            b.put_u8(1);
            b.put_u64_le(*block);
            b.put_u64_le(crcs.len() as u64);
            for crc in crcs {
                b.put_u32_le(*crc);
            }
        }
        Body::Zero {
            block,
            count,
            discard,
        } => {
            b.put_u8(if *discard { 3 } else { 2 });
            b.put_u64_le(*block);
            b.put_u64_le(*count);
        }
        Body::Resize { blocks } => {
            b.put_u8(4);
            b.put_u64_le(*blocks);
            b.put_u64_le(0);
        }
        Body::Snapshot { name } => {
            b.put_u8(5);
            b.put_u64_le(0);
            b.put_u64_le(name.len() as u64);
            b.put_slice(name.as_bytes());
        }
        Body::DropSnapshot { snapshot } => {
            b.put_u8(6);
            b.put_u64_le(*snapshot);
            b.put_u64_le(0);
        }
    }
}
