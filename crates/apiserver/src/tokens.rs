//! TokenRequest: a token for a service account, bound to what asks for it.

use crate::authn::token::{self, TokenSpec};
use crate::call::{Call, Response};
use crate::http::respond;
use crate::http::status::Status;
use crate::rest::{check_kind_of, meta};
use crate::store::{Freshness, builtin};
use schema::Resource;
use serde_json::{Value, json};

/// Limits of a token's life; upstream's.
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
const DEFAULT_SECONDS: i64 = 3600;

/// Answers a TokenRequest.
pub async fn request(call: &Call, accounts: &'static Resource, body: &[u8]) -> Result<Response, Status> {
    let mut request = call.decode(body)?.value;
    check_kind_of("authentication.k8s.io/v1", "TokenRequest", &mut request)?;
    let store = &call.server.store;
    let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
    let account = store.get(accounts, namespace, name, Freshness::Newest).await?;
    let account = account.ok_or_else(|| Status::not_found(accounts, name))?.value();
    let seconds = request["spec"]["expirationSeconds"]
        .as_i64()
        .unwrap_or(DEFAULT_SECONDS);
    if !(MIN_SECONDS..=MAX_SECONDS).contains(&seconds) {
        let why =
            format!("may not specify a duration less than 10 minutes or more than 2^32 seconds: {seconds}");
        return Err(Status::new(
            422,
            "Invalid",
            format!(
                "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: {why}"
            ),
        ));
    }
    let audiences = request["spec"]["audiences"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut spec = TokenSpec {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: meta::text(&account, "uid").to_owned(),
        audiences: audiences
            .iter()
            .filter_map(|a| a.as_str().map(str::to_owned))
            .collect(),
        seconds,
        ..TokenSpec::default()
    };
    bind(call, &request["spec"]["boundObjectRef"], &mut spec)?;
    let (token, end) = token::issue(&call.server.issuer, &spec)
        .ok_or_else(|| Status::internal("the token cannot be signed"))?;
    request["metadata"] = json!({
        "name": name, "namespace": namespace, "creationTimestamp": crate::time::now(),
    });
    request["spec"]["expirationSeconds"] = seconds.into();
    request["spec"]["audiences"] = if spec.audiences.is_empty() {
        json!([call.server.issuer.url])
    } else {
        json!(spec.audiences)
    };
    request["status"] = json!({"token": token, "expirationTimestamp": crate::time::format(end)});
    respond::value(call.accept, 201, &request)
}

/// Binds the token to a pod, secret or node, which must exist. A kubelet must bind it to a pod of its own.
fn bind(call: &Call, reference: &Value, spec: &mut TokenSpec) -> Result<(), Status> {
    let accounts = builtin("", "serviceaccounts").ok_or_else(Status::no_such_path)?;
    let refuse = |why: &str| Err(Status::forbidden(accounts, &spec.name, why));
    let (kind, name) = (
        reference["kind"].as_str().unwrap_or_default(),
        reference["name"].as_str().unwrap_or_default(),
    );
    if reference.is_null() || kind.is_empty() {
        if call.user.node().is_some() {
            return refuse("node requested token not bound to a pod");
        }
        return Ok(());
    }
    let (claim, plural, namespace) = match kind {
        "Pod" => ("pod", "pods", spec.namespace.as_str()),
        "Secret" => ("secret", "secrets", spec.namespace.as_str()),
        "Node" => ("node", "nodes", ""),
        other => {
            return Err(Status::bad_request(format!(
                "cannot bind token to object of type {other}"
            )));
        }
    };
    let resource = builtin("", plural).ok_or_else(Status::no_such_path)?;
    let store = &call.server.store;
    let object = store
        .cached(resource, namespace, name)
        .ok_or_else(|| Status::not_found(resource, name))?
        .value();
    let uid = meta::text(&object, "uid").to_owned();
    if reference["uid"]
        .as_str()
        .is_some_and(|wanted| !wanted.is_empty() && wanted != uid)
    {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been \
             deleted and then recreated",
            reference["uid"].as_str().unwrap_or_default()
        );
        return Err(Status::conflict(resource, name, why));
    }
    if let Some(node) = call.user.node() {
        if kind != "Pod" {
            return refuse("node requested token not bound to a pod");
        }
        if object["spec"]["nodeName"] != node {
            return refuse("node requested token bound to a pod scheduled on a different node");
        }
    }
    if kind == "Pod" {
        if object["spec"]["serviceAccountName"].as_str().unwrap_or("default") != spec.name {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                spec.name
            )));
        }
        if let Some(node) = object["spec"]["nodeName"].as_str()
            && let Some(node) = store.cached_by_name("", "nodes", "", node)
        {
            let uid = meta::text(&node.value(), "uid").to_owned();
            spec.node = Some((node.name.to_string(), uid));
        }
    }
    spec.bound = Some((claim, name.to_owned(), uid));
    Ok(())
}
