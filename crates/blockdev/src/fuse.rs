//! A FUSE file system with one file, `volume`, that is a [`BlockDevice`].
//!
//! The kernel's requests are passed on in the order in which they are read and answered from whatever thread
//! completes them, so many are in flight. The page cache is bypassed: the loop device above does direct I/O.

use crate::BlockDevice;
use bytes::Bytes;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, WriteFlags,
};
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// Name of the file.
pub(crate) const FILE_NAME: &str = "volume";
/// Largest write that the kernel may send in one request: what a loop device sends at most, in bytes.
const MAX_WRITE_BYTES: u32 = 1 << 20;
/// Requests that the kernel keeps in flight; a loop device has a queue of 128.
const MAX_IN_FLIGHT: u16 = 128;
/// Attributes are never cached, because the size may grow.
const NO_CACHE: Duration = Duration::ZERO;
const FILE: INodeNo = INodeNo(2);
const BLOCK_BYTES: u32 = 4096;

/// The file system.
pub(crate) struct VolumeFs {
    device: Arc<dyn BlockDevice>,
    read_only: bool,
}

impl VolumeFs {
    /// Serves `device`.
    pub(crate) fn new(device: Arc<dyn BlockDevice>, read_only: bool) -> Self {
        Self { device, read_only }
    }

    fn attributes(&self, ino: INodeNo) -> Option<FileAttr> {
        let (kind, perm, nlink, size) = match ino {
            INodeNo::ROOT => (FileType::Directory, 0o500, 2, 0),
            FILE => (FileType::RegularFile, 0o600, 1, self.device.size_bytes()),
            _ => return None,
        };
        Some(FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLOCK_BYTES,
            flags: 0,
        })
    }
}

fn answer(reply: ReplyEmpty) -> crate::Done<()> {
    Box::new(move |result| match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(Errno::from_i32(errno)),
    })
}

impl Filesystem for VolumeFs {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Each of these is an optimization: a kernel that lacks one still works.
        for flag in [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_BIG_WRITES,
            InitFlags::FUSE_MAX_PAGES,
        ] {
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(MAX_WRITE_BYTES);
        let _ = config.set_max_background(MAX_IN_FLIGHT);
        let _ = config.set_congestion_threshold(MAX_IN_FLIGHT);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.attributes(FILE) {
            Some(attributes) if parent == INodeNo::ROOT && name == FILE_NAME => {
                reply.entry(&NO_CACHE, &attributes, Generation(0));
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino) {
            Some(attributes) => reply.attr(&NO_CACHE, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if ino != FILE {
            return reply.error(Errno::EISDIR);
        }
        let flags = FopenFlags::FOPEN_DIRECT_IO
            | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
            | FopenFlags::FOPEN_NOFLUSH;
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let left = self.device.size_bytes().saturating_sub(offset);
        let len = u64::from(size).min(left) as u32;
        if len == 0 {
            return reply.data(&[]);
        }
        self.device.read(
            offset,
            len,
            Box::new(move |result| match result {
                Ok(data) => reply.data(&data),
                Err(errno) => reply.error(Errno::from_i32(errno)),
            }),
        );
        self.device.start();
    }

    fn write(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if self.read_only {
            return reply.error(Errno::EROFS);
        }
        let len = data.len() as u32;
        let end = offset.checked_add(u64::from(len));
        if end.is_none_or(|end| end > self.device.size_bytes()) {
            return reply.error(Errno::ENOSPC);
        }
        self.device.write(
            offset,
            Bytes::copy_from_slice(data),
            false,
            Box::new(move |result| match result {
                Ok(()) => reply.written(len),
                Err(errno) => reply.error(Errno::from_i32(errno)),
            }),
        );
        self.device.start();
    }

    fn flush(&self, _request: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Sent when a descriptor is closed; it asks for nothing to be durable.
        reply.ok();
    }

    fn fsync(&self, _request: &Request, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.device.flush(answer(reply));
        self.device.start();
    }

    fn fallocate(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let discard = mode & libc::FALLOC_FL_PUNCH_HOLE != 0;
        let zero = mode & libc::FALLOC_FL_ZERO_RANGE != 0;
        if self.read_only {
            return reply.error(Errno::EROFS);
        }
        if !discard && !zero {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let length = length.min(self.device.size_bytes().saturating_sub(offset));
        if length == 0 {
            return reply.ok();
        }
        self.device.zero(offset, length, discard, answer(reply));
        self.device.start();
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if ino != INodeNo::ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let entries = [
            (INodeNo::ROOT, FileType::Directory, "."),
            (INodeNo::ROOT, FileType::Directory, ".."),
            (FILE, FileType::RegularFile, FILE_NAME),
        ];
        for (index, (ino, kind, name)) in (1u64..).zip(entries).skip(offset as usize) {
            if reply.add(ino, index, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        // The loop device takes its discard granularity from here.
        let blocks = self.device.size_bytes() / u64::from(BLOCK_BYTES);
        reply.statfs(blocks, 0, 0, 1, 0, BLOCK_BYTES, 255, BLOCK_BYTES);
    }

    fn getxattr(&self, _request: &Request, _ino: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<fuser::TimeOrNow>,
        _mtime: Option<fuser::TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // Times and modes are of no interest; the size changes only through the engine.
        match self.attributes(ino) {
            Some(attributes) if size.is_none() => reply.attr(&NO_CACHE, &attributes),
            _ => reply.error(Errno::EPERM),
        }
    }
}
