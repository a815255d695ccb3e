//! When a scrub runs, and that its position outlasts the process.

use super::{ScrubSettings, ScrubTurns};
use crate::core::replica::{FormatAs, Replica, ReplicaSettings};
use crate::core::types::{BLOCK, Class, Member, Nanos, ReplicaId, SECOND, VolumeMeta};
use crate::sim::disk::SimDisk;
use std::collections::BTreeMap;

/// Blocks: so many slices of empty volume.
const SLICES: u64 = 20;
const BLOCKS: u64 = SLICES * 4096;
/// Half of the range of lots.
const ID: ReplicaId = ReplicaId(1 << 31);

fn format() -> SimDisk {
    let disk = SimDisk::default();
    let meta = VolumeMeta {
        volume: "v".into(),
        size_bytes: BLOCKS * BLOCK as u64,
        class: Class::Local,
        members: vec![Member {
            id: ID,
            region: "a".into(),
        }],
        id: ID,
        labels: BTreeMap::new(),
    };
    Replica::format_with(&disk, &meta, FormatAs::Fresh, 192 << 10).unwrap();
    disk
}

/// Opens at `now` of a process that began at `unix_s`.
fn open(disk: &SimDisk, period_s: u64, unix_s: u64, now: Nanos) -> Replica {
    open_with(disk, period_s, unix_s, now, &ScrubTurns::default())
}

fn open_with(disk: &SimDisk, period_s: u64, unix_s: u64, now: Nanos, turns: &ScrubTurns) -> Replica {
    let settings = ReplicaSettings {
        boot_id: 1,
        incarnation: 1,
        scrub: ScrubSettings {
            period_s,
            unix_at_zero_s: unix_s,
            turns: turns.clone(),
        },
        mutations: Default::default(),
    };
    Replica::open(Box::new(disk.clone()), settings, now).unwrap()
}

/// Does what is due until `done`; the time then.
fn run(replica: &mut Replica, mut now: Nanos, done: impl Fn(&Replica) -> bool) -> Nanos {
    for _ in 0..100_000 {
        if done(replica) {
            return now;
        }
        while let Some(job) = replica.begin_sync(now) {
            replica.synced(now, job.ticket(), job.run(), &mut Vec::new());
        }
        let next = replica.background(now, &mut Vec::new());
        if done(replica) {
            return now;
        }
        now = next.expect("something is due").max(now + 1);
    }
    panic!("it never comes to that: {:?}", replica.status().scrub);
}

#[test]
fn a_pass_begins_by_lot_ends_and_comes_again_after_the_period() {
    let disk = format();
    let mut replica = open(&disk, 1000, 5000, SECOND);
    assert_eq!(replica.status().scrub.due_unix_s, 5501);
    let began = run(&mut replica, SECOND, |r| r.status().scrub.running);
    assert!((501 * SECOND..502 * SECOND).contains(&began), "{began}");
    let ended = run(&mut replica, began, |r| r.status().scrub.passes == 1);
    let scrub = replica.status().scrub;
    assert!(!scrub.running && scrub.last.found_blocks == 0 && scrub.total_blocks == BLOCKS);
    assert_eq!(scrub.due_unix_s, scrub.last.ended_unix_s + 1000);
    assert!(
        ended - began < 2 * SECOND,
        "{SLICES} slices took {} ns",
        ended - began
    );
    replica.stop_clean().unwrap();
    // Another process, later: not before its time.
    let replica = open(&disk, 1000, 6000, SECOND);
    assert_eq!(replica.status().scrub.due_unix_s, scrub.due_unix_s);
}

#[test]
fn the_position_outlasts_the_process() {
    let disk = format();
    let mut replica = open(&disk, 1000, 5000, SECOND);
    let now = run(&mut replica, SECOND, |r| {
        r.status().scrub.position_blocks >= BLOCKS / 2
    });
    let before = replica.status().scrub;
    replica.stop_clean().unwrap();
    let mut replica = open(&disk, 1000, 5000, now);
    assert_eq!(replica.status().scrub, before);
    run(&mut replica, now, |r| r.status().scrub.passes == 1);
    // A crash costs no more than what was passed since the position was written.
    let mut replica = open(&disk, 0, 5000, now);
    replica.scrub(now, &mut Vec::new());
    let now = run(&mut replica, now, |r| {
        r.status().scrub.position_blocks >= BLOCKS - 4096
    });
    drop(replica);
    let replica = open(&disk, 0, 5000, now);
    let scrub = replica.status().scrub;
    assert!(scrub.running && scrub.position_blocks >= 64 << 10, "{scrub:?}");
}

#[test]
fn without_a_period_it_waits_to_be_told() {
    let disk = format();
    let mut replica = open(&disk, 0, 5000, SECOND);
    assert_eq!(replica.status().scrub.due_unix_s, 0);
    let mut now = SECOND;
    while let Some(next) = replica.background(now, &mut Vec::new()) {
        now = next.max(now + 1);
        assert!(now < 10 * SECOND, "nothing is due");
    }
    replica.scrub(now, &mut Vec::new());
    assert!(replica.status().scrub.running);
    run(&mut replica, now, |r| r.status().scrub.passes == 1);
}

#[test]
fn only_so_many_of_a_store_read_at_a_time() {
    let turns = ScrubTurns::default();
    let disks: Vec<SimDisk> = (0..4).map(|_| format()).collect();
    let mut replicas: Vec<Replica> = disks
        .iter()
        .map(|d| open_with(d, 0, 5000, SECOND, &turns))
        .collect();
    for replica in &mut replicas {
        replica.scrub(SECOND, &mut Vec::new());
    }
    // A first slice each, and a second.
    for now in [SECOND, SECOND + SECOND / 10] {
        for replica in &mut replicas {
            replica.background(now, &mut Vec::new());
        }
    }
    let position = |r: &Replica| r.status().scrub.position_blocks;
    let read = |replicas: &[Replica]| replicas.iter().map(position).map(|p| p > 0).collect::<Vec<_>>();
    assert_eq!(read(&replicas), [true, true, false, false]);
    // One ends, another is gone with its process: who waits goes on.
    let now = run(&mut replicas[0], SECOND, |r| r.status().scrub.passes == 1);
    replicas.remove(1);
    for replica in &mut replicas[1..] {
        run(replica, now, |r| r.status().scrub.passes == 1);
    }
}
