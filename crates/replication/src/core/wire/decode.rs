//! Reading the binary form. Nothing that a peer sends can make it allocate more than the frame's length warrants.

use super::*;
use crate::core::types::{MAX_SNAPSHOT_NAME, MAX_SNAPSHOTS};
use bytes::Buf;

/// Longest list in a message; a bound on what a broken peer can make us allocate.
const MAX_LIST: usize = 1 << 20;

pub(super) struct Reader {
    buf: Bytes,
}

type R<T> = Result<T, DecodeError>;

impl Reader {
    pub(super) fn new(buf: Bytes) -> Reader {
        Reader { buf }
    }
    fn need(&self, n: usize) -> R<()> {
        if self.buf.remaining() < n {
            Err(DecodeError::Short)
        } else {
            Ok(())
        }
    }
    pub(super) fn u8(&mut self) -> R<u8> {
        self.need(1)?;
        Ok(self.buf.get_u8())
    }
    fn bool(&mut self) -> R<bool> {
        Ok(self.u8()? != 0)
    }
    fn u32(&mut self) -> R<u32> {
        self.need(4)?;
        Ok(self.buf.get_u32_le())
    }
    fn u64(&mut self) -> R<u64> {
        self.need(8)?;
        Ok(self.buf.get_u64_le())
    }
    fn u128(&mut self) -> R<u128> {
        self.need(16)?;
        Ok(self.buf.get_u128_le())
    }
    fn epoch(&mut self) -> R<Epoch> {
        Ok(Epoch {
            counter: self.u64()?,
            instance: self.u128()?,
        })
    }
    /// A list's length, checked against the bytes that are left.
    fn list(&mut self, each: usize) -> R<usize> {
        let n = self.u32()? as usize;
        if n > MAX_LIST {
            return Err(DecodeError::Bounds);
        }
        self.need(n * each)?;
        Ok(n)
    }
    fn history(&mut self) -> R<History> {
        let n = self.list(32)?;
        let mut entries = Vec::with_capacity(n);
        for _ in 0..n {
            entries.push((self.epoch()?, self.u64()?));
        }
        Ok(History { entries })
    }
    fn peers(&mut self) -> R<Vec<PeerMemory>> {
        let n = self.list(56)?;
        let mut peers = Vec::with_capacity(n);
        for _ in 0..n {
            peers.push(PeerMemory {
                id: ReplicaId(self.u128()?),
                starts: self.u64()?,
                promised: self.epoch()?,
                durable: self.u64()?,
            });
        }
        Ok(peers)
    }
    /// The name of a snapshot.
    fn name(&mut self) -> R<String> {
        let n = self.list(1)?;
        if n > MAX_SNAPSHOT_NAME {
            return Err(DecodeError::Bounds);
        }
        let raw = self.buf.split_to(n);
        String::from_utf8(raw.to_vec()).map_err(|_| DecodeError::Bounds)
    }
    fn snapshots(&mut self) -> R<Vec<SnapshotInfo>> {
        let n = self.list(20)?;
        if n > MAX_SNAPSHOTS {
            return Err(DecodeError::Bounds);
        }
        let mut snapshots = Vec::with_capacity(n);
        for _ in 0..n {
            snapshots.push(SnapshotInfo {
                name: self.name()?,
                seq: self.u64()?,
                blocks: self.u64()?,
            });
        }
        Ok(snapshots)
    }
    fn block(&mut self) -> R<BlockEntry> {
        Ok(BlockEntry {
            block: self.u64()?,
            version: self.u64()?,
            crc: self.u32()?,
            kind: match self.u8()? {
                0 => BlockKind::Zero,
                1 => BlockKind::Data,
                2 => BlockKind::Bad,
                _ => return Err(DecodeError::Bounds),
            },
        })
    }
    fn blocks(&mut self) -> R<Vec<BlockEntry>> {
        let n = self.list(21)?;
        (0..n).map(|_| self.block()).collect()
    }
    /// The payload that ends a message.
    fn payload(&mut self) -> R<Bytes> {
        let len = self.u32()? as usize;
        self.need(len)?;
        Ok(self.buf.split_to(len))
    }
    /// Blocks and the payload of those that carry data.
    fn blocks_and_payload(&mut self) -> R<(Vec<BlockEntry>, Bytes)> {
        let blocks = self.blocks()?;
        let data = self.payload()?;
        let with_data = blocks.iter().filter(|b| b.kind == BlockKind::Data).count();
        if data.len() != with_data * crate::core::types::BLOCK {
            return Err(DecodeError::Bounds);
        }
        Ok((blocks, data))
    }

    /// Headers first, payloads after all of them.
    fn records(&mut self) -> R<Vec<Record>> {
        let n = self.list(5)?;
        let first = self.u64()?;
        let mut records = Vec::with_capacity(n);
        let mut lengths = Vec::with_capacity(n);
        for i in 0..n {
            let seq = first.checked_add(i as u64).ok_or(DecodeError::Bounds)?;
            let body = match self.u8()? {
                1 => {
                    let block = self.u64()?;
                    let count = self.list(4)?;
                    let crcs = (0..count).map(|_| self.u32()).collect::<R<Vec<u32>>>()?;
                    let len = self.u32()? as usize;
                    if len != count * crate::core::types::BLOCK || block.checked_add(count as u64).is_none() {
                        return Err(DecodeError::Bounds);
                    }
                    lengths.push((i, len));
                    Body::Write {
                        block,
                        crcs,
                        data: Bytes::new(),
                    }
                }
                2 => {
                    let (block, count, discard) = (self.u64()?, self.u64()?, self.bool()?);
                    if block.checked_add(count).is_none() {
                        return Err(DecodeError::Bounds);
                    }
                    Body::Zero {
                        block,
                        count,
                        discard,
                    }
                }
                3 => Body::Resize { blocks: self.u64()? },
                4 => Body::Snapshot { name: self.name()? },
                5 => Body::DropSnapshot {
                    snapshot: self.u64()?,
                },
                _ => return Err(DecodeError::Bounds),
            };
            records.push(Record { seq, body });
        }
        for (i, len) in lengths {
            self.need(len)?;
            let piece = self.buf.split_to(len);
            if let Body::Write { data, .. } = &mut records[i].body {
                *data = piece;
            }
        }
        Ok(records)
    }

    pub(super) fn engine_message(&mut self, kind: u8) -> R<Message> {
        if kind == 1 {
            return Ok(Message::Hello);
        }
        let epoch = self.epoch()?;
        Ok(match kind {
            2 => Message::Prepare { epoch },
            3 => {
                let (keep, history, commit) = (self.u64()?, self.history()?, self.u64()?);
                let (some, from) = (self.bool()?, self.u64()?);
                let blocks = self.u64()?;
                Message::Truncate {
                    epoch,
                    keep,
                    history,
                    commit,
                    copy_from: some.then_some(from),
                    blocks,
                    snapshots: self.snapshots()?,
                }
            }
            4 => Message::Adopt {
                epoch,
                history: self.history()?,
                peers: self.peers()?,
            },
            5 => Message::Append {
                epoch,
                sent_at: self.u64()?,
                commit: self.u64()?,
                sync_to: self.u64()?,
                records: self.records()?,
            },
            6 => Message::Read {
                epoch,
                request: self.u64()?,
                block: self.u64()?,
                count: self.u32()?,
                min_seq: self.u64()?,
                applied_only: self.bool()?,
                snapshot: self.u64()?,
            },
            7 => Message::FetchLog {
                epoch,
                request: self.u64()?,
                from: self.u64()?,
                to: self.u64()?,
            },
            8 => Message::CopyRead {
                epoch,
                request: self.u64()?,
                from: self.u64()?,
                to: self.u64()?,
                have: self.u64()?,
                applied: self.u64()?,
                snapshot: self.u64()?,
                until: self.u64()?,
            },
            9 => {
                let (request, cursor, snapshot) = (self.u64()?, self.u64()?, self.u64()?);
                let (blocks, data) = self.blocks_and_payload()?;
                Message::CopyWrite {
                    epoch,
                    request,
                    cursor,
                    snapshot,
                    blocks,
                    data,
                }
            }
            10 => Message::CopyDone {
                epoch,
                end: self.u64()?,
            },
            11 => Message::Digest {
                epoch,
                request: self.u64()?,
                block: self.u64()?,
                count: self.u32()?,
                snapshot: self.u64()?,
            },
            12 => Message::Repair {
                epoch,
                seen: self.block()?,
                good: self.block()?,
                snapshot: self.u64()?,
                data: self.payload()?,
            },
            13 => Message::Close { epoch },
            _ => return Err(DecodeError::Unknown(WIRE_VERSION, kind)),
        })
    }

    pub(super) fn replica_message(&mut self, kind: u8) -> R<Message> {
        Ok(match kind {
            64 => {
                let promised = self.epoch()?;
                let (id, incarnation) = (ReplicaId(self.u128()?), self.u128()?);
                Message::Welcome {
                    id,
                    incarnation,
                    promised,
                    begun: self.epoch()?,
                    failed: self.bool()?,
                }
            }
            65 => Message::Refused {
                promised: self.epoch()?,
                begun: self.epoch()?,
            },
            66 => Message::Promise(Box::new(self.promise()?)),
            67 => {
                let (epoch, end) = (self.epoch()?, self.u64()?);
                let n = self.list(16)?;
                let mut pieces = Vec::with_capacity(n);
                for _ in 0..n {
                    pieces.push((self.u64()?, self.u64()?));
                }
                Message::Truncated {
                    epoch,
                    end,
                    pieces,
                    cursor: self.u64()?,
                }
            }
            68 => Message::Adopted {
                epoch: self.epoch()?,
                end: self.u64()?,
            },
            69 => Message::Ack {
                epoch: self.epoch()?,
                echo: self.u64()?,
                received: self.u64()?,
                durable: self.u64()?,
                answers: self.bool()?,
            },
            70 => {
                let (request, ready) = (self.u64()?, self.bool()?);
                let (blocks, data) = self.blocks_and_payload()?;
                Message::ReadReply {
                    request,
                    ready,
                    blocks,
                    data,
                }
            }
            71 => Message::LogRecords {
                request: self.u64()?,
                journal_first: self.u64()?,
                records: self.records()?,
            },
            72 => {
                let (request, next, applied) = (self.u64()?, self.u64()?, self.u64()?);
                let (blocks, data) = self.blocks_and_payload()?;
                Message::CopyData {
                    request,
                    next,
                    applied,
                    blocks,
                    data,
                }
            }
            73 => Message::CopyWritten { request: self.u64()? },
            74 => Message::CopyCompleted {
                epoch: self.epoch()?,
                end: self.u64()?,
            },
            75 => {
                let (request, at) = (self.u64()?, self.u64()?);
                let n = self.list(8)?;
                let digests = (0..n).map(|_| self.u64()).collect::<R<Vec<u64>>>()?;
                Message::DigestReply {
                    request,
                    at,
                    digests,
                    bad: self.blocks()?,
                }
            }
            76 => {
                let n = self.list(1)?;
                let raw = self.buf.split_to(n);
                Message::Failed {
                    reason: String::from_utf8_lossy(&raw).into_owned(),
                }
            }
            77 => Message::Damaged {
                epoch: self.epoch()?,
                snapshot: self.u64()?,
                blocks: self.blocks()?,
            },
            _ => return Err(DecodeError::Unknown(WIRE_VERSION, kind)),
        })
    }

    fn promise(&mut self) -> R<Promise> {
        let epoch = self.epoch()?;
        let (id, incarnation) = (ReplicaId(self.u128()?), self.u128()?);
        let (starts, end, history) = (self.u64()?, self.u64()?, self.history()?);
        let flags = self.u8()?;
        Ok(Promise {
            epoch,
            id,
            incarnation,
            starts,
            end,
            history,
            lossy: flags & 1 != 0,
            copying: flags & 2 != 0,
            blank: flags & 4 != 0,
            journal_first: self.u64()?,
            commit: self.u64()?,
            flushed: self.u64()?,
            lease: self.u64()?,
            blocks: self.u64()?,
            peers: self.peers()?,
            snapshots: self.snapshots()?,
        })
    }
}
