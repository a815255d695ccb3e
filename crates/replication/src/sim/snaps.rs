//! The client's snapshots, and what must hold of them.
//!
//! A snapshot that was acknowledged has what a read between its submission and its acknowledgement could have returned:
//! every write that completed before is in it, none that was submitted after. It is the same for ever, at every engine,
//! until it is dropped; and what was dropped does not come back.

use super::combos::Combo;
use super::model::{CELL, Model};
use super::world::World;
use crate::core::engine::{Op, OpError};
use crate::core::rng::Rng;
use crate::core::types::{BLOCK, Nanos, SnapshotInfo};
use std::collections::{BTreeMap, BTreeSet};

/// Snapshots that the client keeps.
const KEEP: usize = 3;
/// Cells read at a time.
const READ_CELLS: u64 = 64;
/// Cells of a block.
const CELLS: u64 = BLOCK as u64 / CELL;

/// An acknowledged snapshot.
struct Taken {
    began: Nanos,
    ended: Nanos,
    engine: u32,
    /// The model when it was acknowledged.
    model: Model,
    /// First bytes of each cell that was read.
    seen: BTreeMap<u64, [u8; 16]>,
}

/// What the client knows of snapshots.
pub(super) struct Snaps {
    /// Own luck, so that runs without snapshots stay as they are.
    rng: Rng,
    next: u32,
    taken: BTreeMap<String, Taken>,
    /// Somebody asked for these to be dropped. One that another engine took just before may be acknowledged only then.
    going: BTreeSet<String>,
    /// By which engine.
    dropped: BTreeMap<String, u32>,
}

/// A request without an answer.
pub(super) enum SnapKind {
    Take { name: String },
    Drop { name: String },
    Read { name: String, cell: u64 },
}

impl Snaps {
    /// Half of the seeds with rows of faults have snapshots.
    pub fn of(seed: u64, combo: Combo) -> Option<Snaps> {
        let mut rng = Rng::new(seed ^ 0x54a9_5407);
        let rows = combo != Combo::Nothing;
        (rows && rng.percent(50)).then_some(Snaps {
            rng,
            next: 0,
            taken: BTreeMap::new(),
            going: BTreeSet::new(),
            dropped: BTreeMap::new(),
        })
    }
}

impl World {
    /// Perhaps something with snapshots.
    pub(super) fn snap(&mut self, engine: usize) {
        let list = self.engines[engine].engine.status().snapshots;
        let Some(snaps) = &mut self.snaps else { return };
        if !snaps.rng.percent(4) {
            return;
        }
        match snaps.rng.below(10) {
            0..3 if list.len() < KEEP => {
                snaps.next += 1;
                let name = format!("s{}", snaps.next);
                let op = Op::Snapshot { name: name.clone() };
                self.submit_snap(engine, op, SnapKind::Take { name });
            }
            3..5 if !list.is_empty() => {
                let name = list[snaps.rng.below(list.len() as u64) as usize].name.clone();
                snaps.taken.remove(&name);
                snaps.going.insert(name.clone());
                let op = Op::DropSnapshot { name: name.clone() };
                self.submit_snap(engine, op, SnapKind::Drop { name });
            }
            _ if !list.is_empty() => {
                let info = &list[snaps.rng.below(list.len() as u64) as usize];
                let cell = snaps.rng.below(info.blocks * CELLS);
                self.read_snap(engine, info, cell);
            }
            _ => {}
        }
    }

    fn read_snap(&mut self, engine: usize, info: &SnapshotInfo, cell: u64) {
        let count = (info.blocks * CELLS - cell).min(READ_CELLS);
        let op = Op::ReadSnapshot {
            snapshot: info.seq,
            offset: cell * CELL,
            len: (count * CELL) as u32,
        };
        let name = info.name.clone();
        self.submit_snap(engine, op, SnapKind::Read { name, cell });
    }

    /// Reads all snapshots whole.
    pub(super) fn read_snaps(&mut self) {
        let engine = self.engines.len() - 1;
        for info in self.engines[engine].engine.status().snapshots {
            let mut cell = 0;
            while cell < info.blocks * CELLS {
                self.read_snap(engine, &info, cell);
                cell += READ_CELLS;
            }
        }
    }

    /// An engine opened: it knows what was acknowledged, and not what was dropped.
    pub(super) fn check_snaps(&self, engine: usize) -> Result<(), String> {
        let Some(snaps) = &self.snaps else {
            return Ok(());
        };
        let list = self.engines[engine].engine.status().snapshots;
        let rank = self.engines[engine].rank;
        let lost = |(name, t): &(&String, &Taken)| t.engine <= rank && !list.iter().any(|s| s.name == **name);
        if let Some((name, _)) = snaps.taken.iter().find(lost) {
            return Err(format!("snapshot {name} is lost at engine {rank}: {list:?}"));
        }
        let back = |s: &&SnapshotInfo| snaps.dropped.get(&s.name).is_some_and(|by| *by <= rank);
        match list.iter().find(back) {
            Some(back) => Err(format!(
                "snapshot {back:?} was dropped and came back at engine {rank}"
            )),
            None => Ok(()),
        }
    }

    pub(super) fn snap_completed(
        &mut self,
        began: Nanos,
        engine: u32,
        kind: SnapKind,
        result: Result<bytes::Bytes, OpError>,
    ) -> Result<(), String> {
        let now = self.now;
        let rot = self.profile.rot;
        let Some(snaps) = &mut self.snaps else {
            return Err("a snapshot that nobody asked for".into());
        };
        match (kind, result) {
            (SnapKind::Take { name }, Ok(_)) => {
                let taken = Taken {
                    began,
                    ended: now,
                    engine,
                    model: self.model.clone(),
                    seen: BTreeMap::new(),
                };
                if !snaps.going.contains(&name) {
                    snaps.taken.insert(name, taken);
                }
                self.out.snapshots += 1;
            }
            (SnapKind::Drop { name }, Ok(_)) => {
                snaps.dropped.insert(name, engine);
            }
            (SnapKind::Read { .. }, Err(OpError::Damaged)) if rot => {}
            (SnapKind::Read { name, .. }, Err(OpError::NoSnapshot)) if !snaps.taken.contains_key(&name) => {}
            (SnapKind::Read { name, cell }, Ok(data)) => {
                // Nobody was told of it, or it was dropped.
                let Some(taken) = snaps.taken.get_mut(&name) else {
                    return Ok(());
                };
                let cells = data.len() as u64 / CELL;
                taken.model.grow(cell + cells);
                taken
                    .model
                    .check_read(taken.began, taken.ended, engine, cell, &data)
                    .map_err(|e| format!("snapshot {name}: {e}"))?;
                for (i, bytes) in data.chunks_exact(CELL as usize).enumerate() {
                    let mut first = [0; 16];
                    first.copy_from_slice(&bytes[..16]);
                    let before = *taken.seen.entry(cell + i as u64).or_insert(first);
                    if before != first {
                        return Err(format!("cell {} of snapshot {name} has changed", cell + i as u64));
                    }
                }
            }
            (_, Err(e)) => return Err(format!("a request for a snapshot failed: {e}")),
        }
        Ok(())
    }
}
