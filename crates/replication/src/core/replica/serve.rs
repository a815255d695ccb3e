//! Answers that change nothing: reads, log records, blocks for a learner, digests.

use super::blocks::Entry;
use super::index::{Held, HeldKind};
use super::journal::Fetched;
use super::layers::Kept;
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
    /// In the layer of a snapshot.
    Layer(usize, Entry),
    /// Kept nowhere although it should be.
    Lost(Entry),
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
                snapshot: 0,
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
            Message::Read {
                request,
                block,
                count,
                snapshot,
                ..
            } => {
                let layer = self.layer_of(snapshot).filter(|_| self.adopted && !learner);
                self.read_snapshot(request, block, count, layer)?
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
                snapshot,
                until,
                ..
            } => {
                self.want_applied = self.want_applied.max(applied);
                let ready = !learner && self.applied >= applied;
                let to = if ready { to } else { from };
                if snapshot == 0 {
                    self.copy_read(request, from, to, have)?
                } else {
                    self.copy_layer(request, (from, to), self.layer_of(snapshot), until)?
                }
            }
            Message::Digest {
                request,
                block,
                count,
                snapshot,
                ..
            } => {
                if snapshot > 0 && self.layer_of(snapshot).is_none() {
                    // Perhaps its record is not stable here yet.
                    self.journal.sync_all().during("syncing the journal")?;
                    self.promote(now)?;
                }
                self.digest(request, block, count, snapshot)?
            }
            _ => return Err(Fault::Protocol("a message that only replicas send")),
        };
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

    /// Blocks of a snapshot.
    fn read_snapshot(
        &mut self,
        request: u64,
        block: u64,
        count: u32,
        layer: Option<usize>,
    ) -> Result<Message, Fault> {
        let count = u64::from(count.min(MAX_RECORD_BLOCKS));
        let Some(layer) = layer.filter(|l| block.saturating_add(count) <= self.state.layers[*l].info.blocks)
        else {
            return self.read(request, block, 0, false, false);
        };
        let c = self.compose_snapshot(layer, block, count)?;
        Ok(Message::ReadReply {
            request,
            ready: true,
            blocks: c.blocks,
            data: Bytes::from(c.data),
        })
    }

    fn compose_snapshot(&self, layer: usize, block: u64, count: u64) -> Result<Composed, Fault> {
        let source = |kept| match kept {
            Kept::Layer(at, entry) => Source::Layer(at, entry),
            Kept::Place(entry) => Source::Place(entry),
            Kept::Lost(entry) => Source::Lost(entry),
        };
        let sources: Vec<Source> = self.kept(layer, block, count)?.into_iter().map(source).collect();
        let mut c = Composed {
            blocks: Vec::with_capacity(count as usize),
            data: Vec::new(),
        };
        self.compose_sources(block, &sources, &mut c)?;
        Ok(c)
    }

    /// What the layer of a snapshot has, for a learner; one that was dropped has nothing.
    fn copy_layer(
        &self,
        request: u64,
        (from, to): (u64, u64),
        layer: Option<usize>,
        until: Seq,
    ) -> Result<Message, Fault> {
        let mut next = from;
        let mut c = Composed {
            blocks: Vec::new(),
            data: Vec::new(),
        };
        let end = layer.map_or(from, |l| to.min(self.state.layers[l].info.blocks));
        while let Some(layer) = layer
            && next < end
            && next - from < COPY_SCAN
            && c.data.len() < ANSWER_BYTES
        {
            let count = (end - next).min(u64::from(MAX_RECORD_BLOCKS));
            let found = self.layer_blocks(layer, until, next, count)?;
            for (block, found) in (next..).zip(found) {
                if let Some((at, entry)) = found {
                    self.compose_sources(block, &[Source::Layer(at, entry)], &mut c)?;
                }
            }
            next += count;
        }
        if next >= end {
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
                (Source::Layer(i, a), Source::Layer(j, b)) => i == j && a.is_data() && b.is_data(),
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
            Source::Layer(at, entry) if entry.is_data() => {
                c.data.resize(from + run.len() * BLOCK, 0);
                let store = &self.layers.stores[*at].blocks;
                store.read(block, &mut c.data[from..]).is_ok()
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
                Source::Layer(_, e) if *e == Entry::absent(self.seed, at) => (0, 0, BlockKind::Zero),
                Source::Place(e) | Source::Layer(_, e) if e.is_sound_zero(self.seed, at) => {
                    (e.version, e.crc, BlockKind::Zero)
                }
                Source::Place(e) | Source::Layer(_, e) if e.is_data() => (e.version, e.crc, BlockKind::Data),
                Source::Place(e) | Source::Layer(_, e) | Source::Lost(e) => {
                    (e.version, e.crc, BlockKind::Bad)
                }
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
            _ => true,
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

    fn digest(&self, request: u64, block: u64, count: u32, snapshot: Seq) -> Result<Message, Fault> {
        let layer = self.layer_of(snapshot);
        let known = layer.map(|l| self.state.layers[l].info.blocks);
        if snapshot > 0 && known.is_none_or(|blocks| block.saturating_add(u64::from(count)) > blocks) {
            return Ok(Message::DigestReply {
                request,
                at: 0,
                digests: Vec::new(),
                bad: Vec::new(),
            });
        }
        let end = (block + u64::from(count.min(MAX_DIGEST))).max(block);
        let mut digests = Vec::new();
        let mut bad = Vec::new();
        let zeroes = vec![0u8; DIGEST_BLOCKS as usize * BLOCK];
        let mut at = block;
        while at < end {
            let n = DIGEST_BLOCKS.min(end - at);
            let c = match layer {
                Some(layer) => self.compose_snapshot(layer, at, n)?,
                None => self.compose(at, n, false)?,
            };
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
            at: if snapshot > 0 { snapshot } else { self.journal.end },
            digests,
            bad,
        })
    }
}
