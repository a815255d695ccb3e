//! Write-back: applying stable records in place, sorted by block, a slice at a time.

use super::blocks::Entry;
use super::index::{HeldKind, Index, Piece};
use super::{During, Fault, Outcome, Replica};
use crate::core::types::{BLOCK, MILLI, Nanos, SECOND, Seq};

/// One pass over everything that was stable when it began.
pub(super) struct Sweep {
    pub index: Index,
    pub upto: Seq,
    pub next: Nanos,
}

/// Blocks of data that make a sweep worth its sync: 8 MiB.
const SWEEP_BLOCKS: u64 = 2048;
/// A sweep begins when the oldest record has waited so long.
const SWEEP_AGE: Nanos = 2 * SECOND;
/// Blocks of data in one slice: 256 KiB, so that the stream never waits long.
const SLICE_BLOCKS: u64 = 64;
/// Blocks of zeroes in one slice: their entries only, 64 KiB.
const SLICE_ZEROES: u64 = 4096;
/// Pause between slices while the journal has room: 128 MB/s, so that journals are not starved.
const SLICE_PAUSE: Nanos = 2 * MILLI;
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
    pub fn background(&mut self, now: Nanos) -> Option<Nanos> {
        if self.failed.is_some() {
            return None;
        }
        match self.work(now) {
            Ok(next) => next,
            Err(Fault::Io(what, e)) => {
                self.fail_io(what, &e, &mut Vec::new());
                None
            }
            Err(_) => None,
        }
    }

    fn work(&mut self, now: Nanos) -> Result<Option<Nanos>, Fault> {
        let hurry = self.want_applied > self.applied
            || self.journal.pinned_segments(self.applied_synced) >= PRESSURE_SEGMENTS;
        let mut next = self.sync_deadline();
        let mut at_least = |t: Nanos| next = Some(next.map_or(t, |n: Nanos| n.min(t)));
        if self.sweep.is_none() && self.stable > self.applied && !self.jobs.blocks_busy() {
            let due = self.stable_since.map_or(now, |t| t + SWEEP_AGE);
            if hurry || due <= now || self.stable_index.data_blocks() >= SWEEP_BLOCKS {
                self.start_sweep(now);
            } else {
                at_least(due);
            }
        }
        if let Some(sweep) = &mut self.sweep {
            if sweep.next <= now || hurry {
                sweep.next = now + SLICE_PAUSE;
                self.apply_slice()?;
            }
            if let Some(sweep) = &self.sweep {
                at_least(if hurry { now } else { sweep.next });
            }
        }
        if self.journal.durable == self.journal.end && self.marked < self.journal.durable {
            let due = self.last_append + IDLE_HEADER;
            if due <= now {
                let synced = self.applied_synced;
                self.journal
                    .append(&*self.disk, &[], synced)
                    .during("appending to the journal")?;
                self.marked = self.journal.durable;
            } else {
                at_least(due);
            }
        }
        Ok(next)
    }

    fn start_sweep(&mut self, now: Nanos) {
        let index = std::mem::take(&mut self.stable_index);
        self.sweep = Some(Sweep {
            index,
            upto: self.stable,
            next: now,
        });
        self.stable_since = None;
    }

    /// The blocks need a sync.
    pub(super) fn blocks_due(&self) -> bool {
        self.applied > self.applied_synced || self.copied >= CURSOR_BYTES
    }

    /// Applies everything stable, now.
    pub(super) fn apply_all(&mut self) -> Outcome {
        while self.sweep.is_some() {
            self.apply_slice()?;
        }
        if self.stable > self.applied {
            self.start_sweep(0);
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
        let mut data = vec![0u8; count as usize * BLOCK];
        self.journal
            .read(&piece.held, piece.start, &mut data)
            .during("reading the journal")?;
        for (i, (old, bytes)) in present.iter().zip(data.chunks_exact(BLOCK)).enumerate() {
            let block = piece.start + i as u64;
            if self.newer(old, piece.held.seq) {
                continue;
            }
            if run.start + run.entries.len() as u64 != block || run.entries.is_empty() {
                self.flush_run(run)?;
                run.start = block;
            }
            let crc = crcs[(block - piece.held.block) as usize];
            run.entries.push(Entry::data(piece.held.seq, crc));
            run.data.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn flush_run(&mut self, run: &mut Run) -> Outcome {
        if !run.entries.is_empty() {
            let written = self.blocks.write(run.start, &run.entries, Some(&[&run.data]));
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
