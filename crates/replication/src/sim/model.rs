//! What a device may answer. The unit is a cell of 512 bytes; every write marks its cells with its own number, so that
//! a read tells which write it saw.
//!
//! Rules checked, for each cell of each read:
//! - it saw a write that was submitted before the read ended;
//! - no other write was completed before the read began and submitted after the one seen had completed (stale);
//! - what an earlier read returned is not un-returned: a write that was complete, or belonged to an earlier engine, when
//!   an earlier read returned something else does not come back.
//!
//! A write that was not flushed is *weak* when the faults since allow its loss (one replica lost its memory while another
//! was out of reach or lost its memory too); a weak write neither makes a read stale nor must stay.

/// Bytes of a cell.
pub const CELL: u64 = 512;
/// Simulated time.
pub type Time = u64;

/// One write as the client knows it.
#[derive(Clone, Debug)]
struct Write {
    submitted: Time,
    completed: Option<Time>,
    /// Number of the engine that carried it.
    engine: u32,
    /// Known to be on stable media in two regions.
    flushed: bool,
    weak: bool,
    /// Writes zeroes: its cells read as tag 0.
    zero: bool,
}

#[derive(Clone, Debug)]
struct Seen {
    tag: u64,
    began: Time,
    ended: Time,
    engine: u32,
}

#[derive(Clone, Debug, Default)]
struct Cell {
    /// Writes that touched it, newest last; zeroing writes too.
    writes: Vec<u64>,
    seen: Vec<Seen>,
}

/// The model of one volume.
#[derive(Clone)]
pub struct Model {
    /// By tag - 1.
    writes: Vec<Write>,
    cells: Vec<Cell>,
    next: u64,
    /// Writes not known to be flushed.
    unflushed: Vec<u64>,
}

/// Observations kept for each cell.
const KEEP_SEEN: usize = 12;
/// Writes kept for each cell once older ones are decided.
const KEEP_WRITES: usize = 48;

impl Model {
    /// A volume of so many cells, all zero.
    pub fn new(cells: u64) -> Model {
        Model {
            writes: Vec::new(),
            cells: vec![Cell::default(); cells as usize],
            next: 1,
            unflushed: Vec::new(),
        }
    }

    /// The volume grew.
    pub fn grow(&mut self, cells: u64) {
        let cells = (cells as usize).max(self.cells.len());
        self.cells.resize(cells, Cell::default());
    }

    /// Cells now.
    pub fn cells(&self) -> u64 {
        self.cells.len() as u64
    }

    fn write(&self, tag: u64) -> Option<&Write> {
        self.writes.get((tag as usize).checked_sub(1)?)
    }

    fn write_mut(&mut self, tag: u64) -> Option<&mut Write> {
        self.writes.get_mut((tag as usize).checked_sub(1)?)
    }

    /// A write begins; returns its tag.
    pub fn begin_write(&mut self, now: Time, engine: u32, cell: u64, count: u64, zero: bool) -> u64 {
        let tag = self.next;
        self.next += 1;
        let write = Write {
            submitted: now,
            completed: None,
            engine,
            flushed: false,
            weak: false,
            zero,
        };
        self.writes.push(write);
        for cell in &mut self.cells[cell as usize..(cell + count) as usize] {
            cell.writes.push(tag);
            if cell.writes.len() > KEEP_WRITES {
                cell.writes.remove(0);
            }
        }
        self.unflushed.push(tag);
        tag
    }

    /// A write was acknowledged.
    pub fn end_write(&mut self, now: Time, tag: u64, durable: bool) {
        if let Some(w) = self.write_mut(tag) {
            w.completed = Some(now);
            w.flushed |= durable;
        }
    }

    /// Tags acknowledged now, for a flush that begins.
    pub fn acknowledged(&self) -> Vec<u64> {
        let done = |t: &&u64| self.write(**t).is_some_and(|w| w.completed.is_some());
        self.unflushed.iter().filter(done).copied().collect()
    }

    /// A flush that began when `tags` were acknowledged has completed.
    pub fn end_flush(&mut self, tags: &[u64]) {
        for tag in tags {
            if let Some(w) = self.write_mut(*tag) {
                w.flushed |= !w.weak;
            }
        }
        let writes = &self.writes;
        self.unflushed
            .retain(|t| writes.get(*t as usize - 1).is_some_and(|w| !w.flushed && !w.weak));
    }

    /// From here on what was not flushed may be lost.
    pub fn weaken(&mut self) {
        for tag in std::mem::take(&mut self.unflushed) {
            if let Some(w) = self.write_mut(tag)
                && !w.flushed
            {
                w.weak = true;
            }
        }
    }

    fn mark(tag: u64, cell: u64) -> u64 {
        tag.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ cell
    }

    /// The bytes of a cell of write `tag`.
    pub fn fill(tag: u64, cell: u64, out: &mut Vec<u8>) {
        let mark = Self::mark(tag, cell);
        out.extend_from_slice(&tag.to_le_bytes());
        for _ in 0..(CELL as usize / 8 - 1) {
            out.extend_from_slice(&mark.to_le_bytes());
        }
    }

    /// The tag of a cell as read; none if it is not whole.
    fn tag_of(cell: u64, bytes: &[u8]) -> Option<u64> {
        let mut word = [0u8; 8];
        word.copy_from_slice(&bytes[..8]);
        let tag = u64::from_le_bytes(word);
        if tag == 0 {
            return bytes.iter().all(|b| *b == 0).then_some(0);
        }
        let mark = Self::mark(tag, cell).to_le_bytes();
        bytes[8..].chunks_exact(8).all(|w| w == mark).then_some(tag)
    }

    /// Checks what a read returned.
    pub fn check_read(
        &mut self,
        began: Time,
        now: Time,
        engine: u32,
        first: u64,
        data: &[u8],
    ) -> Result<(), String> {
        for (i, bytes) in data.chunks_exact(CELL as usize).enumerate() {
            let cell = first + i as u64;
            let tag = Self::tag_of(cell, bytes).ok_or_else(|| format!("cell {cell} is torn or misplaced"))?;
            self.check_cell(began, now, engine, cell, tag)?;
        }
        Ok(())
    }

    fn check_cell(&mut self, began: Time, now: Time, engine: u32, cell: u64, tag: u64) -> Result<(), String> {
        let state = &self.cells[cell as usize];
        // Which writes could have left this content.
        let candidates: Vec<Option<&Write>> = if tag == 0 {
            let zeroing = state
                .writes
                .iter()
                .filter_map(|t| self.write(*t))
                .filter(|w| w.zero);
            std::iter::once(None).chain(zeroing.map(Some)).collect()
        } else {
            if !state.writes.contains(&tag) && state.writes.len() < KEEP_WRITES {
                return Err(format!("cell {cell} has write {tag}, which never touched it"));
            }
            vec![self.write(tag)]
        };
        let stale = |seen: &Option<&Write>| {
            state
                .writes
                .iter()
                .filter_map(|t| self.write(*t).map(|w| (t, w)))
                .find(|(t, w)| {
                    **t != tag
                        && !w.weak
                        && w.completed.is_some_and(|c| c <= began)
                        && seen.is_none_or(|s| s.completed.is_some_and(|c| c < w.submitted))
                })
        };
        if let Some((newer, w)) = candidates.iter().map(stale).min_by_key(Option::is_some).flatten() {
            return Err(format!(
                "stale: cell {cell} read by engine {engine} at {began}..{now} has write {tag}, but {newer} ({w:?}) was complete"
            ));
        }
        if let Some(w) = self.write(tag) {
            for old in state.seen.iter().filter(|s| s.tag != tag && s.ended <= began) {
                let weak = self.write(old.tag).is_some_and(|o| o.weak);
                let before = w.completed.is_some_and(|c| c <= old.began) || w.engine < old.engine;
                if before && !weak && old.tag != 0 {
                    return Err(format!(
                        "un-returned: cell {cell} read by engine {engine} at {began}..{now} has write {tag} ({w:?}), after {old:?}"
                    ));
                }
            }
        }
        let state = &mut self.cells[cell as usize];
        state.seen.push(Seen {
            tag,
            began,
            ended: now,
            engine,
        });
        if state.seen.len() > KEEP_SEEN {
            state.seen.remove(0);
        }
        Ok(())
    }
}
