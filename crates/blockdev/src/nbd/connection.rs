//! One connection: handshake, perhaps TLS, then requests and replies.

use super::flight::{Flight, Ticket};
use super::negotiate::{Closed, Negotiation, Next, Session, TlsState};
use super::reply::{Outcome, put_reply};
use super::request::{self, Command, OutOfStep, REQUEST_BYTES, Request};
use super::server::{Catalog, Tls};
use crate::BlockDevice;
use bytes::{Buf, Bytes, BytesMut};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Limit for the handshake, TLS included. People may type options in a shell.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);
/// Room made for each read, bytes: sixteen small writes.
const READ_BYTES: usize = 64 << 10;
/// Small replies are gathered into writes of this size, bytes.
const GATHER_BYTES: usize = 64 << 10;
/// Data from this size on is written from where it is, bytes.
const ALONE_BYTES: usize = 16 << 10;

/// Why a connection ended before its client said so.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream failed, or the client went away.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The handshake failed.
    #[error("handshake: {0}")]
    Handshake(#[from] Closed),
    /// It took too long.
    #[error("no handshake within {0:?}")]
    Slow(Duration),
    /// The client sent something else than a request.
    #[error(transparent)]
    OutOfStep(#[from] OutOfStep),
    /// Its certificate is good, but not for this.
    #[error("the client's certificate does not allow this")]
    Forbidden,
}

/// Serves a connection to its end.
pub(super) async fn serve<S>(stream: S, catalog: &Catalog, tls: Option<&Tls>) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limit = tokio::time::Instant::now() + HANDSHAKE_TIMEOUT;
    let mut stream = stream;
    let mut out = Vec::new();
    let state = if tls.is_some() {
        TlsState::Required
    } else {
        TlsState::Off
    };
    let mut negotiation = Negotiation::new(state, &mut out);
    let mut buffer = BytesMut::new();
    let agreed = {
        let step = negotiate(&mut stream, &mut negotiation, &mut buffer, &mut out, catalog);
        tokio::time::timeout_at(limit, step)
            .await
            .unwrap_or(Err(Error::Slow(HANDSHAKE_TIMEOUT)))?
    };
    let tls = match (agreed, tls) {
        (Agreed::Session(session), _) => return transmit(stream, buffer, session, catalog).await,
        (Agreed::Tls, Some(tls)) => tls,
        (Agreed::Tls, None) => return Err(Closed::Injected.into()),
    };
    let secure = async {
        let mut stream = tls.acceptor.accept(stream).await?;
        if !(tls.allow)(stream.get_ref().1.peer_certificates()) {
            return Err(Error::Forbidden);
        }
        negotiation.secured();
        match negotiate(&mut stream, &mut negotiation, &mut buffer, &mut out, catalog).await? {
            Agreed::Session(session) => Ok((stream, session)),
            Agreed::Tls => Err(Closed::Injected.into()),
        }
    };
    let (stream, session) = tokio::time::timeout_at(limit, secure)
        .await
        .unwrap_or(Err(Error::Slow(HANDSHAKE_TIMEOUT)))?;
    transmit(stream, buffer, session, catalog).await
}

enum Agreed {
    Tls,
    Session(Session),
}

async fn negotiate<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    negotiation: &mut Negotiation,
    buffer: &mut BytesMut,
    out: &mut Vec<u8>,
    catalog: &Catalog,
) -> Result<Agreed, Error> {
    loop {
        let (taken, next) = negotiation.step(buffer, catalog, out);
        buffer.advance(taken);
        stream.write_all(out).await?;
        stream.flush().await?;
        out.clear();
        match next {
            Next::More => {
                if stream.read_buf(buffer).await? == 0 {
                    return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
                }
            }
            Next::Tls => return Ok(Agreed::Tls),
            Next::Transmit(session) => return Ok(Agreed::Session(session)),
            Next::Close(why) => {
                let _ = stream.shutdown().await;
                return Err(why.into());
            }
        }
    }
}

async fn transmit<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    buffer: BytesMut,
    session: Session,
    catalog: &Catalog,
) -> Result<(), Error> {
    let Some(device) = catalog.device(&session.export.name) else {
        return Err(Closed::NoExport.into());
    };
    let structured = session.structured;
    let flight = Arc::new(Flight::default());
    let (reader, writer) = tokio::io::split(stream);
    let mut receiver = Receiver {
        stream: reader,
        buffer,
        session,
        device,
        flight: flight.clone(),
        submitted: false,
    };
    let receiving = async {
        let result = receiver.run().await;
        // However it ended: what was submitted happens.
        receiver.start();
        // What was begun is answered, if the client still listens.
        flight.finish();
        match result {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    };
    tokio::select! {
        result = send(writer, &flight, structured) => result,
        error = receiving => Err(error),
    }
}

async fn send(mut stream: impl AsyncWrite + Unpin, flight: &Flight, structured: bool) -> Result<(), Error> {
    let mut gathered = Vec::new();
    while let Some(replies) = flight.take().await {
        let (mut requests, mut bytes) = (0, 0);
        for reply in replies {
            requests += 1;
            bytes += reply.weight;
            let Some(data) = put_reply(&mut gathered, structured, reply.cookie, reply.outcome) else {
                continue;
            };
            if data.len() < ALONE_BYTES {
                gathered.extend_from_slice(&data);
            }
            if data.len() >= ALONE_BYTES || gathered.len() >= GATHER_BYTES {
                stream.write_all(&gathered).await?;
                gathered.clear();
            }
            if data.len() >= ALONE_BYTES {
                stream.write_all(&data).await?;
                drop(data);
                flight.written(requests, bytes);
                (requests, bytes) = (0, 0);
            }
        }
        stream.write_all(&gathered).await?;
        gathered.clear();
        stream.flush().await?;
        flight.written(requests, bytes);
    }
    let _ = stream.shutdown().await;
    Ok(())
}

struct Receiver<R> {
    stream: R,
    buffer: BytesMut,
    session: Session,
    device: Arc<dyn BlockDevice>,
    flight: Arc<Flight>,
    /// The device has requests that were not started.
    submitted: bool,
}

impl<R: AsyncRead + Unpin> Receiver<R> {
    /// Reads requests and hands them to the device until the client disconnects.
    async fn run(&mut self) -> Result<(), Error> {
        loop {
            self.fill(REQUEST_BYTES).await?;
            let mut header = [0; REQUEST_BYTES];
            self.buffer.copy_to_slice(&mut header);
            let request = Request::parse(&header)?;
            let judged = request::judge(&request, &self.session, self.device.size_bytes());
            let weight = match judged {
                Ok(Command::Disconnect) => return Ok(()),
                Ok(Command::Read { .. } | Command::Write { .. }) => u64::from(request.len),
                _ => 0,
            };
            let ticket = match self.flight.try_enter(request.cookie, weight) {
                Some(ticket) => ticket,
                None => {
                    // What would make room must run.
                    self.start();
                    self.flight.enter(request.cookie, weight).await
                }
            };
            match judged {
                Ok(command) => {
                    let payload = self.payload(request.payload_bytes() as usize).await?;
                    submit(&self.device, command, &request, payload, ticket);
                    self.submitted = true;
                }
                Err(refusal) => {
                    self.skip(request.payload_bytes() as usize).await?;
                    ticket.reply(Outcome::Failed {
                        errno: refusal.errno,
                        why: refusal.why,
                    });
                }
            }
        }
    }

    /// Starts what was submitted: requests that came in one piece go together.
    fn start(&mut self) {
        if std::mem::take(&mut self.submitted) {
            self.device.start();
        }
    }

    /// Reads until the buffer has `len` bytes.
    async fn fill(&mut self, len: usize) -> Result<(), Error> {
        while self.buffer.len() < len {
            self.start();
            let missing = len - self.buffer.len();
            if missing > READ_BYTES || self.buffer.capacity() - self.buffer.len() < READ_BYTES / 4 {
                self.buffer.reserve(missing.max(READ_BYTES));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
        Ok(())
    }

    async fn payload(&mut self, len: usize) -> Result<Bytes, Error> {
        self.fill(len).await?;
        Ok(self.buffer.split_to(len).freeze())
    }

    /// Reads and forgets a payload, however long, without keeping it.
    async fn skip(&mut self, len: usize) -> Result<(), Error> {
        let mut left = len;
        while left > 0 {
            self.fill(1).await?;
            let piece = left.min(self.buffer.len());
            self.buffer.advance(piece);
            left -= piece;
        }
        Ok(())
    }
}

fn submit(
    device: &Arc<dyn BlockDevice>,
    command: Command,
    request: &Request,
    payload: Bytes,
    ticket: Ticket,
) {
    let (offset, len) = (request.offset, request.len);
    match command {
        Command::Read { whole } => device.read(
            offset,
            len,
            Box::new(move |result| {
                ticket.reply(match result {
                    Ok(data) => Outcome::Data { offset, data, whole },
                    Err(errno) => failed(errno),
                });
            }),
        ),
        Command::Write { fua } => device.write(offset, payload, fua, done(ticket)),
        Command::Flush => device.flush(done(ticket)),
        Command::Zero { discard, fua } => {
            let after = fua.then(|| device.clone());
            device.zero(
                offset,
                len.into(),
                discard,
                Box::new(move |result| match (result, after) {
                    (Ok(()), Some(device)) => {
                        device.flush(done(ticket));
                        device.start();
                    }
                    (result, _) => done(ticket)(result),
                }),
            );
        }
        Command::Extents { one } => device.extents(
            offset,
            len.into(),
            Box::new(move |result| {
                ticket.reply(match result {
                    Ok(extents) => Outcome::Extents { extents, len, one },
                    Err(errno) => failed(errno),
                });
            }),
        ),
        Command::Nothing => ticket.reply(Outcome::Done),
        Command::Disconnect => {}
    }
}

fn done(ticket: Ticket) -> crate::Done<()> {
    Box::new(move |result| {
        ticket.reply(match result {
            Ok(()) => Outcome::Done,
            Err(errno) => failed(errno),
        });
    })
}

fn failed(errno: i32) -> Outcome {
    Outcome::Failed {
        errno: request::error_number(errno),
        why: "the device failed",
    }
}
