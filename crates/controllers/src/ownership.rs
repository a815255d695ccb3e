//! Which objects belong to a controller: adoption of matching orphans, release of what no longer matches.
//! The same rules as upstream's controller reference manager.

use crate::context::{Context, Object};
use client::pods::controller_of;
use client::{Informer, select};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::api::{Api, Patch, PatchParams};
use std::sync::Arc;

/// The reference that marks an object as managed by `owner`.
pub fn controller_reference<K: Object>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What is to be done about one object.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Claim {
    /// Belongs to the owner already.
    Mine,
    /// Belongs to nobody and matches: take it.
    Adopt,
    /// Belongs to the owner but no longer matches: let it go.
    Release,
    /// None of the owner's business.
    Foreign,
}

/// Decides about one object. `adoptable` says whether an orphan of this kind may be taken at all.
pub fn claim<O: Object, K: Object>(
    owner: &O,
    selector: &LabelSelector,
    object: &K,
    adoptable: bool,
) -> Claim {
    let matches = select::labels_match(selector, object.meta().labels.as_ref());
    let owner_deleting = owner.meta().deletion_timestamp.is_some();
    match controller_of(object.meta()) {
        Some(reference) if Some(&reference.uid) != owner.meta().uid.as_ref() => Claim::Foreign,
        Some(_) if matches || owner_deleting => Claim::Mine,
        Some(_) => Claim::Release,
        None if !matches || owner_deleting || !adoptable => Claim::Foreign,
        None if object.meta().deletion_timestamp.is_some() => Claim::Foreign,
        None => Claim::Adopt,
    }
}

/// The objects in the owner's namespace that belong to it, after adopting and releasing.
pub async fn claimed<O, K>(
    context: &Context,
    owner: &O,
    owners: &Api<O>,
    selector: &LabelSelector,
    cache: &Informer<K>,
    adoptable: impl Fn(&K) -> bool,
) -> kube::Result<Vec<Arc<K>>>
where
    O: Object,
    K: Object + Resource<Scope = NamespaceResourceScope>,
{
    let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
    let api: Api<K> = context.api(namespace);
    let mut mine = Vec::new();
    let mut may_adopt = None;
    for object in cache.list_in(namespace) {
        match claim(owner, selector, &*object, adoptable(&object)) {
            Claim::Mine => mine.push(object),
            Claim::Foreign => {}
            Claim::Release => release(&api, cache, owner, &*object).await?,
            Claim::Adopt => {
                // The cache may be older than the owner's deletion: ask once before the first adoption.
                let allowed = match may_adopt {
                    Some(allowed) => allowed,
                    None => *may_adopt.insert(still_there(owners, owner).await?),
                };
                if allowed {
                    mine.push(adopt(&api, cache, owner, &*object).await?);
                }
            }
        }
    }
    Ok(mine)
}

async fn still_there<O: Object>(owners: &Api<O>, owner: &O) -> kube::Result<bool> {
    let name = owner.meta().name.as_deref().unwrap_or_default();
    let now = owners.get_opt(name).await?;
    Ok(now.is_some_and(|now| now.meta().uid == owner.meta().uid && now.meta().deletion_timestamp.is_none()))
}

async fn adopt<O: Object, K: Object>(
    api: &Api<K>,
    cache: &Informer<K>,
    owner: &O,
    object: &K,
) -> kube::Result<Arc<K>> {
    let patch = serde_json::json!({"metadata": {
        "uid": object.meta().uid,
        "ownerReferences": [controller_reference(owner)],
    }});
    let name = object.meta().name.as_deref().unwrap_or_default();
    let adopted = api
        .patch(name, &PatchParams::default(), &Patch::Strategic(patch))
        .await?;
    cache.observe(adopted.clone());
    Ok(Arc::new(adopted))
}

async fn release<O: Object, K: Object>(
    api: &Api<K>,
    cache: &Informer<K>,
    owner: &O,
    object: &K,
) -> kube::Result<()> {
    let patch = serde_json::json!({"metadata": {
        "uid": object.meta().uid,
        "ownerReferences": [{"$patch": "delete", "uid": owner.meta().uid}],
    }});
    let name = object.meta().name.as_deref().unwrap_or_default();
    match api
        .patch(name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
    {
        Ok(released) => {
            cache.observe(released);
            Ok(())
        }
        // Gone, or another object of that name: nothing to release.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => Ok(()),
        Err(error) => Err(error),
    }
}

use kube::Resource;

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    fn decide(owner_deleting: bool, pod_owner: Option<&str>, label: &str, pod_deleting: bool) -> Claim {
        let time = |set: bool| set.then_some("2026-01-01T00:00:00Z");
        let owner: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"name": "rs", "uid": "o", "deletionTimestamp": time(owner_deleting)}
        }))
        .unwrap();
        let references = pod_owner.map(|uid| {
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": uid, "controller": true}])
        });
        let pod: Pod = serde_json::from_value(json!({"metadata": {
            "name": "p", "labels": {"app": label}, "ownerReferences": references,
            "deletionTimestamp": time(pod_deleting)
        }}))
        .unwrap();
        let selector = serde_json::from_value(json!({"matchLabels": {"app": "a"}})).unwrap();
        claim(&owner, &selector, &pod, true)
    }

    #[test]
    fn claims() {
        assert_eq!(decide(false, Some("o"), "a", false), Claim::Mine);
        assert_eq!(decide(false, Some("o"), "b", false), Claim::Release);
        assert_eq!(decide(true, Some("o"), "b", false), Claim::Mine);
        assert_eq!(decide(false, Some("x"), "a", false), Claim::Foreign);
        assert_eq!(decide(false, None, "a", false), Claim::Adopt);
        assert_eq!(decide(false, None, "a", true), Claim::Foreign);
        assert_eq!(decide(true, None, "a", false), Claim::Foreign);
        assert_eq!(decide(false, None, "b", false), Claim::Foreign);
    }
}
