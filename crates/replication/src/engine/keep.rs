//! What outlives this process, so that its successor can go on with the devices: for each of them the FUSE connection
//! and a few facts, kept by the service manager (see [`fdstore`]). The facts are in memory only (memfd_create(2)), since the key
//! of an encrypted volume is among them.

use fdstore::Manager;
use parking_lot::Mutex;
use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// Beginnings of the names under which a volume's connection and its facts are kept.
const CONNECTION: &str = "fuse.";
const FACTS: &str = "facts.";
/// The facts are always written as so many bytes at once, so that a killed process leaves the old ones or the new.
const FACTS_BYTES: usize = 1024;

/// How a volume was attached.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Counter of the epoch of its engine.
    pub epoch: u64,
    /// Refuses writes.
    pub read_only: bool,
    /// Secret of an encrypted volume; empty if it is not.
    pub key: Vec<u8>,
}

struct Kept {
    connection: OwnedFd,
    memory: File,
    facts: Facts,
    /// Of the process before, and not resumed yet.
    waiting: bool,
}

/// The devices that are kept.
#[derive(Default)]
pub struct Keeper {
    manager: Option<Manager>,
    kept: Mutex<BTreeMap<String, Kept>>,
    /// Which socket has everything.
    told: Mutex<Option<(u64, i64, i64)>>,
}

impl Keeper {
    /// With what the service manager, if there is one, has kept for this process.
    pub fn from_env() -> Self {
        let inherited = fdstore::inherited().unwrap_or_else(|error| {
            tracing::warn!(%error, "the devices of the process before cannot be taken over");
            Vec::new()
        });
        Self::new(Manager::from_env(), inherited)
    }

    /// With these descriptors.
    pub fn new(manager: Option<Manager>, inherited: Vec<(String, OwnedFd)>) -> Self {
        let mut all: BTreeMap<String, OwnedFd> = inherited.into_iter().collect();
        let ids: Vec<String> = all
            .keys()
            .filter_map(|name| Some(name.strip_prefix(CONNECTION)?.to_owned()))
            .collect();
        let mut kept = BTreeMap::new();
        for id in ids {
            let connection = all.remove(&format!("{CONNECTION}{id}"));
            let memory = all.remove(&format!("{FACTS}{id}")).map(File::from);
            let facts = memory.as_ref().and_then(|memory| read(memory).ok());
            if let (Some(connection), Some(memory), Some(facts)) = (connection, memory, facts) {
                let waiting = true;
                kept.insert(
                    id,
                    Kept {
                        connection,
                        memory,
                        facts,
                        waiting,
                    },
                );
            } else {
                // Killed between the two messages: the device is gone with us.
                tracing::info!(volume = id, "its device was not kept as a whole");
            }
        }
        let told = Mutex::new(manager.as_ref().and_then(Manager::instance));
        Self {
            manager,
            kept: Mutex::new(kept),
            told,
        }
    }

    /// Volumes whose devices wait to be resumed.
    pub fn waiting(&self) -> Vec<String> {
        let kept = self.kept.lock();
        kept.iter()
            .filter(|(_, kept)| kept.waiting)
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// A duplicate of the connection, and the facts, of a device that waits.
    pub fn get_waiting(&self, id: &str) -> Option<(OwnedFd, Facts)> {
        let kept = self.kept.lock();
        let found = kept.get(id).filter(|kept| kept.waiting)?;
        Some((found.connection.try_clone().ok()?, found.facts.clone()))
    }

    /// Has a new device kept. Without a service manager that does so, it goes with this process.
    pub fn keep(&self, id: &str, connection: BorrowedFd<'_>, facts: Facts) {
        let Some(manager) = &self.manager else { return };
        let made = || -> Result<Kept> {
            let memory = File::from(rustix::fs::memfd_create("hikube-volume", MemfdFlags::CLOEXEC)?);
            write(&memory, &facts)?;
            Ok(Kept {
                connection: connection.try_clone_to_owned()?,
                memory,
                facts,
                waiting: false,
            })
        };
        let stored = made().and_then(|kept| {
            store(manager, id, &kept)?;
            self.kept.lock().insert(id.to_owned(), kept);
            Ok(())
        });
        if let Err(error) = stored {
            tracing::info!(volume = id, %error, "a restart of this process will end the device");
        }
    }

    /// Notes that a device was resumed in this epoch.
    pub fn resumed(&self, id: &str, epoch: u64) -> Result<()> {
        let mut kept = self.kept.lock();
        let Some(kept) = kept.get_mut(id) else {
            return Ok(());
        };
        kept.facts.epoch = epoch;
        write(&kept.memory, &kept.facts)?;
        kept.waiting = false;
        Ok(())
    }

    /// Ends the keeping of a device that was taken away.
    pub fn forget(&self, id: &str) {
        let known = self.kept.lock().remove(id).is_some();
        let Some(manager) = self.manager.as_ref().filter(|_| known) else {
            return;
        };
        for prefix in [CONNECTION, FACTS] {
            if let Err(error) = manager.remove(&format!("{prefix}{id}")) {
                tracing::debug!(volume = id, %error, "the service manager does not listen");
            }
        }
    }

    /// Tells a service manager that was started anew what it has to keep.
    pub fn refresh(&self) {
        let Some(manager) = &self.manager else { return };
        let now = manager.instance();
        if now.is_none() || *self.told.lock() == now {
            return;
        }
        let done = self
            .kept
            .lock()
            .iter()
            .try_for_each(|(id, kept)| store(manager, id, kept));
        match done {
            Ok(()) => *self.told.lock() = now,
            Err(error) => tracing::debug!(%error, "the service manager does not take devices yet"),
        }
    }
}

fn store(manager: &Manager, id: &str, kept: &Kept) -> Result<()> {
    manager.store(&format!("{FACTS}{id}"), kept.memory.as_fd())?;
    manager.store(&format!("{CONNECTION}{id}"), kept.connection.as_fd())
}

fn write(memory: &File, facts: &Facts) -> Result<()> {
    let mut text = serde_json::to_vec(facts)?;
    if text.len() > FACTS_BYTES {
        return Err(Error::new(ErrorKind::InvalidInput, "the key is too long"));
    }
    text.resize(FACTS_BYTES, b' ');
    memory.write_all_at(&text, 0)
}

fn read(memory: &File) -> Result<Facts> {
    let mut text = [0; FACTS_BYTES];
    memory.read_exact_at(&mut text, 0)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(epoch: u64) -> Facts {
        Facts {
            epoch,
            read_only: epoch % 2 == 1,
            key: vec![0xff; 64],
        }
    }

    async fn descriptors(store: &fdstore::Store, count: usize) -> Vec<(String, OwnedFd)> {
        for _ in 0..2000 {
            let kept = store.descriptors().expect("duplicates");
            if kept.len() == count {
                return kept;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("{count} descriptors were expected: {:?}", store.descriptors());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_successor_finds_the_devices_and_what_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("notify");
        let store = fdstore::Store::listen(&socket).expect("a store");
        let keeper = Keeper::new(Some(Manager::at(&socket)), Vec::new());
        let connection = tempfile::tempfile().expect("a file");
        keeper.keep("one", connection.as_fd(), facts(3));
        keeper.keep("two", connection.as_fd(), facts(4));
        assert!(keeper.waiting().is_empty(), "they are ours");

        let second = Keeper::new(Some(Manager::at(&socket)), descriptors(&store, 4).await);
        assert_eq!(second.waiting(), ["one", "two"]);
        assert!(
            second
                .get_waiting("one")
                .is_some_and(|(_, found)| found == facts(3))
        );
        second.resumed("one", 8).expect("written");
        assert!(second.get_waiting("one").is_none());
        second.forget("two");

        // A manager that was started anew is told once more, one that was not is left alone.
        drop(store);
        let store = fdstore::Store::listen(&socket).expect("a store");
        second.refresh();
        let third = Keeper::new(None, descriptors(&store, 2).await);
        assert_eq!(third.waiting(), ["one"]);
        assert_eq!(third.get_waiting("one").map(|(_, found)| found.epoch), Some(8));
        store.clear();
        second.refresh();
        assert!(store.descriptors().expect("duplicates").is_empty());
    }

    #[test]
    fn half_a_device_is_none() {
        let only_connection = tempfile::tempfile().expect("a file").into();
        let keeper = Keeper::new(None, vec![("fuse.one".into(), only_connection)]);
        assert!(keeper.waiting().is_empty());
        let (connection, facts) = (tempfile::tempfile(), tempfile::tempfile());
        let torn = vec![
            ("fuse.two".into(), connection.expect("a file").into()),
            ("facts.two".into(), facts.expect("a file").into()),
        ];
        assert!(Keeper::new(None, torn).waiting().is_empty(), "no facts in it");
    }
}
