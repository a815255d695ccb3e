//! The log's live end: what is kept in memory, sent to the members, received and durable.

use super::peer::{Peer, Stage};
use super::{Engine, Phase};
use crate::core::types::{BLOCK, MILLI, Nanos, Seq};
use crate::core::wire::{Body, Message, Record};
use std::collections::VecDeque;

/// `Append` messages without an answer, for each member. Few, so that what is submitted meanwhile leaves together.
const PIPELINE: u32 = 4;
/// Data in one `Append`.
const APPEND_BYTES: usize = 1 << 20;
/// Records in one `Append`.
const APPEND_RECORDS: usize = 1024;
/// Data kept for members that are behind; beyond it they get it from a journal: 32 MiB.
const KEEP_BYTES: u64 = 32 << 20;
/// Data not durable in a quorum; beyond it new writes wait: 16 MiB, a quarter of a journal.
pub(super) const WINDOW_BYTES: u64 = 16 << 20;
/// What a record without data counts as.
const SMALL_RECORD: u64 = 64;
/// An idle volume tells its members of the last durable commit after so long.
const COMMIT_DELAY: Nanos = 50 * MILLI;
/// How long after it sent a confirmed message the engine may serve reads (R14).
pub(super) const READ_LEASE: Nanos = 500 * MILLI;

struct Kept {
    record: Record,
    /// `Stream::written` after it.
    written: u64,
}

/// The end of the log.
#[derive(Default)]
pub(super) struct Stream {
    /// First seq in `kept`.
    pub base: Seq,
    kept: VecDeque<Kept>,
    /// Last assigned.
    pub last: Seq,
    /// Received by a quorum.
    pub committed: Seq,
    /// Durable in a quorum.
    pub durable: Seq,
    /// Somebody waits until this is durable.
    pub sync_to: Seq,
    /// Bytes assigned since the engine began.
    pub written: u64,
}

impl Stream {
    /// A new epoch begins after `recovery`, of which everything up to `durable` is durable in a quorum.
    pub fn restart(&mut self, recovery: Seq, durable: Seq) {
        *self = Stream {
            base: recovery + 1,
            last: recovery,
            committed: durable,
            durable,
            written: self.written,
            ..Stream::default()
        };
    }

    /// `written` up to a seq; for one that is forgotten, what was written before the oldest kept.
    fn written_at(&self, seq: Seq) -> u64 {
        let first = self
            .kept
            .front()
            .map_or(self.written, |k| k.written - weight(&k.record));
        if seq < self.base {
            return first;
        }
        self.kept
            .get((seq - self.base) as usize)
            .map_or(self.written, |k| k.written)
    }

    /// Bytes not durable in a quorum.
    pub fn in_flight(&self) -> u64 {
        self.written - self.written_at(self.durable)
    }

    /// Takes a record; returns its seq.
    pub fn push(&mut self, body: Body) -> Seq {
        self.last += 1;
        let record = Record { seq: self.last, body };
        self.written += weight(&record);
        self.kept.push_back(Kept {
            record,
            written: self.written,
        });
        self.last
    }

    fn gather(&self, from: Seq, to: Seq) -> Vec<Record> {
        let mut bytes = 0;
        let mut records = Vec::new();
        let range = (from - self.base) as usize..(to + 1 - self.base) as usize;
        for kept in self.kept.range(range) {
            bytes += kept.record.data_len();
            if !records.is_empty() && (bytes > APPEND_BYTES || records.len() >= APPEND_RECORDS) {
                break;
            }
            records.push(kept.record.clone());
        }
        records
    }

    fn trim(&mut self, releasable: Seq, slowest: Seq) {
        while let Some(front) = self.kept.front() {
            let bytes = self.written - (front.written - weight(&front.record));
            if front.record.seq > releasable || (front.record.seq > slowest && bytes <= KEEP_BYTES) {
                break;
            }
            self.kept.pop_front();
            self.base += 1;
        }
    }
}

fn weight(record: &Record) -> u64 {
    (record.data_len() as u64).max(SMALL_RECORD)
}

impl Engine {
    /// A message to a member that it will answer.
    pub(super) fn ask(&mut self, member: usize) {
        let now = self.now;
        let peer = &mut self.peers[member];
        peer.owed += 1;
        peer.owed_since.get_or_insert(now);
    }

    /// A member answered something.
    pub(super) fn answered(&mut self, member: usize) {
        let now = self.now;
        let peer = &mut self.peers[member];
        peer.owed = peer.owed.saturating_sub(1);
        peer.owed_since = (peer.owed > 0).then_some(now);
    }

    /// Sends records, or nothing but what is durable in a quorum.
    pub(super) fn append(&mut self, member: usize, records: Vec<Record>) {
        let peer = &mut self.peers[member];
        if let Some(last) = records.last() {
            peer.next = last.seq + 1;
        }
        peer.outstanding += 1;
        peer.told_commit = self.stream.durable;
        peer.told_sync = self.stream.sync_to.min(peer.next.saturating_sub(1));
        let message = Message::Append {
            epoch: self.epoch,
            sent_at: self.now,
            commit: self.stream.durable,
            sync_to: self.stream.sync_to,
            records,
        };
        self.ask(member);
        self.send(member, message);
    }

    /// Sends what the members lack.
    pub(super) fn pump(&mut self) {
        for member in 0..self.peers.len() {
            let recovery = self.plan.as_ref().map_or(0, |p| p.recovery);
            let peer = &self.peers[member];
            let limit = match peer.stage {
                Stage::Filling => recovery,
                // A learner never gets ahead of what a quorum has, so it never holds the only maximum (R5).
                Stage::Live if peer.learner => self.stream.durable.max(recovery),
                Stage::Live => self.stream.last,
                _ => continue,
            };
            if !peer.must_copy {
                self.pump_member(member, limit);
            }
            let peer = &self.peers[member];
            let sync = peer.told_sync < self.stream.sync_to.min(peer.next.saturating_sub(1));
            let told = peer.told_commit >= self.stream.durable;
            let quiet = peer.outstanding == 0 && peer.sent + COMMIT_DELAY <= self.now;
            if peer.stage == Stage::Live && (sync || (!told && quiet)) {
                self.append(member, Vec::new());
            }
        }
    }

    fn pump_member(&mut self, member: usize, limit: Seq) {
        loop {
            let peer = &self.peers[member];
            let next = peer.next;
            if next > limit || peer.outstanding >= PIPELINE {
                return;
            }
            if next < self.stream.base {
                if peer.fetch.is_none() {
                    self.fetch(member, next, limit.min(self.stream.base - 1));
                }
                return;
            }
            let records = self.stream.gather(next, limit);
            self.append(member, records);
        }
    }

    /// When to tell an idle member of the durable commit.
    pub(super) fn commit_deadline(&self) -> Option<Nanos> {
        let quiet =
            |p: &&Peer| p.stage == Stage::Live && p.outstanding == 0 && p.told_commit < self.stream.durable;
        self.peers
            .iter()
            .filter(quiet)
            .map(|p| p.sent + COMMIT_DELAY)
            .min()
    }

    pub(super) fn acked(&mut self, member: usize, echo: Nanos, received: Seq, durable: Seq, answers: bool) {
        let last = self.stream.last;
        let peer = &mut self.peers[member];
        if answers {
            peer.outstanding = peer.outstanding.saturating_sub(1);
            peer.lease = peer.lease.max(echo + READ_LEASE);
        }
        if matches!(peer.stage, Stage::Filling | Stage::Live) {
            peer.received = peer.received.max(received.min(last));
            peer.durable = peer.durable.max(durable.min(last));
        }
        if answers {
            self.answered(member);
        }
    }

    /// What the receipts of the complete members decide.
    pub(super) fn advance_commit(&mut self) {
        if self.phase == Phase::Open {
            let quorum = self.quorum();
            let decided = |mut seqs: Vec<Seq>| {
                seqs.sort_unstable_by(|a, b| b.cmp(a));
                seqs.get(quorum - 1).copied().unwrap_or(0)
            };
            let counting = || self.peers.iter().filter(|p| p.counts());
            let committed = decided(counting().map(|p| p.received).collect());
            let durable = decided(counting().map(|p| p.durable).collect());
            self.stream.committed = self.stream.committed.max(committed);
            self.stream.durable = self.stream.durable.max(durable);
            self.complete_writes();
        }
        let joined = self
            .peers
            .iter()
            .filter(|p| matches!(p.stage, Stage::Filling | Stage::Live));
        let slowest = joined.map(|p| p.received).min().unwrap_or(Seq::MAX);
        let releasable = if self.settings.mutations.r4_release_on_receipt {
            self.stream.committed
        } else {
            self.stream.durable
        };
        self.stream.trim(releasable, slowest);
    }

    /// Reads may be served until then without asking the members again (R14).
    pub(super) fn lease_until(&self) -> Nanos {
        let mut leases: Vec<Nanos> = self
            .peers
            .iter()
            .filter(|p| p.stage == Stage::Live)
            .map(|p| p.lease)
            .collect();
        leases.sort_unstable_by(|a, b| b.cmp(a));
        leases.get(self.quorum() - 1).copied().unwrap_or(0)
    }

    /// Bytes written that a member does not hold yet.
    pub(super) fn lag_bytes(&self, peer: &Peer) -> u64 {
        if let Some(at) = peer.lost_at {
            return self.stream.written.saturating_sub(at);
        }
        match (&peer.copy, peer.stage) {
            (Some(copy), _) => copy.left() * BLOCK as u64,
            (None, Stage::Live) => self.stream.written - self.stream.written_at(peer.received),
            _ => 0,
        }
    }
}
