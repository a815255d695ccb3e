//! The block device of an attached volume: passes requests to the volume's worker.

use super::volume::{Input, Reply};
use super::worker::Shared;
use crate::core::engine::Op;
use crate::core::types::BLOCK;
use blockdev::nbd::reply::is_zero;
use blockdev::{Allocation, BlockDevice, Done, Extent};
use bytes::Bytes;
use std::sync::Arc;

/// Most bytes whose allocation is told at a time; a client asks again for the rest.
const EXTENTS_BYTES: u64 = 4 << 20;

/// The device.
pub struct VolumeDevice {
    volume: Arc<Shared>,
}

impl VolumeDevice {
    /// Passes requests to `volume`.
    pub fn new(volume: Arc<Shared>) -> Self {
        Self { volume }
    }

    fn submit(&self, op: Op, reply: Reply) {
        self.volume.put(Input::Submit(op, reply));
    }
}

impl BlockDevice for VolumeDevice {
    fn size_bytes(&self) -> u64 {
        self.volume.size_bytes()
    }

    fn read(&self, offset: u64, len: u32, done: Done<Bytes>) {
        self.submit(Op::Read { offset, len }, Reply::Data(done));
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool, done: Done<()>) {
        self.submit(Op::Write { offset, data, fua }, Reply::Empty(done));
    }

    fn flush(&self, done: Done<()>) {
        self.submit(Op::Flush, Reply::Empty(done));
    }

    fn zero(&self, offset: u64, len: u64, discard: bool, done: Done<()>) {
        self.submit(Op::Zero { offset, len, discard }, Reply::Empty(done));
    }

    /// Told from the content: a replica sends no data for a block of zeroes, so holes cost next to nothing.
    fn extents(&self, offset: u64, len: u64, done: Done<Vec<Extent>>) {
        let len = len.min(EXTENTS_BYTES);
        let scan = move |result: Result<Bytes, i32>| done(result.map(|data| runs(offset, &data)));
        self.read(offset, len as u32, Box::new(scan));
    }

    fn start(&self) {
        self.volume.drive();
    }

    fn zeroes_fast(&self) -> bool {
        // One record of the log, however long.
        true
    }
}

/// Runs of blocks with and without content. What is zero throughout a block counts as a hole.
fn runs(offset: u64, data: &[u8]) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut at = 0;
    while at < data.len() {
        let into_block = ((offset + at as u64) % BLOCK as u64) as usize;
        let piece = &data[at..data.len().min(at + BLOCK - into_block)];
        let state = if is_zero(piece) {
            Allocation::Hole
        } else {
            Allocation::Data
        };
        match extents.last_mut() {
            Some(last) if last.state == state => last.len += piece.len() as u64,
            _ => extents.push(Extent {
                len: piece.len() as u64,
                state,
            }),
        }
        at += piece.len();
    }
    extents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_whole_blocks_of_zeroes() {
        let mut data = vec![0; 4 * BLOCK];
        data[BLOCK + 5] = 1;
        let found = |offset, data: &[u8]| -> Vec<(u64, bool)> {
            let runs = runs(offset, data);
            runs.iter()
                .map(|r| (r.len, r.state == Allocation::Hole))
                .collect()
        };
        assert_eq!(found(0, &data), [(4096, true), (4096, false), (8192, true)]);
        assert_eq!(
            found(4000, &data[4000..]),
            [(96, true), (4096, false), (8192, true)]
        );
    }
}
