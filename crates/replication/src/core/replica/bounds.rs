//! What an engine may name. An engine is known and trusted not to lie about data, but a fault of it must end its session,
//! not the store that serves others: every number that goes into arithmetic or to the disk is checked here first.

use super::index::HeldKind;
use super::{Fault, Outcome, Replica};
use crate::core::types::{MAX_SNAPSHOT_NAME, Seq};
use crate::core::wire::{Body, Message, Record};

/// Largest volume, blocks: 1 PiB.
pub const MAX_BLOCKS: u64 = 1 << 38;
/// Last seq that a stream may begin after; nobody lives to see it.
const MAX_SEQ: Seq = 1 << 62;

impl Replica {
    /// Everything in the message is within bounds.
    pub(super) fn check_bounds(&self, message: &Message) -> Outcome {
        let range = |block: u64, count: u64| match block.checked_add(count) {
            Some(end) if end <= MAX_BLOCKS => Ok(()),
            _ => Err(Fault::Protocol("blocks beyond any volume")),
        };
        match message {
            Message::Append { records, .. } => self.check_records(records),
            Message::Truncate {
                keep,
                copy_from,
                blocks,
                snapshots,
                ..
            } => {
                let from = copy_from.unwrap_or(*keep);
                if from < *keep || from > MAX_SEQ {
                    return Err(Fault::Protocol("a stream that begins nowhere"));
                }
                let after =
                    |s: &crate::core::types::SnapshotInfo| s.seq == 0 || s.seq > from || s.blocks > *blocks;
                if snapshots.iter().any(after) || !snapshots.is_sorted_by(|a, b| a.seq < b.seq) {
                    return Err(Fault::Protocol("a snapshot that cannot be"));
                }
                range(*blocks, 0)
            }
            Message::Read { block, count, .. } | Message::Digest { block, count, .. } => {
                range(*block, u64::from(*count))
            }
            Message::CopyRead { from, to, .. } => range(*from, 0).and(range(*to, 0)),
            Message::CopyWrite { cursor, blocks, .. } => {
                let last = blocks.iter().map(|b| b.block).max().unwrap_or(0);
                let inside = blocks.is_empty() || last < self.state.blocks;
                let known = blocks.iter().all(|b| b.version <= MAX_SEQ);
                if !inside || !known {
                    return Err(Fault::Protocol("a copied block outside of the volume"));
                }
                range(*cursor, 0)
            }
            Message::Repair { seen, good, .. } => range(seen.block, 1).and(range(good.block, 1)),
            _ => Ok(()),
        }
    }

    /// Records lie in the volume as it is where they stand in the log.
    fn check_records(&self, records: &[Record]) -> Outcome {
        let grown = self.recent.iter().filter_map(|held| match held.kind {
            HeldKind::Resize { blocks } => Some(blocks),
            _ => None,
        });
        let mut size = grown.fold(self.state.blocks, u64::max);
        for record in records {
            let (block, count) = match &record.body {
                Body::Write { block, crcs, .. } => (*block, crcs.len() as u64),
                Body::Zero { block, count, .. } => (*block, *count),
                Body::Resize { blocks } if *blocks > MAX_BLOCKS => {
                    return Err(Fault::Protocol("a volume beyond the largest"));
                }
                Body::Snapshot { name } if name.is_empty() || name.len() > MAX_SNAPSHOT_NAME => {
                    return Err(Fault::Protocol("a snapshot without a name"));
                }
                Body::Snapshot { .. } | Body::DropSnapshot { .. } => continue,
                Body::Resize { blocks } => {
                    size = size.max(*blocks);
                    continue;
                }
            };
            if block.checked_add(count).is_none_or(|end| end > size) {
                return Err(Fault::Protocol("a record outside of the volume"));
            }
        }
        Ok(())
    }
}
