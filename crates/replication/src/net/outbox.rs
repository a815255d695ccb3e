//! What waits to be sent on one connection: bounded in bytes, filled from any thread, drained in batches.

use super::frame::{Kind, header};
use super::{Error, control};
use crate::core::wire::Message;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

/// Most bytes that wait: half a second of a fast network. More means that the peer does not keep up.
pub const MAX_BYTES: usize = 64 << 20;
/// Small pieces are gathered into writes of this size, bytes: a few TLS records for one system call.
const GATHER_BYTES: usize = 64 << 10;

#[derive(Default)]
struct State {
    pieces: Vec<Bytes>,
    bytes: usize,
    closed: bool,
    overflowed: bool,
}

/// The queue.
#[derive(Default)]
pub struct Outbox {
    state: Mutex<State>,
    wake: Notify,
}

impl Outbox {
    /// Queues one frame. A closed outbox swallows it; one that overflows closes.
    pub fn send(&self, kind: Kind, channel: u64, payload: Bytes) {
        let head = header(kind, channel, payload.len());
        self.push([head, payload]);
    }

    /// Queues a message of the core.
    pub fn send_message(&self, channel: u64, message: &Message) {
        let mut parts = Vec::with_capacity(4);
        parts.push(Bytes::new());
        message.encode(&mut parts);
        let len = parts.iter().map(Bytes::len).sum();
        parts[0] = header(Kind::Message, channel, len);
        self.push(parts);
    }

    /// Queues a JSON frame.
    pub fn send_json(&self, kind: Kind, channel: u64, value: &impl serde::Serialize) {
        self.send(kind, channel, control::to_json(value));
    }

    fn push(&self, parts: impl IntoIterator<Item = Bytes>) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        for part in parts {
            state.bytes += part.len();
            state.pieces.push(part);
        }
        if state.bytes > MAX_BYTES {
            state.closed = true;
            state.overflowed = true;
            state.pieces = Vec::new();
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Ends the connection once what is queued has been sent.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_one();
    }

    /// Whether nothing can be sent any more.
    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Everything that waits; `None` when closed and empty.
    async fn take(&self) -> Result<Option<Vec<Bytes>>, Error> {
        loop {
            let woken = self.wake.notified();
            {
                let mut state = self.state.lock();
                if state.overflowed {
                    return Err(Error::Overflow);
                }
                if !state.pieces.is_empty() {
                    state.bytes = 0;
                    return Ok(Some(std::mem::take(&mut state.pieces)));
                }
                if state.closed {
                    return Ok(None);
                }
            }
            woken.await;
        }
    }

    /// Sends until the outbox is closed or the stream fails.
    pub async fn drain(&self, mut stream: impl AsyncWrite + Unpin) -> Result<(), Error> {
        let mut gathered = Vec::new();
        while let Some(pieces) = self.take().await? {
            for piece in pieces {
                let alone = piece.len() >= GATHER_BYTES / 2;
                if !gathered.is_empty() && (alone || gathered.len() + piece.len() > GATHER_BYTES) {
                    stream.write_all(&gathered).await?;
                    gathered.clear();
                }
                if alone {
                    stream.write_all(&piece).await?;
                } else {
                    gathered.extend_from_slice(&piece);
                }
            }
            if !gathered.is_empty() {
                stream.write_all(&gathered).await?;
                gathered.clear();
            }
            stream.flush().await?;
        }
        let _ = stream.shutdown().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_that_does_not_read_costs_a_bounded_queue() {
        let outbox = Outbox::default();
        let piece = Bytes::from(vec![0; 1 << 20]);
        for _ in 0..65 {
            outbox.send(Kind::Message, 1, piece.clone());
        }
        assert!(outbox.is_closed());
        assert!(matches!(
            outbox.drain(tokio::io::sink()).await,
            Err(Error::Overflow)
        ));
    }

    #[tokio::test]
    async fn frames_leave_in_order() {
        let outbox = Outbox::default();
        let (client, server) = tokio::io::duplex(1 << 20);
        for i in 0..100u64 {
            outbox.send(Kind::Message, i, vec![i as u8; (i as usize) * 700].into());
        }
        outbox.close();
        let reading = async {
            let mut reader = super::super::frame::FrameReader::new(server);
            let mut count = 0;
            while let Some(frame) = reader.next().await.unwrap() {
                assert_eq!(frame.channel, count);
                assert_eq!(frame.payload.len() as u64, count * 700);
                count += 1;
            }
            count
        };
        let (sent, count) = tokio::join!(outbox.drain(client), reading);
        sent.unwrap();
        assert_eq!(count, 100);
    }
}
