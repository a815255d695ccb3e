//! The one thread that writes.

use super::file::{Batch, Expiries};
use super::{Shared, now_seconds};
use crate::{Error, Written};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Writes that reach the disk together.
const MAX_BATCH: usize = 256;
/// A clock that is set back or forward is noticed after this time at most.
const MAX_SLEEP: Duration = Duration::from_secs(3600);

/// What the writer is asked to do.
pub(super) enum Command {
    /// Write a key, or delete it, if its last write is `expected` (0: if it does not exist).
    Write {
        key: Box<str>,
        value: Option<Bytes>,
        expected: i64,
        expires: Option<u64>,
        reply: oneshot::Sender<Result<Written, Error>>,
    },
    /// Forget what was overwritten before a revision.
    Compact {
        revision: i64,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    /// Some keys have reached the end of their time.
    Expire,
}

/// An answer that waits for the disk.
enum Pending {
    Write(
        Box<str>,
        oneshot::Sender<Result<Written, Error>>,
        Result<Written, Error>,
    ),
    Compact(oneshot::Sender<Result<(), Error>>, Result<(), Error>),
}

/// What a batch has written so far, which no reader sees yet.
#[derive(Default)]
struct Staged {
    /// Last write of each key in this batch: revision, and whether it left a value.
    keys: HashMap<Box<str>, (i64, bool)>,
    /// In order: key, revision, whether it left a value.
    writes: Vec<(Box<str>, i64, bool)>,
    /// New expiries.
    expiries: Vec<(u64, i64)>,
    compacted: Option<i64>,
    /// Expiries that have been dealt with.
    done: Vec<(u64, i64)>,
    /// The alarm waits to be told of the next one.
    rang: bool,
}

/// Starts the writer; it ends when the last sender of commands is dropped.
pub(super) fn start(
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    own: mpsc::WeakSender<Command>,
    expiries: Expiries,
) -> Result<JoinHandle<()>, Error> {
    let (next, wake) = watch::channel(first(&expiries));
    tokio::spawn(alarm(wake, own));
    std::thread::Builder::new()
        .name("state-writer".into())
        .spawn(move || {
            Writer {
                shared,
                expiries,
                next,
            }
            .run(commands);
        })
        .map_err(|e| Error::Configuration(format!("start the writer: {e}")))
}

fn first(expiries: &Expiries) -> Option<u64> {
    expiries.first().map(|(seconds, _)| *seconds)
}

/// Wakes the writer when the next key expires.
async fn alarm(mut next: watch::Receiver<Option<u64>>, writer: mpsc::WeakSender<Command>) {
    loop {
        let due = *next.borrow_and_update();
        let sleep = due.map(|at| Duration::from_secs(at.saturating_sub(now_seconds())).min(MAX_SLEEP));
        tokio::select! {
            changed = next.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(sleep.unwrap_or_default()), if sleep.is_some() => {
                let Some(writer) = writer.upgrade() else { return };
                if due.is_some_and(|at| at <= now_seconds()) && writer.send(Command::Expire).await.is_err() {
                    return;
                }
                drop(writer);
                // The writer announces the next one when it has dealt with this.
                if due.is_some_and(|at| at <= now_seconds()) && next.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

struct Writer {
    shared: Arc<Shared>,
    expiries: Expiries,
    next: watch::Sender<Option<u64>>,
}

impl Writer {
    fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        while commands.blocking_recv_many(&mut batch, MAX_BATCH) > 0 {
            let mut staged = Staged::default();
            let mut pending = Vec::with_capacity(batch.len());
            let outcome = self.write(batch.drain(..), &mut staged, &mut pending);
            if let Err(error) = &outcome {
                tracing::warn!(%error, "writes to the state file failed");
            } else {
                self.publish(staged);
            }
            for answer in pending {
                answer.send(outcome.as_ref().err());
            }
        }
    }

    /// Does all commands in one transaction.
    fn write(
        &mut self,
        commands: impl Iterator<Item = Command>,
        staged: &mut Staged,
        pending: &mut Vec<Pending>,
    ) -> Result<(), Error> {
        // Those that could not be looked at fail like those that could.
        let mut commands = commands.peekable();
        let transaction = match self.shared.file.begin() {
            Ok(transaction) => transaction,
            Err(error) => {
                pending.extend(commands.filter_map(Pending::unanswered));
                return Err(error);
            }
        };
        let mut newest = self.shared.index.read().revision();
        while let Some(command) = commands.next() {
            let done = self.command(command, &transaction, &mut newest, staged, pending);
            if let Err(error) = done {
                pending.extend(commands.filter_map(Pending::unanswered));
                return Err(error);
            }
        }
        transaction.commit(newest)
    }

    fn command(
        &mut self,
        command: Command,
        transaction: &Batch,
        newest: &mut i64,
        staged: &mut Staged,
        pending: &mut Vec<Pending>,
    ) -> Result<(), Error> {
        match command {
            Command::Write {
                key,
                value,
                expected,
                expires,
                reply,
            } => {
                let result = self.compare(&key, expected, staged);
                match result {
                    Ok(()) => {
                        *newest += 1;
                        pending.push(Pending::Write(key.clone(), reply, Ok(Written::Done(*newest))));
                        transaction.put(&key, value.as_deref(), *newest, expires)?;
                        staged.note(key, *newest, value.is_some(), expires);
                    }
                    Err(current) => {
                        let record = self.current(&key, current, transaction);
                        pending.push(Pending::Write(key, reply, record.map(Written::Conflict)));
                    }
                }
            }
            Command::Compact { revision, reply } => {
                let result = self.shared.index.read().superseded(revision);
                match result {
                    // A second one in the same batch waits for its turn in vain: the first one did its work.
                    Ok(_) if staged.compacted.is_some() => pending.push(Pending::Compact(reply, Ok(()))),
                    Ok(old) => {
                        pending.push(Pending::Compact(reply, Ok(())));
                        transaction.forget(&old, revision)?;
                        staged.compacted = Some(revision);
                    }
                    Err(error) => pending.push(Pending::Compact(reply, Err(error))),
                }
            }
            Command::Expire => {
                staged.rang = true;
                self.expire(transaction, newest, staged)?;
            }
        }
        Ok(())
    }

    /// Whether the last write of a key is the expected one; otherwise the revision of its value, if it has one.
    fn compare(&self, key: &str, expected: i64, staged: &Staged) -> Result<(), Option<i64>> {
        let current = match staged.keys.get(key) {
            Some((revision, alive)) => alive.then_some(*revision),
            None => {
                let index = self.shared.index.read();
                index.get(key, index.revision())
            }
        };
        // A deletion of what does not exist is a conflict too, as `expected` is the revision of a value.
        if current.unwrap_or(0) == expected {
            Ok(())
        } else {
            Err(current)
        }
    }

    fn current(
        &self,
        key: &str,
        revision: Option<i64>,
        transaction: &Batch,
    ) -> Result<Option<crate::Record>, Error> {
        let Some(revision) = revision else { return Ok(None) };
        let change = transaction.read(revision)?;
        Ok(change.and_then(|change| {
            Some(crate::Record {
                key: key.into(),
                value: change.value?,
                revision,
            })
        }))
    }

    /// Deletes the keys whose time has ended, unless they were written again since.
    fn expire(&mut self, transaction: &Batch, newest: &mut i64, staged: &mut Staged) -> Result<(), Error> {
        let now = now_seconds();
        let due: Vec<(u64, i64)> = self
            .expiries
            .iter()
            .take_while(|(at, _)| *at <= now)
            .take(MAX_BATCH)
            .copied()
            .collect();
        for (expires, revision) in due {
            transaction.expired(expires, revision)?;
            staged.done.push((expires, revision));
            let Some(change) = transaction.read(revision)? else {
                continue;
            };
            if self.compare(&change.key, revision, staged).is_ok() {
                *newest += 1;
                transaction.put(&change.key, None, *newest, None)?;
                staged.note(change.key.into(), *newest, false, None);
            }
        }
        Ok(())
    }

    /// Lets readers and watches see what is on the disk now.
    fn publish(&mut self, staged: Staged) {
        let revision = {
            let mut index = self.shared.index.write();
            if let Some(compacted) = staged.compacted {
                index.compact(compacted);
            }
            for (key, revision, alive) in &staged.writes {
                index.note(key, *revision, *alive);
            }
            index.revision()
        };
        for done in &staged.done {
            self.expiries.remove(done);
        }
        self.expiries.extend(staged.expiries);
        self.shared
            .committed
            .send_if_modified(|committed| std::mem::replace(committed, revision) != revision);
        let next = first(&self.expiries);
        self.next
            .send_if_modified(|at| std::mem::replace(at, next) != next || staged.rang);
    }
}

impl Staged {
    fn note(&mut self, key: Box<str>, revision: i64, alive: bool, expires: Option<u64>) {
        self.keys.insert(key.clone(), (revision, alive));
        self.writes.push((key, revision, alive));
        self.expiries.extend(expires.map(|at| (at, revision)));
    }
}

impl Pending {
    /// For a command that was not looked at.
    fn unanswered(command: Command) -> Option<Self> {
        let nothing = || Error::Unavailable("an earlier write of the batch failed".into());
        match command {
            Command::Write { key, reply, .. } => Some(Self::Write(key, reply, Err(nothing()))),
            Command::Compact { reply, .. } => Some(Self::Compact(reply, Err(nothing()))),
            Command::Expire => None,
        }
    }

    /// Answers; an error of the whole batch takes precedence, and leaves open what is on the disk. Whoever asked may
    /// be gone.
    fn send(self, failed: Option<&Error>) {
        match self {
            Self::Write(key, reply, result) => {
                let unknown = |e: &Error| Error::Unknown {
                    key: key.into(),
                    reason: e.to_string(),
                };
                drop(reply.send(failed.map_or(result, |e| Err(unknown(e)))));
            }
            Self::Compact(reply, result) => drop(reply.send(failed.map_or(result, |e| Err(e.clone())))),
        }
    }
}
