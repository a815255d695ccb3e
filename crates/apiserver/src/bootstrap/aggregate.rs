//! Aggregated roles: a role with an `aggregationRule` holds the rules of all roles that its selectors choose.

use crate::http::status::Status;
use crate::server::Server;
use crate::store::{builtin, object};
use schema::selectors::LabelSelector;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Changes that come close together are handled at once.
const SETTLE: Duration = Duration::from_millis(100);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Changes taken at once.
const BATCH: usize = 256;

/// Keeps aggregated roles up to date while the server runs. All servers do it; they write the same.
pub async fn run(server: Arc<Server>) {
    let Some(resource) = builtin("rbac.authorization.k8s.io", "clusterroles") else {
        return;
    };
    let Ok(cache) = server.store.cache(resource) else {
        return;
    };
    loop {
        let (_, _, mut cursor) = cache.list_and_watch("/");
        if let Err(error) = aggregate(&server).await {
            tracing::debug!(%error, "aggregated roles not written");
            tokio::time::sleep(RETRY).await;
            continue;
        }
        while let Ok(events) = cache.take(&mut cursor, BATCH) {
            if !events.is_empty() {
                break;
            }
            tokio::select! {
                alive = cursor.changed() => if !alive { return },
                () = server.shutdown.cancelled() => return,
            }
        }
        tokio::time::sleep(SETTLE).await;
    }
}

async fn aggregate(server: &Arc<Server>) -> Result<(), Status> {
    let resource = builtin("rbac.authorization.k8s.io", "clusterroles").ok_or_else(Status::no_such_path)?;
    let roles = server
        .store
        .cached_list("rbac.authorization.k8s.io", "clusterroles", "");
    for role in &roles {
        let mut value = role.value();
        let Some(selectors) = value["aggregationRule"]["clusterRoleSelectors"].as_array() else {
            continue;
        };
        let selectors: Vec<LabelSelector> = selectors
            .iter()
            .filter_map(|s| LabelSelector::from_structured(Some(s)).ok())
            .collect();
        let mut rules: Vec<Value> = Vec::new();
        for other in roles.iter().filter(|other| other.name != role.name) {
            if !selectors.iter().any(|s| s.matches(Some(&other.labels))) {
                continue;
            }
            for rule in other.value()["rules"].as_array().into_iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
        if value["rules"].as_array() == Some(&rules) {
            continue;
        }
        value["rules"] = rules.into();
        let key = object::key(resource, "", &role.name);
        // A conflict shows as a change, which brings us here again.
        server
            .store
            .replace(resource, &key, value, role.revision, None)
            .await?;
    }
    Ok(())
}
