//! Write-back: applying stable records in place, sorted by block, a slice at a time.

use super::blocks::{Blocks, Entry};
use super::index::{HeldKind, Index, Piece};
use super::{During, Fault, Outcome, Replica, ReplicaAction};
use crate::core::types::{BLOCK, MILLI, Nanos, SECOND, Seq};

/// One pass over everything that was stable when it began.
pub(super) struct Sweep {
    pub index: Index,
    pub upto: Seq,
    pub next: Nanos,
    pub stage: Stage,
}

/// What a sweep is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Keeps for the newest snapshot what will be overwritten, from that block on.
    Keep(u64),
    /// What was kept must be synced.
    Kept,
    /// The job with that ticket syncs it.
    Syncing(u64),
    /// Writes in place.
    Apply,
}

impl Sweep {
    /// There is nothing to do but to wait for a sync.
    fn waits(&self) -> bool {
        matches!(self.stage, Stage::Kept | Stage::Syncing(_))
    }
}

/// Blocks of data that make a sweep worth its sync: 8 MiB.
const SWEEP_BLOCKS: u64 = 2048;
/// A sweep begins when the oldest record has waited so long.
const SWEEP_AGE: Nanos = 2 * SECOND;
/// Blocks of data in one slice: 256 KiB, so that the stream never waits long.
pub(super) const SLICE_BLOCKS: u64 = 64;
/// Blocks of zeroes in one slice: their entries only, 64 KiB.
pub(super) const SLICE_ZEROES: u64 = 4096;
/// Pause between slices while the journal has room: 128 MB/s, so that journals are not starved.
pub(super) const SLICE_PAUSE: Nanos = 2 * MILLI;
/// No pause when so many segments wait for write-back.
const PRESSURE_SEGMENTS: usize = super::journal::MAX_SEGMENTS / 2;
/// Learner: persist the cursor after so many copied bytes.
const CURSOR_BYTES: u64 = 32 << 20;
/// Idle so long after the last append, the journal gets an empty header that tells what is durable (R10).
const IDLE_HEADER: Nanos = 100 * MILLI;

/// Consecutive blocks to write.
#[derive(Default)]
struct Run {
    start: u64,
    entries: Vec<Entry>,
    data: Vec<u8>,
}

impl Replica {
    /// Does a bounded slice of background work (write-back) and says when to call again; none: only after
    /// something else happened.
    pub fn background(&mut self, now: Nanos, out: &mut Vec<ReplicaAction>) -> Option<Nanos> {
        if self.failed.is_some() {
            return None;
        }
        match self.work(now, out) {
            Ok(next) => next,
            Err(Fault::Io(what, e)) => {
                self.fail_io(what, &e, out);
                None
            }
            Err(_) => None,
        }
    }

    /// When [`Replica::background`] or [`Replica::begin_sync`] has something to do; none: only after something else
    /// happened. Does nothing itself.
    pub fn due(&self, now: Nanos) -> Option<Nanos> {
        if self.failed.is_some() {
            return None;
        }
        let sweep = match &self.sweep {
            Some(sweep) if sweep.waits() => None,
            Some(_) if self.in_hurry() => Some(now),
            Some(sweep) => Some(sweep.next),
            None => self.sweep_due(now),
        };
        [
            sweep,
            self.header_due(),
            self.sync_deadline(),
            self.merge_due(now),
            self.scrub_due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// A record can be appended without making room for it first.
    pub fn has_room(&self) -> bool {
        self.failed.is_none() && !self.in_hurry()
    }

    fn in_hurry(&self) -> bool {
        self.want_applied > self.applied
            || self.journal.pinned_segments(self.applied_synced) >= PRESSURE_SEGMENTS
    }

    /// When to begin a sweep.
    fn sweep_due(&self, now: Nanos) -> Option<Nanos> {
        let possible = self.sweep.is_none() && self.stable > self.applied && !self.jobs.blocks_busy();
        let at_once = self.in_hurry() || self.stable_index.data_blocks() >= SWEEP_BLOCKS;
        let aged = self.stable_since.map_or(now, |t| t + SWEEP_AGE);
        possible.then_some(if at_once { now } else { aged })
    }

    /// When to write an empty header.
    fn header_due(&self) -> Option<Nanos> {
        let untold = self.journal.durable == self.journal.end && self.marked < self.journal.durable;
        untold.then_some(self.last_append + IDLE_HEADER)
    }

    fn work(&mut self, now: Nanos, out: &mut Vec<ReplicaAction>) -> Result<Option<Nanos>, Fault> {
        let hurry = self.in_hurry();
        if self.sweep_due(now).is_some_and(|t| t <= now) {
            self.start_sweep(now);
        }
        if let Some(sweep) = &mut self.sweep
            && (sweep.next <= now || hurry)
        {
            sweep.next = now + SLICE_PAUSE;
            match sweep.stage {
                Stage::Keep(from) => self.keep_slice(from)?,
                Stage::Kept | Stage::Syncing(_) => {}
                Stage::Apply => self.apply_slice()?,
            }
        }
        if self.merge_due(now).is_some_and(|t| t <= now) {
            self.merge_slice(now)?;
        }
        if self.header_due().is_some_and(|t| t <= now) {
            let synced = self.applied_synced;
            self.journal
                .append(&*self.disk, &[], synced)
                .during("appending to the journal")?;
            self.marked = self.journal.durable;
        }
        if self.state.copy.is_some() {
            self.scrub_rests();
        } else if self.scrub_due().is_some_and(|t| t <= now) {
            self.scrub_work(now, out)?;
        }
        Ok(self.due(now))
    }

    fn start_sweep(&mut self, now: Nanos) {
        let index = std::mem::take(&mut self.stable_index);
        self.sweep = Some(Sweep {
            index,
            upto: self.stable,
            next: now,
            stage: match self.target_layer(self.stable) {
                Some(_) => Stage::Keep(0),
                None => Stage::Apply,
            },
        });
        self.stable_since = None;
    }

    /// Keeps a slice of what the sweep will overwrite.
    fn keep_slice(&mut self, mut from: u64) -> Outcome {
        let (mut data, mut looked) = (SLICE_BLOCKS, SLICE_ZEROES);
        while data > 0 && looked > 0 {
            let Some(sweep) = &mut self.sweep else {
                return Ok(());
            };
            let Some((start, end)) = sweep.index.range_from(from, SLICE_BLOCKS) else {
                let wait = self.layers.unsynced() && !self.settings.mutations.snap_keep_unsynced;
                sweep.stage = if wait { Stage::Kept } else { Stage::Apply };
                return Ok(());
            };
            let upto = sweep.upto;
            let copied = self.keep_range(start, end, upto)?;
            data = data.saturating_sub(copied);
            looked = looked.saturating_sub(end - start);
            from = end;
        }
        if let Some(sweep) = &mut self.sweep {
            sweep.stage = Stage::Keep(from);
        }
        Ok(())
    }

    /// Brings the sweep to the point where it may write in place, now.
    fn keep_all(&mut self) -> Outcome {
        while let Some(Stage::Keep(from)) = self.sweep.as_ref().map(|s| s.stage) {
            self.keep_slice(from)?;
        }
        if let Some(sweep) = &mut self.sweep
            && sweep.stage != Stage::Apply
        {
            self.layers.sync().during("syncing a layer")?;
            sweep.stage = Stage::Apply;
        }
        Ok(())
    }

    /// The blocks need a sync.
    pub(super) fn blocks_due(&self) -> bool {
        self.applied > self.applied_synced || self.copied >= CURSOR_BYTES
    }

    /// Applies everything stable, now.
    pub(super) fn apply_all(&mut self) -> Outcome {
        self.keep_all()?;
        while self.sweep.is_some() {
            self.apply_slice()?;
        }
        if self.stable > self.applied {
            self.start_sweep(0);
            self.keep_all()?;
            while self.sweep.is_some() {
                self.apply_slice()?;
            }
        }
        Ok(())
    }

    fn apply_slice(&mut self) -> Outcome {
        let Some(mut sweep) = self.sweep.take() else {
            return Ok(());
        };
        let (mut data, mut zeroes) = (SLICE_BLOCKS, SLICE_ZEROES);
        let mut run = Run::default();
        while data > 0 && zeroes > 0 {
            let Some(piece) = sweep.index.pop_first(SLICE_ZEROES) else {
                break;
            };
            if matches!(piece.held.kind, HeldKind::Zero { .. }) {
                self.flush_run(&mut run)?;
                zeroes = zeroes.saturating_sub(piece.end - piece.start);
                self.apply_zero(&piece)?;
            } else {
                data = data.saturating_sub(piece.end - piece.start);
                self.apply_data(&piece, &mut run)?;
            }
        }
        self.flush_run(&mut run)?;
        if sweep.index.is_empty() {
            self.applied = self.applied.max(sweep.upto);
            if self.settings.mutations.r9_release_unsynced {
                self.applied_synced = self.applied;
            }
        } else {
            self.sweep = Some(sweep);
        }
        Ok(())
    }

    /// What is in place is newer: a learner's copy, a repair. A version beyond everything committed is rot.
    pub(super) fn newer(&self, entry: &Entry, seq: Seq) -> bool {
        entry.version > seq && entry.version <= self.journal.commit && (entry.is_data() || entry.is_zero())
    }

    fn apply_data(&mut self, piece: &Piece, run: &mut Run) -> Outcome {
        let HeldKind::Data { crcs, .. } = &piece.held.kind else {
            return Ok(());
        };
        let count = piece.end - piece.start;
        let present = self
            .blocks
            .entries(piece.start, count)
            .during("reading entries")?;
        // Stretches of blocks that are not newer in place, each read to where it will be written from.
        let stale = |i: &u64| !self.newer(&present[*i as usize], piece.held.seq);
        let mut from = 0;
        while from < count {
            let len = (from..count).take_while(stale).count() as u64;
            if len == 0 {
                from += 1;
                continue;
            }
            let start = piece.start + from;
            if run.start + run.entries.len() as u64 != start || run.entries.is_empty() {
                Self::write_run(&self.blocks, run)?;
                run.start = start;
            }
            let at = run.data.len();
            run.data.resize(at + len as usize * BLOCK, 0);
            self.journal
                .read(&piece.held, start, &mut run.data[at..])
                .during("reading the journal")?;
            let first = (start - piece.held.block) as usize;
            let entry = |crc: &u32| Entry::data(piece.held.seq, *crc);
            run.entries
                .extend(crcs[first..first + len as usize].iter().map(entry));
            from += len;
        }
        Ok(())
    }

    fn flush_run(&mut self, run: &mut Run) -> Outcome {
        Self::write_run(&self.blocks, run)
    }

    fn write_run(blocks: &Blocks, run: &mut Run) -> Outcome {
        if !run.entries.is_empty() {
            let written = blocks.write(run.start, &run.entries, Some(&[&run.data]));
            written.during("writing blocks")?;
            run.entries.clear();
            run.data.clear();
        }
        Ok(())
    }

    /// Marks what was ever written as zero, and frees it. What was never written, neither in place nor in the records
    /// that this sweep passes over, stays so: no other replica of this log has it either. A learner does not know.
    fn apply_zero(&mut self, piece: &Piece) -> Outcome {
        let stamp = piece.stamp || self.state.copy.is_some();
        let count = piece.end - piece.start;
        let mut entries = self
            .blocks
            .entries(piece.start, count)
            .during("reading entries")?;
        let mut freed: Option<(u64, u64)> = None;
        let mut changed = false;
        for (i, entry) in entries.iter_mut().enumerate() {
            let block = piece.start + i as u64;
            let untouched = *entry == Entry::default() && !stamp;
            if untouched || self.newer(entry, piece.held.seq) {
                continue;
            }
            if entry.is_data() {
                freed = match freed {
                    Some((start, end)) if end == block => Some((start, block + 1)),
                    Some((start, end)) => {
                        self.blocks.punch(start, end - start).during("freeing blocks")?;
                        Some((block, block + 1))
                    }
                    None => Some((block, block + 1)),
                };
            }
            *entry = if self.settings.mutations.r11_forget_freed {
                Entry::default()
            } else {
                Entry::zero(self.seed, block, piece.held.seq)
            };
            changed = true;
        }
        if let Some((start, end)) = freed {
            self.blocks.punch(start, end - start).during("freeing blocks")?;
        }
        if changed {
            self.blocks
                .write(piece.start, &entries, None)
                .during("writing entries")?;
        }
        Ok(())
    }
}
