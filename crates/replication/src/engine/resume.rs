//! Going on with the devices of the process before: its volumes are opened again, and those who use the devices notice a
//! pause. A volume that another engine has opened since is not touched: its device is stale, and ends.

use super::expose::{Exposed, Wanted, check_key};
use super::keep::Facts;
use super::node::{Attached, Error, Node};
use super::volume::Claim;
use crate::net::control::VolumeSpec;
use crate::view;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// First pause after a failed attempt; it doubles up to [`MAX_PAUSE`]. An attempt waits for its majority by itself.
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(2);

impl Node {
    /// Resumes a device as soon as a majority of its stores answers, or ends it.
    pub(super) async fn resume_in_time(self: Arc<Self>, id: String) {
        let (mut pause, mut told) = (MIN_PAUSE, String::new());
        loop {
            {
                let _one_at_a_time = self.lock(&id).await;
                match self.resume(&id).await {
                    // Somebody attached it, and so resumed it, or took it away.
                    None => return,
                    Some(Ok(_)) => return,
                    Some(Err(Error::Unavailable(reason))) if reason != told => {
                        tracing::info!(volume = id, reason, "its device waits");
                        told = reason;
                    }
                    Some(Err(Error::Unavailable(_))) => {}
                    Some(Err(error)) => {
                        tracing::info!(volume = id, %error, "its device ends");
                        return;
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Resumes a device if it waits for that; `None` if it does not. After any error but [`Error::Unavailable`] the device
    /// is gone. The caller has the volume's lock.
    pub(super) async fn resume(self: &Arc<Self>, id: &str) -> Option<Result<Arc<Attached>, Error>> {
        let (connection, facts) = self.keeper.get_waiting(id)?;
        let resumed = self.resume_with(id, connection, facts).await;
        match &resumed {
            Ok(_) | Err(Error::Unavailable(_)) => {}
            Err(_) => self.abandon(id).await,
        }
        Some(resumed)
    }

    /// The device of the process before that waits to be resumed.
    pub(super) fn waiting_device(&self, id: &str) -> Option<PathBuf> {
        self.keeper.get_waiting(id)?;
        blockdev::device_on(&self.mount_point(id))
    }

    /// Ends a device that waits: its requests fail.
    pub(super) async fn abandon(&self, id: &str) {
        self.keeper.forget(id);
        let dir = self.mount_point(id);
        let cleaned = super::expose::blocking(move || blockdev::clean_stale(&dir, &[])).await;
        if let Err(error) = cleaned {
            tracing::info!(volume = id, %error, "its stale device could not be removed");
        }
    }

    async fn resume_with(
        self: &Arc<Self>,
        id: &str,
        connection: std::os::fd::OwnedFd,
        facts: Facts,
    ) -> Result<Arc<Attached>, Error> {
        let (spec, after) = self.still_ours(id, facts.epoch).await?;
        let wanted = Wanted {
            read_only: facts.read_only,
            nbd: None,
            key: facts.key,
        };
        check_key(&spec, &wanted)?;
        let open = self.open_as(spec, Claim::Resume { after })?;
        let epoch = match self.opened(&open.volume).await {
            Ok(epoch) => epoch,
            // Somebody asked at the same time; who has it now is seen at the next attempt.
            Err(Error::State(reason)) => return Err(Error::Unavailable(reason)),
            Err(error) => return Err(error),
        };
        self.keeper
            .resumed(id, epoch.counter)
            .map_err(|e| Error::State(format!("note the epoch of volume {id:?}: {e}")))?;
        let exposed = Exposed::resume(&open.volume, &wanted, self.mount_point(id), connection).await?;
        let attached = Arc::new(Attached {
            volume: open.volume.clone(),
            device: exposed.name(id),
            exposed,
            epoch: epoch.counter,
            read_only: wanted.read_only,
        });
        self.attached.lock().insert(id.to_owned(), attached.clone());
        open.keep();
        tracing::info!(volume = id, device = attached.device, "went on with its device");
        Ok(attached)
    }

    /// The volume's configuration and highest epoch, if no other engine than this node's has opened the volume since
    /// `epoch`.
    async fn still_ours(&self, id: &str, epoch: u64) -> Result<(VolumeSpec, u64), Error> {
        let found = |inventories: &[crate::net::control::Inventory]| {
            let views = view::volumes(inventories);
            views.into_iter().find(|view| view.spec.volume == id)
        };
        let majority = |view: &view::VolumeView| view.seen >= view.spec.majority();
        let inventories = self
            .inventories(Some(id), |inventories| {
                found(inventories).is_some_and(|v| majority(&v))
            })
            .await;
        match found(&inventories) {
            Some(view) if !majority(&view) => Err(Error::Unavailable(format!(
                "{} of {} replicas of volume {id:?} answer; not connected: {}",
                view.seen,
                view.spec.members.len(),
                self.missing().join(", ")
            ))),
            // Also when the other has closed it again: what is cached above the device may be older than what it wrote.
            Some(view) if view.epoch > epoch && view.node != self.name => Err(Error::State(format!(
                "volume {id:?} was opened elsewhere meanwhile{}",
                if view.node.is_empty() {
                    String::new()
                } else {
                    format!(", on node {:?}", view.node)
                }
            ))),
            Some(view) => Ok((view.spec, view.epoch.max(epoch))),
            None => {
                self.require_majority(inventories.len())?;
                Err(Error::NotFound(id.to_owned()))
            }
        }
    }
}
