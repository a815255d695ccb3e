//! A writer that knows what was acknowledged to it: numbered blocks, each written and synced before the next.

use super::measure::Stalls;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub const BLOCK: usize = 4096;
/// Blocks that are written in turn.
pub const SLOTS: u64 = 512;

/// What block `number` contains.
pub fn content(number: u64) -> Vec<u8> {
    let mut block = vec![(number % 251) as u8; BLOCK];
    block[..8].copy_from_slice(&number.to_le_bytes());
    block
}

pub struct Writer {
    stop: Arc<AtomicBool>,
    /// Blocks acknowledged: 1 to this.
    acknowledged: Arc<AtomicU64>,
    /// When each was.
    times: Arc<Mutex<Vec<Instant>>>,
    thread: Option<std::thread::JoinHandle<std::io::Result<()>>>,
}

impl Writer {
    /// Goes on from block `after` + 1.
    pub fn start(device: &str, after: u64) -> Writer {
        let file = File::options().write(true).open(device).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(after));
        let times: Arc<Mutex<Vec<Instant>>> = Arc::default();
        let shared = (stop.clone(), acknowledged.clone(), times.clone());
        let thread = std::thread::spawn(move || {
            let (stop, acknowledged, times) = shared;
            let mut number = after;
            while !stop.load(Ordering::SeqCst) {
                number += 1;
                file.write_all_at(&content(number), number % SLOTS * BLOCK as u64)?;
                file.sync_data()?;
                times.lock().unwrap().push(Instant::now());
                acknowledged.store(number, Ordering::SeqCst);
                // The machine is for others too.
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(())
        });
        Writer {
            stop,
            acknowledged,
            times,
            thread: Some(thread),
        }
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// When something was acknowledged last.
    pub fn last(&self) -> Option<Instant> {
        self.times.lock().unwrap().last().copied()
    }

    /// The longest time without an acknowledgement between these moments, stalls of the machine taken out.
    pub fn longest_gap(&self, from: Instant, to: Instant, stalls: &Stalls) -> Duration {
        let times = self.times.lock().unwrap();
        let inside = times.iter().copied().filter(|t| *t > from && *t < to);
        let points: Vec<Instant> = std::iter::once(from).chain(inside).chain([to]).collect();
        let gaps = points.windows(2).map(|pair| stalls.net(pair[0], pair[1]));
        gaps.max().unwrap_or_default()
    }

    /// Stops after what is under way; the number of the last block, and whether it was written without an error.
    pub fn stop(mut self) -> (u64, std::io::Result<()>) {
        self.stop.store(true, Ordering::SeqCst);
        let result = self.thread.take().unwrap().join().unwrap();
        (self.acknowledged(), result)
    }
}

/// Everything acknowledged up to `last` is there, or something newer of the same writer.
pub fn check(device: &str, last: u64) {
    super::run("blockdev", &["--flushbufs", device]);
    let file = File::open(device).unwrap();
    for number in last.saturating_sub(SLOTS - 1).max(1)..=last {
        let mut block = vec![0; BLOCK];
        file.read_exact_at(&mut block, number % SLOTS * BLOCK as u64)
            .unwrap();
        let found = u64::from_le_bytes(block[..8].try_into().unwrap());
        assert!(
            found >= number && found % SLOTS == number % SLOTS && block == content(found),
            "block {number} was acknowledged, and {found} is there"
        );
    }
}
