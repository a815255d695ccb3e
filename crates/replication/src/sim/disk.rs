//! A disk that forgets what was not synced, tears, rots and fails.
//!
//! Pages of 4 KiB with one dirty bit for each sector. A power loss keeps an arbitrary subset of the dirty sectors, and an
//! arbitrary subset of creations that were not made durable.

use crate::core::disk::{Disk, DiskFile};
use crate::core::rng::Rng;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

const PAGE: usize = 4096;
const SECTOR: usize = 512;

#[derive(Clone)]
struct Page {
    /// When it was written last.
    at: u64,
    now: Box<[u8; PAGE]>,
    /// Content on the media, when it differs.
    stable: Option<Box<[u8; PAGE]>>,
    dirty: u8,
}

impl Page {
    fn new() -> Page {
        Page {
            at: 0,
            now: Box::new([0; PAGE]),
            stable: None,
            dirty: 0,
        }
    }
}

#[derive(Clone, Default)]
struct FileState {
    pages: BTreeMap<u64, Page>,
    len: u64,
}

#[derive(Default)]
struct State {
    files: BTreeMap<u64, FileState>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    next: u64,
    /// The next sync fails.
    fail_sync: bool,
    /// Syncs say that they succeeded, and do nothing.
    lies: bool,
    now: u64,
}

/// The disk of one replica; survives the replica.
#[derive(Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

struct SimFile {
    state: Arc<Mutex<State>>,
    id: u64,
}

impl SimDisk {
    /// The machine loses power: of what was not synced an arbitrary part survives.
    pub fn power_loss(&self, rng: &mut Rng) {
        // All, none, or each sector by itself.
        let mood = rng.below(4);
        self.lose(mood, rng);
    }

    /// The machine loses power, and nothing survives that was not synced.
    pub fn lose_all(&self, rng: &mut Rng) {
        self.lose(0, rng);
    }

    fn lose(&self, mood: u64, rng: &mut Rng) {
        let mut state = self.state.lock();
        state.lies = false;
        let State {
            files,
            names,
            durable_names,
            ..
        } = &mut *state;
        for (name, id) in names.clone() {
            if durable_names.get(&name) != Some(&id) && rng.percent(50) {
                durable_names.insert(name, id);
            }
        }
        *names = durable_names.clone();
        for file in files.values_mut() {
            for page in file.pages.values_mut().filter(|p| p.dirty != 0) {
                let Some(stable) = page.stable.take() else {
                    continue;
                };
                for sector in 0..PAGE / SECTOR {
                    let dirty = page.dirty & (1 << sector) != 0;
                    let keep = match mood {
                        0 => false,
                        1 => rng.percent(95),
                        _ => rng.percent(50),
                    };
                    if dirty && !keep {
                        let range = sector * SECTOR..(sector + 1) * SECTOR;
                        page.now[range.clone()].copy_from_slice(&stable[range]);
                    }
                }
                page.dirty = 0;
            }
        }
    }

    /// Flips one bit of a file whose name begins with `prefix`. False: there is none with content.
    pub fn rot(&self, prefix: &str, rng: &mut Rng) -> bool {
        let mut state = self.state.lock();
        let ids: Vec<u64> = state
            .names
            .iter()
            .filter(|(n, _)| n.starts_with(prefix))
            .map(|(_, id)| *id)
            .collect();
        if ids.is_empty() {
            return false;
        }
        let id = ids[rng.below(ids.len() as u64) as usize];
        let Some(file) = state.files.get_mut(&id) else {
            return false;
        };
        let full: Vec<u64> = file
            .pages
            .iter()
            .filter(|(_, p)| p.now.iter().any(|b| *b != 0))
            .map(|(n, _)| *n)
            .collect();
        if full.is_empty() {
            return false;
        }
        let page = full[rng.below(full.len() as u64) as usize];
        let Some(page) = file.pages.get_mut(&page) else {
            return false;
        };
        let used: Vec<usize> = (0..PAGE).filter(|i| page.now[*i] != 0).collect();
        let at = used[rng.below(used.len() as u64) as usize];
        page.now[at] ^= 1 << rng.below(8);
        true
    }

    /// The time, for [`SimDisk::rot_written`].
    pub fn tell(&self, now: u64) {
        self.state.lock().now = now;
    }

    /// Flips one bit of the journal in a page that was last written between these times. False: there is none.
    pub fn rot_written(&self, prefix: &str, from: u64, to: u64, rng: &mut Rng) -> bool {
        let mut state = self.state.lock();
        let State { files, names, .. } = &mut *state;
        let mut found: Vec<(u64, u64)> = Vec::new();
        for (_, id) in names.iter().filter(|(n, _)| n.starts_with(prefix)) {
            let pages = files.get(id).into_iter().flat_map(|f| &f.pages);
            let fits = pages.filter(|(_, p)| p.at >= from && p.at <= to);
            found.extend(fits.map(|(number, _)| (*id, *number)));
        }
        if found.is_empty() {
            return false;
        }
        let (id, number) = found[rng.below(found.len() as u64) as usize];
        let page = files.get_mut(&id).and_then(|f| f.pages.get_mut(&number));
        if let Some(page) = page {
            page.now[rng.below(PAGE as u64) as usize] ^= 1 << rng.below(8);
        }
        true
    }

    /// A copy of everything as it is now, as a backup would take it.
    pub fn backup(&self) -> SimDisk {
        let copy = SimDisk::default();
        copy.restore(self);
        copy
    }

    /// Everything is replaced by what `backup` has.
    pub fn restore(&self, backup: &SimDisk) {
        let source = backup.state.lock();
        let mut state = self.state.lock();
        let mut files = source.files.clone();
        for page in files.values_mut().flat_map(|f| f.pages.values_mut()) {
            page.stable = None;
            page.dirty = 0;
        }
        *state = State {
            files,
            durable_names: source.names.clone(),
            names: source.names.clone(),
            next: source.next,
            fail_sync: false,
            lies: false,
            now: state.now,
        };
    }

    /// The next sync of any file fails.
    pub fn fail_next_sync(&self) {
        self.state.lock().fail_sync = true;
    }

    /// From here on syncs do nothing, until the next loss of power.
    pub fn lie(&self) {
        self.state.lock().lies = true;
    }

    /// A failure that was to come does not come, and syncs do what they say.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.fail_sync = false;
        state.lies = false;
    }

    /// Everything is gone: a new disk.
    pub fn wipe(&self) {
        *self.state.lock() = State::default();
    }
}

impl Disk for SimDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let id = self.state.lock().names.get(name).copied();
        let id = id.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Arc::new(SimFile {
            state: self.state.clone(),
            id,
        }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.next += 1;
        let id = state.next;
        state.files.insert(id, FileState::default());
        state.names.insert(name.to_owned(), id);
        Ok(Arc::new(SimFile {
            state: self.state.clone(),
            id,
        }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state.lock().names.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let gone = self.state.lock().names.remove(name);
        gone.map(|_| ())
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.lies {
            state.durable_names = state.names.clone();
        }
        Ok(())
    }
}

fn gone() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

impl SimFile {
    fn write(file: &mut FileState, now: u64, mut offset: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let (number, at) = (offset / PAGE as u64, (offset % PAGE as u64) as usize);
            let n = data.len().min(PAGE - at);
            let page = file.pages.entry(number).or_insert_with(Page::new);
            if page.stable.is_none() {
                page.stable = Some(page.now.clone());
            }
            page.at = now;
            page.now[at..at + n].copy_from_slice(&data[..n]);
            for sector in at / SECTOR..=(at + n - 1) / SECTOR {
                page.dirty |= 1 << sector;
            }
            offset += n as u64;
            data = &data[n..];
        }
        file.len = file.len.max(offset);
    }
}

impl DiskFile for SimFile {
    fn pread(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.state.lock();
        let file = state.files.get(&self.id).ok_or_else(gone)?;
        let n = file.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < n {
            let at = offset + done as u64;
            let (number, from) = (at / PAGE as u64, (at % PAGE as u64) as usize);
            let len = (n - done).min(PAGE - from);
            match file.pages.get(&number) {
                Some(page) => buf[done..done + len].copy_from_slice(&page.now[from..from + len]),
                None => buf[done..done + len].fill(0),
            }
            done += len;
        }
        Ok(n)
    }

    fn pwritev(&self, parts: &[&[u8]], mut offset: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let now = state.now;
        let file = state.files.get_mut(&self.id).ok_or_else(gone)?;
        for part in parts {
            SimFile::write(file, now, offset, part);
            offset += part.len() as u64;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let fail = std::mem::take(&mut state.fail_sync);
        if state.lies {
            return Ok(());
        }
        let file = state.files.get_mut(&self.id).ok_or_else(gone)?;
        for page in file.pages.values_mut().filter(|p| p.dirty != 0) {
            if fail {
                // The cache says clean, the media has the old content: it will show after the next power loss.
                page.dirty = 0xff;
                continue;
            }
            page.dirty = 0;
            page.stable = None;
        }
        if fail {
            Err(io::Error::other("injected EIO"))
        } else {
            Ok(())
        }
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let now = state.now;
        let file = state.files.get_mut(&self.id).ok_or_else(gone)?;
        let (first, last) = (offset.div_ceil(PAGE as u64), (offset + len) / PAGE as u64);
        for number in first..last {
            if file.pages.contains_key(&number) {
                SimFile::write(file, now, number * PAGE as u64, &[0; PAGE]);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let file = state.files.get_mut(&self.id).ok_or_else(gone)?;
        file.len = file.len.max(len);
        Ok(())
    }

    fn allocated(&self) -> io::Result<u64> {
        let state = self.state.lock();
        Ok(state
            .files
            .get(&self.id)
            .map_or(0, |f| f.pages.len() as u64 * PAGE as u64))
    }
}
