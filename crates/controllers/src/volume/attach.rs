//! Attachment of CSI volumes to nodes: for each volume and node a VolumeAttachment, which the driver's attacher
//! carries out. A volume that one node at a time may write is never attached to a second node while anything
//! of the first attachment is left.

use crate::context::{Context, answered, settle};
use crate::node::taints;
use client::events::reference;
use client::{Outcome, Queue, pods};
use k8s_openapi::api::core::v1::{AttachedVolume, Node, PersistentVolume, Pod};
use k8s_openapi::api::storage::v1::{VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec};
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The name under which Events are recorded.
const COMPONENT: &str = "attachdetach-controller";

/// Volumes and nodes worked on at once.
const CONCURRENCY: usize = 10;

/// What is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Item {
    Volume(String),
    Node(String),
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Volume(name) => write!(f, "volume {name}"),
            Self::Node(name) => write!(f, "node {name}"),
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
        let (items, weak) = (queue.clone(), Arc::downgrade(context));
        context.pods.on_change(move |change| {
            let Some(context) = weak.upgrade() else { return };
            let pod = change.object();
            let seen = |pod: &Pod| (pods::node_name(pod).to_owned(), pods::is_terminal(pod));
            let quiet = change
                .old()
                .zip(change.current())
                .is_some_and(|(old, new)| seen(old) == seen(new));
            if pods::node_name(pod).is_empty() || quiet {
                return;
            }
            for volume in volumes_of(&context, pod) {
                items.add(Item::Volume(volume));
            }
        });
        let items = queue.clone();
        context.claims.on_change(move |change| {
            if let Some(volume) = change
                .object()
                .spec
                .as_ref()
                .and_then(|spec| spec.volume_name.clone())
            {
                items.add(Item::Volume(volume));
            }
        });
        let items = queue.clone();
        context.attachments.on_change(move |change| {
            let spec = &change.object().spec;
            items.add(Item::Volume(
                spec.source.persistent_volume_name.clone().unwrap_or_default(),
            ));
            items.add(Item::Node(spec.node_name.clone()));
        });
        let (items, weak) = (queue.clone(), Arc::downgrade(context));
        context.nodes.on_change(move |change| {
            let Some(context) = weak.upgrade() else { return };
            let node = change.object();
            if change
                .old()
                .zip(change.current())
                .is_some_and(|(old, new)| facts(old) == facts(new))
            {
                return;
            }
            let name = node.metadata.name.clone().unwrap_or_default();
            for attachment in context
                .attachments
                .select(|attachment| attachment.spec.node_name == name)
            {
                items.add(Item::Volume(
                    attachment
                        .spec
                        .source
                        .persistent_volume_name
                        .clone()
                        .unwrap_or_default(),
                ));
            }
            items.add(Item::Node(name));
        });
        let (items, weak) = (queue.clone(), Arc::downgrade(context));
        context.drivers.on_change(move |_| {
            let Some(context) = weak.upgrade() else { return };
            for volume in context.volumes.list() {
                items.add(Item::Volume(volume.metadata.name.clone().unwrap_or_default()));
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
                    Item::Volume(name) => sync_volume(context, name).await,
                    Item::Node(name) => sync_node(context, name).await,
                };
                settle("attach", &item, result.map(|()| Outcome::Done))
            })
            .await;
    }
}

/// What of a node matters here.
fn facts(node: &Node) -> (Vec<String>, Vec<String>, bool) {
    let status = node.status.clone().unwrap_or_default();
    let attached = status
        .volumes_attached
        .unwrap_or_default()
        .into_iter()
        .map(|volume| volume.name)
        .collect();
    (
        status.volumes_in_use.unwrap_or_default(),
        attached,
        taints::is_out_of_service(node),
    )
}

/// The persistent volumes that a pod uses.
fn volumes_of(context: &Context, pod: &Pod) -> Vec<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let claims = pods::claim_names(pod).filter_map(|name| context.claims.get(namespace, &name));
    claims
        .filter_map(|claim| claim.spec.as_ref()?.volume_name.clone())
        .filter(|name| !name.is_empty())
        .collect()
}

/// The name under which kubelet and controller speak of a volume.
fn unique_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// The name of an attachment, as upstream derives it: the kubelet looks for it by this name.
fn attachment_name(driver: &str, handle: &str, node: &str) -> String {
    let digest = Sha256::digest(format!("{handle}{driver}{node}"));
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("csi-{hex}")
}

fn csi(volume: &PersistentVolume) -> Option<(&str, &str)> {
    let source = volume.spec.as_ref()?.csi.as_ref()?;
    Some((&source.driver, &source.volume_handle))
}

/// May several nodes use the volume at once?
fn shareable(volume: &PersistentVolume) -> bool {
    let modes = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.access_modes.as_deref())
        .unwrap_or_default();
    modes
        .iter()
        .any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany")
}

fn needs_attachment(context: &Context, driver: &str) -> bool {
    let known = context.drivers.get("", driver);
    known.is_none_or(|known| known.spec.attach_required != Some(false))
}

/// What to do about one volume.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    attach: Vec<String>,
    detach: Vec<String>,
    /// Nodes that want it while another still has it.
    refused: Vec<String>,
}

/// Decides about one volume: `wanted` by which nodes, `present` on which nodes, of which `releasable` may be
/// detached once nobody wants them there.
fn plan(
    wanted: &BTreeSet<String>,
    present: &BTreeSet<String>,
    releasable: &BTreeSet<String>,
    shareable: bool,
) -> Plan {
    let mut plan = Plan::default();
    for node in present {
        if !wanted.contains(node) && releasable.contains(node) {
            plan.detach.push(node.clone());
        }
    }
    for node in wanted.iter().filter(|node| !present.contains(*node)) {
        if shareable || (present.is_empty() && plan.attach.is_empty()) {
            plan.attach.push(node.clone());
        } else {
            plan.refused.push(node.clone());
        }
    }
    plan
}

async fn sync_volume(context: &Context, name: &str) -> kube::Result<()> {
    let attachments: BTreeMap<String, Arc<VolumeAttachment>> = context
        .attachments
        .select(|attachment| attachment.spec.source.persistent_volume_name.as_deref() == Some(name))
        .into_iter()
        .map(|attachment| (attachment.spec.node_name.clone(), attachment))
        .collect();
    let volume = context.volumes.get("", name);
    let Some(volume) = volume else {
        return Ok(());
    };
    let Some((driver, handle)) = csi(&volume) else {
        return Ok(());
    };
    let users = users(context, &volume);
    let wanted: BTreeSet<String> = if needs_attachment(context, driver) {
        users.iter().map(|pod| pods::node_name(pod).to_owned()).collect()
    } else {
        BTreeSet::new()
    };
    let present: BTreeSet<String> = attachments.keys().cloned().collect();
    let unique = unique_name(driver, handle);
    let releasable = present
        .iter()
        .filter(|node| may_detach(context, node, &unique))
        .cloned()
        .collect();
    let plan = plan(&wanted, &present, &releasable, shareable(&volume));
    for node in &plan.detach {
        if let Some(attachment) = attachments.get(node) {
            detach(context, attachment, node, &unique).await?;
        }
    }
    for node in &plan.attach {
        // Not onto a node that nobody speaks for: its pods are about to move.
        let ready = context
            .nodes
            .get("", node)
            .is_some_and(|node| !taints::is_out_of_service(&node));
        if ready {
            attach(context, &volume, driver, handle, node).await?;
        }
    }
    for pod in users
        .iter()
        .filter(|pod| plan.refused.iter().any(|node| node == pods::node_name(pod)))
    {
        let text = format!(
            "Multi-Attach error for volume \"{name}\" Volume is already exclusively attached to one node and can't \
             be attached to another"
        );
        context
            .recorder
            .of(COMPONENT)
            .event(&reference(&**pod), "Warning", "FailedAttachVolume", text);
    }
    Ok(())
}

/// The pods on nodes that use a volume and have not ended.
fn users(context: &Context, volume: &PersistentVolume) -> Vec<Arc<Pod>> {
    let claim = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.clone())
        .unwrap_or_default();
    let (namespace, name) = (
        claim.namespace.unwrap_or_default(),
        claim.name.unwrap_or_default(),
    );
    let bound = context.claims.get(&namespace, &name).is_some_and(|known| {
        known.metadata.uid == claim.uid
            && known.spec.as_ref().and_then(|spec| spec.volume_name.as_ref()) == volume.metadata.name.as_ref()
    });
    if !bound {
        return Vec::new();
    }
    context.pods.select_in(&namespace, |pod| {
        !pods::node_name(pod).is_empty()
            && !pods::is_terminal(pod)
            && pods::claim_names(pod).any(|claim| claim == name)
    })
}

/// A volume may be detached from a node when its kubelet says that it does not use it, or when the node is gone
/// or certainly dead.
fn may_detach(context: &Context, node: &str, unique: &str) -> bool {
    let Some(node) = context.nodes.get("", node) else {
        return true;
    };
    if taints::is_out_of_service(&node) {
        return true;
    }
    let in_use = node
        .status
        .as_ref()
        .and_then(|status| status.volumes_in_use.as_deref())
        .unwrap_or_default();
    !in_use.iter().any(|name| name == unique)
}

async fn attach(
    context: &Context,
    volume: &PersistentVolume,
    driver: &str,
    handle: &str,
    node: &str,
) -> kube::Result<()> {
    let attachment = VolumeAttachment {
        metadata: ObjectMeta {
            name: Some(attachment_name(driver, handle, node)),
            ..ObjectMeta::default()
        },
        spec: VolumeAttachmentSpec {
            attacher: driver.into(),
            node_name: node.into(),
            source: VolumeAttachmentSource {
                persistent_volume_name: volume.metadata.name.clone(),
                ..VolumeAttachmentSource::default()
            },
        },
        status: None,
    };
    let api: Api<VolumeAttachment> = context.cluster();
    match context.create(&api, &context.attachments, &attachment).await {
        Err(error) if answered(&error, 409) => Ok(()),
        other => other.map(drop),
    }
}

/// First the node stops counting on the volume, then the attachment goes.
async fn detach(
    context: &Context,
    attachment: &VolumeAttachment,
    node: &str,
    unique: &str,
) -> kube::Result<()> {
    if attachment.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    if let Some(known) = context.nodes.get("", node) {
        let mut attached = attached_list(&known);
        attached.retain(|volume| volume.name != unique);
        write_attached(context, &known, attached).await?;
    }
    tracing::debug!(node, volume = unique, "detaching");
    let api: Api<VolumeAttachment> = context.cluster();
    context
        .delete(&api, &context.attachments, attachment, &DeleteParams::default())
        .await
}

fn attached_list(node: &Node) -> Vec<AttachedVolume> {
    node.status
        .as_ref()
        .and_then(|status| status.volumes_attached.clone())
        .unwrap_or_default()
}

async fn write_attached(
    context: &Context,
    node: &Node,
    mut attached: Vec<AttachedVolume>,
) -> kube::Result<()> {
    attached.sort_by(|a, b| a.name.cmp(&b.name));
    let mut known = attached_list(node);
    known.sort_by(|a, b| a.name.cmp(&b.name));
    if known == attached {
        return Ok(());
    }
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let api: Api<Node> = context.cluster();
    let patch = serde_json::json!({
        "metadata": {"resourceVersion": node.metadata.resource_version},
        "status": {"volumesAttached": attached},
    });
    let patched = api
        .patch_status(name, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    context.nodes.observe(patched);
    Ok(())
}

/// The node's status lists what is attached to it: its kubelet waits for that.
async fn sync_node(context: &Context, name: &str) -> kube::Result<()> {
    let Some(node) = context.nodes.get("", name) else {
        return Ok(());
    };
    let mut attached = Vec::new();
    let mut ready = Vec::new();
    for attachment in context
        .attachments
        .select(|attachment| attachment.spec.node_name == name)
    {
        let done = attachment.status.as_ref().is_some_and(|status| status.attached);
        let volume = attachment
            .spec
            .source
            .persistent_volume_name
            .clone()
            .unwrap_or_default();
        let Some(volume) = context.volumes.get("", &volume) else {
            continue;
        };
        let Some((driver, handle)) = csi(&volume) else {
            continue;
        };
        if done && attachment.metadata.deletion_timestamp.is_none() {
            attached.push(AttachedVolume {
                name: unique_name(driver, handle),
                device_path: String::new(),
            });
            ready.push(volume);
        }
    }
    // Volumes that others attach are theirs to list.
    let foreign = attached_list(&node)
        .into_iter()
        .filter(|volume| !volume.name.starts_with("kubernetes.io/csi/"));
    attached.extend(foreign);
    let before: BTreeSet<String> = attached_list(&node)
        .into_iter()
        .map(|volume| volume.name)
        .collect();
    write_attached(context, &node, attached).await?;
    for volume in ready {
        let Some((driver, handle)) = csi(&volume) else {
            continue;
        };
        if before.contains(&unique_name(driver, handle)) {
            continue;
        }
        let volume_name = volume.metadata.name.as_deref().unwrap_or_default();
        for pod in users(context, &volume)
            .iter()
            .filter(|pod| pods::node_name(pod) == name)
        {
            let text = format!("AttachVolume.Attach succeeded for volume \"{volume_name}\" ");
            context.recorder.of(COMPONENT).event(
                &reference(&**pod),
                "Normal",
                "SuccessfulAttachVolume",
                text,
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(nodes: &[&str]) -> BTreeSet<String> {
        nodes.iter().map(|node| (*node).to_owned()).collect()
    }

    #[test]
    fn an_exclusive_volume_moves_only_after_it_was_let_go() {
        let all = set(&["a", "b"]);
        let busy = plan(&set(&["b"]), &set(&["a"]), &set(&[]), false);
        assert_eq!(
            busy,
            Plan {
                refused: vec!["b".into()],
                ..Plan::default()
            }
        );
        let free = plan(&set(&["b"]), &set(&["a"]), &all, false);
        assert_eq!(
            (free.detach, free.refused),
            (vec!["a".to_owned()], vec!["b".to_owned()])
        );
        let gone = plan(&set(&["b"]), &set(&[]), &all, false);
        assert_eq!(gone.attach, ["b"]);
        let shared = plan(&set(&["a", "b"]), &set(&["a"]), &all, true);
        assert_eq!(shared.attach, ["b"]);
    }

    #[test]
    fn names_are_those_that_kubelets_look_for() {
        assert_eq!(
            unique_name("csi.hikube.io", "v1"),
            "kubernetes.io/csi/csi.hikube.io^v1"
        );
        assert_eq!(attachment_name("d", "h", "n").len(), 4 + 64);
    }

    proptest! {
        /// Whatever is wanted and let go in whatever order, an exclusive volume has one attachment at most.
        #[test]
        fn never_attached_twice(steps in prop::collection::vec((0..4u8, 0..4u8, any::<bool>()), 1..60)) {
            let mut present: BTreeSet<String> = BTreeSet::new();
            for (wanted_by, other, releasable) in steps {
                let wanted: BTreeSet<String> = [wanted_by.to_string(), other.to_string()].into();
                let free = if releasable { present.clone() } else { BTreeSet::new() };
                let plan = plan(&wanted, &present, &free, false);
                for node in &plan.detach {
                    present.remove(node);
                }
                present.extend(plan.attach);
                prop_assert!(present.len() <= 1, "{present:?}");
            }
        }
    }
}
