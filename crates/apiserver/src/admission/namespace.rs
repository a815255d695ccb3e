//! NamespaceLifecycle: objects are created only in namespaces that exist and are not being deleted.

use crate::call::Call;
use crate::http::status::Status;
use crate::rest::meta;
use crate::store::{builtin, object};
use schema::Resource;
use serde_json::{Value, json};

/// Namespaces that the cluster cannot do without.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// The namespace of a new object must exist and live.
pub async fn must_accept(call: &Call, resource: &Resource, new: &Value) -> Result<(), Status> {
    if !resource.namespaced {
        return Ok(());
    }
    // Reviews store nothing; authorization has to be asked about any namespace.
    if resource.group == "authorization.k8s.io" {
        return Ok(());
    }
    let namespace = call.info.namespace.as_str();
    let namespaces = builtin("", "namespaces").ok_or_else(Status::no_such_path)?;
    let store = &call.server.store;
    let found = match store.cached(namespaces, "", namespace) {
        Some(found) => Some(found),
        // It may be newer than the cache.
        None => {
            store
                .read(namespaces, &object::key(namespaces, "", namespace))
                .await?
        }
    };
    let Some(found) = found else {
        return Err(Status::not_found(namespaces, namespace));
    };
    let value = found.value();
    if meta::is_terminating(&value) || value["status"]["phase"] == "Terminating" {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut status = Status::forbidden(resource, meta::text(new, "name"), why);
        status.details.insert(
            "causes".into(),
            json!([{
                "reason": "NamespaceTerminating",
                "message": format!("namespace {namespace} is being terminated"),
                "field": "metadata.namespace",
            }]),
        );
        return Err(status);
    }
    Ok(())
}

/// Some namespaces stay.
pub fn may_be_deleted(call: &Call, resource: &Resource) -> Result<(), Status> {
    if resource.is("", "namespaces") && IMMORTAL.contains(&call.info.name.as_str()) {
        return Err(Status::forbidden(
            resource,
            &call.info.name,
            "this namespace may not be deleted",
        ));
    }
    Ok(())
}
