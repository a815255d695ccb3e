//! The smallest HTTP client that a test needs: one request, one connection.

use crate::Pki;
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends a request over HTTP/1.1 and reads the answer to its end: code and body.
pub(crate) async fn request(
    pki: &Pki,
    address: SocketAddr,
    files: Option<&tls::IdentityFiles>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<(u16, String)> {
    let (code, _, body) = exchange(pki, address, files, method, path, headers, body).await?;
    Ok((code, body))
}

/// [`request`] with the headers of the answer, as they came.
pub(crate) async fn exchange(
    pki: &Pki,
    address: SocketAddr,
    files: Option<&tls::IdentityFiles>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<(u16, String, String)> {
    let config = match files {
        Some(files) => tls::client_config(files, &[b"http/1.1"])?,
        None => {
            let mut roots = rustls::RootCertStore::empty();
            let pem = pki.cluster.certificate().as_bytes();
            for cert in rustls_pemfile::certs(&mut &pem[..]) {
                roots.add(cert?)?;
            }
            let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
            Arc::new(builder.with_no_client_auth())
        }
    };
    let name = rustls::pki_types::ServerName::from(address.ip());
    let tcp = TcpStream::connect(address).await?;
    let mut stream = tokio_rustls::TlsConnector::from(config)
        .connect(name, tcp)
        .await?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    if !body.is_empty() {
        head += &format!("content-length: {}\r\n", body.len());
    }
    for (key, value) in headers {
        head += &format!("{key}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n{body}").as_bytes()).await?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer).await {
        Ok(_) => {}
        // A server may close without saying good-bye.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
        Err(error) => return Err(error.into()),
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").context("no end of the headers")?;
    let code = head.split(' ').nth(1).context("no status line")?.parse()?;
    let body = if head.to_lowercase().contains("transfer-encoding: chunked") {
        unchunk(body)
    } else {
        body.into()
    };
    Ok((code, head.to_owned(), body))
}

fn unchunk(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else {
            break;
        };
        if size == 0 || rest.len() < size {
            break;
        }
        out.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    out
}
