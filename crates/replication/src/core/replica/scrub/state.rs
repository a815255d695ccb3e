//! What a scrub keeps over a restart, and what it says of itself.

use super::super::Replica;
use super::super::state::Fields;
use crate::core::types::Seq;
use bytes::BufMut;

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
pub struct ScrubState {
    pub(super) running: bool,
    /// The layer that is being read, as seq of its snapshot; 0: the volume.
    pub(super) layer: Seq,
    pub(super) next: u64,
    /// Of the pass that runs.
    pub(super) pass: PassResult,
    /// Of the last one that ended.
    pub(super) last: PassResult,
    /// Passes that ended.
    pub(super) passes: u64,
    /// When the next one begins, seconds since 1970; 0: not decided.
    pub(super) due_unix_s: u64,
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

    pub(super) fn lacks(&self) -> bool {
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
    pub(in super::super) fn scrub_status(&self) -> ScrubStatus {
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
