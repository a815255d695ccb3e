//! The NBD server under real clients: libnbd's tools, qemu-img and qemu-io, fio. They must be installed.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod memory;

use hikube_blockdev::BlockDevice;
use hikube_blockdev::nbd::{Address, Export, Server, Tls};
use memory::Memory;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;
use tls::{Authority, ClientAuth, Subject};

const MIB: usize = 1 << 20;

struct Served {
    device: Arc<Memory>,
    server: Server,
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

fn serve(size: usize, read_only: bool, listen: Option<&str>, tls: Option<Tls>) -> Served {
    let dir = tempfile::Builder::new()
        .prefix("hikube-nbd-test-")
        .tempdir()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let device = Arc::new(Memory::new(size, 1));
    let export = Export {
        name: "disk".into(),
        description: "a test".into(),
        read_only,
        device: device.clone(),
    };
    let socket = dir.path().join("nbd.sock").display().to_string();
    let address: Address = listen.unwrap_or(&socket).parse().unwrap();
    let server = runtime
        .block_on(Server::start(&address, vec![export], tls))
        .unwrap();
    Served {
        device,
        server,
        dir,
        runtime,
    }
}

impl Served {
    fn uri(&self) -> String {
        match self.server.address() {
            Address::Unix(path) => format!("nbd+unix:///disk?socket={}", path.display()),
            Address::Tcp(text) => format!("nbd://{text}/disk"),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{program} (Debian: libnbd-bin, qemu-utils, fio): {e}"))
}

/// Runs a program that must succeed; returns what it said.
fn good(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {said} {complained}"
    );
    said
}

fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn nbdinfo_sees_size_abilities_and_holes() {
    let served = serve(8 * MIB, false, None, None);
    let info = good("nbdinfo", &["--json", &served.uri()]);
    for expected in [
        "\"export-name\": \"disk\"",
        "\"description\": \"a test\"",
        "\"export-size\": 8388608",
        "\"is_read_only\": false",
        "\"can_df\": true",
        "\"can_fast_zero\": true",
        "\"can_flush\": true",
        "\"can_fua\": true",
        "\"can_multi_conn\": true",
        "\"can_trim\": true",
        "\"can_zero\": true",
        "\"block_size_minimum\": 1",
        "\"block_size_preferred\": 4096",
        "\"block_size_maximum\": 33554432",
        "base:allocation",
    ] {
        assert!(info.contains(expected), "{expected} is not in {info}");
    }
    assert!(good("nbdinfo", &["--list", &served.uri()]).contains("disk"));
    served
        .device
        .write(MIB as u64, pattern(MIB).into(), false, Box::new(|_| ()));
    let map = good("nbdinfo", &["--map", &served.uri()]);
    let rows: Vec<Vec<&str>> = map.lines().map(|l| l.split_whitespace().collect()).collect();
    let lengths: Vec<(&str, &str)> = rows.iter().map(|r| (r[1], r[2])).collect();
    assert_eq!(
        lengths,
        [("1048576", "3"), ("1048576", "0"), ("6291456", "3")],
        "{map}"
    );
    let read_only = serve(MIB, true, None, None);
    let info = good("nbdinfo", &["--json", &read_only.uri()]);
    assert!(info.contains("\"is_read_only\": true"), "{info}");
}

#[test]
fn nbdcopy_brings_everything_there_and_back_over_several_connections() {
    for listen in [None, Some("127.0.0.1:0")] {
        let served = serve(64 * MIB, false, listen, None);
        let mut content = pattern(64 * MIB);
        content[5 * MIB..20 * MIB].fill(0);
        let (source, copy) = (served.file("source"), served.file("copy"));
        std::fs::write(&source, &content).unwrap();
        let there = ["--flush", "--connections=4", path(&source), &served.uri()];
        good("nbdcopy", &there);
        assert!(served.device.bytes() == content);
        assert!(Memory::count(&served.device.flushes) > 0);
        good("nbdcopy", &["--connections=4", &served.uri(), path(&copy)]);
        assert!(std::fs::read(&copy).unwrap() == content);
    }
}

#[test]
fn qemu_reads_writes_discards_and_maps() {
    let served = serve(16 * MIB, false, None, None);
    let image = served.file("image");
    let mut content = vec![0; 16 * MIB];
    content[3 * MIB..4 * MIB].copy_from_slice(&pattern(MIB));
    std::fs::write(&image, &content).unwrap();
    let uri = served.uri();
    good(
        "qemu-img",
        &["convert", "-n", "-f", "raw", "-O", "raw", path(&image), &uri],
    );
    good(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", path(&image), &uri],
    );
    let map = good("qemu-img", &["map", "--output=json", "-f", "raw", &uri]);
    assert!(map.contains("\"start\": 3145728, \"length\": 1048576"), "{map}");
    let io = |command: &str| good("qemu-io", &["-f", "raw", "-c", command, &uri]);
    let before = Memory::count(&served.device.fua_writes);
    io("write -f -P 0x5a 8M 64k");
    assert!(Memory::count(&served.device.fua_writes) > before);
    let discards = Memory::count(&served.device.discards);
    good(
        "qemu-io",
        &["-d", "unmap", "-f", "raw", "-c", "discard 8M 32k", &uri],
    );
    assert!(Memory::count(&served.device.discards) > discards);
    io("read -P 0 8M 32k");
    io("read -P 0x5a 8224k 32k");
    let kept = Memory::count(&served.device.kept_zeroes);
    io("write -z 9M 1M");
    assert!(Memory::count(&served.device.kept_zeroes) > kept);
    // Not aligned to anything.
    io("write -P 0x77 10485763 4099");
    io("read -P 0x77 10485763 4099");
    let bytes = served.device.bytes();
    assert!(bytes[10_485_763..10_489_862].iter().all(|b| *b == 0x77) && bytes[10_489_862] == 0);
}

#[test]
fn fio_verifies_what_it_wrote() {
    let served = serve(32 * MIB, false, None, None);
    let uri = format!("--uri={}", served.uri());
    for jobs in ["--numjobs=1", "--numjobs=3"] {
        let arguments = [
            "--name=verify",
            "--ioengine=nbd",
            &uri,
            "--rw=randrw",
            "--bsrange=512-256k",
            "--blockalign=512",
            "--iodepth=32",
            "--size=10M",
            "--offset_increment=10M",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_state_save=0",
            "--fsync=16",
            jobs,
        ];
        good("fio", &arguments);
    }
    assert!(Memory::count(&served.device.flushes) > 10);
}

#[test]
fn a_client_that_comes_again_sees_the_new_size() {
    let served = serve(MIB, false, None, None);
    assert_eq!(good("nbdinfo", &["--size", &served.uri()]).trim(), "1048576");
    served.device.grow(3 * MIB);
    assert_eq!(good("nbdinfo", &["--size", &served.uri()]).trim(), "3145728");
}

/// Certificates where libnbd looks for them.
fn certificates(dir: &Path, authority: &Authority, name: &str) -> String {
    let subject = Subject {
        common_name: name.into(),
        ips: vec![std::net::Ipv4Addr::LOCALHOST.into()],
        server: true,
        client: true,
        validity: Duration::from_secs(3600),
        ..Subject::default()
    };
    authority.issue_files(name, &subject).unwrap();
    let files = authority.files(name);
    let place = dir.join(name);
    std::fs::create_dir_all(&place).unwrap();
    std::fs::copy(&files.cert, place.join("client-cert.pem")).unwrap();
    std::fs::copy(&files.key, place.join("client-key.pem")).unwrap();
    std::fs::copy(&files.ca, place.join("ca-cert.pem")).unwrap();
    place.display().to_string()
}

#[test]
fn only_clients_with_the_right_certificate_get_in() {
    let pki = tempfile::tempdir().unwrap();
    let ours = Authority::open(&pki.path().join("ours"), "storage").unwrap();
    let foreign = Authority::open(&pki.path().join("foreign"), "other").unwrap();
    let friend = certificates(pki.path(), &ours, "friend");
    let stranger = certificates(pki.path(), &ours, "stranger");
    certificates(pki.path(), &foreign, "enemy");
    // The enemy trusts us, but we do not trust it.
    std::fs::copy(ours.files("friend").ca, pki.path().join("enemy/ca-cert.pem")).unwrap();
    let config = tls::server_config(&ours.files("friend"), ClientAuth::Required, &[]).unwrap();
    let tls = Tls {
        acceptor: tokio_rustls::TlsAcceptor::from(config),
        allow: Arc::new(|chain| tls::peer_of(chain).is_some_and(|peer| peer.common_name == "friend")),
    };
    let served = serve(4 * MIB, false, Some("127.0.0.1:0"), Some(tls));
    let address = served.server.address().to_string();
    let secure = |certificates: &str| format!("nbds://{address}/disk?tls-certificates={certificates}");
    assert_eq!(good("nbdinfo", &["--size", &secure(&friend)]).trim(), "4194304");
    let source = served.file("source");
    std::fs::write(&source, pattern(4 * MIB)).unwrap();
    good("nbdcopy", &[path(&source), &secure(&friend)]);
    assert!(served.device.bytes() == pattern(4 * MIB));
    let enemy = pki.path().join("enemy").display().to_string();
    for refused in [secure(&stranger), secure(&enemy), format!("nbd://{address}/disk")] {
        assert!(
            !run("nbdinfo", &["--size", &refused]).status.success(),
            "{refused}"
        );
    }
}

#[test]
fn a_socket_in_use_is_refused_and_a_stale_one_replaced() {
    let served = serve(MIB, false, None, None);
    let export = || Export {
        name: "other".into(),
        description: String::new(),
        read_only: false,
        device: served.device.clone(),
    };
    let address = served.server.address().clone();
    let again = served
        .runtime
        .block_on(Server::start(&address, vec![export()], None));
    let refusal = again.err().expect("a socket in use").to_string();
    assert!(refusal.contains("nbd.sock"), "{refusal}");
    let stale = served.file("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let address = Address::Unix(stale.clone());
    let second = served
        .runtime
        .block_on(Server::start(&address, vec![export()], None))
        .unwrap();
    second.stop();
    assert!(!stale.exists());
    let file = served.file("file");
    std::fs::write(&file, "precious").unwrap();
    let address = Address::Unix(file.clone());
    let third = served
        .runtime
        .block_on(Server::start(&address, vec![export()], None));
    assert!(third.is_err() && std::fs::read(&file).unwrap() == b"precious");
}
