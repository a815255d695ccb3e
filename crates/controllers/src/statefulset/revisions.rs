//! The history of a StatefulSet (and DaemonSet): templates kept as ControllerRevisions.

use crate::context::{Context, Object, answered};
use crate::hash;
use crate::ownership::controller_reference;
use client::pods::is_controlled_by;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{Api, DeleteParams, ObjectMeta};
use std::sync::Arc;

/// Names the hash of a StatefulSet's template on its revisions.
pub const HASH_LABEL: &str = "controller.kubernetes.io/hash";
/// Old templates kept when the object does not say.
pub const DEFAULT_HISTORY: i32 = 10;

/// What a revision stores: a patch that puts the template back, as `kubectl rollout undo` applies it.
fn data_of(template: &PodTemplateSpec) -> serde_json::Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    if let Some(map) = template.as_object_mut() {
        map.insert("$patch".into(), "replace".into());
    }
    let mut data = serde_json::json!({"spec": {"template": template}});
    // Byte for byte what upstream's controllers write, which those who look for the present revision compare with.
    data.sort_all_objects();
    data
}

/// The template in a revision.
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// The revisions of an object, oldest first.
pub fn of<O: Object>(context: &Context, owner: &O) -> Vec<Arc<ControllerRevision>> {
    let meta = owner.meta();
    let uid = meta.uid.as_deref().unwrap_or_default();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let mut mine = context
        .revisions
        .select_in(namespace, |revision| is_controlled_by(&revision.metadata, uid));
    mine.sort_by_key(|revision| (revision.revision, revision.metadata.name.clone()));
    mine
}

/// The revision of the present template; made, or moved to the end of the history, if need be. `hash_label` is the
/// label by which revisions of this kind name their template's hash.
pub async fn newest<O: Object>(
    context: &Context,
    owner: &O,
    template: &PodTemplateSpec,
    hash_label: &str,
    collisions: &mut i32,
) -> kube::Result<Arc<ControllerRevision>> {
    let known = of(context, owner);
    let namespace = owner.meta().namespace.clone().unwrap_or_default();
    let api: Api<ControllerRevision> = context.api(&namespace);
    let last = known.last().map_or(0, |revision| revision.revision);
    let equal = known
        .iter()
        .rev()
        .find(|revision| template_of(revision).as_ref() == Some(template));
    if let Some(equal) = equal {
        if equal.revision == last {
            return Ok(equal.clone());
        }
        let name = equal.metadata.name.clone().unwrap_or_default();
        let patch = serde_json::json!({"revision": last + 1});
        return Ok(Arc::new(
            context.merge(&api, &context.revisions, &name, patch).await?,
        ));
    }
    let data = data_of(template);
    loop {
        let hash = hash::short_name(&data, *collisions);
        let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone());
        let mut labels = labels.unwrap_or_default();
        labels.insert(hash_label.into(), hash.clone());
        let revision = ControllerRevision {
            metadata: ObjectMeta {
                name: Some(format!(
                    "{}-{hash}",
                    owner.meta().name.as_deref().unwrap_or_default()
                )),
                namespace: Some(namespace.clone()),
                labels: Some(labels),
                // Where `kubectl rollout history` finds the cause of a change.
                annotations: owner.meta().annotations.clone(),
                owner_references: Some(vec![controller_reference(owner)]),
                ..ObjectMeta::default()
            },
            data: Some(RawExtension(data.clone())),
            revision: last + 1,
        };
        match context.create(&api, &context.revisions, &revision).await {
            Ok(created) => return Ok(Arc::new(created)),
            Err(error) if answered(&error, 409) => {
                let taken = api
                    .get(revision.metadata.name.as_deref().unwrap_or_default())
                    .await?;
                let uid = owner.meta().uid.as_deref().unwrap_or_default();
                if is_controlled_by(&taken.metadata, uid) && template_of(&taken).as_ref() == Some(template) {
                    context.revisions.observe(taken.clone());
                    return Ok(Arc::new(taken));
                }
                *collisions += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Deletes the oldest revisions beyond the limit that nothing uses.
pub async fn clean_up<O: Object>(
    context: &Context,
    owner: &O,
    limit: i32,
    in_use: impl Fn(&ControllerRevision) -> bool,
) -> kube::Result<()> {
    let namespace = owner.meta().namespace.clone().unwrap_or_default();
    let api: Api<ControllerRevision> = context.api(&namespace);
    let idle: Vec<_> = of(context, owner)
        .into_iter()
        .filter(|revision| !in_use(revision))
        .collect();
    let surplus = idle.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    for revision in idle.iter().take(surplus) {
        context
            .delete(&api, &context.revisions, &**revision, &DeleteParams::default())
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_template_survives_being_stored() {
        let template: PodTemplateSpec = serde_json::from_value(json!({
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}
        }))
        .unwrap();
        let data = data_of(&template);
        let text = data.to_string();
        assert!(
            text.starts_with(r#"{"spec":{"template":{"$patch":"replace","metadata":"#),
            "{text}"
        );
        let revision = ControllerRevision {
            data: Some(RawExtension(data)),
            ..ControllerRevision::default()
        };
        assert_eq!(template_of(&revision), Some(template));
    }
}
