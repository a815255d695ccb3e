//! Bringing one member into the epoch: cut its log to the common part, fill it to the recovery point, begin the epoch.
//! The same for the members that promised first and for those that come later.

use super::copy::CopyTask;
use super::peer::Stage;
use super::{Engine, EngineAction};
use crate::core::types::{MILLI, Nanos, Seq};
use crate::core::wire::{Message, PeerMemory, Promise, Record};

/// A source that answers nothing for so long is left for another.
pub(super) const SLOW_SOURCE: Nanos = 300 * MILLI;

impl Engine {
    /// Forgets what was asked of a silent source if there is another.
    pub(super) fn leave_slow_sources(&mut self) {
        let now = self.now;
        let slow: Vec<bool> = self.peers.iter().map(|p| p.slow(now, SLOW_SOURCE)).collect();
        if !slow.contains(&true) {
            return;
        }
        let good: Vec<bool> = (0..self.peers.len())
            .map(|i| !slow[i] && self.good_end(i) > 0)
            .collect();
        for member in 0..self.peers.len() {
            if !good.iter().enumerate().any(|(i, g)| *g && i != member) {
                continue;
            }
            let peer = &mut self.peers[member];
            peer.fetch = peer.fetch.filter(|(_, source)| !slow[*source]);
            if let Some(copy) = &mut peer.copy {
                (0..slow.len())
                    .filter(|i| slow[*i])
                    .for_each(|i| copy.source_lost(i));
            }
        }
    }

    /// When a source that was asked something becomes slow.
    pub(super) fn source_deadline(&self) -> Option<Nanos> {
        let asked = self.peers.iter().filter_map(|p| {
            p.fetch
                .map(|f| f.1)
                .or_else(|| p.copy.as_ref().and_then(super::copy::CopyTask::source))
        });
        asked
            .filter_map(|source| self.peers[source].owed_since)
            .map(|t| t + SLOW_SOURCE)
            .min()
    }

    pub(super) fn advance_joins(&mut self) {
        if self.plan.is_none() {
            return;
        }
        for member in 0..self.peers.len() {
            match self.peers[member].stage {
                Stage::Promised => self.begin_join(member),
                Stage::Filling => self.check_filled(member),
                Stage::Live => {}
                _ => continue,
            }
            let peer = &self.peers[member];
            if peer.must_copy && peer.outstanding == 0 && matches!(peer.stage, Stage::Filling | Stage::Live) {
                let keep = peer.received;
                self.begin_copy(member, keep);
            }
        }
    }

    fn begin_join(&mut self, member: usize) {
        let (Some(plan), Some(promise)) = (&self.plan, &self.peers[member].promise) else {
            return;
        };
        let keep = if self.settings.mutations.r16_seqs_alone {
            promise.end.min(self.stream.last)
        } else {
            promise
                .history
                .common(promise.end, &plan.history, self.stream.last)
        };
        let in_memory = keep + 1 >= self.stream.base;
        let in_journal = self.peers.iter().enumerate().any(|(i, p)| {
            i != member
                && self.good_end(i) > keep
                && p.promise.as_ref().is_some_and(|p| p.journal_first <= keep + 1)
        });
        // Applied beyond the common log: its blocks are of a log that did not continue. Or it was lost while it was filled
        // across the beginning of an epoch, which it does not know as such before it begins its own.
        let wrong = promise.commit > keep && promise.end > keep;
        if self.set_back(promise) {
            tracing::warn!(volume = %self.settings.volume, id = %promise.id,
                "a replica came back with an old state: it is not believed, and copied anew");
            self.begin_copy(member, 0);
        } else if !wrong && (in_memory || in_journal || keep == self.stream.last) {
            let history = plan.history.cut(keep);
            self.truncate(member, keep, history, None);
        } else {
            self.begin_copy(member, keep);
        }
    }

    /// Makes a member a learner whose stream begins at the durable commit: the source applies that far, and no further.
    fn begin_copy(&mut self, member: usize, keep: Seq) {
        let Some(plan) = &self.plan else { return };
        let from = self.stream.durable;
        let keep = keep.min(from);
        let history = plan.history.cut(from);
        self.peers[member].must_copy = false;
        self.truncate(member, keep, history, Some(from));
    }

    fn truncate(
        &mut self,
        member: usize,
        keep: Seq,
        history: crate::core::types::History,
        copy: Option<Seq>,
    ) {
        let peer = &mut self.peers[member];
        peer.stage = Stage::Truncating;
        peer.copy = None;
        peer.fetch = None;
        let message = Message::Truncate {
            epoch: self.epoch,
            keep,
            history,
            commit: self.stream.durable,
            copy_from: copy,
            blocks: self.blocks,
            snapshots: copy.map_or_else(Vec::new, |from| self.snapshots.up_to(from)),
        };
        self.send(member, message);
    }

    pub(super) fn truncated(&mut self, member: usize, end: Seq, pieces: Vec<(u64, Seq)>, cursor: u64) {
        // Not less than where its stream began: that was durable, as its promise has told.
        let need = self.stream.durable;
        let peer = &mut self.peers[member];
        if peer.stage != Stage::Truncating {
            return;
        }
        peer.stage = Stage::Filling;
        peer.received = end;
        peer.durable = end;
        peer.next = end + 1;
        peer.outstanding = 0;
        peer.learner = !pieces.is_empty();
        peer.copy = (!pieces.is_empty()).then(|| CopyTask::new(pieces, cursor, need));
        self.check_filled(member);
    }

    fn check_filled(&mut self, member: usize) {
        let Some(plan) = &self.plan else { return };
        let peer = &self.peers[member];
        if peer.received < plan.recovery || peer.outstanding > 0 {
            return;
        }
        let history = plan.history.clone();
        let mut peers = self.known.clone();
        peers.retain(|p| p.id != self.settings.members[member].id);
        peers.extend(self.memory(member));
        let message = Message::Adopt {
            epoch: self.epoch,
            history,
            peers,
        };
        self.peers[member].stage = Stage::Adopting;
        self.send(member, message);
    }

    /// What the members should remember of one of them once it takes part (R7).
    fn memory(&self, member: usize) -> Option<PeerMemory> {
        let peer = &self.peers[member];
        Some(PeerMemory {
            id: self.settings.members[member].id,
            starts: peer.promise.as_ref()?.starts,
            promised: self.epoch,
            durable: peer.durable.min(self.stream.durable),
        })
    }

    /// A member takes part: the others are to remember it, and it those that came to take part while it was told to. It
    /// remembers itself already, durably, so who knows less of itself than others know of it was set back.
    fn remember(&mut self, newcomer: usize) {
        let Some(plan) = &self.plan else { return };
        let history = plan.history.clone();
        if let Some(memory) = self.memory(newcomer) {
            self.known.retain(|p| p.id != memory.id);
            self.known.push(memory);
        }
        for member in 0..self.peers.len() {
            if self.peers[member].stage == Stage::Live {
                let (epoch, history, peers) = (self.epoch, history.clone(), self.known.clone());
                self.send(
                    member,
                    Message::Adopt {
                        epoch,
                        history,
                        peers,
                    },
                );
            }
        }
    }

    /// Somebody remembers that this member took part in an epoch, or after a start, of which it knows nothing itself:
    /// its disk has an older state than it once had (R7). Or it lacks what it once said was durable, and what a quorum had.
    pub(super) fn set_back(&self, promise: &Promise) -> bool {
        let told = self.peers.iter().filter_map(|p| p.promise.as_ref());
        let others = told.filter(|p| p.id != promise.id).flat_map(|p| &p.peers);
        let latest = |memory: &PeerMemory| (memory.promised, memory.starts);
        let own = promise.peers.iter().find(|m| m.id == promise.id).map(latest);
        let mut known = others.chain(&self.known).filter(|m| m.id == promise.id);
        let member = self.settings.members.iter().position(|m| m.id == promise.id);
        let said = member
            .filter(|_| self.exposed.is_some())
            .map_or(0, |m| self.peers[m].durable);
        let believe = self.settings.mutations.believe_liars;
        let lacks = promise.end < said.min(self.stream.durable) && !believe;
        let older = |m: &PeerMemory| Some(latest(m)) > own || (m.durable > promise.end && !believe);
        !promise.blank && !self.settings.mutations.r7_believe_set_back && (lacks || known.any(older))
    }

    pub(super) fn adopted(&mut self, member: usize, end: Seq) {
        let peer = &mut self.peers[member];
        if peer.stage != Stage::Adopting {
            return;
        }
        if end != peer.received {
            self.lost(member);
            self.out.push(EngineAction::Reconnect { member });
            return;
        }
        peer.stage = Stage::Live;
        peer.durable = end;
        if !peer.learner {
            peer.lost_at = None;
        }
        self.remember(member);
    }

    /// The last record of the log that this member surely has and may hand to others; 0 for none.
    pub(super) fn good_end(&self, member: usize) -> Seq {
        let peer = &self.peers[member];
        if peer.learner && !self.settings.mutations.r5_learner_is_source {
            return 0;
        }
        match &self.plan {
            Some(_) if peer.stage == Stage::Live => peer.received,
            Some(plan) if plan.source == member && peer.is_ours() => plan.recovery,
            _ => 0,
        }
    }

    /// Asks a complete member for records that are no longer in memory.
    pub(super) fn fetch(&mut self, member: usize, from: Seq, to: Seq) {
        let sources = (0..self.peers.len()).filter(|i| *i != member && self.good_end(*i) >= from);
        let Some(source) = sources.max_by_key(|i| self.good_end(*i)) else {
            return;
        };
        let request = self.request_id();
        self.peers[member].fetch = Some((request, source));
        let to = to.min(self.good_end(source));
        let epoch = self.epoch;
        self.ask(source);
        self.send(
            source,
            Message::FetchLog {
                epoch,
                request,
                from,
                to,
            },
        );
    }

    pub(super) fn fetched(&mut self, source: usize, request: u64, records: Vec<Record>) {
        self.answered(source);
        let found = self.peers.iter().position(|p| p.fetch == Some((request, source)));
        let Some(member) = found else { return };
        self.peers[member].fetch = None;
        let usable = matches!(self.peers[member].stage, Stage::Filling | Stage::Live);
        if !usable {
            return;
        }
        if records.first().is_none_or(|r| r.seq != self.peers[member].next) {
            self.peers[member].must_copy = true;
            return;
        }
        self.append(member, records);
    }
}
