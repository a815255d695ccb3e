//! Gives every pod of this node its worker, and ends what runs here without a pod in the API.

use super::worker::{Update, Worker};
use super::{accept, terminate};
use crate::context::Context;
use client::{Change, Informer};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::watcher;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// Runs for ever. `settled` becomes true once nothing runs on this node that the API says is gone. Dropping the
/// future ends all workers; the pods go on running.
pub async fn run(context: Arc<Context>, pods: Informer<Pod>, settled: watch::Sender<bool>) {
    let (events, received) = mpsc::unbounded_channel::<Update>();
    pods.on_change(move |change| {
        let update = Update {
            pod: change.object().clone(),
            gone: matches!(change, Change::Deleted(_)),
        };
        // Fails only when the manager has ended.
        let _ = events.send(update);
    });
    let api: Api<Pod> = Api::all(context.client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", context.config.node_name));
    let orphans = async {
        pods.synced().await;
        end_orphans(&context, &pods, &settled).await;
    };
    tokio::join!(
        pods.run(api, config),
        dispatch(&context, &pods, received),
        orphans
    );
}

/// A worker's task, and how it learns what the API says.
struct Running {
    updates: watch::Sender<Update>,
    _task: AbortOnDropHandle<()>,
}

/// Passes on what the API says about each pod, by UID.
async fn dispatch(
    context: &Arc<Context>,
    pods: &Informer<Pod>,
    mut received: mpsc::UnboundedReceiver<Update>,
) {
    // What is here already has its place before anything new asks for one.
    pods.synced().await;
    for pod in pods.list() {
        accept::know(context, &pod);
    }
    let mut workers: HashMap<String, Running> = HashMap::new();
    let (finished, mut ended) = mpsc::unbounded_channel::<String>();
    loop {
        let update = tokio::select! {
            update = received.recv() => update,
            uid = ended.recv() => {
                uid.and_then(|uid| workers.remove(&uid));
                continue;
            }
        };
        let Some(update) = update else { return };
        let Some(uid) = update.pod.metadata.uid.clone() else {
            continue;
        };
        if let Some(worker) = workers.get(&uid) {
            worker.updates.send_replace(update);
            continue;
        }
        if update.gone {
            continue;
        }
        let (updates, receiver) = watch::channel(update);
        let worker = Worker::new(context.clone(), receiver);
        let (finished, name) = (finished.clone(), uid.clone());
        let task = tokio::spawn(async move {
            worker.run().await;
            let _ = finished.send(name);
        });
        let running = Running {
            updates,
            _task: AbortOnDropHandle::new(task),
        };
        workers.insert(uid, running);
    }
}

/// Ends all pods that the runtime, the cgroups or the disk still hold but the API does not.
async fn end_orphans(context: &Arc<Context>, pods: &Informer<Pod>, settled: &watch::Sender<bool>) {
    // The runtime may start at the same time as we do.
    let mut health = context.relist.health();
    let _ = health.wait_for(|healthy| *healthy).await;
    let known: BTreeSet<String> = pods
        .list()
        .iter()
        .filter_map(|p| p.metadata.uid.clone())
        .collect();
    let mut orphans: BTreeSet<String> = context.relist.pods().into_keys().collect();
    orphans.extend(context.cgroups.pods());
    for entry in std::fs::read_dir(context.paths.pods())
        .into_iter()
        .flatten()
        .flatten()
    {
        orphans.extend(entry.file_name().into_string().ok());
    }
    orphans.retain(|uid| !known.contains(uid));
    let (stopped, mut count) = watch::channel(0usize);
    let stopped = Arc::new(stopped);
    let total = orphans.len();
    let mut tasks = JoinSet::new();
    for uid in orphans {
        tracing::info!(uid, "pod is gone from the API: stopped here");
        let context = context.clone();
        let stopped = stopped.clone();
        tasks.spawn(async move {
            terminate::orphan(&context, &uid, || stopped.send_modify(|n| *n += 1)).await;
        });
    }
    // The sender lives in this function.
    let _ = count.wait_for(|n| *n >= total).await;
    settled.send_replace(true);
    while tasks.join_next().await.is_some() {}
}
