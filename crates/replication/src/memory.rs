//! Gives memory back to the system. The allocator keeps what a burst of I/O or the replay of journals needed, in an
//! arena for each thread; an idle process should be small again.

use crate::clock;
use crate::core::types::{Nanos, SECOND};
use std::sync::atomic::{AtomicU64, Ordering};

/// Arenas of the allocator: as many as threads do I/O at the same time on a small machine.
const ARENAS: libc::c_int = 2;
/// Allocations of at least this size are returned when they are freed, bytes: replayed journal segments, not what
/// ordinary I/O needs. A message of 1 MiB that is mapped and unmapped each time costs more in page faults than
/// everything else that is done with it.
const LARGE_BYTES: libc::c_int = 4 << 20;
/// So much may be free at the end of an arena before it is given back while there is work, bytes. With glibc's 128 KiB
/// each slice of write-back grew and shrank the heap.
const KEEP_BYTES: libc::c_int = 32 << 20;
/// Trimming walks the heap, so it is done at most so often.
const PAUSE: Nanos = 5 * SECOND;

/// To be called at the start of a process.
pub fn configure() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only sets parameters of the allocator; it is called before threads that matter exist, and
    // is safe at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEEP_BYTES);
    }
}

/// To be called when work is over for now.
pub fn idle() {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let (now, last) = (clock::now(), LAST.load(Ordering::Relaxed));
    if now < last + PAUSE && last != 0 {
        return;
    }
    // One of several threads that become idle together is enough.
    if LAST
        .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
        .is_ok()
    {
        #[cfg(target_env = "gnu")]
        // SAFETY: malloc_trim returns unused pages of the heap; it takes the allocator's locks itself.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}
