//! Deletion of namespaces: everything in them first, pods before all else, then the namespace itself.

use crate::context::{Context, settle};
use crate::pod_control::message;
use crate::resources::{self, Kind};
use client::{Change, Key, Outcome, Queue};
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::discovery::verbs;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Namespaces emptied at once.
const CONCURRENCY: usize = 4;
/// The finalizer that this controller takes away.
const FINALIZER: &str = "kubernetes";

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
        context.namespaces.on_change(move |change| {
            if change.object().metadata.deletion_timestamp.is_some() {
                keys.add(Key::of(&**change.object()));
            }
        });
        let (keys, weak) = (queue.clone(), Arc::downgrade(context));
        context.pods.on_change(move |change| {
            let (Some(context), Change::Deleted(pod)) = (weak.upgrade(), change) else {
                return;
            };
            let name = pod.metadata.namespace.as_deref().unwrap_or_default();
            let namespace = context.namespaces.get("", name);
            if namespace.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
                keys.add(Key::new("", name));
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
                settle("namespace", &key, result)
            })
            .await;
    }
}

/// What deletion has met in a namespace.
#[derive(Default, Debug)]
struct Findings {
    /// Objects left, by kind.
    remaining: BTreeMap<String, usize>,
    /// Finalizers on what is left, with the number of objects.
    finalizers: BTreeMap<String, usize>,
    /// What the server refused.
    failures: Vec<String>,
    /// Why the kinds could not be found out.
    discovery: Option<String>,
}

impl Findings {
    fn empty(&self) -> bool {
        self.remaining.is_empty() && self.failures.is_empty() && self.discovery.is_none()
    }
}

async fn reconcile(context: &Context, key: &Key) -> kube::Result<Outcome> {
    let Some(namespace) = context.namespaces.by_key(key) else {
        return Ok(Outcome::Done);
    };
    let finalizers = namespace
        .spec
        .as_ref()
        .and_then(|spec| spec.finalizers.clone())
        .unwrap_or_default();
    let ours = finalizers.iter().any(|finalizer| finalizer == FINALIZER);
    if namespace.metadata.deletion_timestamp.is_none() || !ours {
        return Ok(Outcome::Done);
    }
    let findings = empty_out(context, &key.name).await;
    let namespace = write_conditions(context, &namespace, &findings).await?;
    if !findings.empty() {
        // Pods wake us when they are gone; everything else is looked at again with growing pauses.
        return Ok(Outcome::Retry);
    }
    let mut changed = (*namespace).clone();
    let rest: Vec<String> = finalizers
        .into_iter()
        .filter(|finalizer| finalizer != FINALIZER)
        .collect();
    changed.spec.get_or_insert_default().finalizers = Some(rest);
    let api: Api<Namespace> = context.cluster();
    match api
        .replace_subresource("finalize", &key.name, &PostParams::default(), &changed)
        .await
    {
        Ok(_) => Ok(Outcome::Done),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Outcome::Done),
        Err(error) => Err(error),
    }
}

async fn empty_out(context: &Context, namespace: &str) -> Findings {
    let mut findings = Findings::default();
    let kinds = match resources::discover(&context.client).await {
        Ok(kinds) => kinds,
        Err(error) => {
            findings.discovery = Some(message(&error));
            return findings;
        }
    };
    let namespaced: Vec<Kind> = resources::deletable(kinds)
        .filter(|kind| kind.namespaced)
        .collect();
    let is_pod = |kind: &&Kind| kind.resource.group.is_empty() && kind.resource.plural == "pods";
    // What pods use stays until they are gone, those too that have ended and that somebody's finalizer holds.
    for kind in namespaced.iter().filter(is_pod) {
        delete_all(context, kind, namespace, &mut findings).await;
    }
    if findings.remaining.contains_key("pods") {
        return findings;
    }
    for kind in namespaced.iter().filter(|kind| !is_pod(kind)) {
        delete_all(context, kind, namespace, &mut findings).await;
    }
    findings
}

async fn delete_all(context: &Context, kind: &Kind, namespace: &str, findings: &mut Findings) {
    let result = delete_kind(context, kind, namespace).await;
    match result {
        Ok((0, _)) => {}
        Ok((left, finalizers)) => {
            let resource = &kind.resource;
            let name = if resource.group.is_empty() {
                resource.plural.clone()
            } else {
                format!("{}.{}", resource.plural, resource.group)
            };
            findings.remaining.insert(name, left);
            for finalizer in finalizers {
                *findings.finalizers.entry(finalizer).or_default() += 1;
            }
        }
        // The kind went away in between, or cannot be deleted in this way.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 405) => {}
        Err(error) => findings
            .failures
            .push(format!("{}: {}", kind.resource.plural, message(&error))),
    }
}

/// Deletes the objects of one kind; returns how many are left and their finalizers.
async fn delete_kind(context: &Context, kind: &Kind, namespace: &str) -> kube::Result<(usize, Vec<String>)> {
    let api = kind.api(&context.client, Some(namespace));
    let params = DeleteParams::background();
    let list = ListParams::default();
    let before = api.list(&list).await?.items;
    if before.is_empty() {
        return Ok((0, Vec::new()));
    }
    let waiting = before
        .iter()
        .all(|object| object.metadata.deletion_timestamp.is_some());
    if !waiting {
        if kind.can(verbs::DELETE_COLLECTION) {
            api.delete_collection(&params, &list).await?;
        } else {
            for object in &before {
                let name = object.metadata.name.as_deref().unwrap_or_default();
                match api.delete(name, &params).await {
                    Err(kube::Error::Api(status)) if status.is_not_found() => {}
                    other => drop(other?),
                }
            }
        }
    }
    let left = if waiting {
        before
    } else {
        api.list(&list).await?.items
    };
    let finalizers = left
        .iter()
        .flat_map(|object| object.metadata.finalizers.iter().flatten().cloned())
        .collect();
    Ok((left.len(), finalizers))
}

fn counted(counts: &BTreeMap<String, usize>, what: &str) -> String {
    let parts: Vec<String> = counts
        .iter()
        .map(|(name, count)| format!("{name} {what} {count} resource instances"))
        .collect();
    parts.join(", ")
}

fn conditions_of(findings: &Findings) -> [(&'static str, bool, &'static str, String); 5] {
    let pick = |bad: bool, yes: (&'static str, String), no: (&'static str, &str)| {
        if bad {
            (true, yes.0, yes.1)
        } else {
            (false, no.0, no.1.to_owned())
        }
    };
    let discovery = pick(
        findings.discovery.is_some(),
        (
            "DiscoveryFailed",
            format!(
                "Discovery failed: {}",
                findings.discovery.clone().unwrap_or_default()
            ),
        ),
        ("ResourcesDiscovered", "All resources successfully discovered"),
    );
    let content = pick(
        !findings.failures.is_empty(),
        (
            "ContentDeletionFailed",
            format!(
                "Failed to delete all resource types: {}",
                findings.failures.join("; ")
            ),
        ),
        (
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
    );
    let remaining = pick(
        !findings.remaining.is_empty(),
        (
            "SomeResourcesRemain",
            format!(
                "Some resources are remaining: {}",
                counted(&findings.remaining, "has")
            ),
        ),
        ("ContentRemoved", "All content successfully removed"),
    );
    let finalizers = pick(
        !findings.finalizers.is_empty(),
        (
            "SomeFinalizersRemain",
            format!(
                "Some content in the namespace has finalizers remaining: {}",
                counted(&findings.finalizers, "in")
            ),
        ),
        (
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    );
    let parsing = (
        false,
        "ParsedGroupVersions",
        "All legacy kube types successfully parsed".to_owned(),
    );
    let named = |name, (bad, reason, message)| (name, bad, reason, message);
    [
        named("NamespaceDeletionDiscoveryFailure", discovery),
        named("NamespaceDeletionGroupVersionParsingFailure", parsing),
        named("NamespaceDeletionContentFailure", content),
        named("NamespaceContentRemaining", remaining),
        named("NamespaceFinalizersRemaining", finalizers),
    ]
}

/// Writes what was met into the status, when it says something new.
async fn write_conditions(
    context: &Context,
    namespace: &Arc<Namespace>,
    findings: &Findings,
) -> kube::Result<Arc<Namespace>> {
    let now = Timestamp::now();
    let mut changed = (**namespace).clone();
    let status = changed.status.get_or_insert_default();
    status.phase = Some("Terminating".into());
    let conditions = status.conditions.get_or_insert_default();
    for (kind, bad, reason, text) in conditions_of(findings) {
        let value = if bad { "True" } else { "False" };
        let known = conditions.iter_mut().find(|condition| condition.type_ == kind);
        let transition = match &known {
            Some(known) if known.status == value => known.last_transition_time.clone(),
            _ => Some(Time(now)),
        };
        let condition = NamespaceCondition {
            type_: kind.into(),
            status: value.into(),
            reason: Some(reason.into()),
            message: Some(text),
            last_transition_time: transition,
        };
        match known {
            Some(known) => *known = condition,
            None => conditions.push(condition),
        }
    }
    // Nothing ever went wrong, and it is about to go: not worth a write.
    let quiet = findings.empty()
        && namespace
            .status
            .as_ref()
            .and_then(|s| s.conditions.as_ref())
            .is_none_or(Vec::is_empty);
    if quiet || changed.status == namespace.status {
        return Ok(namespace.clone());
    }
    let api: Api<Namespace> = context.cluster();
    let name = namespace.metadata.name.clone().unwrap_or_default();
    match api.replace_status(&name, &PostParams::default(), &changed).await {
        Ok(written) => {
            context.namespaces.observe(written.clone());
            Ok(Arc::new(written))
        }
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(namespace.clone()),
        Err(error) => Err(error),
    }
}
