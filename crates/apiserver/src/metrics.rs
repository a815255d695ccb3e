//! Figures for Prometheus.

use crate::store::Store;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// Upper bounds of the latency histogram, in seconds.
const BUCKETS: [f64; 8] = [0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0];

#[derive(Default)]
struct Requests {
    by_code: BTreeMap<u16, u64>,
    buckets: [u64; BUCKETS.len()],
    count: u64,
    seconds: f64,
}

/// Counters of requests.
#[derive(Default)]
pub struct Metrics {
    requests: parking_lot::Mutex<BTreeMap<(String, String), Requests>>,
    /// Requests under way, long-running ones included.
    pub in_flight: AtomicI64,
}

impl Metrics {
    /// Notes a finished request. Verbs and resources are known ones only, so their number is bounded.
    pub fn observe(&self, verb: &str, resource: &str, code: u16, took: Duration) {
        let mut requests = self.requests.lock();
        let entry = requests
            .entry((verb.to_owned(), resource.to_owned()))
            .or_default();
        *entry.by_code.entry(code).or_default() += 1;
        entry.count += 1;
        let seconds = took.as_secs_f64();
        entry.seconds += seconds;
        if let Some(bucket) = BUCKETS.iter().position(|limit| seconds <= *limit) {
            entry.buckets[bucket] += 1;
        }
    }

    /// The text that Prometheus reads.
    pub fn render(&self, store: &Store) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out, store);
        out
    }

    fn write(&self, out: &mut String, store: &Store) -> std::fmt::Result {
        writeln!(out, "# TYPE apiserver_request_total counter")?;
        let requests = self.requests.lock();
        for ((verb, resource), entry) in requests.iter() {
            for (code, count) in &entry.by_code {
                writeln!(
                    out,
                    "apiserver_request_total{{verb=\"{verb}\",resource=\"{resource}\",code=\"{code}\"}} {count}"
                )?;
            }
        }
        writeln!(out, "# TYPE apiserver_request_duration_seconds histogram")?;
        for ((verb, resource), entry) in requests.iter() {
            let labels = format!("verb=\"{verb}\",resource=\"{resource}\"");
            let name = "apiserver_request_duration_seconds";
            let mut sum = 0;
            for (limit, count) in BUCKETS.iter().zip(entry.buckets) {
                sum += count;
                writeln!(out, "{name}_bucket{{{labels},le=\"{limit}\"}} {sum}")?;
            }
            writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", entry.count)?;
            writeln!(out, "{name}_sum{{{labels}}} {}", entry.seconds)?;
            writeln!(out, "{name}_count{{{labels}}} {}", entry.count)?;
        }
        drop(requests);
        writeln!(out, "# TYPE apiserver_current_inflight_requests gauge")?;
        writeln!(
            out,
            "apiserver_current_inflight_requests {}",
            self.in_flight.load(Ordering::Relaxed)
        )?;
        writeln!(out, "# TYPE apiserver_storage_objects gauge")?;
        for (prefix, count) in store.counts() {
            let resource = prefix.trim_start_matches("/registry/");
            writeln!(
                out,
                "apiserver_storage_objects{{resource=\"{resource}\"}} {count}"
            )?;
        }
        writeln!(out, "# TYPE hikube_watch_cache_revision gauge")?;
        writeln!(out, "hikube_watch_cache_revision {}", store.revision())
    }
}
