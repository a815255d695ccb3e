//! The garbage collector: objects whose owners are gone are deleted, in the background, in the foreground, or
//! left as orphans. Kinds for which the controller manager keeps a cache anyway are taken from there; of all
//! others it watches the metadata.

mod collect;
pub mod graph;
mod monitor;

use crate::context::{Context, settle};
use crate::resources::Kind;
use client::{Change, Informer, Outcome, Queue};
use graph::{Graph, KindId, Work};
use kube::discovery::ApiResource;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Objects worked on at once.
const CONCURRENCY: usize = 20;

/// How long to wait for the first lists of all kinds.
const LISTING_MAX: Duration = Duration::from_secs(10);

/// What the monitors and the workers share.
pub struct Shared {
    context: Arc<Context>,
    graph: Mutex<Graph>,
    kinds: Mutex<Kinds>,
    queue: Queue<Work>,
    /// Kinds may have come or gone.
    kinds_changed: Notify,
    /// Told in which namespace objects came or went.
    census: Mutex<Vec<CensusListener>>,
}

/// Who wants to know when the number of objects in a namespace changes.
type CensusListener = Box<dyn Fn(&str) + Send + Sync>;

/// All kinds ever seen; an index stays valid.
#[derive(Default)]
struct Kinds {
    list: Vec<Kind>,
    index: HashMap<(String, String), KindId>,
}

impl Kinds {
    fn id(&mut self, group: &str, plural: &str, kind: impl FnOnce() -> Kind) -> KindId {
        let id = (group.to_owned(), plural.to_owned());
        *self.index.entry(id).or_insert_with(|| {
            self.list.push(kind());
            self.list.len() - 1
        })
    }

    /// The kind that an owner reference names.
    fn resolve(&self, api_version: &str, kind: &str) -> Option<&Kind> {
        let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
        self.list
            .iter()
            .find(|known| known.resource.group == group && known.resource.kind == kind)
    }
}

/// The controller.
pub struct Controller {
    shared: Arc<Shared>,
    cached: Vec<KindId>,
}

impl Controller {
    /// Registers its handlers.
    pub fn new(context: &Arc<Context>) -> Self {
        let shared = Arc::new(Shared {
            context: context.clone(),
            graph: Mutex::default(),
            kinds: Mutex::default(),
            queue: Queue::new(),
            kinds_changed: Notify::new(),
            census: Mutex::default(),
        });
        let cached = vec![
            follow(&shared, &context.pods, true),
            follow(&shared, &context.nodes, false),
            follow(&shared, &context.namespaces, false),
            follow(&shared, &context.replica_sets, true),
            follow(&shared, &context.deployments, true),
            follow(&shared, &context.stateful_sets, true),
            follow(&shared, &context.daemon_sets, true),
            follow(&shared, &context.jobs, true),
            follow(&shared, &context.cron_jobs, true),
            follow(&shared, &context.replication_controllers, true),
            follow(&shared, &context.quotas, true),
            follow(&shared, &context.autoscalers, true),
            follow(&shared, &context.revisions, true),
            follow(&shared, &context.services, true),
            follow(&shared, &context.slices, true),
            follow(&shared, &context.endpoints, true),
            follow(&shared, &context.service_accounts, true),
            follow(&shared, &context.leases, true),
            follow(&shared, &context.volumes, false),
            follow(&shared, &context.claims, true),
            follow(&shared, &context.classes, false),
            follow(&shared, &context.attachments, false),
            follow(&shared, &context.drivers, false),
            follow(&shared, &context.budgets, true),
        ];
        Self { shared, cached }
    }

    /// The numbers of objects of all kinds, which the graph knows anyway.
    pub fn census(&self) -> Census {
        Census(self.shared.clone())
    }

    /// Works until dropped.
    pub async fn run(self) {
        let shared = &self.shared;
        let (ready, monitors) = monitor::monitors(shared.clone(), self.cached);
        let work = async {
            // Before all kinds are known, an owner may only seem to be missing. The check asks the server in
            // any case; this saves the questions, so that one kind that cannot be listed does not block all.
            let _ = tokio::time::timeout(LISTING_MAX, ready.notified()).await;
            tracing::debug!(
                objects = shared.graph.lock().len(),
                "garbage collector has its graph"
            );
            shared
                .queue
                .work(CONCURRENCY, |work| async move {
                    let (result, uid) = match &work {
                        Work::Check(uid) => (collect::check(shared, uid).await, uid),
                        Work::Orphan(uid) => (collect::orphan(shared, uid).await, uid),
                    };
                    settle("garbage", uid, result.map(|()| Outcome::Done))
                })
                .await;
        };
        tokio::join!(monitors, work);
    }
}

/// Takes the objects of a kind from its shared cache.
fn follow<K: crate::context::Object>(shared: &Arc<Shared>, cache: &Informer<K>, namespaced: bool) -> KindId {
    let resource = ApiResource::erase::<K>(&());
    let (group, plural) = (resource.group.clone(), resource.plural.clone());
    let verbs = Vec::new();
    let id = shared.kinds.lock().id(&group, &plural, || Kind {
        resource,
        namespaced,
        verbs,
    });
    let weak = Arc::downgrade(shared);
    cache.on_change(move |change| {
        let Some(shared) = weak.upgrade() else { return };
        match change {
            Change::Added(object) | Change::Updated(_, object) => shared.upsert(id, object.meta()),
            Change::Deleted(object) => shared.remove(object.meta().uid.as_deref().unwrap_or_default()),
        }
    });
    id
}

/// How many objects of which kind there are.
#[derive(Clone)]
pub struct Census(Arc<Shared>);

impl Census {
    /// Number of objects in a namespace; `None` when there is no such kind, or it is not followed.
    pub fn count(&self, group: &str, plural: &str, namespace: &str) -> Option<usize> {
        let id = (group.to_owned(), plural.to_owned());
        let kind = *self.0.kinds.lock().index.get(&id)?;
        Some(self.0.graph.lock().count(kind, namespace))
    }

    /// Calls `listener` with the namespace whenever an object has gone; it must be quick.
    pub fn on_removal(&self, listener: impl Fn(&str) + Send + Sync + 'static) {
        self.0.census.lock().push(Box::new(listener));
    }
}

impl Shared {
    /// Brings an object into the graph.
    fn upsert(&self, kind: KindId, meta: &kube::core::ObjectMeta) {
        let work = self.graph.lock().upsert(kind, meta);
        self.enqueue(work);
    }

    /// Takes an object out of the graph.
    fn remove(&self, uid: &str) {
        let (work, namespace) = {
            let mut graph = self.graph.lock();
            let namespace = graph.node(uid).map(|node| node.namespace.clone());
            (graph.remove(uid), namespace)
        };
        if let Some(namespace) = namespace {
            self.tell_census(&namespace);
        }
        self.enqueue(work);
    }

    fn tell_census(&self, namespace: &str) {
        for listener in self.census.lock().iter() {
            listener(namespace);
        }
    }

    fn enqueue(&self, work: Vec<Work>) {
        for item in work {
            self.queue.add(item);
        }
    }

    fn kind(&self, id: KindId) -> Option<Kind> {
        self.kinds.lock().list.get(id).cloned()
    }
}
