//! Looks after volumes that pods use: one whose device is gone is marked, so that its pod's worker ends the
//! containers on it and makes it anew; one that has grown is grown here too.
//!
//! A device goes with its engine. The engine's return is what starts a look, then, and that of a CSI driver; the
//! interval is for everything else, and for claims: a node may read the claims of its pods, but not watch them.

use super::record::{self, Record};
use super::{Places, claim, grow, unique_name};
use crate::context::Context;
use crate::sync::lock;
use crate::volumes::Error;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Pause between looks.
const INTERVAL: Duration = Duration::from_secs(30);
/// Pause after a driver did not answer, which may have to find its engine first; so often in a row.
const RETRY: Duration = Duration::from_secs(1);
const RETRIES: u32 = 10;

/// Looks after the volumes for ever.
pub async fn run(context: &Context) {
    let mut engine = context.fence.contacts();
    let mut drivers = context.plugins.changes();
    let mut retries = 0;
    loop {
        engine.borrow_and_update();
        drivers.borrow_and_update();
        let complete = look(context).await;
        retries = if complete { 0 } else { retries + 1 };
        let pause = if complete || retries > RETRIES {
            INTERVAL
        } else {
            RETRY
        };
        tokio::select! {
            _ = engine.changed() => {}
            _ = drivers.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Looks at every published volume. False when a driver did not answer.
async fn look(context: &Context) -> bool {
    // What a fenced node has is taken down as it is.
    if context.fence.is_fenced() {
        return true;
    }
    let mut published: Vec<(String, Record)> = Vec::new();
    for uid in pods(context) {
        let records = record::of_pod(&context.paths.volumes(&uid));
        published.extend(records.into_iter().map(|(_, record)| (uid.clone(), record)));
    }
    let looks = published.iter().map(|(uid, record)| one(context, uid, record));
    futures::future::join_all(looks)
        .await
        .into_iter()
        .all(|done| done)
}

fn pods(context: &Context) -> Vec<String> {
    let entries = std::fs::read_dir(context.paths.pods()).into_iter().flatten();
    entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}

async fn one(context: &Context, uid: &str, record: &Record) -> bool {
    // A driver that is away comes back with a look.
    let Ok(driver) = context.plugins.driver(&record.driver_name) else {
        return true;
    };
    let target = Places::new(context, record, uid).target;
    if driver.tells_condition {
        // Not while it is made anew, which would look abnormal.
        let name = unique_name(&record.driver_name, &record.volume_handle);
        let lock_of = context.volumes.lock_of(&name);
        let _guard = lock_of.lock().await;
        match driver.condition(&record.volume_handle, &target).await {
            Ok(Some(condition)) if condition.abnormal => {
                tracing::info!(
                    uid,
                    volume = record.persistent_volume,
                    condition = condition.message,
                    "volume is abnormal"
                );
                context.volumes.mark_broken(uid, record, condition.message);
                context.relist.wake(uid);
                return true;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(volume = record.persistent_volume, %error, "condition of a volume not known");
                return false;
            }
        }
    }
    if driver.expands
        && let Err(error) = follow_growth(context, uid, record, target).await
    {
        tracing::debug!(volume = record.persistent_volume, %error, "volume not grown");
    }
    true
}

/// Grows the volume of a claim that has become larger since it was published.
async fn follow_growth(context: &Context, uid: &str, record: &Record, target: PathBuf) -> Result<(), Error> {
    let Some(seen) = context.relist.pods().remove(uid) else {
        return Ok(());
    };
    let claim = claim::resolve(context, &seen.namespace, &record.claim).await?;
    let same = claim.handle == record.volume_handle && claim.driver == record.driver_name;
    if !same || claim.growth.is_none() {
        return Ok(());
    }
    let lock_of = context
        .volumes
        .lock_of(&unique_name(&claim.driver, &claim.handle));
    let _guard = lock_of.lock().await;
    let paths = Places::new(context, record, uid);
    grow::grow(context, &claim, &target, &paths.staging).await
}

/// Volumes of one pod that must be made anew: claim and what is wrong.
pub type Broken = BTreeMap<String, String>;

impl super::Volumes {
    fn mark_broken(&self, uid: &str, record: &Record, why: String) {
        let mut broken = lock(&self.broken);
        let of_pod = broken.entry(uid.to_owned()).or_default();
        of_pod.insert(record.claim.clone(), why);
    }

    /// The volume was just made anew.
    pub(super) fn is_whole(&self, uid: &str, claim: &str) {
        if let Some(of_pod) = lock(&self.broken).get_mut(uid) {
            of_pod.remove(claim);
        }
    }

    /// The pod's volumes that must be made anew. Whoever takes them ends the containers on them, and forgets what
    /// was published; if that fails, they are to be given back.
    pub fn take_broken(&self, uid: &str) -> Option<Broken> {
        lock(&self.broken).remove(uid).filter(|broken| !broken.is_empty())
    }

    /// Volumes that could not be left yet.
    pub fn give_back_broken(&self, uid: &str, broken: Broken) {
        lock(&self.broken)
            .entry(uid.to_owned())
            .or_default()
            .extend(broken);
    }
}
