//! Gives every pod of this node its worker, and ends what runs here without a pod in the API.

use super::terminate;
use super::worker::{Update, Worker};
use crate::context::Context;
use crate::sync::lock;
use client::{Change, Informer};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::watcher;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

type Workers = Arc<Mutex<HashMap<String, watch::Sender<Update>>>>;

/// Runs for ever. `settled` becomes true once nothing runs on this node that the API says is gone.
pub async fn run(context: Arc<Context>, pods: Informer<Pod>, settled: watch::Sender<bool>) {
    let (events, mut received) = mpsc::unbounded_channel::<Update>();
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
    let workers: Workers = Arc::default();
    let tracker = TaskTracker::new();
    let dispatch = async {
        while let Some(update) = received.recv().await {
            deliver(&context, &workers, &tracker, update);
        }
    };
    let orphans = async {
        pods.synced().await;
        end_orphans(&context, &pods, &settled).await;
        std::future::pending::<()>().await;
    };
    tokio::join!(pods.run(api, config), dispatch, orphans);
}

fn deliver(context: &Arc<Context>, workers: &Workers, tracker: &TaskTracker, update: Update) {
    let Some(uid) = update.pod.metadata.uid.clone() else {
        return;
    };
    let mut map = lock(workers);
    if let Some(sender) = map.get(&uid) {
        sender.send_replace(update);
        return;
    }
    if update.gone {
        return;
    }
    let (sender, receiver) = watch::channel(update);
    map.insert(uid.clone(), sender);
    let worker = Worker::new(context.clone(), receiver);
    let workers = workers.clone();
    tracker.spawn(async move {
        worker.run().await;
        lock(&workers).remove(&uid);
    });
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
    for uid in orphans {
        tracing::info!(uid, "pod is gone from the API: stopped here");
        let context = context.clone();
        let stopped = stopped.clone();
        tokio::spawn(async move {
            terminate::orphan(&context, &uid, || stopped.send_modify(|n| *n += 1)).await;
        });
    }
    // The sender lives in this function.
    let _ = count.wait_for(|n| *n >= total).await;
    settled.send_replace(true);
}
