//! A device in memory through FUSE and a loop device: what the kernel and fio make of it. Needs root.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use bytes::Bytes;
use hikube_blockdev::{Attachment, BlockDevice, Done, Error, Options, clean_stale};
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

const PAGE: u64 = 4096;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Counts {
    flushes: AtomicUsize,
    discards: AtomicUsize,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

/// Pages in memory, served by four threads, out of order.
struct Memory {
    size: AtomicU64,
    pages: Arc<Mutex<BTreeMap<u64, Vec<u8>>>>,
    workers: Mutex<Vec<Sender<Job>>>,
    next: AtomicUsize,
    counts: Arc<Counts>,
}

impl Memory {
    fn new(size: u64) -> Arc<Self> {
        let mut workers = Vec::new();
        for _ in 0..4 {
            let (sender, receiver) = channel::<Job>();
            std::thread::spawn(move || {
                for job in receiver {
                    job();
                }
            });
            workers.push(sender);
        }
        Arc::new(Self {
            size: AtomicU64::new(size),
            pages: Arc::default(),
            workers: Mutex::new(workers),
            next: AtomicUsize::new(0),
            counts: Arc::default(),
        })
    }

    fn run(&self, job: impl FnOnce(&mut BTreeMap<u64, Vec<u8>>) + Send + 'static) {
        let counts = self.counts.clone();
        let pages = self.pages.clone();
        let now = counts.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        counts.most_in_flight.fetch_max(now, Ordering::SeqCst);
        let workers = self.workers.lock().unwrap();
        let worker = self.next.fetch_add(1, Ordering::SeqCst) % workers.len();
        workers[worker]
            .send(Box::new(move || {
                std::thread::sleep(std::time::Duration::from_micros(200));
                counts.in_flight.fetch_sub(1, Ordering::SeqCst);
                job(&mut pages.lock().unwrap());
            }))
            .unwrap();
    }
}

impl BlockDevice for Memory {
    fn size_bytes(&self) -> u64 {
        self.size.load(Ordering::SeqCst)
    }
    fn read(&self, offset: u64, len: u32, done: Done<Bytes>) {
        assert!(
            offset.is_multiple_of(PAGE) && u64::from(len).is_multiple_of(PAGE),
            "direct I/O in blocks"
        );
        self.run(move |pages| {
            let mut out = Vec::new();
            for page in 0..u64::from(len) / PAGE {
                match pages.get(&(offset / PAGE + page)) {
                    Some(data) => out.extend_from_slice(data),
                    None => out.extend_from_slice(&[0; PAGE as usize]),
                }
            }
            done(Ok(out.into()));
        });
    }
    fn write(&self, offset: u64, data: Bytes, _fua: bool, done: Done<()>) {
        assert!(
            offset.is_multiple_of(PAGE) && (data.len() as u64).is_multiple_of(PAGE),
            "direct I/O in blocks"
        );
        self.run(move |pages| {
            for (i, page) in data.chunks(PAGE as usize).enumerate() {
                pages.insert(offset / PAGE + i as u64, page.to_vec());
            }
            done(Ok(()));
        });
    }
    fn flush(&self, done: Done<()>) {
        self.counts.flushes.fetch_add(1, Ordering::SeqCst);
        self.run(|_| done(Ok(())));
    }
    fn zero(&self, offset: u64, len: u64, discard: bool, done: Done<()>) {
        if discard {
            self.counts.discards.fetch_add(1, Ordering::SeqCst);
        }
        self.run(move |pages| {
            for page in offset / PAGE..(offset + len) / PAGE {
                pages.remove(&page);
            }
            done(Ok(()));
        });
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: mounting needs root");
    }
    root
}

fn losetup() -> String {
    run(Command::new("losetup").arg("-a"))
}

#[test]
fn fio_verifies_what_it_wrote_and_requests_run_in_parallel() {
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("vol fio");
    let memory = Memory::new(64 << 20);
    let mut attachment = Attachment::attach(memory.clone(), &dir, Options::default()).unwrap();
    assert!(attachment.is_alive() && !attachment.in_use());
    let text = run(Command::new("fio").args([
        "--name=v",
        &format!("--filename={}", attachment.path().display()),
        "--rw=randrw",
        "--bsrange=4k-256k",
        "--blockalign=4k",
        "--ioengine=libaio",
        "--direct=1",
        "--iodepth=32",
        "--size=64M",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--fsync=50",
    ]));
    println!("{text}");
    let counts = &memory.counts;
    assert!(
        counts.most_in_flight.load(Ordering::SeqCst) >= 16,
        "{:?}",
        counts.most_in_flight
    );
    assert!(counts.flushes.load(Ordering::SeqCst) > 0);
    attachment.detach(false).unwrap();
    assert!(!dir.exists());
    assert!(!losetup().contains("vol fio"));
}

#[test]
fn ext4_mounts_discards_and_grows_and_a_mounted_device_is_not_detached() {
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("vol");
    let memory = Memory::new(64 << 20);
    let mut attachment = Attachment::attach(memory.clone(), &dir, Options::default()).unwrap();
    let device = attachment.path().to_owned();
    run(Command::new("mkfs.ext4").arg("-q").arg(&device));
    let mount = temporary.path().join("mnt");
    std::fs::create_dir(&mount).unwrap();
    run(Command::new("mount").args([&device, &mount]));
    assert!(attachment.in_use());
    assert!(matches!(attachment.detach(false), Err(Error::InUse { .. })));
    assert!(attachment.is_alive());
    std::fs::write(mount.join("file"), vec![7u8; 8 << 20]).unwrap();
    run(Command::new("sync").arg("-f").arg(&mount));
    let full = memory.pages.lock().unwrap().len();
    std::fs::remove_file(mount.join("file")).unwrap();
    run(Command::new("sync").arg("-f").arg(&mount));
    run(Command::new("fstrim").arg(&mount));
    assert!(memory.counts.discards.load(Ordering::SeqCst) > 0);
    assert!(memory.pages.lock().unwrap().len() + 1500 < full, "trimmed");
    memory.size.store(128 << 20, Ordering::SeqCst);
    attachment.grow().unwrap();
    let size = run(Command::new("blockdev").arg("--getsize64").arg(&device));
    assert_eq!(size.trim(), (128 << 20).to_string());
    run(Command::new("umount").arg(&mount));
    // Offline: growing a mounted file system needs CAP_SYS_RESOURCE, which not every machine gives.
    run(Command::new("e2fsck").arg("-fy").arg(&device));
    run(Command::new("resize2fs").arg(&device));
    run(Command::new("mount").args([&device, &mount]));
    std::fs::write(mount.join("larger"), vec![8u8; 80 << 20]).unwrap();
    run(Command::new("umount").arg(&mount));
    attachment.detach(false).unwrap();
}

#[test]
fn small_unaligned_access_through_the_page_cache_of_the_device() {
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let memory = Memory::new(1 << 20);
    let mut attachment =
        Attachment::attach(memory, &temporary.path().join("vol"), Options::default()).unwrap();
    let mut file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(attachment.path())
        .unwrap();
    file.seek(SeekFrom::Start(4090)).unwrap();
    file.write_all(b"across a block").unwrap();
    file.sync_all().unwrap();
    file.seek(SeekFrom::Start(4090)).unwrap();
    let mut back = [0; 14];
    file.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"across a block");
    drop(file);
    attachment.detach(false).unwrap();
}

/// Never answers a write, as a volume without quorum.
struct Stuck(Mutex<Vec<Done<()>>>);

impl BlockDevice for Stuck {
    fn size_bytes(&self) -> u64 {
        1 << 20
    }
    fn read(&self, _: u64, len: u32, done: Done<Bytes>) {
        done(Ok(vec![0; len as usize].into()));
    }
    fn write(&self, _: u64, _: Bytes, _: bool, done: Done<()>) {
        self.0.lock().unwrap().push(done);
    }
    fn flush(&self, done: Done<()>) {
        // The kernel flushes while it sets the loop device up.
        done(Ok(()));
    }
    fn zero(&self, _: u64, _: u64, _: bool, done: Done<()>) {
        self.0.lock().unwrap().push(done);
    }
}

#[test]
fn a_forced_detach_ends_requests_that_nobody_answers() {
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let device = Arc::new(Stuck(Mutex::default()));
    let mut attachment =
        Attachment::attach(device.clone(), &temporary.path().join("vol"), Options::default()).unwrap();
    let path = attachment.path().to_owned();
    let writer = std::thread::spawn(move || {
        let mut file = std::fs::File::options().write(true).open(path).unwrap();
        file.write_all(&[1; 4096]).and_then(|()| file.sync_all())
    });
    while device.0.lock().unwrap().is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    attachment.detach(true).unwrap();
    assert!(writer.join().unwrap().is_err());
    // Late answers are harmless.
    for done in device.0.lock().unwrap().drain(..) {
        done(Ok(()));
    }
}

#[test]
fn a_killed_server_is_cleaned_up_by_the_next() {
    if !is_root() {
        return;
    }
    const HELPER: &str = "HIKUBE_TEST_STALE_DIR";
    if let Ok(dir) = std::env::var(HELPER) {
        let memory = Memory::new(16 << 20);
        let attachment =
            Attachment::attach(memory, &Path::new(&dir).join("vol"), Options::default()).unwrap();
        println!("DEVICE={}", attachment.path().display());
        std::io::stdout().flush().unwrap();
        std::thread::sleep(std::time::Duration::from_secs(60));
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--nocapture",
            "a_killed_server_is_cleaned_up_by_the_next",
        ])
        .env(HELPER, temporary.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let device = lines
        .find_map(|line| line.unwrap().split("DEVICE=").nth(1).map(str::to_owned))
        .unwrap();
    let mount = temporary.path().join("mnt");
    std::fs::create_dir(&mount).unwrap();
    run(Command::new("mkfs.ext4").args(["-q", &device]));
    run(Command::new("mount").args([&device, mount.to_str().unwrap()]));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(clean_stale(temporary.path(), &[]).unwrap(), 1);
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(temporary.path().join("vol").to_str().unwrap()));
    // The file system above is dead, and its loop device goes with it.
    run(Command::new("umount").arg(&mount));
    let name = Path::new(&device)
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    let gone = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        !Path::new(&format!("/sys/block/{name}/loop")).exists()
    });
    // Another test may have taken the number already: then its path differs.
    let other = std::fs::read_to_string(format!("/sys/block/{name}/loop/backing_file"));
    assert!(gone || !other.unwrap().trim().ends_with("/volume") || losetup().contains(&device));
    let memory = Memory::new(16 << 20);
    let mut again = Attachment::attach(memory, &temporary.path().join("vol"), Options::default()).unwrap();
    again.detach(false).unwrap();
}
