//! Answers that change nothing: reads, log records, blocks for a learner, digests.

use super::blocks::Entry;
use super::index::{Held, HeldKind};
use super::journal::Fetched;
use super::{During, Fault, Outcome, Replica, ReplicaAction};
use crate::core::checksum;
use crate::core::types::{BLOCK, Nanos, Seq};
use crate::core::wire::{BlockEntry, BlockKind, Body, MAX_RECORD_BLOCKS, Message, Record};
use bytes::Bytes;
use std::sync::Arc;

/// Data in one answer to `FetchLog` or `CopyRead`, about.
const ANSWER_BYTES: usize = 1 << 20;
/// Entries looked at for one `CopyRead`: a GiB of volume, some milliseconds.
const COPY_SCAN: u64 = 256 << 10;
/// Blocks of one digest.
pub const DIGEST_BLOCKS: u64 = 16;
/// Most blocks of one `Digest` message.
pub const MAX_DIGEST: u32 = 1024;

/// Where the newest content of a block is.
#[derive(Clone)]
enum Source {
    Place(Entry),
    Journal(Arc<Held>),
}

/// Blocks as they go into an answer.
struct Composed {
    blocks: Vec<BlockEntry>,
    data: Vec<u8>,
}

impl Replica {
    pub(super) fn serve(
        &mut self,
        now: Nanos,
        session: u64,
        message: Message,
        out: &mut Vec<ReplicaAction>,
    ) -> Outcome {
        let learner = self.state.copy.is_some() && !self.settings.mutations.r5_learner_is_source;
        let message = match message {
            Message::Read {
                request,
                block,
                count,
                min_seq,
                applied_only,
                ..
            } => {
                let ready = self.adopted
                    && !learner
                    && if applied_only {
                        self.applied >= min_seq
                    } else {
                        self.journal.end >= min_seq
                    };
                if applied_only {
                    self.want_applied = self.want_applied.max(min_seq);
                }
                self.read(request, block, count, ready, applied_only)?
            }
            Message::FetchLog {
                request, from, to, ..
            } => {
                let records = if learner {
                    Vec::new()
                } else {
                    self.fetch(from, to)?
                };
                if records.is_empty() && !learner && from > self.stable && from <= self.journal.end {
                    return self.damaged(session, from - 1, out);
                }
                Message::LogRecords {
                    request,
                    journal_first: self.journal.first(),
                    records,
                }
            }
            Message::CopyRead {
                request,
                from,
                to,
                have,
                applied,
                ..
            } => {
                self.want_applied = self.want_applied.max(applied);
                let ready = !learner && self.applied >= applied;
                self.copy_read(request, from, if ready { to } else { from }, have)?
            }
            Message::Digest {
                request,
                block,
                count,
                ..
            } => self.digest(request, block, count)?,
            _ => return Err(Fault::Protocol("a message that only replicas send")),
        };
        let _ = now;
        out.push(ReplicaAction::Send { session, message });
        Ok(())
    }

    fn read(
        &mut self,
        request: u64,
        block: u64,
        count: u32,
        ready: bool,
        applied_only: bool,
    ) -> Result<Message, Fault> {
        let count = u64::from(count.min(MAX_RECORD_BLOCKS));
        if !ready {
            return Ok(Message::ReadReply {
                request,
                ready,
                blocks: Vec::new(),
                data: Bytes::new(),
            });
        }
        let c = self.compose(block, count, applied_only)?;
        Ok(Message::ReadReply {
            request,
            ready,
            blocks: c.blocks,
            data: Bytes::from(c.data),
        })
    }

    fn sources(&self, block: u64, count: u64, applied_only: bool) -> Result<Vec<Source>, Fault> {
        let entries = self.blocks.entries(block, count).during("reading entries")?;
        let mut sources: Vec<Source> = entries.into_iter().map(Source::Place).collect();
        if applied_only {
            return Ok(sources);
        }
        let sweep = self.sweep.as_ref().map(|s| &s.index);
        for index in sweep.into_iter().chain([&self.stable_index, &self.recent_index]) {
            if index.is_empty() {
                continue;
            }
            for piece in index.lookup(block, block + count) {
                let range = (piece.start - block) as usize..(piece.end - block) as usize;
                sources[range].fill(Source::Journal(piece.held));
            }
        }
        Ok(sources)
    }

    /// The newest content of blocks, each checked against its checksum.
    fn compose(&self, block: u64, count: u64, applied_only: bool) -> Result<Composed, Fault> {
        let sources = self.sources(block, count, applied_only)?;
        let mut c = Composed {
            blocks: Vec::with_capacity(count as usize),
            data: Vec::with_capacity(count as usize * BLOCK),
        };
        self.compose_sources(block, &sources, &mut c)?;
        Ok(c)
    }

    fn compose_sources(&self, block: u64, sources: &[Source], c: &mut Composed) -> Outcome {
        let mut i = 0;
        while i < sources.len() {
            let same = |s: &Source| match (s, &sources[i]) {
                (Source::Place(a), Source::Place(b)) => a.is_data() && b.is_data(),
                (Source::Journal(a), Source::Journal(b)) => a.seq == b.seq,
                _ => false,
            };
            let run = 1 + sources[i + 1..].iter().take_while(|s| same(s)).count();
            self.compose_run(block + i as u64, &sources[i..i + run], c)?;
            i += run;
        }
        Ok(())
    }

    fn compose_run(&self, block: u64, run: &[Source], c: &mut Composed) -> Outcome {
        let from = c.data.len();
        let whole = match &run[0] {
            Source::Place(entry) if entry.is_data() => {
                c.data.resize(from + run.len() * BLOCK, 0);
                self.blocks.read(block, &mut c.data[from..]).is_ok()
            }
            Source::Journal(held) if matches!(held.kind, HeldKind::Data { .. }) => {
                c.data.resize(from + run.len() * BLOCK, 0);
                self.journal.read(held, block, &mut c.data[from..]).is_ok()
            }
            _ => true,
        };
        let mut bad = Vec::new();
        for (i, source) in run.iter().enumerate() {
            let at = block + i as u64;
            let (version, crc, kind) = match source {
                Source::Place(e) if e.is_sound_zero(self.seed, at) => (e.version, e.crc, BlockKind::Zero),
                Source::Place(e) if e.is_data() => (e.version, e.crc, BlockKind::Data),
                Source::Place(e) => (e.version, e.crc, BlockKind::Bad),
                Source::Journal(held) => match &held.kind {
                    HeldKind::Data { crcs, .. } => {
                        (held.seq, crcs[(at - held.block) as usize], BlockKind::Data)
                    }
                    _ => (held.seq, 0, BlockKind::Zero),
                },
            };
            let mut entry = BlockEntry {
                block: at,
                version,
                crc,
                kind,
            };
            if kind == BlockKind::Data {
                let bytes = &c.data[from + i * BLOCK..from + (i + 1) * BLOCK];
                if !whole || checksum::block(self.seed, at, version, bytes) != crc {
                    entry.kind = BlockKind::Bad;
                    bad.push(i);
                }
            }
            c.blocks.push(entry);
        }
        if !bad.is_empty() {
            tracing::warn!(volume = %self.state.meta.volume, id = %self.state.meta.id, block, bad = bad.len(),
                "blocks do not match their checksums");
        }
        for i in bad.into_iter().rev() {
            c.data.drain(from + i * BLOCK..from + (i + 1) * BLOCK);
        }
        Ok(())
    }

    fn fetch(&self, from: Seq, to: Seq) -> Result<Vec<Record>, Fault> {
        let found = self
            .journal
            .fetch(from, to, ANSWER_BYTES)
            .during("reading the journal")?;
        let Fetched::Records(mut records) = found else {
            return Ok(Vec::new());
        };
        // A record that rotted is as good as gone; its blocks are copied instead.
        let good = |r: &Record| match &r.body {
            Body::Write { block, crcs, data } => {
                let sums = data.chunks_exact(BLOCK).enumerate();
                sums.zip(crcs)
                    .all(|((i, b), crc)| checksum::block(self.seed, block + i as u64, r.seq, b) == *crc)
            }
            Body::Zero { .. } | Body::Resize { .. } => true,
        };
        let whole = records.iter().take_while(|r| good(r)).count();
        records.truncate(whole);
        Ok(records)
    }

    fn copy_read(&self, request: u64, from: u64, to: u64, have: Seq) -> Result<Message, Fault> {
        let end = to.min(self.state.blocks);
        let mut next = from;
        let mut c = Composed {
            blocks: Vec::new(),
            data: Vec::new(),
        };
        while next < end && next - from < COPY_SCAN && c.data.len() < ANSWER_BYTES {
            let count = (end - next).min(u64::from(MAX_RECORD_BLOCKS));
            let entries = self.blocks.entries(next, count).during("reading entries")?;
            // Only what the learner lacks, and what is bad here, is read.
            let wanted =
                |(at, e): (u64, &Entry)| e.version > have || !(e.is_data() || e.is_sound_zero(self.seed, at));
            let wanted: Vec<bool> = (next..).zip(&entries).map(wanted).collect();
            let mut from = 0;
            for run in wanted.chunk_by(|a, b| a == b) {
                if run[0] {
                    let places = entries[from..from + run.len()].iter().copied();
                    let sources: Vec<Source> = places.map(Source::Place).collect();
                    self.compose_sources(next + from as u64, &sources, &mut c)?;
                }
                from += run.len();
            }
            next += count;
        }
        if next >= end {
            // Blocks beyond the size as applied have nothing yet; a growth that is still in the stream brings its own.
            next = to;
        }
        Ok(Message::CopyData {
            request,
            next,
            applied: self.applied,
            blocks: c.blocks,
            data: Bytes::from(c.data),
        })
    }

    fn digest(&self, request: u64, block: u64, count: u32) -> Result<Message, Fault> {
        let end = (block + u64::from(count.min(MAX_DIGEST))).max(block);
        let mut digests = Vec::new();
        let mut bad = Vec::new();
        let zeroes = vec![0u8; DIGEST_BLOCKS as usize * BLOCK];
        let mut at = block;
        while at < end {
            let n = DIGEST_BLOCKS.min(end - at);
            let c = self.compose(at, n, false)?;
            let mut content = zeroes[..n as usize * BLOCK].to_vec();
            let mut from = 0;
            for (i, b) in c.blocks.iter().enumerate() {
                if b.kind == BlockKind::Data {
                    content[i * BLOCK..(i + 1) * BLOCK].copy_from_slice(&c.data[from..from + BLOCK]);
                    from += BLOCK;
                } else if b.kind == BlockKind::Bad {
                    bad.push(*b);
                }
            }
            digests.push(checksum::wide(&content));
            at += n;
        }
        Ok(Message::DigestReply {
            request,
            at: self.journal.end,
            digests,
            bad,
        })
    }
}
