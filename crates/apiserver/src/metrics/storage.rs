//! How long the state store takes.

use super::Histogram;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use state::{Error, Page, Range, Record, StateStore, WatchStream, Written};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Upper bounds of the histogram, in seconds; upstream's.
const BUCKETS: [f64; 18] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 10.0, 30.0, 60.0,
];

/// An operation and the type of its objects.
type Kind = (&'static str, String);

/// Requests to the state store.
#[derive(Default)]
pub struct Storage {
    /// How long those of each kind took, and how many failed.
    requests: Mutex<BTreeMap<Kind, (Histogram, u64)>>,
}

impl Storage {
    fn observe(&self, operation: &'static str, key: &str, took: Duration, failed: bool) {
        let mut requests = self.requests.lock();
        let (latency, errors) = requests.entry((operation, type_of(key))).or_default();
        latency.observe(&BUCKETS, took);
        *errors += u64::from(failed);
    }

    pub(super) fn write(&self, out: &mut String) -> std::fmt::Result {
        let requests = self.requests.lock();
        let name = "etcd_request_duration_seconds";
        writeln!(out, "# TYPE {name} histogram")?;
        for ((operation, kind), (latency, _)) in requests.iter() {
            let labels = format!("operation=\"{operation}\",type=\"{kind}\"");
            latency.write(out, name, &labels, &BUCKETS)?;
        }
        writeln!(out, "# TYPE etcd_requests_total counter")?;
        for ((operation, kind), (latency, _)) in requests.iter() {
            let count: u64 = latency.counts.iter().sum();
            writeln!(
                out,
                "etcd_requests_total{{operation=\"{operation}\",type=\"{kind}\"}} {count}"
            )?;
        }
        writeln!(out, "# TYPE etcd_request_errors_total counter")?;
        for ((operation, kind), (_, errors)) in requests.iter() {
            writeln!(
                out,
                "etcd_request_errors_total{{operation=\"{operation}\",type=\"{kind}\"}} {errors}"
            )?;
        }
        Ok(())
    }
}

/// The type of the objects at a key: `pods` of `/registry/pods/...`, and `plural.group` of a custom resource.
fn type_of(key: &str) -> String {
    let mut parts = key.trim_start_matches('/').split('/').skip(1);
    let first = parts.next().unwrap_or_default();
    match parts.next() {
        Some(plural) if first.contains('.') && !plural.is_empty() => format!("{plural}.{first}"),
        _ => first.to_owned(),
    }
}

/// A state store whose answers are timed.
pub struct TimedStore {
    inner: Arc<dyn StateStore>,
    storage: Arc<Storage>,
}

impl TimedStore {
    /// Times a store.
    pub fn new(inner: Arc<dyn StateStore>, storage: Arc<Storage>) -> Self {
        Self { inner, storage }
    }

    async fn timed<T>(
        &self,
        operation: &'static str,
        key: &str,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let started = Instant::now();
        let answer = request.await;
        self.storage
            .observe(operation, key, started.elapsed(), answer.is_err());
        answer
    }
}

#[async_trait]
impl StateStore for TimedStore {
    async fn get(&self, key: &str) -> Result<(Option<Record>, i64), Error> {
        self.timed("get", key, self.inner.get(key)).await
    }

    async fn range(&self, range: Range<'_>) -> Result<Page, Error> {
        let start = range.start;
        self.timed("list", start, self.inner.range(range)).await
    }

    async fn revision(&self) -> Result<i64, Error> {
        self.timed("getCurrentResourceVersion", "", self.inner.revision())
            .await
    }

    async fn create(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<Written, Error> {
        self.timed("create", key, self.inner.create(key, value, ttl))
            .await
    }

    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: i64,
        ttl: Option<Duration>,
    ) -> Result<Written, Error> {
        self.timed("update", key, self.inner.update(key, value, expected, ttl))
            .await
    }

    async fn delete(&self, key: &str, expected: i64) -> Result<Written, Error> {
        self.timed("delete", key, self.inner.delete(key, expected)).await
    }

    async fn watch(&self, from: i64, expect: watch::Receiver<i64>) -> Result<WatchStream, Error> {
        self.inner.watch(from, expect).await
    }

    async fn compact(&self, revision: i64) -> Result<(), Error> {
        self.timed("compact", "", self.inner.compact(revision)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_from_keys() {
        assert_eq!(type_of("/registry/pods/default/a"), "pods");
        assert_eq!(
            type_of("/registry/stable.example.com/crontabs/default/a"),
            "crontabs.stable.example.com"
        );
        assert_eq!(type_of("/registry/"), "");
        assert_eq!(type_of("compact_rev_key"), "");
    }

    #[test]
    fn operations_are_counted_by_type() {
        let storage = Storage::default();
        storage.observe("create", "/registry/pods/a/b", Duration::from_millis(7), false);
        storage.observe("create", "/registry/pods/a/c", Duration::from_millis(7), true);
        let mut text = String::new();
        storage.write(&mut text).unwrap();
        let labels = "operation=\"create\",type=\"pods\"";
        assert!(
            text.contains(&format!(
                "etcd_request_duration_seconds_bucket{{{labels},le=\"0.025\"}} 2\n"
            )),
            "{text}"
        );
        assert!(
            text.contains(&format!("etcd_request_errors_total{{{labels}}} 1\n")),
            "{text}"
        );
    }
}
