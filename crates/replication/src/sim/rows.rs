//! More rows of faults, each the only situation in which one rule is what saves the data. While one of them goes on, chance
//! has a break ([`Row::quiet_until`]): another fault would either end the row or, on top of a disk that lies, lose data
//! that no protocol could keep.

use super::combos::{self, Combo};
use super::world::{Event, MEMBERS, World};
use crate::core::types::{MILLI, Nanos, SECOND, Seq};
use crate::core::wire::Message;

/// What happens next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// One member lags, then the session to the victim breaks.
    Break,
    /// It breaks now.
    Reset { lags: usize },
    /// The device flushes: one member alone can make anything durable now.
    Flush { lags: usize },
    /// The victim loses its memory, and who has everything is away for a while.
    Dark { lags: usize },
    /// The victim's disk begins to lie, and a member is away.
    Lie,
}

/// Where a row is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Row {
    /// No faults by chance until then.
    pub quiet_until: Nanos,
    /// The last rival, and whom alone its question reaches.
    pub rival: Option<usize>,
    pub asked: usize,
    /// A flush without an answer, while this member lags.
    flush: Option<(u64, usize)>,
    /// The victim's disk lies about everything after this record, and this member was away meanwhile.
    lying: Option<(Seq, usize)>,
}

/// Longer than an opening waits for the third member when one has lost its memory.
const AWAY: Nanos = 7 * SECOND;
/// From the beginning of a row to the return of the last member.
const ROW: Nanos = 11 * SECOND;
/// Longer than an engine waits before it goes on above a rival.
pub(super) const RAISE: Nanos = 6 * SECOND;
/// How long an engine that went on above a rival is left to itself.
pub(super) const GOES_ON: Nanos = 1500 * MILLI;
/// So much longer are the pauses of the client once something may be lost, so that it is read before it is overwritten.
const QUIETLY: Nanos = 6;
/// Writes that are submitted at once, so that some are undecided.
const BURST: usize = 8;

impl World {
    fn row_soon(&mut self, from: Nanos, spread: Nanos, step: Step) {
        self.soon(from, spread, combos::Step::Row(step));
    }

    pub(super) fn row(&mut self, step: Step) {
        let victim = self.profile.victim;
        if matches!(step, Step::Break | Step::Lie) {
            if !self.settled() {
                // Faults by chance go on until it is.
                return self.row_soon(100 * MILLI, 200 * MILLI, step);
            }
            self.row.quiet_until = self.now + ROW;
        }
        match step {
            Step::Break => {
                let lags = self.bystander();
                self.block(lags, ROW);
                self.row_soon(30 * MILLI, 60 * MILLI, Step::Reset { lags });
            }
            Step::Reset { lags } => {
                let engine = self.engines.len() - 1;
                if let Some(session) = self.engines[engine].sessions[victim] {
                    self.reset(session);
                    self.row_soon(3 * MILLI, MILLI, Step::Flush { lags });
                }
            }
            Step::Flush { lags } => {
                let engine = self.engines.len() - 1;
                if !self.engines[engine].gone {
                    self.row.flush = Some((self.submit_flush(engine), lags));
                }
            }
            Step::Dark { lags } => {
                self.profile.think *= QUIETLY;
                self.crash_for(MEMBERS - victim - lags, AWAY);
                self.lose_memory(victim);
                self.succeed();
            }
            Step::Lie => {
                let away = self.bystander();
                let said = self.engines.last().map_or(0, |e| e.engine.status().durable_seq);
                self.row.lying = Some((said, away));
                self.replicas[victim].disk.lie();
                // It gets more than one message can bring once it is reached again, and each tells what is flushed.
                self.profile.think /= 4;
                self.block(away, 1500 * MILLI);
            }
        }
    }

    /// The machine of a replica starts anew and keeps nothing that was not synced.
    fn lose_memory(&mut self, replica: usize) {
        let disk = self.replicas[replica].disk.clone();
        self.crash_for(replica, 20 * MILLI);
        disk.lose_all(&mut self.rng);
        self.replicas[replica].boot = u128::from(self.rng.draw());
        self.forget(replica);
    }

    /// A request was answered: if it was the row's flush, what it covers is safe.
    pub(super) fn row_completed(&mut self, request: u64) {
        if let Some((_, lags)) = self.row.flush.take_if(|(flush, _)| *flush == request) {
            self.at(self.now, Event::Combo(combos::Step::Row(Step::Dark { lags })));
        }
    }

    /// A message was handled by a replica.
    pub(super) fn row_told(&mut self, replica: usize, message: &Message) {
        match (message, self.row.lying) {
            (Message::Append { commit, records, .. }, Some((said, away))) if replica == away => {
                let last = records.last().map_or(Seq::MAX, |r| r.seq);
                if last < *commit && said < *commit {
                    // It knows of flushed records that it does not have; the victim has lost them.
                    self.row.lying = None;
                    self.profile.think *= 4 * QUIETLY;
                    self.drop_sessions(replica, false);
                    self.crash_for(MEMBERS - replica - self.profile.victim, AWAY);
                    self.lose_memory(self.profile.victim);
                    self.succeed();
                }
            }
            _ => {}
        }
    }

    /// An engine is about to ask for a promise. A rival asks only once it has greeted a majority, so not before now is it
    /// cut off from all but one.
    pub(super) fn row_asks(&mut self, engine: usize, replica: usize) {
        if self.row.rival == Some(engine) && replica != self.row.asked {
            self.engines[engine].links[replica].blocked_until = [self.now + SECOND; 2];
        }
    }

    /// An engine with a rival makes sure of its members. Right after they have been asked, and before it goes on in a
    /// higher epoch, it gets writes that reach none of them.
    pub(super) fn row_probed(&mut self, engine: usize) {
        if self.calm || self.profile.combo != Combo::Rival || !self.engines[engine].rivalled {
            return;
        }
        for link in &mut self.engines[engine].links {
            link.blocked_until[0] = link.blocked_until[0].max(self.now + 5 * MILLI);
        }
        for _ in 0..BURST {
            self.submit_one(engine);
        }
    }
}
