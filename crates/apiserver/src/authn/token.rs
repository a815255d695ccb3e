//! Service-account tokens: what they claim, and whether that still holds.

use super::issuer::Issuer;
use super::{AUTHENTICATED, SERVICE_ACCOUNT_PREFIX, SERVICE_ACCOUNTS, User};
use crate::store::{Object, ResourceCache, Store, builtin, object};
use crate::time;
use serde::Deserialize;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::Arc;

/// What a token is for.
#[derive(Clone, Debug, Default)]
pub struct TokenSpec {
    /// Namespace of the service account.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// For whom it is; empty means the API server.
    pub audiences: Vec<String>,
    /// How long it is valid, in seconds.
    pub seconds: i64,
    /// What it is bound to: `pod`, `secret` or `node`, its name and uid.
    pub bound: Option<(&'static str, String, String)>,
    /// The node of the pod that it is bound to: name and uid.
    pub node: Option<(String, String)>,
}

/// Signs a token. Returns it with its end in seconds since 1970.
pub fn issue(issuer: &Issuer, spec: &TokenSpec) -> Option<(String, i64)> {
    let now = time::unix_seconds();
    let end = now + spec.seconds;
    let audiences = if spec.audiences.is_empty() {
        vec![issuer.url.clone()]
    } else {
        spec.audiences.clone()
    };
    let mut private = json!({
        "namespace": spec.namespace,
        "serviceaccount": {"name": spec.name, "uid": spec.uid},
    });
    if let Some((kind, name, uid)) = &spec.bound {
        private[*kind] = json!({"name": name, "uid": uid});
    }
    if let Some((name, uid)) = &spec.node {
        private["node"] = json!({"name": name, "uid": uid});
    }
    let claims = json!({
        "aud": audiences, "exp": end, "iat": now, "nbf": now, "iss": issuer.url,
        "jti": uuid::Uuid::new_v4().to_string(),
        "kubernetes.io": private,
        "sub": format!("{SERVICE_ACCOUNT_PREFIX}{}:{}", spec.namespace, spec.name),
    });
    Some((issuer.sign(&claims)?, end))
}

/// A token that holds: its user and those of the asked audiences that it is for.
#[derive(Debug)]
pub struct Verified {
    /// The user.
    pub user: User,
    /// Audiences that it is for.
    pub audiences: Vec<String>,
    /// As long as this holds, another look at the token finds the same. None if that is not known.
    pub basis: Option<Basis>,
}

/// What the validity of a token rests on.
#[derive(Debug)]
pub struct Basis {
    /// Seconds since 1970.
    end: i64,
    objects: Vec<Found>,
}

impl Basis {
    /// Whether all of it is as it was.
    pub fn holds(&self) -> bool {
        let unchanged = |found: &Found| {
            let now = found.cache.get(&found.object.key);
            now.is_some_and(|now| Arc::ptr_eq(&now, &found.object))
        };
        time::unix_seconds() < self.end && self.objects.iter().all(unchanged)
    }
}

/// An object that a token needs.
struct Found {
    cache: Arc<ResourceCache>,
    object: Arc<Object>,
    /// It is being deleted, so that the passing of time changes what it is worth.
    leaving: bool,
}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.object.key)
    }
}

/// Checks signature, time, audience, and that the service account and what the token is bound to still exist.
pub fn verify(issuer: &Issuer, store: &Store, token: &str, audiences: &[String]) -> Option<Verified> {
    let claims = issuer.verify(token)?;
    let now = time::unix_seconds();
    let end = claims["exp"].as_i64()?;
    let in_time = end > now && claims["nbf"].as_i64().is_none_or(|from| from <= now);
    if claims["iss"] != issuer.url.as_str() || !in_time {
        return None;
    }
    let of_token = strings(&claims["aud"]);
    let audiences: Vec<String> = audiences
        .iter()
        .filter(|a| of_token.contains(a))
        .cloned()
        .collect();
    if audiences.is_empty() {
        return None;
    }
    let private = &claims["kubernetes.io"];
    let namespace = private["namespace"].as_str()?;
    let (name, uid) = reference(&private["serviceaccount"])?;
    let mut objects = vec![exists(store, "serviceaccounts", namespace, name, uid)?];
    let mut user = User {
        name: format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
        uid: uid.to_owned(),
        groups: vec![
            SERVICE_ACCOUNTS.into(),
            format!("{SERVICE_ACCOUNTS}:{namespace}"),
            AUTHENTICATED.into(),
        ],
        ..User::default()
    };
    if claims["sub"] != user.name.as_str() {
        return None;
    }
    let mut note = |key: &str, value: &str| {
        user.extra.insert(
            format!("authentication.kubernetes.io/{key}"),
            vec![value.to_owned()],
        );
    };
    if let Some(jti) = claims["jti"].as_str() {
        note("credential-id", &format!("JTI={jti}"));
    }
    if let Some((name, uid)) = reference(&private["pod"]) {
        objects.push(exists(store, "pods", namespace, name, uid)?);
        note("pod-name", name);
        note("pod-uid", uid);
    }
    if let Some((name, uid)) = reference(&private["secret"]) {
        objects.push(exists(store, "secrets", namespace, name, uid)?);
    }
    if let Some((name, uid)) = reference(&private["node"]) {
        // A token of a pod only tells its node; one of a node itself is bound to it.
        if private["pod"].is_null() {
            objects.push(exists(store, "nodes", "", name, uid)?);
        }
        note("node-name", name);
        note("node-uid", uid);
    }
    let lasting = objects.iter().all(|found| !found.leaving);
    Some(Verified {
        user,
        audiences,
        basis: lasting.then_some(Basis { end, objects }),
    })
}

fn reference(value: &Value) -> Option<(&str, &str)> {
    Some((value["name"].as_str()?, value["uid"].as_str()?))
}

/// An object with this uid, if it exists and is not being deleted for longer than a token of it may still be used.
fn exists(store: &Store, plural: &str, namespace: &str, name: &str, uid: &str) -> Option<Found> {
    /// Upstream's leeway: containers that stop may still use the API.
    const DELETION_LEEWAY_SECONDS: i64 = 60;
    let resource = builtin("", plural)?;
    let cache = store.cache(resource).ok()?;
    let object = cache.get(&object::key(resource, namespace, name))?;
    // With each request: only what is asked for is read, the rest is skipped where it lies.
    let Identified { metadata } = serde_json::from_slice(&object.bytes).ok()?;
    let deleted = metadata.deletion_timestamp.and_then(|t| time::parse(&t));
    let until = deleted.map_or(i64::MAX, |at| at.saturating_add(DELETION_LEEWAY_SECONDS));
    (metadata.uid == uid && until > time::unix_seconds()).then_some(Found {
        cache,
        leaving: deleted.is_some(),
        object,
    })
}

/// What [`exists`] reads of an object.
#[derive(Deserialize)]
struct Identified<'a> {
    #[serde(borrow)]
    metadata: Identity<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity<'a> {
    #[serde(borrow)]
    uid: Cow<'a, str>,
    #[serde(borrow)]
    deletion_timestamp: Option<Cow<'a, str>>,
}

/// A string or a list of strings.
fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::String(one) => vec![one.clone()],
        Value::Array(many) => many
            .iter()
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect(),
        _ => Vec::new(),
    }
}
