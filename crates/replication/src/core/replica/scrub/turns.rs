//! How many replicas of a store may be scrubbed at a time. Each reads at its own rate, so it is their number that decides
//! what a store with hundreds of volumes spends on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Passes that read at a time, in one store: at full rate (8 MiB/s each) a small part of what any disk does.
const MAX_PASSES: usize = 2;

/// The turns of one store; clones share them.
#[derive(Clone, Debug)]
pub struct ScrubTurns(Arc<AtomicUsize>);

impl Default for ScrubTurns {
    fn default() -> ScrubTurns {
        ScrubTurns(Arc::new(AtomicUsize::new(MAX_PASSES)))
    }
}

impl ScrubTurns {
    /// A turn, if one is free.
    pub(super) fn take(&self) -> Option<ScrubTurn> {
        let less = |free: usize| free.checked_sub(1);
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        taken.is_ok().then(|| ScrubTurn(self.clone()))
    }
}

/// One of the passes; it ends with the value.
#[derive(Debug)]
pub(super) struct ScrubTurn(ScrubTurns);

impl Drop for ScrubTurn {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }
}
