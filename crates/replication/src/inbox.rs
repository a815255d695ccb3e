//! What waits for a state machine that has a thread of its own, but that whoever brings it work may also drive.
//!
//! Waking a thread costs more than most of the work. So what comes is put here, and the thread that brought it locks the
//! machine, if it is free, and does the work itself: [`drive`]. What may take long is posted for the own thread.
//!
//! Nothing is forgotten: a helper puts first and tries the lock afterwards, so when it fails, somebody else holds the
//! lock after the input was put, and whoever lets go of the lock looks here once more.

use crate::clock;
use crate::core::types::Nanos;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::time::Duration;

/// Rounds that a helper works for others before it leaves the rest to the own thread.
const HELP_ROUNDS: usize = 4;

struct State<I> {
    inputs: VecDeque<I>,
    /// Inputs from the front on up to the last one that only the own thread may take.
    posted: usize,
    closed: bool,
    /// The thread sleeps until then; `None`: it does not sleep.
    asleep: Option<Nanos>,
    /// The thread shall look, whether there are inputs or not.
    nudged: bool,
    /// Something came since the thread last asked.
    busy: bool,
}

/// The inputs and the sleep of the own thread.
pub struct Inbox<I> {
    state: Mutex<State<I>>,
    arrived: Condvar,
}

impl<I> Default for Inbox<I> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                inputs: VecDeque::new(),
                posted: 0,
                closed: false,
                asleep: None,
                nudged: false,
                busy: false,
            }),
            arrived: Condvar::new(),
        }
    }
}

impl<I> Inbox<I> {
    /// Puts an input without waking anybody: [`drive`] must follow, or [`Inbox::nudge`]. Gives it back when closed.
    pub fn put(&self, input: I) -> Result<(), I> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(input);
        }
        state.inputs.push_back(input);
        state.busy = true;
        Ok(())
    }

    /// Puts an input for the own thread and wakes it. Gives it back when closed.
    pub fn post(&self, input: I) -> Result<(), I> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(input);
        }
        state.inputs.push_back(input);
        state.posted = state.inputs.len();
        state.busy = true;
        if state.asleep.is_some() {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Makes the own thread look.
    pub fn nudge(&self) {
        self.wake_by(0);
    }

    /// Makes the own thread look at that time or earlier.
    pub fn wake_by(&self, at: Nanos) {
        let mut state = self.state.lock();
        match state.asleep {
            Some(until) if until <= at => {}
            Some(_) => {
                state.nudged = true;
                self.arrived.notify_one();
            }
            None => state.nudged = true,
        }
    }

    /// Waits, as the own thread, for inputs, a nudge, or `until`. Whether there is something to do other than that the
    /// time has come; a nudge is used up by it.
    pub fn wait(&self, until: Option<Nanos>) -> bool {
        let mut state = self.state.lock();
        while state.inputs.is_empty() && !state.nudged && !state.closed {
            state.asleep = Some(until.unwrap_or(Nanos::MAX));
            match until {
                None => self.arrived.wait(&mut state),
                Some(at) => {
                    if self.arrived.wait_for(&mut state, clock::until(at)).timed_out() {
                        break;
                    }
                }
            }
        }
        state.asleep = None;
        // One that came right when the time did counts, too.
        let nudged = std::mem::take(&mut state.nudged);
        nudged || state.closed || !state.inputs.is_empty()
    }

    /// Waits, as the own thread, for work or until `wake`; gives memory back once nothing has come for `idle`, unless `wake` is
    /// before that. To be called
    /// after [`Inbox::is_quiet`], with the machine free.
    pub fn rest(&self, wake: Option<Nanos>, idle: Duration) {
        let idle_at = clock::now() + idle.as_nanos() as u64;
        if wake.is_none_or(|at| at > idle_at) {
            if self.wait(Some(idle_at)) || self.was_busy() {
                return;
            }
            crate::memory::idle();
        }
        self.wait(wake);
    }

    /// Takes up to `max` inputs, as the own thread, which must hold the machine: a helper would overtake it otherwise.
    pub fn take(&self, max: usize) -> Vec<I> {
        let mut state = self.state.lock();
        let count = max.min(state.inputs.len());
        state.posted = state.posted.saturating_sub(count);
        state.inputs.drain(..count).collect()
    }

    /// Takes up to `max` inputs, as a helper: nothing while something is there for the own thread.
    fn take_to_help(&self, max: usize) -> Vec<I> {
        let mut state = self.state.lock();
        if state.posted > 0 {
            return Vec::new();
        }
        let count = max.min(state.inputs.len());
        state.inputs.drain(..count).collect()
    }

    /// Nothing that a helper could take.
    fn needs_no_help(&self) -> bool {
        let state = self.state.lock();
        state.posted > 0 || state.inputs.is_empty()
    }

    /// Whether nothing waits. To be asked by the own thread while it still holds the machine: what comes from now on is
    /// noticed by [`Inbox::rest`], even if a helper has dealt with it by then and changed when the thread is needed.
    pub fn is_quiet(&self) -> bool {
        let mut state = self.state.lock();
        state.busy = false;
        state.inputs.is_empty()
    }

    /// Whether anything came since the last call.
    fn was_busy(&self) -> bool {
        std::mem::take(&mut self.state.lock().busy)
    }

    /// Refuses everything from now on; what was there comes back.
    pub fn close(&self) -> Vec<I> {
        let mut state = self.state.lock();
        state.closed = true;
        state.posted = 0;
        self.arrived.notify_one();
        state.inputs.drain(..).collect()
    }
}

/// A state machine behind a lock.
pub trait Machine {
    /// What comes to it.
    type Input;
    /// Inputs in one turn.
    const BATCH: usize;

    /// Whether its next turn is certain not to take long.
    fn lets_help(&self) -> bool;
    /// One turn on a helper's thread; when the own thread is needed next, if ever.
    fn help(&mut self, inputs: Vec<Self::Input>) -> Option<Nanos>;
}

/// Works off what is in the inbox, if the machine is free and lets itself be helped; else sees to it that its own thread
/// does.
pub fn drive<M: Machine>(machine: &Mutex<M>, inbox: &Inbox<M::Input>) {
    for _ in 0..HELP_ROUNDS {
        let Some(mut held) = machine.try_lock() else {
            return;
        };
        if !held.lets_help() {
            drop(held);
            return inbox.nudge();
        }
        let inputs = inbox.take_to_help(M::BATCH);
        let wake = if inputs.is_empty() {
            None
        } else {
            held.help(inputs)
        };
        drop(held);
        if let Some(at) = wake {
            inbox.wake_by(at);
        }
        // What is posted has woken the own thread, which waits for the lock.
        if inbox.needs_no_help() {
            return;
        }
    }
    inbox.nudge();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Adds up what comes; helped turns and own turns alike.
    struct Sum {
        sum: Arc<AtomicU64>,
        last: [u64; 4],
        free: bool,
    }

    impl Sum {
        fn turn(&mut self, inputs: Vec<(usize, u64)>) {
            for (from, number) in inputs {
                assert_eq!(
                    number,
                    self.last[from] + 1,
                    "inputs of one thread keep their order"
                );
                self.last[from] = number;
                self.sum.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    impl Machine for Sum {
        type Input = (usize, u64);
        const BATCH: usize = 3;

        fn lets_help(&self) -> bool {
            self.free
        }

        fn help(&mut self, inputs: Vec<(usize, u64)>) -> Option<Nanos> {
            self.turn(inputs);
            None
        }
    }

    fn run(free: bool, post_every: u64) {
        const EACH: u64 = 20_000;
        let sum = Arc::new(AtomicU64::new(0));
        let machine = Mutex::new(Sum {
            sum: sum.clone(),
            last: [0; 4],
            free,
        });
        let inbox = Inbox::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // No timeout: an input that nobody cares for would hang the test.
                while sum.load(Ordering::Relaxed) < 4 * EACH {
                    // Locked first: whoever takes inputs holds the machine, or a helper would overtake them.
                    let mut held = machine.lock();
                    let inputs = inbox.take(Sum::BATCH);
                    let idle = inputs.is_empty();
                    held.turn(inputs);
                    drop(held);
                    if idle && sum.load(Ordering::Relaxed) < 4 * EACH {
                        inbox.wait(None);
                    }
                }
            });
            let workers: Vec<_> = (0..4)
                .map(|from| {
                    let (machine, inbox) = (&machine, &inbox);
                    scope.spawn(move || {
                        for number in 1..=EACH {
                            if number % post_every == 0 {
                                inbox.post((from, number)).unwrap();
                            } else {
                                inbox.put((from, number)).unwrap();
                                drive(machine, inbox);
                            }
                        }
                    })
                })
                .collect();
            for worker in workers {
                worker.join().unwrap();
            }
            // Everything that was put is done by somebody, without any further input.
            let start = std::time::Instant::now();
            while sum.load(Ordering::Relaxed) < 4 * EACH {
                assert!(
                    start.elapsed() < Duration::from_secs(20),
                    "an input was forgotten"
                );
                std::thread::sleep(Duration::from_millis(1));
            }
            inbox.close();
        });
    }

    #[test]
    fn no_input_is_forgotten_or_overtaken() {
        run(true, u64::MAX);
        run(true, 7);
        run(false, u64::MAX);
    }

    #[test]
    fn the_thread_wakes_in_time() {
        let inbox: Arc<Inbox<()>> = Arc::default();
        let sleeper = std::thread::spawn({
            let inbox = inbox.clone();
            move || {
                let start = clock::now();
                inbox.wait(None);
                clock::now() - start
            }
        });
        std::thread::sleep(Duration::from_millis(20));
        inbox.wake_by(clock::now() + 1_000_000);
        assert!(sleeper.join().unwrap() < 5_000_000_000);
        // A nudge that comes before the sleep counts, also if there is no time left to sleep.
        inbox.nudge();
        assert!(inbox.wait(None));
        inbox.nudge();
        assert!(inbox.wait(Some(0)));
        assert!(!inbox.wait(Some(0)), "and counts once");
        // What came and was dealt with by a helper before the rest began: its deadline must be asked for.
        assert!(inbox.is_quiet());
        assert!(inbox.put(()).is_ok());
        assert_eq!(inbox.take(1).len(), 1);
        let started = clock::now();
        inbox.rest(None, Duration::ZERO);
        assert!(clock::now() - started < 5_000_000_000);
        // Whoever rests does not give up because of the time when there was a reason.
        inbox.nudge();
        inbox.rest(None, Duration::ZERO);
        inbox.close();
        assert!(inbox.wait(Some(0)), "being closed is a reason");
        assert!(inbox.put(()).is_err() && inbox.post(()).is_err());
    }
}
