//! Requests of the device: admission in order, sub-block writes under a lock, completion.

use super::reads::Owner;
use super::stream::WINDOW_BYTES;
use super::{BTreeMap, Engine, EngineAction, Op, OpError, Phase, VecDeque, verify};
use crate::core::checksum;
use crate::core::types::{BLOCK, Nanos, Seq};
use crate::core::wire::{Body, MAX_RECORD_BLOCKS, Message};
use bytes::{Bytes, BytesMut};

const BLOCK_BYTES: u64 = BLOCK as u64;

/// So many flushes in a row, each after at most [`EAGER_RECORDS`] records, make a habit.
const HABIT: u32 = 4;
/// See [`HABIT`].
const EAGER_RECORDS: u64 = 2;

/// Whether the device is used by somebody who flushes after every write or two (a database's log, a file system's
/// journal). Then the members sync such a write when it comes, while its answer is still on the way, and the flush that
/// follows has less to wait for. A wrong guess costs them one sync.
#[derive(Default)]
struct Habit {
    flushes: u32,
    /// Last record when the last flush came.
    flushed: Seq,
}

impl Habit {
    fn flush(&mut self, last: Seq) {
        let few = (1..=EAGER_RECORDS).contains(&last.saturating_sub(self.flushed));
        self.flushes = if few { (self.flushes + 1).min(HABIT) } else { 0 };
        self.flushed = last;
    }

    /// A record was assigned; whether its flush is to be expected.
    fn expects_flush(&mut self, last: Seq) -> bool {
        if last.saturating_sub(self.flushed) > EAGER_RECORDS {
            self.flushes = 0;
        }
        self.flushes >= HABIT
    }
}

/// What a request waits for.
#[derive(Default)]
pub(super) struct Requests {
    habit: Habit,
    /// When the last write or zero was admitted.
    last_change: Nanos,
    /// Not admitted yet, in order. Bounded by what the device lets be outstanding.
    queue: VecDeque<(u64, Op)>,
    /// (seq, request): complete when committed. Ascending.
    committed: VecDeque<(Seq, u64)>,
    /// Complete when durable.
    durable: BTreeMap<(Seq, u64), ()>,
    /// Ranges of blocks under read-modify-write: everything that the request will write, not its edges alone.
    locked: Vec<(u64, u64)>,
    modifying: BTreeMap<u64, Modify>,
    closing: Option<u64>,
    /// New size in blocks once the record is durable.
    growing: VecDeque<(Seq, u64)>,
}

/// A write or zero that begins or ends inside of a block.
struct Modify {
    request: u64,
    op: Op,
    /// (block, content): one or two.
    edges: Vec<(u64, Option<Bytes>)>,
}

/// Offset and length of a request that changes data.
fn span(op: &Op) -> Option<(u64, u64)> {
    match op {
        Op::Write { offset, data, .. } => Some((*offset, data.len() as u64)),
        Op::Zero { offset, len, .. } => Some((*offset, *len)),
        _ => None,
    }
}

impl Requests {
    /// When the device last changed something, or waited for it to be durable.
    pub fn last_change(&self) -> Nanos {
        self.last_change
    }
}

impl Engine {
    pub(super) fn complete(&mut self, request: u64, result: Result<Bytes, OpError>) {
        self.out.push(EngineAction::Complete { request, result });
    }

    pub(super) fn submit(&mut self, request: u64, op: Op) {
        match self.phase {
            Phase::Deposed => self.complete(request, Err(OpError::Deposed)),
            Phase::Closed => self.complete(request, Err(OpError::Closed)),
            _ if self.requests.closing.is_some() => self.complete(request, Err(OpError::Closed)),
            // These wait for no write that has not completed.
            Phase::Open if matches!(op, Op::Read { .. } | Op::ReadSnapshot { .. } | Op::Flush) => {
                self.start(request, op)
            }
            _ => self.requests.queue.push_back((request, op)),
        }
    }

    /// Starts what is queued, in order, as far as window and locks allow.
    pub(super) fn admit(&mut self) {
        while self.phase == Phase::Open {
            let Some((_, op)) = self.requests.queue.front() else {
                return;
            };
            if let Some((offset, len)) = span(op) {
                if self.verify_holds() {
                    return;
                }
                if self.stream.in_flight() >= WINDOW_BYTES {
                    self.stream.sync_to = self.stream.last;
                    return;
                }
                let end = offset.saturating_add(len);
                let blocks = offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES);
                let overlaps = |(start, end): &(u64, u64)| *start < blocks.end && blocks.start < *end;
                if self.requests.locked.iter().any(overlaps) {
                    return;
                }
            }
            let Some((request, op)) = self.requests.queue.pop_front() else {
                return;
            };
            self.start(request, op);
        }
    }

    fn start(&mut self, request: u64, op: Op) {
        let size = self.blocks * BLOCK_BYTES;
        let range = match &op {
            Op::Read { offset, len } => Some((*offset, u64::from(*len))),
            other => span(other),
        };
        if let Some((offset, len)) = range {
            if offset.checked_add(len).is_none_or(|end| end > size) {
                return self.complete(request, Err(OpError::OutOfRange));
            }
            if len == 0 {
                return self.complete(request, Ok(Bytes::new()));
            }
        }
        match op {
            Op::Read { offset, len } => self.start_read(request, offset, len, 0),
            Op::Snapshot { name } => self.take_snapshot(request, name),
            Op::DropSnapshot { name } => self.drop_snapshot(request, &name),
            Op::ReadSnapshot {
                snapshot,
                offset,
                len,
            } => self.read_snapshot(request, snapshot, offset, len),
            Op::Flush => self.start_flush(request),
            Op::Write { .. } | Op::Zero { .. } => self.start_change(request, op),
            Op::Expand { size_bytes } => {
                let blocks = size_bytes.div_ceil(BLOCK_BYTES);
                let grown = self.size_at_end();
                if blocks <= grown && self.requests.growing.is_empty() {
                    return self.complete(request, Ok(Bytes::new()));
                }
                let blocks = blocks.max(grown);
                let seq = self.stream.push(Body::Resize { blocks });
                self.requests.growing.push_back((seq, blocks));
                self.wait_durable(seq, request);
            }
            Op::Verify => {
                if let Some(old) = self.verify.take() {
                    self.complete(old.request, Err(OpError::NotComplete));
                }
                self.verify = Some(verify::Verify::new(
                    request,
                    self.peers.len(),
                    self.snapshots.list(),
                ));
            }
            Op::Close => {
                self.requests.closing = Some(request);
                self.stream.sync_to = self.stream.last;
            }
        }
    }

    /// Blocks once everything in the stream is durable.
    pub(super) fn size_at_end(&self) -> u64 {
        self.requests.growing.back().map_or(self.blocks, |g| g.1)
    }

    pub(super) fn wait_durable(&mut self, seq: Seq, request: u64) {
        if seq <= self.stream.durable {
            return self.complete(request, Ok(Bytes::new()));
        }
        self.stream.sync_to = self.stream.sync_to.max(seq);
        self.requests.durable.insert((seq, request), ());
    }

    fn start_flush(&mut self, request: u64) {
        self.requests.last_change = self.now;
        self.requests.habit.flush(self.stream.last);
        // Everything completed before is committed.
        self.wait_durable(self.stream.committed, request);
    }

    fn start_change(&mut self, request: u64, op: Op) {
        let Some((offset, len)) = span(&op) else { return };
        let (first, last) = (offset / BLOCK_BYTES, (offset + len - 1) / BLOCK_BYTES);
        let mut edges = Vec::new();
        if offset % BLOCK_BYTES != 0 || (first == last && len % BLOCK_BYTES != 0) {
            edges.push((first, None));
        }
        if (offset + len) % BLOCK_BYTES != 0 && last != first {
            edges.push((last, None));
        }
        if edges.is_empty() {
            return self.assign(request, op, &[]);
        }
        let id = self.request_id();
        let min_seq = self.stream.last;
        self.requests.locked.push((first, last + 1));
        for (block, _) in &edges {
            self.read_blocks(Owner::Modify(id), *block, 1, min_seq);
        }
        self.requests.modifying.insert(id, Modify { request, op, edges });
    }

    /// The old content of an edge block has come.
    pub(super) fn modified(&mut self, id: u64, block: u64, result: Result<Bytes, OpError>) {
        let Some(modify) = self.requests.modifying.get_mut(&id) else {
            return;
        };
        let content = match result {
            Ok(content) => content,
            Err(e) => {
                if let Some(modify) = self.requests.modifying.remove(&id) {
                    self.unlock(&modify);
                    self.complete(modify.request, Err(e));
                }
                return;
            }
        };
        for edge in &mut modify.edges {
            if edge.0 == block {
                edge.1 = Some(content.clone());
            }
        }
        if modify.edges.iter().all(|e| e.1.is_some())
            && let Some(modify) = self.requests.modifying.remove(&id)
        {
            self.unlock(&modify);
            let edges: Vec<(u64, Bytes)> = modify
                .edges
                .into_iter()
                .filter_map(|(b, content)| Some((b, content?)))
                .collect();
            self.assign(modify.request, modify.op, &edges);
        }
    }

    fn unlock(&mut self, modify: &Modify) {
        let Some((offset, len)) = span(&modify.op) else {
            return;
        };
        let range = (offset / BLOCK_BYTES, (offset + len).div_ceil(BLOCK_BYTES));
        if let Some(at) = self.requests.locked.iter().position(|r| *r == range) {
            self.requests.locked.swap_remove(at);
        }
    }

    /// Gives a change its place in the log.
    fn assign(&mut self, request: u64, op: Op, edges: &[(u64, Bytes)]) {
        let mut durable = self.settings.write_through;
        let last = match op {
            Op::Write { offset, data, fua } => {
                durable |= fua;
                self.assign_data(offset, data, edges)
            }
            Op::Zero { offset, len, discard } => self.assign_zero(offset, len, discard, edges),
            _ => return,
        };
        self.requests.last_change = self.now;
        if durable {
            return self.wait_durable(last, request);
        }
        if self.requests.habit.expects_flush(last) {
            self.stream.sync_to = last;
        }
        self.requests.committed.push_back((last, request));
    }

    fn assign_data(&mut self, offset: u64, data: Bytes, edges: &[(u64, Bytes)]) -> Seq {
        let first = offset / BLOCK_BYTES;
        let whole = if edges.is_empty() {
            data
        } else {
            let end = (offset + data.len() as u64).div_ceil(BLOCK_BYTES);
            let mut all = BytesMut::zeroed((end - first) as usize * BLOCK);
            for (block, content) in edges {
                let at = (block - first) as usize * BLOCK;
                all[at..at + BLOCK].copy_from_slice(content);
            }
            let at = (offset - first * BLOCK_BYTES) as usize;
            all[at..at + data.len()].copy_from_slice(&data);
            all.freeze()
        };
        let step = MAX_RECORD_BLOCKS as usize * BLOCK;
        let mut at = 0;
        let mut last = self.stream.last;
        while at < whole.len() {
            let part = whole.slice(at..whole.len().min(at + step));
            last = self.push_data(first + (at / BLOCK) as u64, part);
            at += step;
        }
        last
    }

    fn push_data(&mut self, block: u64, data: Bytes) -> Seq {
        let seq = self.stream.last + 1;
        let blocks = data.chunks_exact(BLOCK).enumerate();
        let crcs = blocks
            .map(|(i, b)| checksum::block(self.seed, block + i as u64, seq, b))
            .collect();
        self.stream.push(Body::Write { block, crcs, data })
    }

    fn assign_zero(&mut self, offset: u64, len: u64, discard: bool, edges: &[(u64, Bytes)]) -> Seq {
        let end = offset + len;
        let mut last = self.stream.last;
        for (block, content) in edges {
            let start = block * BLOCK_BYTES;
            let (from, to) = (offset.max(start) - start, end.min(start + BLOCK_BYTES) - start);
            let mut all = BytesMut::from(&content[..]);
            all[from as usize..to as usize].fill(0);
            last = self.push_data(*block, all.freeze());
        }
        let (first, past) = (offset.div_ceil(BLOCK_BYTES), end / BLOCK_BYTES);
        if past > first {
            last = self.stream.push(Body::Zero {
                block: first,
                count: past - first,
                discard,
            });
        }
        last
    }

    /// Completes what the decided seqs allow.
    pub(super) fn complete_writes(&mut self) {
        while let Some((seq, request)) = self.requests.committed.front().copied() {
            if seq > self.stream.committed {
                break;
            }
            self.requests.committed.pop_front();
            self.complete(request, Ok(Bytes::new()));
        }
        while let Some((seq, blocks)) = self.requests.growing.front().copied() {
            if seq > self.stream.durable {
                break;
            }
            self.requests.growing.pop_front();
            self.blocks = self.blocks.max(blocks);
        }
        self.snapshots.advance(self.stream.durable);
        while let Some((&(seq, request), ())) = self.requests.durable.first_key_value() {
            if seq > self.stream.durable {
                break;
            }
            self.requests.durable.pop_first();
            self.complete(request, Ok(Bytes::new()));
        }
    }

    /// Leaves once everything is done and durable.
    pub(super) fn check_closing(&mut self) {
        let Some(request) = self.requests.closing else {
            return;
        };
        let busy = !self.requests.queue.is_empty() || !self.requests.modifying.is_empty();
        self.stream.sync_to = self.stream.last;
        if busy || self.stream.durable < self.stream.last {
            return self.pump();
        }
        for member in 0..self.peers.len() {
            if self.peers[member].is_ours() && self.peers[member].session.is_some() {
                let epoch = self.epoch;
                self.append(member, Vec::new());
                self.send(member, Message::Close { epoch });
            }
        }
        self.phase = Phase::Closed;
        self.complete(request, Ok(Bytes::new()));
        self.fail_all(OpError::Closed);
    }

    /// Completes everything with an error.
    pub(super) fn fail_all(&mut self, error: OpError) {
        let requests = std::mem::take(&mut self.requests);
        let mut all: Vec<u64> = requests.queue.into_iter().map(|q| q.0).collect();
        all.extend(requests.committed.into_iter().map(|c| c.1));
        all.extend(requests.durable.into_keys().map(|k| k.1));
        all.extend(requests.modifying.into_values().map(|m| m.request));
        if self.phase != Phase::Closed {
            all.extend(requests.closing);
        }
        all.extend(self.verify.take().map(|v| v.request));
        all.extend(std::mem::take(&mut self.reads).requests());
        for request in all {
            self.complete(request, Err(error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_flushes_after_every_write_is_expected_to() {
        let mut habit = Habit::default();
        let mut last = 100;
        let mut write = |habit: &mut Habit| {
            last += 1;
            (last, habit.expects_flush(last))
        };
        // The first flush comes after many records; then a habit forms.
        let mut expected = Vec::new();
        for _ in 0..7 {
            let (at, expects) = write(&mut habit);
            expected.push(expects);
            habit.flush(at);
        }
        assert_eq!(expected, [false, false, false, false, false, true, true]);
        // Two records before a flush are still few, a third ends it.
        assert!(write(&mut habit).1);
        assert!(write(&mut habit).1);
        assert!(!write(&mut habit).1);
        assert!(!write(&mut habit).1);
        let (at, _) = write(&mut habit);
        habit.flush(at);
        assert!(!write(&mut habit).1, "the habit forms anew");
    }
}
