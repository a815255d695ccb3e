//! A network that can be cut: a proxy in front of a store for one engine, which holds bytes back in either direction, or
//! delays them as a lossy path does. Nothing is reset: who is cut off hears nothing at all.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// How often a direction that is cut looks whether it still is.
const LOOK: Duration = Duration::from_millis(3);
/// What a lost packet costs: the shortest time after which Linux sends again.
const RETRANSMIT: Duration = Duration::from_millis(200);

#[derive(Default)]
pub struct Path {
    /// What the engine says does not arrive.
    pub to_store: AtomicBool,
    /// What the store says does not arrive.
    pub to_engine: AtomicBool,
    /// So many of a hundred pieces are lost and sent again.
    pub loss: AtomicU32,
}

impl Path {
    pub fn cut(&self, to_store: bool, to_engine: bool) {
        self.to_store.store(to_store, Ordering::SeqCst);
        self.to_engine.store(to_engine, Ordering::SeqCst);
    }

    fn is_cut(&self, upwards: bool) -> bool {
        let flag = if upwards { &self.to_store } else { &self.to_engine };
        flag.load(Ordering::SeqCst)
    }
}

/// Listens on a port of its own for connections to `target`. Ends with the process.
pub fn start(target: u16) -> (u16, Arc<Path>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let path = Arc::new(Path::default());
    let shared = path.clone();
    std::thread::spawn(move || {
        for engine in listener.incoming().flatten() {
            let Ok(store) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) else {
                continue;
            };
            let pair = |a: &TcpStream, b: &TcpStream| Some((a.try_clone().ok()?, b.try_clone().ok()?));
            let (Some(up), Some(down)) = (pair(&engine, &store), pair(&store, &engine)) else {
                continue;
            };
            for (upwards, (from, to)) in [(true, up), (false, down)] {
                let path = shared.clone();
                std::thread::spawn(move || forward(from, to, &path, upwards));
            }
        }
    });
    (port, path)
}

fn forward(mut from: TcpStream, mut to: TcpStream, path: &Path, upwards: bool) {
    let _ = to.set_nodelay(true);
    let mut buffer = vec![0; 64 << 10];
    let mut lottery = 0x2545_f491_4f6c_dd1d_u64;
    while let Ok(n) = from.read(&mut buffer) {
        while path.is_cut(upwards) {
            std::thread::sleep(LOOK);
        }
        lottery = lottery.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        if (lottery >> 33) % 100 < u64::from(path.loss.load(Ordering::SeqCst)) {
            std::thread::sleep(RETRANSMIT);
        }
        if n == 0 || to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
