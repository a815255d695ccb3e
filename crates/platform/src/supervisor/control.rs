//! The supervisor's control socket: one JSON request per connection, one JSON response.

use super::{Error, State};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

/// Longest request, bytes.
const MAX_REQUEST_BYTES: u64 = 4096;
/// Requests waiting to be answered.
const QUEUE: usize = 8;
/// Longest wait for a request's line: a client that connects writes it at once.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// What a supervisor can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "op")]
pub enum Request {
    /// Only report.
    Status,
    /// Read the specification again and make it so; start what was stopped.
    Reload,
    /// Stop a component and start it again.
    Restart {
        /// Which.
        component: String,
    },
    /// Stop all components up to a level.
    Stop {
        /// The level.
        through: u8,
    },
    /// End, and leave everything running for the next supervisor.
    Leave,
    /// Stop everything and end.
    Exit,
}

/// What it answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Response {
    /// Why the request failed.
    pub error: Option<String>,
    /// The supervisor ends now.
    #[serde(default)]
    pub ended: bool,
    /// The program that the supervisor runs.
    #[serde(default)]
    pub program: PathBuf,
    /// The components.
    pub components: BTreeMap<String, State>,
}

impl Response {
    pub(super) fn failed(error: String) -> Self {
        Self {
            error: Some(error),
            ..Self::default()
        }
    }
}

pub(super) type Asked = (Request, oneshot::Sender<Response>);

/// Takes requests until the receiver is dropped.
pub(super) fn listen(path: &Path) -> Result<mpsc::Receiver<Asked>, Error> {
    // The lock on the unit says that no living supervisor holds this socket.
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).map_err(|source| Error::File {
        action: "listen on",
        path: path.into(),
        source,
    })?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(serve(stream, sender.clone()))),
                Err(error) => {
                    tracing::error!(%error, "cannot accept a request");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    });
    Ok(receiver)
}

async fn serve(stream: UnixStream, requests: mpsc::Sender<Asked>) {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(reader.take(MAX_REQUEST_BYTES));
    let read = tokio::time::timeout(REQUEST_TIMEOUT, reader.read_line(&mut line)).await;
    if !matches!(read, Ok(Ok(n)) if n > 0) {
        return;
    }
    let response = match serde_json::from_str(&line) {
        Err(error) => Response::failed(format!("not a request: {error}")),
        Ok(request) => {
            let (reply, answer) = oneshot::channel();
            if requests.send((request, reply)).await.is_err() {
                return;
            }
            answer
                .await
                .unwrap_or_else(|_| Response::failed("the supervisor ended".into()))
        }
    };
    let mut text = serde_json::to_vec(&response).unwrap_or_default();
    text.push(b'\n');
    let _ = writer.write_all(&text).await;
}

/// Asks a supervisor. The error is an I/O error when none answers.
pub fn call(socket: &Path, request: &Request, patience: Duration) -> std::io::Result<Response> {
    let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let response: Response = serde_json::from_str(&line)?;
    match response.error {
        Some(error) => Err(std::io::Error::other(error)),
        None => Ok(response),
    }
}
