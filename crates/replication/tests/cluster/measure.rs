//! Measuring how long something takes on a machine that is busy with other things: a clock from which the time is taken
//! out in which a thread that wanted to run did not get to, and the best and the median of some rounds. A product that
//! waits for a timeout is slow in each round; a busy machine is not.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How often the clock looks; what comes later than [`LATE`] is a stall.
const TICK: Duration = Duration::from_millis(2);
const LATE: Duration = Duration::from_millis(2);

/// Notes when this process did not get to run.
#[derive(Clone)]
pub struct Stalls(Arc<Mutex<Vec<(Instant, Duration)>>>);

impl Stalls {
    pub fn watch() -> Stalls {
        let stalls = Stalls(Arc::default());
        let shared = Arc::downgrade(&stalls.0);
        std::thread::spawn(move || {
            while let Some(list) = shared.upgrade() {
                let begun = Instant::now();
                std::thread::sleep(TICK);
                let late = begun.elapsed().saturating_sub(TICK);
                if late > LATE {
                    list.lock().unwrap().push((begun + TICK, late));
                }
            }
        });
        stalls
    }

    /// The time from `begun` to `ended` without the stalls in it.
    pub fn net(&self, begun: Instant, ended: Instant) -> Duration {
        let inside = |(at, length): &(Instant, Duration)| {
            let end = (*at + *length).min(ended);
            end.saturating_duration_since((*at).max(begun))
        };
        let stalled: Duration = self.0.lock().unwrap().iter().map(inside).sum();
        (ended - begun).saturating_sub(stalled)
    }
}

/// Insists that the best of the rounds is below `limit`, and the median below twice that.
pub fn within(what: &str, mut rounds: Vec<Duration>, limit: Duration) {
    rounds.sort();
    let (best, median) = (rounds[0], rounds[rounds.len() / 2]);
    println!("{what}: best {best:?}, median {median:?} of {}", rounds.len());
    assert!(best <= limit, "{what}: the best of {rounds:?} is above {limit:?}");
    assert!(
        median <= 2 * limit,
        "{what}: the median of {rounds:?} is above twice {limit:?}"
    );
}
