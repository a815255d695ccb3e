//! Just enough of HTTP/1.1 for a client that costs little beside the server that it measures.

use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A connection that is kept.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    authorization: String,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr, tls: &Arc<rustls::ClientConfig>, token: &str) -> Result<Self> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let name = rustls::pki_types::ServerName::from(address.ip());
        let stream = tokio_rustls::TlsConnector::from(tls.clone())
            .connect(name, tcp)
            .await?;
        // The certificate says who it is where there is no token.
        let authorization = if token.is_empty() {
            String::new()
        } else {
            format!("authorization: Bearer {token}\r\n")
        };
        Ok(Self {
            stream,
            authorization,
            buffer: Vec::new(),
        })
    }

    /// Sends a request; its code and body.
    pub async fn request(&mut self, method: &str, path: &str, body: &str) -> Result<(u16, Vec<u8>)> {
        self.send(method, path, body).await?;
        let head = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break String::from_utf8_lossy(&self.buffer.drain(..end + 4).collect::<Vec<u8>>())
                    .into_owned();
            }
            self.more().await?;
        };
        let code = head.split(' ').nth(1).context("no code")?.parse()?;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<usize>().ok())?
        });
        let length = length.context("no length")?;
        while self.buffer.len() < length {
            self.more().await?;
        }
        Ok((code, self.buffer.drain(..length).collect()))
    }

    /// Sends a request and leaves its answer to [`Connection::read`].
    pub async fn send(&mut self, method: &str, path: &str, body: &str) -> Result<()> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: bench\r\n{}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.authorization,
            body.len()
        );
        Ok(self.stream.write_all(request.as_bytes()).await?)
    }

    /// What has arrived, appended to `out`.
    pub async fn read(&mut self, out: &mut Vec<u8>) -> Result<()> {
        if self.stream.read_buf(out).await? == 0 {
            bail!("the server closed the connection");
        }
        Ok(())
    }

    async fn more(&mut self) -> Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the server closed the connection");
        }
        Ok(())
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}
