//! The volume's snapshots as the engine knows them: those that are durable in a quorum, and what is on its way.

use super::{Engine, OpError};
use crate::core::types::{MAX_SNAPSHOTS, Seq, SnapshotInfo};
use crate::core::wire::Body;
use bytes::Bytes;
use std::collections::VecDeque;

/// What a record that is not durable yet will do.
enum Change {
    Take(SnapshotInfo),
    Drop(Seq),
}

/// The list.
#[derive(Default)]
pub(super) struct Snapshots {
    /// Durable in a quorum, ascending.
    durable: Vec<SnapshotInfo>,
    /// By seq of their records.
    changing: VecDeque<(Seq, Change)>,
}

impl Snapshots {
    /// Durable in a quorum, oldest first.
    pub fn list(&self) -> &[SnapshotInfo] {
        &self.durable
    }

    /// The log that was chosen has these.
    pub fn restart(&mut self, snapshots: Vec<SnapshotInfo>) {
        self.durable = snapshots;
        self.changing.clear();
    }

    /// Everything up to `durable` is durable in a quorum.
    pub fn advance(&mut self, durable: Seq) {
        while self.changing.front().is_some_and(|(seq, _)| *seq <= durable) {
            let change = self.changing.pop_front().map(|(_, change)| change);
            match change.expect("the front was just seen") {
                Change::Take(info) => self.durable.push(info),
                Change::Drop(seq) => self.durable.retain(|s| s.seq != seq),
            }
        }
    }

    /// The list once everything is durable.
    fn coming(&self) -> Vec<SnapshotInfo> {
        let mut list = self.durable.clone();
        for (_, change) in &self.changing {
            match change {
                Change::Take(info) => list.push(info.clone()),
                Change::Drop(seq) => list.retain(|s| s.seq != *seq),
            }
        }
        list
    }

    /// It is dropped, or will be.
    pub fn is_going(&self, seq: Seq) -> bool {
        !self.coming().iter().any(|s| s.seq == seq)
    }

    /// Those that a log up to `seq` has. What is durable in a quorum may not have been counted yet.
    pub fn up_to(&self, seq: Seq) -> Vec<SnapshotInfo> {
        let mut list = self.durable.clone();
        for (_, change) in self.changing.iter().filter(|(at, _)| *at <= seq) {
            match change {
                Change::Take(info) => list.push(info.clone()),
                Change::Drop(seq) => list.retain(|s| s.seq != *seq),
            }
        }
        list.retain(|s| s.seq <= seq);
        list
    }
}

impl Engine {
    pub(super) fn take_snapshot(&mut self, request: u64, name: String) {
        let list = self.snapshots.coming();
        if list.iter().any(|s| s.name == name) {
            // It may be on its way.
            return self.wait_durable(self.stream.last, request);
        }
        if list.len() >= MAX_SNAPSHOTS {
            return self.complete(request, Err(OpError::TooManySnapshots));
        }
        let blocks = self.size_at_end();
        let seq = self.stream.push(Body::Snapshot { name: name.clone() });
        let info = SnapshotInfo { name, seq, blocks };
        self.snapshots.changing.push_back((seq, Change::Take(info)));
        self.wait_durable(seq, request);
    }

    pub(super) fn drop_snapshot(&mut self, request: u64, name: &str) {
        let Some(info) = self.snapshots.coming().into_iter().find(|s| s.name == name) else {
            return self.wait_durable(self.stream.last, request);
        };
        let seq = self.stream.push(Body::DropSnapshot { snapshot: info.seq });
        self.snapshots.changing.push_back((seq, Change::Drop(info.seq)));
        self.wait_durable(seq, request);
    }

    pub(super) fn read_snapshot(&mut self, request: u64, snapshot: Seq, offset: u64, len: u32) {
        let Some(info) = self.snapshots.list().iter().find(|s| s.seq == snapshot) else {
            return self.complete(request, Err(OpError::NoSnapshot));
        };
        let size = info.blocks * crate::core::types::BLOCK as u64;
        if offset.checked_add(u64::from(len)).is_none_or(|end| end > size) {
            return self.complete(request, Err(OpError::OutOfRange));
        }
        if len == 0 {
            return self.complete(request, Ok(Bytes::new()));
        }
        self.start_read(request, offset, len, snapshot);
    }
}
