//! The state store of a single node, in one file, with etcd's semantics.
//!
//! Every write is one revision, and the file maps revisions to what was written. An index from keys to their
//! revisions is kept in memory, as etcd does. One thread writes: it takes all writes that wait, puts them into one
//! transaction, and answers them when that is on the disk. Only then do reads and watches see them.

mod file;
mod index;
mod writer;

use crate::{Change, Error, Page, Range, Record, StateStore, WatchBatch, WatchStream, Written};
use async_trait::async_trait;
use bytes::Bytes;
use file::File;
use index::Index;
use parking_lot::RwLock;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot, watch};
use writer::Command;

/// Writes that wait for the writer; each belongs to a request, and those are bounded too.
const WRITE_QUEUE: usize = 1024;
/// Batches on their way from a watch to its receiver.
const WATCH_QUEUE: usize = 4;
/// Changes in a batch.
const WATCH_BATCH: usize = 256;
/// Largest value and key together, as etcd's default for a request.
const MAX_RECORD_BYTES: usize = 1_572_864;

/// The state store in a file. The last handle to be dropped ends its writer.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    /// None when it is being dropped.
    writer: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

/// What readers and the writer share.
struct Shared {
    file: File,
    index: RwLock<Index>,
    /// The newest revision that is on the disk.
    committed: watch::Sender<i64>,
}

impl EmbeddedStore {
    /// Opens the file, or makes it. To be called within a Tokio runtime, which ends the time to live of keys.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path)?;
        let (index, expiries) = file.load()?;
        let committed = watch::Sender::new(index.revision());
        let shared = Arc::new(Shared {
            file,
            index: RwLock::new(index),
            committed,
        });
        let (writer, commands) = mpsc::channel(WRITE_QUEUE);
        let thread = writer::start(shared.clone(), commands, writer.downgrade(), expiries)?;
        Ok(Self {
            shared,
            writer: Some(writer),
            thread: Some(thread),
        })
    }

    async fn write(
        &self,
        key: &str,
        value: Option<Bytes>,
        expected: i64,
        ttl: Option<Duration>,
    ) -> Result<Written, Error> {
        if key.len() + value.as_ref().map_or(0, Bytes::len) > MAX_RECORD_BYTES {
            return Err(Error::Refused {
                action: "write",
                reason: "request is too large".into(),
            });
        }
        let expires = ttl.map(|ttl| now_seconds() + ttl.as_secs().max(1));
        let (reply, answer) = oneshot::channel();
        let command = Command::Write {
            key: key.into(),
            value,
            expected,
            expires,
            reply,
        };
        self.ask(command, answer).await
    }

    async fn ask<T>(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<T, Error>>,
    ) -> Result<T, Error> {
        let gone = || Error::Unavailable("the writer has ended".into());
        let writer = self.writer.as_ref().ok_or_else(gone)?;
        writer.send(command).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        // The writer finishes what it has begun, which takes one write to the disk, and releases the file.
        drop(self.writer.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the writer of the state file has panicked");
        }
    }
}

fn now_seconds() -> u64 {
    // A clock before 1970 lets nothing expire.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

impl Shared {
    fn record(&self, key: &str, revision: i64) -> Result<Option<Record>, Error> {
        let change = self.file.read(revision)?;
        Ok(change.and_then(|change| {
            Some(Record {
                key: key.into(),
                value: change.value?,
                revision,
            })
        }))
    }

    /// The key as it is now, and the revision of "now". A compaction between index and file makes it look again.
    fn get(&self, key: &str) -> Result<(Option<Record>, i64), Error> {
        loop {
            let (found, revision) = {
                let index = self.index.read();
                (index.get(key, index.revision()), index.revision())
            };
            let Some(found) = found else {
                return Ok((None, revision));
            };
            if let Some(record) = self.record(key, found)? {
                return Ok((Some(record), revision));
            }
        }
    }

    fn range(&self, start: &str, end: &str, limit: i64, revision: i64) -> Result<Page, Error> {
        let limit = usize::try_from(limit)
            .ok()
            .filter(|l| *l > 0)
            .unwrap_or(usize::MAX);
        // The file's snapshot is taken before the index is left, so that they show nearly the same moment.
        let (found, count, at, snapshot) = {
            let index = self.index.read();
            let at = index.check(revision)?;
            let (found, count) = index.range(start, end, limit, at);
            (found, count, at, self.file.snapshot()?)
        };
        let mut records = Vec::with_capacity(found.len());
        for (key, revision) in &found {
            let value = snapshot.read(*revision)?.and_then(|change| change.value);
            let Some(value) = value else {
                // A compaction that the index does not know yet.
                let oldest = snapshot.compacted()?;
                return Err(if at < oldest {
                    Error::Compacted { oldest }
                } else {
                    file::damaged(format!("{key} has no value at {revision}"))
                });
            };
            records.push(Record {
                key: key.to_string(),
                value,
                revision: *revision,
            });
        }
        Ok(Page {
            more: count > records.len(),
            records,
            count: i64::try_from(count).unwrap_or(i64::MAX),
            revision: at,
        })
    }

    /// The changes from a revision on, as many as a batch takes.
    fn changes(&self, from: i64) -> Result<WatchBatch, Error> {
        let newest = *self.committed.borrow();
        let changes: Vec<Change> = self.file.changes(from, newest, WATCH_BATCH)?;
        let revision = match changes.last() {
            Some(last) if changes.len() >= WATCH_BATCH => last.revision,
            _ => newest,
        };
        Ok(WatchBatch { changes, revision })
    }
}

#[async_trait]
impl StateStore for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<(Option<Record>, i64), Error> {
        self.shared.get(key)
    }

    async fn range(&self, range: Range<'_>) -> Result<Page, Error> {
        let (shared, start, end) = (self.shared.clone(), range.start.to_owned(), range.end.to_owned());
        let (limit, revision) = (range.limit, range.revision);
        // A large range takes tens of milliseconds.
        let read = tokio::task::spawn_blocking(move || shared.range(&start, &end, limit, revision));
        read.await.map_err(|e| Error::Unavailable(e.to_string()))?
    }

    async fn revision(&self) -> Result<i64, Error> {
        Ok(*self.shared.committed.borrow())
    }

    async fn create(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<Written, Error> {
        self.write(key, Some(value), 0, ttl).await
    }

    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: i64,
        ttl: Option<Duration>,
    ) -> Result<Written, Error> {
        self.write(key, Some(value), expected, ttl).await
    }

    async fn delete(&self, key: &str, expected: i64) -> Result<Written, Error> {
        self.write(key, None, expected, None).await
    }

    async fn watch(&self, from: i64, _expect: watch::Receiver<i64>) -> Result<WatchStream, Error> {
        let (sender, batches) = mpsc::channel(WATCH_QUEUE);
        tokio::spawn(follow(self.shared.clone(), from, sender));
        Ok(batches)
    }

    async fn compact(&self, revision: i64) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        match self.ask(Command::Compact { revision, reply }, answer).await {
            // Somebody else was quicker.
            Err(Error::Compacted { .. }) => Ok(()),
            other => other,
        }
    }
}

/// Delivers every change from `next` on until the receiver is dropped.
async fn follow(shared: Arc<Shared>, mut next: i64, sender: mpsc::Sender<Result<WatchBatch, Error>>) {
    let mut committed = shared.committed.subscribe();
    // Only the receiver keeps the store's parts alive for longer than the store; it is told when they go.
    loop {
        if *committed.borrow_and_update() >= next {
            let batch = shared.changes(next);
            let failed = batch.is_err();
            if let Ok(batch) = &batch {
                next = batch.revision + 1;
            }
            if sender.send(batch).await.is_err() || failed {
                return;
            }
            continue;
        }
        tokio::select! {
            changed = committed.changed() => if changed.is_err() { return },
            () = sender.closed() => return,
        }
    }
}
