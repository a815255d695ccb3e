//! What waits to be sent on one connection: bounded in bytes, filled from any thread, drained in batches.
//!
//! A task drains it. But waking a task costs more than a small message, so a thread that has queued a batch may send
//! it itself with [`Outbox::kick`], if nobody else is sending and the socket takes it; else the task goes on.

use super::frame::{Kind, header};
use super::{Error, control};
use crate::core::wire::Message;
use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

/// Most bytes that wait: half a second of a fast network. More means that the peer does not keep up.
pub const MAX_BYTES: usize = 64 << 20;
/// Small pieces are gathered into writes of this size, bytes: a few TLS records for one system call.
const GATHER_BYTES: usize = 64 << 10;
/// More than this is left to the task, bytes: its encryption would keep the thread from its work.
const DIRECT_BYTES: usize = 64 << 10;

#[derive(Default)]
struct State {
    pieces: Vec<Bytes>,
    bytes: usize,
    closed: bool,
    overflowed: bool,
    /// The sender has something that a thread could not get rid of.
    leftover: bool,
}

/// The queue.
#[derive(Default)]
pub struct Outbox {
    state: Mutex<State>,
    wake: Notify,
    /// There while the task runs. Locked before `state` where both are.
    sender: Mutex<Option<Sender>>,
}

/// The stream and what it has not taken yet.
struct Sender {
    stream: Box<dyn AsyncWrite + Send + Unpin>,
    queue: VecDeque<Bytes>,
    unflushed: bool,
    /// The task waits for the stream: nobody else may poll it, or the task would not be woken.
    awaited: bool,
}

impl Sender {
    /// Sends what there is, until there is nothing.
    fn poll(&mut self, context: &mut Context<'_>, state: &Mutex<State>) -> Poll<io::Result<()>> {
        loop {
            if self.queue.is_empty() {
                gather(take(state), &mut self.queue);
            }
            let Some(front) = self.queue.front_mut() else {
                if self.unflushed {
                    ready!(Pin::new(&mut self.stream).poll_flush(context))?;
                    self.unflushed = false;
                }
                return Poll::Ready(Ok(()));
            };
            let sent = ready!(Pin::new(&mut self.stream).poll_write(context, front))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            front.advance(sent);
            if front.is_empty() {
                self.queue.pop_front();
            }
        }
    }
}

fn take(state: &Mutex<State>) -> Vec<Bytes> {
    let mut state = state.lock();
    state.bytes = 0;
    state.leftover = false;
    std::mem::take(&mut state.pieces)
}

/// Makes large pieces of small ones; large ones stay where they are.
fn gather(pieces: Vec<Bytes>, queue: &mut VecDeque<Bytes>) {
    let mut gathered = Vec::new();
    for piece in pieces {
        let alone = piece.len() >= GATHER_BYTES / 2;
        if !gathered.is_empty() && (alone || gathered.len() + piece.len() > GATHER_BYTES) {
            queue.push_back(std::mem::take(&mut gathered).into());
        }
        if alone {
            queue.push_back(piece);
        } else {
            gathered.extend_from_slice(&piece);
        }
    }
    if !gathered.is_empty() {
        queue.push_back(gathered.into());
    }
}

/// Closes the stream when the task ends, however it ends.
struct Ending<'a>(&'a Outbox);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        *self.0.sender.lock() = None;
    }
}

impl Outbox {
    /// Queues one frame. A closed outbox swallows it; one that overflows closes.
    pub fn send(&self, kind: Kind, channel: u64, payload: Bytes) {
        let head = header(kind, channel, payload.len());
        self.push([head, payload]);
        self.wake.notify_one();
    }

    /// Queues a message of the core. It waits for the next [`Outbox::kick`].
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
    }

    /// Sends what was queued, at once if that is possible without waiting.
    pub fn kick(&self) {
        {
            let state = self.state.lock();
            if state.pieces.is_empty() && !state.overflowed {
                return;
            }
            if state.bytes > DIRECT_BYTES || state.overflowed {
                drop(state);
                return self.wake.notify_one();
            }
        }
        if let Some(mut sender) = self.sender.try_lock()
            && let Some(sender) = sender.as_mut()
            && !sender.awaited
        {
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(Ok(())) = sender.poll(&mut context, &self.state) {
                return;
            }
            // The task goes on with it, or finds the same error.
            self.state.lock().leftover = true;
        }
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

    /// Waits until there is something to send; false when closed and empty.
    async fn pending(&self) -> Result<bool, Error> {
        loop {
            let woken = self.wake.notified();
            {
                let state = self.state.lock();
                if state.overflowed {
                    return Err(Error::Overflow);
                }
                if !state.pieces.is_empty() || state.leftover {
                    return Ok(true);
                }
                if state.closed {
                    return Ok(false);
                }
            }
            woken.await;
        }
    }

    /// Sends until the outbox is closed or the stream fails.
    pub async fn drain(&self, stream: impl AsyncWrite + Send + Unpin + 'static) -> Result<(), Error> {
        *self.sender.lock() = Some(Sender {
            stream: Box::new(stream),
            queue: VecDeque::new(),
            unflushed: false,
            awaited: false,
        });
        let _ending = Ending(self);
        while self.pending().await? {
            std::future::poll_fn(|context| {
                let mut sender = self.sender.lock();
                let Some(sender) = sender.as_mut() else {
                    return Poll::Ready(Ok(()));
                };
                let polled = sender.poll(context, &self.state);
                sender.awaited = polled.is_pending();
                polled
            })
            .await?;
        }
        let sender = self.sender.lock().take();
        if let Some(mut sender) = sender {
            let _ = sender.stream.shutdown().await;
        }
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

    /// Of no, one or two blocks; now and then so large that it goes alone.
    fn message(request: u64) -> Message {
        use crate::core::types::BLOCK;
        use crate::core::wire::{BlockEntry, BlockKind};
        let count = if request % 50 == 7 { 12 } else { request % 3 };
        let block = |block| BlockEntry {
            block,
            version: request,
            crc: 0,
            kind: BlockKind::Data,
        };
        Message::ReadReply {
            request,
            ready: true,
            blocks: (0..count).map(block).collect(),
            data: vec![request as u8; count as usize * BLOCK].into(),
        }
    }

    /// Threads that kick, a task that drains, and a peer that reads slowly through a narrow pipe: every message comes,
    /// once, in the order of its thread.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn threads_and_the_task_share_the_stream() {
        const THREADS: u64 = 3;
        const MESSAGES: u64 = 400;
        let outbox = std::sync::Arc::new(Outbox::default());
        let (client, server) = tokio::io::duplex(10_000);
        let draining = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.drain(client).await }
        });
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let outbox = outbox.clone();
                std::thread::spawn(move || {
                    for i in 0..MESSAGES {
                        outbox.send_message(thread, &message(i));
                        outbox.kick();
                    }
                })
            })
            .collect();
        let mut reader = super::super::frame::FrameReader::new(server);
        let mut next = [0; THREADS as usize];
        for _ in 0..THREADS * MESSAGES {
            let frame = tokio::time::timeout(std::time::Duration::from_secs(20), reader.next())
                .await
                .expect("a message is lost")
                .unwrap()
                .unwrap();
            let expected = next[frame.channel as usize];
            assert_eq!(Message::decode(frame.payload).unwrap(), message(expected));
            next[frame.channel as usize] += 1;
        }
        threads.into_iter().for_each(|t| t.join().unwrap());
        outbox.close();
        draining.await.unwrap().unwrap();
        assert!(reader.next().await.unwrap().is_none());
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
