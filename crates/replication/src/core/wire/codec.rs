//! The binary form: version, kind, fixed-width little-endian fields, payload last so that it is never copied.

use super::*;
use bytes::{Buf, BufMut, BytesMut};

impl Message {
    /// Appends the frame's parts: first the header, then payloads that share memory with the message.
    pub fn encode(&self, parts: &mut Vec<Bytes>) {
        let mut w = Writer {
            head: BytesMut::with_capacity(256),
            tail: Vec::new(),
        };
        w.head.put_u8(WIRE_VERSION);
        w.message(self);
        parts.push(w.head.freeze());
        parts.extend(w.tail);
    }

    /// The frame as one piece, for tests and small messages.
    pub fn to_bytes(&self) -> Bytes {
        let mut parts = Vec::new();
        self.encode(&mut parts);
        if parts.len() == 1 {
            return parts.remove(0);
        }
        let mut all = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
        for part in parts {
            all.put_slice(&part);
        }
        all.freeze()
    }

    /// Reads one frame; payloads share its memory.
    pub fn decode(frame: Bytes) -> Result<Message, DecodeError> {
        let mut r = Reader { buf: frame };
        let version = r.u8()?;
        let kind = r.u8()?;
        if version != WIRE_VERSION {
            return Err(DecodeError::Unknown(version, kind));
        }
        if kind < 64 {
            r.from_engine(kind)
        } else {
            r.from_replica(kind)
        }
    }
}

struct Writer {
    head: BytesMut,
    tail: Vec<Bytes>,
}

impl Writer {
    fn epoch(&mut self, e: &Epoch) {
        self.head.put_u64_le(e.counter);
        self.head.put_u128_le(e.instance);
    }

    fn history(&mut self, h: &History) {
        self.head.put_u32_le(h.entries.len() as u32);
        for (e, first) in &h.entries {
            self.epoch(e);
            self.head.put_u64_le(*first);
        }
    }

    fn peers(&mut self, peers: &[PeerMemory]) {
        self.head.put_u32_le(peers.len() as u32);
        for p in peers {
            self.head.put_u128_le(p.id.0);
            self.head.put_u64_le(p.starts);
            self.epoch(&p.promised);
            self.head.put_u64_le(p.durable);
        }
    }

    fn blocks(&mut self, blocks: &[BlockEntry]) {
        self.head.put_u32_le(blocks.len() as u32);
        for b in blocks {
            self.block(b);
        }
    }

    fn block(&mut self, b: &BlockEntry) {
        self.head.put_u64_le(b.block);
        self.head.put_u64_le(b.version);
        self.head.put_u32_le(b.crc);
        self.head.put_u8(match b.kind {
            BlockKind::Zero => 0,
            BlockKind::Data => 1,
            BlockKind::Bad => 2,
        });
    }

    fn payload(&mut self, data: &Bytes) {
        self.head.put_u32_le(data.len() as u32);
        if !data.is_empty() {
            self.tail.push(data.clone());
        }
    }

    fn records(&mut self, records: &[Record]) {
        self.head.put_u32_le(records.len() as u32);
        self.head.put_u64_le(records.first().map_or(0, |r| r.seq));
        for r in records {
            match &r.body {
                Body::Write { block, crcs, data } => {
                    self.head.put_u8(1);
                    self.head.put_u64_le(*block);
                    self.head.put_u32_le(crcs.len() as u32);
                    for crc in crcs {
                        self.head.put_u32_le(*crc);
                    }
                    self.payload(data);
                }
                Body::Zero {
                    block,
                    count,
                    discard,
                } => {
                    self.head.put_u8(2);
                    self.head.put_u64_le(*block);
                    self.head.put_u64_le(*count);
                    self.head.put_u8(u8::from(*discard));
                }
                Body::Resize { blocks } => {
                    self.head.put_u8(3);
                    self.head.put_u64_le(*blocks);
                }
            }
        }
    }

    fn start(&mut self, kind: u8, epoch: &Epoch) {
        self.head.put_u8(kind);
        self.epoch(epoch);
    }

    fn message(&mut self, m: &Message) {
        match m {
            Message::Hello => self.head.put_u8(1),
            Message::Prepare { epoch } => self.start(2, epoch),
            Message::Truncate {
                epoch,
                keep,
                history,
                commit,
                copy_from,
                blocks,
            } => {
                self.start(3, epoch);
                self.head.put_u64_le(*keep);
                self.history(history);
                self.head.put_u64_le(*commit);
                self.head.put_u8(u8::from(copy_from.is_some()));
                self.head.put_u64_le(copy_from.unwrap_or(0));
                self.head.put_u64_le(*blocks);
            }
            Message::Adopt {
                epoch,
                history,
                peers,
            } => {
                self.start(4, epoch);
                self.history(history);
                self.peers(peers);
            }
            Message::Append {
                epoch,
                sent_at,
                commit,
                sync_to,
                records,
            } => {
                self.start(5, epoch);
                self.head.put_u64_le(*sent_at);
                self.head.put_u64_le(*commit);
                self.head.put_u64_le(*sync_to);
                self.records(records);
            }
            Message::Read {
                epoch,
                request,
                block,
                count,
                min_seq,
                applied_only,
            } => {
                self.start(6, epoch);
                self.head.put_u64_le(*request);
                self.head.put_u64_le(*block);
                self.head.put_u32_le(*count);
                self.head.put_u64_le(*min_seq);
                self.head.put_u8(u8::from(*applied_only));
            }
            Message::FetchLog {
                epoch,
                request,
                from,
                to,
            } => {
                self.start(7, epoch);
                self.head.put_u64_le(*request);
                self.head.put_u64_le(*from);
                self.head.put_u64_le(*to);
            }
            Message::CopyRead {
                epoch,
                request,
                from,
                to,
                have,
                applied,
            } => {
                self.start(8, epoch);
                for v in [*request, *from, *to, *have, *applied] {
                    self.head.put_u64_le(v);
                }
            }
            Message::CopyWrite {
                epoch,
                request,
                cursor,
                blocks,
                data,
            } => {
                self.start(9, epoch);
                self.head.put_u64_le(*request);
                self.head.put_u64_le(*cursor);
                self.blocks(blocks);
                self.payload(data);
            }
            Message::CopyDone { epoch, end } => {
                self.start(10, epoch);
                self.head.put_u64_le(*end);
            }
            Message::Digest {
                epoch,
                request,
                block,
                count,
            } => {
                self.start(11, epoch);
                self.head.put_u64_le(*request);
                self.head.put_u64_le(*block);
                self.head.put_u32_le(*count);
            }
            Message::Repair {
                epoch,
                seen,
                good,
                data,
            } => {
                self.start(12, epoch);
                self.block(seen);
                self.block(good);
                self.payload(data);
            }
            Message::Close { epoch } => self.start(13, epoch),
            _ => self.replica_message(m),
        }
    }

    fn replica_message(&mut self, m: &Message) {
        match m {
            Message::Welcome {
                id,
                incarnation,
                promised,
                failed,
            } => {
                self.start(64, promised);
                self.head.put_u128_le(id.0);
                self.head.put_u128_le(*incarnation);
                self.head.put_u8(u8::from(*failed));
            }
            Message::Refused { promised } => self.start(65, promised),
            Message::Promise(p) => self.promise(p),
            Message::Truncated {
                epoch,
                end,
                pieces,
                cursor,
            } => {
                self.start(67, epoch);
                self.head.put_u64_le(*end);
                self.head.put_u32_le(pieces.len() as u32);
                for (block, have) in pieces {
                    self.head.put_u64_le(*block);
                    self.head.put_u64_le(*have);
                }
                self.head.put_u64_le(*cursor);
            }
            Message::Adopted { epoch, end } => {
                self.start(68, epoch);
                self.head.put_u64_le(*end);
            }
            Message::Ack {
                epoch,
                echo,
                received,
                durable,
                answers,
            } => {
                self.start(69, epoch);
                self.head.put_u64_le(*echo);
                self.head.put_u64_le(*received);
                self.head.put_u64_le(*durable);
                self.head.put_u8(u8::from(*answers));
            }
            Message::ReadReply {
                request,
                ready,
                blocks,
                data,
            } => {
                self.head.put_u8(70);
                self.head.put_u64_le(*request);
                self.head.put_u8(u8::from(*ready));
                self.blocks(blocks);
                self.payload(data);
            }
            Message::LogRecords {
                request,
                journal_first,
                records,
            } => {
                self.head.put_u8(71);
                self.head.put_u64_le(*request);
                self.head.put_u64_le(*journal_first);
                self.records(records);
            }
            Message::CopyData {
                request,
                next,
                applied,
                blocks,
                data,
            } => {
                self.head.put_u8(72);
                for v in [*request, *next, *applied] {
                    self.head.put_u64_le(v);
                }
                self.blocks(blocks);
                self.payload(data);
            }
            Message::CopyWritten { request } => {
                self.head.put_u8(73);
                self.head.put_u64_le(*request);
            }
            Message::CopyCompleted { epoch, end } => {
                self.start(74, epoch);
                self.head.put_u64_le(*end);
            }
            Message::DigestReply {
                request,
                at,
                digests,
                bad,
            } => {
                self.head.put_u8(75);
                self.head.put_u64_le(*request);
                self.head.put_u64_le(*at);
                self.head.put_u32_le(digests.len() as u32);
                for d in digests {
                    self.head.put_u64_le(*d);
                }
                self.blocks(bad);
            }
            Message::Failed { reason } => {
                self.head.put_u8(76);
                self.head.put_u32_le(reason.len() as u32);
                self.head.put_slice(reason.as_bytes());
            }
            _ => unreachable!("messages of the engine are written by `message`"),
        }
    }

    fn promise(&mut self, p: &Promise) {
        self.start(66, &p.epoch);
        self.head.put_u128_le(p.id.0);
        self.head.put_u128_le(p.incarnation);
        self.head.put_u64_le(p.starts);
        self.head.put_u64_le(p.end);
        self.history(&p.history);
        self.head
            .put_u8(u8::from(p.lossy) | u8::from(p.copying) << 1 | u8::from(p.blank) << 2);
        for v in [p.journal_first, p.commit, p.flushed, p.lease, p.blocks] {
            self.head.put_u64_le(v);
        }
        self.peers(&p.peers);
    }
}

/// Longest list in a message; a bound on what a broken peer can make us allocate.
const MAX_LIST: usize = 1 << 20;

struct Reader {
    buf: Bytes,
}

type R<T> = Result<T, DecodeError>;

impl Reader {
    fn need(&self, n: usize) -> R<()> {
        if self.buf.remaining() < n {
            Err(DecodeError::Short)
        } else {
            Ok(())
        }
    }
    fn u8(&mut self) -> R<u8> {
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
        let n = self.list(9)?;
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

    fn from_engine(&mut self, kind: u8) -> R<Message> {
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
            },
            9 => {
                let (request, cursor) = (self.u64()?, self.u64()?);
                let (blocks, data) = self.blocks_and_payload()?;
                Message::CopyWrite {
                    epoch,
                    request,
                    cursor,
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
            },
            12 => Message::Repair {
                epoch,
                seen: self.block()?,
                good: self.block()?,
                data: self.payload()?,
            },
            13 => Message::Close { epoch },
            _ => return Err(DecodeError::Unknown(WIRE_VERSION, kind)),
        })
    }

    fn from_replica(&mut self, kind: u8) -> R<Message> {
        Ok(match kind {
            64 => {
                let promised = self.epoch()?;
                let (id, incarnation) = (ReplicaId(self.u128()?), self.u128()?);
                Message::Welcome {
                    id,
                    incarnation,
                    promised,
                    failed: self.bool()?,
                }
            }
            65 => Message::Refused {
                promised: self.epoch()?,
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
        })
    }
}
