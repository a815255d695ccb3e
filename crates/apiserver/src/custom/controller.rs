//! Keeps the status of definitions, and removes the objects of those that are deleted. Every server does both: what
//! another has done already is left alone.

use super::names;
use crate::authn::{MASTERS, User};
use crate::call::Call;
use crate::http::accept::Accept;
use crate::http::query::Query;
use crate::http::request::RequestInfo;
use crate::http::status::Status;
use crate::rest::meta;
use crate::rest::options::DeleteOptions;
use crate::rest::update::{self, Part};
use crate::server::Server;
use crate::store::{Freshness, builtin, object};
use schema::Resource;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Finalizer of definitions that are being deleted: their objects go first.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// Pause after a failure, and until objects with finalizers are looked at again.
const RETRY: Duration = Duration::from_secs(1);
/// Changes taken at once.
const BATCH: usize = 256;
const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";

/// Runs while the server does.
pub async fn run(server: Arc<Server>) {
    let Some(resource) = builtin(GROUP, PLURAL) else {
        return;
    };
    let Ok(cache) = server.store.cache(resource) else {
        return;
    };
    loop {
        let (_, _, mut cursor) = cache.list_and_watch("/");
        let again = match reconcile(&server, resource).await {
            Ok(again) => again,
            Err(error) => {
                tracing::debug!(%error, "definitions of custom resources not reconciled");
                true
            }
        };
        let wait = async {
            while let Ok(events) = cache.take(&mut cursor, BATCH) {
                if !events.is_empty() || !cursor.changed().await {
                    break;
                }
            }
        };
        let retry = async {
            if again {
                tokio::time::sleep(RETRY).await;
            } else {
                std::future::pending().await
            }
        };
        tokio::select! {
            () = wait => {}
            () = retry => {}
            () = server.shutdown.cancelled() => return,
        }
    }
}

/// Brings all definitions to where they should be. True if something has to be looked at again.
async fn reconcile(server: &Arc<Server>, resource: &'static Resource) -> Result<bool, Status> {
    let all: Vec<Value> = server
        .store
        .cached_list(GROUP, PLURAL, "")
        .iter()
        .map(|o| o.value())
        .collect();
    let mut again = false;
    for definition in &all {
        let name = meta::text(definition, "name");
        if meta::is_terminating(definition) {
            if meta::finalizers(definition).iter().any(|f| f == CLEANUP) {
                again |= !clean_up(server, resource, definition).await?;
            }
            continue;
        }
        let now = crate::time::now();
        if names::status(definition, &all, &now).is_some() {
            let call = internal_call(server, resource, name, "status");
            let done = update::update(&call, resource, Part::Raw, |old| {
                Ok(names::status(old, &all, &now).unwrap_or_else(|| old.clone()))
            })
            .await;
            // Deleted meanwhile.
            if let Err(status) = done
                && status.code != 404
            {
                return Err(status);
            }
        }
    }
    Ok(again)
}

/// Deletes the objects of a definition and then lets it go. False if objects remain.
async fn clean_up(
    server: &Arc<Server>,
    resource: &'static Resource,
    definition: &Value,
) -> Result<bool, Status> {
    let name = meta::text(definition, "name");
    let plural = definition["spec"]["names"]["plural"].as_str().unwrap_or_default();
    let group = definition["spec"]["group"].as_str().unwrap_or_default();
    let stored = server
        .store
        .stored_resource(&format!("/registry/{group}/{plural}"));
    if let Some(stored) = stored {
        server.store.fresh(Freshness::Newest).await?;
        let cache = server.store.cache(stored)?;
        let (objects, _) = cache.list(&object::list_prefix(stored, ""));
        for object in &objects {
            let call = internal_call(server, stored, &object.name, "");
            let options = DeleteOptions::default();
            let deleted =
                crate::rest::delete::remove(&call, stored, &object.namespace, &object.name, &options).await;
            if let Err(status) = deleted
                && status.code != 404
            {
                return Err(status);
            }
        }
        server.store.fresh(Freshness::Newest).await?;
        if cache.count() > 0 {
            return Ok(false);
        }
    }
    let call = internal_call(server, resource, name, "");
    let done = update::update(&call, resource, Part::Raw, |old| {
        let mut new = old.clone();
        let kept: Vec<String> = meta::finalizers(old)
            .into_iter()
            .filter(|f| f != CLEANUP)
            .collect();
        meta::of(&mut new).insert("finalizers".into(), kept.into());
        Ok(new)
    })
    .await;
    match done {
        Err(status) if status.code != 404 => Err(status),
        _ => Ok(true),
    }
}

/// A request of the server to itself.
fn internal_call(server: &Arc<Server>, resource: &Resource, name: &str, subresource: &str) -> Call {
    Call {
        server: server.clone(),
        user: Arc::new(User {
            name: "system:apiserver".into(),
            groups: vec![MASTERS.into()],
            ..User::default()
        }),
        info: RequestInfo {
            verb: "update".into(),
            group: resource.group.to_string(),
            version: resource.version.to_string(),
            resource: resource.plural.to_string(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            ..RequestInfo::default()
        },
        query: Query::parse("fieldManager=kube-apiserver"),
        headers: http::HeaderMap::new(),
        accept: Accept::JSON,
        warnings: parking_lot::Mutex::default(),
    }
}
