//! The NBD server under a client that does what no decent client does.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod memory;

use bytes::Bytes;
use hikube_blockdev::nbd::negotiate::MAX_REQUEST_BYTES;
use hikube_blockdev::nbd::wire::{self, answer, command, error, flag, option};
use hikube_blockdev::nbd::{Address, Export, MAX_IN_FLIGHT_BYTES, Server};
use hikube_blockdev::{BlockDevice, Done};
use memory::Memory;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const MIB: usize = 1 << 20;

struct Served {
    device: Arc<Memory>,
    server: Server,
    _dir: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

fn serve(size: usize, align: u32) -> Served {
    let device = Arc::new(Memory::new(size, align));
    serve_as(device.clone(), device)
}

/// Serves `export`, which keeps its bytes in `device`.
fn serve_as(device: Arc<Memory>, export: Arc<dyn BlockDevice>) -> Served {
    let dir = tempfile::Builder::new()
        .prefix("hikube-nbd-test-")
        .tempdir()
        .unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let export = Export {
        name: "disk".into(),
        description: String::new(),
        read_only: false,
        device: export,
    };
    let address = Address::Unix(dir.path().join("s"));
    let server = runtime
        .block_on(Server::start(&address, vec![export], None))
        .unwrap();
    Served {
        device,
        server,
        _dir: dir,
        _runtime: runtime,
    }
}

struct Client(UnixStream);

impl Client {
    /// After the flags.
    fn connect(served: &Served) -> Client {
        let Address::Unix(path) = served.server.address() else {
            unreachable!("a Unix socket was asked for");
        };
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut client = Client(stream);
        client.take(18);
        client.0.write_all(&3u32.to_be_bytes()).unwrap();
        client
    }

    /// In transmission, with structured replies and allocation.
    fn ready(served: &Served) -> Client {
        let mut client = Client::connect(served);
        assert_eq!(client.ask(option::STRUCTURED_REPLY, &[]), answer::ACK);
        let mut query = vec![0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 15];
        query.extend(b"base:allocation");
        assert_eq!(client.ask(option::SET_META_CONTEXT, &query), answer::ACK);
        assert_eq!(client.ask(option::GO, &[0, 0, 0, 0, 0, 1, 0, 3]), answer::ACK);
        client
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn number(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().unwrap())
    }

    /// Sends an option; returns the last answer's type.
    fn ask(&mut self, number: u32, data: &[u8]) -> u32 {
        let mut bytes = wire::OPTION_MAGIC.to_be_bytes().to_vec();
        bytes.extend(number.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        self.0.write_all(&bytes).unwrap();
        loop {
            self.take(12);
            let kind = self.number();
            let len = self.number() as usize;
            self.take(len);
            if !matches!(kind, answer::INFO | answer::META_CONTEXT | answer::SERVER) {
                return kind;
            }
        }
    }

    fn send(&mut self, kind: u16, flags: u16, offset: u64, len: u32) {
        let mut bytes = wire::REQUEST_MAGIC.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend(77u64.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        self.0.write_all(&bytes).unwrap();
    }

    /// The next chunk's type and data.
    fn chunk(&mut self) -> (u16, Vec<u8>) {
        assert_eq!(self.number(), wire::CHUNK_MAGIC);
        assert_eq!(self.take(2), [0, 1]);
        let kind = u16::from_be_bytes(self.take(2).try_into().unwrap());
        assert_eq!(self.take(8), 77u64.to_be_bytes());
        let len = self.number() as usize;
        (kind, self.take(len))
    }

    /// Sends a request that must be refused; returns the number.
    fn refused(&mut self, kind: u16, flags: u16, offset: u64, len: u32) -> u32 {
        self.send(kind, flags, offset, len);
        let (kind, data) = self.chunk();
        assert_eq!(kind, wire::chunk::ERROR);
        assert!(data.len() > 6, "in words too");
        u32::from_be_bytes(data[..4].try_into().unwrap())
    }

    fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).is_ok()
    }
}

#[test]
fn wrong_requests_are_refused_one_by_one_and_the_connection_goes_on() {
    let served = serve(MIB, 4096);
    let mut client = Client::ready(&served);
    assert_eq!(client.refused(command::READ, 0, 512, 4096), error::EINVAL);
    assert_eq!(client.refused(command::READ, 0, MIB as u64, 4096), error::EINVAL);
    assert_eq!(
        client.refused(command::WRITE_ZEROES, 0, u64::MAX - 4095, 4096),
        error::ENOSPC
    );
    assert_eq!(client.refused(command::TRIM, flag::DF, 0, 4096), error::EINVAL);
    assert_eq!(client.refused(6000, 0, 0, 0), error::EINVAL);
    // A refused write's payload is skipped, even one that is larger than the device and the bound.
    let long = vec![7; MAX_REQUEST_BYTES as usize + 4096];
    client.send(command::WRITE, 0, 0, long.len() as u32);
    client.0.write_all(&long).unwrap();
    assert_eq!(client.chunk().0, wire::chunk::ERROR);
    client.send(command::WRITE, 0, MIB as u64, 4096);
    client.0.write_all(&[7; 4096]).unwrap();
    assert_eq!(client.chunk().1[..4], error::ENOSPC.to_be_bytes());
    assert!(served.device.bytes().iter().all(|b| *b == 0));
    client.send(command::WRITE, flag::FUA, 4096, 4096);
    client.0.write_all(&[9; 4096]).unwrap();
    assert_eq!(client.chunk(), (wire::chunk::NONE, vec![]));
    client.send(command::READ, flag::DF, 0, 8192);
    let (kind, data) = client.chunk();
    assert_eq!((kind, data.len()), (wire::chunk::OFFSET_DATA, 8 + 8192));
    assert!(data[8..8 + 4096].iter().all(|b| *b == 0) && data[8 + 4096..].iter().all(|b| *b == 9));
    client.send(command::READ, 0, 0, 4096);
    assert_eq!(client.chunk().0, wire::chunk::OFFSET_HOLE);
    client.send(command::BLOCK_STATUS, flag::REQ_ONE, 0, 16384);
    assert_eq!(client.chunk().1, [0, 0, 0, 1, 0, 0, 16, 0, 0, 0, 0, 3]);
    client.send(command::DISC, 0, 0, 0);
    assert!(client.is_closed());
}

#[test]
fn zeroes_with_fua_are_flushed_before_they_are_done() {
    let served = serve(MIB, 1);
    let mut client = Client::ready(&served);
    client.send(command::WRITE_ZEROES, flag::FUA | flag::FAST_ZERO, 3, 9);
    assert_eq!(client.chunk().0, wire::chunk::NONE);
    assert_eq!(Memory::count(&served.device.flushes), 1);
    client.send(command::TRIM, 0, 0, MIB as u32);
    assert_eq!(client.chunk().0, wire::chunk::NONE);
    assert_eq!(Memory::count(&served.device.flushes), 1);
}

#[test]
fn what_is_no_client_is_closed_and_harms_nobody() {
    let served = serve(MIB, 1);
    let mut good = Client::ready(&served);
    let mut garbage = Client::connect(&served);
    garbage.0.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(garbage.is_closed());
    let mut long = Client::connect(&served);
    let mut bytes = wire::OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend([0, 0, 0, 7, 0xff, 0xff, 0xff, 0xff]);
    long.0.write_all(&bytes).unwrap();
    let reply = long.take(20);
    assert_eq!(reply[12..16], answer::ERR_TOO_BIG.to_be_bytes());
    assert!(long.is_closed());
    let mut step = Client::ready(&served);
    step.0.write_all(&[0; 28]).unwrap();
    assert!(step.is_closed());
    let half = Client::ready(&served);
    (&half.0).write_all(&wire::REQUEST_MAGIC.to_be_bytes()).unwrap();
    drop(half);
    good.send(command::READ, flag::DF, 0, 1);
    assert_eq!(good.chunk().1.len(), 9);
    drop(good);
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while served.server.connections() > 0 {
        assert!(std::time::Instant::now() < deadline, "connections are left");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A client that asks and never listens must not make the server keep its answers.
#[test]
fn a_client_that_does_not_read_costs_bounded_memory() {
    let served = serve(MAX_REQUEST_BYTES as usize, 1);
    let mut client = Client::ready(&served);
    let before = resident_bytes();
    client
        .0
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut header = wire::REQUEST_MAGIC.to_be_bytes().to_vec();
    header.extend([0, flag::DF as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    header.extend(0u64.to_be_bytes());
    header.extend(MAX_REQUEST_BYTES.to_be_bytes());
    let flood: Vec<u8> = header.repeat(64);
    let _ = client.0.write_all(&flood);
    std::thread::sleep(Duration::from_millis(500));
    let grown = resident_bytes().saturating_sub(before);
    // Twice the bound allows for the other tests of this process; the flood asks for 2 GiB.
    assert!(grown < 2 * MAX_IN_FLIGHT_BYTES + (96 << 20), "{grown} bytes more");
    // And it still works for those who read.
    let mut other = Client::ready(&served);
    other.send(command::READ, flag::DF, 0, 10);
    assert_eq!(other.chunk().1.len(), 18);
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Gathers writes until it is told to start.
struct Gathering {
    memory: Arc<Memory>,
    waiting: Mutex<Vec<(u64, Bytes, Done<()>)>>,
}

impl BlockDevice for Gathering {
    fn size_bytes(&self) -> u64 {
        self.memory.size_bytes()
    }
    fn read(&self, offset: u64, len: u32, done: Done<Bytes>) {
        self.memory.read(offset, len, done);
    }
    fn write(&self, offset: u64, data: Bytes, _: bool, done: Done<()>) {
        self.waiting.lock().unwrap().push((offset, data, done));
    }
    fn flush(&self, done: Done<()>) {
        self.memory.flush(done);
    }
    fn zero(&self, offset: u64, len: u64, discard: bool, done: Done<()>) {
        self.memory.zero(offset, len, discard, done);
    }
    fn start(&self) {
        for (offset, data, done) in self.waiting.lock().unwrap().drain(..) {
            self.memory.write(offset, data, false, done);
        }
    }
}

#[test]
fn what_came_before_garbage_still_happens() {
    let memory = Arc::new(Memory::new(MIB, 1));
    let gathering = Gathering {
        memory: memory.clone(),
        waiting: Mutex::default(),
    };
    let served = serve_as(memory, Arc::new(gathering));
    let mut client = Client::ready(&served);
    let mut bytes = wire::REQUEST_MAGIC.to_be_bytes().to_vec();
    bytes.extend([0u16.to_be_bytes(), command::WRITE.to_be_bytes()].concat());
    bytes.extend([77u64.to_be_bytes(), 4096u64.to_be_bytes()].concat());
    bytes.extend(4096u32.to_be_bytes());
    bytes.extend([7; 4096]);
    // In one piece with it, what is no request.
    bytes.extend([0xee; 28]);
    client.0.write_all(&bytes).unwrap();
    let _ = client.0.read_to_end(&mut Vec::new());
    assert_eq!(served.device.bytes()[4096..8192], [7; 4096]);
}
