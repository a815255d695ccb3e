//! The body of an answer: bytes that are shared with the cache, a stream, or what a kubelet sends.

use bytes::Bytes;
use futures::Stream;
use futures::stream::BoxStream;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Errors of a relayed body end the connection; nothing reads them.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer.
pub enum Body {
    /// Chunks in memory, shared with the cache.
    Chunks(VecDeque<Bytes>),
    /// Chunks that come as they happen.
    Stream(BoxStream<'static, Bytes>),
    /// The body of another server's answer.
    Relay(hyper::body::Incoming),
}

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Self::Chunks(VecDeque::new())
    }

    /// One chunk.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::Chunks(VecDeque::from([bytes.into()]))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Chunks(chunks) => Poll::Ready(chunks.pop_front().map(|c| Ok(Frame::data(c)))),
            Self::Stream(stream) => Pin::new(stream)
                .poll_next(cx)
                .map(|chunk| chunk.map(|c| Ok(Frame::data(c)))),
            Self::Relay(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Chunks(chunks) => chunks.is_empty(),
            Self::Stream(_) => false,
            Self::Relay(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Chunks(chunks) => SizeHint::with_exact(chunks.iter().map(|c| c.len() as u64).sum()),
            Self::Stream(_) => SizeHint::default(),
            Self::Relay(body) => body.size_hint(),
        }
    }
}
