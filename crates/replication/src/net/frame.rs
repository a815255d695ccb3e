//! Frames: payload length (u32), kind (u8), channel (u64), payload. Numbers are little-endian.
//!
//! Protocol history: 1, the first release.

use super::Error;
use crate::core::wire::MAX_PAYLOAD;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Version of framing, hello and control messages.
pub const PROTOCOL: u32 = 1;
/// Bytes before the payload.
pub const HEADER_BYTES: usize = 13;
/// Largest payload: a message of the core and its headers.
pub const MAX_FRAME_BYTES: usize = MAX_PAYLOAD + (1 << 20);
/// Room made for each read from the network, bytes: several TLS records.
const READ_BYTES: usize = 64 << 10;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// First frame in each direction, JSON [`super::control::Hello`].
    Hello = 0,
    /// Asks for a `Pong`; the channel is the sender's clock.
    Ping = 1,
    /// Brings the `Ping`'s channel back.
    Pong = 2,
    /// JSON [`super::control::Request`]; the channel numbers it.
    Request = 3,
    /// JSON [`super::control::Response`].
    Response = 4,
    /// Opens a session to a replica, JSON [`super::control::Open`].
    Open = 5,
    /// A message of the core within a session.
    Message = 6,
    /// Ends a session; the payload is a reason in words.
    Close = 7,
}

impl Kind {
    fn parse(byte: u8) -> Option<Kind> {
        Some(match byte {
            0 => Kind::Hello,
            1 => Kind::Ping,
            2 => Kind::Pong,
            3 => Kind::Request,
            4 => Kind::Response,
            5 => Kind::Open,
            6 => Kind::Message,
            7 => Kind::Close,
            _ => return None,
        })
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Session, request number or time.
    pub channel: u64,
    /// The rest.
    pub payload: Bytes,
}

/// The bytes that go before a payload of `len` bytes.
pub fn header(kind: Kind, channel: u64, len: usize) -> Bytes {
    let mut header = BytesMut::with_capacity(HEADER_BYTES);
    header.put_u32_le(len as u32);
    header.put_u8(kind as u8);
    header.put_u64_le(channel);
    header.freeze()
}

/// Takes one whole frame from the front of `buffer`; `None` when it is not complete yet.
pub fn take(buffer: &mut BytesMut) -> Result<Option<Frame>, Error> {
    if buffer.len() < HEADER_BYTES {
        return Ok(None);
    }
    let mut head = &buffer[..HEADER_BYTES];
    let len = head.get_u32_le() as usize;
    let kind = head.get_u8();
    let channel = head.get_u64_le();
    if len > MAX_FRAME_BYTES {
        return Err(Error::Protocol(format!("a frame of {len} bytes is too long")));
    }
    let kind = Kind::parse(kind).ok_or_else(|| Error::Protocol(format!("unknown kind of frame {kind}")))?;
    if buffer.len() < HEADER_BYTES + len {
        buffer.reserve(HEADER_BYTES + len - buffer.len());
        return Ok(None);
    }
    buffer.advance(HEADER_BYTES);
    let payload = buffer.split_to(len).freeze();
    Ok(Some(Frame {
        kind,
        channel,
        payload,
    }))
}

/// Reads frames from a stream.
pub struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from `stream`.
    pub fn new(stream: R) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
        }
    }

    /// The next frame; `None` at the end of the stream. Safe to cancel: nothing is lost.
    pub async fn next(&mut self) -> Result<Option<Frame>, Error> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// A frame that is here already.
    pub fn take(&mut self) -> Result<Option<Frame>, Error> {
        take(&mut self.buffer)
    }

    /// Waits for more bytes; false at the end of the stream. Safe to cancel: nothing is lost.
    pub async fn more(&mut self) -> Result<bool, Error> {
        if self.buffer.capacity() - self.buffer.len() < READ_BYTES / 4 {
            self.buffer.reserve(READ_BYTES);
        }
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_survive_any_cut_of_the_stream(
            frames in prop::collection::vec((1u8..8, any::<u64>(), prop::collection::vec(any::<u8>(), 0..300)), 1..20),
            cut in 1usize..50,
        ) {
            let mut stream = Vec::new();
            let mut sent = Vec::new();
            for (kind, channel, payload) in frames {
                let kind = Kind::parse(kind).unwrap();
                stream.extend_from_slice(&header(kind, channel, payload.len()));
                stream.extend_from_slice(&payload);
                sent.push(Frame { kind, channel, payload: payload.into() });
            }
            let mut buffer = BytesMut::new();
            let mut got = Vec::new();
            for piece in stream.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = take(&mut buffer).unwrap() {
                    got.push(frame);
                }
            }
            prop_assert_eq!(got, sent);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = take(&mut buffer) {}
        }
    }

    #[test]
    fn a_frame_beyond_the_bound_is_refused_before_its_payload_comes() {
        let mut buffer = BytesMut::from(&header(Kind::Message, 1, MAX_FRAME_BYTES + 1)[..]);
        assert!(matches!(take(&mut buffer), Err(Error::Protocol(_))));
    }
}
