//! The deterministic simulator: three replicas, engines that come and go, a client, a network and disks, all in one
//! thread and driven by one seed. The clock is simulated, so a run of a minute takes milliseconds.
//!
//! A run has a phase of faults, then a phase where everything is repaired and a majority must make progress, then the
//! loss of one more member, and at the end all replicas must hold the same bytes. A [`model::Model`] checks every answer.

mod client;
mod combos;
pub(crate) mod disk;
mod faults;
pub mod model;
mod network;
mod rows;
mod scrubs;
mod snaps;
mod world;

use crate::core::mutations::Mutations;

/// What to simulate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Rules switched off.
    pub mutations: Mutations,
    /// Without rows of faults, as in the first runs.
    pub plain: bool,
    /// Print every event (with `tracing`, at debug level).
    pub trace: bool,
}

/// A run that found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Hash of every event: the same for the same seed.
    pub trace: u64,
    /// Events processed.
    pub events: u64,
    /// Reads that were checked.
    pub reads: u64,
    /// Writes that were acknowledged.
    pub writes: u64,
    /// Snapshots that were acknowledged.
    pub snapshots: u64,
    /// Epochs opened.
    pub epochs: u64,
    /// Faults injected.
    pub faults: u64,
}

/// A guarantee was broken, or a majority made no progress.
#[derive(Clone, Debug, thiserror::Error)]
#[error("seed {seed} at {at_ms} ms: {what}")]
pub struct Failure {
    /// The run.
    pub seed: u64,
    /// Simulated time.
    pub at_ms: u64,
    /// What happened.
    pub what: String,
}

/// Runs one seed.
pub fn run_seed(seed: u64, options: Options) -> Result<Outcome, Failure> {
    let mut world = world::World::new(seed, options);
    match world.run() {
        Ok(()) => Ok(world.outcome()),
        Err(what) => {
            let what = format!(
                "{what}
{:?}",
                world.profile
            );
            Err(Failure {
                seed,
                at_ms: world.now / crate::core::types::MILLI,
                what,
            })
        }
    }
}

#[cfg(test)]
mod tests;
