//! Becoming the volume's engine: greeting, promises, the choice of the log.

use super::peer::{Peer, Stage};
use super::{Engine, EngineAction, Phase, Plan};
use crate::core::types::{Epoch, MILLI, Nanos, SECOND, Seq};
use crate::core::wire::{Message, Promise};

/// With fewer than a majority of promises that are not lossy, the third member has so long to come (R4).
pub(super) const LOSSY_GRACE: Nanos = 5 * SECOND;
/// Shortest pause before another attempt after a refusal; random and doubling up to 1.3 s, so that of two engines that
/// race one wins although it has to wait out a read lease.
const RETRY: Nanos = 20 * MILLI;

impl Engine {
    pub(super) fn connected(&mut self, member: usize, session: u64) {
        if self.peers[member].session.is_some() {
            self.lost(member);
        }
        let peer = &mut self.peers[member];
        peer.session = Some(session);
        peer.stage = Stage::Greeting;
        peer.heard = self.now;
        if !matches!(self.phase, Phase::Deposed | Phase::Closed) {
            self.send(member, Message::Hello);
        }
    }

    /// The session to a member is gone.
    pub(super) fn lost(&mut self, member: usize) {
        let old = std::mem::take(&mut self.peers[member]);
        let was_ours = old.is_ours();
        let written = self.stream.written;
        let lost_at = old.lost_at.or(Some(written.saturating_sub(self.lag_bytes(&old))));
        self.peers[member] = Peer {
            durable: old.durable,
            lost_at,
            ..Peer::default()
        };
        for peer in &mut self.peers {
            peer.fetch = peer.fetch.filter(|(_, source)| *source != member);
            if let Some(copy) = &mut peer.copy {
                copy.source_lost(member);
            }
        }
        self.reads_lost(member);
        self.verify_lost();
        // The chosen log is gone before a majority held it: choose again, in a new epoch, because the old one may
        // have begun somewhere at the old recovery point.
        let source_lost = self.plan.as_ref().is_some_and(|p| p.source == member);
        if self.phase == Phase::Opening && was_ours && source_lost {
            self.plan = None;
            self.retry_at = Some(self.now + RETRY);
        }
    }

    /// Nothing that was agreed on in the session holds any more, but the session does.
    fn lost_but_connected(&mut self, member: usize) {
        let (session, heard) = (self.peers[member].session, self.peers[member].heard);
        self.lost(member);
        self.peers[member].session = session;
        self.peers[member].heard = heard;
    }

    pub(super) fn check_silence(&mut self) {
        for member in 0..self.peers.len() {
            if self.peers[member]
                .silence_deadline()
                .is_some_and(|t| t <= self.now)
            {
                self.lost(member);
                self.out.push(EngineAction::Reconnect { member });
            }
        }
    }

    pub(super) fn welcome(&mut self, member: usize, promised: Epoch, begun: Epoch, failed: bool) {
        if self.peers[member].stage == Stage::Refused {
            return self.still_refused(member, begun);
        }
        if self.peers[member].is_ours() && promised == self.epoch {
            return self.still_ours(member);
        }
        if self.peers[member].stage != Stage::Greeting {
            return;
        }
        if failed {
            self.peers[member].stage = Stage::Failed;
            return;
        }
        self.peers[member].stage = Stage::Greeted;
        self.seen = self.seen.max(promised.counter);
        if self.epoch != Epoch::ZERO && promised > self.epoch {
            self.refused(member, promised, begun);
        } else if self.epoch != Epoch::ZERO {
            self.prepare(member);
        }
    }

    fn prepare(&mut self, member: usize) {
        self.peers[member].stage = Stage::Preparing;
        let epoch = self.epoch;
        self.send(member, Message::Prepare { epoch });
    }

    pub(super) fn refused(&mut self, member: usize, promised: Epoch, begun: Epoch) {
        self.seen = self.seen.max(promised.counter);
        if promised <= self.epoch || self.peers[member].session.is_none() {
            return;
        }
        if self.settings.only_after.is_some() {
            return self.depose();
        }
        match self.phase {
            Phase::Opening if !self.reopening() => {
                // Try again above it, not at once: it may belong to an engine that is being opened elsewhere.
                let now = self.now;
                let peer = &mut self.peers[member];
                peer.stage = Stage::Greeted;
                peer.begun = begun;
                peer.told = now;
                if self.retry_at.is_none() {
                    let pause = RETRY + self.rng.below(RETRY << self.attempts.min(6));
                    self.retry_at = Some(self.now + pause);
                }
            }
            Phase::Open | Phase::Opening => {
                self.lost_but_connected(member);
                let peer = &mut self.peers[member];
                peer.stage = Stage::Refused;
                peer.begun = begun;
                peer.told = self.now;
                let refused = self.peers.iter().filter(|p| p.stage == Stage::Refused).count();
                if refused > self.peers.len() - self.quorum() {
                    self.depose();
                }
            }
            Phase::Deposed | Phase::Closed => {}
        }
    }

    pub(super) fn advance_opening(&mut self) {
        if self.phase != Phase::Opening {
            return;
        }
        let first = self.epoch == Epoch::ZERO
            && self.peers.iter().filter(|p| p.stage == Stage::Greeted).count() >= self.quorum();
        if first || self.retry_at.is_some_and(|t| t <= self.now) {
            self.attempt();
        }
        if self.plan.is_none() && self.retry_at.is_none() {
            self.choose();
        }
    }

    /// Asks everybody for a new epoch. Never the same epoch again: it may have begun somewhere.
    pub(super) fn attempt(&mut self) {
        if self.settings.only_after.is_some_and(|after| self.seen > after) {
            return self.depose();
        }
        self.retry_at = None;
        self.attempts += 1;
        self.plan = None;
        self.majority_since = None;
        self.epoch = Epoch {
            counter: self.seen.max(self.epoch.counter) + 1,
            instance: self.settings.instance,
        };
        self.seen = self.epoch.counter;
        for member in 0..self.peers.len() {
            let asked = !matches!(
                self.peers[member].stage,
                Stage::Absent | Stage::Greeting | Stage::Failed
            );
            if asked {
                self.lost_but_connected(member);
                self.prepare(member);
            }
        }
    }

    pub(super) fn promised(&mut self, member: usize, promise: Promise) {
        let peer = &mut self.peers[member];
        if promise.epoch != self.epoch || peer.stage != Stage::Preparing {
            return;
        }
        let until = self.now + promise.lease;
        if self.phase == Phase::Opening {
            self.open_not_before = self.open_not_before.max(until);
        }
        peer.learner = promise.copying;
        peer.stage = Stage::Promised;
        // It may have been told of more than those whose promises came first.
        let flushed = promise.flushed;
        peer.promise = Some(promise);
        if let Some(plan) = &self.plan {
            self.stream.durable = self.stream.durable.max(flushed.min(plan.recovery));
        }
    }

    /// Chooses the log once enough members have promised.
    fn choose(&mut self) {
        let promises: Vec<(usize, &Promise)> = self
            .peers
            .iter()
            .enumerate()
            .filter(|(_, p)| p.is_ours())
            .filter_map(|(i, p)| p.promise.as_ref().map(|promise| (i, promise)))
            .collect();
        let mutations = self.settings.mutations;
        let voters: Vec<(usize, &Promise)> = promises
            .iter()
            .copied()
            .filter(|(_, p)| !p.blank && !self.set_back(p))
            .collect();
        let all = voters.len() == self.peers.len();
        if voters.len() < self.quorum() {
            let only = promises.len() == 1 && self.peers.len() == 1;
            self.waiting = Some(if only {
                "a good copy: the only replica is damaged"
            } else {
                "a majority of replicas that can vote"
            });
            return;
        }
        if self.succeeded(&promises) {
            self.depose();
            return;
        }
        let since = *self.majority_since.get_or_insert(self.now);
        // The log's epoch first: a longer log of an older epoch was not seen by a majority.
        let key = |p: &Promise| {
            let epoch = p.history.last_epoch();
            (
                if mutations.r16_seqs_alone {
                    Epoch::ZERO
                } else {
                    epoch
                },
                p.end,
            )
        };
        let learners_too = mutations.r5_learner_is_source;
        let complete: Vec<(usize, &Promise)> = voters
            .iter()
            .copied()
            .filter(|(_, p)| !p.copying || learners_too)
            .collect();
        let Some((source, best)) = complete.iter().copied().max_by_key(|(_, p)| key(p)) else {
            self.waiting = Some("no replica that answers is complete");
            return;
        };
        // An epoch that it has begun and that has no record is nothing to wait for.
        let shared = |p: &Promise| p.history.common(p.end, &best.history, best.end);
        let ahead = voters
            .iter()
            .any(|(_, p)| p.copying && key(p) > key(best) && shared(p) < p.end);
        if ahead && complete.len() < self.quorum() && !all {
            self.waiting = Some("only a replica that is catching up has the end of the log");
            return;
        }
        let sound = voters.iter().filter(|(_, p)| !p.lossy).count();
        if sound < self.quorum() && !all && self.now < since + LOSSY_GRACE {
            self.waiting = Some("a replica lost its memory; waiting for the third");
            return;
        }
        let flushed: Seq = promises.iter().map(|(_, p)| p.flushed).max().unwrap_or(0);
        let kept = self.exposed.is_none() || best.end + 1 >= self.stream.base;
        if (best.end < flushed && !mutations.r6_open_below_flushed) || !kept {
            self.waiting = Some("flushed data is missing; waiting for the replica that has it");
            return;
        }
        if sound < self.quorum() && !all {
            tracing::warn!(volume = %self.settings.volume, end = best.end,
                "opened as after a power cut: writes that were not flushed may be lost");
        }
        let mut history = best.history.clone();
        history.push(self.epoch, best.end + 1);
        let (recovery, blocks) = (best.end, best.blocks);
        let snapshots = best.snapshots.clone();
        // An engine that opens again has the rest of its stream in memory.
        if self.exposed.is_none() {
            self.blocks = blocks;
            self.snapshots.restart(snapshots);
        }
        if self.exposed.is_none() || mutations.r12_forget_undecided {
            self.stream.restart(recovery, flushed);
        }
        self.plan = Some(Plan {
            recovery,
            history,
            source,
        });
        self.waiting = Some("bringing a majority of replicas to the end of the log");
    }

    /// Exposes the device once a majority holds the log up to the recovery point and has begun the epoch (R3).
    pub(super) fn check_open(&mut self) {
        if self.phase != Phase::Opening || self.plan.is_none() || self.now < self.open_not_before {
            return;
        }
        let ours = self.peers.iter().filter(|p| p.is_ours()).count();
        let unlevelled = self.settings.mutations.r3_expose_unlevelled && ours >= self.quorum();
        if self.complete_live() < self.quorum() && !unlevelled {
            return;
        }
        self.phase = Phase::Open;
        self.exposed = Some(self.epoch);
        self.waiting = None;
        // A majority came first; who has refused meanwhile has promised a rival (see `raise`).
        self.retry_at = None;
        for peer in self.peers.iter_mut().filter(|p| p.stage == Stage::Greeted) {
            peer.stage = Stage::Refused;
        }
        if let Some(plan) = &self.plan {
            self.stream.durable = self.stream.durable.max(plan.recovery);
            self.stream.committed = self.stream.committed.max(plan.recovery);
        }
        let size_bytes = self.blocks * crate::core::types::BLOCK as u64;
        self.out.push(EngineAction::Opened {
            epoch: self.epoch,
            size_bytes,
        });
    }
}
