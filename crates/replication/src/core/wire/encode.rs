//! Writing the binary form: version, kind, fixed-width little-endian fields, payload last so that it is never copied.

use super::decode::Reader;
use super::*;
use bytes::{BufMut, BytesMut};

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
        let mut r = Reader::new(frame);
        let version = r.u8()?;
        let kind = r.u8()?;
        if version != WIRE_VERSION {
            return Err(DecodeError::Unknown(version, kind));
        }
        if kind < 64 {
            r.engine_message(kind)
        } else {
            r.replica_message(kind)
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
                Body::Snapshot { name } => {
                    self.head.put_u8(4);
                    self.name(name);
                }
                Body::DropSnapshot { snapshot } => {
                    self.head.put_u8(5);
                    self.head.put_u64_le(*snapshot);
                }
            }
        }
    }

    fn name(&mut self, name: &str) {
        self.head.put_u32_le(name.len() as u32);
        self.head.put_slice(name.as_bytes());
    }

    fn snapshots(&mut self, snapshots: &[SnapshotInfo]) {
        self.head.put_u32_le(snapshots.len() as u32);
        for s in snapshots {
            self.name(&s.name);
            self.head.put_u64_le(s.seq);
            self.head.put_u64_le(s.blocks);
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
                snapshots,
            } => {
                self.start(3, epoch);
                self.head.put_u64_le(*keep);
                self.history(history);
                self.head.put_u64_le(*commit);
                self.head.put_u8(u8::from(copy_from.is_some()));
                self.head.put_u64_le(copy_from.unwrap_or(0));
                self.head.put_u64_le(*blocks);
                self.snapshots(snapshots);
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
                snapshot,
            } => {
                self.start(6, epoch);
                self.head.put_u64_le(*request);
                self.head.put_u64_le(*block);
                self.head.put_u32_le(*count);
                self.head.put_u64_le(*min_seq);
                self.head.put_u8(u8::from(*applied_only));
                self.head.put_u64_le(*snapshot);
            }
            _ => self.copy_message(m),
        }
    }

    fn copy_message(&mut self, m: &Message) {
        match m {
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
                snapshot,
                until,
            } => {
                self.start(8, epoch);
                for v in [*request, *from, *to, *have, *applied, *snapshot, *until] {
                    self.head.put_u64_le(v);
                }
            }
            Message::CopyWrite {
                epoch,
                request,
                cursor,
                snapshot,
                blocks,
                data,
            } => {
                self.start(9, epoch);
                self.head.put_u64_le(*request);
                self.head.put_u64_le(*cursor);
                self.head.put_u64_le(*snapshot);
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
                snapshot,
            } => {
                self.start(11, epoch);
                self.head.put_u64_le(*request);
                self.head.put_u64_le(*block);
                self.head.put_u32_le(*count);
                self.head.put_u64_le(*snapshot);
            }
            Message::Repair {
                epoch,
                seen,
                good,
                snapshot,
                data,
            } => {
                self.start(12, epoch);
                self.block(seen);
                self.block(good);
                self.head.put_u64_le(*snapshot);
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
                begun,
                failed,
            } => {
                self.start(64, promised);
                self.head.put_u128_le(id.0);
                self.head.put_u128_le(*incarnation);
                self.epoch(begun);
                self.head.put_u8(u8::from(*failed));
            }
            Message::Refused { promised, begun } => {
                self.start(65, promised);
                self.epoch(begun);
            }
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
            _ => self.answer(m),
        }
    }

    fn answer(&mut self, m: &Message) {
        match m {
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
            Message::Damaged {
                epoch,
                snapshot,
                blocks,
            } => {
                self.start(77, epoch);
                self.head.put_u64_le(*snapshot);
                self.blocks(blocks);
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
        self.snapshots(&p.snapshots);
    }
}
