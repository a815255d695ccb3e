//! Service account tokens, bound to their pod, kept until most of their life is over.

use super::{Error, PodView};
use crate::context::Context;
use crate::sync::lock;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ServiceAccount, ServiceAccountTokenProjection};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

/// Life that is asked for when the pod does not say, seconds (upstream's default).
const DEFAULT_LIFE_SECS: i64 = 3600;
/// A token is renewed when so much of its life is over, in percent.
const RENEW_AT_PERCENT: u32 = 80;
/// No token is used for longer, whatever its life, as upstream.
const MAX_USE: Duration = Duration::from_secs(24 * 3600);
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// (pod UID, audience, requested life).
type Key = (String, String, i64);

struct Held {
    token: String,
    renew: SystemTime,
    expires: SystemTime,
}

/// The tokens of the node's pods.
#[derive(Default)]
pub struct Tokens {
    held: Mutex<HashMap<Key, Held>>,
}

impl Tokens {
    /// The pod is gone.
    pub fn release(&self, uid: &str) {
        lock(&self.held).retain(|key, _| key.0 != uid);
    }

    /// When the first token of a pod must be renewed.
    pub fn next_renewal(&self, uid: &str) -> Option<SystemTime> {
        let held = lock(&self.held);
        held.iter()
            .filter(|(key, _)| key.0 == uid)
            .map(|(_, held)| held.renew)
            .min()
    }
}

/// When to renew a token that was issued at `now` and ends at `expires`.
fn renewal(now: SystemTime, expires: SystemTime) -> SystemTime {
    let life = expires.duration_since(now).unwrap_or_default();
    now + (life * RENEW_AT_PERCENT / 100).min(MAX_USE)
}

/// The token for a projection: a held one, or a new one from the API. While the API is away, a token that has
/// not expired is used on.
pub async fn token(
    context: &Context,
    pod: &PodView<'_>,
    source: &ServiceAccountTokenProjection,
) -> Result<String, Error> {
    let life = source.expiration_seconds.unwrap_or(DEFAULT_LIFE_SECS);
    let audience = source.audience.clone().unwrap_or_default();
    let key = (pod.id.uid.clone(), audience.clone(), life);
    let now = SystemTime::now();
    let usable = {
        let held = lock(&context.tokens.held);
        let found = held.get(&key).map(|h| (h.token.clone(), h.renew, h.expires));
        match found {
            Some((token, renew, _)) if now < renew => return Ok(token),
            Some((token, _, expires)) if now < expires => Some(token),
            _ => None,
        }
    };
    match request(context, pod, &audience, life).await {
        Ok((token, expires)) => {
            let held = Held {
                token: token.clone(),
                renew: renewal(now, expires),
                expires,
            };
            lock(&context.tokens.held).insert(key, held);
            Ok(token)
        }
        Err(error) => usable.ok_or(error),
    }
}

async fn request(
    context: &Context,
    pod: &PodView<'_>,
    audience: &str,
    life: i64,
) -> Result<(String, SystemTime), Error> {
    let spec = pod.pod.spec.as_ref();
    let account = spec
        .and_then(|s| s.service_account_name.clone())
        .filter(|n| !n.is_empty())
        .unwrap_or_else(|| "default".into());
    let request = TokenRequest {
        metadata: ObjectMeta::default(),
        spec: Some(TokenRequestSpec {
            audiences: (!audience.is_empty()).then(|| vec![audience.to_owned()]),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(pod.id.name.clone()),
                uid: Some(pod.id.uid.clone()),
            }),
            expiration_seconds: Some(life),
        }),
        status: None,
    };
    let api: Api<ServiceAccount> = Api::namespaced(context.client.clone(), &pod.id.namespace);
    let failed = |reason: String| {
        let namespace = &pod.id.namespace;
        Error::Source(format!(
            "failed to fetch token for serviceaccount {namespace}/{account}: {reason}"
        ))
    };
    let answer = tokio::time::timeout(
        TIMEOUT,
        api.create_token_request(&account, &kube::api::PostParams::default(), &request),
    )
    .await
    .map_err(|_| failed("no answer in time".into()))?
    .map_err(|e| failed(e.to_string()))?;
    let status = answer
        .status
        .ok_or_else(|| failed("the answer holds none".into()))?;
    match (status.token, status.expiration_timestamp) {
        (Some(token), Some(expires)) => Ok((token, SystemTime::from(expires.0))),
        _ => Err(failed("the answer holds none".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewed_at_four_fifths_of_its_life() {
        let now = SystemTime::UNIX_EPOCH;
        let after = |secs| {
            renewal(now, now + Duration::from_secs(secs))
                .duration_since(now)
                .expect("later")
        };
        assert_eq!(after(1000), Duration::from_secs(800));
        assert_eq!(after(365 * 24 * 3600), MAX_USE);
    }
}
