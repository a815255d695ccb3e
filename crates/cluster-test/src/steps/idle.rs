//! Acceptance 8: memory and CPU of an idle cluster.

use crate::cluster::Cluster;
use crate::processes::usage;
use crate::shell::ensure;
use anyhow::Result;
use std::time::Duration;

/// Clock ticks in a second (USER_HZ, fixed at 100 for user space).
const TICKS: f64 = 100.0;

/// Measures for so many seconds and prints a table for `docs/benchmarks.md`.
pub fn measure(cluster: &Cluster, seconds: u64) -> Result<()> {
    cluster.wait_healthy(Duration::from_secs(60))?;
    // What start-up left to do is done by then.
    std::thread::sleep(Duration::from_secs(5));
    let before = usage(&cluster.name);
    std::thread::sleep(Duration::from_secs(seconds));
    let after = usage(&cluster.name);
    println!("| component | processes | Pss MB | CPU % of a core |\n|---|---|---|---|");
    let (mut memory, mut cpu) = (0.0, 0.0);
    for (component, now) in &after {
        let ticks = now
            .cpu_ticks
            .saturating_sub(before.get(component).map_or(0, |b| b.cpu_ticks));
        #[allow(clippy::cast_precision_loss)]
        let (mb, percent) = (
            now.pss_kib as f64 / 1024.0,
            ticks as f64 / TICKS / seconds as f64 * 100.0,
        );
        println!("| {component} | {} | {mb:.1} | {percent:.2} |", now.processes);
        if component.starts_with("hikube") {
            memory += mb;
            cpu += percent;
        }
    }
    println!("| **all of hikube** | | {memory:.1} | {cpu:.2} |");
    ensure(memory > 0.0, || "no process of hikube was found".into())?;
    // Far above the aim: catches a leak or a busy loop, not a noisy machine.
    ensure(memory < 900.0 && cpu < 60.0, || {
        format!("{memory:.0} MB and {cpu:.0} % of a core when idle")
    })
}
