//! Compares what was acknowledged with what is on the volume.

use super::client::Ledger;
use super::http::request;
use super::record::Record;
use super::{endpoints, ledger_path, port};
use crate::cluster::{Cluster, Error};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long the demo may be away, for example while its pod moves to another region.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait for one node's answer: it may be in a region that is down.
const TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(500);

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Records that were acknowledged.
    pub acknowledged: usize,
    /// Records on the volume.
    pub stored: usize,
    /// Acknowledged records that are missing or damaged.
    pub lost: usize,
    /// Longest time between two acknowledgements.
    pub longest_pause: Duration,
}

/// Checks the demo.
pub async fn check(name: &str) -> Result<Report, Error> {
    let cluster = Cluster::open(name)?;
    let missing = || Error::Other("the demo does not run here; `hikube demo` starts it".into());
    let port = port(&cluster.layout).ok_or_else(missing)?;
    let deadline = Instant::now() + PATIENCE;
    let servers = endpoints(&cluster.plan, port);
    loop {
        let mut said = String::from("there is no node");
        for server in &servers {
            // The ledger first: what is acknowledged after this moment is on the volume too, and need not be
            // asked for.
            let ledger = Ledger::load(&ledger_path(&cluster.layout)).map_err(|_| missing())?;
            match request(*server, "GET", "/records", String::new(), TIMEOUT).await {
                Ok((200, body)) => return Ok(compare(&ledger, &String::from_utf8_lossy(&body))),
                Ok((status, body)) => said = format!("{status}: {}", String::from_utf8_lossy(&body).trim()),
                Err(error) => said = error,
            }
        }
        if Instant::now() > deadline {
            return Err(Error::Other(format!(
                "the demo does not answer on any node: {said}"
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn compare(ledger: &Ledger, stored: &str) -> Report {
    let records: BTreeMap<u64, Record> = stored
        .lines()
        .filter_map(Record::parse)
        .map(|record| (record.number, record))
        .collect();
    let is_lost = |number: &u64| records.get(number) != Some(&Record::new(&ledger.key, *number));
    let numbers = ledger.acknowledged.iter().map(|(number, _)| number);
    let pauses = ledger.acknowledged.windows(2).map(|pair| pair[1].1 - pair[0].1);
    Report {
        acknowledged: ledger.acknowledged.len(),
        stored: records.len(),
        lost: numbers.filter(|n| is_lost(n)).count(),
        longest_pause: Duration::from_millis(u64::try_from(pauses.max().unwrap_or(0)).unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_damaged_record_is_lost() {
        let ledger = Ledger {
            key: "k".into(),
            acknowledged: vec![(1, 1000), (2, 1050), (3, 4050), (4, 4100)],
        };
        let line = |n| Record::new("k", n).line();
        let all: String = (1..=5).map(line).collect();
        let report = compare(&ledger, &all);
        assert_eq!((report.lost, report.stored, report.acknowledged), (0, 5, 4));
        assert_eq!(report.longest_pause, Duration::from_secs(3));
        let damaged = all.replace(&line(2)[3..9], "000000");
        assert_eq!(compare(&ledger, &damaged).lost, 1);
        let other: String = (1..=4).map(|n| Record::new("other", n).line()).collect();
        assert_eq!(compare(&ledger, &other).lost, 4);
    }
}
