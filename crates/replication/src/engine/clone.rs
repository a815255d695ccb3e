//! A new volume with the content of a snapshot. What is not zero is copied, as it is: the clone of an encrypted volume has its
//! key.
//!
//! A clone that was interrupted must not be taken for a whole volume. Its label says that it is a clone; its log is empty, or
//! it has the snapshot [`MARK`], the first record, which goes with the last.

use super::attach::goodbye;
use super::create::Wanted;
use super::crypt;
use super::node::{Error, Node};
use super::volume::Volume;
use crate::core::engine::{Op, OpError};
use crate::core::types::{BLOCK, Seq, SnapshotInfo};
use futures::stream::{self, StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Label of a clone: `<volume>@<snapshot>`.
const LABEL: &str = "hikube.clone-of";
/// Snapshot of a clone that is not finished.
const MARK: &str = "clone-in-progress";
/// Copied at a time: the most that one request of a replica carries, bytes.
const PIECE: u64 = 1 << 20;
/// Pieces in flight; the volume may be in use meanwhile.
const PIECES: usize = 2;
/// Limit for one piece: without a majority the copy is given up, and can be repeated.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);

/// The volume, which is open, is a clone that was never finished.
pub(super) async fn unfinished(volume: &Volume) -> bool {
    if !volume.spec.labels.contains_key(LABEL) {
        return false;
    }
    let marked = |s: &SnapshotInfo| s.name == MARK;
    let status = volume.status().await;
    status.is_none_or(|s| s.last_seq == 0 || s.snapshots.iter().any(marked))
}

fn failed(error: OpError) -> Error {
    match error {
        OpError::NoSnapshot => Error::State("the snapshot was deleted meanwhile".into()),
        OpError::Damaged => Error::State(error.to_string()),
        error => Error::Unavailable(error.to_string()),
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, OpError>>) -> Result<T, Error> {
    match tokio::time::timeout(PIECE_TIMEOUT, work).await {
        Ok(result) => result.map_err(failed),
        Err(_) => Err(Error::Unavailable(format!(
            "a piece was not copied within {PIECE_TIMEOUT:?}"
        ))),
    }
}

impl Node {
    /// Makes volume `new` of a snapshot of `id`. Idempotent.
    pub async fn clone_volume(self: &Arc<Self>, id: &str, snapshot: &str, new: &str) -> Result<(), Error> {
        if id == new {
            return Err(Error::Invalid("new_id: a volume cannot be its own clone".into()));
        }
        if let Some(attached) = self.attached(id) {
            return self.clone_from(&attached.volume, snapshot, new).await;
        }
        let _one_at_a_time = self.lock(id).await;
        let open = self.open_briefly(id).await?;
        let result = self.clone_from(&open.volume, snapshot, new).await;
        goodbye(open).await;
        result
    }

    async fn clone_from(self: &Arc<Self>, source: &Volume, snapshot: &str, new: &str) -> Result<(), Error> {
        let id = &source.spec.volume;
        let status = source.status().await;
        let found = status.and_then(|s| s.snapshots.into_iter().find(|s| s.name == snapshot));
        let info =
            found.ok_or_else(|| Error::State(format!("volume {id:?} has no snapshot {snapshot:?}")))?;
        let origin = format!("{id}@{snapshot}");
        let mut labels = BTreeMap::from([(LABEL.to_owned(), origin.clone())]);
        if let Some(key) = source.spec.labels.get(crypt::LABEL) {
            labels.insert(crypt::LABEL.to_owned(), key.clone());
        }
        let wanted = Wanted {
            id: new.to_owned(),
            size_bytes: info.blocks * BLOCK as u64,
            class: source.spec.class.clone(),
            regions: source.spec.members.iter().map(|m| m.region.clone()).collect(),
            labels,
        };
        let made = self.create(wanted).await?;
        if made.spec.labels.get(LABEL) != Some(&origin) {
            return Err(Error::Exists(format!(
                "volume {new:?} exists and is not a clone of {origin}"
            )));
        }
        let _one_at_a_time = self.lock(new).await;
        if self.attached(new).is_some() {
            // Only what is finished is ever attached.
            return Ok(());
        }
        let open = self.open_briefly(new).await?;
        let result = self.fill(source, &info, &open.volume).await;
        goodbye(open).await;
        result
    }

    async fn fill(&self, source: &Volume, info: &SnapshotInfo, target: &Volume) -> Result<(), Error> {
        if !unfinished(target).await {
            return Ok(());
        }
        self.change(target, Op::Snapshot { name: MARK.into() }).await?;
        let end = info.blocks * BLOCK as u64;
        stream::iter((0..end).step_by(PIECE as usize))
            .map(|at| copy(source, info.seq, target, at, PIECE.min(end - at) as u32))
            .buffer_unordered(PIECES)
            .try_collect::<()>()
            .await?;
        in_time(target.submit(Op::Flush)).await?;
        self.change(target, Op::DropSnapshot { name: MARK.into() }).await
    }
}

/// Copies a piece. An attempt before this one may have written something else there.
async fn copy(source: &Volume, snapshot: Seq, target: &Volume, offset: u64, len: u32) -> Result<(), Error> {
    let data = in_time(source.fetch(Op::ReadSnapshot {
        snapshot,
        offset,
        len,
    }))
    .await?;
    let op = if data.iter().all(|b| *b == 0) {
        Op::Zero {
            offset,
            len: len.into(),
            discard: true,
        }
    } else {
        Op::Write {
            offset,
            data,
            fua: false,
        }
    };
    in_time(target.submit(op)).await
}
