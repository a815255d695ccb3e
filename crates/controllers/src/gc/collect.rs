//! What is done about one object of the graph. Every decision to delete rests on the server's present answer,
//! never on the graph alone.

use super::Shared;
use super::graph::{FOREGROUND, Node, ORPHAN, Work};
use crate::context::answered;
use crate::resources::{Kind, Meta};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};

/// How an owner stands.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Owner {
    /// Exists.
    Solid,
    /// Does not exist.
    Gone,
    /// Exists, and its own deletion waits for its dependents.
    Waiting,
}

fn patch_params() -> PatchParams {
    PatchParams::default()
}

/// Should this object be deleted, or can its foreground deletion end?
pub async fn check(shared: &Shared, uid: &str) -> kube::Result<()> {
    let Some(node) = shared.graph.lock().node(uid).cloned() else {
        return Ok(());
    };
    if node.foreground {
        return end_foreground(shared, uid, &node).await;
    }
    if node.deleting || node.owners.is_empty() {
        return Ok(());
    }
    let Some(kind) = shared.kind(node.kind) else {
        return Ok(());
    };
    let api = kind.api(&shared.context.client, Some(&node.namespace));
    let Some(live) = api.get_opt(&node.name).await? else {
        // The watch will tell too; its dependents need not wait for that.
        let work = shared.graph.lock().remove(uid);
        shared.enqueue(work);
        return Ok(());
    };
    if live.metadata.uid.as_deref() != Some(uid) {
        let work = shared.graph.lock().remove(uid);
        shared.enqueue(work);
        return Ok(());
    }
    let owners = live.metadata.owner_references.clone().unwrap_or_default();
    if owners.is_empty() || live.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let mut states = Vec::with_capacity(owners.len());
    for owner in &owners {
        states.push(state_of(shared, owner, &node.namespace).await?);
    }
    if states.contains(&Owner::Solid) {
        if states.iter().all(|state| *state == Owner::Solid) {
            return Ok(());
        }
        let kept: Vec<&OwnerReference> = owners
            .iter()
            .zip(&states)
            .filter(|(_, state)| **state == Owner::Solid)
            .map(|(owner, _)| owner)
            .collect();
        return set_owners(&api, &live, &kept).await;
    }
    delete(shared, &api, &live, uid, states.contains(&Owner::Waiting)).await
}

/// Looks an owner up: in the graph, among those known to be gone, at the server.
async fn state_of(shared: &Shared, owner: &OwnerReference, namespace: &str) -> kube::Result<Owner> {
    let known = {
        let graph = shared.graph.lock();
        if graph.is_absent(&owner.uid) {
            return Ok(Owner::Gone);
        }
        graph
            .node(&owner.uid)
            .map(|node| (node.namespace.clone(), node.foreground))
    };
    if let Some((home, waiting)) = known
        && (home.is_empty() || home == namespace)
    {
        return Ok(if waiting { Owner::Waiting } else { Owner::Solid });
    }
    let kind: Option<Kind> = shared
        .kinds
        .lock()
        .resolve(&owner.api_version, &owner.kind)
        .cloned();
    let Some(kind) = kind else {
        // A kind that this server does not know (any more): its objects may come back with it.
        tracing::debug!(
            kind = owner.kind,
            version = owner.api_version,
            "owner of an unknown kind"
        );
        return Ok(Owner::Solid);
    };
    // An owner in a namespace can only own what is in the same namespace.
    let reachable = !kind.namespaced || !namespace.is_empty();
    let found = if reachable {
        kind.api(&shared.context.client, Some(namespace))
            .get_opt(&owner.name)
            .await?
    } else {
        None
    };
    match found.filter(|found| found.metadata.uid.as_ref() == Some(&owner.uid)) {
        Some(found) => {
            let waits = found.metadata.deletion_timestamp.is_some()
                && found
                    .metadata
                    .finalizers
                    .iter()
                    .flatten()
                    .any(|f| f == FOREGROUND);
            Ok(if waits { Owner::Waiting } else { Owner::Solid })
        }
        None => {
            shared.graph.lock().note_absent(&owner.uid);
            Ok(Owner::Gone)
        }
    }
}

async fn set_owners(api: &Api<Meta>, live: &Meta, owners: &[&OwnerReference]) -> kube::Result<()> {
    let patch = serde_json::json!({"metadata": {
        "ownerReferences": owners,
        "uid": live.metadata.uid,
        "resourceVersion": live.metadata.resource_version,
    }});
    let name = live.metadata.name.as_deref().unwrap_or_default();
    ignore_gone(api.patch(name, &patch_params(), &Patch::Merge(patch)).await)
}

/// Deletes an object without any living owner. When an owner's deletion waits for it and it has dependents
/// itself, they go first.
async fn delete(shared: &Shared, api: &Api<Meta>, live: &Meta, uid: &str, waiting: bool) -> kube::Result<()> {
    let finalizers: Vec<&str> = live
        .metadata
        .finalizers
        .iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let dependents = shared.graph.lock().dependents(uid);
    let params = if waiting && !dependents.is_empty() {
        unblock_cycles(shared, uid, &dependents).await?;
        DeleteParams::foreground()
    } else if finalizers.contains(&ORPHAN) {
        DeleteParams::orphan()
    } else if finalizers.contains(&FOREGROUND) {
        DeleteParams::foreground()
    } else {
        DeleteParams::background()
    };
    let name = live.metadata.name.as_deref().unwrap_or_default();
    tracing::debug!(
        name,
        namespace = live.metadata.namespace,
        "deleting: its owners are gone"
    );
    let params = params.preconditions(Preconditions {
        uid: live.metadata.uid.clone(),
        // An owner added in between must not lose it.
        resource_version: live.metadata.resource_version.clone(),
    });
    match api.delete(name, &params).await {
        Ok(_) => Ok(()),
        Err(error) if answered(&error, 404) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Objects that wait for each other would wait for ever: the references among them stop blocking.
async fn unblock_cycles(shared: &Shared, uid: &str, dependents: &[String]) -> kube::Result<()> {
    let stuck = {
        let graph = shared.graph.lock();
        dependents
            .iter()
            .any(|dependent| graph.node(dependent).is_some_and(|node| node.foreground))
    };
    let Some(node) = shared.graph.lock().node(uid).cloned().filter(|_| stuck) else {
        return Ok(());
    };
    let mut owners = node.owners.clone();
    for owner in &mut owners {
        owner.block_owner_deletion = Some(false);
    }
    let Some(kind) = shared.kind(node.kind) else {
        return Ok(());
    };
    let api = kind.api(&shared.context.client, Some(&node.namespace));
    let patch = serde_json::json!({"metadata": {"ownerReferences": owners, "uid": uid}});
    ignore_gone(api.patch(&node.name, &patch_params(), &Patch::Merge(patch)).await)
}

/// Ends a foreground deletion once nothing blocks it; until then sees to the dependents.
async fn end_foreground(shared: &Shared, uid: &str, node: &Node) -> kube::Result<()> {
    let blocking = shared.graph.lock().blocking(uid);
    if blocking.is_empty() {
        return remove_finalizer(shared, uid, node, FOREGROUND).await;
    }
    for dependent in blocking {
        let idle = shared
            .graph
            .lock()
            .node(&dependent)
            .is_some_and(|node| !node.deleting);
        if idle {
            shared.queue.add(Work::Check(dependent));
        }
    }
    Ok(())
}

/// Takes the references to this owner away from all dependents, then lets the owner go.
pub async fn orphan(shared: &Shared, uid: &str) -> kube::Result<()> {
    let Some(node) = shared.graph.lock().node(uid).cloned() else {
        return Ok(());
    };
    if !node.orphaning {
        return Ok(());
    }
    let dependents = shared.graph.lock().dependents(uid);
    for dependent in dependents {
        let Some(child) = shared.graph.lock().node(&dependent).cloned() else {
            continue;
        };
        let Some(kind) = shared.kind(child.kind) else {
            continue;
        };
        let api = kind.api(&shared.context.client, Some(&child.namespace));
        let Some(live) = api.get_opt(&child.name).await? else {
            continue;
        };
        if live.metadata.uid.as_ref() != Some(&dependent) {
            continue;
        }
        let owners = live.metadata.owner_references.clone().unwrap_or_default();
        let kept: Vec<&OwnerReference> = owners.iter().filter(|owner| owner.uid != uid).collect();
        if kept.len() != owners.len() {
            set_owners(&api, &live, &kept).await?;
        }
    }
    remove_finalizer(shared, uid, &node, ORPHAN).await
}

async fn remove_finalizer(shared: &Shared, uid: &str, node: &Node, finalizer: &str) -> kube::Result<()> {
    let Some(kind) = shared.kind(node.kind) else {
        return Ok(());
    };
    let api = kind.api(&shared.context.client, Some(&node.namespace));
    let Some(live) = api.get_opt(&node.name).await? else {
        return Ok(());
    };
    if live.metadata.uid.as_deref() != Some(uid) {
        return Ok(());
    }
    let rest: Vec<&String> = live
        .metadata
        .finalizers
        .iter()
        .flatten()
        .filter(|f| *f != finalizer)
        .collect();
    let patch = serde_json::json!({"metadata": {
        "finalizers": rest, "uid": uid, "resourceVersion": live.metadata.resource_version,
    }});
    ignore_gone(api.patch(&node.name, &patch_params(), &Patch::Merge(patch)).await)
}

fn ignore_gone<T>(result: kube::Result<T>) -> kube::Result<()> {
    match result {
        Err(error) if answered(&error, 404) => Ok(()),
        other => other.map(drop),
    }
}
