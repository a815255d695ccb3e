//! The file: revisions and what was written at them.
//!
//! | table | key | value |
//! |---|---|---|
//! | `records` | revision | format (1), 1 if there is a value, length of the key in 4 bytes, key, value |
//! | `expiries` | seconds since 1970, revision | nothing |
//! | `meta` | `format`, `revision`, `compacted` | a number |

use super::index::Index;
use crate::{Change, Error};
use bytes::Bytes;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use std::collections::BTreeSet;
use std::path::Path;

const RECORDS: TableDefinition<u64, &[u8]> = TableDefinition::new("records");
const EXPIRIES: TableDefinition<(u64, u64), ()> = TableDefinition::new("expiries");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// Version of the file.
const FORMAT: u64 = 1;
/// Version of a record.
const RECORD_FORMAT: u8 = 1;
/// etcd's revision before the first write.
const FIRST_REVISION: i64 = 1;
/// Pages of the file in memory; the objects themselves are in the API server's cache.
const CACHE_BYTES: usize = 8 << 20;

/// Keys that go away: second since 1970 and revision of the write.
pub(super) type Expiries = BTreeSet<(u64, i64)>;

/// The open file.
pub(super) struct File {
    database: Database,
}

/// The file as of one moment.
pub(super) struct Snapshot {
    transaction: ReadTransaction,
}

/// An error of the file.
fn failed(error: impl std::fmt::Display) -> Error {
    Error::Unavailable(format!("state file: {error}"))
}

/// The file is not what was written.
pub(super) fn damaged(what: String) -> Error {
    Error::Refused {
        action: "read",
        reason: format!("the state file is damaged: {what}"),
    }
}

fn number(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}

fn revision(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Opens the file, or makes it, for this user alone: it holds all that the cluster knows.
fn private(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    options.open(path)
}

impl File {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let refused = |e: &dyn std::fmt::Display| Error::Configuration(format!("{}: {e}", path.display()));
        let mut builder = redb::Builder::new();
        builder.set_cache_size(CACHE_BYTES);
        let file = private(path).map_err(|e| refused(&e))?;
        let backend = redb::backends::FileBackend::new(file).map_err(|e| refused(&e))?;
        let database = builder.create_with_backend(backend).map_err(|e| refused(&e))?;
        let file = Self { database };
        let transaction = file.database.begin_write().map_err(|e| refused(&e))?;
        {
            let mut meta = transaction.open_table(META).map_err(|e| refused(&e))?;
            transaction.open_table(RECORDS).map_err(|e| refused(&e))?;
            transaction.open_table(EXPIRIES).map_err(|e| refused(&e))?;
            let format = meta.get("format").map_err(|e| refused(&e))?.map(|v| v.value());
            match format {
                Some(FORMAT) => {}
                Some(other) => return Err(refused(&format!("format {other} is not known"))),
                None => {
                    meta.insert("format", FORMAT).map_err(|e| refused(&e))?;
                }
            }
        }
        transaction.commit().map_err(|e| refused(&e))?;
        Ok(file)
    }

    /// Reads what is kept in memory.
    pub(super) fn load(&self) -> Result<(Index, Expiries), Error> {
        let transaction = self.database.begin_read().map_err(failed)?;
        let meta = transaction.open_table(META).map_err(failed)?;
        let get = |name: &str| Ok::<_, Error>(meta.get(name).map_err(failed)?.map(|v| revision(v.value())));
        let newest = get("revision")?.unwrap_or(FIRST_REVISION);
        let mut index = Index::new(newest, get("compacted")?.unwrap_or(0));
        let records = transaction.open_table(RECORDS).map_err(failed)?;
        for entry in records.iter().map_err(failed)? {
            let (at, record) = entry.map_err(failed)?;
            let (key, value) =
                decode(record.value()).ok_or_else(|| damaged(format!("record {}", at.value())))?;
            index.note(key, revision(at.value()), value.is_some());
        }
        let mut expiries = Expiries::new();
        let table = transaction.open_table(EXPIRIES).map_err(failed)?;
        for entry in table.iter().map_err(failed)? {
            let (seconds, at) = entry.map_err(failed)?.0.value();
            expiries.insert((seconds, revision(at)));
        }
        Ok((index, expiries))
    }

    /// The file as it is now.
    pub(super) fn snapshot(&self) -> Result<Snapshot, Error> {
        let transaction = self.database.begin_read().map_err(failed)?;
        Ok(Snapshot { transaction })
    }

    /// What was written at a revision.
    pub(super) fn read(&self, at: i64) -> Result<Option<Change>, Error> {
        self.snapshot()?.read(at)
    }

    /// What was written from one revision to another, at most `limit`.
    pub(super) fn changes(&self, from: i64, to: i64, limit: usize) -> Result<Vec<Change>, Error> {
        let snapshot = self.snapshot()?;
        let oldest = snapshot.compacted()?;
        if from <= oldest {
            return Err(Error::Compacted { oldest });
        }
        let records = snapshot.transaction.open_table(RECORDS).map_err(failed)?;
        let range = records.range(number(from)..=number(to)).map_err(failed)?;
        range
            .take(limit)
            .map(|entry| {
                let (at, record) = entry.map_err(failed)?;
                change(record.value(), revision(at.value()))
            })
            .collect()
    }

    /// Begins to write.
    pub(super) fn begin(&self) -> Result<Batch, Error> {
        let transaction = self.database.begin_write().map_err(failed)?;
        Ok(Batch { transaction })
    }
}

impl Snapshot {
    /// The revision that was compacted to.
    pub(super) fn compacted(&self) -> Result<i64, Error> {
        let meta = self.transaction.open_table(META).map_err(failed)?;
        Ok(meta
            .get("compacted")
            .map_err(failed)?
            .map_or(0, |v| revision(v.value())))
    }

    /// What was written at a revision.
    pub(super) fn read(&self, at: i64) -> Result<Option<Change>, Error> {
        let records = self.transaction.open_table(RECORDS).map_err(failed)?;
        let record = records.get(number(at)).map_err(failed)?;
        record.map(|record| change(record.value(), at)).transpose()
    }
}

/// Writes that reach the disk together.
pub(super) struct Batch {
    transaction: WriteTransaction,
}

impl Batch {
    /// Writes a record.
    pub(super) fn put(
        &self,
        key: &str,
        value: Option<&[u8]>,
        at: i64,
        expires: Option<u64>,
    ) -> Result<(), Error> {
        let mut records = self.transaction.open_table(RECORDS).map_err(failed)?;
        records
            .insert(number(at), encode(key, value).as_slice())
            .map_err(failed)?;
        if let Some(expires) = expires {
            let mut expiries = self.transaction.open_table(EXPIRIES).map_err(failed)?;
            expiries.insert((expires, number(at)), ()).map_err(failed)?;
        }
        Ok(())
    }

    /// What was written at a revision, in this batch too.
    pub(super) fn read(&self, at: i64) -> Result<Option<Change>, Error> {
        let records = self.transaction.open_table(RECORDS).map_err(failed)?;
        let record = records.get(number(at)).map_err(failed)?;
        record.map(|record| change(record.value(), at)).transpose()
    }

    /// Forgets records.
    pub(super) fn forget(&self, revisions: &[i64], compacted: i64) -> Result<(), Error> {
        let mut records = self.transaction.open_table(RECORDS).map_err(failed)?;
        for at in revisions {
            records.remove(number(*at)).map_err(failed)?;
        }
        self.note("compacted", compacted)
    }

    /// An expiry has been dealt with.
    pub(super) fn expired(&self, expires: u64, at: i64) -> Result<(), Error> {
        let mut expiries = self.transaction.open_table(EXPIRIES).map_err(failed)?;
        expiries.remove((expires, number(at))).map_err(failed)?;
        Ok(())
    }

    fn note(&self, name: &str, value: i64) -> Result<(), Error> {
        let mut meta = self.transaction.open_table(META).map_err(failed)?;
        meta.insert(name, number(value)).map_err(failed)?;
        Ok(())
    }

    /// Returns when everything is on the disk.
    pub(super) fn commit(self, newest: i64) -> Result<(), Error> {
        self.note("revision", newest)?;
        self.transaction.commit().map_err(failed)
    }
}

fn encode(key: &str, value: Option<&[u8]>) -> Vec<u8> {
    let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(6 + key.len() + value.map_or(0, <[u8]>::len));
    out.push(RECORD_FORMAT);
    out.push(u8::from(value.is_some()));
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(value.unwrap_or_default());
    out
}

fn decode(record: &[u8]) -> Option<(&str, Option<&[u8]>)> {
    let (head, rest) = record.split_at_checked(6)?;
    if head[0] != RECORD_FORMAT {
        return None;
    }
    let length = usize::try_from(u32::from_le_bytes(head[2..].try_into().ok()?)).ok()?;
    let (key, value) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(key).ok()?, (head[1] == 1).then_some(value)))
}

fn change(record: &[u8], at: i64) -> Result<Change, Error> {
    let (key, value) = decode(record).ok_or_else(|| damaged(format!("record {at}")))?;
    Ok(Change {
        key: key.to_owned(),
        value: value.map(Bytes::copy_from_slice),
        revision: at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_and_rubbish_is_seen() {
        for value in [None, Some(&b""[..]), Some(b"abc")] {
            assert_eq!(decode(&encode("/k", value)), Some(("/k", value)));
        }
        assert_eq!(decode(&[1, 1, 9, 0, 0, 0, b'k']), None);
        assert_eq!(decode(&[2, 1, 0, 0, 0, 0]), None);
        assert_eq!(decode(b""), None);
    }
}
