//! The client: random requests to whatever engines say that they are open, each checked by the model.

use super::model::{CELL, Model};
use super::snaps::SnapKind;
use super::world::{Event, World};
use crate::core::engine::{EngineEvent, Op, OpError};
use crate::core::types::{BLOCK, MILLI, Nanos};
use bytes::Bytes;

/// A request without an answer.
pub(super) struct Pending {
    began: Nanos,
    kind: Kind,
}

enum Kind {
    Read { cell: u64 },
    Write { tag: u64, fua: bool },
    Flush { tags: Vec<u64> },
    Expand { cells: u64 },
    Verify,
    Snap(SnapKind),
}

/// Requests in flight for each engine.
const DEPTH: usize = 12;

/// So much longer are the pauses between requests while nothing but time is waited for.
const SLOW: Nanos = 8;

impl World {
    /// The client of an engine submits something and comes again.
    pub(super) fn client(&mut self, engine: usize) {
        if self.engines[engine].gone {
            return;
        }
        let think = self.profile.think * if self.slow { SLOW } else { 1 };
        let pause = think + self.rng.below(4 * think);
        self.at(self.now + pause, Event::Client { engine });
        if self.silent
            || self.engines[engine].requests.len() >= DEPTH
            || self.engines[engine].paused_until > self.now
        {
            return;
        }
        let burst = if self.rng.percent(10) { 6 } else { 1 };
        for _ in 0..burst {
            self.submit_one(engine);
        }
        self.snap(engine);
    }

    fn span(&mut self) -> (u64, u64) {
        let cells = self.model.cells();
        let per_block = BLOCK as u64 / CELL;
        let (at, len) = match self.rng.below(10) {
            // Hot blocks, so that requests overlap.
            0..4 => (self.rng.below(8) * per_block, per_block),
            // Sub-block.
            4..6 => (self.rng.below(cells), 1 + self.rng.below(12)),
            6..9 => (
                self.rng.below(cells / per_block) * per_block,
                per_block * (1 + self.rng.below(4)),
            ),
            _ => (
                self.rng.below(cells / per_block) * per_block,
                per_block * (1 + self.rng.below(16)),
            ),
        };
        (at, len.min(cells - at))
    }

    pub(super) fn submit_one(&mut self, engine: usize) {
        self.check_weak();
        let (cell, count) = self.span();
        let number = self.engines[engine].rank;
        let (op, kind) = match self.rng.below(100) {
            0..40 => {
                let op = Op::Read {
                    offset: cell * CELL,
                    len: (count * CELL) as u32,
                };
                (op, Kind::Read { cell })
            }
            40..85 => {
                let fua = self.rng.percent(10);
                let tag = self.model.begin_write(self.now, number, cell, count, false);
                let mut data = Vec::with_capacity((count * CELL) as usize);
                for i in 0..count {
                    Model::fill(tag, cell + i, &mut data);
                }
                (
                    Op::Write {
                        offset: cell * CELL,
                        data: Bytes::from(data),
                        fua,
                    },
                    Kind::Write { tag, fua },
                )
            }
            85..90 => {
                let tag = self.model.begin_write(self.now, number, cell, count, true);
                let discard = self.rng.percent(50);
                let op = Op::Zero {
                    offset: cell * CELL,
                    len: count * CELL,
                    discard,
                };
                (op, Kind::Write { tag, fua: false })
            }
            90..99 => (
                Op::Flush,
                Kind::Flush {
                    tags: self.model.acknowledged(),
                },
            ),
            _ => {
                if self.model.cells() >= 2 * self.profile.blocks * (BLOCK as u64 / CELL) {
                    return;
                }
                let size_bytes = self.model.cells() * CELL + 4 * BLOCK as u64;
                (
                    Op::Expand { size_bytes },
                    Kind::Expand {
                        cells: size_bytes / CELL,
                    },
                )
            }
        };
        self.submit_op(engine, op, kind);
    }

    /// The device flushes what it was told to be written; the number of the request.
    pub(super) fn submit_flush(&mut self, engine: usize) -> u64 {
        let tags = self.model.acknowledged();
        self.submit_op(engine, Op::Flush, Kind::Flush { tags });
        self.next_request
    }

    pub(super) fn submit_snap(&mut self, engine: usize, op: Op, kind: SnapKind) {
        self.submit_op(engine, op, Kind::Snap(kind));
    }

    fn submit_op(&mut self, engine: usize, op: Op, kind: Kind) {
        self.next_request += 1;
        let request = self.next_request;
        self.engines[engine].requests.insert(
            request,
            Pending {
                began: self.now,
                kind,
            },
        );
        self.engine_event(engine, EngineEvent::Submit { request, op });
    }

    /// Reads the whole volume through the newest engine.
    pub(super) fn read_all(&mut self) {
        let engine = self.engines.len() - 1;
        let mut cell = 0;
        while cell < self.model.cells() {
            let count = (self.model.cells() - cell).min(64);
            let op = Op::Read {
                offset: cell * CELL,
                len: (count * CELL) as u32,
            };
            self.submit_op(engine, op, Kind::Read { cell });
            cell += count;
        }
        self.read_snaps();
    }

    /// Compares the replicas through the newest engine; the result goes to `verified`.
    pub(super) fn verify_all(&mut self) {
        let engine = self.engines.len() - 1;
        self.submit_op(engine, Op::Verify, Kind::Verify);
    }

    pub(super) fn completed(
        &mut self,
        engine: usize,
        request: u64,
        result: Result<Bytes, OpError>,
    ) -> Result<(), String> {
        let Some(pending) = self.engines[engine].requests.remove(&request) else {
            return Err(format!("request {request} was answered twice"));
        };
        let number = self.engines[engine].rank;
        self.check_weak();
        if result.is_ok() {
            self.row_completed(request);
        }
        match (pending.kind, result) {
            (Kind::Verify, Ok(_)) => {
                self.verified = self.engines[engine].engine.verify_report().map(|r| r.equal);
                if self.verified == Some(false) {
                    let report = self.engines[engine].engine.verify_report();
                    tracing::debug!(?report, "the replicas differ");
                }
            }
            (Kind::Verify, Err(_)) => self.verified = None,
            (_, Err(OpError::Deposed | OpError::Closed)) => {}
            // It does not know that its successor has grown the volume.
            (_, Err(OpError::OutOfRange)) if number < self.newest => {}
            (Kind::Snap(kind), result) => self.snap_completed(pending.began, number, kind, result)?,
            (Kind::Read { cell }, Ok(data)) => {
                self.out.reads += 1;
                self.model
                    .check_read(pending.began, self.now, number, cell, &data)?;
            }
            (Kind::Read { .. }, Err(OpError::Damaged)) if self.profile.rot => {}
            (Kind::Write { .. }, Err(OpError::Damaged)) if self.profile.rot => {}
            (Kind::Write { tag, fua }, Ok(_)) => {
                self.out.writes += 1;
                self.model.end_write(self.now, tag, fua);
            }
            (Kind::Flush { tags }, Ok(_)) => self.model.end_flush(&tags),
            (Kind::Expand { cells }, Ok(_)) => self.model.grow(cells),
            (_, Err(e)) => return Err(format!("request {request} failed: {e}")),
        }
        Ok(())
    }

    /// The oldest request of the newest engine has waited so long.
    pub(super) fn longest_wait(&self) -> Nanos {
        let oldest = self
            .engines
            .last()
            .and_then(|e| e.requests.values().map(|p| p.began).min());
        oldest.map_or(0, |t| self.now - t) / MILLI
    }
}
