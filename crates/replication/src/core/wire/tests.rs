//! Tests of the wire format.

use super::*;

fn sample() -> Vec<Message> {
    let epoch = Epoch {
        counter: 7,
        instance: 1 << 100,
    };
    let data = Bytes::from(vec![5u8; 8192]);
    vec![
        Message::Hello,
        Message::Prepare { epoch },
        Message::Append {
            epoch,
            sent_at: 5,
            commit: 3,
            sync_to: 9,
            records: vec![
                Record {
                    seq: 4,
                    body: Body::Write {
                        block: 1,
                        crcs: vec![1, 2],
                        data: data.clone(),
                    },
                },
                Record {
                    seq: 5,
                    body: Body::Zero {
                        block: 9,
                        count: 1 << 40,
                        discard: true,
                    },
                },
                Record {
                    seq: 6,
                    body: Body::Resize { blocks: 77 },
                },
                Record {
                    seq: 7,
                    body: Body::Snapshot {
                        name: "nightly".into(),
                    },
                },
                Record {
                    seq: 8,
                    body: Body::DropSnapshot { snapshot: 7 },
                },
                Record {
                    seq: 9,
                    body: Body::Write {
                        block: 2,
                        crcs: vec![3],
                        data: data.slice(..4096),
                    },
                },
            ],
        },
        Message::ReadReply {
            request: 1,
            ready: true,
            blocks: vec![
                BlockEntry {
                    block: 1,
                    version: 4,
                    crc: 3,
                    kind: BlockKind::Data,
                },
                BlockEntry {
                    block: 2,
                    version: 0,
                    crc: 0,
                    kind: BlockKind::Zero,
                },
            ],
            data: data.slice(..4096),
        },
        Message::Truncate {
            epoch,
            keep: 3,
            history: History::default(),
            commit: 3,
            copy_from: Some(4),
            blocks: 5,
            snapshots: vec![SnapshotInfo {
                name: "nightly".into(),
                seq: 2,
                blocks: 4,
            }],
        },
        Message::Failed {
            reason: "disk".into(),
        },
    ]
}

/// What a scrub leads to.
fn repairs() -> Vec<Message> {
    let epoch = Epoch {
        counter: 7,
        instance: 1 << 100,
    };
    let data = Bytes::from(vec![5u8; 4096]);
    let bad = BlockEntry {
        block: 8,
        version: 2,
        crc: 1,
        kind: BlockKind::Bad,
    };
    vec![
        Message::Repair {
            epoch,
            seen: bad,
            good: BlockEntry {
                kind: BlockKind::Data,
                ..bad
            },
            snapshot: 3,
            data,
        },
        Message::Damaged {
            epoch,
            snapshot: 3,
            blocks: vec![bad],
        },
    ]
}

#[test]
fn frames_round_trip_and_cut_frames_are_refused() {
    for m in sample().into_iter().chain(repairs()) {
        let frame = m.to_bytes();
        assert_eq!(Message::decode(frame.clone()).unwrap(), m);
        for cut in [0, 1, frame.len() / 2, frame.len() - 1] {
            assert!(Message::decode(frame.slice(..cut)).is_err(), "{m:?} cut at {cut}");
        }
    }
}
