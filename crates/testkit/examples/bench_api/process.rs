//! The server's process: its memory and processor time.

use anyhow::{Context, Result};
use std::process::Child;
use std::time::Duration;

/// Ticks of processor time in a second, the same on every Linux (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// Processor time of a process so far.
pub fn cpu(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("no name")?;
    // utime and stime are fields 14 and 15; the state, after the name, is field 3.
    let ticks = fields
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|f| f.parse::<u64>().ok());
    Ok(Duration::from_millis(
        ticks.sum::<u64>() * 1000 / TICKS_PER_SECOND,
    ))
}

/// A child that is killed when it is dropped.
pub struct Server(pub Child);

impl Server {
    /// Resident memory.
    pub fn resident_mb(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status
            .lines()
            .find(|l| l.starts_with("VmRSS:"))
            .context("no VmRSS")?;
        let kib: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
        Ok(kib / 1024.0)
    }

    /// Processor time so far.
    pub fn cpu(&self) -> Result<Duration> {
        cpu(self.0.id())
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        // Already gone is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
