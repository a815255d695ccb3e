//! Running fio and reading its figures.

use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What fio is to do. Times are seconds, sizes bytes.
#[derive(Clone)]
pub struct Load {
    pub mode: &'static str,
    pub block: &'static str,
    pub depth: u32,
    pub seconds: u32,
    /// Not counted at the beginning.
    pub ramp_seconds: u32,
    pub size: u64,
    /// A flush after so many writes; 0: none.
    pub flush_every: u32,
    /// At most so many requests a second; 0: unlimited.
    pub rate: u32,
    /// Stop after so many bytes instead of after a time; 0: by time.
    pub amount: u64,
}

impl Load {
    pub fn new(mode: &'static str, block: &'static str, depth: u32, seconds: u32, size: u64) -> Self {
        Self {
            mode,
            block,
            depth,
            seconds,
            ramp_seconds: 1,
            size,
            flush_every: 0,
            rate: 0,
            amount: 0,
        }
    }

    pub fn flushing(self, every: u32) -> Self {
        Self {
            flush_every: every,
            ..self
        }
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> = [
            "--name=bench".to_owned(),
            format!("--rw={}", self.mode),
            format!("--bs={}", self.block),
            format!("--iodepth={}", self.depth),
            format!("--size={}", self.size),
            // Random content: neither side may win by compression or by recognizing zeroes.
            "--refill_buffers=1".into(),
            "--buffer_compress_percentage=0".into(),
            "--randrepeat=0".into(),
            "--norandommap=1".into(),
            "--random_generator=tausworthe64".into(),
            "--group_reporting=1".into(),
            "--output-format=json".into(),
        ]
        .into();
        if self.rate > 0 {
            arguments.push(format!("--rate_iops={}", self.rate));
        }
        if self.amount > 0 {
            arguments.push(format!("--io_size={}", self.amount));
        } else {
            arguments.push("--time_based=1".into());
            arguments.push(format!("--ramp_time={}", self.ramp_seconds));
            arguments.push(format!("--runtime={}", self.seconds));
        }
        arguments
    }
}

/// Figures of one run, all jobs together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub iops: f64,
    pub bytes_per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// Median of the flushes.
    pub flush_p50_us: f64,
    /// CPU of engine and stores for one request.
    pub cpu_us: f64,
}

/// fio against an NBD server.
pub fn start_nbd(uri: &str, load: &Load) -> Child {
    let mut arguments = load.arguments();
    arguments.extend(["--ioengine=nbd".into(), format!("--uri={uri}")]);
    if load.flush_every > 0 {
        // NBD has one kind of flush, and fio's engine calls it fsync.
        arguments.push(format!("--fsync={}", load.flush_every));
    }
    start(&arguments)
}

/// fio with so many jobs at once, each on a preallocated file of its own in `dir`, past the page cache.
pub fn start_raw(dir: &Path, jobs: u32, load: &Load) -> Child {
    let mut arguments = load.arguments();
    arguments.extend([
        "--ioengine=libaio".into(),
        "--direct=1".into(),
        format!("--directory={}", dir.display()),
        "--filename_format=raw.$jobnum".into(),
        format!("--numjobs={jobs}"),
        "--overwrite=1".into(),
    ]);
    if load.flush_every > 0 {
        arguments.push(format!("--fdatasync={}", load.flush_every));
    }
    start(&arguments)
}

fn start(arguments: &[String]) -> Child {
    Command::new("fio")
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("fio is installed")
}

/// Waits for the end of a run.
pub fn finish(child: Child) -> Figures {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    // What fio complains about comes before the JSON.
    let json = text.find('{').map(|at| &text[at..]).unwrap_or_default();
    let report: Value = serde_json::from_str(json).unwrap_or_default();
    // One that was told to stop reports as well, with an exit status of its own.
    assert_eq!(report["jobs"][0]["error"], 0, "fio: {text} {complained}");
    read(&report)
}

fn read(report: &Value) -> Figures {
    let job = &report["jobs"][0];
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let writes = number(&job["write"]["total_ios"]) > 0.0;
    let side = if writes { &job["write"] } else { &job["read"] };
    let percentile = |value: &Value, which: &str| number(&value["percentile"][which]) / 1000.0;
    Figures {
        iops: number(&side["iops"]),
        bytes_per_second: number(&side["bw_bytes"]),
        p50_us: percentile(&side["clat_ns"], "50.000000"),
        p99_us: percentile(&side["clat_ns"], "99.000000"),
        flush_p50_us: percentile(&job["sync"]["lat_ns"], "50.000000"),
        cpu_us: 0.0,
    }
}
