//! What a replica keeps besides its log and its blocks: promise, history, what it lacks. Two equal copies in one
//! file, each with a checksum, written one after the other: a crash leaves at least one whole, and rot of one copy
//! does not bring an old promise back.
//!
//! Format history: 1, the first release; 2, layers of snapshots at the end; 3, the scrub after them. What an older version
//! does not have is read as being none.

use super::ReplicaError;
use super::scrub::ScrubState;
use crate::core::checksum;
use crate::core::disk::{Disk, DiskFile};
use crate::core::types::{Class, Epoch, History, Member, ReplicaId, Seq, SnapshotInfo, VolumeMeta};
use crate::core::wire::PeerMemory;
use bytes::{Buf, BufMut};
use std::sync::Arc;

/// Name of the file.
const FILE: &str = "state";
/// Bytes of each copy. A full history takes 16 KiB.
const SLOT: u64 = 64 << 10;
/// "HKST".
const MAGIC: u32 = 0x4853_4b54;
const VERSION: u16 = 3;
/// The version without snapshots.
const WITHOUT_LAYERS: u32 = 1;
/// The first version with a scrub.
const WITH_SCRUB: u32 = 3;

/// How far a learner has come (R15).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CopyState {
    /// (end block, everything up to this seq is here): ascending.
    pub pieces: Vec<(u64, Seq)>,
    /// Blocks before this one are copied, durably.
    pub cursor: u64,
    /// The stream began after this seq.
    pub from: Seq,
}

/// A layer: what was overwritten since a snapshot, see [`super::layers`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerState {
    /// The snapshot.
    pub info: SnapshotInfo,
    /// The snapshot was dropped; what the layer has may be needed by older ones until it is merged.
    pub dropped: bool,
}

/// Most pieces kept; above it neighbours are joined at the lower seq, which copies more but never less.
const MAX_PIECES: usize = 8;

impl CopyState {
    /// The pieces for a new copy after one that came to `cursor` with a stream up to `keep`.
    pub fn resume(&self, keep: Seq, blocks: u64) -> Vec<(u64, Seq)> {
        let mut pieces = Vec::new();
        if self.cursor > 0 {
            pieces.push((self.cursor.min(blocks), keep));
        }
        for (end, have) in &self.pieces {
            if *end > self.cursor {
                pieces.push((*end, (*have).min(keep)));
            }
        }
        match pieces.last_mut() {
            Some(last) if last.0 < blocks => pieces.push((blocks, 0)),
            None => pieces.push((blocks, 0)),
            Some(_) => {}
        }
        while pieces.len() > MAX_PIECES {
            let low = pieces[0].1.min(pieces[1].1);
            pieces.remove(0);
            pieces[0].1 = low;
        }
        pieces
    }
}

/// The state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Grows with every write of the state.
    pub serial: u64,
    /// The volume.
    pub meta: VolumeMeta,
    /// Blocks of the volume as of the last resize that was applied.
    pub blocks: u64,
    /// Bytes of a journal segment.
    pub segment: u64,
    /// Journal segments above this generation belong to a cut or an adoption that never finished.
    pub generation: u64,
    /// (number, first seq) of the segment with which that generation began. It must be there.
    pub active: (u64, Seq),
    /// Highest promise (R2).
    pub promised: Epoch,
    /// Epochs of the log.
    pub history: History,
    /// The log reached at least this when the state was written; ending below is damage (R10).
    pub log_end: Seq,
    /// Never complete since its format, or damaged: does not vote.
    pub blank: bool,
    /// Catching up by extents.
    pub copy: Option<CopyState>,
    /// Rebooted unclean and not levelled since (R4).
    pub lossy: bool,
    /// Stopped clean.
    pub clean: bool,
    /// An fsync failed once: unusable until rebuilt.
    pub failed: bool,
    /// Boot of the last start.
    pub boot_id: u128,
    /// Number of starts (R7).
    pub starts: u64,
    /// Durable commit known.
    pub commit: Seq,
    /// What the engine said of the others (R7).
    pub peers: Vec<PeerMemory>,
    /// Ascending by seq.
    pub layers: Vec<LayerState>,
    /// How far a scrub is.
    pub scrub: ScrubState,
}

fn epoch(b: &mut Vec<u8>, e: &Epoch) {
    b.put_u64_le(e.counter);
    b.put_u128_le(e.instance);
}

fn text(b: &mut Vec<u8>, s: &str) {
    b.put_u32_le(s.len() as u32);
    b.put_slice(s.as_bytes());
}

impl State {
    /// Damage was found: what is there up to `good` is kept, the rest must be copied, and until then it does not vote.
    pub fn hollow(&mut self, good: Seq) {
        let copy = self.copy.take().unwrap_or_else(|| CopyState {
            pieces: vec![(self.blocks, good)],
            ..CopyState::default()
        });
        self.copy = Some(CopyState {
            pieces: copy.resume(good, self.blocks),
            cursor: 0,
            from: good,
        });
        self.blank = true;
    }

    /// What the engine says of the other members (R7); who is not among them is not forgotten. True: something is new.
    pub fn remember(&mut self, peers: Vec<PeerMemory>) -> bool {
        let before = self.peers.clone();
        for peer in peers {
            match self.peers.iter_mut().find(|p| p.id == peer.id) {
                Some(known) => *known = peer,
                None => self.peers.push(peer),
            }
        }
        self.peers
            .retain(|p| self.meta.members.iter().any(|m| m.id == p.id));
        let of = |peers: &[PeerMemory]| {
            let took_part = peers.iter().map(|p| (p.id, p.starts, p.promised));
            took_part.collect::<Vec<_>>()
        };
        of(&before) != of(&self.peers)
    }

    fn encode(&self) -> Vec<u8> {
        let mut b = Vec::with_capacity(1024);
        b.put_u64_le(self.serial);
        text(&mut b, &self.meta.volume);
        b.put_u64_le(self.meta.size_bytes);
        text(&mut b, self.meta.class.as_str());
        b.put_u32_le(self.meta.members.len() as u32);
        for m in &self.meta.members {
            b.put_u128_le(m.id.0);
            text(&mut b, &m.region);
        }
        b.put_u128_le(self.meta.id.0);
        b.put_u32_le(self.meta.labels.len() as u32);
        for (k, v) in &self.meta.labels {
            text(&mut b, k);
            text(&mut b, v);
        }
        b.put_u64_le(self.blocks);
        b.put_u64_le(self.segment);
        b.put_u64_le(self.generation);
        b.put_u64_le(self.active.0);
        b.put_u64_le(self.active.1);
        epoch(&mut b, &self.promised);
        b.put_u32_le(self.history.entries.len() as u32);
        for (e, first) in &self.history.entries {
            epoch(&mut b, e);
            b.put_u64_le(*first);
        }
        b.put_u64_le(self.log_end);
        for flag in [
            self.blank,
            self.lossy,
            self.clean,
            self.failed,
            self.copy.is_some(),
        ] {
            b.put_u8(u8::from(flag));
        }
        let copy = self.copy.clone().unwrap_or_default();
        b.put_u32_le(copy.pieces.len() as u32);
        for (end, have) in &copy.pieces {
            b.put_u64_le(*end);
            b.put_u64_le(*have);
        }
        b.put_u64_le(copy.cursor);
        b.put_u64_le(copy.from);
        b.put_u128_le(self.boot_id);
        b.put_u64_le(self.starts);
        b.put_u64_le(self.commit);
        b.put_u32_le(self.peers.len() as u32);
        for p in &self.peers {
            b.put_u128_le(p.id.0);
            b.put_u64_le(p.starts);
            epoch(&mut b, &p.promised);
            b.put_u64_le(p.durable);
        }
        b.put_u32_le(self.layers.len() as u32);
        for layer in &self.layers {
            text(&mut b, &layer.info.name);
            b.put_u64_le(layer.info.seq);
            b.put_u64_le(layer.info.blocks);
            b.put_u8(u8::from(layer.dropped));
        }
        self.scrub.encode(&mut b);
        b
    }

    fn decode(bytes: &[u8], version: u32) -> Option<State> {
        let mut r = Fields(bytes);
        let serial = r.u64()?;
        let volume = r.text()?;
        let size_bytes = r.u64()?;
        let class = Class::parse(&r.text()?)?;
        let members = (0..r.u32()?)
            .map(|_| {
                Some(Member {
                    id: ReplicaId(r.u128()?),
                    region: r.text()?,
                })
            })
            .collect::<Option<Vec<_>>>()?;
        let id = ReplicaId(r.u128()?);
        let labels = (0..r.u32()?)
            .map(|_| Some((r.text()?, r.text()?)))
            .collect::<Option<_>>()?;
        let meta = VolumeMeta {
            volume,
            size_bytes,
            class,
            members,
            id,
            labels,
        };
        let (blocks, segment, generation) = (r.u64()?, r.u64()?, r.u64()?);
        let (active, promised) = ((r.u64()?, r.u64()?), r.epoch()?);
        let entries = (0..r.u32()?)
            .map(|_| Some((r.epoch()?, r.u64()?)))
            .collect::<Option<Vec<_>>>()?;
        let log_end = r.u64()?;
        let (blank, lossy, clean, failed, copying) = (r.flag()?, r.flag()?, r.flag()?, r.flag()?, r.flag()?);
        let pieces = (0..r.u32()?)
            .map(|_| Some((r.u64()?, r.u64()?)))
            .collect::<Option<Vec<_>>>()?;
        let copy = CopyState {
            pieces,
            cursor: r.u64()?,
            from: r.u64()?,
        };
        let (boot_id, starts, commit) = (r.u128()?, r.u64()?, r.u64()?);
        let peers = (0..r.u32()?)
            .map(|_| {
                let (id, starts, promised) = (ReplicaId(r.u128()?), r.u64()?, r.epoch()?);
                Some(PeerMemory {
                    id,
                    starts,
                    promised,
                    durable: r.u64()?,
                })
            })
            .collect::<Option<Vec<_>>>()?;
        let layers = if version == WITHOUT_LAYERS { 0 } else { r.u32()? };
        let layers = (0..layers)
            .map(|_| {
                let (name, seq, blocks) = (r.text()?, r.u64()?, r.u64()?);
                Some(LayerState {
                    info: SnapshotInfo { name, seq, blocks },
                    dropped: r.flag()?,
                })
            })
            .collect::<Option<Vec<_>>>()?;
        let scrub = if version >= WITH_SCRUB {
            ScrubState::decode(&mut r)?
        } else {
            ScrubState::default()
        };
        Some(State {
            serial,
            meta,
            blocks,
            segment,
            generation,
            active,
            promised,
            history: History { entries },
            log_end,
            blank,
            copy: copying.then_some(copy),
            lossy,
            clean,
            failed,
            boot_id,
            starts,
            commit,
            peers,
            layers,
            scrub,
        })
    }

    /// Writes both copies, durably, one after the other.
    pub fn store(&mut self, file: &Arc<dyn DiskFile>) -> std::io::Result<()> {
        self.serial += 1;
        let body = self.encode();
        let mut head = Vec::with_capacity(24);
        head.put_u32_le(MAGIC);
        head.put_u16_le(VERSION);
        head.put_u16_le(0);
        head.put_u64_le(body.len() as u64);
        head.put_u64_le(checksum::wide(&body));
        if head.len() + body.len() > SLOT as usize {
            return Err(std::io::Error::other("the replica's state outgrew its slot"));
        }
        for slot in 0..2 {
            file.pwritev(&[&head, &body], slot * SLOT)?;
            file.sync()?;
        }
        Ok(())
    }

    /// Makes the file; the caller syncs the directory.
    pub fn create(&mut self, disk: &dyn Disk) -> std::io::Result<Arc<dyn DiskFile>> {
        let file = disk.create(FILE)?;
        file.preallocate(2 * SLOT)?;
        self.store(&file)?;
        Ok(file)
    }

    /// Reads the newest whole copy.
    pub fn load(disk: &dyn Disk) -> Result<(State, Arc<dyn DiskFile>), ReplicaError> {
        let io = |source| ReplicaError::Io {
            what: "reading the replica's state",
            source,
        };
        let file = disk.open(FILE).map_err(io)?;
        let mut best: Option<State> = None;
        let mut newer = false;
        for slot in 0..2 {
            let mut buf = vec![0u8; SLOT as usize];
            // A copy that cannot be read is like one that is torn: the other decides.
            let n = file.pread(&mut buf, slot * SLOT).unwrap_or(0);
            newer |= Fields(&buf[..n]).is_newer() == Some(true);
            if let Some(state) = Self::parse(&buf[..n])
                && best.as_ref().is_none_or(|b| b.serial < state.serial)
            {
                best = Some(state);
            }
        }
        let why = if newer {
            "it was written by a newer version of this program"
        } else {
            "no whole copy of its state"
        };
        let state = best.ok_or(ReplicaError::BadState(why))?;
        Ok((state, file))
    }

    fn parse(bytes: &[u8]) -> Option<State> {
        let mut r = Fields(bytes);
        let (magic, version) = (r.u32()?, r.u32()? & 0xffff);
        let (len, crc) = (r.u64()? as usize, r.u64()?);
        if magic != MAGIC || !(WITHOUT_LAYERS..=u32::from(VERSION)).contains(&version) {
            return None;
        }
        let body = r.0.get(..len)?;
        if checksum::wide(body) != crc {
            return None;
        }
        State::decode(body, version)
    }
}

/// Reads fields off a slice; none when it ends.
pub(super) struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    pub(super) fn u8(&mut self) -> Option<u8> {
        self.0.try_get_u8().ok()
    }
    pub(super) fn u32(&mut self) -> Option<u32> {
        self.0.try_get_u32_le().ok()
    }
    pub(super) fn u64(&mut self) -> Option<u64> {
        self.0.try_get_u64_le().ok()
    }
    pub(super) fn u128(&mut self) -> Option<u128> {
        self.0.try_get_u128_le().ok()
    }
    /// These are of a state that a newer program wrote.
    fn is_newer(&mut self) -> Option<bool> {
        Some(self.u32()? == MAGIC && self.u32()? & 0xffff > u32::from(VERSION))
    }
    pub(super) fn flag(&mut self) -> Option<bool> {
        Some(self.u8()? != 0)
    }
    fn epoch(&mut self) -> Option<Epoch> {
        Some(Epoch {
            counter: self.u64()?,
            instance: self.u128()?,
        })
    }
    fn text(&mut self) -> Option<String> {
        let len = self.u32()? as usize;
        let s = std::str::from_utf8(self.0.get(..len)?).ok()?.to_owned();
        self.0.advance(len);
        Some(s)
    }
}
