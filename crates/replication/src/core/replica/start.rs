//! Format, open and clean stop.

use super::blocks::Blocks;
use super::index::Index;
use super::journal::Journal;
use super::layers::Layers;
use super::recover::{Known, recover};
use super::scrub::{Scrub, ScrubState};
use super::state::{CopyState, State};
use super::{Fault, FormatAs, LEASE_GRANT, Replica, ReplicaError, ReplicaSettings, segment, sync};
use crate::core::checksum;
use crate::core::disk::Disk;
use crate::core::rng::Rng;
use crate::core::types::{BLOCK, Epoch, History, Nanos, VolumeMeta};
use std::io;

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> ReplicaError {
    move |source| ReplicaError::Io { what, source }
}

impl From<Fault> for ReplicaError {
    fn from(fault: Fault) -> ReplicaError {
        match fault {
            Fault::Io(what, source) => ReplicaError::Io { what, source },
            Fault::Protocol(what) => ReplicaError::BadState(what),
            Fault::Full => ReplicaError::BadState("the journal is full"),
        }
    }
}

impl Replica {
    /// Makes a replica in an empty directory, durably.
    pub fn format(disk: &dyn Disk, meta: &VolumeMeta, how: FormatAs) -> Result<(), ReplicaError> {
        Self::format_with(disk, meta, how, segment::SEGMENT)
    }

    /// As [`Replica::format`], with journal segments of `segment` bytes. A segment must hold the largest batch, twice
    /// the largest record.
    pub fn format_with(
        disk: &dyn Disk,
        meta: &VolumeMeta,
        how: FormatAs,
        segment: u64,
    ) -> Result<(), ReplicaError> {
        let seed = checksum::volume_seed(&meta.volume);
        let blocks = meta.size_bytes.div_ceil(BLOCK as u64);
        let learner = how == FormatAs::Learner;
        Blocks::create(disk, blocks).map_err(io_error("making the files of blocks"))?;
        let rng = Rng::new((meta.id.0 >> 64) as u64 ^ meta.id.0 as u64);
        Journal::create(disk, seed, segment, rng).map_err(io_error("making the journal"))?;
        let mut state = State {
            serial: 0,
            meta: meta.clone(),
            blocks,
            segment,
            generation: 0,
            active: (1, 1),
            promised: Epoch::ZERO,
            history: History::default(),
            log_end: 0,
            blank: learner,
            copy: learner.then(|| CopyState {
                pieces: vec![(blocks, 0)],
                cursor: 0,
                from: 0,
            }),
            lossy: false,
            clean: true,
            failed: false,
            boot_id: 0,
            starts: 0,
            commit: 0,
            peers: Vec::new(),
            layers: Vec::new(),
            scrub: ScrubState::default(),
        };
        // The state comes last: a directory without it was never formatted.
        disk.sync_dir().map_err(io_error("syncing the directory"))?;
        state
            .create(disk)
            .map_err(io_error("writing the replica's state"))?;
        disk.sync_dir().map_err(io_error("syncing the directory"))
    }

    /// Opens what [`Replica::format`] made: replays the journal, clears the clean-stop mark.
    pub fn open(disk: Box<dyn Disk>, settings: ReplicaSettings, now: Nanos) -> Result<Replica, ReplicaError> {
        let (mut state, state_file) = State::load(&*disk)?;
        let seed = checksum::volume_seed(&state.meta.volume);
        let rng = Rng::new((settings.incarnation >> 64) as u64 ^ settings.incarnation as u64);
        let known = Known {
            segment: state.segment,
            generation: state.generation,
            active: state.active,
            log_end: state.log_end,
            damage_is_end: settings.mutations.r10_damage_is_end,
        };
        let found = recover(&*disk, seed, &known, rng).map_err(io_error("reading the journal"))?;
        let blocks = Blocks::open(&*disk).map_err(io_error("opening the files of blocks"))?;
        let layers = Layers::open(&*disk, &state).map_err(io_error("opening the layers of snapshots"))?;
        let rebooted = !state.clean && state.boot_id != settings.boot_id;
        state.lossy |= rebooted;
        state.boot_id = settings.boot_id;
        state.clean = false;
        state.starts += 1;
        // A disk that lost power and with it what it had said was synced may have lost anything, in place too, where an old
        // block looks as good as a new one.
        let lied = rebooted && (found.gap || found.damaged.is_some());
        if lied && !settings.mutations.r10_damage_is_end && !settings.mutations.believe_liars {
            tracing::error!(volume = %state.meta.volume, id = %state.meta.id,
                "the disk lost what it said was synced: the replica will take everything from the others");
            state.hollow(0);
        } else if let Some(good) = found.damaged {
            tracing::error!(volume = %state.meta.volume, id = %state.meta.id, good,
                "the journal is damaged: the replica will take what it lacks from the others");
            state.hollow(good);
        }
        let failed = state
            .failed
            .then(|| "a sync of its disk failed earlier".to_owned());
        let lease_until = if state.promised == Epoch::ZERO {
            0
        } else {
            now + LEASE_GRANT
        };
        let mut replica = Replica {
            recent: found.records.into(),
            recent_index: Index::default(),
            stable_index: Index::default(),
            sweep: None,
            stable: found.applied,
            applied: found.applied,
            applied_synced: found.applied,
            want_applied: 0,
            sync_to: 0,
            unsynced_since: None,
            stable_since: None,
            last_append: now,
            marked: 0,
            jobs: sync::Jobs::default(),
            session: None,
            adopted: false,
            lease_until,
            lease_instance: 0,
            cursor: state.copy.as_ref().map_or(0, |c| c.cursor),
            copied: 0,
            scrub: Scrub::default(),
            failed,
            full: false,
            journal: found.journal,
            blocks,
            layers,
            disk,
            settings,
            state,
            state_file,
            seed,
        };
        replica.journal.commit = replica.journal.commit.max(replica.state.commit);
        if replica.failed.is_none() {
            match replica.restart(&found.stale, now) {
                Err(Fault::Io(what, e)) => {
                    // A failed sync is never retried into success, not by a restart either.
                    replica.record_failure();
                    replica.fail(format!("{what}: {e}"), &mut Vec::new());
                }
                other => other?,
            }
        }
        Ok(replica)
    }

    fn restart(&mut self, stale: &[usize], now: Nanos) -> Result<(), Fault> {
        let sync = |e| Fault::Io("syncing the journal", e);
        for held in &self.recent {
            self.recent_index.insert(held);
        }
        // After a crash of the process alone the page cache is ahead of the disk: make it equal first.
        self.journal.sync_all().map_err(sync)?;
        if !stale.is_empty() {
            self.persist()?;
            self.journal.invalidate(stale).map_err(sync)?;
        }
        self.promote(now)?;
        self.cut_journal(self.journal.end, false)?;
        self.plan_scrub(now);
        self.persist()?;
        self.promote(now)
    }

    /// Makes everything durable and leaves the clean-stop mark. The replica must not be used after.
    pub fn stop_clean(&mut self) -> Result<(), ReplicaError> {
        if self.failed.is_some() {
            return Ok(());
        }
        self.journal.sync_all().map_err(io_error("syncing the journal"))?;
        self.blocks.sync().map_err(io_error("syncing the blocks"))?;
        self.layers.sync().map_err(io_error("syncing the layers"))?;
        self.state.clean = true;
        self.persist()?;
        self.failed = Some("stopped".to_owned());
        Ok(())
    }
}
