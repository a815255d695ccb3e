//! The end of a pod: its containers are stopped within the grace period, its last status is reported, its
//! volumes and cgroups are taken down; when the API wants it deleted, it is deleted there, and forgotten here.

use super::kill::{Killer, ORPHAN_GRACE_SECS};
use super::spec;
use super::worker::{Update, Worker};
use crate::eviction;
use crate::runtime::RuntimePod;
use crate::volumes;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Pause after a step failed: the first one, and the longest.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Ends the pod. Returns when nothing of it is left on the node, nor in the API if it was deleted there.
pub async fn terminate(worker: &mut Worker) {
    worker.probes.stop();
    let mut observed = stop(worker).await;
    worker.read_messages(&observed);
    let pod = worker.updates.borrow().pod.clone();
    // Before others hear of it and put another pod in its place.
    worker.context.promised.release(&worker.id.uid);
    worker.report(&pod, &observed, true);
    clean(worker).await;
    // Finished pods stay, with their logs, until somebody deletes them.
    let mut updates = worker.updates.clone();
    let deleted = |u: &Update| u.gone || u.pod.metadata.deletion_timestamp.is_some();
    let Ok(update) = updates.wait_for(deleted).await.map(|u| u.clone()) else {
        return;
    };
    if !update.gone {
        if let Ok(now) = worker
            .cache
            .observe(&worker.context.runtime, &worker.id.uid)
            .await
        {
            observed = now;
        }
        worker.report(&update.pod, &observed, true);
        worker.reporter.delete();
        worker.reporter.flush().await;
        // The watch says so too; a finalizer may hold the object for as long as it likes.
        let _ = tokio::time::timeout(RETRY_MAX, updates.wait_for(|u| u.gone)).await;
    }
    remove(worker).await;
}

/// Seconds that the containers still have.
fn grace(update: &Update) -> i64 {
    let grace = spec::grace_secs(&update.pod);
    // Deleted by force: the API does not wait, the containers get a moment.
    if update.gone && update.pod.metadata.deletion_timestamp.is_none() {
        return grace.min(spec::DEFAULT_GRACE_SECS);
    }
    grace
}

/// Stops all containers and sandboxes; a later deletion with a shorter grace period takes effect at once.
async fn stop(worker: &mut Worker) -> RuntimePod {
    let context = worker.context.clone();
    let started = Instant::now();
    let mut updates = worker.updates.clone();
    let mut pause = RETRY_FIRST;
    loop {
        let update = updates.borrow_and_update().clone();
        let evicted = worker
            .verdict
            .as_ref()
            .is_some_and(|v| v.reason == eviction::EVICTED);
        let allowed = if evicted {
            grace(&update).min(eviction::GRACE_SECS)
        } else {
            grace(&update)
        };
        let spent = i64::try_from(started.elapsed().as_secs()).unwrap_or(allowed);
        let observed = match worker.cache.observe(&context.runtime, &worker.id.uid).await {
            Ok(observed) => observed,
            Err(error) => {
                tracing::debug!(pod = %worker.id, %error, "the runtime does not answer");
                sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
                continue;
            }
        };
        let idle = observed.alive().next().is_none() && observed.sandboxes.iter().all(|s| !s.ready);
        if idle {
            return observed;
        }
        let killer = Killer {
            context: &context,
            pod: Some(&update.pod),
            pod_ip: observed
                .ready_sandbox()
                .and_then(|s| s.ips.first().cloned())
                .unwrap_or_default(),
        };
        let result = tokio::select! {
            result = killer.pod(&observed, (allowed - spent).max(0)) => result,
            _ = updates.wait_for(|u| grace(u) < allowed) => continue,
        };
        if let Err(error) = result {
            tracing::info!(pod = %worker.id, %error, "pod not stopped");
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }
}

/// Takes down volumes and cgroups.
async fn clean(worker: &Worker) {
    let context = &worker.context;
    let mut pause = RETRY_FIRST;
    while let Err(error) = volumes::tear_down(context, &worker.id.uid).await {
        tracing::info!(pod = %worker.id, %error, "volumes not taken down");
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
    context.cgroups.remove(&worker.id.uid);
}

/// Removes sandboxes, containers and logs.
async fn remove(worker: &mut Worker) {
    let context = worker.context.clone();
    let uid = worker.id.uid.clone();
    remove_from_runtime(&context, &mut worker.cache, &uid).await;
    context.cgroups.remove(&uid);
    let logs = context.paths.pod_logs(&worker.id);
    let _ = std::fs::remove_dir_all(logs);
}

/// Removes all that the runtime holds of a pod whose containers are dead.
pub async fn remove_from_runtime(
    context: &crate::context::Context,
    cache: &mut crate::runtime::Cache,
    uid: &str,
) {
    let mut pause = RETRY_FIRST;
    loop {
        let result = match cache.observe(&context.runtime, uid).await {
            Ok(observed) if observed.sandboxes.is_empty() && observed.containers.is_empty() => return,
            Ok(observed) => remove_observed(context, &observed).await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::debug!(uid, %error, "pod not removed from the runtime");
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }
}

async fn remove_observed(
    context: &crate::context::Context,
    observed: &RuntimePod,
) -> Result<(), crate::runtime::Error> {
    for container in &observed.containers {
        context.runtime.remove_container(&container.id).await?;
    }
    for sandbox in &observed.sandboxes {
        context.runtime.stop_sandbox(&sandbox.id).await?;
        context.runtime.remove_sandbox(&sandbox.id).await?;
    }
    Ok(())
}

/// Ends a pod of which the API knows nothing: kills what runs and removes everything. `stopped` is told when
/// nothing of it runs any more.
pub async fn orphan(context: &crate::context::Context, uid: &str, stopped: impl FnOnce()) {
    let mut cache = crate::runtime::Cache::default();
    let mut pause = RETRY_FIRST;
    loop {
        let result = match cache.observe(&context.runtime, uid).await {
            Ok(observed) => {
                let killer = Killer {
                    context,
                    pod: None,
                    pod_ip: String::new(),
                };
                killer.pod(&observed, ORPHAN_GRACE_SECS).await
            }
            Err(error) => Err(error),
        };
        let Err(error) = result else { break };
        tracing::info!(uid, %error, "orphaned pod not stopped");
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
    stopped();
    remove_from_runtime(context, &mut cache, uid).await;
    let mut pause = RETRY_FIRST;
    while let Err(error) = volumes::tear_down(context, uid).await {
        tracing::info!(uid, %error, "volumes of an orphaned pod not taken down");
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
    context.cgroups.remove(uid);
    remove_logs(context, uid);
}

fn remove_logs(context: &crate::context::Context, uid: &str) {
    for entry in std::fs::read_dir(&context.paths.logs)
        .into_iter()
        .flatten()
        .flatten()
    {
        if entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.ends_with(&format!("_{uid}")))
        {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
