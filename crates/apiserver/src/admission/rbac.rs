//! Escalation check: nobody grants rights that he does not have himself, unless he may `escalate` or `bind`.

use crate::authn::MASTERS;
use crate::authz::rules::uncovered;
use crate::authz::{Attributes, Rule};
use crate::call::Call;
use crate::http::status::Status;
use schema::Resource;
use serde_json::Value;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Checks a role or binding that is about to be stored.
pub fn no_escalation(
    call: &Call,
    resource: &Resource,
    old: Option<&Value>,
    new: &Value,
) -> Result<(), Status> {
    if call.user.is_in(MASTERS) {
        return Ok(());
    }
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    let (verb, target, granted) = match resource.plural.as_ref() {
        "roles" | "clusterroles" => {
            if old.is_some_and(|old| {
                old["rules"] == new["rules"] && old["aggregationRule"] == new["aggregationRule"]
            }) {
                return Ok(());
            }
            if !new["aggregationRule"].is_null() && resource.plural == "clusterroles" {
                // Whoever aggregates can be granted anything by labels.
                let all = Rule {
                    verbs: vec!["*".into()],
                    groups: vec!["*".into()],
                    resources: vec!["*".into()],
                    ..Rule::default()
                };
                (
                    "escalate",
                    (resource.plural.to_string(), name.to_owned()),
                    vec![all],
                )
            } else {
                (
                    "escalate",
                    (resource.plural.to_string(), name.to_owned()),
                    Rule::list(new),
                )
            }
        }
        _ => {
            if old.is_some_and(|old| old["subjects"] == new["subjects"] && old["roleRef"] == new["roleRef"]) {
                return Ok(());
            }
            let role = new["roleRef"]["name"].as_str().unwrap_or_default().to_owned();
            let plural = if new["roleRef"]["kind"] == "Role" {
                "roles"
            } else {
                "clusterroles"
            };
            let namespace = if plural == "roles" {
                call.info.namespace.as_str()
            } else {
                ""
            };
            let granted = call.server.store.cached_by_name(GROUP, plural, namespace, &role);
            let Some(granted) = granted else {
                return Err(Status::new(
                    404,
                    "NotFound",
                    format!("{plural}.{GROUP} \"{role}\" not found"),
                ));
            };
            ("bind", (plural.to_owned(), role), Rule::list(&granted.value()))
        }
    };
    let wanted = Attributes {
        verb: verb.into(),
        group: GROUP.into(),
        namespace: call.info.namespace.clone(),
        resource: target.0,
        name: target.1,
        ..Attributes::default()
    };
    let store = &call.server.store;
    if call.server.authorizer.allows(store, &call.user, &wanted).is_ok() {
        return Ok(());
    }
    let owned = call
        .server
        .authorizer
        .rbac()
        .current(store)
        .rules(&call.user, &call.info.namespace);
    let missing = uncovered(&owned, &granted);
    if missing.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = missing.iter().map(ToString::to_string).collect();
    let why = format!(
        "user \"{}\" (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
        call.user.name,
        call.user.groups,
        list.join("\n")
    );
    Err(Status::forbidden(resource, name, why))
}
