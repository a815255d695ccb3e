//! Compaction: what was overwritten is forgotten after some minutes, by whichever server is first each time.

use crate::server::Server;
use serde_json::json;
use state::{Error, Written};
use std::sync::Arc;
use std::time::Duration;

/// Upstream's key, so that servers of both kinds take turns.
const KEY: &str = "compact_rev_key";
/// Old states are kept for at least this long, and at most twice as long.
const INTERVAL: Duration = Duration::from_secs(300);

/// Compacts while the server runs.
pub async fn run(server: Arc<Server>) {
    // The revision of the last round, which is old enough now; 0 in the first one.
    let mut old = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = server.shutdown.cancelled() => return,
        }
        match round(&server, old).await {
            Ok(revision) => old = revision,
            Err(error) => tracing::debug!(%error, "compaction put off"),
        }
    }
}

/// Writes the shared key; whoever succeeds has this round to itself and compacts to the previous round.
async fn round(server: &Arc<Server>, old: i64) -> Result<i64, Error> {
    let backend = server.store.backend();
    let (current, revision) = backend.get(KEY).await?;
    let value = bytes::Bytes::from(json!({"revision": revision}).to_string());
    let written = match current {
        Some(record) if old > 0 && record.revision > old => {
            // Another server has had this round.
            return Ok(revision);
        }
        Some(record) => backend.update(KEY, value, record.revision, None).await?,
        None => backend.create(KEY, value, None).await?,
    };
    if matches!(written, Written::Done(_)) && old > 0 {
        backend.compact(old).await?;
        tracing::debug!(old, "compacted");
    }
    Ok(revision)
}
