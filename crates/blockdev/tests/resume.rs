//! A device whose server is killed goes on with the next one. Needs root.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use bytes::Bytes;
use fdstore::{Manager, Store};
use hikube_blockdev::{Attachment, BlockDevice, Done, Options, clean_stale};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const DIR: &str = "HIKUBE_RESUME_TEST_DIR";
const STALL_AFTER: &str = "HIKUBE_RESUME_TEST_STALL_AFTER";
const PATIENCE: Duration = Duration::from_secs(30);
const SIZE: u64 = 64 << 20;

/// A device on a file. After so many writes it neither does nor answers any more.
struct OnFile {
    file: File,
    writes: AtomicU32,
    stall_after: u32,
    stalled: PathBuf,
}

impl OnFile {
    fn done<T>(result: std::io::Result<T>, done: Done<T>) {
        done(result.map_err(|e| e.raw_os_error().unwrap_or(libc::EIO)));
    }
}

impl BlockDevice for OnFile {
    fn size_bytes(&self) -> u64 {
        self.file.metadata().unwrap().len()
    }

    fn read(&self, offset: u64, len: u32, done: Done<Bytes>) {
        let mut data = vec![0; len as usize];
        let read = self.file.read_exact_at(&mut data, offset);
        Self::done(read.map(|()| data.into()), done);
    }

    fn write(&self, offset: u64, data: Bytes, _fua: bool, done: Done<()>) {
        if self.writes.fetch_add(1, Ordering::SeqCst) >= self.stall_after {
            File::create(&self.stalled).unwrap();
            // Neither answered nor refused, as long as this process lives.
            std::mem::forget(done);
            return;
        }
        Self::done(self.file.write_all_at(&data, offset), done);
    }

    fn flush(&self, done: Done<()>) {
        Self::done(self.file.sync_all(), done);
    }

    fn zero(&self, offset: u64, len: u64, _discard: bool, done: Done<()>) {
        Self::done(self.file.write_all_at(&vec![0; len as usize], offset), done);
    }
}

/// The process that serves: with a connection it goes on, without one it begins.
#[test]
fn the_server() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
        return;
    };
    let stall_after = std::env::var(STALL_AFTER).unwrap().parse().unwrap();
    let device = Arc::new(OnFile {
        file: File::options()
            .read(true)
            .write(true)
            .open(dir.join("data"))
            .unwrap(),
        writes: AtomicU32::new(0),
        stall_after,
        stalled: dir.join("stalled"),
    });
    let mount = dir.join("mount");
    let mut attachment = match fdstore::inherited().unwrap().pop() {
        Some((_, kept)) => Attachment::resume(device, &mount, kept, Options::default()).unwrap(),
        None => {
            let made = Attachment::attach(device, &mount, Options::default()).unwrap();
            let manager = Manager::from_env().unwrap();
            manager.store("fuse", made.connection()).unwrap();
            made
        }
    };
    assert!(attachment.is_alive());
    std::fs::write(dir.join("device.new"), attachment.path().to_str().unwrap()).unwrap();
    std::fs::rename(dir.join("device.new"), dir.join("device")).unwrap();
    let end = dir.join("end");
    wait(|| end.exists());
    attachment.detach(false).unwrap();
    std::fs::remove_file(end).unwrap();
}

fn wait(done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Servers {
    dir: tempfile::TempDir,
    store: Store,
    child: Option<Child>,
}

impl Servers {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("hk-resume-").tempdir().unwrap();
        File::create(dir.path().join("data"))
            .unwrap()
            .set_len(SIZE)
            .unwrap();
        let store = Store::listen(&dir.path().join("notify")).unwrap();
        Self {
            dir,
            store,
            child: None,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a server and returns its device.
    fn start(&mut self, stall_after: u32) -> PathBuf {
        let told = self.path("device");
        let _ = std::fs::remove_file(&told);
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "LISTEN_PID=$$ exec \"$0\" --exact the_server"])
            .arg(std::env::current_exe().unwrap())
            .env(fdstore::SOCKET_VARIABLE, self.path("notify"))
            .env(DIR, self.dir.path())
            .env(STALL_AFTER, stall_after.to_string());
        fdstore::pass(&mut command, self.store.descriptors().unwrap()).unwrap();
        self.child = Some(command.spawn().unwrap());
        wait(|| told.exists() && self.store.descriptors().unwrap().len() == 1);
        std::fs::read_to_string(told).unwrap().into()
    }

    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
        self.store.clear();
        let _ = clean_stale(self.dir.path(), &[]);
    }
}

fn open_direct(device: &Path) -> File {
    File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DSYNC)
        .open(device)
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_costs_a_pause_and_no_request() {
    let mut servers = Servers::new();
    let device = servers.start(20);
    // The twenty-first write is taken by a server that dies before it answers.
    let (writer, path) = (device.clone(), device.clone());
    let writing = std::thread::spawn(move || {
        let mut file = open_direct(&writer);
        for number in 0..200u64 {
            file.seek(SeekFrom::Start(number * 65536)).unwrap();
            file.write_all(&[number as u8 + 1; 4096]).unwrap();
        }
    });
    let stalled = servers.path("stalled");
    wait(|| stalled.exists());
    servers.kill();
    std::thread::sleep(Duration::from_millis(50));
    assert!(!writing.is_finished(), "it waits for the next server");
    assert!(clean_stale(servers.dir.path(), &[servers.path("mount")]).is_ok_and(|n| n == 0));
    assert_eq!(servers.start(100), device, "the same device");
    // And once more.
    std::fs::remove_file(&stalled).unwrap();
    wait(|| stalled.exists());
    servers.kill();
    assert_eq!(servers.start(u32::MAX), device);
    tokio::task::spawn_blocking(move || writing.join().unwrap())
        .await
        .unwrap();
    let mut file = File::open(path).unwrap();
    for number in 0..200u64 {
        let mut data = [0; 4096];
        file.seek(SeekFrom::Start(number * 65536)).unwrap();
        file.read_exact(&mut data).unwrap();
        assert!(data == [number as u8 + 1; 4096], "write {number}");
    }
    drop(file);
    std::fs::write(servers.path("end"), "").unwrap();
    let mut last = servers.child.take().unwrap();
    assert!(last.wait().unwrap().success(), "it is taken away as any other");
    assert!(!servers.path("mount").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_connection_a_device_is_lost() {
    let mut servers = Servers::new();
    let device = servers.start(u32::MAX);
    open_direct(&device).write_all(&[7; 4096]).unwrap();
    let kept = servers.store.descriptors().unwrap().pop().unwrap().1;
    servers.store.clear();
    servers.kill();
    // Somebody removed the device meanwhile: there is nothing to go on with.
    drop(kept.try_clone().unwrap());
    assert_eq!(clean_stale(servers.dir.path(), &[]).unwrap(), 1);
    let memory = Arc::new(OnFile {
        file: File::options()
            .read(true)
            .write(true)
            .open(servers.path("data"))
            .unwrap(),
        writes: AtomicU32::new(0),
        stall_after: 0,
        stalled: servers.path("stalled"),
    });
    let error = Attachment::resume(memory, &servers.path("mount"), kept, Options::default());
    let error = error.err().unwrap().to_string();
    assert!(error.contains("no loop device is on"), "{error}");
}
