//! Figures of the process, by the names that every Prometheus client has for them.

use std::fmt::Write;

/// Ticks of a second in `/proc`, the same on all Linux machines.
const TICKS: f64 = 100.0;
/// Bytes of a page; the machines that this runs on have no others.
const PAGE_BYTES: u64 = 4096;

/// What `/proc` says of this process; nothing where it cannot be read.
pub(super) fn write(out: &mut String) -> std::fmt::Result {
    let Some(figures) = read() else { return Ok(()) };
    let mut put = |name: &str, kind: &str, value: f64| writeln!(out, "# TYPE {name} {kind}\n{name} {value}");
    put("process_cpu_seconds_total", "counter", figures.cpu_seconds)?;
    put("process_resident_memory_bytes", "gauge", figures.resident_bytes)?;
    put("process_virtual_memory_bytes", "gauge", figures.virtual_bytes)?;
    put("process_start_time_seconds", "gauge", figures.start_seconds)?;
    put("process_open_fds", "gauge", figures.open_files)?;
    put("process_max_fds", "gauge", figures.most_files)
}

struct Figures {
    cpu_seconds: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
    start_seconds: f64,
    open_files: f64,
    most_files: f64,
}

fn read() -> Option<Figures> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program is in parentheses, and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // Numbered as in proc(5), where the field after the name is the third.
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let boot = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = boot
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let most = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    Some(Figures {
        cpu_seconds: (field(14)? + field(15)?) / TICKS,
        resident_bytes: field(24)? * PAGE_BYTES as f64,
        virtual_bytes: field(23)?,
        start_seconds: boot + field(22)? / TICKS,
        open_files: std::fs::read_dir("/proc/self/fd").ok()?.count() as f64,
        most_files: most.split_whitespace().next()?.parse().unwrap_or(f64::INFINITY),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_figures() {
        let figures = read().unwrap();
        assert!(figures.resident_bytes > 1e5 && figures.virtual_bytes >= figures.resident_bytes);
        assert!(figures.open_files >= 3.0 && figures.most_files >= figures.open_files);
        assert!(figures.cpu_seconds >= 0.0 && figures.start_seconds > 1.7e9);
        let mut text = String::new();
        write(&mut text).unwrap();
        assert!(text.contains("\nprocess_start_time_seconds "));
    }
}
