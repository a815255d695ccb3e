//! Attaching, detaching, growing and verifying volumes.

use super::expose::{Exposed, Wanted, blocking};
use super::keep::Facts;
use super::node::{Attached, Error, Node, OpenVolume};
use super::volume::{Phase, Volume};
use crate::core::engine::{EngineStatus, MemberState, Op, OpError, VerifyReport};
use crate::core::types::{BLOCK, Epoch};
use crate::net::control::VolumeSpec;
use crate::store::catalog::valid_name;
use crate::view;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long an attach waits for a majority of promises.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the last flush of a detach, or an expansion, may take.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the goodbye to the stores may take; without it they only learn later that the volume is free.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// Limit of a verification. It reads every replica from end to end.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(3600);
/// How long a verification waits for members that are catching up.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(600);
/// How often it looks.
const CATCH_UP_CHECK: Duration = Duration::from_millis(100);
/// So many looks at an absent member before it is believed to be absent.
const ABSENT_CHECKS: u32 = 5;

impl Node {
    /// Exposes a volume as a block device or to NBD clients. Idempotent.
    pub async fn attach(self: &Arc<Self>, id: &str, wanted: &Wanted) -> Result<Arc<Attached>, Error> {
        if !valid_name(id) {
            return Err(Error::Invalid(format!("id: {id:?} is not a DNS label")));
        }
        let _one_at_a_time = self.lock(id).await;
        match self.resume(id).await {
            Some(Err(error @ Error::Unavailable(_))) => return Err(error),
            Some(Err(error)) => tracing::info!(volume = id, %error, "its device ends, making it anew"),
            Some(Ok(_)) | None => {}
        }
        if let Some(attached) = self.attached(id) {
            let deposed = *attached.volume.phase().borrow() == Phase::Deposed;
            if !deposed && attached.exposed.is_alive() {
                if attached.read_only != wanted.read_only || !attached.exposed.is_at(wanted.nbd.as_ref()) {
                    return Err(Error::State(format!(
                        "volume {id:?} is attached in another way: {}",
                        attached.device
                    )));
                }
                super::expose::check_key(&attached.volume.spec, wanted)?;
                return Ok(attached);
            }
            tracing::info!(
                volume = id,
                deposed,
                "the device is of no use any more: making it anew"
            );
            self.remove(id, &attached, true).await?;
        }
        let spec = self.configuration(id).await?;
        // A wrong key must not take the volume from the node that has it.
        super::expose::check_key(&spec, wanted)?;
        let open = self.open(spec)?;
        let epoch = self.opened(&open.volume).await?;
        if super::clone::unfinished(&open.volume).await {
            goodbye(open).await;
            return Err(Error::State(format!(
                "volume {id:?} is a clone that was not finished: clone it again, or delete it"
            )));
        }
        let exposed = Exposed::make(self, &open.volume, wanted, self.mount_point(id)).await?;
        if let Some(connection) = exposed.connection() {
            let facts = Facts {
                epoch: epoch.counter,
                read_only: wanted.read_only,
                key: wanted.key.clone(),
            };
            self.keeper.keep(id, connection.as_fd(), facts);
        }
        let attached = Arc::new(Attached {
            volume: open.volume.clone(),
            device: exposed.name(id),
            exposed,
            epoch: epoch.counter,
            read_only: wanted.read_only,
        });
        self.attached.lock().insert(id.to_owned(), attached.clone());
        open.keep();
        Ok(attached)
    }

    pub(super) fn mount_point(&self, id: &str) -> PathBuf {
        self.mounts.join(id)
    }

    /// The configuration of a volume, as soon as a majority of its members has answered.
    pub(super) async fn configuration(&self, id: &str) -> Result<VolumeSpec, Error> {
        let decided = |inventories: &[crate::net::control::Inventory]| {
            let found = view::volumes(inventories);
            // A deletion that a majority knows of is in every majority.
            inventories.len() > self.links.len() / 2
                && found
                    .iter()
                    .any(|v| v.spec.volume == id && v.seen >= v.spec.majority())
        };
        let inventories = self.inventories(Some(id), decided).await;
        let found = view::volumes(&inventories)
            .into_iter()
            .find(|v| v.spec.volume == id);
        match found {
            Some(view) if view.seen >= view.spec.majority() => Ok(view.spec),
            Some(view) => Err(Error::Unavailable(format!(
                "{} of {} replicas of volume {id:?} answer; not connected: {}",
                view.seen,
                view.spec.members.len(),
                self.missing().join(", ")
            ))),
            None => {
                self.require_majority(inventories.len())?;
                Err(Error::NotFound(id.to_owned()))
            }
        }
    }

    pub(super) async fn opened(&self, volume: &Volume) -> Result<Epoch, Error> {
        let mut phase = volume.phase();
        let wait = phase.wait_for(|phase| *phase != Phase::Opening);
        let reached = tokio::time::timeout(OPEN_TIMEOUT, wait)
            .await
            .map(|r| r.map(|p| *p));
        match reached {
            Ok(Ok(Phase::Open(epoch))) => Ok(epoch),
            Ok(_) => Err(Error::State(format!(
                "another engine took volume {:?} over while it was being opened",
                volume.spec.volume
            ))),
            Err(_) => {
                let waiting = volume
                    .status()
                    .await
                    .and_then(|s| s.waiting)
                    .unwrap_or("a majority of promises");
                let missing = self.missing();
                Err(Error::Unavailable(format!(
                    "volume {:?} was not opened within {OPEN_TIMEOUT:?}: it waits for {waiting}; not connected: {}",
                    volume.spec.volume,
                    if missing.is_empty() {
                        "none".into()
                    } else {
                        missing.join(", ")
                    }
                )))
            }
        }
    }

    /// Flushes, closes and removes the device. Idempotent.
    pub async fn detach(self: &Arc<Self>, id: &str, force: bool) -> Result<(), Error> {
        if !valid_name(id) {
            return Err(Error::Invalid(format!("id: {id:?} is not a DNS label")));
        }
        let _one_at_a_time = self.lock(id).await;
        if force && self.keeper.get_waiting(id).is_some() {
            self.abandon(id).await;
        } else if let Some(Err(error)) = self.resume(id).await {
            if matches!(error, Error::Unavailable(_)) {
                return Err(error);
            }
            tracing::info!(volume = id, %error, "its device has ended");
        }
        let Some(attached) = self.attached(id) else {
            // Left by an engine that was killed.
            let dir = self.mount_point(id);
            blocking(move || blockdev::clean_stale(&dir, &[])).await?;
            return Ok(());
        };
        self.remove(id, &attached, force).await
    }

    async fn remove(self: &Arc<Self>, id: &str, attached: &Arc<Attached>, force: bool) -> Result<(), Error> {
        let status = attached.volume.status().await;
        let whole = |s: &EngineStatus| s.members.iter().all(|m| m.state == MemberState::Complete);
        let lacking = !status.as_ref().is_some_and(whole);
        let (deposed, stalled) = status.map_or((true, false), |s| (s.deposed, s.stalled));
        let device = attached.clone();
        let in_use = blocking(move || Ok(device.exposed.in_use())).await?;
        if in_use && !force {
            return Err(Error::State(format!("{} is in use", attached.device)));
        }
        if stalled && !deposed && !force {
            return Err(Error::Unavailable(format!(
                "volume {id:?} cannot be flushed without a majority of its regions; not connected: {}",
                self.missing().join(", ")
            )));
        }
        let device = attached.clone();
        let abandon = force || deposed;
        blocking(move || device.exposed.detach(abandon)).await?;
        self.keeper.forget(id);
        self.attached.lock().remove(id);
        if !deposed {
            let limit = if force { GOODBYE_TIMEOUT } else { CLOSE_TIMEOUT };
            let closed = tokio::time::timeout(limit, attached.volume.submit(Op::Close)).await;
            if !matches!(closed, Ok(Ok(()))) {
                tracing::info!(volume = id, ?closed, "left the volume without telling its stores");
            }
        }
        self.close(&attached.volume);
        if lacking {
            let node = self.clone();
            tokio::spawn(async move { node.mend().await });
        }
        Ok(())
    }

    /// Grows a volume, and its device if it is attached here.
    pub async fn expand(self: &Arc<Self>, id: &str, size_bytes: u64) -> Result<(), Error> {
        let size_bytes = size_bytes.next_multiple_of(BLOCK as u64);
        let _one_at_a_time = self.lock(id).await;
        if let Some(attached) = self.attached(id) {
            self.grow(&attached.volume, size_bytes).await?;
            return blocking(move || attached.exposed.grow()).await;
        }
        let open = self.open_briefly(id).await?;
        self.grow(&open.volume, size_bytes).await?;
        goodbye(open).await;
        Ok(())
    }

    async fn grow(&self, volume: &Volume, size_bytes: u64) -> Result<(), Error> {
        let present = volume.status().await.map_or(0, |s| s.size_bytes);
        if size_bytes < present {
            return Err(Error::Invalid(format!(
                "size_bytes: a volume cannot shrink from {present} to {size_bytes}"
            )));
        }
        let grown = tokio::time::timeout(CLOSE_TIMEOUT, volume.submit(Op::Expand { size_bytes })).await;
        match grown {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Error::State(error.to_string())),
            Err(_) => Err(Error::Unavailable(format!(
                "not grown within {CLOSE_TIMEOUT:?}; not connected: {}",
                self.missing().join(", ")
            ))),
        }
    }

    /// Opens a volume without a device, for an operation on it. Refused while another node has it.
    pub(super) async fn open_briefly(self: &Arc<Self>, id: &str) -> Result<OpenVolume, Error> {
        let view = self.get(id).await?;
        if view.engine_connected && !view.node.is_empty() {
            return Err(Error::State(format!(
                "volume {id:?} is attached to node {:?}: ask the engine there",
                view.node
            )));
        }
        let open = self.open(self.configuration(id).await?)?;
        self.opened(&open.volume).await?;
        Ok(open)
    }

    /// Compares the replicas.
    pub async fn verify(self: &Arc<Self>, id: &str) -> Result<(VolumeSpec, VerifyReport), Error> {
        // Not under the volume's lock: a verification of a large volume must not keep it from being detached.
        if let Some(attached) = self.attached(id) {
            return verify(&attached.volume).await;
        }
        let _one_at_a_time = self.lock(id).await;
        let open = self.open_briefly(id).await?;
        let result = verify(&open.volume).await;
        goodbye(open).await;
        result
    }

    /// Flushes what is attached, at the end of the process. The devices go with it.
    pub async fn flush_all(&self, limit: Duration) {
        let all = self.all_attached();
        let flushes = all.iter().map(|attached| attached.volume.submit(Op::Flush));
        let _ = tokio::time::timeout(limit, futures::future::join_all(flushes)).await;
    }
}

pub(super) async fn goodbye(open: OpenVolume) {
    let _ = tokio::time::timeout(GOODBYE_TIMEOUT, open.volume.submit(Op::Close)).await;
}

async fn verify(volume: &Volume) -> Result<(VolumeSpec, VerifyReport), Error> {
    catch_up(volume).await;
    let result = tokio::time::timeout(VERIFY_TIMEOUT, volume.submit(Op::Verify)).await;
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error @ OpError::NotComplete)) => return Err(Error::Unavailable(error.to_string())),
        Ok(Err(error)) => return Err(Error::State(error.to_string())),
        Err(_) => {
            return Err(Error::Unavailable(format!(
                "not verified within {VERIFY_TIMEOUT:?}"
            )));
        }
    }
    let report = volume
        .verify_report()
        .await
        .ok_or_else(|| Error::State("the volume was closed".into()))?;
    Ok(((*volume.spec).clone(), report))
}

/// Waits while members are catching up, since a volume that was just opened has to level them first.
pub(super) async fn catch_up(volume: &Volume) {
    let deadline = tokio::time::Instant::now() + CATCH_UP_TIMEOUT;
    let mut seen_absent = 0;
    while tokio::time::Instant::now() < deadline {
        let Some(status) = volume.status().await else {
            return;
        };
        let states = |wanted: &[MemberState]| status.members.iter().any(|m| wanted.contains(&m.state));
        if states(&[MemberState::CatchingUp, MemberState::Learner]) {
            seen_absent = 0;
        } else if states(&[MemberState::Absent]) && seen_absent < ABSENT_CHECKS {
            // A session may still be coming up.
            seen_absent += 1;
        } else {
            return;
        }
        tokio::time::sleep(CATCH_UP_CHECK).await;
    }
}
