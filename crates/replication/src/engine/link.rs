//! The engine's connection to one store: kept up, pinged, and shared by all volumes.
//!
//! A ping carries our clock and counts, once answered, as contact at the time when it was *sent*: an engine that
//! was stopped for a while and finds old answers in its socket learns nothing new from them.

use super::volume::Input;
use super::worker::Shared;
use crate::clock;
use crate::core::types::Nanos;
use crate::core::wire::Message;
use crate::net::client::{Connection, Dialer, StoreAddress};
use crate::net::control::{self, Open, Request, Response};
use crate::net::frame::{Frame, FrameReader, Kind};
use crate::net::outbox::Outbox;
use crate::net::{CLIENT_SILENCE, Error, PING_INTERVAL};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

/// Pause after the first failed attempt to connect; doubled up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(100);
/// Longest pause, so that a region that is back takes part within a second.
const MAX_BACKOFF: Duration = Duration::from_millis(1000);

/// The limit of silence is moved at least so far at a time: moving a timer costs, and most messages come much sooner.
const SILENCE_STEP: Duration = Duration::from_millis(50);

/// Numbers of channels and requests, never used twice in a process.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

struct Up {
    outbox: Arc<Outbox>,
    store: Uuid,
}

struct Channel {
    volume: Arc<Shared>,
    member: usize,
}

#[derive(Default)]
struct State {
    up: Option<Up>,
    channels: HashMap<u64, Channel>,
    requests: HashMap<u64, oneshot::Sender<Response>>,
    error: String,
}

/// The link.
pub struct Link {
    /// Which store.
    pub address: StoreAddress,
    dialer: Dialer,
    state: Mutex<State>,
    confirmed: AtomicU64,
    changed: Arc<Notify>,
}

/// A session on a link, for one member of one volume.
pub struct ChannelSender {
    /// Number of the session.
    pub session: u64,
    outbox: Arc<Outbox>,
}

impl ChannelSender {
    /// Queues a message until [`ChannelSender::flush`].
    pub fn send(&self, message: &Message) {
        self.outbox.send_message(self.session, message);
    }

    /// Sends what is queued.
    pub fn flush(&self) {
        self.outbox.kick();
    }
}

impl Link {
    /// A link that is not up yet; [`Link::run`] brings it up. `changed` is notified of every contact and loss.
    pub fn new(address: StoreAddress, dialer: Dialer, changed: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            address,
            dialer,
            state: Mutex::new(State {
                error: "not connected yet".into(),
                ..State::default()
            }),
            confirmed: AtomicU64::new(clock::now()),
            changed,
        })
    }

    /// Whether it is up, and the store's identity.
    pub fn store(&self) -> Option<Uuid> {
        self.state.lock().up.as_ref().map(|up| up.store)
    }

    /// Why it is not up.
    pub fn error(&self) -> String {
        self.state.lock().error.clone()
    }

    /// The last time at which the store is known to have been in contact; at first, when the link was made.
    pub fn confirmed(&self) -> Nanos {
        self.confirmed.load(Ordering::Relaxed)
    }

    /// Asks the store, if it is connected. The caller bounds the wait.
    pub async fn ask(&self, request: &Request) -> Option<Response> {
        let receiver = {
            let mut state = self.state.lock();
            let up = state.up.as_ref()?;
            let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
            up.outbox.send_json(Kind::Request, number, request);
            let (sender, receiver) = oneshot::channel();
            state.requests.retain(|_, waiting| !waiting.is_closed());
            state.requests.insert(number, sender);
            receiver
        };
        receiver.await.ok()
    }

    /// Opens a session to a replica; its messages and its end go to `volume`. `None` while the link is down.
    pub fn open(&self, volume: &Arc<Shared>, member: usize, open: &Open) -> Option<ChannelSender> {
        let mut state = self.state.lock();
        let outbox = state.up.as_ref()?.outbox.clone();
        let session = NUMBERS.fetch_add(1, Ordering::Relaxed);
        outbox.send_json(Kind::Open, session, open);
        state.channels.insert(
            session,
            Channel {
                volume: volume.clone(),
                member,
            },
        );
        Some(ChannelSender { session, outbox })
    }

    /// Ends a session; nothing of it is delivered any more.
    pub fn close(&self, session: u64) {
        let mut state = self.state.lock();
        if state.channels.remove(&session).is_some()
            && let Some(up) = &state.up
        {
            up.outbox.send(Kind::Close, session, Bytes::new());
        }
    }

    /// Keeps the link up for ever. `on_up` is told of each new connection.
    pub async fn run(self: Arc<Self>, on_up: impl Fn() + Send + Sync) {
        let mut backoff = MIN_BACKOFF;
        loop {
            let error = match self.dialer.connect(&self.address).await {
                Err(error) => error,
                Ok(connection) => {
                    backoff = MIN_BACKOFF;
                    self.serve(connection, &on_up).await
                }
            };
            tracing::debug!(region = %self.address.region, %error, "no connection to the store");
            self.down(&error);
            let jitter = rand::random_range(0.5..1.0);
            tokio::time::sleep(backoff.mul_f64(jitter)).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    fn down(&self, error: &Error) {
        let channels = {
            let mut state = self.state.lock();
            state.up = None;
            state.error = error.to_string();
            state.requests.clear();
            std::mem::take(&mut state.channels)
        };
        for (session, channel) in channels {
            let member = channel.member;
            channel.volume.post(Input::Closed {
                member,
                session,
                retry: false,
            });
        }
        self.changed.notify_one();
    }

    async fn serve(&self, connection: Connection, on_up: &(impl Fn() + Send + Sync)) -> Error {
        let outbox = Arc::new(Outbox::default());
        {
            let mut state = self.state.lock();
            state.up = Some(Up {
                outbox: outbox.clone(),
                store: connection.store,
            });
            state.error.clear();
        }
        outbox.send(Kind::Ping, clock::now(), Bytes::new());
        self.changed.notify_one();
        on_up();
        let error = tokio::select! {
            result = outbox.drain(connection.writer) => match result {
                Ok(()) => Error::Protocol("closed".into()),
                Err(error) => error,
            },
            error = self.receive(connection.reader, &outbox) => error,
        };
        outbox.close();
        error
    }

    async fn receive<R: AsyncRead + Unpin>(&self, mut reader: FrameReader<R>, outbox: &Outbox) -> Error {
        let mut ping = tokio::time::interval(PING_INTERVAL);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let silence = tokio::time::sleep(CLIENT_SILENCE);
        tokio::pin!(silence);
        let mut reached = Vec::new();
        loop {
            tokio::select! {
                more = reader.more() => {
                    // The timer is set late rather than often.
                    let heard = tokio::time::Instant::now();
                    let handled = match more {
                        Err(error) => return error,
                        Ok(false) => return Error::Protocol("closed by the store".into()),
                        Ok(true) => self.handle_all(&mut reader, &mut reached),
                    };
                    for volume in reached.drain(..) {
                        volume.drive();
                    }
                    if let Err(error) = handled {
                        return error;
                    }
                    if silence.deadline() < heard + CLIENT_SILENCE - SILENCE_STEP {
                        silence.as_mut().reset(heard + CLIENT_SILENCE);
                    }
                },
                _ = ping.tick() => outbox.send(Kind::Ping, clock::now(), Bytes::new()),
                () = &mut silence => return Error::Silent(CLIENT_SILENCE),
            }
        }
    }

    /// Every frame that is here; notes the volumes that got something.
    fn handle_all<R: AsyncRead + Unpin>(
        &self,
        reader: &mut FrameReader<R>,
        reached: &mut Vec<Arc<Shared>>,
    ) -> Result<(), Error> {
        while let Some(frame) = reader.take()? {
            self.handle(frame, reached)?;
        }
        Ok(())
    }

    fn handle(&self, frame: Frame, reached: &mut Vec<Arc<Shared>>) -> Result<(), Error> {
        match frame.kind {
            Kind::Pong => {
                // Only what we sent can come back, so it is not in the future.
                let sent = frame.channel.min(clock::now());
                self.confirmed.fetch_max(sent, Ordering::Relaxed);
                self.changed.notify_one();
            }
            Kind::Response => {
                let response = control::from_json(&frame.payload)?;
                let waiting = self.state.lock().requests.remove(&frame.channel);
                if let Some(waiting) = waiting {
                    let _ = waiting.send(response);
                }
            }
            Kind::Message => {
                let message = Message::decode(frame.payload).map_err(|e| Error::Protocol(e.to_string()))?;
                let state = self.state.lock();
                if let Some(channel) = state.channels.get(&frame.channel) {
                    channel.volume.put(Input::Message {
                        member: channel.member,
                        session: frame.channel,
                        message,
                    });
                    if !reached.iter().any(|volume| Arc::ptr_eq(volume, &channel.volume)) {
                        reached.push(channel.volume.clone());
                    }
                }
            }
            Kind::Close => {
                let closed = self.state.lock().channels.remove(&frame.channel);
                if let Some(channel) = closed {
                    let reason = String::from_utf8_lossy(&frame.payload);
                    tracing::debug!(region = %self.address.region, %reason, "the store closed a session");
                    channel.volume.post(Input::Closed {
                        member: channel.member,
                        session: frame.channel,
                        retry: true,
                    });
                }
            }
            Kind::Hello | Kind::Ping | Kind::Request | Kind::Open => {
                return Err(Error::Protocol(format!("unexpected {:?}", frame.kind)));
            }
        }
        Ok(())
    }
}
