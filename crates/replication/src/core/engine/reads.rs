//! Reads: from the nearest complete member that has been sent everything completed, elsewhere when that one is lost,
//! silent or damaged; done once what they contain is committed and the read lease holds (R13, R14).

use super::peer::Stage;
use super::{BTreeMap, Engine, OpError, Phase};
use crate::core::checksum;
use crate::core::types::{BLOCK, MILLI, Nanos, Seq, SnapshotInfo};
use crate::core::wire::{BlockEntry, BlockKind, MAX_RECORD_BLOCKS, Message};
use bytes::{Bytes, BytesMut};

/// A member that does not answer a read for so long gets company.
const HEDGE: Nanos = 75 * MILLI;
/// No member could answer: ask again after so long.
const RETRY: Nanos = 10 * MILLI;
/// Renew the lease while reads go on and less than this is left.
const LEASE_MARGIN: Nanos = 250 * MILLI;
/// How often a repair asks for its good copy.
const REPAIR_ROUNDS: u32 = 50;
/// No member is there to answer: look again after so long.
const RETRY_STALLED: Nanos = 200 * MILLI;
/// Repairs at a time; what is found beyond it is found again.
const MAX_REPAIRS: usize = 16;

/// Whose read it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Owner {
    /// Part of a request: (request, index).
    Request(u64, usize),
    /// The edge of a sub-block write.
    Modify(u64),
    /// A good copy for a member's bad block.
    Repair(usize, BlockEntry),
}

/// A request of the device.
struct Whole {
    skip: usize,
    len: usize,
    parts: Vec<Option<Bytes>>,
}

/// What is known of one block.
struct Got {
    entry: BlockEntry,
    data: Bytes,
}

struct Task {
    owner: Owner,
    block: u64,
    count: u32,
    /// Of the snapshot with that seq; 0: of the volume.
    snapshot: Seq,
    min_seq: Seq,
    got: Vec<Option<Got>>,
    bad: Vec<(usize, BlockEntry)>,
    /// (member, wire request).
    pending: Vec<(usize, u64)>,
    tried: Vec<usize>,
    /// Ask another member then.
    next: Nanos,
    /// How often every member was asked in vain.
    rounds: u32,
}

/// All reads in flight.
#[derive(Default)]
pub(super) struct Reads {
    tasks: BTreeMap<u64, Task>,
    wholes: BTreeMap<u64, Whole>,
    wire: BTreeMap<u64, u64>,
    /// Need a member.
    undispatched: Vec<u64>,
    /// Have all blocks; wait for commit and lease.
    ready: Vec<u64>,
    repairs: usize,
    /// Earliest `next` of any task, or earlier.
    timer: Nanos,
}

impl Reads {
    pub fn requests(self) -> impl Iterator<Item = u64> {
        self.wholes.into_keys()
    }
}

impl Engine {
    pub(super) fn start_read(&mut self, request: u64, offset: u64, len: u32, snapshot: Seq) {
        let first = offset / BLOCK as u64;
        let end = (offset + u64::from(len)).div_ceil(BLOCK as u64);
        let step = u64::from(MAX_RECORD_BLOCKS);
        let parts = (end - first).div_ceil(step);
        let skip = (offset - first * BLOCK as u64) as usize;
        let whole = Whole {
            skip,
            len: len as usize,
            parts: (0..parts).map(|_| None).collect(),
        };
        self.reads.wholes.insert(request, whole);
        let min_seq = if snapshot > 0 {
            snapshot
        } else {
            self.stream.committed
        };
        for i in 0..parts {
            let block = first + i * step;
            let count = step.min(end - block) as u32;
            let owner = Owner::Request(request, i as usize);
            self.read_of(owner, block, count, min_seq, snapshot);
        }
    }

    /// Reads whole blocks of the volume for `owner`.
    pub(super) fn read_blocks(&mut self, owner: Owner, block: u64, count: u32, min_seq: Seq) {
        self.read_of(owner, block, count, min_seq, 0);
    }

    fn read_of(&mut self, owner: Owner, block: u64, count: u32, min_seq: Seq, snapshot: Seq) {
        let id = self.request_id();
        let tried = if let Owner::Repair(member, _) = owner {
            vec![member]
        } else {
            Vec::new()
        };
        let task = Task {
            owner,
            block,
            count,
            snapshot,
            min_seq,
            got: (0..count).map(|_| None).collect(),
            bad: Vec::new(),
            pending: Vec::new(),
            tried,
            next: 0,
            rounds: 0,
        };
        self.reads.tasks.insert(id, task);
        self.reads.undispatched.push(id);
    }

    pub(super) fn advance_reads(&mut self) {
        if self.phase != Phase::Open || self.reads.tasks.is_empty() {
            return;
        }
        if self.reads.timer <= self.now {
            let now = self.now;
            let due = self
                .reads
                .tasks
                .iter()
                .filter(|(_, t)| t.next > 0 && t.next <= now);
            let due: Vec<u64> = due.map(|(id, _)| *id).collect();
            self.reads.undispatched.extend(due);
        }
        let mut todo = std::mem::take(&mut self.reads.undispatched);
        todo.sort_unstable();
        todo.dedup();
        for id in todo {
            self.dispatch_read(id);
        }
        let next = self
            .reads
            .tasks
            .values()
            .filter(|t| t.next > 0)
            .map(|t| t.next)
            .min();
        self.reads.timer = next.unwrap_or(Nanos::MAX);
        let lease = self.lease_until();
        if lease < self.now + LEASE_MARGIN {
            self.renew_lease();
        }
        self.finish_ready(lease);
    }

    pub(super) fn reads_deadline(&self) -> Option<Nanos> {
        let busy = self.phase == Phase::Open && !self.reads.tasks.is_empty();
        (busy && self.reads.timer != Nanos::MAX).then_some(self.reads.timer)
    }

    fn renew_lease(&mut self) {
        for member in 0..self.peers.len() {
            let peer = &self.peers[member];
            if peer.stage == Stage::Live && peer.outstanding == 0 {
                self.append(member, Vec::new());
            }
        }
    }

    /// Asks the best member that was not asked yet.
    fn dispatch_read(&mut self, id: u64) {
        let now = self.now;
        let learners_too = self.settings.mutations.r5_learner_is_source;
        let Some(task) = self.reads.tasks.get_mut(&id) else {
            return;
        };
        if task.got.iter().all(Option::is_some) {
            task.next = 0;
            return;
        }
        let candidates = self.peers.iter().enumerate().filter(|(i, p)| {
            (p.counts() || (learners_too && p.stage == Stage::Live))
                && p.next > task.min_seq
                && !task.tried.contains(i)
        });
        let home = self.settings.home;
        let best = candidates
            .min_by_key(|(i, p)| (p.slow(now, HEDGE), Some(*i) != home, *i))
            .map(|c| c.0);
        let Some(member) = best else {
            // Of a snapshot that was dropped meanwhile nobody who is asked in vain need be waited for.
            let snapshot = task.snapshot;
            let gone = snapshot > 0 && !self.snapshots.list().iter().any(|s| s.seq == snapshot);
            if task.pending.is_empty() || gone {
                self.exhausted(id);
            } else {
                task.next = now + HEDGE;
            }
            return;
        };
        task.tried.push(member);
        task.next = now + HEDGE;
        self.next_request += 1;
        let request = self.next_request;
        task.pending.push((member, request));
        let applied_only = matches!(task.owner, Owner::Repair(..));
        let (block, count, min_seq) = (task.block, task.count, task.min_seq);
        let snapshot = task.snapshot;
        self.reads.wire.insert(request, id);
        let epoch = self.epoch;
        self.ask(member);
        self.send(
            member,
            Message::Read {
                epoch,
                request,
                block,
                count,
                min_seq,
                applied_only,
                snapshot,
            },
        );
    }

    /// Every member was asked and the read is not done.
    fn exhausted(&mut self, id: u64) {
        let any = self.complete_live() >= self.quorum();
        let Some(task) = self.reads.tasks.get_mut(&id) else {
            return;
        };
        task.rounds += 1;
        let snapshot = task.snapshot;
        if snapshot > 0 && !self.snapshots.list().iter().any(|s| s.seq == snapshot) {
            // It was dropped meanwhile.
            return self.finish(id, Err(OpError::NoSnapshot));
        }
        if let Owner::Repair(member, _) = task.owner {
            // The sources may have to apply first; a repair that does not come to pass is found again.
            if task.rounds > REPAIR_ROUNDS {
                self.reads.tasks.remove(&id);
                self.reads.repairs -= 1;
            } else {
                task.tried = vec![member];
                task.next = self.now + RETRY;
            }
            return;
        }
        let missing = (0..task.count).filter(|i| task.got[*i as usize].is_none());
        let peers = &self.peers;
        let hopeless = missing.map(|i| task.block + u64::from(i)).any(|block| {
            let bad_at = |m: &usize| task.bad.iter().any(|(who, e)| who == m && e.block == block);
            (0..peers.len())
                .filter(|m| peers[*m].counts())
                .all(|m| bad_at(&m))
        });
        if hopeless && any {
            let bad = std::mem::take(&mut task.bad);
            tracing::error!(volume = %self.settings.volume, block = task.block, bad = bad.len(),
                "no replica has a good copy");
            self.finish(id, Err(OpError::Damaged));
            return;
        }
        task.tried.clear();
        task.bad.clear();
        task.next = self.now + if any { RETRY } else { RETRY_STALLED };
    }

    /// The session to a member is gone: what was asked there is asked elsewhere, now.
    pub(super) fn reads_lost(&mut self, member: usize) {
        for (id, task) in &mut self.reads.tasks {
            let before = task.pending.len();
            task.pending.retain(|(m, request)| {
                if *m == member {
                    self.reads.wire.remove(request);
                }
                *m != member
            });
            if task.pending.len() != before {
                task.tried.retain(|m| *m != member);
                self.reads.undispatched.push(*id);
            }
        }
    }

    pub(super) fn read_reply(
        &mut self,
        member: usize,
        request: u64,
        ready: bool,
        blocks: Vec<BlockEntry>,
        data: &Bytes,
    ) {
        self.answered(member);
        let Some(id) = self.reads.wire.remove(&request) else {
            return;
        };
        let Some(task) = self.reads.tasks.get_mut(&id) else {
            return;
        };
        task.pending.retain(|p| p.1 != request);
        if task.got.iter().all(Option::is_some) {
            return;
        }
        let shaped = blocks.len() == task.count as usize
            && blocks
                .iter()
                .enumerate()
                .all(|(i, b)| b.block == task.block + i as u64);
        if !ready || !shaped {
            self.reads.undispatched.push(id);
            return;
        }
        let mut at = 0;
        for (i, entry) in blocks.into_iter().enumerate() {
            let len = if entry.kind == BlockKind::Data { BLOCK } else { 0 };
            let piece = data.slice(at..at + len);
            at += len;
            let good = match entry.kind {
                BlockKind::Data => {
                    checksum::block(self.seed, entry.block, entry.version, &piece) == entry.crc
                }
                BlockKind::Zero => true,
                BlockKind::Bad => {
                    task.bad.push((member, entry));
                    false
                }
            };
            if good && task.got[i].is_none() {
                task.got[i] = Some(Got { entry, data: piece });
            }
        }
        if task.got.iter().all(Option::is_some) {
            task.next = 0;
            self.reads.ready.push(id);
        } else {
            self.reads.undispatched.push(id);
        }
    }

    fn finish_ready(&mut self, lease: Nanos) {
        let mutations = self.settings.mutations;
        let leased = lease > self.now || mutations.r14_no_lease;
        if self.reads.ready.is_empty() || !leased {
            return;
        }
        let committed = if mutations.r13_read_uncommitted {
            Seq::MAX
        } else {
            self.stream.committed
        };
        for id in std::mem::take(&mut self.reads.ready) {
            let Some(task) = self.reads.tasks.get(&id) else {
                continue;
            };
            let highest = task
                .got
                .iter()
                .flatten()
                .map(|g| g.entry.version)
                .max()
                .unwrap_or(0);
            if highest > committed {
                self.reads.ready.push(id);
                continue;
            }
            let content = assemble(&task.got);
            self.finish(id, Ok(content));
        }
    }

    fn finish(&mut self, id: u64, result: Result<Bytes, OpError>) {
        let Some(task) = self.reads.tasks.remove(&id) else {
            return;
        };
        for (_, request) in &task.pending {
            self.reads.wire.remove(request);
        }
        if result.is_ok() {
            for (member, seen) in &task.bad {
                self.start_repair(*member, *seen, task.snapshot);
            }
        }
        match task.owner {
            Owner::Request(request, index) => self.part_read(request, index, result),
            Owner::Modify(modify) => {
                self.modified(modify, task.block, result);
                self.admit();
                self.pump();
            }
            Owner::Repair(member, seen) => {
                self.reads.repairs -= 1;
                let good = task.got.first().and_then(Option::as_ref).map(|g| g.entry);
                if let (Ok(data), Some(good), true) = (result, good, self.peers[member].counts()) {
                    let data = if good.kind == BlockKind::Data {
                        data
                    } else {
                        Bytes::new()
                    };
                    let epoch = self.epoch;
                    self.send(
                        member,
                        Message::Repair {
                            epoch,
                            seen,
                            good,
                            snapshot: task.snapshot,
                            data,
                        },
                    );
                }
            }
        }
    }

    fn part_read(&mut self, request: u64, index: usize, result: Result<Bytes, OpError>) {
        let Some(whole) = self.reads.wholes.get_mut(&request) else {
            return;
        };
        match result {
            Err(e) => {
                self.reads.wholes.remove(&request);
                self.complete(request, Err(e));
            }
            Ok(data) => {
                whole.parts[index] = Some(data);
                if whole.parts.iter().any(Option::is_none) {
                    return;
                }
                let Some(mut whole) = self.reads.wholes.remove(&request) else {
                    return;
                };
                let all = if whole.parts.len() == 1 {
                    whole.parts.pop().flatten().unwrap_or_default()
                } else {
                    let mut all = BytesMut::with_capacity(whole.skip + whole.len + BLOCK);
                    whole
                        .parts
                        .iter()
                        .flatten()
                        .for_each(|p| all.extend_from_slice(p));
                    all.freeze()
                };
                self.complete(request, Ok(all.slice(whole.skip..whole.skip + whole.len)));
            }
        }
    }

    /// Fetches a good copy of a block of the volume, or of a snapshot, that is bad at `member`.
    pub(super) fn start_repair(&mut self, member: usize, seen: BlockEntry, snapshot: Seq) {
        if self.reads.repairs >= MAX_REPAIRS || self.peers.len() < 2 {
            return;
        }
        self.reads.repairs += 1;
        // The source must have applied at least what the damaged member may have.
        let min_seq = if snapshot > 0 {
            snapshot
        } else {
            self.stream.durable
        };
        self.read_of(Owner::Repair(member, seen), seen.block, 1, min_seq, snapshot);
    }

    /// A member's scrub found bad blocks. What is not repaired now is told again.
    pub(super) fn damaged(&mut self, member: usize, snapshot: Seq, blocks: &[BlockEntry]) {
        let there = |s: &SnapshotInfo| s.seq == snapshot;
        let known = snapshot == 0 || self.snapshots.list().iter().any(there);
        if self.phase != Phase::Open || !self.peers[member].counts() || !known {
            return;
        }
        let size = self.blocks;
        for seen in blocks.iter().filter(|b| b.block < size) {
            if !self.is_repairing(member, seen.block, snapshot) {
                self.start_repair(member, *seen, snapshot);
            }
        }
    }

    fn is_repairing(&self, member: usize, block: u64, snapshot: Seq) -> bool {
        let same = |t: &Task| matches!(t.owner, Owner::Repair(m, seen) if m == member && seen.block == block);
        self.reads
            .tasks
            .values()
            .any(|t| same(t) && t.snapshot == snapshot)
    }
}

fn assemble(got: &[Option<Got>]) -> Bytes {
    let whole = got.iter().flatten().all(|g| g.entry.kind == BlockKind::Data);
    if let ([Some(one)], true) = (got, whole) {
        return one.data.clone();
    }
    let mut all = BytesMut::zeroed(got.len() * BLOCK);
    for (i, g) in got.iter().enumerate() {
        if let Some(g) = g
            && g.entry.kind == BlockKind::Data
        {
            all[i * BLOCK..(i + 1) * BLOCK].copy_from_slice(&g.data);
        }
    }
    all.freeze()
}
