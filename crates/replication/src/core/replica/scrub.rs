//! Scrubbing: every block, in place and in what is kept for snapshots, is read now and then and compared with its checksum
//! although nobody asked for it, so that rot is found while another region still has a good copy.
//!
//! - It goes in slices at a low rate, and a lower one while the volume is used. Its position is part of the state.
//! - What it finds it tells the engine, again and again until it is good; the engine repairs it as after a read (R13).
//!   While no engine has the volume, what was found waits for one.
//! - Only a complete replica is scrubbed: a learner marks as bad what its source had no good copy of.

use super::blocks::{Blocks, Entry};
use super::layers::Kept;
use super::state::Fields;
use super::{During, Fault, Outcome, Replica, ReplicaAction};
use crate::core::checksum;
use crate::core::types::{BLOCK, MILLI, Nanos, SECOND, Seq};
use crate::core::wire::{BlockEntry, BlockKind, Message};
use bytes::BufMut;
use std::collections::BTreeSet;

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

/// When to scrub.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScrubSettings {
    /// From the end of one pass to the beginning of the next, seconds; 0: only when told to.
    pub period_s: u64,
    /// The wall clock, seconds since 1970, when the core's clock was zero. For this alone, so that the period outlasts
    /// restarts; a wall clock that jumps moves a pass.
    pub unix_at_zero_s: u64,
}

impl ScrubSettings {
    fn unix_s(&self, now: Nanos) -> u64 {
        self.unix_at_zero_s + now / SECOND
    }

    fn nanos(&self, unix_s: u64) -> Nanos {
        unix_s.saturating_sub(self.unix_at_zero_s).saturating_mul(SECOND)
    }
}

/// What came of a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassResult {
    /// When it ended, seconds since 1970; 0: there was none.
    pub ended_unix_s: u64,
    /// Blocks with data read.
    pub checked_blocks: u64,
    /// Blocks that did not match their checksum.
    pub found_blocks: u64,
    /// Of these, good again.
    pub repaired_blocks: u64,
}

/// The part that outlasts a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ScrubState {
    running: bool,
    /// The layer that is being read, as seq of its snapshot; 0: the volume.
    layer: Seq,
    next: u64,
    /// Of the pass that runs.
    pass: PassResult,
    /// Of the last one that ended.
    last: PassResult,
    /// Passes that ended.
    passes: u64,
    /// When the next one begins, seconds since 1970; 0: not decided.
    due_unix_s: u64,
}

impl PassResult {
    fn encode(&self, b: &mut Vec<u8>) {
        for v in [
            self.ended_unix_s,
            self.checked_blocks,
            self.found_blocks,
            self.repaired_blocks,
        ] {
            b.put_u64_le(v);
        }
    }

    fn decode(r: &mut Fields<'_>) -> Option<PassResult> {
        Some(PassResult {
            ended_unix_s: r.u64()?,
            checked_blocks: r.u64()?,
            found_blocks: r.u64()?,
            repaired_blocks: r.u64()?,
        })
    }

    fn lacks(&self) -> bool {
        self.repaired_blocks < self.found_blocks
    }
}

impl ScrubState {
    pub fn encode(&self, b: &mut Vec<u8>) {
        b.put_u8(u8::from(self.running));
        for v in [self.layer, self.next, self.passes, self.due_unix_s] {
            b.put_u64_le(v);
        }
        self.pass.encode(b);
        self.last.encode(b);
    }

    pub fn decode(r: &mut Fields<'_>) -> Option<ScrubState> {
        let running = r.flag()?;
        let (layer, next, passes, due_unix_s) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?);
        Some(ScrubState {
            running,
            layer,
            next,
            pass: PassResult::decode(r)?,
            last: PassResult::decode(r)?,
            passes,
            due_unix_s,
        })
    }
}

/// The part that does not.
#[derive(Default)]
pub(super) struct Scrub {
    /// An operator waits.
    urgent: bool,
    next_slice: Nanos,
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

/// How far a scrub is, for people and programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubStatus {
    /// A pass is under way.
    pub running: bool,
    /// Blocks that it has passed, of the volume and of what snapshots keep.
    pub position_blocks: u64,
    /// Blocks that it passes in all.
    pub total_blocks: u64,
    /// Of the pass that runs.
    pub pass: PassResult,
    /// Of the last one that ended.
    pub last: PassResult,
    /// Passes that ended.
    pub passes: u64,
    /// Blocks that are known to be bad now.
    pub damaged_blocks: u64,
    /// When the next one begins, seconds since 1970; 0: only when told to.
    pub due_unix_s: u64,
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
        let settings = self.settings.scrub;
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

    /// Somebody is there to be told of what was found.
    fn scrub_tells(&self) -> bool {
        !self.scrub.found.is_empty()
            && self.adopted
            && self.session.is_some()
            && !self.settings.mutations.scrub_tells_nobody
    }

    pub(super) fn scrub_work(&mut self, now: Nanos, out: &mut Vec<ReplicaAction>) -> Outcome {
        let due = self.settings.scrub.nanos(self.state.scrub.due_unix_s) <= now;
        if !self.state.scrub.running && self.settings.scrub.period_s > 0 && due {
            self.scrub_begin()?;
        }
        let goes_on = self.state.scrub.running && self.scrub.found.len() < MAX_FOUND;
        if goes_on && self.scrub.next_slice <= now {
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

    /// Blocks of the volume or of a snapshot; none for a snapshot that is no more.
    fn scrub_end_of(&self, layer: Seq) -> u64 {
        match (layer, self.layer_of(layer)) {
            (0, _) => self.state.blocks,
            (_, Some(at)) => self.state.layers[at].info.blocks,
            (_, None) => 0,
        }
    }

    /// What is to be compared of a range: of a snapshot only what is kept for it alone, since the rest is looked at where it
    /// belongs.
    fn scrub_copies(&self, layer: Seq, block: u64, count: u64) -> Result<Vec<Option<Kept>>, Fault> {
        let Some(own) = self.layer_of(layer) else {
            let entries = self.blocks.entries(block, count).during("reading entries")?;
            return Ok(entries.into_iter().map(|e| Some(Kept::Place(e))).collect());
        };
        let merging = self.state.layers[own + 1..].iter().take_while(|l| l.dropped);
        let last = own + merging.count();
        let mine = |kept: Kept| match kept {
            Kept::Layer(at, _) if at > last => None,
            Kept::Place(_) => None,
            kept => Some(kept),
        };
        Ok(self.kept(own, block, count)?.into_iter().map(mine).collect())
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

    fn scrub_found(&mut self, now: Nanos, layer: Seq, bad: &[u64]) {
        tracing::warn!(volume = %self.state.meta.volume, id = %self.state.meta.id, block = bad[0], bad = bad.len(),
            snapshot = layer, "the scrub found blocks that do not match their checksums");
        for block in bad {
            if self.scrub.found.insert((layer, *block)) {
                self.state.scrub.pass.found_blocks += 1;
            }
        }
        if self.scrub.told == 0 {
            self.scrub.tell = now;
        }
    }

    /// Compares consecutive blocks of one kind.
    fn scrub_run(&self, block: u64, run: &[Option<Kept>], bad: &mut Vec<u64>) {
        let entries: Vec<Entry> = run.iter().filter_map(data_entry).collect();
        if entries.len() < run.len() {
            let unsound = |(at, copy): (u64, &Option<Kept>)| match copy {
                None => false,
                Some(Kept::Layer(_, e)) if *e == Entry::absent(self.seed, at) => false,
                Some(Kept::Layer(_, e) | Kept::Place(e)) => !e.is_sound_zero(self.seed, at),
                Some(Kept::Lost(_)) => true,
            };
            bad.extend((block..).zip(run).filter(|c| unsound(*c)).map(|(at, _)| at));
            return;
        }
        let files = match run[0] {
            Some(Kept::Layer(at, _)) => &self.layers.stores[at].blocks,
            _ => &self.blocks,
        };
        let mut data = vec![0u8; run.len() * BLOCK];
        let whole = files.read(block, &mut data).is_ok();
        for (i, entry) in entries.iter().enumerate() {
            let (at, bytes) = (block + i as u64, &mut data[i * BLOCK..(i + 1) * BLOCK]);
            // One block that cannot be read does not condemn its neighbours.
            let there = whole || read_alone(files, at, bytes);
            if !there || checksum::block(self.seed, at, entry.version, bytes) != entry.crc {
                bad.push(at);
            }
        }
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
        tracing::info!(volume = %self.state.meta.volume, id = %self.state.meta.id, checked = scrub.pass.checked_blocks,
            found = scrub.pass.found_blocks, repaired = scrub.pass.repaired_blocks, "scrubbed");
        self.persist()
    }

    /// The entry of a block that is still bad.
    fn scrub_look(&self, layer: Seq, block: u64) -> Result<Option<Entry>, Fault> {
        if block >= self.scrub_end_of(layer) {
            return Ok(None);
        }
        let copies = self.scrub_copies(layer, block, 1)?;
        let mut bad = Vec::new();
        self.scrub_run(block, &copies, &mut bad);
        let entry = match copies[0] {
            Some(Kept::Layer(_, e) | Kept::Place(e) | Kept::Lost(e)) => Some(e),
            None => None,
        };
        Ok(entry.filter(|_| !bad.is_empty()))
    }

    /// Tells the engine of some of what is bad, and of others the next time.
    fn scrub_tell(&mut self, now: Nanos, out: &mut Vec<ReplicaAction>) -> Outcome {
        let Some(session) = self.session else {
            return Ok(());
        };
        let last = self.scrub.told_to;
        let after = self.scrub.found.range((last.0, last.1 + 1)..);
        let next: Vec<(Seq, u64)> = after
            .chain(self.scrub.found.range(..=last))
            .take(TELL_BLOCKS)
            .copied()
            .collect();
        let mut still: Vec<(Seq, BlockEntry)> = Vec::new();
        for (layer, block) in next {
            self.scrub.told_to = (layer, block);
            match self.scrub_look(layer, block)? {
                // It was written anew, or its snapshot is gone.
                None => {
                    self.scrub_good(layer, block);
                    self.scrub_not_kept(layer, block)?;
                }
                Some(entry) => still.push((
                    layer,
                    BlockEntry {
                        block,
                        version: entry.version,
                        crc: entry.crc,
                        kind: BlockKind::Bad,
                    },
                )),
            }
        }
        self.scrub.told = still.len();
        self.scrub.tell = now + TELL_AGAIN;
        for group in still.chunk_by(|a, b| a.0 == b.0) {
            let message = Message::Damaged {
                epoch: self.state.promised,
                snapshot: group[0].0,
                blocks: group.iter().map(|(_, b)| *b).collect(),
            };
            out.push(ReplicaAction::Send { session, message });
        }
        Ok(())
    }

    /// A bad block of the volume was written anew before it was repaired: snapshots that needed it have nothing of it.
    fn scrub_not_kept(&mut self, layer: Seq, block: u64) -> Outcome {
        if layer > 0 {
            return Ok(());
        }
        for snapshot in self.snapshots() {
            let bad = self.scrub_look(snapshot.seq, block)?.is_some();
            if bad && self.scrub.found.insert((snapshot.seq, block)) {
                let scrub = &mut self.state.scrub;
                let of = if scrub.running {
                    &mut scrub.pass
                } else {
                    &mut scrub.last
                };
                of.found_blocks += 1;
            }
        }
        Ok(())
    }

    fn scrub_good(&mut self, layer: Seq, block: u64) {
        if !self.scrub.found.remove(&(layer, block)) {
            return;
        }
        let scrub = &mut self.state.scrub;
        let of = if scrub.running {
            &mut scrub.pass
        } else {
            &mut scrub.last
        };
        of.repaired_blocks += 1;
    }

    /// A block was repaired. With the last that the engine knew of it is told of more at once.
    pub(super) fn scrub_repaired(&mut self, layer: Seq, block: u64) {
        self.scrub_good(layer, block);
        self.scrub.told = self.scrub.told.saturating_sub(1);
        if self.scrub.told == 0 {
            self.scrub.tell = 0;
        }
    }

    pub(super) fn scrub_status(&self) -> ScrubStatus {
        let state = &self.state.scrub;
        let snapshots = self.snapshots();
        let of_snapshots: u64 = snapshots.iter().map(|s| s.blocks).sum();
        let before = if state.layer > 0 { self.state.blocks } else { 0 };
        let passed = snapshots.iter().filter(|s| s.seq < state.layer);
        let before = before + passed.map(|s| s.blocks).sum::<u64>();
        ScrubStatus {
            running: state.running,
            position_blocks: if state.running { before + state.next } else { 0 },
            total_blocks: self.state.blocks + of_snapshots,
            pass: state.pass,
            last: state.last,
            passes: state.passes,
            damaged_blocks: self.scrub.found.len() as u64,
            due_unix_s: if self.settings.scrub.period_s > 0 {
                state.due_unix_s
            } else {
                0
            },
        }
    }
}

/// The entry of a copy with data.
fn data_entry(copy: &Option<Kept>) -> Option<Entry> {
    match copy {
        Some(Kept::Layer(_, e) | Kept::Place(e)) if e.is_data() => Some(*e),
        _ => None,
    }
}

/// Both have data in the same file, or neither has any.
fn same_file(a: &Option<Kept>, b: &Option<Kept>) -> bool {
    let data = (data_entry(a).is_some(), data_entry(b).is_some());
    match (data, a, b) {
        ((true, true), Some(Kept::Layer(i, _)), Some(Kept::Layer(j, _))) => i == j,
        ((true, true), Some(Kept::Place(_)), Some(Kept::Place(_))) => true,
        ((false, false), _, _) => true,
        _ => false,
    }
}

fn read_alone(files: &Blocks, block: u64, bytes: &mut [u8]) -> bool {
    files.read(block, bytes).is_ok()
}
