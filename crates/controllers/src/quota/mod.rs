//! ResourceQuotas: what is used in each namespace. The API server refuses what would exceed a quota, and counts
//! what it lets in; this controller counts what went away, and everything anew from time to time.

mod usage;

use crate::context::{Context, settle};
use crate::gc::Census;
use client::pods;
use client::{Change, Key, Outcome, Queue};
use k8s_openapi::api::core::v1::{Pod, ResourceQuota, ResourceQuotaStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use usage::Population;

/// Quotas worked on at once.
const CONCURRENCY: usize = 5;
/// Everything is counted anew after this: what the API server let in may have failed afterwards.
const RECOUNT: Duration = Duration::from_secs(300);

/// What was there before a quota shows in the caches after this at the latest; what comes later the API server counts.
const LAG: Duration = Duration::from_secs(2);

/// The controller.
pub struct Controller {
    context: Arc<Context>,
    census: Census,
    queue: Arc<Queue<Key>>,
}

impl Controller {
    /// Registers its handlers.
    pub fn new(context: &Arc<Context>, census: Census) -> Self {
        let queue = Arc::new(Queue::new());
        let keys = queue.clone();
        context.quotas.on_change(move |change| {
            // The API server has counted what it lets in; the caches here may not show it yet, and would take it back.
            if !matches!(change, Change::Updated(old, new) if asks_the_same(old, new)) {
                let key = Key::of(&**change.object());
                keys.add_after(key.clone(), LAG);
                keys.add(key);
            }
        });
        let all_of = {
            let (keys, weak) = (queue.clone(), Arc::downgrade(context));
            move |namespace: &str| {
                let Some(context) = weak.upgrade() else { return };
                for quota in context.quotas.list_in(namespace) {
                    keys.add(Key::of(&*quota));
                }
            }
        };
        // The census knows what goes; these change what they use while they are there. What comes was counted by the API
        // server when it let it in.
        let of_pod = all_of.clone();
        context.pods.on_change(move |change| {
            if let Change::Updated(old, new) = change
                && uses(old) != uses(new)
            {
                of_pod(new.metadata.namespace.as_deref().unwrap_or_default());
            }
        });
        let of_service = all_of.clone();
        context.services.on_change(move |change| {
            if let Change::Updated(old, new) = change
                && old.spec != new.spec
            {
                of_service(new.metadata.namespace.as_deref().unwrap_or_default());
            }
        });
        let of_claim = all_of.clone();
        context.claims.on_change(move |change| {
            if let Change::Updated(old, new) = change
                && (old.spec != new.spec || old.status != new.status)
            {
                of_claim(new.metadata.namespace.as_deref().unwrap_or_default());
            }
        });
        census.on_removal(all_of);
        Self {
            context: context.clone(),
            census,
            queue,
        }
    }

    /// Works until dropped.
    pub async fn run(self) {
        let (context, census, queue) = (&self.context, &self.census, &self.queue);
        queue
            .work(CONCURRENCY, |key| async move {
                let result = reconcile(context, census, &key).await;
                settle("resourcequota", &key, result)
            })
            .await;
    }
}

/// Whether only what is used has changed, or nothing.
fn asks_the_same(old: &ResourceQuota, new: &ResourceQuota) -> bool {
    let hard = |quota: &ResourceQuota| quota.status.as_ref().and_then(|status| status.hard.clone());
    old.spec == new.spec && hard(old) == hard(new)
}

/// What of a pod can change what it uses: its end, and its resources.
fn uses(pod: &Pod) -> (bool, client::resources::Amounts) {
    (pods::is_terminal(pod), client::resources::requested(pod))
}

fn count(
    context: &Context,
    census: &Census,
    namespace: &str,
    quota: &ResourceQuota,
) -> BTreeMap<String, Quantity> {
    let (pods, services, claims) = (
        context.pods.list_in(namespace),
        context.services.list_in(namespace),
        context.claims.list_in(namespace),
    );
    let population = Population {
        pods: &pods.iter().map(AsRef::as_ref).collect::<Vec<_>>(),
        services: &services.iter().map(AsRef::as_ref).collect::<Vec<_>>(),
        claims: &claims.iter().map(AsRef::as_ref).collect::<Vec<_>>(),
        count: &|group, plural| census.count(group, plural, namespace),
    };
    usage::used(quota, &population)
}

async fn reconcile(context: &Context, census: &Census, key: &Key) -> kube::Result<Outcome> {
    let Some(quota) = context.quotas.by_key(key) else {
        return Ok(Outcome::Done);
    };
    if quota.metadata.deletion_timestamp.is_some() {
        return Ok(Outcome::Done);
    }
    let namespace = &key.namespace;
    let status = ResourceQuotaStatus {
        hard: quota.spec.as_ref().and_then(|spec| spec.hard.clone()),
        used: Some(count(context, census, namespace, &quota)),
    };
    let known = quota.status.clone().unwrap_or_default();
    let same = known.hard.unwrap_or_default() == status.hard.clone().unwrap_or_default()
        && known.used.unwrap_or_default() == status.used.clone().unwrap_or_default();
    if !same {
        let mut changed = (*quota).clone();
        changed.status = Some(status);
        let api = context.api::<ResourceQuota>(namespace);
        context.write_status(&api, &context.quotas, &changed).await?;
    }
    Ok(Outcome::After(RECOUNT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_server_counted_is_not_counted_anew() {
        let quota = |hard: &str, used: &str| -> ResourceQuota {
            let value = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": hard}},
                "status": {"hard": {"pods": "2"}, "used": {"pods": used}}});
            serde_json::from_value(value).expect("a quota")
        };
        assert!(asks_the_same(&quota("2", "0"), &quota("2", "1")));
        assert!(!asks_the_same(&quota("2", "1"), &quota("3", "1")));
    }
}
