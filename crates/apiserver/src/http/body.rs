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

/// Makes the chunks of a body, one by one.
pub type ChunkSource = Box<dyn Iterator<Item = Bytes> + Send>;

/// A body that is being compressed.
pub struct Gzip {
    chunks: ChunkSource,
    /// None when the end has been written.
    encoder: Option<flate2::write::GzEncoder<Vec<u8>>>,
}

impl Gzip {
    /// Level 1, as upstream: the network is fast, the processor is not.
    const LEVEL: u32 = 1;

    fn new(chunks: ChunkSource) -> Self {
        let level = flate2::Compression::new(Self::LEVEL);
        let encoder = Some(flate2::write::GzEncoder::new(Vec::new(), level));
        Self { chunks, encoder }
    }
}

impl Iterator for Gzip {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        use std::io::Write;
        // Writing to a vector cannot fail.
        loop {
            let encoder = self.encoder.as_mut()?;
            let Some(chunk) = self.chunks.next() else {
                return self.encoder.take()?.finish().ok().map(Bytes::from);
            };
            encoder.write_all(&chunk).ok()?;
            if !encoder.get_ref().is_empty() {
                return Some(std::mem::take(encoder.get_mut()).into());
            }
        }
    }
}

/// The body of an answer.
pub enum Body {
    /// Chunks in memory, shared with the cache.
    Chunks(VecDeque<Bytes>),
    /// Chunks that are made when the connection can take them, so that a slow client costs no memory.
    Lazy {
        /// Makes the next chunk.
        chunks: ChunkSource,
        /// Bytes that are still to come.
        remaining: u64,
    },
    /// Chunks that are compressed when the connection can take them.
    Gzip(Box<Gzip>),
    /// Chunks that come as they happen.
    Stream(BoxStream<'static, Bytes>),
    /// The body of another server's answer.
    Relay(hyper::body::Incoming),
    /// The same, of a page whose links change.
    Page(Box<crate::links::Page>),
    /// A body with something that lives as long as it does.
    Held(
        Box<Body>,
        #[expect(
            dead_code,
            reason = "it is dropped with the body, which is all that it is for"
        )]
        Box<dyn Send>,
    ),
}

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Self::Chunks(VecDeque::new())
    }

    /// Chunks of this many bytes in all, made as they are sent.
    pub fn lazy(chunks: impl Iterator<Item = Bytes> + Send + 'static, bytes: u64) -> Self {
        Self::Lazy {
            chunks: Box::new(chunks),
            remaining: bytes,
        }
    }

    /// Keeps something until a stream ends. A body that is complete already keeps nothing.
    pub fn hold(&mut self, what: impl Send + 'static) {
        if matches!(self, Self::Stream(_) | Self::Relay(_) | Self::Page(_)) {
            let body = std::mem::replace(self, Self::empty());
            *self = Self::Held(Box::new(body), Box::new(what));
        }
    }

    /// Its size in bytes, if it is known.
    pub fn len(&self) -> Option<u64> {
        match self {
            Self::Chunks(chunks) => Some(chunks.iter().map(|c| c.len() as u64).sum()),
            Self::Lazy { remaining, .. } => Some(*remaining),
            Self::Gzip(_) | Self::Stream(_) | Self::Relay(_) | Self::Page(_) | Self::Held(..) => None,
        }
    }

    /// The same body compressed, if it is one of known size.
    pub fn gzip(self) -> Self {
        match self {
            Self::Chunks(chunks) => Self::Gzip(Box::new(Gzip::new(Box::new(chunks.into_iter())))),
            Self::Lazy { chunks, .. } => Self::Gzip(Box::new(Gzip::new(chunks))),
            other => other,
        }
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
            Self::Lazy { chunks, remaining } => {
                let chunk = chunks.next();
                *remaining -= chunk
                    .as_ref()
                    .map_or(*remaining, |c| c.len() as u64)
                    .min(*remaining);
                Poll::Ready(chunk.map(|c| Ok(Frame::data(c))))
            }
            Self::Gzip(chunks) => Poll::Ready(chunks.next().map(|c| Ok(Frame::data(c)))),
            Self::Stream(stream) => Pin::new(stream)
                .poll_next(cx)
                .map(|chunk| chunk.map(|c| Ok(Frame::data(c)))),
            Self::Relay(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Page(page) => page.poll_frame(cx),
            Self::Held(body, _) => Pin::new(body.as_mut()).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Chunks(chunks) => chunks.is_empty(),
            Self::Lazy { remaining, .. } => *remaining == 0,
            Self::Gzip(gzip) => gzip.encoder.is_none(),
            Self::Stream(_) | Self::Page(_) => false,
            Self::Relay(body) => body.is_end_stream(),
            Self::Held(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Relay(body) => body.size_hint(),
            Self::Held(body, _) => body.size_hint(),
            known => known.len().map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::io::Read;

    fn chunks() -> impl Iterator<Item = Bytes> {
        (0..50u8).map(|n| Bytes::from(vec![n; 10_000]))
    }

    #[tokio::test]
    async fn a_lazy_body_is_as_long_as_it_says() {
        let body = Body::lazy(chunks(), 500_000);
        assert_eq!(
            (body.size_hint().exact(), body.is_end_stream()),
            (Some(500_000), false)
        );
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), 500_000);
    }

    #[tokio::test]
    async fn a_stream_holds_what_it_is_given_until_it_ends() {
        let held = std::sync::Arc::new(());
        let mut body = Body::Stream(Box::pin(futures::stream::iter(chunks())));
        body.hold(held.clone());
        assert_eq!(std::sync::Arc::strong_count(&held), 2);
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), 500_000);
        assert_eq!(std::sync::Arc::strong_count(&held), 1);
        let mut complete = Body::full("x");
        complete.hold(held.clone());
        assert_eq!(std::sync::Arc::strong_count(&held), 1);
    }

    #[tokio::test]
    async fn a_compressed_body_is_the_same_body() {
        let plain: Vec<u8> = chunks().flatten().collect();
        for body in [Body::lazy(chunks(), 500_000), Body::full(plain.clone())] {
            let packed = body.gzip().collect().await.unwrap().to_bytes();
            assert!(packed.len() < 20_000);
            let mut unpacked = Vec::new();
            flate2::read::GzDecoder::new(&packed[..])
                .read_to_end(&mut unpacked)
                .unwrap();
            assert_eq!(unpacked, plain);
        }
    }
}
