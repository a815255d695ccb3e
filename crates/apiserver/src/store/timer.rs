//! A timer for parts of a millisecond: the runtime's own rounds up to whole ones.

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A timer that is set again and again.
pub struct ShortTimer(AsyncFd<OwnedFd>);

impl ShortTimer {
    /// Made within a runtime.
    pub fn new() -> io::Result<Self> {
        let fd = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        // SAFETY: the `AsyncFd` owns the descriptor, which nobody else knows, so it stays open and the same.
        let timer = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Self(timer.map_err(io::Error::from)?))
    }

    /// Sets it; an earlier setting is forgotten. `after` is below a second.
    pub fn set(&self, after: Duration) -> io::Result<()> {
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let once = Itimerspec {
            it_interval: zero,
            it_value: Timespec {
                tv_sec: 0,
                tv_nsec: i64::from(after.subsec_nanos()),
            },
        };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    /// Waits until it has gone off since it was set.
    pub async fn wait(&self) -> io::Result<()> {
        let mut count = [0u8; 8];
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut count)?)) {
                Ok(read) => return read.map(drop),
                // It had gone off before it was set anew.
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[tokio::test]
    async fn it_goes_off_once_for_each_setting() {
        let timer = ShortTimer::new().unwrap();
        for _ in 0..3 {
            let started = Instant::now();
            timer.set(Duration::from_micros(300)).unwrap();
            timer.wait().await.unwrap();
            assert!(started.elapsed() >= Duration::from_micros(300));
        }
        // One that went off unseen does not count for the next.
        timer.set(Duration::from_micros(1)).unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        let started = Instant::now();
        timer.set(Duration::from_millis(20)).unwrap();
        timer.wait().await.unwrap();
        assert!(started.elapsed() >= Duration::from_millis(20));
    }
}
