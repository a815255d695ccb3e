//! Bootstrap tokens that have expired are deleted: they let machines join the cluster.

use crate::context::{Context, settle};
use client::{Informer, Key, Outcome, Queue};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams};
use kube::runtime::watcher;
use std::sync::Arc;
use std::time::Duration;

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const EXPIRATION: &str = "expiration";
/// Tokens worked on at once.
const CONCURRENCY: usize = 1;
/// Longest pause: clocks may be set.
const RECHECK_MAX: Duration = Duration::from_secs(3600);

/// The controller.
pub struct Controller {
    context: Arc<Context>,
    tokens: Informer<Secret>,
    queue: Arc<Queue<Key>>,
}

impl Controller {
    /// Registers its handlers.
    pub fn new(context: &Arc<Context>) -> Self {
        let queue = Arc::new(Queue::new());
        let tokens = Informer::<Secret>::new();
        let keys = queue.clone();
        tokens.on_change(move |change| keys.add(Key::of(&**change.object())));
        Self {
            context: context.clone(),
            tokens,
            queue,
        }
    }

    /// Works until dropped.
    pub async fn run(self) {
        let (context, tokens) = (&self.context, &self.tokens);
        let work = self.queue.work(CONCURRENCY, |key| async move {
            let result = reconcile(context, tokens, &key).await;
            settle("tokencleaner", &key, result)
        });
        let config = watcher::Config::default().fields(&format!("type={TYPE}"));
        tokio::join!(tokens.run(context.api(NAMESPACE), config), work);
    }
}

/// When the token ends; a token without an end, or with one that cannot be read, never does.
fn expiration(token: &Secret) -> Option<Timestamp> {
    let text = token.data.as_ref()?.get(EXPIRATION)?;
    String::from_utf8(text.0.clone()).ok()?.parse().ok()
}

async fn reconcile(context: &Context, tokens: &Informer<Secret>, key: &Key) -> kube::Result<Outcome> {
    let Some(token) = tokens.by_key(key) else {
        return Ok(Outcome::Done);
    };
    let Some(end) = expiration(&token) else {
        return Ok(Outcome::Done);
    };
    if let Ok(left) = Duration::try_from(end.duration_since(Timestamp::now()))
        && !left.is_zero()
    {
        return Ok(Outcome::After(left.min(RECHECK_MAX)));
    }
    let api: Api<Secret> = context.api(&key.namespace);
    context
        .delete(&api, tokens, &*token, &DeleteParams::default())
        .await?;
    tracing::info!(token = key.name, "expired bootstrap token deleted");
    Ok(Outcome::Done)
}
