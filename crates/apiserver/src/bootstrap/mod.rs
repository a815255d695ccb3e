//! Objects that every cluster has: namespaces, priority classes, roles. Every server writes what is missing.

pub mod aggregate;
pub mod roles;

use crate::authz::Rule;
use crate::authz::rules::uncovered;
use crate::http::status::Status;
use crate::server::Server;
use crate::store::{Freshness, builtin, object};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Pause before another attempt while the state store is not there.
const RETRY: Duration = Duration::from_millis(200);
/// Namespaces of every cluster.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Writes what is missing, until it has succeeded.
pub async fn run(server: Arc<Server>) {
    loop {
        match write(&server).await {
            Ok(()) => break,
            Err(error) => tracing::debug!(%error, "default objects not written yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = server.shutdown.cancelled() => return,
        }
    }
    server.bootstrapped.store(true, Ordering::Release);
    tracing::info!(took_ms = server.started.elapsed().as_millis(), "ready");
}

async fn write(server: &Arc<Server>) -> Result<(), Status> {
    server.store.fresh(Freshness::Newest).await?;
    for name in NAMESPACES {
        let labels = json!({"kubernetes.io/metadata.name": name});
        let value = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
        });
        ensure(server, "", "namespaces", value).await?;
    }
    for (name, number, text) in [
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ] {
        let value = json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {"name": name, "generation": 1}, "value": number, "description": text,
            "preemptionPolicy": "PreemptLowerPriority",
        });
        ensure(server, "scheduling.k8s.io", "priorityclasses", value).await?;
    }
    for entry in roles::entries() {
        let (plural, value) = entry.object();
        ensure(server, "rbac.authorization.k8s.io", plural, value).await?;
    }
    authentication_config(server).await?;
    service_cidr(server).await
}

/// Creates an object that is missing; a default role that lacks rules gets them.
async fn ensure(server: &Arc<Server>, group: &str, plural: &str, mut value: Value) -> Result<(), Status> {
    let resource = builtin(group, plural).ok_or_else(Status::no_such_path)?;
    let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text("namespace"), text("name"));
    let key = object::key(resource, &namespace, &name);
    let Some(current) = server.store.cached(resource, &namespace, &name) else {
        value["metadata"]["uid"] = uuid::Uuid::new_v4().to_string().into();
        value["metadata"]["creationTimestamp"] = crate::time::now().into();
        // Taken means that another server was quicker.
        server.store.create(resource, &key, value, None).await?;
        return Ok(());
    };
    if plural != "clusterroles" || !value["aggregationRule"].is_null() {
        return Ok(());
    }
    let mut role = current.value();
    if role["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] == "false" {
        return Ok(());
    }
    let missing = uncovered(&Rule::list(&role), &Rule::list(&value));
    if missing.is_empty() {
        return Ok(());
    }
    let mut rules = role["rules"].as_array().cloned().unwrap_or_default();
    rules.extend(missing.iter().map(roles::rule_value));
    role["rules"] = rules.into();
    // After a conflict another server has done it.
    server
        .store
        .replace(resource, &key, role, current.revision, None)
        .await?;
    Ok(())
}

/// `extension-apiserver-authentication`: which authority signs client certificates.
async fn authentication_config(server: &Arc<Server>) -> Result<(), Status> {
    let authority = std::fs::read_to_string(&server.config.client_ca).map_err(Status::internal)?;
    let value = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {"client-ca-file": authority},
    });
    ensure(server, "", "configmaps", value).await
}

/// The subnet of cluster IPs as an object.
async fn service_cidr(server: &Arc<Server>) -> Result<(), Status> {
    let value = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes", "finalizers": ["networking.k8s.io/service-cidr-finalizer"]},
        "spec": {"cidrs": [server.services.cidr]},
        "status": {"conditions": [{
            "type": "Ready", "status": "True", "reason": "", "message": "Kubernetes Service CIDR is ready",
            "lastTransitionTime": crate::time::now(),
        }]},
    });
    ensure(server, "networking.k8s.io", "servicecidrs", value).await
}
