//! Built-in admission: what the cluster adds to objects and refuses, after authorization and before storage.

mod namespace;
mod node;
mod pod;
mod rbac;
mod storage;

use crate::call::Call;
use crate::http::status::Status;
use crate::store::Freshness;
use schema::Resource;
use serde_json::Value;

/// What is done to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It is new.
    Create,
    /// It changes.
    Update,
    /// It is to be deleted.
    Delete,
}

/// Completes an object.
pub async fn mutate(
    call: &Call,
    operation: Operation,
    resource: &'static Resource,
    new: &mut Value,
) -> Result<(), Status> {
    if operation == Operation::Create {
        match (resource.group.as_ref(), resource.plural.as_ref()) {
            ("", "pods") => {
                pod::service_account(call, resource, new).await?;
                if pod::priority(call, resource, new).is_err() {
                    // The class may be newer than the cache.
                    call.server.store.fresh(Freshness::Newest).await?;
                    pod::priority(call, resource, new)?;
                }
                pod::default_tolerations(new);
                node::pod_of_kubelet(call, resource, new)?;
            }
            ("", "nodes") => node::not_ready_taint(new),
            ("", "persistentvolumeclaims") => {
                storage::default_class(call, new);
                storage::protect(new, storage::CLAIM_PROTECTION);
            }
            ("", "persistentvolumes") => storage::protect(new, storage::VOLUME_PROTECTION),
            _ => {}
        }
    }
    Ok(())
}

/// Refuses what the cluster does not allow.
pub async fn validate(
    call: &Call,
    operation: Operation,
    resource: &'static Resource,
    old: Option<&Value>,
    new: &Value,
) -> Result<(), Status> {
    match operation {
        Operation::Create => namespace::must_accept(call, resource, new).await?,
        Operation::Delete => namespace::may_be_deleted(call, resource)?,
        Operation::Update => {}
    }
    node::restrict(call, operation, resource, old, new)?;
    if operation != Operation::Delete && resource.group == "rbac.authorization.k8s.io" {
        // Nobody is refused, and nobody succeeds, because of rights that are out of date.
        call.server.store.fresh(Freshness::Newest).await?;
        rbac::no_escalation(call, resource, old, new)?;
    }
    Ok(())
}
