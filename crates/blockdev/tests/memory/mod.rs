//! A device in memory that knows what was allocated and counts what it was asked.
#![allow(dead_code)]

use bytes::Bytes;
use hikube_blockdev::{Allocation, BlockDevice, Done, Extent};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

pub const BLOCK: usize = 4096;

#[derive(Default)]
pub struct Memory {
    content: Mutex<Vec<u8>>,
    allocated: Mutex<Vec<bool>>,
    pub align: u32,
    pub flushes: AtomicU32,
    pub fua_writes: AtomicU32,
    pub discards: AtomicU32,
    pub kept_zeroes: AtomicU32,
}

impl Memory {
    pub fn new(size: usize, align: u32) -> Self {
        Self {
            content: Mutex::new(vec![0; size]),
            allocated: Mutex::new(vec![false; size / BLOCK]),
            align,
            ..Self::default()
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.content.lock().unwrap().clone()
    }

    pub fn grow(&self, size: usize) {
        self.content.lock().unwrap().resize(size, 0);
        self.allocated.lock().unwrap().resize(size / BLOCK, false);
    }

    pub fn count(counter: &AtomicU32) -> u32 {
        counter.load(Ordering::Relaxed)
    }
}

impl BlockDevice for Memory {
    fn size_bytes(&self) -> u64 {
        self.content.lock().unwrap().len() as u64
    }

    fn read(&self, offset: u64, len: u32, done: Done<Bytes>) {
        let at = offset as usize;
        let data = Bytes::copy_from_slice(&self.content.lock().unwrap()[at..at + len as usize]);
        done(Ok(data));
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool, done: Done<()>) {
        let at = offset as usize;
        self.content.lock().unwrap()[at..at + data.len()].copy_from_slice(&data);
        self.allocated.lock().unwrap()[at / BLOCK..(at + data.len()).div_ceil(BLOCK)].fill(true);
        self.fua_writes.fetch_add(fua.into(), Ordering::Relaxed);
        done(Ok(()));
    }

    fn flush(&self, done: Done<()>) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        done(Ok(()));
    }

    fn zero(&self, offset: u64, len: u64, discard: bool, done: Done<()>) {
        let (at, end) = (offset as usize, (offset + len) as usize);
        self.content.lock().unwrap()[at..end].fill(0);
        let mut allocated = self.allocated.lock().unwrap();
        if discard {
            let (first, past) = (at.div_ceil(BLOCK), end / BLOCK);
            allocated[first..past.max(first)].fill(false);
            self.discards.fetch_add(1, Ordering::Relaxed);
        } else {
            allocated[at / BLOCK..end.div_ceil(BLOCK)].fill(true);
            self.kept_zeroes.fetch_add(1, Ordering::Relaxed);
        }
        done(Ok(()));
    }

    fn extents(&self, offset: u64, len: u64, done: Done<Vec<Extent>>) {
        let allocated = self.allocated.lock().unwrap();
        let mut extents = Vec::new();
        let mut at = offset;
        while at < offset + len {
            let next = ((at / BLOCK as u64 + 1) * BLOCK as u64).min(offset + len);
            let state = match allocated[at as usize / BLOCK] {
                true => Allocation::Data,
                false => Allocation::Hole,
            };
            extents.push(Extent {
                len: next - at,
                state,
            });
            at = next;
        }
        done(Ok(extents));
    }

    fn block_bytes(&self) -> u32 {
        self.align
    }

    fn zeroes_fast(&self) -> bool {
        true
    }
}
