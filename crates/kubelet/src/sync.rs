//! Locks that cannot fail.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks. A poisoned lock only means that a holder panicked between two assignments of plain values, which
/// every holder in this crate leaves consistent.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
