//! The demo's client: sends one record after the other through the Service, and notes every acknowledgement.

use super::http::request;
use super::record::Record;
use std::fs::File;
use std::io::{BufRead, BufReader, Result, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Pause between records: slow enough to run for days, fast enough to show a pause of a tenth of a second.
const PERIOD: Duration = Duration::from_millis(50);
/// Longest wait for one acknowledgement; then another node is asked.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before the next attempt.
const RETRY: Duration = Duration::from_millis(50);

/// The client's book: the key of its records, then a line `<number> <milliseconds>` for each acknowledgement.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    /// Key from which the records follow.
    pub key: String,
    /// Number and time of each acknowledgement, in milliseconds since 1970.
    pub acknowledged: Vec<(u64, i64)>,
}

impl Ledger {
    /// Reads a book; a last line that was cut off does not count.
    pub fn load(path: &Path) -> Result<Self> {
        let mut reader = BufReader::new(File::open(path)?);
        let mut ledger = Ledger::default();
        reader.read_line(&mut ledger.key)?;
        ledger.key = ledger.key.trim().into();
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 && line.ends_with('\n') {
            if let Some((number, time)) = line.trim().split_once(' ')
                && let (Ok(number), Ok(time)) = (number.parse(), time.parse())
            {
                ledger.acknowledged.push((number, time));
            }
            line.clear();
        }
        Ok(ledger)
    }

    /// Starts a book with a fresh key.
    pub fn create(path: &Path) -> Result<()> {
        crate::files::replace(path, format!("{}\n", uuid::Uuid::new_v4()).as_bytes())
    }
}

/// Sends records until `shutdown`, going on where the ledger ends.
pub async fn run(ledger: &Path, endpoints: &[SocketAddr], shutdown: CancellationToken) -> Result<()> {
    let known = Ledger::load(ledger)?;
    let mut number = known.acknowledged.last().map_or(0, |(n, _)| *n);
    let mut book = File::options().append(true).open(ledger)?;
    let mut endpoints = endpoints.iter().copied().cycle();
    let Some(mut endpoint) = endpoints.next() else {
        return Err(std::io::Error::other("no endpoint was given"));
    };
    while !shutdown.is_cancelled() {
        let record = Record::new(&known.key, number + 1);
        let answer = request(endpoint, "POST", "/records", record.line(), TIMEOUT).await;
        let pause = match answer {
            Ok((200, _)) => {
                number += 1;
                let now = jiff::Timestamp::now().as_millisecond();
                book.write_all(format!("{number} {now}\n").as_bytes())?;
                book.sync_data()?;
                PERIOD
            }
            Ok((409, said)) => {
                // A record that was acknowledged is missing: exactly what the check reports as lost. Nothing
                // more can be written after the gap.
                let said = String::from_utf8_lossy(&said).trim().to_owned();
                tracing::error!(number = number + 1, said, "an acknowledged record is missing");
                Duration::from_secs(5)
            }
            other => {
                tracing::debug!(%endpoint, ?other, "no acknowledgement, asking another node");
                endpoint = endpoints.next().unwrap_or(endpoint);
                RETRY
            }
        };
        let _ = tokio::time::timeout(pause, shutdown.cancelled()).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_book_is_read_up_to_its_last_whole_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("book");
        Ledger::create(&path).expect("made");
        let key = Ledger::load(&path).expect("readable").key;
        assert_eq!(key.len(), 36);
        let mut file = File::options().append(true).open(&path).expect("opened");
        file.write_all(b"1 1000\n2 1050\n3 10").expect("written");
        let ledger = Ledger::load(&path).expect("readable");
        assert_eq!(ledger.acknowledged, [(1, 1000), (2, 1050)]);
        assert_eq!(ledger.key, key);
    }
}
