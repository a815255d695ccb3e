//! Everything after the choice: volumes, the binding itself, and what the pod's status and Events say.

use crate::filter::volumes::{BIND_COMPLETED, Decision, SELECTED_NODE, is_bound};
use crate::scheduler::Scheduler;
use crate::state::PodInfo;
use client::Key;
use client::events::reference;
use k8s_openapi::api::core::v1::{
    Binding, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, PodCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use std::sync::Arc;
use std::time::Duration;

/// How long a node stays chosen while the volumes of a pod are made for it (upstream's bind timeout).
const VOLUMES_DEADLINE: Duration = Duration::from_secs(600);

/// Why a pod could not be bound after all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused or was away.
    #[error(transparent)]
    Server(#[from] kube::Error),
    /// The volumes were not ready in time.
    #[error("binding volumes: timed out after {} s", VOLUMES_DEADLINE.as_secs())]
    Timeout,
    /// The provisioner asked for another node, or the claim is gone.
    #[error("binding volumes: provisioning failed for claim {0}")]
    Provisioning(String),
}

/// Binds a pod to the node that was chosen.
pub async fn bind(
    scheduler: &Scheduler,
    pod: &PodInfo,
    node: &str,
    decisions: Vec<Decision>,
) -> Result<(), Error> {
    if !decisions.is_empty() {
        bind_volumes(scheduler, node, decisions).await?;
    }
    let meta = &pod.pod.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let namespace = meta.namespace.clone().unwrap_or_default();
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.clone()),
            uid: meta.uid.clone(),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".into()),
            name: Some(node.into()),
            ..ObjectReference::default()
        },
    };
    let api: Api<Pod> = Api::namespaced(scheduler.client.clone(), &namespace);
    let _: serde_json::Value = api
        .create_subresource("binding", &name, &PostParams::default(), &binding)
        .await?;
    let text = format!("Successfully assigned {namespace}/{name} to {node}");
    scheduler
        .recorder
        .event(&reference(&*pod.pod), "Normal", "Scheduled", text);
    Ok(())
}

async fn bind_volumes(scheduler: &Scheduler, node: &str, decisions: Vec<Decision>) -> Result<(), Error> {
    let mut waiting = Vec::new();
    for decision in decisions {
        match decision {
            Decision::Bind(claim, volume) => {
                reserve(scheduler, &claim, &volume).await?;
                waiting.push(Key::of(&*claim));
            }
            Decision::Provision(claim) => {
                select_node(scheduler, &claim, node).await?;
                waiting.push(Key::of(&*claim));
            }
        }
    }
    let wait = wait_bound(scheduler, node, &waiting);
    tokio::time::timeout(VOLUMES_DEADLINE, wait)
        .await
        .map_err(|_| Error::Timeout)?
}

/// Gives a volume to a claim; the volume controller completes it.
async fn reserve(
    scheduler: &Scheduler,
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
) -> kube::Result<()> {
    let api: Api<PersistentVolume> = Api::all(scheduler.client.clone());
    let mut owner = reference(claim);
    owner.field_path = None;
    let patch = serde_json::json!({
        "metadata": {
            "resourceVersion": volume.metadata.resource_version,
            "annotations": {"pv.kubernetes.io/bound-by-controller": "yes"},
        },
        "spec": {"claimRef": owner},
    });
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let patched = api
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    scheduler.caches.volumes.observe(patched);
    Ok(())
}

/// Asks the provisioner for a volume that the node can reach.
async fn select_node(scheduler: &Scheduler, claim: &PersistentVolumeClaim, node: &str) -> kube::Result<()> {
    let known = claim
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get(SELECTED_NODE));
    if known.is_some_and(|known| known == node) {
        return Ok(());
    }
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    let api: Api<PersistentVolumeClaim> = Api::namespaced(scheduler.client.clone(), namespace);
    let patch = serde_json::json!({"metadata": {
        "annotations": {SELECTED_NODE: node}, "resourceVersion": claim.metadata.resource_version,
    }});
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let patched = api
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    scheduler.caches.claims.observe(patched);
    Ok(())
}

async fn wait_bound(scheduler: &Scheduler, node: &str, claims: &[Key]) -> Result<(), Error> {
    let mut changes = scheduler.claims_changed.subscribe();
    loop {
        changes.borrow_and_update();
        let mut all = true;
        for key in claims {
            let Some(claim) = scheduler.caches.claims.by_key(key) else {
                return Err(Error::Provisioning(key.to_string()));
            };
            let done = is_bound(&claim)
                && claim
                    .metadata
                    .annotations
                    .as_ref()
                    .is_some_and(|a| a.contains_key(BIND_COMPLETED));
            let selected = claim
                .metadata
                .annotations
                .as_ref()
                .and_then(|a| a.get(SELECTED_NODE));
            let named = claim.spec.as_ref().is_some_and(|spec| spec.volume_name.is_some());
            // A provisioner that cannot serve the node takes the annotation away.
            if !done && !named && selected.is_some_and(|selected| selected != node) {
                return Err(Error::Provisioning(key.to_string()));
            }
            let reserved = || {
                let uid = claim.metadata.uid.as_ref();
                let by = |v: &PersistentVolume| v.spec.as_ref()?.claim_ref.as_ref()?.uid.clone();
                !scheduler
                    .caches
                    .volumes
                    .select(|volume| uid.is_some() && by(volume).as_ref() == uid)
                    .is_empty()
            };
            if !done && !named && selected.is_none() && !reserved() {
                return Err(Error::Provisioning(key.to_string()));
            }
            all &= done;
        }
        if all {
            return Ok(());
        }
        // The sender lives as long as the scheduler.
        let _ = changes.changed().await;
    }
}

/// Writes into the pod's status why it is not scheduled, and the node that is being cleared for it.
pub async fn report(
    scheduler: &Scheduler,
    pod: &Arc<PodInfo>,
    reason: &str,
    message: &str,
    nominated: Option<&str>,
) {
    let current = client::pods::condition(&pod.pod, "PodScheduled");
    let same = current.is_some_and(|c| {
        c.status == "False" && c.reason.as_deref() == Some(reason) && c.message.as_deref() == Some(message)
    });
    if same && nominated.is_none() {
        return;
    }
    let transition = match current {
        Some(c) if c.status == "False" => c.last_transition_time.clone(),
        _ => Some(Time(Timestamp::now())),
    };
    let condition = PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: transition,
        ..PodCondition::default()
    };
    let mut status = serde_json::json!({"conditions": [condition]});
    if let Some(node) = nominated {
        status["nominatedNodeName"] = node.into();
    }
    let meta = &pod.pod.metadata;
    let api: Api<Pod> = Api::namespaced(
        scheduler.client.clone(),
        meta.namespace.as_deref().unwrap_or_default(),
    );
    let patch = serde_json::json!({"metadata": {"uid": meta.uid}, "status": status});
    let name = meta.name.as_deref().unwrap_or_default();
    match api
        .patch_status(name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
    {
        Ok(patched) => scheduler.caches.pods.observe(patched),
        Err(error) => tracing::debug!(pod = name, %error, "condition not written"),
    }
}

/// Asks a pod to leave for a more important one.
pub async fn evict(
    scheduler: &Scheduler,
    victim: &PodInfo,
    preemptor: &PodInfo,
    node: &str,
) -> kube::Result<()> {
    let meta = &victim.pod.metadata;
    let name = meta.name.as_deref().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(
        scheduler.client.clone(),
        meta.namespace.as_deref().unwrap_or_default(),
    );
    let condition = PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some("PreemptionByScheduler".into()),
        message: Some("default-scheduler: preempting to accommodate a higher priority pod".into()),
        last_transition_time: Some(Time(Timestamp::now())),
        ..PodCondition::default()
    };
    let patch = serde_json::json!({"metadata": {"uid": meta.uid}, "status": {"conditions": [condition]}});
    if let Err(error) = api
        .patch_status(name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
    {
        tracing::debug!(pod = name, %error, "condition not written");
    }
    let params = DeleteParams::background().preconditions(Preconditions {
        uid: meta.uid.clone(),
        resource_version: None,
    });
    match api.delete(name, &params).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_not_found() => {}
        Err(error) => return Err(error),
    }
    let text = format!("Preempted by pod {} on node {node}", preemptor.uid());
    scheduler
        .recorder
        .event(&reference(&*victim.pod), "Normal", "Preempted", text);
    Ok(())
}
