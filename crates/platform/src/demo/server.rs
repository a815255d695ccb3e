//! The demo's server, which runs in the pod: it appends records to a file on the volume.

use super::record::Record;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::fs::File;
use std::io::{BufRead, BufReader, Result, Seek, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;

/// How to run the server.
#[derive(Clone, Debug, clap::Args)]
pub struct ServerConfig {
    /// Directory on the volume.
    #[arg(long, default_value = "/data")]
    pub data_dir: PathBuf,
    /// Where to listen.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
}

/// Largest request body, bytes.
const MAX_REQUEST_BYTES: usize = 1024;

/// Serves until `shutdown`.
pub async fn run(config: ServerConfig, shutdown: CancellationToken) -> Result<()> {
    let journal = Arc::new(Mutex::new(Journal::open(config.data_dir.join("records"))?));
    let listener = tokio::net::TcpListener::bind(config.listen).await?;
    tracing::info!(listen = %config.listen, "serving");
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::info!(%error, "cannot accept");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = shutdown.cancelled() => return Ok(()),
        };
        let journal = journal.clone();
        let service = service_fn(move |request| answer(journal.clone(), request));
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new();
            if let Err(error) = connection.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
}

type Answer = std::result::Result<Response<Full<Bytes>>, hyper::Error>;

async fn answer(journal: Arc<Mutex<Journal>>, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let result = match (&head.method, head.uri.path()) {
        (&Method::GET, "/healthz") => Ok((StatusCode::OK, "ok\n".into())),
        (&Method::GET, "/records") => on_disk(journal, |j| j.read()).await,
        (&Method::GET, "/last") => on_disk(journal, |j| Ok(format!("{}\n", j.last))).await,
        (&Method::POST, "/records") => match Limited::new(body, MAX_REQUEST_BYTES).collect().await {
            Err(error) => Ok((StatusCode::BAD_REQUEST, format!("{error}\n"))),
            Ok(body) => {
                let line = String::from_utf8_lossy(&body.to_bytes()).trim_end().to_owned();
                match Record::parse(&line) {
                    None => Ok((StatusCode::BAD_REQUEST, "not a record\n".into())),
                    Some(record) => append(journal, record).await,
                }
            }
        },
        _ => Ok((StatusCode::NOT_FOUND, "not found\n".into())),
    };
    let (status, text) = result.unwrap_or_else(|error| {
        tracing::info!(%error, "the volume fails");
        (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"))
    });
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    Ok(response)
}

async fn append(journal: Arc<Mutex<Journal>>, record: Record) -> Result<(StatusCode, String)> {
    let number = record.number;
    let (status, last) = on_disk(journal, move |j| Ok((j.append(&record)?, j.last)))
        .await
        .map(|(_, result)| result)?;
    Ok(match status {
        true => (StatusCode::OK, format!("{number}\n")),
        false => (StatusCode::CONFLICT, format!("the last record is {last}\n")),
    })
}

/// Runs `work` where it may block. The status is 200 unless it fails.
async fn on_disk<T: Send + 'static>(
    journal: Arc<Mutex<Journal>>,
    work: impl FnOnce(&mut Journal) -> Result<T> + Send + 'static,
) -> Result<(StatusCode, T)> {
    let joined = tokio::task::spawn_blocking(move || {
        let mut journal = journal.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        work(&mut journal)
    });
    let result = joined.await.map_err(std::io::Error::other)?;
    result.map(|value| (StatusCode::OK, value))
}

/// The file of records.
struct Journal {
    path: PathBuf,
    file: File,
    /// Number of the last record.
    last: u64,
    /// Length of the file up to the last good record; a failed write leaves more.
    length: u64,
}

impl Journal {
    /// Opens the file. A last line that was cut off by a crash was never acknowledged, and is removed.
    fn open(path: PathBuf) -> Result<Self> {
        let file = File::options().read(true).append(true).create(true).open(&path)?;
        let mut reader = BufReader::new(&file);
        let (mut last, mut length, mut line) = (0, 0u64, String::new());
        loop {
            line.clear();
            let n = reader.read_line(&mut line)?;
            match Record::parse(line.trim_end_matches('\n')) {
                Some(record) if line.ends_with('\n') => last = record.number,
                _ => break,
            }
            length += n as u64;
        }
        if file.metadata()?.len() > length {
            tracing::info!(length, "removing what follows the last whole record");
            file.set_len(length)?;
        }
        file.sync_all()?;
        if let Some(dir) = path.parent() {
            // The file's name must be as durable as its content.
            File::open(dir)?.sync_all()?;
        }
        Ok(Self {
            path,
            file,
            last,
            length,
        })
    }

    /// Appends a record and makes it durable. A record that is there already is not written again. `false` when a
    /// record before it is missing.
    fn append(&mut self, record: &Record) -> Result<bool> {
        if record.number <= self.last {
            return Ok(true);
        }
        if record.number != self.last + 1 {
            return Ok(false);
        }
        let line = record.line();
        let written = self
            .file
            .write_all(line.as_bytes())
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // Whatever a failed write left must not come before the next record.
            let _ = self.file.set_len(self.length);
            return Err(error);
        }
        self.length += line.len() as u64;
        self.last = record.number;
        Ok(true)
    }

    fn read(&mut self) -> Result<String> {
        let mut file = File::open(&self.path)?;
        file.rewind()?;
        std::io::read_to_string(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_keeps_whole_records_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("records");
        let record = |n| Record::new("k", n);
        let mut journal = Journal::open(path.clone()).expect("opened");
        assert!(journal.append(&record(1)).expect("written"));
        assert!(journal.append(&record(1)).expect("repeated"));
        assert!(!journal.append(&record(3)).expect("refused"));
        assert!(journal.append(&record(2)).expect("written"));
        journal.file.write_all(b"3 0123 cut").expect("a torn write");
        let mut journal = Journal::open(path).expect("opened again");
        assert_eq!(journal.last, 2);
        assert!(journal.append(&record(3)).expect("written"));
        let text = journal.read().expect("readable");
        let numbers: Vec<u64> = text
            .lines()
            .map(|l| Record::parse(l).expect("whole").number)
            .collect();
        assert_eq!(numbers, [1, 2, 3]);
    }
}
