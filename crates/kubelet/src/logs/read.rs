//! Streams a container's log to a reader.

use super::follow::Watch;
use super::line::Printer;
use bytes::Bytes;
use k8s_openapi::jiff::Timestamp;
use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::{mpsc, watch};

/// How much is read at a time, and how much may be on its way to a slow reader (times the channel's length).
const CHUNK_BYTES: usize = 32 * 1024;
const CHANNEL_CHUNKS: usize = 4;
/// A line that is longer (the runtime cuts at 16 KiB) is dropped.
const MAX_LINE_BYTES: usize = 1 << 20;

/// What the reader wants.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Go on while the container runs.
    pub follow: bool,
    /// Only so many lines from the end.
    pub tail_lines: Option<u64>,
    /// Nothing older.
    pub since: Option<Timestamp>,
    /// With their times.
    pub timestamps: bool,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
    /// Only `stdout` or `stderr`.
    pub stream: Option<String>,
}

/// Starts to send the log at `path`. `running` says whether the container still runs.
pub fn stream(path: PathBuf, options: Options, running: watch::Receiver<bool>) -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(CHANNEL_CHUNKS);
    tokio::spawn(async move {
        if let Err(error) = send(&path, options, running, sender).await {
            tracing::debug!(path = %path.display(), %error, "log not read to its end");
        }
    });
    receiver
}

struct Output {
    sender: mpsc::Sender<Bytes>,
    left: Option<u64>,
    printer: Printer,
    rest: Vec<u8>,
}

impl Output {
    /// Takes what was read; false when the reader wants no more.
    async fn take(&mut self, bytes: &[u8]) -> bool {
        self.rest.extend_from_slice(bytes);
        let mut out = Vec::new();
        let mut start = 0;
        while let Some(end) = self.rest[start..].iter().position(|b| *b == b'\n') {
            self.printer.print(&self.rest[start..start + end], &mut out);
            start += end + 1;
        }
        self.rest.drain(..start);
        if self.rest.len() > MAX_LINE_BYTES {
            self.rest.clear();
        }
        if let Some(left) = self.left {
            out.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            self.left = Some(left - out.len() as u64);
        }
        if !out.is_empty() && self.sender.send(out.into()).await.is_err() {
            return false;
        }
        self.left != Some(0)
    }
}

async fn send(
    path: &Path,
    options: Options,
    mut running: watch::Receiver<bool>,
    sender: mpsc::Sender<Bytes>,
) -> std::io::Result<()> {
    // Watched before it is read, so that nothing is missed in between.
    let mut watch = if options.follow {
        Some(Watch::new(path)?)
    } else {
        None
    };
    let mut file = File::open(path).await?;
    if let Some(lines) = options.tail_lines {
        let start = tail(&mut file, lines).await?;
        file.seek(SeekFrom::Start(start)).await?;
    }
    let mut output = Output {
        sender: sender.clone(),
        left: options.limit_bytes,
        printer: Printer::new(options.since, options.timestamps, options.stream.clone()),
        rest: Vec::new(),
    };
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut last_round = false;
    loop {
        let count = file.read(&mut buffer).await?;
        if count > 0 {
            if !output.take(&buffer[..count]).await {
                return Ok(());
            }
            continue;
        }
        let Some(watch) = &mut watch else { return Ok(()) };
        if watch.rotated() {
            file = reopen(path).await?;
            watch.renew(path)?;
            continue;
        }
        if last_round {
            return Ok(());
        }
        if !*running.borrow_and_update() {
            // What the container wrote last may have come after the end of the file was seen.
            last_round = true;
            continue;
        }
        tokio::select! {
            () = watch.changed() => {}
            _ = running.changed() => {}
            () = sender.closed() => return Ok(()),
        }
    }
}

/// Opens the file that takes the place of a rotated one; the runtime makes it at once.
async fn reopen(path: &Path) -> std::io::Result<File> {
    const ATTEMPTS: u32 = 50;
    for _ in 0..ATTEMPTS {
        match File::open(path).await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => return other,
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    File::open(path).await
}

/// Where the last `lines` lines begin.
async fn tail(file: &mut File, lines: u64) -> std::io::Result<u64> {
    let length = file.metadata().await?.len();
    if lines == 0 {
        return Ok(length);
    }
    let mut end = length;
    let mut seen = 0;
    let mut buffer = vec![0; CHUNK_BYTES];
    while end > 0 {
        let start = end.saturating_sub(CHUNK_BYTES as u64);
        let size = usize::try_from(end - start).unwrap_or(CHUNK_BYTES);
        file.seek(SeekFrom::Start(start)).await?;
        file.read_exact(&mut buffer[..size]).await?;
        for index in (0..size).rev() {
            // The line feed that ends the file begins no line.
            if buffer[index] == b'\n' && start + (index as u64) + 1 != length {
                seen += 1;
                if seen == lines {
                    return Ok(start + index as u64 + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn collect(mut receiver: mpsc::Receiver<Bytes>) -> String {
        let mut all = Vec::new();
        while let Some(bytes) = receiver.recv().await {
            all.extend_from_slice(&bytes);
        }
        String::from_utf8(all).expect("text")
    }

    fn log(count: usize) -> String {
        (0..count)
            .map(|i| format!("2026-01-01T00:00:00Z stdout F line {i}\n"))
            .collect()
    }

    #[tokio::test]
    async fn tails_and_limits() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("0.log");
        std::fs::write(&path, log(3000)).expect("written");
        let (_alive, running) = watch::channel(false);
        let read = |options| collect(stream(path.clone(), options, running.clone()));
        let two = Options {
            tail_lines: Some(2),
            ..Options::default()
        };
        assert_eq!(read(two).await, "line 2998\nline 2999\n");
        let all = Options {
            tail_lines: Some(5000),
            ..Options::default()
        };
        assert_eq!(read(all).await.lines().count(), 3000);
        let few = Options {
            limit_bytes: Some(8),
            ..Options::default()
        };
        assert_eq!(read(few).await, "line 0\nl");
    }

    #[tokio::test]
    async fn follows_across_a_rotation_until_the_container_ends() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("0.log");
        std::fs::write(&path, log(1)).expect("written");
        let (alive, running) = watch::channel(true);
        let options = Options {
            follow: true,
            ..Options::default()
        };
        let mut receiver = stream(path.clone(), options, running);
        assert_eq!(receiver.recv().await.expect("a line"), "line 0\n");
        std::fs::rename(&path, dir.path().join("0.log.1")).expect("renamed");
        std::fs::write(&path, "2026-01-01T00:00:00Z stdout F new\n").expect("written");
        assert_eq!(receiver.recv().await.expect("a line"), "new\n");
        alive.send_replace(false);
        assert_eq!(receiver.recv().await, None);
    }
}
