//! The blocks in place: a sparse file of data and one of entries, 16 bytes for each block: version, salted checksum,
//! what it is. An entry of zeroes is a block that was never written.
//!
//! Entries never cross a sector and a record stays in the journal until both files are synced (R9), so a torn write
//! here is always written again.

use crate::core::checksum;
use crate::core::disk::{Disk, DiskFile};
use crate::core::types::{BLOCK, Seq};
use std::io;
use std::sync::Arc;

const DATA: &str = "data";
const META: &str = "meta";
/// Bytes of an entry.
const ENTRY: usize = 16;
/// Flag of a block with data.
const FLAG_DATA: u32 = 1;
/// Flag of a block that was zeroed.
const FLAG_ZERO: u32 = 2;
/// Flag, in a layer, of a block that had never been written.
const FLAG_ABSENT: u32 = 4;

/// What is known of one block in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Seq of the record; 0: never written.
    pub version: Seq,
    /// Salted checksum.
    pub crc: u32,
    flags: u32,
}

impl Entry {
    /// A block with data.
    pub fn data(version: Seq, crc: u32) -> Entry {
        Entry {
            version,
            crc,
            flags: FLAG_DATA,
        }
    }

    /// A zeroed block.
    pub fn zero(volume: u64, block: u64, version: Seq) -> Entry {
        Entry {
            version,
            crc: checksum::zeroes(volume, block, version),
            flags: FLAG_ZERO,
        }
    }

    /// In a layer: the block had never been written.
    pub fn absent(volume: u64, block: u64) -> Entry {
        Entry {
            version: 0,
            crc: checksum::zeroes(volume, block, Seq::MAX),
            flags: FLAG_ABSENT,
        }
    }

    /// Says that it reads as zeroes.
    pub fn is_zero(&self) -> bool {
        self.flags == FLAG_ZERO || *self == Entry::default()
    }

    /// The checksum of an entry of zeroes holds.
    pub fn is_sound_zero(&self, volume: u64, block: u64) -> bool {
        *self == Entry::default() || *self == Entry::zero(volume, block, self.version)
    }

    /// Has data.
    pub fn is_data(&self) -> bool {
        self.flags == FLAG_DATA
    }

    fn parse(b: &[u8]) -> Entry {
        let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        Entry {
            version: u64::from(word(0)) | u64::from(word(4)) << 32,
            crc: word(8),
            flags: word(12),
        }
    }

    fn put(&self, b: &mut Vec<u8>) {
        b.extend_from_slice(&self.version.to_le_bytes());
        b.extend_from_slice(&self.crc.to_le_bytes());
        b.extend_from_slice(&self.flags.to_le_bytes());
    }
}

/// The two files.
pub struct Blocks {
    /// Data, block after block.
    pub data: Arc<dyn DiskFile>,
    /// Entries.
    pub meta: Arc<dyn DiskFile>,
}

impl Blocks {
    /// Makes the files, empty; the caller syncs the directory.
    pub fn create(disk: &dyn Disk, blocks: u64) -> io::Result<Blocks> {
        Self::create_as(disk, DATA, META, blocks)
    }

    /// The same under other names.
    pub fn create_as(disk: &dyn Disk, data: &str, meta: &str, blocks: u64) -> io::Result<Blocks> {
        let b = Blocks {
            data: disk.create(data)?,
            meta: disk.create(meta)?,
        };
        b.resize(blocks)?;
        b.sync()?;
        Ok(b)
    }

    /// Opens the files.
    pub fn open(disk: &dyn Disk) -> io::Result<Blocks> {
        Self::open_as(disk, DATA, META)
    }

    /// The same under other names.
    pub fn open_as(disk: &dyn Disk, data: &str, meta: &str) -> io::Result<Blocks> {
        Ok(Blocks {
            data: disk.open(data)?,
            meta: disk.open(meta)?,
        })
    }

    /// Makes room for so many blocks.
    pub fn resize(&self, blocks: u64) -> io::Result<()> {
        self.data.set_len(blocks * BLOCK as u64)?;
        self.meta.set_len(blocks * ENTRY as u64)
    }

    /// Everything written so far is on stable media after it.
    pub fn sync(&self) -> io::Result<()> {
        self.data.sync()?;
        self.meta.sync()
    }

    /// Entries of a range.
    pub fn entries(&self, block: u64, count: u64) -> io::Result<Vec<Entry>> {
        let mut buf = vec![0u8; count as usize * ENTRY];
        let n = self.meta.pread(&mut buf, block * ENTRY as u64)?;
        buf[n..].fill(0);
        Ok(buf.chunks_exact(ENTRY).map(Entry::parse).collect())
    }

    /// Reads data of consecutive blocks; what is past the end of the file is zeroes.
    pub fn read(&self, block: u64, buf: &mut [u8]) -> io::Result<()> {
        let n = self.data.pread(buf, block * BLOCK as u64)?;
        buf[n..].fill(0);
        Ok(())
    }

    /// Writes consecutive blocks and their entries. `data` is none for zeroes.
    pub fn write(&self, block: u64, entries: &[Entry], data: Option<&[&[u8]]>) -> io::Result<()> {
        if let Some(parts) = data {
            self.data.pwritev(parts, block * BLOCK as u64)?;
        }
        let mut raw = Vec::with_capacity(entries.len() * ENTRY);
        for e in entries {
            e.put(&mut raw);
        }
        self.meta.pwritev(&[&raw], block * ENTRY as u64)
    }

    /// Writes the data of consecutive blocks, whose entries are written afterwards.
    pub fn write_data(&self, block: u64, data: &[&[u8]]) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.data.pwritev(data, block * BLOCK as u64)
    }

    /// Frees the data of a range whose entries say zero.
    pub fn punch(&self, block: u64, count: u64) -> io::Result<()> {
        self.data.punch(block * BLOCK as u64, count * BLOCK as u64)
    }
}
