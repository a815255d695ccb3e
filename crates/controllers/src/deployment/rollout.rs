//! One pass over one Deployment: what is done to its ReplicaSets.

use super::plan::{self, Limits, View};
use super::{limits_of, revision, status};
use crate::context::{Context, answered};
use crate::ownership::controller_reference;
use client::events::reference;
use client::pods;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ObjectMeta};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The name under which Events are recorded.
const COMPONENT: &str = "deployment-controller";

/// Old ReplicaSets kept for `kubectl rollout undo` when the Deployment does not say.
const DEFAULT_HISTORY: i32 = 10;

/// The state of one pass.
pub struct Rollout<'a> {
    context: &'a Context,
    api: Api<ReplicaSet>,
    /// The Deployment as this pass sees it.
    pub deployment: Arc<Deployment>,
    /// The ReplicaSet with the present template, once found.
    pub new: Option<Arc<ReplicaSet>>,
    /// All others, oldest first.
    pub old: Vec<Arc<ReplicaSet>>,
    /// The strategy's limits.
    pub limits: Limits,
    /// Set when the name of the new ReplicaSet was taken by another template.
    pub collisions: Option<i32>,
}

fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn view(set: &ReplicaSet) -> View {
    View {
        desired: size(set),
        available: set
            .status
            .as_ref()
            .and_then(|s| s.available_replicas)
            .unwrap_or(0),
    }
}

fn name(set: &ReplicaSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

impl<'a> Rollout<'a> {
    /// Sorts the Deployment's ReplicaSets into the new one and the old ones.
    pub fn new(context: &'a Context, deployment: Arc<Deployment>, mut sets: Vec<Arc<ReplicaSet>>) -> Self {
        sets.sort_by_key(|set| revision::age_key(set));
        let new = revision::find_new(&deployment, &sets);
        let uid = new.as_ref().and_then(|set| set.metadata.uid.clone());
        let old = sets
            .into_iter()
            .filter(|set| uid.is_none() || set.metadata.uid != uid)
            .collect();
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        Self {
            context,
            api: context.api(namespace),
            limits: limits_of(&deployment),
            deployment,
            new,
            old,
            collisions: None,
        }
    }

    /// All ReplicaSets.
    pub fn all(&self) -> Vec<Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new).cloned().collect()
    }

    fn annotation_limits(&self) -> [(String, String); 2] {
        [
            (revision::DESIRED.into(), self.limits.replicas.to_string()),
            (revision::MOST.into(), self.limits.most().to_string()),
        ]
    }

    /// Brings the new ReplicaSet's revision up to date; makes the ReplicaSet if `create`.
    pub async fn find_new(&mut self, create: bool) -> kube::Result<()> {
        let next = revision::highest(self.old.iter()) + 1;
        if let Some(set) = self.new.clone() {
            let min_ready = self
                .deployment
                .spec
                .as_ref()
                .and_then(|spec| spec.min_ready_seconds);
            let wanted = revision::annotations_for(&self.deployment, &set, next, true);
            let stale = set
                .spec
                .as_ref()
                .and_then(|spec| spec.min_ready_seconds)
                .unwrap_or(0)
                != min_ready.unwrap_or(0);
            if wanted.is_some() || stale {
                let patch = serde_json::json!({
                    "metadata": {"annotations": wanted, "resourceVersion": set.metadata.resource_version},
                    "spec": {"minReadySeconds": min_ready},
                });
                let patched = self
                    .context
                    .merge(&self.api, &self.context.replica_sets, name(&set), patch)
                    .await?;
                self.new = Some(Arc::new(patched));
            }
            let shown = self
                .new
                .as_ref()
                .and_then(|set| revision::number(&set.metadata, revision::REVISION));
            return self.show_revision(shown).await;
        }
        if create {
            self.create_new(next).await?;
        }
        Ok(())
    }

    /// The Deployment carries the revision of its new ReplicaSet.
    async fn show_revision(&mut self, number: Option<i64>) -> kube::Result<()> {
        let Some(number) = number else { return Ok(()) };
        if revision::number(&self.deployment.metadata, revision::REVISION) == Some(number) {
            return Ok(());
        }
        let meta = &self.deployment.metadata;
        let api: Api<Deployment> = self.context.api(meta.namespace.as_deref().unwrap_or_default());
        let patch = serde_json::json!({"metadata": {
            "annotations": {revision::REVISION: number.to_string()},
            "resourceVersion": meta.resource_version,
        }});
        let name = meta.name.clone().unwrap_or_default();
        let patched = self
            .context
            .merge(&api, &self.context.deployments, &name, patch)
            .await?;
        self.deployment = Arc::new(patched);
        Ok(())
    }

    async fn create_new(&mut self, number: i64) -> kube::Result<()> {
        let set = self.new_set(number);
        match self
            .context
            .create(&self.api, &self.context.replica_sets, &set)
            .await
        {
            Ok(created) => {
                let text = format!(
                    "Scaled up replica set {} from 0 to {}",
                    name(&created),
                    size(&created)
                );
                if size(&created) > 0 {
                    self.event("Normal", "ScalingReplicaSet", text);
                }
                self.new = Some(Arc::new(created));
            }
            Err(error) if answered(&error, 409) => self.resolve_collision(&set, error).await?,
            Err(error) => {
                let text = format!("Failed to create new replica set {:?}: {error}", name(&set));
                self.event("Warning", "ReplicaSetCreateError", text);
                return Err(error);
            }
        }
        self.show_revision(Some(number)).await
    }

    /// The name is taken: by our own earlier attempt, or by another template with the same hash.
    async fn resolve_collision(&mut self, set: &ReplicaSet, error: kube::Error) -> kube::Result<()> {
        let taken = self.api.get(name(set)).await?;
        let uid = self.deployment.metadata.uid.as_deref().unwrap_or_default();
        let template = |set: &ReplicaSet| {
            set.spec
                .as_ref()
                .and_then(|spec| spec.template.clone())
                .unwrap_or_default()
        };
        let ours = pods::is_controlled_by(&taken.metadata, uid);
        if ours && revision::same_template(&template(&taken), &template(set)) {
            self.context.replica_sets.observe(taken.clone());
            self.new = Some(Arc::new(taken));
            return Ok(());
        }
        let collisions = self
            .deployment
            .status
            .as_ref()
            .and_then(|s| s.collision_count)
            .unwrap_or(0);
        self.collisions = Some(collisions + 1);
        let mut changed = (*self.deployment).clone();
        changed.status.get_or_insert_default().collision_count = self.collisions;
        let namespace = changed.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Deployment> = self.context.api(&namespace);
        self.context
            .write_status(&api, &self.context.deployments, &changed)
            .await?;
        Err(error)
    }

    fn new_set(&self, number: i64) -> ReplicaSet {
        let spec = self.deployment.spec.clone().unwrap_or_default();
        let hash = revision::template_hash(&self.deployment);
        let label = |map: &mut BTreeMap<String, String>| {
            map.insert(revision::HASH_LABEL.into(), hash.clone());
        };
        let mut template = spec.template;
        let template_meta = template.metadata.get_or_insert_default();
        label(template_meta.labels.get_or_insert_default());
        let mut selector = spec.selector;
        label(selector.match_labels.get_or_insert_default());
        let views: Vec<View> = self.old.iter().map(|set| view(set)).collect();
        let recreate = spec
            .strategy
            .and_then(|s| s.type_)
            .is_some_and(|kind| kind == "Recreate");
        let replicas = if recreate {
            self.limits.replicas
        } else {
            plan::next_new(self.limits, View::default(), &views)
        };
        let mut set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!(
                    "{}-{hash}",
                    self.deployment.metadata.name.as_deref().unwrap_or_default()
                )),
                namespace: self.deployment.metadata.namespace.clone(),
                labels: template_meta.labels.clone(),
                owner_references: Some(vec![controller_reference(&*self.deployment)]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(replicas),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        };
        let mut annotations =
            revision::annotations_for(&self.deployment, &set, number, false).unwrap_or_default();
        annotations.extend(self.annotation_limits());
        set.metadata.annotations = Some(annotations);
        set
    }

    /// Sets the size of one ReplicaSet, and on it the Deployment's size that led to it.
    async fn scale(&self, set: &Arc<ReplicaSet>, to: i32) -> kube::Result<Arc<ReplicaSet>> {
        let from = size(set);
        let annotations: BTreeMap<_, _> = self.annotation_limits().into();
        let present = set.metadata.annotations.as_ref();
        let noted = annotations
            .iter()
            .all(|(k, v)| present.and_then(|p| p.get(k)) == Some(v));
        if from == to && (noted || to == 0) {
            return Ok(set.clone());
        }
        let patch = serde_json::json!({
            "metadata": {"annotations": annotations, "resourceVersion": set.metadata.resource_version},
            "spec": {"replicas": to},
        });
        let patched = self
            .context
            .merge(&self.api, &self.context.replica_sets, name(set), patch)
            .await?;
        if from != to {
            let way = if to > from { "up" } else { "down" };
            let text = format!("Scaled {way} replica set {} from {from} to {to}", name(set));
            self.event("Normal", "ScalingReplicaSet", text);
        }
        Ok(Arc::new(patched))
    }

    fn event(&self, kind: &'static str, reason: &str, message: String) {
        self.context
            .recorder
            .of(COMPONENT)
            .event(&reference(&*self.deployment), kind, reason, message);
    }

    /// True when the Deployment's size changed since its ReplicaSets were last scaled.
    pub fn is_scaling(&self) -> bool {
        let wanted = i64::from(self.limits.replicas);
        self.all().iter().filter(|set| size(set) > 0).any(|set| {
            revision::number(&set.metadata, revision::DESIRED).is_some_and(|noted| noted != wanted)
        })
    }

    /// Brings the size of the Deployment to its ReplicaSets without moving the update along.
    pub async fn scale_all(&mut self) -> kube::Result<()> {
        let active: Vec<Arc<ReplicaSet>> = self.all().into_iter().filter(|set| size(set) > 0).collect();
        if active.len() <= 1 {
            let target = active
                .into_iter()
                .next()
                .or_else(|| self.new.clone())
                .or_else(|| self.old.last().cloned());
            if let Some(set) = target {
                let scaled = self.scale(&set, self.limits.replicas).await?;
                self.replace(scaled);
            }
            return Ok(());
        }
        let saturated = self.new.as_ref().is_some_and(|new| {
            let seen = view(new);
            seen.desired == self.limits.replicas && seen.available == self.limits.replicas
        });
        if saturated {
            for set in self.old.clone() {
                let scaled = self.scale(&set, 0).await?;
                self.replace(scaled);
            }
            return Ok(());
        }
        let mut newest_first = active;
        newest_first.reverse();
        let sizes: Vec<i32> = newest_first.iter().map(|set| size(set)).collect();
        let most: Vec<Option<i32>> = newest_first
            .iter()
            .map(|set| revision::number(&set.metadata, revision::MOST).and_then(|n| i32::try_from(n).ok()))
            .collect();
        let targets = plan::proportional(self.limits, &sizes, &most);
        for (set, target) in newest_first.iter().zip(targets) {
            let scaled = self.scale(set, target).await?;
            self.replace(scaled);
        }
        Ok(())
    }

    fn replace(&mut self, set: Arc<ReplicaSet>) {
        let known = self
            .old
            .iter_mut()
            .chain(&mut self.new)
            .find(|known| known.metadata.uid == set.metadata.uid);
        if let Some(known) = known {
            *known = set;
        }
    }

    /// One step of a rolling update.
    pub async fn rolling(&mut self) -> kube::Result<()> {
        if self.new.is_none() {
            return self.find_new(true).await;
        }
        let Some(new) = self.new.clone() else {
            return Ok(());
        };
        let views: Vec<View> = self.old.iter().map(|set| view(set)).collect();
        let target = plan::next_new(self.limits, view(&new), &views);
        let grown = self.scale(&new, target).await?;
        let changed = size(&new) != target;
        self.replace(grown);
        // The other half comes with the ReplicaSet's next status.
        if changed {
            return Ok(());
        }
        let sizes = plan::next_old(self.limits, view(&new), &views);
        for (set, target) in self.old.clone().iter().zip(sizes) {
            if size(set) != target {
                let scaled = self.scale(set, target).await?;
                self.replace(scaled);
            }
        }
        Ok(())
    }

    /// All old pods go before the first new one comes.
    pub async fn recreate(&mut self) -> kube::Result<()> {
        let mut waiting = false;
        for set in self.old.clone() {
            if size(&set) > 0 {
                let scaled = self.scale(&set, 0).await?;
                self.replace(scaled);
                waiting = true;
            }
        }
        if waiting || self.old_pods_remain() {
            return Ok(());
        }
        self.find_new(true).await?;
        if let Some(new) = self.new.clone() {
            let scaled = self.scale(&new, self.limits.replicas).await?;
            self.replace(scaled);
        }
        Ok(())
    }

    fn old_pods_remain(&self) -> bool {
        let namespace = self.deployment.metadata.namespace.as_deref().unwrap_or_default();
        let owned = |pod: &Pod| {
            self.old.iter().any(|set| {
                pods::is_controlled_by(&pod.metadata, set.metadata.uid.as_deref().unwrap_or_default())
            })
        };
        !self
            .context
            .pods
            .select_in(namespace, |pod| owned(pod) && !pods::is_terminal(pod))
            .is_empty()
    }

    /// Once the update is complete, forgets the oldest templates beyond the history limit.
    pub async fn clean_up(&mut self) -> kube::Result<()> {
        let status = status::calculate(
            &self.deployment,
            self.limits,
            self.new.as_ref(),
            &self.all(),
            Timestamp::now(),
        );
        if !status::complete(&self.deployment, &status) {
            return Ok(());
        }
        let limit = self
            .deployment
            .spec
            .as_ref()
            .and_then(|spec| spec.revision_history_limit);
        let limit = usize::try_from(limit.unwrap_or(DEFAULT_HISTORY)).unwrap_or(0);
        let mut idle: Vec<Arc<ReplicaSet>> = self.old.iter().filter(|set| is_idle(set)).cloned().collect();
        idle.sort_by_key(|set| revision::number(&set.metadata, revision::REVISION).unwrap_or(0));
        for set in idle.iter().take(self.old.len().saturating_sub(limit)) {
            let params = DeleteParams::background();
            self.context
                .delete(&self.api, &self.context.replica_sets, &**set, &params)
                .await?;
            self.old.retain(|known| known.metadata.uid != set.metadata.uid);
        }
        Ok(())
    }

    /// A paused Deployment says so, and says when it goes on.
    pub fn note_pause(&self, status: &mut DeploymentStatus, now: Timestamp) {
        let paused = self.deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true);
        let conditions = status.conditions.get_or_insert_default();
        let reason = conditions
            .iter()
            .find(|c| c.type_ == "Progressing")
            .and_then(|c| c.reason.clone());
        let noted = reason.as_deref() == Some("DeploymentPaused");
        if reason.as_deref() == Some(status::TIMED_OUT) {
            return;
        }
        if paused && !noted {
            let text = "Deployment is paused".to_owned();
            status::set_condition(
                conditions,
                "Progressing",
                "Unknown",
                "DeploymentPaused",
                text,
                now,
            );
        } else if !paused && noted {
            let text = "Deployment is resumed".to_owned();
            status::set_condition(
                conditions,
                "Progressing",
                "Unknown",
                "DeploymentResumed",
                text,
                now,
            );
        }
    }
}

fn is_idle(set: &ReplicaSet) -> bool {
    let status = set.status.clone().unwrap_or_default();
    status.replicas == 0
        && size(set) == 0
        && status.observed_generation >= set.metadata.generation
        && set.metadata.deletion_timestamp.is_none()
}
