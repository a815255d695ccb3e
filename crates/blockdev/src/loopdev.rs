//! Loop devices: a file as `/dev/loopN` (see loop(4) and `linux/loop.h`).

use crate::Error;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const CONTROL: &str = "/dev/loop-control";
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_CLR_FD: libc::c_ulong = 0x4C01;
const LOOP_SET_CAPACITY: libc::c_ulong = 0x4C07;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_DIRECT_IO: u32 = 16;
/// Block number of loop devices.
const LOOP_MAJOR: u32 = 7;
/// Others take free devices at the same time; each attempt asks for the next free one.
const ATTEMPTS: u32 = 32;
/// A cleared device goes when its last user has closed it; udev may hold it for a moment.
const CLEAR_TIMEOUT: Duration = Duration::from_secs(2);

#[repr(C)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

/// Attaches `file`, whose path is `path`, to a free loop device with logical blocks of `block_size` bytes, and
/// returns the device's path.
pub(crate) fn attach(file: &File, path: &Path, block_size: u32, read_only: bool) -> Result<PathBuf, Error> {
    let control = File::options()
        .read(true)
        .write(true)
        .open(CONTROL)
        .map_err(Error::file("open", CONTROL))?;
    for _ in 0..ATTEMPTS {
        // SAFETY: LOOP_CTL_GET_FREE takes no argument and returns a number or -1.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        if number < 0 {
            return Err(Error::on_loop("find a free device", CONTROL)(
                io::Error::last_os_error(),
            ));
        }
        let device = PathBuf::from(format!("/dev/loop{number}"));
        make_node(&device, number as u32)?;
        match configure(&device, file, path, block_size, read_only) {
            Ok(()) => return Ok(device),
            // Somebody else took it between the two calls.
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => continue,
            Err(e) => return Err(Error::on_loop("attach", device)(e)),
        }
    }
    Err(Error::NoLoopDevice { attempts: ATTEMPTS })
}

/// Where /dev is not kept by the kernel, the node must be made.
fn make_node(device: &Path, number: u32) -> Result<(), Error> {
    if device.exists() {
        return Ok(());
    }
    let mode = rustix::fs::Mode::from_raw_mode(0o660);
    let rdev = rustix::fs::makedev(LOOP_MAJOR, number);
    match rustix::fs::mknodat(
        rustix::fs::CWD,
        device,
        rustix::fs::FileType::BlockDevice,
        mode,
        rdev,
    ) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(e) => Err(Error::file("make device node", device)(e.into())),
    }
}

fn configure(device: &Path, file: &File, path: &Path, block_size: u32, read_only: bool) -> io::Result<()> {
    let node = File::options().read(true).write(!read_only).open(device)?;
    let mut flags = LO_FLAGS_DIRECT_IO;
    if read_only {
        flags |= LO_FLAGS_READ_ONLY;
    }
    let config = LoopConfig {
        fd: file.as_raw_fd() as u32,
        block_size,
        info: LoopInfo64 {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags,
            file_name: label(path),
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: the argument is a loop_config with the kernel's layout, alive during the call.
    let result = unsafe { libc::ioctl(node.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What losetup shows as the file: the end of the path, which tells more than its beginning.
fn label(path: &Path) -> [u8; 64] {
    use std::os::unix::ffi::OsStrExt;
    let bytes = path.as_os_str().as_bytes();
    let tail = &bytes[bytes.len().saturating_sub(63)..];
    let mut label = [0; 64];
    label[..tail.len()].copy_from_slice(tail);
    label
}

/// Tells the device that its file has grown.
pub(crate) fn refresh_size(device: &Path) -> Result<(), Error> {
    let node = File::open(device).map_err(Error::file("open", device))?;
    // SAFETY: LOOP_SET_CAPACITY takes no argument.
    if unsafe { libc::ioctl(node.as_raw_fd(), LOOP_SET_CAPACITY) } < 0 {
        return Err(Error::on_loop("grow", device)(io::Error::last_os_error()));
    }
    Ok(())
}

/// Opens the device for itself alone, which a mounted or otherwise claimed device refuses.
pub(crate) fn claim(device: &Path) -> Result<File, Error> {
    let open = |write: bool| {
        File::options()
            .read(true)
            .write(write)
            .custom_flags(libc::O_EXCL | libc::O_CLOEXEC)
            .open(device)
    };
    let opened = match open(true) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EROFS | libc::EACCES | libc::EPERM)) => open(false),
        other => other,
    };
    opened.map_err(|e| match e.raw_os_error() {
        Some(libc::EBUSY) => Error::InUse {
            device: device.into(),
        },
        _ => Error::file("open", device)(e),
    })
}

/// Takes the file away from the device, at the latest when its last user closes it. Returns whether it is gone.
pub(crate) fn clear(device: &Path) -> Result<bool, Error> {
    let node = match File::open(device) {
        Ok(node) => node,
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENXIO)) => return Ok(true),
        Err(e) => return Err(Error::file("open", device)(e)),
    };
    // SAFETY: LOOP_CLR_FD takes no argument.
    let result = unsafe { libc::ioctl(node.as_raw_fd(), LOOP_CLR_FD) };
    let error = io::Error::last_os_error();
    if result < 0 && error.raw_os_error() != Some(libc::ENXIO) {
        return Err(Error::on_loop("detach", device)(error));
    }
    drop(node);
    let deadline = Instant::now() + CLEAR_TIMEOUT;
    while backing_file(device).is_some() {
        if Instant::now() > deadline {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(true)
}

/// Path of the file under the device, as the kernel shows it; `None` when there is none.
pub(crate) fn backing_file(device: &Path) -> Option<PathBuf> {
    let name = device.file_name()?.to_str()?;
    let text = std::fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
    Some(PathBuf::from(text.trim_end_matches('\n')))
}

/// Whether the device does direct I/O on its file.
pub(crate) fn is_direct(device: &Path) -> bool {
    let name = device.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    std::fs::read_to_string(format!("/sys/block/{name}/loop/dio")).is_ok_and(|text| text.trim() == "1")
}

/// Devices whose file lies at or below `dir`.
pub(crate) fn find_below(dir: &Path) -> Result<Vec<(PathBuf, PathBuf)>, Error> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir("/sys/block") {
        Ok(entries) => entries,
        Err(e) => return Err(Error::file("list", "/sys/block")(e)),
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|n| n.starts_with("loop")) else {
            continue;
        };
        let device = Path::new("/dev").join(name);
        if let Some(file) = backing_file(&device).filter(|file| file.starts_with(dir)) {
            found.push((device, file));
        }
    }
    Ok(found)
}
