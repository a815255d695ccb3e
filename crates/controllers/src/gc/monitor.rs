//! Metadata watches over every kind that can be deleted, kept in step with what the server offers.

use super::Shared;
use super::graph::KindId;
use crate::resources::{self, Kind, Meta};
use futures::StreamExt;
use kube::discovery::verbs;
use kube::runtime::watcher::{self, Event};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

/// Pause after a change of a CustomResourceDefinition, until the server serves the new kind and further
/// changes have come.
const SETTLE: Duration = Duration::from_secs(1);
/// Pause after discovery failed.
const RETRY: Duration = Duration::from_secs(2);
/// Pauses between attempts of one watch.
const WATCH_RETRY_FIRST: Duration = Duration::from_millis(200);
const WATCH_RETRY_MAX: Duration = Duration::from_secs(5);

/// Kinds that come and go in masses and own nothing.
fn ignored(kind: &Kind) -> bool {
    kind.resource.plural == "events" && matches!(kind.resource.group.as_str(), "" | "events.k8s.io")
}

/// The task that keeps all monitors, and a signal for when each kind was listed once.
pub fn monitors(shared: Arc<Shared>, cached: Vec<KindId>) -> (Arc<Notify>, impl Future<Output = ()>) {
    let ready = Arc::new(Notify::new());
    let signal = ready.clone();
    (ready, async move { keep(shared, cached, signal).await })
}

async fn keep(shared: Arc<Shared>, cached: Vec<KindId>, ready: Arc<Notify>) {
    let cached: HashSet<KindId> = cached.into_iter().collect();
    let mut running: HashMap<KindId, AbortHandle> = HashMap::new();
    let mut tasks = JoinSet::new();
    let (listed, mut listings) = mpsc::unbounded_channel();
    let mut pending: Option<HashSet<KindId>> = None;
    loop {
        match resources::discover(&shared.context.client).await {
            Ok(kinds) => {
                let started = update(&shared, kinds, &cached, &mut running, &mut tasks, &listed);
                pending.get_or_insert(started);
            }
            Err(error) => {
                tracing::debug!(%error, "discovery failed");
                sleep(RETRY).await;
                continue;
            }
        }
        loop {
            if pending.as_ref().is_some_and(HashSet::is_empty) {
                ready.notify_one();
            }
            tokio::select! {
                Some(kind) = listings.recv() => {
                    if let Some(waiting) = &mut pending {
                        waiting.remove(&kind);
                    }
                }
                () = shared.kinds_changed.notified() => {
                    sleep(SETTLE).await;
                    break;
                }
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            }
        }
    }
}

/// Starts and stops monitors; returns the kinds of the new ones.
fn update(
    shared: &Arc<Shared>,
    kinds: Vec<Kind>,
    cached: &HashSet<KindId>,
    running: &mut HashMap<KindId, AbortHandle>,
    tasks: &mut JoinSet<()>,
    listed: &mpsc::UnboundedSender<KindId>,
) -> HashSet<KindId> {
    let mut wanted = HashSet::new();
    let mut started = HashSet::new();
    for kind in resources::deletable(kinds).filter(|kind| kind.can(verbs::WATCH) && !ignored(kind)) {
        let (group, plural) = kind.id();
        let id = shared.kinds.lock().id(&group, &plural, || kind.clone());
        wanted.insert(id);
        if cached.contains(&id) || running.contains_key(&id) {
            continue;
        }
        let task = watch(shared.clone(), kind, id, listed.clone());
        running.insert(id, tasks.spawn(task));
        started.insert(id);
    }
    running.retain(|id, task| {
        if !wanted.contains(id) {
            task.abort();
        }
        wanted.contains(id)
    });
    started
}

async fn watch(shared: Arc<Shared>, kind: Kind, id: KindId, listed: mpsc::UnboundedSender<KindId>) {
    let defines_kinds =
        kind.resource.group == "apiextensions.k8s.io" || kind.resource.plural == "apiservices";
    let api = kind.api(&shared.context.client, None);
    let stream = || Box::pin(watcher::watcher(api.clone(), watcher::Config::default()));
    let mut events = stream();
    let mut seen: HashSet<String> = HashSet::new();
    let mut pause = WATCH_RETRY_FIRST;
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::debug!(kind = kind.resource.plural, %error, "watch interrupted");
                sleep(pause).await;
                pause = (pause * 2).min(WATCH_RETRY_MAX);
                if client::informer::expired(&error) {
                    events = stream();
                }
                continue;
            }
        };
        if !matches!(event, Event::Init) {
            pause = WATCH_RETRY_FIRST;
        }
        apply(&shared, id, event, &mut seen, &listed);
        if defines_kinds && seen.is_empty() {
            shared.kinds_changed.notify_one();
        }
    }
}

/// Brings one event into the graph. `seen` collects the uids of a list in progress.
fn apply(
    shared: &Shared,
    id: KindId,
    event: Event<Meta>,
    seen: &mut HashSet<String>,
    listed: &mpsc::UnboundedSender<KindId>,
) {
    match event {
        Event::Init => seen.clear(),
        Event::InitApply(object) => {
            seen.extend(object.metadata.uid.clone());
            shared.upsert(id, &object.metadata);
        }
        Event::InitDone => {
            let known = shared.graph.lock().of_kind(id);
            for uid in known.iter().filter(|uid| !seen.contains(*uid)) {
                shared.remove(uid);
            }
            seen.clear();
            // The receiver outlives all monitors.
            let _ = listed.send(id);
        }
        Event::Apply(object) => {
            shared.upsert(id, &object.metadata);
        }
        Event::Delete(object) => {
            shared.remove(object.metadata.uid.as_deref().unwrap_or_default());
        }
    }
}
