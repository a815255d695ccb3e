//! What components hand over to get it again after a restart, see [`fdstore`].

use std::collections::BTreeMap;
use std::io::Result;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The descriptors of all components of a unit.
pub(super) struct Kept {
    dir: PathBuf,
    stores: Mutex<BTreeMap<String, fdstore::Store>>,
}

impl Kept {
    /// Listens in the directory of that file.
    pub fn beside(processes: &Path) -> Self {
        Self {
            dir: processes.parent().map(Path::to_owned).unwrap_or_default(),
            stores: Mutex::default(),
        }
    }

    /// Listens for what the component hands over.
    pub fn listen(&self, component: &str) -> Result<()> {
        let mut stores = self.stores();
        if !stores.contains_key(component) {
            let store = fdstore::Store::listen(&self.socket(component))?;
            stores.insert(component.to_owned(), store);
        }
        Ok(())
    }

    /// Has the component started with what it handed over, and told where to hand over more.
    pub fn give(&self, component: &str, command: &mut Command) -> Result<()> {
        self.listen(component)?;
        command.env(fdstore::SOCKET_VARIABLE, self.socket(component));
        match self.stores().get(component) {
            Some(store) => fdstore::pass(command, store.descriptors()?),
            None => Ok(()),
        }
    }

    /// Closes what the component has handed over.
    pub fn clear(&self, component: &str) {
        self.stores().remove(component);
    }

    fn socket(&self, component: &str) -> PathBuf {
        self.dir.join(format!("{component}.notify"))
    }

    fn stores(&self) -> MutexGuard<'_, BTreeMap<String, fdstore::Store>> {
        // Nothing is left half done under this lock.
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
