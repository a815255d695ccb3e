//! StatefulSets: pods with names, each with its own claims. The decisions are in [`plan`], a pod's identity in
//! [`identity`], the history of templates in [`revisions`].

pub mod identity;
pub mod plan;
pub mod revisions;

use crate::context::{Context, answered, settle};
use crate::{ownership, pod_control};
use client::events::reference;
use client::pods::{self, controller_of};
use client::{Key, Outcome, Queue, select};
use identity::REVISION_LABEL;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use plan::{Action, PodView, Wanted};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The name under which Events are recorded.
const COMPONENT: &str = "statefulset-controller";

/// StatefulSets worked on at once.
const CONCURRENCY: usize = 5;

/// The controller.
pub struct Controller {
    context: Arc<Context>,
    queue: Arc<Queue<Key>>,
}

impl Controller {
    /// Registers its handlers.
    pub fn new(context: &Arc<Context>) -> Self {
        let queue = Arc::new(Queue::new());
        let keys = queue.clone();
        context
            .stateful_sets
            .on_change(move |change| keys.add(Key::of(&**change.object())));
        let (keys, weak) = (queue.clone(), Arc::downgrade(context));
        context.pods.on_change(move |change| {
            let Some(context) = weak.upgrade() else { return };
            for pod in [change.old(), change.current()].into_iter().flatten() {
                pod_changed(&context, &keys, pod);
            }
        });
        Self {
            context: context.clone(),
            queue,
        }
    }

    /// Works until dropped.
    pub async fn run(self) {
        let (context, queue) = (&self.context, &self.queue);
        queue
            .work(CONCURRENCY, |key| async move {
                let result = reconcile(context, &key).await;
                settle("statefulset", &key, result)
            })
            .await;
    }
}

fn pod_changed(context: &Context, keys: &Queue<Key>, pod: &Pod) {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    match controller_of(&pod.metadata) {
        Some(owner) if owner.kind == "StatefulSet" => keys.add(Key::new(namespace, &owner.name)),
        Some(_) => {}
        None => {
            for set in context.stateful_sets.list_in(namespace) {
                let selector = set.spec.as_ref().map(|spec| &spec.selector);
                if selector.is_some_and(|s| select::labels_match(s, pod.metadata.labels.as_ref())) {
                    keys.add(Key::of(&*set));
                }
            }
        }
    }
}

/// One pass over one set.
struct Pass<'a> {
    context: &'a Context,
    set: Arc<StatefulSet>,
    spec: StatefulSetSpec,
    current: (String, PodTemplateSpec),
    newest: (String, PodTemplateSpec),
    collisions: i32,
}

async fn reconcile(context: &Context, key: &Key) -> kube::Result<Outcome> {
    let Some(set) = context.stateful_sets.by_key(key) else {
        return Ok(Outcome::Done);
    };
    let Some(spec) = set.spec.clone() else {
        return Ok(Outcome::Done);
    };
    let api = context.api::<StatefulSet>(&key.namespace);
    let name = key.name.clone();
    let adoptable =
        |pod: &Pod| identity::ordinal(&name, pod.metadata.name.as_deref().unwrap_or_default()).is_some();
    let mine = ownership::claimed(context, &*set, &api, &spec.selector, &context.pods, adoptable).await?;
    let pass = Pass::new(context, set.clone(), spec).await?;
    let acted = if set.metadata.deletion_timestamp.is_none() {
        pass.act(&mine).await
    } else {
        Ok(())
    };
    let status = pass.write_status().await?;
    acted?;
    let limit = pass
        .spec
        .revision_history_limit
        .unwrap_or(revisions::DEFAULT_HISTORY);
    let used = |name: &str| {
        let labelled = |pod: &Arc<Pod>| {
            pod.metadata
                .labels
                .as_ref()
                .and_then(|l| l.get(REVISION_LABEL))
                .cloned()
        };
        mine.iter().any(|pod| labelled(pod).as_deref() == Some(name))
    };
    revisions::clean_up(context, &*set, limit, |revision| {
        let name = revision.metadata.name.as_deref().unwrap_or_default();
        name == pass.newest.0 || name == pass.current.0 || used(name)
    })
    .await?;
    let waits = pass.spec.min_ready_seconds.unwrap_or(0);
    if waits > 0 && status.ready_replicas != status.available_replicas {
        return Ok(Outcome::After(Duration::from_secs(
            u64::try_from(waits).unwrap_or(1),
        )));
    }
    Ok(Outcome::Done)
}

impl<'a> Pass<'a> {
    async fn new(context: &'a Context, set: Arc<StatefulSet>, spec: StatefulSetSpec) -> kube::Result<Self> {
        let status = set.status.clone().unwrap_or_default();
        let mut collisions = status.collision_count.unwrap_or(0);
        let label = revisions::HASH_LABEL;
        let newest = revisions::newest(context, &*set, &spec.template, label, &mut collisions).await?;
        let name = newest.metadata.name.clone().unwrap_or_default();
        let newest = (name, spec.template.clone());
        let current = revisions::of(context, &*set)
            .into_iter()
            .find(|revision| revision.metadata.name == status.current_revision)
            .and_then(|revision| {
                Some((
                    revision.metadata.name.clone()?,
                    revisions::template_of(&revision)?,
                ))
            })
            .unwrap_or_else(|| newest.clone());
        Ok(Self {
            context,
            set,
            spec,
            current,
            newest,
            collisions,
        })
    }

    fn view(&self, pod: &Pod, now: Timestamp) -> PodView {
        let ready = pods::phase(pod) == "Running" && pods::is_ready(pod);
        PodView {
            terminal: pods::is_terminal(pod),
            terminating: pods::is_terminating(pod),
            ready,
            available: ready && pods::is_available(pod, self.spec.min_ready_seconds.unwrap_or(0), now),
            updated: self.revision_of(pod) == Some(&self.newest.0),
        }
    }

    fn revision_of<'p>(&self, pod: &'p Pod) -> Option<&'p String> {
        pod.metadata.labels.as_ref()?.get(REVISION_LABEL)
    }

    fn ordinal(&self, pod: &Pod) -> Option<i32> {
        let name = self.set.metadata.name.as_deref().unwrap_or_default();
        identity::ordinal(name, pod.metadata.name.as_deref().unwrap_or_default())
    }

    fn wanted(&self) -> Wanted {
        let strategy = self.spec.update_strategy.clone().unwrap_or_default();
        let by_hand = strategy.type_.as_deref() == Some("OnDelete");
        let partition = strategy
            .rolling_update
            .and_then(|rolling| rolling.partition)
            .unwrap_or(0);
        Wanted {
            start: identity::start(&self.spec),
            replicas: self.spec.replicas.unwrap_or(1).max(0),
            ordered: self.spec.pod_management_policy.as_deref() != Some("Parallel"),
            partition: (!by_hand).then_some(partition),
        }
    }

    async fn act(&self, mine: &[Arc<Pod>]) -> kube::Result<()> {
        let now = Timestamp::now();
        let pods: BTreeMap<i32, &Arc<Pod>> = mine
            .iter()
            .filter_map(|pod| Some((self.ordinal(pod)?, pod)))
            .collect();
        for (ordinal, pod) in &pods {
            self.keep_identity(*ordinal, pod).await?;
        }
        let views = pods
            .iter()
            .map(|(ordinal, pod)| (*ordinal, self.view(pod, now)))
            .collect();
        for action in plan::next(self.wanted(), &views) {
            match action {
                Action::Create { ordinal, updated } => self.create(ordinal, updated).await?,
                Action::Delete { ordinal } => {
                    if let Some(pod) = pods.get(&ordinal) {
                        self.delete(pod).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn create(&self, ordinal: i32, updated: bool) -> kube::Result<()> {
        let (revision, template) = if updated { &self.newest } else { &self.current };
        self.ensure_claims(ordinal, None).await?;
        let pod = identity::pod(&self.set, template, revision, ordinal);
        let name = pod.metadata.name.clone().unwrap_or_default();
        let namespace = self.set.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Pod> = self.context.api(namespace);
        let set_name = self.set.metadata.name.as_deref().unwrap_or_default();
        match self.context.create(&api, &self.context.pods, &pod).await {
            Ok(_) => {
                let text = format!("create Pod {name} in StatefulSet {set_name} successful");
                self.context.recorder.of(COMPONENT).event(
                    &reference(&*self.set),
                    "Normal",
                    "SuccessfulCreate",
                    text,
                );
                Ok(())
            }
            // Our own, seen late, or a foreign one: the watch will tell, or the next try.
            Err(error) => {
                if !answered(&error, 409) && !answered(&error, 403) {
                    let reason = pod_control::message(&error);
                    let text = format!("create Pod {name} in StatefulSet {set_name} failed error: {reason}");
                    self.context.recorder.of(COMPONENT).event(
                        &reference(&*self.set),
                        "Warning",
                        "FailedCreate",
                        text,
                    );
                }
                Err(error)
            }
        }
    }

    async fn delete(&self, pod: &Pod) -> kube::Result<()> {
        let namespace = self.set.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Pod> = self.context.api(namespace);
        let params = kube::api::DeleteParams::background();
        self.context
            .delete(&api, &self.context.pods, pod, &params)
            .await?;
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let set_name = self.set.metadata.name.as_deref().unwrap_or_default();
        let text = format!("delete Pod {name} in StatefulSet {set_name} successful");
        self.context
            .recorder
            .of(COMPONENT)
            .event(&reference(&*self.set), "Normal", "SuccessfulDelete", text);
        Ok(())
    }

    /// Makes the claims of an ordinal that are missing, and keeps their owners as the retention policy says.
    async fn ensure_claims(&self, ordinal: i32, pod: Option<&Pod>) -> kube::Result<()> {
        let namespace = self.set.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<PersistentVolumeClaim> = self.context.api(namespace);
        for (_, mut claim) in identity::claims(&self.set, ordinal) {
            let name = claim.metadata.name.clone().unwrap_or_default();
            let Some(known) = self.context.claims.get(namespace, &name) else {
                let owners = identity::claim_owners(&self.set, &claim, ordinal, pod);
                claim.metadata.owner_references = (!owners.is_empty()).then_some(owners);
                match self.context.create(&api, &self.context.claims, &claim).await {
                    Ok(_) => {
                        let set_name = self.set.metadata.name.as_deref().unwrap_or_default();
                        let pod = identity::pod_name(&self.set, ordinal);
                        let text = format!("create Claim {name} Pod {pod} in StatefulSet {set_name} success");
                        self.context.recorder.of(COMPONENT).event(
                            &reference(&*self.set),
                            "Normal",
                            "SuccessfulCreate",
                            text,
                        );
                    }
                    Err(error) if answered(&error, 409) => {}
                    Err(error) => return Err(error),
                }
                continue;
            };
            let owners = identity::claim_owners(&self.set, &known, ordinal, pod);
            if owners != known.metadata.owner_references.clone().unwrap_or_default() {
                let patch = serde_json::json!({"metadata": {
                    "ownerReferences": owners, "resourceVersion": known.metadata.resource_version,
                }});
                self.context
                    .merge(&api, &self.context.claims, &name, patch)
                    .await?;
            }
        }
        Ok(())
    }

    async fn keep_identity(&self, ordinal: i32, pod: &Pod) -> kube::Result<()> {
        if pods::is_terminating(pod) {
            return Ok(());
        }
        self.ensure_claims(ordinal, Some(pod)).await?;
        if identity::matches(&self.set, pod) {
            return Ok(());
        }
        let name = pod.metadata.name.clone().unwrap_or_default();
        let labels = identity::identity_labels(&name, ordinal);
        let namespace = self.set.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Pod> = self.context.api(namespace);
        let patch = serde_json::json!({"metadata": {"labels": labels}});
        self.context.merge(&api, &self.context.pods, &name, patch).await?;
        Ok(())
    }

    async fn write_status(&self) -> kube::Result<StatefulSetStatus> {
        let now = Timestamp::now();
        let meta = &self.set.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let uid = meta.uid.as_deref().unwrap_or_default();
        let mine = self
            .context
            .pods
            .select_in(namespace, |pod| pods::is_controlled_by(&pod.metadata, uid));
        let views: Vec<(PodView, Option<String>)> = mine
            .iter()
            .map(|pod| (self.view(pod, now), self.revision_of(pod).cloned()))
            .collect();
        let status = self.status(&views);
        let old = self.set.status.clone().unwrap_or_default();
        if old != status {
            let mut changed = (*self.set).clone();
            changed.status = Some(status.clone());
            let api = self.context.api::<StatefulSet>(namespace);
            self.context
                .write_status(&api, &self.context.stateful_sets, &changed)
                .await?;
        }
        Ok(status)
    }

    fn status(&self, views: &[(PodView, Option<String>)]) -> StatefulSetStatus {
        let count = |test: &dyn Fn(&PodView, Option<&String>) -> bool| {
            let n = views
                .iter()
                .filter(|(view, revision)| test(view, revision.as_ref()))
                .count();
            i32::try_from(n).unwrap_or(i32::MAX)
        };
        let some = |n: i32| (n > 0).then_some(n);
        let old = self.set.status.clone().unwrap_or_default();
        let replicas = count(&|_, _| true);
        let of =
            |name: &str| count(&|view, revision| !view.terminating && revision.is_some_and(|r| r == name));
        let updated = of(&self.newest.0);
        let ready = count(&|view, _| view.ready && !view.terminating);
        let mut status = StatefulSetStatus {
            replicas,
            ready_replicas: some(ready),
            available_replicas: Some(count(&|view, _| view.available && !view.terminating)),
            current_replicas: some(of(&self.current.0)),
            updated_replicas: some(updated),
            current_revision: Some(self.current.0.clone()),
            update_revision: Some(self.newest.0.clone()),
            observed_generation: self.set.metadata.generation,
            collision_count: Some(self.collisions),
            conditions: old.conditions,
        };
        // All are updated and ready: the update becomes the current revision.
        let wanted = self.wanted();
        let finished = updated == replicas && ready == replicas && replicas == wanted.replicas;
        if wanted.partition == Some(0) && finished {
            status.current_replicas = status.updated_replicas;
            status.current_revision = status.update_revision.clone();
        }
        status
    }
}
