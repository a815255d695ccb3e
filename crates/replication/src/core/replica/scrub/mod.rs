//! Scrubbing: every block, in place and in what is kept for snapshots, is read now and then and compared with its checksum
//! although nobody asked for it, so that rot is found while another region still has a good copy.
//!
//! - It goes in slices at a low rate, and a lower one while the volume is used. Its position is part of the state.
//! - What it finds it tells the engine, again and again until it is good; the engine repairs it as after a read (R13).
//!   While no engine has the volume, what was found waits for one.
//! - Only a complete replica is scrubbed: a learner marks as bad what its source had no good copy of.
//! - Only so many passes of a store read at a time ([`ScrubTurns`]); the others wait where they are.

mod check;
mod found;
mod state;
#[cfg(test)]
mod tests;
mod turns;

use super::{Fault, Outcome, Replica, ReplicaAction};
use crate::core::types::{MILLI, Nanos, SECOND, Seq};
use crate::core::wire::Message;
use check::{data_entry, same_file};
pub use state::{PassResult, ScrubState, ScrubStatus};
use std::collections::BTreeSet;
use turns::ScrubTurn;
pub use turns::ScrubTurns;

/// Blocks of data in one slice: 256 KiB.
const SLICE: u64 = 64;
/// The same while the volume is used: 64 KiB, so that a request never waits long for the replica or its disk.
const USED_SLICE: u64 = 16;
/// Entries looked at in one slice, at most: those of 16 MiB of volume.
const SLICE_ENTRIES: u64 = 4096;
/// Pause between slices: 8 MiB/s, a TiB in a day and a half, for some tenths of a percent of a core.
const PAUSE: Nanos = 32 * MILLI;
/// The same while the volume is used: 1 MiB/s.
const USED_PAUSE: Nanos = 64 * MILLI;
/// Pause when an operator waits for the end: 64 MiB/s.
const URGENT_PAUSE: Nanos = 4 * MILLI;
/// The same while the volume is used: 8 MiB/s.
const URGENT_USED_PAUSE: Nanos = 8 * MILLI;
/// The volume counts as used for so long after a request.
const USED: Nanos = 50 * MILLI;
/// Blocks found and not repaired; with so many the pass waits for their repair.
const MAX_FOUND: usize = 4096;
/// What is not repaired yet is told again after so long.
const TELL_AGAIN: Nanos = SECOND;
/// Blocks told at a time: as many as an engine repairs at a time.
const TELL_BLOCKS: usize = 16;
/// The position is made durable every so many blocks: 256 MiB.
const SAVE_BLOCKS: u64 = 64 << 10;
/// A pass that waits for its turn looks again after so long. Passes take minutes to days.
const TURN_PAUSE: Nanos = 10 * SECOND;
/// The same when an operator waits for the end.
const URGENT_TURN_PAUSE: Nanos = SECOND / 4;

/// When to scrub.
#[derive(Clone, Debug, Default)]
pub struct ScrubSettings {
    /// From the end of one pass to the beginning of the next, seconds; 0: only when told to.
    pub period_s: u64,
    /// The wall clock, seconds since 1970, when the core's clock was zero. For this alone, so that the period outlasts
    /// restarts; a wall clock that jumps moves a pass.
    pub unix_at_zero_s: u64,
    /// Shared by the replicas of a store.
    pub turns: ScrubTurns,
}

impl ScrubSettings {
    fn unix_s(&self, now: Nanos) -> u64 {
        self.unix_at_zero_s + now / SECOND
    }

    fn nanos(&self, unix_s: u64) -> Nanos {
        unix_s.saturating_sub(self.unix_at_zero_s).saturating_mul(SECOND)
    }
}

/// The part that does not.
#[derive(Default)]
pub(super) struct Scrub {
    /// An operator waits.
    urgent: bool,
    next_slice: Nanos,
    /// There while a pass reads.
    turn: Option<ScrubTurn>,
    /// (snapshot or 0, block) that are bad.
    found: BTreeSet<(Seq, u64)>,
    /// When the engine is told, and after which of them.
    tell: Nanos,
    told_to: (Seq, u64),
    /// Told and not good yet.
    told: usize,
    /// Blocks since the position was made durable.
    unsaved: u64,
    last_used: Nanos,
}

impl Scrub {
    /// A message came: perhaps somebody uses the volume.
    pub fn heard(&mut self, now: Nanos, message: &Message) {
        let uses = match message {
            Message::Append { records, .. } => !records.is_empty(),
            Message::Read { .. } | Message::CopyRead { .. } | Message::CopyWrite { .. } => true,
            _ => false,
        };
        if uses {
            self.last_used = now;
        }
    }
}

impl Replica {
    /// Begins a pass now and hurries; one that goes on by itself begins anew.
    pub fn scrub(&mut self, now: Nanos, out: &mut Vec<ReplicaAction>) {
        if self.failed.is_some() {
            return;
        }
        let asked = self.state.scrub.running && self.scrub.urgent;
        self.scrub.urgent = true;
        self.scrub.next_slice = now;
        if asked {
            return;
        }
        if let Err(Fault::Io(what, e)) = self.scrub_begin() {
            self.fail_io(what, &e, out);
        }
    }

    fn scrub_begin(&mut self) -> Outcome {
        let scrub = &mut self.state.scrub;
        (scrub.running, scrub.layer, scrub.next) = (true, 0, 0);
        scrub.pass = PassResult {
            // What is known already belongs to this pass too.
            found_blocks: self.scrub.found.len() as u64,
            ..PassResult::default()
        };
        self.persist()
    }

    /// After a start: when the next pass is due. The first one by lot, so that not all volumes of a store have theirs at
    /// once. What was found is forgotten with the process, so it is looked for again.
    pub(super) fn plan_scrub(&mut self, now: Nanos) {
        let settings = &self.settings.scrub;
        let lot = self.state.meta.id.0 as u32;
        let scrub = &mut self.state.scrub;
        if scrub.running && scrub.pass.lacks() {
            (scrub.layer, scrub.next, scrub.pass) = (0, 0, PassResult::default());
        } else if scrub.last.lacks() {
            scrub.due_unix_s = settings.unix_s(now);
        } else if scrub.due_unix_s == 0 {
            scrub.due_unix_s = settings.unix_s(now) + ((settings.period_s * u64::from(lot)) >> 32);
        }
    }

    /// When there is something to do.
    pub(super) fn scrub_due(&self) -> Option<Nanos> {
        let (state, settings) = (&self.state.scrub, &self.settings.scrub);
        if self.state.copy.is_some() {
            return None;
        }
        let slice = if state.running {
            (self.scrub.found.len() < MAX_FOUND).then_some(self.scrub.next_slice)
        } else {
            (settings.period_s > 0).then(|| settings.nanos(state.due_unix_s))
        };
        let tell = self.scrub_tells().then_some(self.scrub.tell);
        slice.into_iter().chain(tell).min()
    }

    pub(super) fn scrub_work(&mut self, now: Nanos, out: &mut Vec<ReplicaAction>) -> Outcome {
        let due = self.settings.scrub.nanos(self.state.scrub.due_unix_s) <= now;
        if !self.state.scrub.running && self.settings.scrub.period_s > 0 && due {
            self.scrub_begin()?;
        }
        let goes_on = self.state.scrub.running && self.scrub.found.len() < MAX_FOUND;
        if !goes_on {
            self.scrub.turn = None;
        } else if self.scrub.next_slice <= now && !self.scrub_takes_turn() {
            let urgent = self.scrub.urgent;
            self.scrub.next_slice = now + if urgent { URGENT_TURN_PAUSE } else { TURN_PAUSE };
        } else if self.scrub.next_slice <= now {
            let used = self.scrub.last_used + USED > now && self.scrub.last_used > 0;
            let pause = match (self.scrub.urgent, used) {
                (false, false) => PAUSE,
                (false, true) => USED_PAUSE,
                (true, false) => URGENT_PAUSE,
                (true, true) => URGENT_USED_PAUSE,
            };
            self.scrub.next_slice = now + pause;
            self.scrub_slice(now, if used { USED_SLICE } else { SLICE })?;
        }
        if self.scrub_tells() && self.scrub.tell <= now {
            self.scrub_tell(now, out)?;
        }
        Ok(())
    }

    /// Whether the pass may read now.
    fn scrub_takes_turn(&mut self) -> bool {
        let turns = &self.settings.scrub.turns;
        self.scrub.turn = self.scrub.turn.take().or_else(|| turns.take());
        self.scrub.turn.is_some()
    }

    /// It does not go on for now: others of the store may.
    pub(super) fn scrub_rests(&mut self) {
        self.scrub.turn = None;
    }

    fn scrub_slice(&mut self, now: Nanos, limit: u64) -> Outcome {
        let (layer, from) = (self.state.scrub.layer, self.state.scrub.next);
        let end = self.scrub_end_of(layer);
        if from >= end {
            return self.scrub_next(now);
        }
        let copies = self.scrub_copies(layer, from, SLICE_ENTRIES.min(end - from))?;
        let (mut read, mut at) = (0, 0);
        let mut bad = Vec::new();
        while at < copies.len() && read < limit {
            let rest = &copies[at..];
            let most = (limit - read) as usize;
            let run = rest
                .iter()
                .take(most)
                .take_while(|c| same_file(c, &rest[0]))
                .count();
            let run = run.max(1);
            if data_entry(&rest[0]).is_some() {
                read += run as u64;
            }
            self.scrub_run(from + at as u64, &rest[..run], &mut bad);
            at += run;
        }
        let scrub = &mut self.state.scrub;
        scrub.next = from + at as u64;
        scrub.pass.checked_blocks += read;
        self.scrub.unsaved += at as u64;
        if !bad.is_empty() {
            self.scrub_found(now, layer, &bad);
        }
        if self.scrub.unsaved >= SAVE_BLOCKS {
            self.scrub.unsaved = 0;
            self.persist()?;
        }
        Ok(())
    }

    /// The volume or a layer is done: the next layer, or the end of the pass.
    fn scrub_next(&mut self, now: Nanos) -> Outcome {
        let done = self.state.scrub.layer;
        let layers = if self.settings.mutations.scrub_no_layers {
            Vec::new()
        } else {
            self.snapshots()
        };
        let scrub = &mut self.state.scrub;
        if let Some(next) = layers.iter().find(|s| s.seq > done) {
            (scrub.layer, scrub.next) = (next.seq, 0);
            return Ok(());
        }
        let settings = &self.settings.scrub;
        scrub.pass.ended_unix_s = settings.unix_s(now);
        (scrub.running, scrub.last) = (false, scrub.pass);
        scrub.passes += 1;
        scrub.due_unix_s = settings.unix_s(now) + settings.period_s;
        self.scrub.urgent = false;
        self.scrub.turn = None;
        tracing::info!(volume = %self.state.meta.volume, id = %self.state.meta.id, checked = scrub.pass.checked_blocks,
            found = scrub.pass.found_blocks, repaired = scrub.pass.repaired_blocks, "scrubbed");
        self.persist()
    }
}
