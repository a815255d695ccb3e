//! Names outside the cluster: asked of the node's resolvers, byte for byte.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Resolvers that are used of those in the file, as libc does.
const SERVERS: usize = 3;
/// Longest wait for one resolver. Clients give up after 5 s.
const PATIENCE: Duration = Duration::from_millis(1500);
/// A resolver that did not answer is left alone for so long, so that further queries fail quickly.
const REST: Duration = Duration::from_secs(10);
/// Largest answer over UDP. Bytes.
const DATAGRAM: usize = 4096;
/// Length of the header. Bytes.
const HEADER: usize = 12;

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The node has no resolvers: nothing outside can be known.
    None,
    /// None of them answered.
    Silent,
}

#[derive(Default)]
struct Known {
    modified: Option<SystemTime>,
    servers: Vec<(IpAddr, Option<Instant>)>,
}

/// The node's resolvers.
pub(crate) struct Upstream {
    file: PathBuf,
    port: u16,
    /// Our own address, which the file may name.
    own: IpAddr,
    known: Mutex<Known>,
}

impl Upstream {
    /// The resolvers that `file`, in the format of resolv.conf(5), lists at any time.
    pub(crate) fn new(file: PathBuf, port: u16, own: IpAddr) -> Self {
        Self {
            file,
            port,
            own,
            known: Mutex::default(),
        }
    }

    /// Sends the query on and returns the answer. `stream`: over TCP.
    pub(crate) async fn ask(&self, query: &[u8], stream: bool) -> Result<Vec<u8>, Failure> {
        let servers = self.servers().ok_or(Failure::None)?;
        for ip in servers {
            let server = SocketAddr::new(ip, self.port);
            let answer = if stream {
                timeout(PATIENCE, over_tcp(server, query)).await
            } else {
                timeout(PATIENCE, over_udp(server, query)).await
            };
            match answer {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(_)) | Err(_) => self.rest(ip),
            }
        }
        Err(Failure::Silent)
    }

    /// The resolvers that do not rest; `None` when there are none at all.
    fn servers(&self) -> Option<Vec<IpAddr>> {
        let modified = std::fs::metadata(&self.file).and_then(|m| m.modified()).ok();
        // What it guards is whole at any time.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.modified != modified {
            let text = std::fs::read_to_string(&self.file).unwrap_or_default();
            known.servers = parse(&text, self.own).into_iter().map(|ip| (ip, None)).collect();
            known.modified = modified;
        }
        if known.servers.is_empty() {
            return None;
        }
        let awake = known
            .servers
            .iter()
            .filter(|(_, since)| since.is_none_or(|s| s.elapsed() > REST));
        Some(awake.map(|(ip, _)| *ip).collect())
    }

    fn rest(&self, ip: IpAddr) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for server in known.servers.iter_mut().filter(|(known, _)| *known == ip) {
            server.1 = Some(Instant::now());
        }
    }
}

fn parse(text: &str, own: IpAddr) -> Vec<IpAddr> {
    let lines = text.lines().filter_map(|l| l.trim().strip_prefix("nameserver"));
    let addresses = lines.filter_map(|rest| rest.split_whitespace().next()?.parse().ok());
    addresses.filter(|ip| *ip != own).take(SERVERS).collect()
}

/// The query under an id of our own: a guessed answer must match it and the port.
fn with_id(query: &[u8], id: u16) -> std::io::Result<Vec<u8>> {
    let mut copy = query.to_vec();
    let head = copy
        .get_mut(..2)
        .ok_or_else(|| std::io::Error::other("query without a header"))?;
    head.copy_from_slice(&id.to_be_bytes());
    Ok(copy)
}

async fn over_udp(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let local: SocketAddr = if server.is_ipv4() {
        ([0; 4], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    let id: u16 = rand::random();
    socket.send(&with_id(query, id)?).await?;
    let mut answer = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut answer).await?;
        if length >= HEADER && answer[..2] == id.to_be_bytes() {
            answer.truncate(length);
            return with_id(&answer, u16::from_be_bytes([query[0], query[1]]));
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(std::io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    stream.write_all(&framed).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_without_ourselves() {
        let own: IpAddr = "10.96.0.10".parse().unwrap();
        let text = "# x\nsearch a b\nnameserver 10.96.0.10\nnameserver 192.0.2.1 \n nameserver fd00::1\nnameserver junk\n";
        assert_eq!(
            parse(text, own),
            ["192.0.2.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]
        );
    }

    #[tokio::test]
    async fn a_silent_resolver_rests_and_none_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("resolv.conf");
        let upstream = Upstream::new(file.clone(), 1, "10.96.0.10".parse().unwrap());
        assert_eq!(upstream.ask(&[0; 12], false).await, Err(Failure::None));
        std::fs::write(&file, "nameserver 127.0.0.1\n").unwrap();
        assert_eq!(upstream.ask(&[0; 12], false).await, Err(Failure::Silent));
        assert_eq!(upstream.servers(), Some(Vec::new()));
    }
}
