//! Deterministic fuzzing of what others send and of what a disk holds: valid input, damaged by a seeded generator. A case
//! is a seed, so a failure is repeated by its number. The tests run a bounded count; `examples/fuzz` goes on for as long
//! as it is told. No nightly compiler is needed, and each case begins beyond the checks of magic words and checksums.

mod messages;

use crate::core::checksum;
use crate::core::disk::Disk;
use crate::core::replica::{FormatAs, Replica, ReplicaAction, ReplicaSettings, ScrubSettings};
use crate::core::rng::Rng;
use crate::core::types::{BLOCK, Class, Epoch, Member, ReplicaId, Seq, VolumeMeta};
use crate::core::wire::{BlockKind, Body, Message, Record};
use crate::net::frame;
use crate::sim::disk::SimDisk;
use bytes::{Bytes, BytesMut};
use messages::{engine_message, number, replica_message};
use std::collections::{BTreeMap, HashMap};

/// What is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Frames of a connection, and the core's messages in them.
    Frames,
    /// A replica's files: journal, state, entries and data, read again at a start.
    Disk,
    /// A replica, by an engine that says whatever it likes.
    Session,
}

impl Target {
    /// All of them.
    pub const ALL: [Target; 3] = [Target::Frames, Target::Disk, Target::Session];
}

/// Blocks of the volume.
const BLOCKS: u64 = 48;
/// Bytes of a journal segment, as in the simulator.
const SEGMENT: u64 = 192 << 10;
/// Damages of one case.
const MAX_DAMAGES: u64 = 6;

/// Runs one case; the error says what does not hold. Panics are failures too.
pub fn run(target: Target, seed: u64) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    match target {
        Target::Frames => frames(&mut rng),
        Target::Disk => disk(&mut rng),
        Target::Session => session(&mut rng),
    }
}

/// Damages bytes in one of the ways in which bytes are damaged.
fn damage(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let len = bytes.len() as u64;
    if len == 0 {
        return;
    }
    let at = rng.below(len) as usize;
    match rng.below(6) {
        0 => bytes[at] ^= 1 << rng.below(8),
        1 => bytes.truncate(at),
        2 => {
            let value = number(rng).to_le_bytes();
            let end = (at + value.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&value[..end - at]);
        }
        3 => {
            let end = (at + 512).min(bytes.len());
            bytes[at..end].fill(0);
        }
        4 => bytes.insert(at, rng.draw() as u8),
        _ => {
            let from = rng.below(len) as usize;
            let n = (bytes.len() - at.max(from)).min(rng.below(600) as usize);
            bytes.copy_within(from..from + n, at);
        }
    }
}

fn frames(rng: &mut Rng) -> Result<(), String> {
    let mut stream = Vec::new();
    let mut sent = Vec::new();
    for _ in 0..1 + rng.below(3) {
        let message = if rng.percent(60) {
            let next = rng.below(9);
            engine_message(rng, next)
        } else {
            replica_message(rng)
        };
        let body = message.to_bytes();
        // What is sent may be beyond its bounds: then it is refused, and stays so.
        if let Ok(back) = Message::decode(body.clone()) {
            if back != message {
                return Err(format!("{message:?} became {back:?}"));
            }
            sent.push(message);
        }
        let mut body = body.to_vec();
        if rng.percent(50) {
            damage(rng, &mut body);
        }
        stream.extend_from_slice(&frame::header(frame::Kind::Message, rng.draw(), body.len()));
        stream.extend_from_slice(&body);
    }
    for _ in 0..rng.below(3) {
        damage(rng, &mut stream);
    }
    let cut = 1 + rng.below(5000) as usize;
    let mut buffer = BytesMut::new();
    for piece in stream.chunks(cut) {
        buffer.extend_from_slice(piece);
        while let Ok(Some(frame)) = frame::take(&mut buffer) {
            if let Ok(message) = Message::decode(frame.payload) {
                // What can be read can be said, and means the same.
                let again = Message::decode(message.to_bytes());
                if again.as_ref() != Ok(&message) {
                    return Err(format!("{message:?} is read again as {again:?}"));
                }
            }
        }
    }
    Ok(())
}

const ID: ReplicaId = ReplicaId(7);
/// Number of the session of the engine that behaves.
const GOOD: u64 = 1;

fn meta() -> VolumeMeta {
    VolumeMeta {
        volume: "v".into(),
        size_bytes: BLOCKS * BLOCK as u64,
        class: Class::Local,
        members: vec![Member {
            id: ID,
            region: "a".into(),
        }],
        id: ID,
        labels: BTreeMap::new(),
    }
}

fn start(disk: &SimDisk, incarnation: u128) -> Result<Replica, String> {
    let settings = ReplicaSettings {
        boot_id: 1,
        incarnation,
        scrub: ScrubSettings::default(),
        mutations: Default::default(),
    };
    Replica::open(Box::new(disk.clone()), settings, 0).map_err(|e| e.to_string())
}

fn formatted() -> Result<SimDisk, String> {
    let disk = SimDisk::default();
    Replica::format_with(&disk, &meta(), FormatAs::Fresh, SEGMENT).map_err(|e| e.to_string())?;
    Ok(disk)
}

/// Takes the replica into an epoch; its log end, or none if it does not go along.
fn enter(replica: &mut Replica, counter: u64) -> Option<Seq> {
    let epoch = Epoch { counter, instance: 1 };
    let mut out = Vec::new();
    replica.handle(0, GOOD, Message::Prepare { epoch }, &mut out);
    let promise = out.drain(..).find_map(|a| match a {
        ReplicaAction::Send {
            message: Message::Promise(p),
            ..
        } => Some(p),
        _ => None,
    })?;
    let mut history = promise.history.clone();
    let truncate = Message::Truncate {
        epoch,
        keep: promise.end,
        history: history.clone(),
        commit: promise.commit,
        copy_from: None,
        blocks: promise.blocks,
        snapshots: Vec::new(),
    };
    replica.handle(0, GOOD, truncate, &mut out);
    history.push(epoch, promise.end + 1);
    let adopt = Message::Adopt {
        epoch,
        history,
        peers: Vec::new(),
    };
    replica.handle(0, GOOD, adopt, &mut out);
    let adopted = out.iter().any(|a| {
        matches!(
            a,
            ReplicaAction::Send {
                message: Message::Adopted { .. },
                ..
            }
        )
    });
    adopted.then_some(promise.end)
}

/// Background work and syncs, to their end.
fn settle(replica: &mut Replica, now: u64) {
    for _ in 0..64 {
        let mut out = Vec::new();
        let next = replica.background(now, &mut out);
        let mut busy = false;
        while let Some(job) = replica.begin_sync(now) {
            replica.synced(now, job.ticket(), job.run(), &mut out);
            busy = true;
        }
        if !busy && next.is_none_or(|at| at > now) {
            return;
        }
    }
}

/// Writes to the log as an engine does; what each version of a block is goes to `written`.
fn write(
    replica: &mut Replica,
    rng: &mut Rng,
    counter: u64,
    end: &mut Seq,
    written: &mut HashMap<(u64, Seq), u8>,
) {
    let epoch = Epoch { counter, instance: 1 };
    for round in 0..rng.below(12) {
        let records: Vec<Record> = (0..1 + rng.below(3))
            .map(|i| {
                let seq = *end + 1 + i;
                let (block, count) = (rng.below(BLOCKS - 3), 1 + rng.below(3));
                let (fill, seed) = (rng.draw() as u8, checksum::volume_seed("v"));
                let data = vec![fill; count as usize * BLOCK];
                let blocks = data.chunks_exact(BLOCK).enumerate();
                let crcs = blocks
                    .map(|(i, b)| checksum::block(seed, block + i as u64, seq, b))
                    .collect();
                for b in block..block + count {
                    written.insert((b, seq), fill);
                }
                Record {
                    seq,
                    body: Body::Write {
                        block,
                        crcs,
                        data: Bytes::from(data),
                    },
                }
            })
            .collect();
        *end += records.len() as u64;
        let append = Message::Append {
            epoch,
            sent_at: 1,
            commit: if rng.percent(70) { *end } else { 0 },
            sync_to: *end,
            records,
        };
        replica.handle(round, GOOD, append, &mut Vec::new());
        // Sometimes as late as write-back.
        settle(
            replica,
            if rng.percent(30) {
                5_000_000_000 * (round + 1)
            } else {
                round
            },
        );
    }
}

fn disk(rng: &mut Rng) -> Result<(), String> {
    let disk = formatted()?;
    let (mut end, mut written) = (0, HashMap::new());
    for counter in 1..2 + rng.below(3) {
        let mut replica = start(&disk, u128::from(counter))?;
        if enter(&mut replica, counter) != Some(end) {
            return Err(format!("an undamaged replica lost its log at {end}"));
        }
        write(&mut replica, rng, counter, &mut end, &mut written);
    }
    let names = disk.list().map_err(|e| e.to_string())?;
    for _ in 0..1 + rng.below(MAX_DAMAGES) {
        let name = &names[rng.below(names.len() as u64) as usize];
        let file = disk.open(name).map_err(|e| e.to_string())?;
        let mut bytes = vec![0u8; 1 << 18];
        let n = file.pread(&mut bytes, 0).map_err(|e| e.to_string())?;
        bytes.truncate(n);
        damage(rng, &mut bytes);
        bytes.resize(n, 0);
        file.pwritev(&[&bytes], 0).map_err(|e| e.to_string())?;
    }
    let Ok(mut replica) = start(&disk, 99) else {
        return Ok(());
    };
    let Some(found) = enter(&mut replica, 50) else {
        return Ok(());
    };
    if found > end {
        return Err(format!(
            "the log ends at {found}, beyond what was ever written: {end}"
        ));
    }
    settle(&mut replica, 60_000_000_000);
    read_back(&mut replica, &written)
}

/// Whatever is served as good was once written, at that version.
fn read_back(replica: &mut Replica, written: &HashMap<(u64, Seq), u8>) -> Result<(), String> {
    let epoch = Epoch {
        counter: 50,
        instance: 1,
    };
    let mut out = Vec::new();
    let read = Message::Read {
        epoch,
        request: 1,
        block: 0,
        count: BLOCKS as u32,
        min_seq: 0,
        applied_only: false,
        snapshot: 0,
    };
    replica.handle(0, GOOD, read, &mut out);
    for action in out {
        let ReplicaAction::Send {
            message: Message::ReadReply { blocks, data, .. },
            ..
        } = action
        else {
            continue;
        };
        let mut at = 0;
        for b in blocks.iter().filter(|b| b.kind == BlockKind::Data) {
            let bytes = &data[at..at + BLOCK];
            at += BLOCK;
            let good = written.get(&(b.block, b.version));
            if good.is_none_or(|fill| bytes.iter().any(|x| x != fill)) {
                return Err(format!(
                    "block {} is served with version {} and wrong bytes",
                    b.block, b.version
                ));
            }
        }
    }
    Ok(())
}

fn session(rng: &mut Rng) -> Result<(), String> {
    let disk = formatted()?;
    let mut replica = start(&disk, 1)?;
    let mut end = enter(&mut replica, 1).ok_or("a new replica does not take part")?;
    for step in 0..40 {
        if rng.percent(20) {
            write(&mut replica, rng, 1, &mut end, &mut HashMap::new());
        }
        end = replica.status().received_seq;
        let message = engine_message(rng, end.wrapping_add(1));
        // Only what can arrive.
        if let Ok(message) = Message::decode(message.to_bytes()) {
            let session = if rng.percent(90) { GOOD } else { 2 };
            replica.handle(step, session, message, &mut Vec::new());
            settle(&mut replica, step * 1_000_000_000);
        }
    }
    drop(replica);
    // What was accepted does not keep it from starting again.
    start(&disk, 2)
        .map(drop)
        .map_err(|e| format!("it does not start again: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(target: Target, count: u64) {
        for seed in 0..count {
            let result = std::panic::catch_unwind(|| run(target, seed));
            match result {
                Ok(Ok(())) => {}
                Ok(Err(what)) => panic!("{target:?} {seed}: {what}"),
                Err(_) => panic!("{target:?} {seed} panics"),
            }
        }
    }

    #[test]
    fn damaged_frames_are_refused_or_mean_something() {
        many(Target::Frames, 5000);
    }

    #[test]
    fn damaged_files_never_become_wrong_bytes() {
        many(Target::Disk, 800);
    }

    #[test]
    fn a_replica_survives_an_engine_that_says_anything() {
        many(Target::Session, 800);
    }
}
