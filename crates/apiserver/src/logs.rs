//! Logs over WebSocket (RFC 6455): each piece of the log is a message, binary or in base64 as the client chooses. The
//! kubelet sends the log as a plain answer; the frames are made here, as upstream's server does.

use crate::call::Response;
use crate::http::body::Body;
use crate::http::status::Status;
use crate::kubelet::wants_upgrade;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{BufMut, Bytes};
use http::{HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What RFC 6455 adds to the client's key.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The version of the protocol.
const VERSION: &str = "13";
/// Longest payload of a control frame.
const MAX_CONTROL_BYTES: u64 = 125;
/// Answers to pings that wait to be sent; a client with more of them waits.
const PONGS: usize = 4;
/// Status of a close frame: all is well.
const CLOSE_NORMAL: [u8; 2] = 1000u16.to_be_bytes();

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The form of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Binary,
    Base64,
}

impl Form {
    /// The first protocol that the client names and this server knows; binary if it names none.
    fn negotiate(wanted: Option<&str>) -> Option<(Self, Option<&'static str>)> {
        let Some(wanted) = wanted.filter(|list| !list.trim().is_empty()) else {
            return Some((Self::Binary, None));
        };
        wanted.split(',').find_map(|name| match name.trim() {
            "binary.k8s.io" => Some((Self::Binary, Some("binary.k8s.io"))),
            "base64.binary.k8s.io" => Some((Self::Base64, Some("base64.binary.k8s.io"))),
            _ => None,
        })
    }

    fn message(self, payload: &[u8]) -> Vec<u8> {
        match self {
            Self::Binary => frame(BINARY, payload),
            Self::Base64 => frame(TEXT, BASE64.encode(payload).as_bytes()),
        }
    }
}

/// A connection that is to become a WebSocket.
pub struct Socket {
    upgrade: OnUpgrade,
    accept: String,
    form: Form,
    protocol: Option<&'static str>,
}

impl Socket {
    /// Takes the wish for a WebSocket off a request, if it has one.
    pub fn take(request: &mut Request<Incoming>) -> Result<Option<Self>, Status> {
        let headers = request.headers();
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let wanted = text(&header::UPGRADE).is_some_and(|to| to.eq_ignore_ascii_case("websocket"));
        if !wanted || !wants_upgrade(headers) {
            return Ok(None);
        }
        let refused = || Status::bad_request("the request for a WebSocket cannot be understood");
        if text(&header::SEC_WEBSOCKET_VERSION) != Some(VERSION) {
            return Err(refused());
        }
        let accept = accept(text(&header::SEC_WEBSOCKET_KEY).ok_or_else(refused)?);
        let (form, protocol) = Form::negotiate(text(&header::SEC_WEBSOCKET_PROTOCOL)).ok_or_else(refused)?;
        let upgrade = hyper::upgrade::on(&mut *request);
        let headers = request.headers_mut();
        for name in [
            header::CONNECTION,
            header::UPGRADE,
            header::SEC_WEBSOCKET_VERSION,
            header::SEC_WEBSOCKET_KEY,
            header::SEC_WEBSOCKET_PROTOCOL,
            header::SEC_WEBSOCKET_EXTENSIONS,
            // What is sent on in frames is the log itself.
            header::ACCEPT_ENCODING,
        ] {
            headers.remove(name);
        }
        Ok(Some(Self {
            upgrade,
            accept,
            form,
            protocol,
        }))
    }

    /// Answers with the upgrade; the log is sent when the client has it.
    pub fn serve(self, log: Body, shutdown: CancellationToken) -> Response {
        let mut response = http::Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&self.accept) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(protocol) = self.protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        tokio::spawn(async move {
            let Ok(client) = self.upgrade.await else { return };
            let (read, write) = tokio::io::split(TokioIo::new(client));
            let (pong, pongs) = mpsc::channel(PONGS);
            tokio::select! {
                // Either side may break off at any time; there is nobody to tell.
                _ = send(write, log, self.form, pongs) => {}
                _ = receive(read, pong) => {}
                () = shutdown.cancelled() => {}
            }
        });
        response
    }
}

/// The proof that the server speaks the protocol.
fn accept(key: &str) -> String {
    let text = format!("{key}{GUID}");
    BASE64.encode(ring::digest::digest(
        &ring::digest::SHA1_FOR_LEGACY_USE_ONLY,
        text.as_bytes(),
    ))
}

/// A whole message of a server.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    const LAST: u8 = 0x80;
    let mut out = Vec::with_capacity(payload.len() + 10);
    out.put_u8(LAST | kind);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short), _) if short < 126 => out.put_u8(short),
        (_, Ok(medium)) => {
            out.put_u8(126);
            out.put_u16(medium);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(payload.len() as u64);
        }
    }
    out.extend_from_slice(payload);
    out
}

/// Sends an empty message, as upstream does before the log begins, then the log, then the close.
async fn send(
    mut to: impl AsyncWrite + Unpin,
    mut log: Body,
    form: Form,
    mut pongs: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    to.write_all(&form.message(b"")).await?;
    to.flush().await?;
    loop {
        tokio::select! {
            piece = log.frame() => {
                let Some(Ok(piece)) = piece else { break };
                let piece: Bytes = piece.into_data().unwrap_or_default();
                if !piece.is_empty() {
                    to.write_all(&form.message(&piece)).await?;
                }
            }
            Some(pong) = pongs.recv() => to.write_all(&frame(PONG, &pong)).await?,
        }
        to.flush().await?;
    }
    to.write_all(&frame(CLOSE, &CLOSE_NORMAL)).await?;
    to.flush().await?;
    to.shutdown().await
}

/// Reads what the client says until it closes; of that only pings matter.
async fn receive(mut from: impl AsyncRead + Unpin, pong: mpsc::Sender<Vec<u8>>) -> io::Result<()> {
    loop {
        let kind = from.read_u8().await? & 0x0f;
        let length = from.read_u8().await?;
        let masked = length & 0x80 != 0;
        let length = match length & 0x7f {
            126 => u64::from(from.read_u16().await?),
            127 => from.read_u64().await?,
            short => u64::from(short),
        };
        if !masked || (kind >= CLOSE && length > MAX_CONTROL_BYTES) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut mask = [0; 4];
        from.read_exact(&mut mask).await?;
        let mut payload = (&mut from).take(length);
        match kind {
            CLOSE => return Ok(()),
            PING => {
                let mut bytes = Vec::new();
                payload.read_to_end(&mut bytes).await?;
                bytes
                    .iter_mut()
                    .zip(mask.iter().cycle())
                    .for_each(|(byte, mask)| *byte ^= mask);
                if pong.send(bytes).await.is_err() {
                    return Ok(());
                }
            }
            _ => {
                tokio::io::copy(&mut payload, &mut tokio::io::sink()).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(frame(TEXT, b"Hello"), b"\x81\x05Hello");
        assert_eq!(frame(BINARY, &[0; 256])[..4], [0x82, 126, 1, 0]);
        assert_eq!(
            frame(BINARY, &vec![0; 65_536])[..10],
            [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]
        );
    }

    #[test]
    fn the_form_is_the_first_that_is_known() {
        assert_eq!(Form::negotiate(None), Some((Form::Binary, None)));
        let wanted = Form::negotiate(Some("v9.x, base64.binary.k8s.io, binary.k8s.io"));
        assert_eq!(wanted, Some((Form::Base64, Some("base64.binary.k8s.io"))));
        assert_eq!(Form::negotiate(Some("v9.x")), None);
        assert_eq!(Form::Base64.message(b"log"), frame(TEXT, b"bG9n"));
    }

    #[tokio::test]
    async fn pings_are_answered_until_the_close() {
        let (pong, mut pongs) = mpsc::channel(PONGS);
        // A text, a ping "Hello" as in the RFC, a close.
        let said = [
            &b"\x81\x82\x00\x00\x00\x00hi"[..],
            b"\x89\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58",
            b"\x88\x80\x00\x00\x00\x00",
        ]
        .concat();
        assert!(receive(&said[..], pong.clone()).await.is_ok());
        assert_eq!(pongs.recv().await.unwrap(), b"Hello");
        for bad in [&b"\x81\x02hi"[..], b"\x89\xfe\x01\x00\x00\x00\x00\x00", b"\x81"] {
            assert!(receive(bad, pong.clone()).await.is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_log_is_messages_between_an_empty_one_and_the_close() {
        let mut out = io::Cursor::new(Vec::new());
        let (_pong, pongs) = mpsc::channel(PONGS);
        send(&mut out, Body::full("line\n"), Form::Binary, pongs)
            .await
            .unwrap();
        assert_eq!(out.into_inner(), b"\x82\x00\x82\x05line\n\x88\x02\x03\xe8");
    }
}
