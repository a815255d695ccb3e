//! Scrubs of a third of the seeds: in the background all the time, and once more at the end, when blocks rot that nobody
//! reads. Then nothing but the scrub can have repaired them.

use super::world::{MEMBERS, World};
use crate::core::replica::{ScrubSettings, ScrubStatus};
use crate::core::rng::Rng;
use crate::core::types::SECOND;

/// Pause between passes, seconds.
const PERIOD_S: u64 = 3;
/// Longer than written data waits for its write-back.
const WRITTEN_BACK: u64 = 3 * SECOND;
/// A hurried pass over the few hundred blocks of a run takes some tenths of it.
const PASS: u64 = 20 * SECOND;
/// Attempts at a comparison, which fails while a member is silent for a moment.
const VERIFICATIONS: usize = 10;
/// Blocks that rot at the end.
const ROTS: usize = 3;

/// Whether a seed has scrubs. Own luck, so that runs without them stay as they are.
pub(super) fn has(seed: u64, plain: bool) -> bool {
    !plain && Rng::new(seed ^ 0x5c2b_b5c2).percent(35)
}

impl World {
    pub(super) fn scrub_settings(&self) -> ScrubSettings {
        ScrubSettings {
            period_s: if self.scrubs { PERIOD_S } else { 0 },
            ..ScrubSettings::default()
        }
    }

    fn scrub_status(&self) -> Vec<Option<ScrubStatus>> {
        let status = |r: &super::world::Region| r.replica.as_ref().map(|r| r.status().scrub);
        self.replicas.iter().map(status).collect()
    }

    /// Rot that nobody reads is found and repaired by a scrub.
    pub(super) fn scrub_all(&mut self) -> Result<(), String> {
        if !self.scrubs {
            return Ok(());
        }
        self.silent = true;
        self.advance(self.now + WRITTEN_BACK, |_| false)?;
        let victim = self.profile.victim;
        let disk = self.replicas[victim].disk.clone();
        for _ in 0..ROTS {
            for kind in ["data", "meta", "snap."] {
                disk.rot(kind, &mut self.rng);
            }
        }
        let before: Vec<u64> = self
            .scrub_status()
            .iter()
            .map(|s| s.map_or(0, |s| s.passes))
            .collect();
        for replica in 0..MEMBERS {
            let mut actions = Vec::new();
            let now = self.now;
            if let Some(r) = &mut self.replicas[replica].replica {
                r.scrub(now, &mut actions);
            }
            self.replica_work(replica, actions);
        }
        let done = |w: &World| {
            w.scrub_status()
                .iter()
                .zip(&before)
                .all(|(s, before)| s.is_some_and(|s| s.passes > *before && s.damaged_blocks == 0))
        };
        if !self.advance(self.now + PASS, done)? {
            return Err(format!(
                "the scrub does not end: {:?}; {}",
                self.scrub_status(),
                self.describe()
            ));
        }
        for _ in 0..VERIFICATIONS {
            self.verified = None;
            self.verify_all();
            self.advance(self.now + SECOND, |w| w.verified.is_some())?;
            if self.verified.is_some() {
                break;
            }
        }
        if self.verified != Some(true) {
            let report = self.engines.last().and_then(|e| e.engine.verify_report());
            return Err(format!("the scrub left damage: {report:?}; {}", self.describe()));
        }
        self.silent = false;
        Ok(())
    }
}
