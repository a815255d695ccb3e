//! Built-in admission: what the cluster adds to objects and refuses, after authorization and before storage.

pub mod certificates;
mod classes;
mod limits;
mod namespace;
mod node;
mod pod;
mod quota;
mod rbac;
mod security;
mod storage;
mod usage;

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
                classes::runtime(call, resource, new).await?;
                limits::default(call, new);
                node::pod_of_kubelet(call, resource, new)?;
            }
            ("", "nodes") => node::not_ready_taint(new),
            ("", "persistentvolumeclaims") => {
                storage::default_class(call, new);
                storage::protect(new, storage::CLAIM_PROTECTION);
            }
            ("certificates.k8s.io", "certificatesigningrequests") => certificates::name_requester(call, new),
            ("networking.k8s.io", "ingresses") => classes::default_ingress(call, new),
            ("", "persistentvolumes") => storage::protect(new, storage::VOLUME_PROTECTION),
            _ => {}
        }
    }
    // A client that writes its own list of tolerations need not know of those that it was given.
    if operation == Operation::Update && resource.is("", "pods") && call.info.subresource.is_empty() {
        pod::default_tolerations(new);
    }
    Ok(())
}

/// Says which parts of a definition have no effect.
fn warn_of_definition(call: &Call, definition: &Value) {
    if !matches!(call.info.subresource.as_str(), "") {
        return;
    }
    if schema::structural::has_cel_rules(&definition["spec"]["versions"]) {
        call.warn("x-kubernetes-validations are stored, but this server does not evaluate rules in CEL yet");
    }
    if definition["spec"]["conversion"]["strategy"] == "Webhook" {
        call.warn("spec.conversion: this server calls no webhooks yet; all versions show objects as they are stored");
    }
}

/// Takes what the write needs from the quotas of its namespace: the last check before it is stored.
pub async fn take_quota(
    call: &Call,
    operation: Operation,
    resource: &'static Resource,
    old: Option<&Value>,
    new: &Value,
) -> Result<(), Status> {
    quota::take(call, operation, resource, old, new).await
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
    if operation == Operation::Delete {
        return Ok(());
    }
    match (resource.group.as_ref(), resource.plural.as_ref(), old) {
        ("certificates.k8s.io", "certificatesigningrequests", _) => {
            certificates::check(call, operation, resource, old, new).await?;
        }
        ("apiextensions.k8s.io", "customresourcedefinitions", _) => warn_of_definition(call, new),
        ("", "persistentvolumeclaims", Some(old)) => classes::resize(call, resource, old, new)?,
        _ => {}
    }
    if matches!(
        call.info.subresource.as_str(),
        "" | "resize" | "ephemeralcontainers"
    ) {
        security::check(call, resource, old, new)?;
    }
    if operation == Operation::Create || call.info.subresource == "resize" {
        limits::check(call, resource, new)?;
    }
    Ok(())
}
