//! Connections of a store: engines with their sessions, control planes and administrators with their questions.

use super::Store;
use super::host::{Host, Session};
use crate::core::wire::Message;
use crate::net::control::{self, Hello, Open, Request, Response};
use crate::net::frame::{Frame, FrameReader, Kind};
use crate::net::identity::{Identity, Role};
use crate::net::outbox::Outbox;
use crate::net::{CONNECT_TIMEOUT, Error, SERVER_SILENCE};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::ReadHalf;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Sessions on one connection: volumes attached to one node.
const MAX_CHANNELS: usize = 1024;
/// Requests of one connection worked on at a time.
const MAX_REQUESTS: usize = 16;

/// The limit of silence is moved at least so far at a time: moving a timer costs, and most messages come much sooner.
const SILENCE_STEP: Duration = Duration::from_millis(50);

/// Numbers of sessions, never used twice in a process.
static SESSIONS: AtomicU64 = AtomicU64::new(1);

/// Serves one connection to its end.
pub async fn serve(store: Arc<Store>, acceptor: TlsAcceptor, stream: TcpStream) -> Result<(), Error> {
    let _ = stream.set_nodelay(true);
    let handshake = async {
        let stream = acceptor.accept(stream).await?;
        let chain = stream.get_ref().1.peer_certificates();
        let identity = Identity::of_chain(chain).ok_or_else(|| Error::Identity {
            found: tls::peer_of(chain).map(|peer| peer.uris).unwrap_or_default(),
            wanted: "an identity on the storage network".into(),
        })?;
        let (reader, writer) = tokio::io::split(stream);
        let mut reader = FrameReader::new(reader);
        let first = reader
            .next()
            .await?
            .ok_or_else(|| Error::Protocol("closed before its hello".into()))?;
        Ok::<_, Error>((identity, reader, writer, first))
    };
    let (identity, reader, writer, first) = tokio::time::timeout(CONNECT_TIMEOUT, handshake)
        .await
        .unwrap_or(Err(Error::Silent(CONNECT_TIMEOUT)))?;
    let outbox = Arc::new(Outbox::default());
    let mut connection = Connection {
        store,
        identity,
        outbox: outbox.clone(),
        channels: HashMap::new(),
        requests: Arc::new(tokio::sync::Semaphore::new(MAX_REQUESTS)),
        reached: Vec::new(),
    };
    let result = match connection.welcome(&first) {
        Ok(()) => {
            tokio::select! {
                result = outbox.drain(writer) => result,
                result = connection.run(reader) => result,
            }
        }
        Err(error) => {
            outbox.send(Kind::Close, 0, error.to_string().into());
            outbox.close();
            let _ = tokio::time::timeout(CONNECT_TIMEOUT, outbox.drain(writer)).await;
            Err(error)
        }
    };
    outbox.close();
    for (host, session) in connection.channels.values() {
        host.disconnected(*session);
    }
    result
}

struct Connection {
    store: Arc<Store>,
    identity: Identity,
    outbox: Arc<Outbox>,
    channels: HashMap<u64, (Arc<Host>, u64)>,
    requests: Arc<tokio::sync::Semaphore>,
    /// Replicas that got messages which nobody has seen to yet.
    reached: Vec<Arc<Host>>,
}

impl Connection {
    fn welcome(&self, first: &Frame) -> Result<(), Error> {
        if first.kind != Kind::Hello {
            return Err(Error::Protocol("no hello".into()));
        }
        let hello: Hello = control::from_json(&first.payload)?;
        hello.check_version()?;
        if hello.cluster != self.store.cluster || self.identity.cluster != self.store.cluster {
            return Err(Error::Protocol(format!(
                "this store belongs to cluster {}",
                self.store.cluster
            )));
        }
        let answer = Hello::ours(&self.store.cluster, Some(self.store.catalog.store()));
        self.outbox.send_json(Kind::Hello, 0, &answer);
        Ok(())
    }

    async fn run(&mut self, mut reader: FrameReader<ReadHalf<TlsStream<TcpStream>>>) -> Result<(), Error> {
        let silence = tokio::time::sleep(SERVER_SILENCE);
        tokio::pin!(silence);
        loop {
            // What the last read brought is handled before more is waited for.
            let handled = self.handle_all(&mut reader);
            for host in self.reached.drain(..) {
                host.drive();
            }
            handled?;
            tokio::select! {
                more = reader.more() => if !more? {
                    return Ok(());
                },
                () = &mut silence => return Err(Error::Silent(SERVER_SILENCE)),
            }
            let heard = tokio::time::Instant::now();
            // The timer is set late rather than often.
            if silence.deadline() < heard + SERVER_SILENCE - SILENCE_STEP {
                silence.as_mut().reset(heard + SERVER_SILENCE);
            }
            if let Role::Engine(node) = &self.identity.role {
                self.store.contacts.heard(node, Instant::now());
            }
        }
    }

    /// Every frame that is here; notes the replicas that got something.
    fn handle_all(&mut self, reader: &mut FrameReader<ReadHalf<TlsStream<TcpStream>>>) -> Result<(), Error> {
        while let Some(frame) = reader.take()? {
            self.handle(frame)?;
        }
        Ok(())
    }

    fn handle(&mut self, frame: Frame) -> Result<(), Error> {
        match frame.kind {
            Kind::Ping => self.outbox.send(Kind::Pong, frame.channel, Bytes::new()),
            Kind::Message => {
                // A session that was closed here: the other side does not know yet.
                let Some((host, session)) = self.channels.get(&frame.channel) else {
                    return Ok(());
                };
                let bytes = frame.payload.len();
                let message = Message::decode(frame.payload).map_err(|e| Error::Protocol(e.to_string()))?;
                if !host.deliver(*session, message, bytes) {
                    host.disconnected(*session);
                    self.channels.remove(&frame.channel);
                    self.close(frame.channel, "the store's disk does not keep up");
                } else if !self.reached.iter().any(|reached| Arc::ptr_eq(reached, host)) {
                    self.reached.push(host.clone());
                }
            }
            Kind::Open => self.open(&frame)?,
            Kind::Close => {
                if let Some((host, session)) = self.channels.remove(&frame.channel) {
                    host.disconnected(session);
                }
            }
            Kind::Request => self.request(frame.channel, control::from_json(&frame.payload)?),
            Kind::Hello | Kind::Pong | Kind::Response => {
                return Err(Error::Protocol(format!("unexpected {:?}", frame.kind)));
            }
        }
        Ok(())
    }

    fn close(&self, channel: u64, reason: &str) {
        self.outbox
            .send(Kind::Close, channel, Bytes::copy_from_slice(reason.as_bytes()));
    }

    fn open(&mut self, frame: &Frame) -> Result<(), Error> {
        let open: Open = control::from_json(&frame.payload)?;
        let node = match &self.identity.role {
            Role::Engine(_) if open.brief => String::new(),
            Role::Engine(node) => node.clone(),
            _ => {
                self.close(frame.channel, "only an engine may open a volume");
                return Ok(());
            }
        };
        if self.channels.len() >= MAX_CHANNELS {
            self.close(frame.channel, "too many sessions");
            return Ok(());
        }
        match self.store.catalog.host(&open.volume, open.replica) {
            Err(reason) => self.close(frame.channel, &reason),
            Ok(host) => {
                let number = SESSIONS.fetch_add(1, Ordering::Relaxed);
                host.open(Session {
                    number,
                    channel: frame.channel,
                    outbox: self.outbox.clone(),
                    node,
                });
                if let Some((old, session)) = self.channels.insert(frame.channel, (host, number)) {
                    old.disconnected(session);
                    return Err(Error::Protocol("a channel was opened twice".into()));
                }
            }
        }
        Ok(())
    }

    fn request(&self, number: u64, request: Request) {
        let (store, outbox, permits) = (self.store.clone(), self.outbox.clone(), self.requests.clone());
        let may_write = self.identity.may_write();
        // A change once begun is finished even if the connection ends.
        tokio::spawn(async move {
            let _permit = permits.acquire().await;
            let response = answer(&store, may_write, request).await;
            outbox.send_json(Kind::Response, number, &response);
        });
    }
}

async fn answer(store: &Arc<Store>, may_write: bool, request: Request) -> Response {
    match request {
        Request::Contact { node } => {
            let (heard, watching) = store.contacts.contact(&node, Instant::now());
            Response::Contact {
                heard_ms: heard.map(|h| h.as_millis() as u64),
                watching_ms: watching.as_millis() as u64,
            }
        }
        Request::List { volume } => Response::Inventory(store.catalog.inventory(volume.as_deref()).await),
        _ if !may_write => Response::Refused {
            reason: "this identity may only ask".into(),
        },
        Request::Create {
            store: wanted,
            spec,
            id,
            learner,
        } => store.catalog.create(wanted, spec, id, learner).await,
        Request::Delete { tombstone } => store.catalog.delete(tombstone).await,
        Request::Scrub { volume } => {
            if store.catalog.scrub(&volume) {
                Response::Done
            } else {
                Response::Refused {
                    reason: format!("this store has no replica of volume {volume:?}"),
                }
            }
        }
        Request::Report { volumes } => {
            store.catalog.report(volumes);
            Response::Done
        }
    }
}
