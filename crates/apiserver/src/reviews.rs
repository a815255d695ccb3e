//! Reviews: questions to the server about identities and rights; nothing is stored.

use crate::authn::{User, token};
use crate::authz::{Attributes, Rule};
use crate::call::{Call, Response};
use crate::http::accept::{ACCEPTED, Shape};
use crate::http::respond;
use crate::http::status::Status;
use crate::rest::{check_kind, subresource};
use schema::Resource;
use serde_json::{Map, Value, json};

/// Answers a POST of a review, or of a `Binding`.
pub async fn answer(call: &Call, resource: &'static Resource, body: &[u8]) -> Result<Response, Status> {
    if resource.is("", "bindings") {
        return subresource::post_binding(call, body).await;
    }
    refuse_table(call)?;
    let mut review = call.decode(body)?.value;
    check_kind(resource, &mut review)?;
    // Answers must not be older than the rights that the client has just written.
    call.server.store.fresh(crate::store::Freshness::Newest).await?;
    review["status"] = match resource.plural.as_ref() {
        "tokenreviews" => token_review(call, &review["spec"]),
        "selfsubjectreviews" => json!({"userInfo": call.user.to_value()}),
        "selfsubjectaccessreviews" => access(call, &call.user, &review["spec"])?,
        "subjectaccessreviews" => access(call, &subject(&review["spec"])?, &review["spec"])?,
        "localsubjectaccessreviews" => {
            if review["spec"]["resourceAttributes"]["namespace"] != call.info.namespace.as_str() {
                return Err(Status::bad_request(
                    "spec.resourceAttributes.namespace must match the namespace of the request",
                ));
            }
            access(call, &subject(&review["spec"])?, &review["spec"])?
        }
        "selfsubjectrulesreviews" => rules(call, &review["spec"])?,
        _ => return Err(Status::method_not_allowed()),
    };
    if !review["metadata"].is_object() {
        review["metadata"] = json!({"creationTimestamp": null});
    }
    respond::value(call.accept, 201, &review)
}

/// An answer is no object with columns.
fn refuse_table(call: &Call) -> Result<(), Status> {
    match call.accept.shape {
        Shape::Table(_) => Err(Status::not_acceptable(ACCEPTED)),
        Shape::Full | Shape::Metadata(_) => Ok(()),
    }
}

fn token_review(call: &Call, spec: &Value) -> Value {
    let own = call.server.issuer.url.clone();
    let asked: Vec<String> = spec["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    let audiences = if asked.is_empty() { vec![own] } else { asked };
    let token = spec["token"].as_str().unwrap_or_default();
    match token::verify(&call.server.issuer, &call.server.store, token, &audiences) {
        Some(verified) => {
            json!({"authenticated": true, "user": verified.user.to_value(), "audiences": verified.audiences})
        }
        None => json!({"user": {}, "error": "the token is not valid (any more) for this audience"}),
    }
}

fn subject(spec: &Value) -> Result<User, Status> {
    let strings = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect()
    };
    let user = User {
        name: spec["user"].as_str().unwrap_or_default().to_owned(),
        uid: spec["uid"].as_str().unwrap_or_default().to_owned(),
        groups: strings(&spec["groups"]),
        extra: spec["extra"]
            .as_object()
            .unwrap_or(&Map::new())
            .iter()
            .map(|(k, v)| (k.clone(), strings(v)))
            .collect(),
    };
    if user.name.is_empty() && user.groups.is_empty() {
        return Err(Status::bad_request(
            "at least one of user or group must be specified",
        ));
    }
    Ok(user)
}

fn access(call: &Call, user: &User, spec: &Value) -> Result<Value, Status> {
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let wanted = match (resource.is_object(), path.is_object()) {
        (true, false) => Attributes {
            verb: text(resource, "verb"),
            group: text(resource, "group"),
            namespace: text(resource, "namespace"),
            resource: text(resource, "resource"),
            subresource: text(resource, "subresource"),
            name: text(resource, "name"),
            fields: text(&resource["fieldSelector"], "rawSelector"),
            ..Attributes::default()
        },
        (false, true) => Attributes {
            verb: text(path, "verb"),
            path: text(path, "path"),
            ..Attributes::default()
        },
        _ => {
            return Err(Status::bad_request(
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ));
        }
    };
    Ok(
        match call.server.authorizer.allows(&call.server.store, user, &wanted) {
            Ok(()) => json!({"allowed": true}),
            Err(reason) if reason.is_empty() => json!({"allowed": false}),
            Err(reason) => json!({"allowed": false, "reason": reason}),
        },
    )
}

fn rules(call: &Call, spec: &Value) -> Result<Value, Status> {
    let namespace = spec["namespace"].as_str().unwrap_or_default();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let mut rules = call
        .server
        .authorizer
        .rbac()
        .current(&call.server.store)
        .rules(&call.user, namespace);
    if call.user.is_in(crate::authn::MASTERS) {
        let all = || vec!["*".to_owned()];
        rules.push(Rule {
            verbs: all(),
            groups: all(),
            resources: all(),
            ..Rule::default()
        });
        rules.push(Rule {
            verbs: all(),
            paths: all(),
            ..Rule::default()
        });
    }
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in rules {
        if !rule.paths.is_empty() {
            paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.paths}));
        }
        if !rule.resources.is_empty() {
            let mut entry =
                json!({"verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources});
            if !rule.names.is_empty() {
                entry["resourceNames"] = json!(rule.names);
            }
            resources.push(entry);
        }
    }
    Ok(
        json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": call.user.node().is_some()}),
    )
}
