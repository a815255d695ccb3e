//! The cluster's DNS, served on every node at the address of the `kube-dns` Service: that address is local on each
//! node, so that a query neither leaves the node nor is translated.

mod upstream;
mod zone;
#[cfg(test)]
mod zone_tests;

use crate::watches::Watches;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Record, RecordType};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use upstream::Failure;
pub(crate) use upstream::Upstream;
use zone::Outcome;
pub(crate) use zone::Zone;

/// Port of DNS.
pub(crate) const PORT: u16 = 53;
/// Where the node's resolvers are listed.
pub(crate) const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Largest query over UDP. Bytes.
const DATAGRAM: usize = 1500;
/// Largest answer over UDP to who announces room for it (what passes everywhere unfragmented), and to others. Bytes.
const ANSWER: u16 = 1232;
const ANSWER_CLASSIC: u16 = 512;
/// Queries that wait for the node's resolvers at one time; more are not answered, and asked again.
const WAITING: usize = 256;
/// Connections at one time, and how long one may be silent.
const CONNECTIONS: usize = 128;
const SILENCE: Duration = Duration::from_secs(10);
/// Names that stand for names that stand for names.
const ALIASES: usize = 8;
/// Pause after a socket failed.
const PAUSE: Duration = Duration::from_millis(500);

/// Everything that answers need.
pub(crate) struct Server {
    pub(crate) zone: Zone,
    pub(crate) watches: Arc<Watches>,
    pub(crate) upstream: Upstream,
}

/// Serves at `address` for ever; a socket that cannot be had is tried again.
pub(crate) async fn run(server: Arc<Server>, address: Ipv4Addr, port: u16) {
    let address = SocketAddr::from((address, port));
    loop {
        match sockets(address).await {
            Ok((udp, tcp)) => {
                // Queries wait in the sockets until there is something to answer from.
                server.watches.synced().await;
                tracing::info!(%address, "serving DNS");
                futures::join!(datagrams(server.clone(), udp), streams(server.clone(), tcp));
            }
            Err(error) => tracing::info!(%address, %error, "cannot serve DNS yet"),
        }
        sleep(PAUSE).await;
    }
}

async fn sockets(address: SocketAddr) -> std::io::Result<(UdpSocket, TcpListener)> {
    let udp = UdpSocket::bind(address).await?;
    // The same port for both, also when any would do.
    let tcp = TcpListener::bind(udp.local_addr()?).await?;
    Ok((udp, tcp))
}

async fn datagrams(server: Arc<Server>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let waiting = Arc::new(Semaphore::new(WAITING));
    let mut buffer = [0; DATAGRAM];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // A client that is gone already; the socket itself stays.
                tracing::debug!(%error, "receive");
                continue;
            }
        };
        let query = &buffer[..length];
        match server.local(query, Some(ANSWER)) {
            Answer::Ready(answer) => {
                let _ = socket.send_to(&answer, client).await;
            }
            Answer::None => {}
            Answer::Ask(question) => {
                let Ok(permit) = waiting.clone().try_acquire_owned() else {
                    continue;
                };
                let (server, socket, query) = (server.clone(), socket.clone(), query.to_vec());
                tokio::spawn(async move {
                    let answer = server.ask(*question, &query, Some(ANSWER)).await;
                    let _ = socket.send_to(&answer, client).await;
                    drop(permit);
                });
            }
        }
    }
}

async fn streams(server: Arc<Server>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                let server = server.clone();
                connections.spawn(async move {
                    // Ends when the client does, or says nothing sensible.
                    let _ = connection(&server, stream).await;
                });
            }
            Err(error) => {
                tracing::info!(%error, "cannot accept a DNS connection");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(server: &Server, mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let length = timeout(SILENCE, stream.read_u16()).await??;
        let mut query = vec![0; length.into()];
        timeout(SILENCE, stream.read_exact(&mut query)).await??;
        let answer = match server.local(&query, None) {
            Answer::Ready(answer) => answer,
            Answer::None => return Ok(()),
            Answer::Ask(question) => server.ask(*question, &query, None).await,
        };
        let length = u16::try_from(answer.len()).map_err(std::io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&answer);
        timeout(SILENCE, stream.write_all(&framed)).await??;
    }
}

/// What a query leads to.
enum Answer {
    Ready(Vec<u8>),
    /// Not a query; answering could make two servers talk to each other for ever.
    None,
    /// The node's resolvers have to be asked.
    Ask(Box<Question>),
}

/// A query under way to the node's resolvers.
struct Question {
    reply: Message,
    /// Names found so far that stand for the next.
    aliases: Vec<Record>,
    /// What to ask, when it is not what the client asked.
    instead: Option<Query>,
}

impl Server {
    /// Answers what the cluster knows. `limit`: the most that a datagram may hold.
    fn local(&self, bytes: &[u8], limit: Option<u16>) -> Answer {
        let query = match Message::from_vec(bytes) {
            Ok(query) if query.message_type() == MessageType::Query => query,
            Ok(_) => return Answer::None,
            Err(_) => return malformed(bytes),
        };
        let mut reply = Message::new();
        reply
            .set_id(query.id())
            .set_message_type(MessageType::Response)
            .set_op_code(query.op_code())
            .set_recursion_desired(query.recursion_desired())
            .set_recursion_available(true)
            .add_queries(query.queries().to_vec());
        let room = query.extensions().as_ref().map(|edns| {
            let mut own = Edns::new();
            own.set_max_payload(ANSWER);
            reply.set_edns(own);
            edns.max_payload()
        });
        let limit = limit.map(|most| room.unwrap_or(ANSWER_CLASSIC).clamp(ANSWER_CLASSIC, most));
        let [question] = query.queries() else {
            reply.set_response_code(ResponseCode::FormErr);
            return Answer::Ready(encode(&reply, limit));
        };
        if query.op_code() != OpCode::Query || question.query_class() != DNSClass::IN {
            reply.set_response_code(ResponseCode::NotImp);
            return Answer::Ready(encode(&reply, limit));
        }
        self.resolve(reply, question, limit)
    }

    fn resolve(&self, mut reply: Message, question: &Query, limit: Option<u16>) -> Answer {
        let kind = question.query_type();
        let mut name = question.name().clone();
        let mut aliases = Vec::new();
        for _ in 0..ALIASES {
            match self.zone.resolve(&self.watches, &name, kind) {
                Outcome::Found(answers, more) => {
                    aliases.extend(answers);
                    reply
                        .set_authoritative(true)
                        .add_answers(aliases)
                        .add_additionals(more);
                    return Answer::Ready(encode(&reply, limit));
                }
                Outcome::Alias(alias) => {
                    let (record, target) = *alias;
                    aliases.push(record);
                    if kind == RecordType::CNAME {
                        reply.set_authoritative(true).add_answers(aliases);
                        return Answer::Ready(encode(&reply, limit));
                    }
                    name = target;
                }
                Outcome::Elsewhere => {
                    let instead = (!aliases.is_empty()).then(|| Query::query(name, kind));
                    return Answer::Ask(Box::new(Question {
                        reply,
                        aliases,
                        instead,
                    }));
                }
                outcome => {
                    if matches!(outcome, Outcome::Missing) && aliases.is_empty() {
                        reply.set_response_code(ResponseCode::NXDomain);
                    }
                    reply.set_authoritative(true).add_answers(aliases);
                    reply.add_name_server(self.zone.authority());
                    return Answer::Ready(encode(&reply, limit));
                }
            }
        }
        reply.set_response_code(ResponseCode::ServFail);
        Answer::Ready(encode(&reply, limit))
    }

    /// Asks the node's resolvers.
    async fn ask(&self, question: Question, bytes: &[u8], limit: Option<u16>) -> Vec<u8> {
        let Question {
            mut reply,
            aliases,
            instead,
        } = question;
        let stream = limit.is_none();
        let result = match &instead {
            None => match self.upstream.ask(bytes, stream).await {
                Ok(answer) => return answer,
                Err(failure) => Err(failure),
            },
            Some(query) => {
                let mut message = Message::new();
                message.set_recursion_desired(true).add_query(query.clone());
                self.upstream.ask(&encode(&message, None), stream).await
            }
        };
        reply.add_answers(aliases);
        match result.map(|bytes| Message::from_vec(&bytes)) {
            Ok(Ok(mut answer)) => {
                reply
                    .set_response_code(answer.response_code())
                    .add_answers(answer.take_answers());
            }
            // Without any resolver no name outside exists; clients wait long after other errors.
            Err(Failure::None) if instead.is_none() => {
                reply.set_response_code(ResponseCode::NXDomain);
            }
            Err(Failure::None) => {}
            Err(Failure::Silent) | Ok(Err(_)) => {
                reply.set_response_code(ResponseCode::ServFail);
            }
        }
        encode(&reply, limit)
    }
}

/// To a query whose id alone can be read.
fn malformed(bytes: &[u8]) -> Answer {
    match bytes {
        // The highest bit of the third byte marks a response.
        [high, low, flags, ..] if bytes.len() >= 12 && flags & 0x80 == 0 => {
            let id = u16::from_be_bytes([*high, *low]);
            let reply = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
            Answer::Ready(encode(&reply, None))
        }
        _ => Answer::None,
    }
}

/// The bytes of a message; one that is too long for a datagram is cut and marked, so that the client comes by TCP.
fn encode(message: &Message, limit: Option<u16>) -> Vec<u8> {
    // Our own messages can be written; if one could not, an empty datagram does no harm.
    let bytes = message.to_vec().unwrap_or_default();
    match limit {
        Some(limit) if bytes.len() > limit.into() => {
            let mut short = message.truncate();
            short.set_id(message.id());
            short.to_vec().unwrap_or_default()
        }
        _ => bytes,
    }
}

/// Resolvers of the node, without ourselves.
pub(crate) fn upstream(own: Ipv4Addr) -> Upstream {
    Upstream::new(Path::new(RESOLV_CONF).into(), PORT, own.into())
}
