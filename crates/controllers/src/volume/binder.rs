//! Brings claims and volumes together, and says which provisioner shall make a volume. A claim and its volume
//! refer to each other; every step of the way can be taken up again by whoever leads next.

use super::matching::{self, claim_ref, is_for};
use crate::context::{Context, answered, settle};
use client::events::reference;
use client::{Key, Outcome, Queue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus};
use kube::api::Api;
use std::sync::Arc;

/// The name under which Events are recorded.
const COMPONENT: &str = "persistentvolume-controller";

/// Claims and volumes worked on at once.
const CONCURRENCY: usize = 10;
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_US: &str = "pv.kubernetes.io/bound-by-controller";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const PROVISIONER: [&str; 2] = [
    "volume.kubernetes.io/storage-provisioner",
    "volume.beta.kubernetes.io/storage-provisioner",
];
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// What is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Item {
    Claim(Key),
    Volume(String),
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Claim(key) => write!(f, "claim {key}"),
            Self::Volume(name) => write!(f, "volume {name}"),
        }
    }
}

/// The controller.
pub struct Controller {
    context: Arc<Context>,
    queue: Arc<Queue<Item>>,
}

impl Controller {
    /// Registers its handlers.
    pub fn new(context: &Arc<Context>) -> Self {
        let queue = Arc::new(Queue::new());
        let items = queue.clone();
        context.claims.on_change(move |change| {
            let claim = change.object();
            items.add(Item::Claim(Key::of(&**claim)));
            if let Some(volume) = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()) {
                items.add(Item::Volume(volume));
            }
        });
        let (items, weak) = (queue.clone(), Arc::downgrade(context));
        context.volumes.on_change(move |change| {
            let volume = change.object();
            items.add(Item::Volume(volume.metadata.name.clone().unwrap_or_default()));
            if let Some(reference) = claim_ref(volume) {
                let (namespace, name) = (reference.namespace.clone(), reference.name.clone());
                items.add(Item::Claim(Key::new(
                    namespace.unwrap_or_default(),
                    name.unwrap_or_default(),
                )));
            } else if let Some(context) = weak.upgrade() {
                // A free volume may be what somebody waits for.
                for claim in context.claims.select(|claim| !is_completed(claim)) {
                    items.add(Item::Claim(Key::of(&*claim)));
                }
            }
        });
        let (items, weak) = (queue.clone(), Arc::downgrade(context));
        context.classes.on_change(move |_| {
            let Some(context) = weak.upgrade() else { return };
            for claim in context.claims.select(|claim| !is_completed(claim)) {
                items.add(Item::Claim(Key::of(&*claim)));
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
            .work(CONCURRENCY, |item| async move {
                let result = match &item {
                    Item::Claim(key) => sync_claim(context, key).await,
                    Item::Volume(name) => sync_volume(context, name).await,
                };
                settle("volume", &item, result.map(|()| Outcome::Done))
            })
            .await;
    }
}

fn has(annotations: Option<&std::collections::BTreeMap<String, String>>, key: &str) -> bool {
    annotations.is_some_and(|annotations| annotations.contains_key(key))
}

fn is_completed(claim: &PersistentVolumeClaim) -> bool {
    has(claim.metadata.annotations.as_ref(), BIND_COMPLETED)
}

fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_name.as_deref())
        .unwrap_or_default()
}

async fn sync_claim(context: &Context, key: &Key) -> kube::Result<()> {
    let Some(claim) = context.claims.by_key(key) else {
        return Ok(());
    };
    let volume = context.volumes.get("", volume_name(&claim));
    if is_completed(&claim) {
        return match volume {
            Some(volume) if claim_ref(&volume).is_none() || is_for(&volume, &claim) => {
                bind(context, &claim, &volume).await
            }
            _ => lose(context, &claim).await,
        };
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    if !volume_name(&claim).is_empty() {
        // Asked for by name: that volume or none.
        return match volume {
            Some(volume) if claim_ref(&volume).is_none() && !matching::satisfies(&volume, &claim) => {
                let text = format!(
                    "Cannot bind to requested volume \"{}\": it does not satisfy the claim",
                    volume_name(&claim)
                );
                context
                    .recorder
                    .of(COMPONENT)
                    .event(&reference(&*claim), "Warning", "VolumeMismatch", text);
                set_phase(context, &claim, "Pending").await
            }
            Some(volume) if claim_ref(&volume).is_none() || is_for(&volume, &claim) => {
                bind(context, &claim, &volume).await
            }
            _ => set_phase(context, &claim, "Pending").await,
        };
    }
    let claim = with_default_class(context, claim).await?;
    let class = context.classes.get("", &matching::class_of_claim(&claim));
    let delayed = class.as_ref().is_some_and(|class| {
        class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
            && !has(claim.metadata.annotations.as_ref(), SELECTED_NODE)
    });
    if let Some(volume) = matching::best(&context.volumes.list(), &claim, delayed) {
        return bind(context, &claim, volume).await;
    }
    set_phase(context, &claim, "Pending").await?;
    match class {
        _ if delayed => {
            let text = "waiting for first consumer to be created before binding";
            context
                .recorder
                .of(COMPONENT)
                .event(&reference(&*claim), "Normal", "WaitForFirstConsumer", text);
            Ok(())
        }
        Some(class) if class.provisioner != NO_PROVISIONER => {
            ask_provisioner(context, &claim, &class.provisioner).await
        }
        _ => {
            let name = matching::class_of_claim(&claim);
            if name.is_empty() {
                let text = "no persistent volumes available for this claim and no storage class is set";
                context
                    .recorder
                    .of(COMPONENT)
                    .event(&reference(&*claim), "Normal", "FailedBinding", text);
            } else {
                let text = format!("storageclass.storage.k8s.io \"{name}\" not found");
                context.recorder.of(COMPONENT).event(
                    &reference(&*claim),
                    "Warning",
                    "ProvisioningFailed",
                    text,
                );
            }
            Ok(())
        }
    }
}

/// A claim that names no class gets the default one, also if that was made later.
async fn with_default_class(
    context: &Context,
    claim: Arc<PersistentVolumeClaim>,
) -> kube::Result<Arc<PersistentVolumeClaim>> {
    let named = claim
        .spec
        .as_ref()
        .is_some_and(|spec| spec.storage_class_name.is_some())
        || !matching::class_of_claim(&claim).is_empty();
    let class = matching::default_class(&context.classes.list()).filter(|_| !named);
    let Some(class) = class else { return Ok(claim) };
    let patch = serde_json::json!({
        "metadata": {"resourceVersion": claim.metadata.resource_version},
        "spec": {"storageClassName": class.metadata.name},
    });
    Ok(Arc::new(patch_claim(context, &claim, patch).await?))
}

async fn patch_claim(
    context: &Context,
    claim: &PersistentVolumeClaim,
    patch: serde_json::Value,
) -> kube::Result<PersistentVolumeClaim> {
    let api: Api<PersistentVolumeClaim> =
        context.api(claim.metadata.namespace.as_deref().unwrap_or_default());
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    context.merge(&api, &context.claims, name, patch).await
}

/// The external provisioner watches for its name.
async fn ask_provisioner(
    context: &Context,
    claim: &PersistentVolumeClaim,
    provisioner: &str,
) -> kube::Result<()> {
    let annotations = claim.metadata.annotations.as_ref();
    let asked = PROVISIONER.iter().all(|key| {
        annotations
            .and_then(|a| a.get(*key))
            .is_some_and(|p| p == provisioner)
    });
    if !asked {
        let marks: serde_json::Map<String, serde_json::Value> = PROVISIONER
            .iter()
            .map(|key| ((*key).to_owned(), provisioner.into()))
            .collect();
        let patch = serde_json::json!({"metadata": {
            "annotations": marks, "resourceVersion": claim.metadata.resource_version,
        }});
        patch_claim(context, claim, patch).await?;
    }
    let text = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the \
         system administrator. If volume creation is delayed, please verify that the provisioner is running and \
         correctly registered."
    );
    context
        .recorder
        .of(COMPONENT)
        .event(&reference(claim), "Normal", "ExternalProvisioning", text);
    Ok(())
}

/// Makes claim and volume refer to each other, in four steps that can each be the first one missing.
async fn bind(
    context: &Context,
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
) -> kube::Result<()> {
    let volume = &reserve(context, claim, volume).await?;
    set_volume_phase(context, volume, "Bound").await?;
    let name = volume.metadata.name.clone().unwrap_or_default();
    let mut claim = claim.clone();
    let annotations = claim.metadata.annotations.as_ref();
    if volume_name(&claim) != name || !has(annotations, BIND_COMPLETED) {
        let mut marks = serde_json::json!({BIND_COMPLETED: "yes"});
        if volume_name(&claim).is_empty() {
            marks[BOUND_BY_US] = "yes".into();
        }
        let patch = serde_json::json!({
            "metadata": {"annotations": marks, "resourceVersion": claim.metadata.resource_version},
            "spec": {"volumeName": name},
        });
        claim = patch_claim(context, &claim, patch).await?;
    }
    let spec = volume.spec.clone().unwrap_or_default();
    let old = claim.status.clone().unwrap_or_default();
    // An expansion in progress owns the capacity.
    let capacity = if old.phase.as_deref() == Some("Bound") {
        old.capacity.clone()
    } else {
        spec.capacity
    };
    let status = PersistentVolumeClaimStatus {
        phase: Some("Bound".into()),
        access_modes: spec.access_modes,
        capacity,
        ..old.clone()
    };
    if status != old {
        write_claim_status(context, &claim, status).await?;
    }
    Ok(())
}

/// The volume refers to the claim.
async fn reserve(
    context: &Context,
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
) -> kube::Result<PersistentVolume> {
    let known = claim_ref(volume);
    if known.is_some_and(|known| known.uid.is_some() && known.uid == claim.metadata.uid) {
        return Ok(volume.clone());
    }
    let mut patch = serde_json::json!({
        "metadata": {"resourceVersion": volume.metadata.resource_version},
        "spec": {"claimRef": reference(claim)},
    });
    if known.is_none() {
        patch["metadata"]["annotations"] = serde_json::json!({BOUND_BY_US: "yes"});
    }
    let api: Api<PersistentVolume> = context.cluster();
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    context.merge(&api, &context.volumes, name, patch).await
}

async fn lose(context: &Context, claim: &PersistentVolumeClaim) -> kube::Result<()> {
    let lost = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost");
    if lost {
        return Ok(());
    }
    // The cache may be behind: ask before saying something that alarms people.
    let api: Api<PersistentVolume> = context.cluster();
    let name = volume_name(claim);
    let live = if name.is_empty() {
        None
    } else {
        api.get_opt(name).await?
    };
    if live.is_some_and(|volume| claim_ref(&volume).is_none() || is_for(&volume, claim)) {
        return Ok(());
    }
    let text = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
    context
        .recorder
        .of(COMPONENT)
        .event(&reference(claim), "Warning", "ClaimLost", text);
    let status = PersistentVolumeClaimStatus {
        phase: Some("Lost".into()),
        ..PersistentVolumeClaimStatus::default()
    };
    write_claim_status(context, claim, status).await
}

async fn set_phase(context: &Context, claim: &PersistentVolumeClaim, phase: &str) -> kube::Result<()> {
    let old = claim.status.clone().unwrap_or_default();
    if old.phase.as_deref() == Some(phase) {
        return Ok(());
    }
    write_claim_status(
        context,
        claim,
        PersistentVolumeClaimStatus {
            phase: Some(phase.into()),
            ..old
        },
    )
    .await
}

async fn write_claim_status(
    context: &Context,
    claim: &PersistentVolumeClaim,
    status: PersistentVolumeClaimStatus,
) -> kube::Result<()> {
    let mut changed = claim.clone();
    changed.status = Some(status);
    let api: Api<PersistentVolumeClaim> =
        context.api(claim.metadata.namespace.as_deref().unwrap_or_default());
    context.write_status(&api, &context.claims, &changed).await
}

async fn set_volume_phase(context: &Context, volume: &PersistentVolume, phase: &str) -> kube::Result<()> {
    if volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase) {
        return Ok(());
    }
    let mut changed = volume.clone();
    let status = changed.status.get_or_insert_default();
    status.phase = Some(phase.into());
    status.message = None;
    let api: Api<PersistentVolume> = context.cluster();
    context.write_status(&api, &context.volumes, &changed).await
}

async fn sync_volume(context: &Context, name: &str) -> kube::Result<()> {
    let Some(volume) = context.volumes.get("", name) else {
        return Ok(());
    };
    let Some(owner) = claim_ref(&volume) else {
        return set_volume_phase(context, &volume, "Available").await;
    };
    let Some(uid) = owner.uid.clone().filter(|uid| !uid.is_empty()) else {
        // Reserved for a claim that may come.
        return set_volume_phase(context, &volume, "Available").await;
    };
    let (namespace, claim_name) = (
        owner.namespace.clone().unwrap_or_default(),
        owner.name.clone().unwrap_or_default(),
    );
    let same = |claim: &PersistentVolumeClaim| claim.metadata.uid.as_ref() == Some(&uid);
    let mut claim = context
        .claims
        .get(&namespace, &claim_name)
        .filter(|claim| same(claim));
    if claim.is_none() {
        // Releasing a volume can end in the deletion of its data: only the server's own word counts.
        let api: Api<PersistentVolumeClaim> = context.api(&namespace);
        claim = api.get_opt(&claim_name).await?.filter(same).map(Arc::new);
    }
    match claim {
        None => release(context, &volume).await,
        Some(claim) if volume_name(&claim).is_empty() => Ok(()),
        Some(claim) if volume_name(&claim) == name => set_volume_phase(context, &volume, "Bound").await,
        // The claim has another volume: this one was made for nothing.
        Some(_) => {
            let annotations = volume.metadata.annotations.as_ref();
            let policy = volume
                .spec
                .as_ref()
                .and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
            if has(annotations, PROVISIONED_BY) && policy == Some("Delete") {
                release(context, &volume).await
            } else if has(annotations, BOUND_BY_US) {
                unbind(context, &volume).await
            } else {
                Ok(())
            }
        }
    }
}

/// The claim is gone. What happens to the data is the reclaim policy's: `Retain` waits for a human, `Delete` is
/// the provisioner's, who watches for this phase.
async fn release(context: &Context, volume: &PersistentVolume) -> kube::Result<()> {
    if volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Failed") {
        return Ok(());
    }
    match set_volume_phase(context, volume, "Released").await {
        Err(error) if answered(&error, 404) => Ok(()),
        other => other,
    }
}

async fn unbind(context: &Context, volume: &PersistentVolume) -> kube::Result<()> {
    let api: Api<PersistentVolume> = context.cluster();
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let patch = serde_json::json!({
        "metadata": {"resourceVersion": volume.metadata.resource_version, "annotations": {BOUND_BY_US: null}},
        "spec": {"claimRef": null},
    });
    let unbound = context.merge(&api, &context.volumes, name, patch).await?;
    set_volume_phase(context, &unbound, "Available").await
}
