//! Figures for Prometheus, by upstream's names where upstream has the same figure.

mod process;
mod storage;

use crate::http::request::RequestInfo;
use crate::server::Server;
use parking_lot::{Mutex, RwLock};
use schema::Resource;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
pub use storage::{Storage, TimedStore};

/// Upper bounds of the latency histogram, in seconds; upstream's.
const BUCKETS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];

/// A histogram over given bounds.
#[derive(Clone, Default)]
struct Histogram {
    /// Observations by the bound that they fall below; one more for those above all.
    counts: Vec<u64>,
    seconds: f64,
}

impl Histogram {
    fn observe(&mut self, bounds: &[f64], took: Duration) {
        let seconds = took.as_secs_f64();
        self.counts.resize(bounds.len() + 1, 0);
        let bucket = bounds.iter().position(|limit| seconds <= *limit);
        self.counts[bucket.unwrap_or(bounds.len())] += 1;
        self.seconds += seconds;
    }

    fn add(&mut self, other: &Self) {
        self.counts.resize(self.counts.len().max(other.counts.len()), 0);
        for (sum, count) in self.counts.iter_mut().zip(&other.counts) {
            *sum += count;
        }
        self.seconds += other.seconds;
    }

    fn write(&self, out: &mut String, name: &str, labels: &str, bounds: &[f64]) -> std::fmt::Result {
        let mut sum = 0;
        for (limit, count) in bounds.iter().zip(&self.counts) {
            sum += count;
            writeln!(out, "{name}_bucket{{{labels},le=\"{limit}\"}} {sum}")?;
        }
        let all: u64 = self.counts.iter().sum();
        writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {all}")?;
        writeln!(out, "{name}_sum{{{labels}}} {}", self.seconds)?;
        writeln!(out, "{name}_count{{{labels}}} {all}")
    }
}

/// What requests are counted by. Only known resources and subresources are told apart, so the number is bounded.
#[derive(Clone, Copy)]
pub struct Kind {
    resource: Option<&'static Resource>,
    subresource: &'static str,
    verb: &'static str,
    scope: &'static str,
    dry_run: bool,
}

/// [`Kind`], resources by their address.
type Key = (usize, &'static str, &'static str, &'static str, bool);

impl Kind {
    /// What a request is counted as.
    pub fn new(
        info: &RequestInfo,
        resource: Option<&'static Resource>,
        applies: bool,
        dry_run: bool,
    ) -> Self {
        let subresource = resource
            .and_then(|resource| resource.subresource(&info.subresource))
            .map_or("", |sub| sub.name.as_ref());
        let verb = match info.verb.as_str() {
            _ if matches!(subresource, "attach" | "exec" | "portforward" | "proxy") => "CONNECT",
            "get" => "GET",
            "list" => "LIST",
            "watch" => "WATCH",
            "create" | "post" => "POST",
            "update" | "put" => "PUT",
            "patch" if applies => "APPLY",
            "patch" => "PATCH",
            "delete" => "DELETE",
            "deletecollection" => "DELETECOLLECTION",
            _ => "other",
        };
        let scope = match resource {
            None => "",
            Some(_) if !info.name.is_empty() || verb == "POST" => "resource",
            Some(_) if !info.namespace.is_empty() => "namespace",
            Some(_) => "cluster",
        };
        Self {
            resource,
            subresource,
            verb,
            scope,
            dry_run,
        }
    }

    fn key(&self) -> Key {
        let address = self
            .resource
            .map_or(0, |resource| std::ptr::from_ref(resource) as usize);
        (address, self.subresource, self.verb, self.scope, self.dry_run)
    }

    fn labels(&self) -> String {
        let of = |part: fn(&'static Resource) -> &'static str| self.resource.map_or("", part);
        format!(
            "component=\"apiserver\",dry_run=\"{}\",group=\"{}\",resource=\"{}\",scope=\"{}\",subresource=\"{}\",verb=\"{}\",version=\"{}\"",
            if self.dry_run { "All" } else { "" },
            of(|r| r.group.as_ref()),
            of(|r| r.plural.as_ref()),
            self.scope,
            self.subresource,
            self.verb,
            of(|r| r.version.as_ref()),
        )
    }
}

/// Requests of one kind.
#[derive(Clone, Default)]
struct Requests {
    by_code: BTreeMap<u16, u64>,
    latency: Histogram,
    /// Watches and streams under way.
    running: i64,
}

type Series = (Kind, Mutex<Requests>);

/// Counters of requests.
#[derive(Default)]
pub struct Metrics {
    requests: RwLock<HashMap<Key, Arc<Series>>>,
    /// Requests to the state store.
    pub storage: Arc<Storage>,
}

/// A long-running request, until it is dropped.
pub struct Running(Arc<Series>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.1.lock().running -= 1;
    }
}

impl Metrics {
    fn series(&self, kind: Kind) -> Arc<Series> {
        let key = kind.key();
        if let Some(series) = self.requests.read().get(&key) {
            return series.clone();
        }
        let mut requests = self.requests.write();
        let series = requests
            .entry(key)
            .or_insert_with(|| Arc::new((kind, Mutex::default())));
        series.clone()
    }

    /// Notes an answered request.
    pub fn observe(&self, kind: Kind, code: u16, took: Duration) {
        let series = self.series(kind);
        let mut requests = series.1.lock();
        *requests.by_code.entry(code).or_default() += 1;
        requests.latency.observe(&BUCKETS, took);
    }

    /// Notes that a long-running request begins.
    pub fn begin(&self, kind: Kind) -> Running {
        let series = self.series(kind);
        series.1.lock().running += 1;
        Running(series)
    }

    /// The text that Prometheus reads.
    pub fn render(&self, server: &Server) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out, server);
        out
    }

    /// All series by their labels: a custom resource that was defined anew has the labels that it had before.
    fn by_labels(&self) -> BTreeMap<String, Requests> {
        let mut found: BTreeMap<String, Requests> = BTreeMap::new();
        for series in self.requests.read().values() {
            let (kind, requests) = &**series;
            let requests = requests.lock();
            let sum = found.entry(kind.labels()).or_default();
            for (code, count) in &requests.by_code {
                *sum.by_code.entry(*code).or_default() += count;
            }
            sum.latency.add(&requests.latency);
            sum.running += requests.running;
        }
        found
    }

    fn write(&self, out: &mut String, server: &Server) -> std::fmt::Result {
        let all = self.by_labels();
        writeln!(out, "# TYPE apiserver_request_total counter")?;
        for (labels, requests) in &all {
            for (code, count) in &requests.by_code {
                writeln!(out, "apiserver_request_total{{code=\"{code}\",{labels}}} {count}")?;
            }
        }
        let name = "apiserver_request_duration_seconds";
        writeln!(out, "# TYPE {name} histogram")?;
        for (labels, requests) in all.iter().filter(|(_, requests)| !requests.by_code.is_empty()) {
            requests.latency.write(out, name, labels, &BUCKETS)?;
        }
        writeln!(out, "# TYPE apiserver_longrunning_requests gauge")?;
        for (labels, requests) in &all {
            if labels.contains("verb=\"WATCH\"") || requests.running > 0 {
                writeln!(
                    out,
                    "apiserver_longrunning_requests{{{labels}}} {}",
                    requests.running
                )?;
            }
        }
        let usage = server.limits.usage();
        writeln!(out, "# TYPE apiserver_current_inflight_requests gauge")?;
        for class in &usage {
            let (kind, count) = (class.kind, class.in_flight);
            writeln!(
                out,
                "apiserver_current_inflight_requests{{request_kind=\"{kind}\"}} {count}"
            )?;
        }
        writeln!(out, "# TYPE apiserver_dropped_requests_total counter")?;
        for class in &usage {
            let (kind, count) = (class.kind, class.refused);
            writeln!(
                out,
                "apiserver_dropped_requests_total{{request_kind=\"{kind}\"}} {count}"
            )?;
        }
        let (bytes, refused) = server.limits.bodies();
        writeln!(out, "# TYPE hikube_large_bodies_bytes gauge")?;
        writeln!(out, "hikube_large_bodies_bytes {bytes}")?;
        writeln!(out, "# TYPE hikube_large_bodies_refused_total counter")?;
        writeln!(out, "hikube_large_bodies_refused_total {refused}")?;
        self.storage.write(out)?;
        writeln!(out, "# TYPE apiserver_storage_objects gauge")?;
        for (prefix, count) in server.store.counts() {
            let resource = prefix.trim_start_matches("/registry/");
            writeln!(
                out,
                "apiserver_storage_objects{{resource=\"{resource}\"}} {count}"
            )?;
        }
        writeln!(out, "# TYPE hikube_watch_cache_revision gauge")?;
        writeln!(out, "hikube_watch_cache_revision {}", server.store.revision())?;
        process::write(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::query::Query;

    fn kind(method: http::Method, path: &str) -> Kind {
        let info = RequestInfo::parse(&method, path, &Query::parse(""));
        Kind::new(&info, info.lookup(), false, false)
    }

    #[test]
    fn requests_have_upstreams_labels() {
        let metrics = Metrics::default();
        let one = kind(
            http::Method::PUT,
            "/apis/apps/v1/namespaces/a/deployments/b/status",
        );
        metrics.observe(one, 200, Duration::from_millis(30));
        metrics.observe(one, 200, Duration::from_secs(100));
        metrics.observe(one, 409, Duration::from_millis(1));
        let all = metrics.by_labels();
        let labels = "component=\"apiserver\",dry_run=\"\",group=\"apps\",resource=\"deployments\",scope=\"resource\",subresource=\"status\",verb=\"PUT\",version=\"v1\"";
        let requests = &all[labels];
        assert_eq!(requests.by_code, BTreeMap::from([(200, 2), (409, 1)]));
        let mut text = String::new();
        requests
            .latency
            .write(&mut text, "x", "a=\"b\"", &BUCKETS)
            .unwrap();
        assert!(text.contains("x_bucket{a=\"b\",le=\"0.025\"} 1\n"), "{text}");
        assert!(text.contains("x_bucket{a=\"b\",le=\"60\"} 2\n"), "{text}");
        assert!(
            text.contains("x_bucket{a=\"b\",le=\"+Inf\"} 3\nx_sum{a=\"b\"} 100.031\nx_count{a=\"b\"} 3\n"),
            "{text}"
        );
    }

    #[test]
    fn long_running_requests_are_counted_while_they_run() {
        let metrics = Metrics::default();
        let watch = kind(http::Method::GET, "/api/v1/watch/pods");
        let running = (metrics.begin(watch), metrics.begin(watch));
        let count = || {
            metrics
                .by_labels()
                .values()
                .map(|requests| requests.running)
                .sum::<i64>()
        };
        assert_eq!(count(), 2);
        drop(running);
        assert_eq!(count(), 0);
    }

    #[test]
    fn unknown_paths_share_a_series() {
        let labels = |path: &str| kind(http::Method::GET, path).labels();
        assert_eq!(labels("/apis/no.such/v1/things/a"), labels("/foo"));
        assert_eq!(labels("/api/v1/pods/a/nosuch"), labels("/api/v1/pods/b"));
    }
}
