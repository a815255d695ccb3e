//! The trait and its types.

use async_trait::async_trait;
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// One key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// Revision of the last write of this key.
    pub revision: i64,
}

/// What to read.
#[derive(Clone, Debug, Default)]
pub struct Range<'a> {
    /// First key.
    pub start: &'a str,
    /// First key that is not wanted any more.
    pub end: &'a str,
    /// At most so many records; 0 is all.
    pub limit: i64,
    /// The state as of this revision; 0 is the newest.
    pub revision: i64,
}

/// What a range read returned.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Records, sorted by key.
    pub records: Vec<Record>,
    /// Whether the limit cut it short.
    pub more: bool,
    /// How many keys the range holds in all.
    pub count: i64,
    /// The revision that was read: the asked one, or the newest at that time.
    pub revision: i64,
}

/// The result of a comparing write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// Done, at this revision.
    Done(i64),
    /// Not done: the key is not in the expected state. What it holds now.
    Conflict(Option<Record>),
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// Its new value; `None` when it was deleted.
    pub value: Option<Bytes>,
    /// Revision of the change.
    pub revision: i64,
}

/// Changes in order; whole revisions, never a part of one.
#[derive(Clone, Debug, Default)]
pub struct WatchBatch {
    /// The changes.
    pub changes: Vec<Change>,
    /// Everything up to this revision has been delivered.
    pub revision: i64,
}

/// A watch of the whole store: the changes, or why the watch ended. It survives lost connections by itself; an
/// error ends it.
pub type WatchStream = mpsc::Receiver<Result<WatchBatch, Error>>;

/// Why the store did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No member answered in time. A read may be tried again; a write was certainly not done.
    #[error("state store unavailable: {0}")]
    Unavailable(String),
    /// A write was sent and its outcome could not be learnt.
    #[error("outcome of the write of {key} unknown: {reason}")]
    Unknown {
        /// Which key.
        key: String,
        /// The last error.
        reason: String,
    },
    /// The revision is not kept any more.
    #[error("revision compacted; oldest is {oldest}")]
    Compacted {
        /// The oldest revision that can be read, 0 when the store did not say.
        oldest: i64,
    },
    /// The store refused the request.
    #[error("state store refused {action}: {reason}")]
    Refused {
        /// What was attempted.
        action: &'static str,
        /// What it said.
        reason: String,
    },
    /// The endpoints or certificates cannot be used.
    #[error("state store configuration: {0}")]
    Configuration(String),
}

/// A store of keys with one sequence of revisions. Reads are linearizable unless they name a revision.
#[async_trait]
pub trait StateStore: Send + Sync + 'static {
    /// Reads one key; the revision is the store's at that time.
    async fn get(&self, key: &str) -> Result<(Option<Record>, i64), Error>;

    /// Reads a range of keys.
    async fn range(&self, range: Range<'_>) -> Result<Page, Error>;

    /// The newest revision: at least that of every write reported done before the call.
    async fn revision(&self) -> Result<i64, Error>;

    /// Writes a key that must not exist. With a `ttl` it goes away by itself at some time after it.
    async fn create(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<Written, Error>;

    /// Replaces a key whose last write must be `expected`.
    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: i64,
        ttl: Option<Duration>,
    ) -> Result<Written, Error>;

    /// Deletes a key whose last write must be `expected`.
    async fn delete(&self, key: &str, expected: i64) -> Result<Written, Error>;

    /// Watches every key from this revision on. `expect` holds the newest revision that is known to exist: if the
    /// watch does not reach it soon, the store takes the connection for dead and watches elsewhere.
    async fn watch(&self, from: i64, expect: watch::Receiver<i64>) -> Result<WatchStream, Error>;

    /// Forgets what was overwritten before this revision.
    async fn compact(&self, revision: i64) -> Result<(), Error>;
}
