//! Acting as somebody else: `Impersonate-*` headers, allowed by the verb `impersonate`.

use crate::authn::{AUTHENTICATED, User};
use crate::authz::{Attributes, refusal};
use crate::http::query::decode_path;
use crate::http::status::Status;
use crate::server::Server;
use http::HeaderMap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the names of all these headers begin with.
const PREFIX: &str = "impersonate-";
const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// The user that a request is to be handled as.
pub fn apply(server: &Server, user: Arc<User>, headers: &HeaderMap) -> Result<Arc<User>, Status> {
    if !headers.keys().any(|name| name.as_str().starts_with(PREFIX)) {
        return Ok(user);
    }
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let groups: Vec<String> = headers
        .get_all(GROUP)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .map(str::to_owned)
        .collect();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let (Some(key), Ok(value)) = (name.as_str().strip_prefix(EXTRA), value.to_str()) {
            extra.entry(decode_path(key)).or_default().push(value.to_owned());
        }
    }
    let Some(name) = text(USER) else {
        if groups.is_empty() && extra.is_empty() && text(UID).is_none() {
            return Ok(user);
        }
        return Err(Status::internal(
            "requested groups, uid or extra without impersonating a user",
        ));
    };
    let may = |group: &str, resource: &str, subresource: &str, name: &str, namespace: &str| {
        let wanted = Attributes {
            verb: "impersonate".into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            namespace: namespace.into(),
            ..Attributes::default()
        };
        let allowed = server.authorizer.allows(&server.store, &user, &wanted);
        allowed.map_err(|reason| {
            let what = format!(
                "{resource} \"{name}\" is forbidden: {}",
                refusal(&user, &wanted, &reason)
            );
            Status::new(403, "Forbidden", what)
        })
    };
    let account = name
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'));
    let mut new = User {
        name: name.clone(),
        uid: text(UID).unwrap_or_default(),
        groups,
        extra,
    };
    match account {
        Some((namespace, account)) => {
            may("", "serviceaccounts", "", account, namespace)?;
            if new.groups.is_empty() {
                new.groups = vec![
                    "system:serviceaccounts".into(),
                    format!("system:serviceaccounts:{namespace}"),
                ];
            }
        }
        None => may("", "users", "", &name, "")?,
    }
    for group in headers.get_all(GROUP).iter().filter_map(|v| v.to_str().ok()) {
        may("", "groups", "", group, "")?;
    }
    if !new.uid.is_empty() {
        may("authentication.k8s.io", "uids", "", &new.uid, "")?;
    }
    for (key, values) in &new.extra {
        for value in values {
            may("authentication.k8s.io", "userextras", key, value, "")?;
        }
    }
    let anonymous = new.name == "system:anonymous";
    if anonymous {
        new.groups.push("system:unauthenticated".into());
    } else if !new.is_in(AUTHENTICATED) {
        new.groups.push(AUTHENTICATED.into());
    }
    Ok(Arc::new(new))
}
