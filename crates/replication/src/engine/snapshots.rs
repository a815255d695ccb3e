//! Snapshots of a volume, attached here or nowhere.

use super::attach::{CLOSE_TIMEOUT, goodbye};
use super::node::{Error, Node};
use super::volume::Volume;
use crate::core::engine::{Op, OpError};
use crate::core::types::SnapshotInfo;
use crate::store::catalog::valid_name;
use std::sync::Arc;

impl Node {
    /// Keeps the volume as it is under a name; the snapshot of that name if there is one already.
    pub async fn snapshot(self: &Arc<Self>, id: &str, name: &str) -> Result<SnapshotInfo, Error> {
        if !valid_name(name) {
            return Err(Error::Invalid(format!("name: {name:?} is not a DNS label")));
        }
        let _one_at_a_time = self.lock(id).await;
        if let Some(attached) = self.attached(id) {
            return self.take(&attached.volume, name).await;
        }
        let open = self.open_briefly(id).await?;
        let taken = self.take(&open.volume, name).await;
        goodbye(open).await;
        taken
    }

    async fn take(&self, volume: &Volume, name: &str) -> Result<SnapshotInfo, Error> {
        self.change(volume, Op::Snapshot { name: name.into() }).await?;
        let status = volume.status().await;
        let taken = status.and_then(|s| s.snapshots.into_iter().find(|s| s.name == name));
        taken.ok_or_else(|| Error::Unavailable("the volume was closed meanwhile".into()))
    }

    /// Forgets a snapshot; there need not be one.
    pub async fn drop_snapshot(self: &Arc<Self>, id: &str, name: &str) -> Result<(), Error> {
        let _one_at_a_time = self.lock(id).await;
        let op = Op::DropSnapshot { name: name.into() };
        if let Some(attached) = self.attached(id) {
            return self.change(&attached.volume, op).await;
        }
        let open = self.open_briefly(id).await?;
        let dropped = self.change(&open.volume, op).await;
        goodbye(open).await;
        dropped
    }

    pub(super) async fn change(&self, volume: &Volume, op: Op) -> Result<(), Error> {
        match tokio::time::timeout(CLOSE_TIMEOUT, volume.submit(op)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error @ OpError::TooManySnapshots)) => Err(Error::State(error.to_string())),
            Ok(Err(error)) => Err(Error::Unavailable(error.to_string())),
            Err(_) => Err(Error::Unavailable(format!(
                "not done within {CLOSE_TIMEOUT:?}; not connected: {}",
                self.missing().join(", ")
            ))),
        }
    }
}
