//! Compaction: what was overwritten is forgotten after some minutes, by whichever server is first each time.

use crate::server::Server;
use state::{Error, StateStore, Written};
use std::sync::Arc;
use std::time::Duration;

/// Upstream's key, so that servers of both kinds take turns. It holds, in decimal, the revision up to which the next
/// round compacts.
const KEY: &str = "compact_rev_key";
/// Old states are kept for at least this long, and at most twice as long.
const INTERVAL: Duration = Duration::from_secs(300);

/// Compacts while the server runs.
pub async fn run(server: Arc<Server>) {
    let mut rounds = Rounds::default();
    loop {
        match rounds.take(&**server.store.backend()).await {
            Ok(Some(revision)) => tracing::debug!(revision, "compacted"),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "compaction put off"),
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = server.shutdown.cancelled() => return,
        }
    }
}

/// What a server knows of the rounds that all of them take turns in.
#[derive(Default)]
struct Rounds {
    /// The key's last write as of our last look, 0 if there was none.
    seen: i64,
    /// The newest revision at that time: old enough one interval later. 0 before the first look.
    old: i64,
}

impl Rounds {
    /// Takes the round that is due, unless another server had one since our last look. Returns what was compacted.
    async fn take(&mut self, backend: &dyn StateStore) -> Result<Option<i64>, Error> {
        let (current, revision) = backend.get(KEY).await?;
        let found = current.map_or(0, |record| record.revision);
        let old = std::mem::replace(&mut self.old, revision);
        let taken = std::mem::replace(&mut self.seen, found) != found;
        if old == 0 || taken {
            return Ok(None);
        }
        let value = bytes::Bytes::from(revision.to_string());
        let written = match found {
            0 => backend.create(KEY, value, None).await?,
            _ => backend.update(KEY, value, found, None).await?,
        };
        match written {
            Written::Done(at) => self.seen = at,
            Written::Conflict(winner) => {
                self.seen = winner.map_or(0, |record| record.revision);
                return Ok(None);
            }
        }
        backend.compact(old).await?;
        Ok(Some(old))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use state::embedded::EmbeddedStore;

    #[tokio::test]
    async fn servers_take_turns_and_each_round_compacts() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&dir.path().join("store")).unwrap();
        let (mut one, mut two) = (Rounds::default(), Rounds::default());
        let mut before = 0;
        for round in 0..5 {
            let key = format!("/a{round}");
            store.create(&key, "{}".into(), None).await.unwrap();
            let newest = store.revision().await.unwrap();
            let first = one.take(&store).await.unwrap();
            let second = two.take(&store).await.unwrap();
            // The first look compacts nothing; from then on every round goes to what was newest in the last one.
            assert_eq!((first, second), ((round > 0).then_some(before), None));
            before = newest;
        }
        // The one that always came second goes on when the first is gone. It looked after the first one's write.
        assert_eq!(two.take(&store).await.unwrap(), Some(before + 1));
        assert!(store.get("/a0").await.unwrap().0.is_some());
    }
}
