//! The block device of an attached volume: passes requests to the volume's thread.

use super::volume::{Input, Reply};
use crate::core::engine::Op;
use blockdev::{BlockDevice, Done};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;

/// The device.
pub struct VolumeDevice {
    inputs: Sender<Input>,
    size_bytes: Arc<AtomicU64>,
}

impl VolumeDevice {
    /// Passes requests to `inputs`; `size_bytes` is kept by the volume.
    pub fn new(inputs: Sender<Input>, size_bytes: Arc<AtomicU64>) -> Self {
        Self { inputs, size_bytes }
    }

    fn submit(&self, op: Op, reply: Reply) {
        if let Err(refused) = self.inputs.send(Input::Submit(op, reply))
            && let Input::Submit(_, reply) = refused.0
        {
            // The volume was closed; the kernel must still get its answer.
            reply.complete(Err(crate::core::engine::OpError::Closed));
        }
    }
}

impl BlockDevice for VolumeDevice {
    fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Relaxed)
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
}
