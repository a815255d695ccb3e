//! Messages by lot, most of them nearly valid.

use super::BLOCKS;
use crate::core::checksum;
use crate::core::rng::Rng;
use crate::core::types::{BLOCK, Epoch, History, ReplicaId, Seq, SnapshotInfo};
use crate::core::wire::{BlockEntry, BlockKind, Body, Message, PeerMemory, Promise, Record};
use bytes::Bytes;

/// Numbers that sit at edges.
pub(super) fn number(rng: &mut Rng) -> u64 {
    match rng.below(8) {
        0 => 0,
        1 => u64::MAX,
        2 => u64::MAX - rng.below(4096),
        3 => 1 << rng.below(64),
        4 => u64::from(u32::MAX) + rng.below(3),
        5 => rng.draw(),
        _ => rng.below(2 * BLOCKS),
    }
}

pub(super) fn epoch(rng: &mut Rng) -> Epoch {
    Epoch {
        counter: if rng.percent(80) {
            1 + rng.below(3)
        } else {
            number(rng)
        },
        instance: u128::from(rng.below(3)),
    }
}

pub(super) fn history(rng: &mut Rng) -> History {
    let entries = (0..rng.below(4)).map(|_| (epoch(rng), number(rng))).collect();
    History { entries }
}

pub(super) fn payload(rng: &mut Rng, blocks: u64) -> Bytes {
    Bytes::from(vec![rng.draw() as u8; blocks as usize * BLOCK])
}

pub(super) fn record(rng: &mut Rng, seq: Seq) -> Record {
    let block = if rng.percent(80) {
        rng.below(BLOCKS)
    } else {
        number(rng)
    };
    let body = match rng.below(4) {
        0 => Body::Zero {
            block,
            count: if rng.percent(80) {
                rng.below(BLOCKS)
            } else {
                number(rng)
            },
            discard: rng.percent(50),
        },
        1 if rng.percent(30) => Body::Resize { blocks: number(rng) },
        1 if rng.percent(50) => Body::Snapshot {
            name: format!("s{}", rng.below(4)),
        },
        1 if rng.percent(50) => Body::DropSnapshot {
            snapshot: number(rng),
        },
        _ => {
            let count = 1 + rng.below(3);
            let data = payload(rng, count);
            let seed = checksum::volume_seed("v");
            let blocks = data.chunks_exact(BLOCK).enumerate();
            let crcs = blocks
                .map(|(i, b)| checksum::block(seed, block.wrapping_add(i as u64), seq, b))
                .collect();
            Body::Write { block, crcs, data }
        }
    };
    Record { seq, body }
}

pub(super) fn some_snapshot(rng: &mut Rng) -> SnapshotInfo {
    let (name, seq, blocks) = ("s".into(), number(rng), number(rng));
    SnapshotInfo { name, seq, blocks }
}

pub(super) fn entry(rng: &mut Rng) -> BlockEntry {
    BlockEntry {
        block: number(rng),
        version: number(rng),
        crc: rng.draw() as u32,
        kind: [BlockKind::Zero, BlockKind::Data, BlockKind::Bad][rng.below(3) as usize],
    }
}

pub(super) fn engine_message(rng: &mut Rng, next: Seq) -> Message {
    let (epoch, request) = (epoch(rng), number(rng));
    match rng.below(12) {
        0 => Message::Hello,
        1 => Message::Prepare { epoch },
        2 => Message::Truncate {
            epoch,
            keep: number(rng),
            history: history(rng),
            commit: number(rng),
            copy_from: rng.percent(30).then(|| number(rng)),
            blocks: if rng.percent(80) {
                rng.below(4 * BLOCKS)
            } else {
                number(rng)
            },
            snapshots: vec![some_snapshot(rng); rng.below(3) as usize],
        },
        3 => Message::Adopt {
            epoch,
            history: history(rng),
            peers: vec![PeerMemory::default(); rng.below(3) as usize],
        },
        4 => {
            let first = if rng.percent(80) { next } else { number(rng) };
            Message::Append {
                epoch,
                sent_at: number(rng),
                commit: number(rng),
                sync_to: number(rng),
                records: (0..rng.below(4))
                    .map(|i| record(rng, first.wrapping_add(i)))
                    .collect(),
            }
        }
        5 => Message::Read {
            epoch,
            request,
            block: number(rng),
            count: number(rng) as u32,
            min_seq: rng.below(4),
            applied_only: rng.percent(30),
            snapshot: rng.below(9) * rng.below(2),
        },
        6 => Message::FetchLog {
            epoch,
            request,
            from: number(rng),
            to: number(rng),
        },
        7 => Message::CopyRead {
            epoch,
            request,
            from: number(rng),
            to: number(rng),
            have: number(rng),
            applied: rng.below(4),
            snapshot: rng.below(9) * rng.below(2),
            until: rng.below(9),
        },
        8 => {
            let mut block = entry(rng);
            block.kind = BlockKind::Zero;
            Message::CopyWrite {
                epoch,
                request,
                cursor: number(rng),
                snapshot: rng.below(9) * rng.below(2),
                blocks: vec![block],
                data: Bytes::new(),
            }
        }
        9 => Message::CopyDone {
            epoch,
            end: number(rng),
        },
        10 => Message::Digest {
            epoch,
            request,
            block: number(rng),
            count: number(rng) as u32,
            snapshot: rng.below(9) * rng.below(2),
        },
        _ => {
            let count = rng.below(2);
            Message::Repair {
                epoch,
                seen: entry(rng),
                good: entry(rng),
                snapshot: rng.below(9) * rng.below(2),
                data: payload(rng, count),
            }
        }
    }
}

pub(super) fn replica_message(rng: &mut Rng) -> Message {
    match rng.below(5) {
        4 => Message::Damaged {
            epoch: epoch(rng),
            snapshot: number(rng),
            blocks: vec![entry(rng); rng.below(3) as usize],
        },
        0 => Message::Promise(Box::new(Promise {
            epoch: epoch(rng),
            id: ReplicaId(7),
            incarnation: 1,
            starts: number(rng),
            end: number(rng),
            history: history(rng),
            lossy: rng.percent(50),
            copying: false,
            blank: false,
            journal_first: number(rng),
            commit: number(rng),
            flushed: number(rng),
            lease: number(rng),
            blocks: number(rng),
            peers: vec![PeerMemory::default()],
            snapshots: Vec::new(),
        })),
        1 => Message::LogRecords {
            request: number(rng),
            journal_first: number(rng),
            records: (5..7).map(|seq| record(rng, seq)).collect(),
        },
        2 => Message::DigestReply {
            request: 1,
            at: number(rng),
            digests: vec![1, 2],
            bad: vec![entry(rng)],
        },
        _ => Message::Truncated {
            epoch: epoch(rng),
            end: number(rng),
            pieces: vec![(number(rng), number(rng))],
            cursor: number(rng),
        },
    }
}
