//! Catching up by extents (R15): blocks newer than what the learner has, read from the applied state of a complete
//! member and written to the learner, piece by piece, while the stream goes on.

use super::Engine;
use super::join::SLOW_SOURCE;
use super::peer::Stage;
use crate::core::types::{MILLI, Nanos, Seq, SnapshotInfo};
use crate::core::wire::{BlockEntry, Message};
use bytes::Bytes;

/// `CopyWrite` messages without an answer.
const WRITES: u32 = 2;
/// The source has not applied enough yet: ask again after so long.
const RETRY: Nanos = 10 * MILLI;
/// While the device is used, the next piece is asked for after this share of the time that the last one took, so that
/// the source is not always busy with copies. How long a piece takes tells how busy the machines are.
const PAUSE_PERCENT: Nanos = 50;
/// The device counts as used for so long after a request.
const USED: Nanos = 100 * MILLI;
/// Longest pause.
const MAX_PAUSE: Nanos = 50 * MILLI;

/// One learner's copy.
pub(super) struct CopyTask {
    pieces: Vec<(u64, Seq)>,
    /// Next block to read.
    position: u64,
    /// The source must have applied everything up to here. At least the highest version that the learner may have
    /// from an earlier source, so that versions never go back.
    need: Seq,
    /// (request, source) of a `CopyRead`.
    reading: Option<(u64, usize)>,
    /// When it was sent.
    asked_at: Nanos,
    writing: u32,
    not_before: Nanos,
    done_sent: bool,
    layers: Layers,
}

/// The second part of a copy: what members keep for snapshots. The source must have applied whatever the learner may
/// have applied before its copy of the volume was whole, because only the source knows what that overwrote.
#[derive(Default)]
struct Layers {
    /// Set when the volume is copied: the snapshots of then, newest last. That one is copied first: when a snapshot is
    /// dropped meanwhile, what an older one needs of it is in what the source has for the older one.
    left: Option<Vec<SnapshotInfo>>,
    /// The snapshot before, which is the next newer one; 0: none.
    newer: Seq,
}

impl CopyTask {
    pub fn new(pieces: Vec<(u64, Seq)>, cursor: u64, need: Seq) -> CopyTask {
        CopyTask {
            pieces,
            position: cursor,
            need,
            reading: None,
            asked_at: 0,
            writing: 0,
            not_before: 0,
            done_sent: false,
            layers: Layers::default(),
        }
    }

    pub fn source_lost(&mut self, member: usize) {
        self.reading = self.reading.filter(|(_, source)| *source != member);
    }

    /// Who was asked for blocks.
    pub fn source(&self) -> Option<usize> {
        self.reading.map(|r| r.1)
    }

    /// Blocks not looked at yet.
    pub fn left(&self) -> u64 {
        self.end().saturating_sub(self.position)
    }

    fn end(&self) -> u64 {
        self.pieces.last().map_or(0, |p| p.0)
    }

    /// The snapshot whose layer is being copied; 0: the volume.
    fn snapshot(&self) -> Seq {
        let left = self.layers.left.as_ref();
        left.and_then(|l| l.last()).map_or(0, |s| s.seq)
    }

    /// The volume or a layer is whole: the next layer, if there is one.
    fn next_layer(&mut self, snapshots: &[SnapshotInfo], durable: Seq) {
        match &mut self.layers.left {
            None => {
                self.need = self.need.max(durable);
                self.layers.left = Some(snapshots.to_vec());
            }
            Some(left) => self.layers.newer = left.pop().map_or(0, |s| s.seq),
        }
        if let Some(next) = self.layers.left.as_ref().and_then(|l| l.last()) {
            self.pieces = vec![(next.blocks, 0)];
            self.position = 0;
        }
    }

    pub fn deadline(&self) -> Option<Nanos> {
        (self.reading.is_none() && self.position < self.end() && self.writing < WRITES && self.not_before > 0)
            .then_some(self.not_before)
    }
}

impl Engine {
    pub(super) fn advance_copies(&mut self) {
        for member in 0..self.peers.len() {
            let ready = matches!(
                self.peers[member].stage,
                Stage::Filling | Stage::Adopting | Stage::Live
            );
            if ready && self.peers[member].copy.is_some() {
                self.advance_copy(member);
            }
        }
    }

    fn advance_copy(&mut self, member: usize) {
        let durable = self.stream.durable;
        let sources = (0..self.peers.len()).filter(|i| *i != member && self.good_end(*i) >= durable);
        let home = self.settings.home;
        let source = sources.max_by_key(|i| {
            (
                !self.peers[*i].slow(self.now, SLOW_SOURCE),
                self.good_end(*i),
                Some(*i) != home,
            )
        });
        let received = self.peers[member].received;
        let live = self.peers[member].stage == Stage::Live;
        let request = self.next_request + 1;
        let Some(copy) = &mut self.peers[member].copy else {
            return;
        };
        if copy.position >= copy.end() && copy.writing == 0 && live {
            let none = self.settings.mutations.snap_copy_no_layers;
            // Not one more: what is not durable yet the learner takes itself, from a volume that is whole by then.
            let snapshots = if none {
                Vec::new()
            } else {
                self.snapshots.up_to(durable)
            };
            copy.next_layer(&snapshots, durable);
        }
        if copy.snapshot() > 0 && received < copy.need {
            return;
        }
        if copy.position >= copy.end() {
            let layered = copy.layers.left.as_ref().is_some_and(Vec::is_empty);
            if layered && copy.writing == 0 && live && received >= copy.need && !copy.done_sent {
                copy.done_sent = true;
                let (epoch, end) = (self.epoch, copy.need);
                self.ask(member);
                self.send(member, Message::CopyDone { epoch, end });
            }
            return;
        }
        let Some(source) = source else { return };
        if copy.reading.is_some() || copy.writing >= WRITES || self.now < copy.not_before {
            return;
        }
        let piece = copy.pieces.iter().find(|p| p.0 > copy.position);
        let Some(&(to, have)) = piece else { return };
        let (from, applied) = (copy.position, copy.need);
        let (snapshot, until) = (copy.snapshot(), copy.layers.newer);
        self.next_request = request;
        copy.reading = Some((request, source));
        copy.asked_at = self.now;
        let epoch = self.epoch;
        if self.peers[source].told_commit < applied {
            // The source applies only what it knows to be durable in a quorum.
            self.append(source, Vec::new());
        }
        self.ask(source);
        self.send(
            source,
            Message::CopyRead {
                epoch,
                request,
                from,
                to,
                have,
                applied,
                snapshot,
                until,
            },
        );
    }

    pub(super) fn copy_data(
        &mut self,
        source: usize,
        request: u64,
        next: u64,
        applied: Seq,
        blocks: Vec<BlockEntry>,
        data: Bytes,
    ) {
        self.answered(source);
        let now = self.now;
        let used = self.requests.last_change() + USED > now;
        let reads = |p: &super::Peer| {
            p.copy
                .as_ref()
                .is_some_and(|c| c.reading == Some((request, source)))
        };
        let Some(member) = self.peers.iter().position(reads) else {
            return;
        };
        let Some(copy) = &mut self.peers[member].copy else {
            return;
        };
        copy.reading = None;
        if next <= copy.position {
            copy.not_before = now + RETRY;
            return;
        }
        let took = now.saturating_sub(copy.asked_at);
        let pause = (took * PAUSE_PERCENT / 100).min(MAX_PAUSE);
        copy.not_before = if used { now + pause } else { 0 };
        copy.position = next;
        copy.need = copy.need.max(applied);
        copy.writing += 1;
        let told = copy.snapshot();
        if self.peers[member].told_commit < told {
            // It takes a snapshot only once it knows that its record is durable.
            self.append(member, Vec::new());
        }
        let (epoch, cursor, write) = (self.epoch, next, request);
        let snapshot = told;
        self.ask(member);
        self.send(
            member,
            Message::CopyWrite {
                epoch,
                request: write,
                cursor,
                snapshot,
                blocks,
                data,
            },
        );
    }

    pub(super) fn copy_written(&mut self, member: usize, _request: u64) {
        self.answered(member);
        if let Some(copy) = &mut self.peers[member].copy {
            copy.writing = copy.writing.saturating_sub(1);
        }
    }

    pub(super) fn copy_completed(&mut self, member: usize) {
        self.answered(member);
        let peer = &mut self.peers[member];
        if peer.copy.as_ref().is_some_and(|c| c.done_sent) {
            peer.copy = None;
            peer.learner = false;
            peer.lost_at = None;
            if let Some(promise) = &mut peer.promise {
                promise.blank = false;
                promise.copying = false;
            }
        }
    }
}
