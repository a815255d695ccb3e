//! File systems on a volume's device: what it holds, making one on a blank device, checking, growing.

use crate::command;
use crate::mount::blocking;
use std::path::Path;
use std::time::Duration;
use tonic::Status;

/// File systems that can be asked for; the first is the default.
pub(crate) const SUPPORTED: [&str; 2] = ["ext4", "xfs"];

/// A probe reads a few blocks.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);
/// Only metadata is written: seconds even for many TiB.
const FORMAT_TIMEOUT: Duration = Duration::from_secs(100);
/// A full check of a large, damaged file system.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1800);
/// Growing writes block group descriptors.
const GROW_TIMEOUT: Duration = Duration::from_secs(300);
/// Exit code of blkid: nothing found.
const BLKID_NOTHING: i32 = 2;
/// Exit code bits of fsck that leave a usable file system: errors corrected, reboot advised.
const FSCK_USABLE: i32 = 1 | 2;

/// What a device holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Nothing that anybody could miss.
    Blank,
    /// A file system of this type.
    FileSystem(String),
    /// Something else; it says what.
    Other(String),
}

/// Looks at what the device holds. It is blank only if no signature of anything is found *and* its first block
/// is zero. Every file system of [`SUPPORTED`] writes that block last or with a signature, so that a format that
/// was cut short is recognized as blank.
pub(crate) async fn probe(device: &Path) -> Result<Content, Status> {
    let args = ["-p", "-o", "export", "-s", "TYPE", "-s", "PTTYPE", "-s", "USAGE"];
    let mut args: Vec<&std::ffi::OsStr> = args.iter().map(std::ffi::OsStr::new).collect();
    args.push(device.as_os_str());
    let ended = command::run("blkid", &args, PROBE_TIMEOUT).await?;
    let value = |key: &str| {
        let lines = ended.stdout.lines();
        lines
            .filter_map(|l| l.split_once('='))
            .find(|(k, _)| *k == key)
            .map(|(_, v)| v.to_owned())
    };
    match ended.code {
        0 => {}
        BLKID_NOTHING => {
            return Ok(if first_block_is_zero(device).await? {
                Content::Blank
            } else {
                Content::Other("data without a known signature".into())
            });
        }
        code => {
            return Err(Status::internal(format!(
                "blkid on {} ended with {code}: {}",
                device.display(),
                ended.said
            )));
        }
    }
    if let Some(table) = value("PTTYPE") {
        return Ok(Content::Other(format!("a {table} partition table")));
    }
    let kind = value("TYPE").unwrap_or_else(|| "something unnamed".into());
    Ok(match value("USAGE") {
        Some(usage) if usage != "filesystem" => Content::Other(format!("{kind} ({usage})")),
        _ => Content::FileSystem(kind),
    })
}

async fn first_block_is_zero(device: &Path) -> Result<bool, Status> {
    let path = device.to_owned();
    blocking("read the first block", PROBE_TIMEOUT, move || {
        use std::os::unix::fs::FileExt;
        let mut block = [0_u8; 4096];
        std::fs::File::open(path)?.read_exact_at(&mut block, 0)?;
        Ok(block.iter().all(|b| *b == 0))
    })
    .await
}

/// Makes a file system. `zeroed`: the device was never written, so nothing has to be zeroed on it, now or later
/// in the background.
pub(crate) async fn format(device: &Path, fs_type: &str, zeroed: bool) -> Result<(), Status> {
    let device = device.to_string_lossy();
    tracing::info!(device = %device, fs_type, "formatting a blank volume");
    if fs_type == "xfs" {
        return command::succeed("mkfs.xfs", &["-q", "-K", &device], FORMAT_TIMEOUT).await;
    }
    // No reserve for root, no discard (a new volume has nothing to discard), tables filled lazily.
    const LAZY: &str = "nodiscard,lazy_itable_init=1,lazy_journal_init=1";
    if zeroed {
        let options = format!("{LAZY},assume_storage_prezeroed=1");
        let args = ["-q", "-F", "-m", "0", "-E", &options, &device];
        if command::succeed("mkfs.ext4", &args, FORMAT_TIMEOUT).await.is_ok() {
            return Ok(());
        }
        // e2fsprogs before 1.47 does not know the last option.
    }
    command::succeed(
        "mkfs.ext4",
        &["-q", "-F", "-m", "0", "-E", LAZY, &device],
        FORMAT_TIMEOUT,
    )
    .await
}

/// Replays the journal and repairs what can be repaired without loss. xfs does so by itself when it is mounted.
pub(crate) async fn check(device: &Path, fs_type: &str) -> Result<(), Status> {
    if !fs_type.starts_with("ext") {
        return Ok(());
    }
    let device = device.to_string_lossy();
    let ended = command::run("e2fsck", &["-p", &device], CHECK_TIMEOUT).await?;
    if ended.code & FSCK_USABLE != 0 {
        tracing::info!(device = %device, said = ended.said, "file system repaired");
    }
    if ended.code >= 0 && ended.code & !FSCK_USABLE == 0 {
        return Ok(());
    }
    Err(Status::internal(format!(
        "the file system on {device} needs e2fsck by hand: {} {}",
        ended.code, ended.said
    )))
}

/// Grows a mounted file system to the size of its device.
pub(crate) async fn grow(device: &Path, mounted_on: &Path, fs_type: &str) -> Result<(), Status> {
    if fs_type == "xfs" {
        return command::succeed("xfs_growfs", &[mounted_on], GROW_TIMEOUT).await;
    }
    command::succeed("resize2fs", &[device], GROW_TIMEOUT).await
}

/// Whether the file system could be grown, by its superblock. When in doubt it could not: growing is never urgent.
pub(crate) async fn is_smaller_than_device(device: &Path, fs_type: &str) -> bool {
    let (path, is_xfs) = (device.to_owned(), fs_type == "xfs");
    let look = blocking("read the superblock", PROBE_TIMEOUT, move || {
        use std::io::{Read, Seek};
        let mut file = std::fs::File::open(path)?;
        let mut start = [0_u8; 4096];
        file.read_exact(&mut start)?;
        let size = file.seek(std::io::SeekFrom::End(0))?;
        let used = if is_xfs {
            xfs_size(&start)
        } else {
            ext_size(&start)
        };
        // Less than a group's worth cannot always be used, and is not worth the effort.
        Ok(used.is_some_and(|used| used + SPARE < size))
    });
    look.await.unwrap_or(false)
}

/// What may stay unused at the end of a device. Bytes.
const SPARE: u64 = 32 << 20;

/// Size of an ext file system by its first 4 KiB (ext4's on-disk layout: superblock at 1024).
fn ext_size(start: &[u8; 4096]) -> Option<u64> {
    let word = |at: usize| {
        let bytes = start.get(1024 + at..1024 + at + 4)?;
        Some(u64::from(u32::from_le_bytes(bytes.try_into().ok()?)))
    };
    if word(0x38)? & 0xffff != 0xef53 {
        return None;
    }
    let blocks = word(0x4)? | (word(0x150)? << 32);
    blocks.checked_mul(1024_u64.checked_shl(u32::try_from(word(0x18)?).ok()?)?)
}

/// Size of an xfs file system by its first 4 KiB.
fn xfs_size(start: &[u8; 4096]) -> Option<u64> {
    let block = u32::from_be_bytes(start.get(4..8)?.try_into().ok()?);
    let blocks = u64::from_be_bytes(start.get(8..16)?.try_into().ok()?);
    (&start[..4] == b"XFSB").then(|| blocks.checked_mul(block.into()))?
}
