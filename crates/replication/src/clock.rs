//! The core's clock: monotonic nanoseconds since the process first asked.

use crate::core::types::Nanos;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Now.
pub fn now() -> Nanos {
    static START: OnceLock<Instant> = OnceLock::new();
    // Never 0, which the core uses for "none".
    START.get_or_init(Instant::now).elapsed().as_nanos() as Nanos + 1
}

/// How long until `at`; zero when it has passed.
pub fn until(at: Nanos) -> Duration {
    Duration::from_nanos(at.saturating_sub(now()))
}
