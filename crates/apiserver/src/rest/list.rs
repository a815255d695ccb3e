//! GET of a collection: from the cache when the newest state or any is wanted, from the state store when a
//! certain revision is.

use super::read;
use crate::call::{Call, Response};
use crate::http::respond::{self, ListMeta};
use crate::http::status::Status;
use crate::store::{Freshness, Object, object};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use schema::Resource;
use schema::selectors::{FieldSelector, LabelSelector};
use serde_json::{Value, json};
use state::Range;
use std::sync::Arc;

/// Which objects are wanted.
#[derive(Clone, Debug, Default)]
pub struct Selectors {
    labels: LabelSelector,
    fields: FieldSelector,
    name: Option<String>,
}

impl Selectors {
    /// Reads `labelSelector` and `fieldSelector`.
    pub fn read(call: &Call, resource: &Resource) -> Result<Self, Status> {
        let bad = |what: &str, e: &dyn std::fmt::Display| {
            Status::bad_request(format!("unable to parse requirement in {what}: {e}"))
        };
        let labels = call.query.get("labelSelector").unwrap_or_default();
        let labels = LabelSelector::parse(labels).map_err(|e| bad("labelSelector", &e))?;
        let fields = call.query.get("fieldSelector").unwrap_or_default();
        let fields = FieldSelector::parse(fields).map_err(|e| bad("fieldSelector", &e))?;
        for field in fields.fields() {
            if !schema::is_selectable(resource, field) {
                return Err(Status::bad_request(format!(
                    "field label not supported: {field} (for {})",
                    resource.qualified_kind()
                )));
            }
        }
        let fields = schema::stored_selector(resource, &fields);
        let name = (!call.info.name.is_empty()).then(|| call.info.name.clone());
        Ok(Self { labels, fields, name })
    }

    /// Whether an object is wanted.
    pub fn matches(&self, object: &Object) -> bool {
        self.name.as_ref().is_none_or(|name| *name == *object.name)
            && (self.labels.is_empty() || self.labels.matches(Some(&object.labels)))
            && (self.fields.is_empty() || self.fields.matches(&object.fields))
    }

    /// Whether every object is wanted.
    pub fn is_empty(&self) -> bool {
        self.name.is_none() && self.labels.is_empty() && self.fields.is_empty()
    }
}

/// Where a page starts, as `continue` carries it.
struct Continue {
    revision: i64,
    start: String,
}

impl Continue {
    fn parse(text: &str) -> Result<Self, Status> {
        let bad = || Status::bad_request("continue key is not valid");
        let bytes = BASE64.decode(text).map_err(|_| bad())?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        let revision = value["rv"].as_i64().ok_or_else(bad)?;
        let start = value["start"].as_str().ok_or_else(bad)?.to_owned();
        if start.split('/').any(|part| part == "..") {
            return Err(bad());
        }
        Ok(Self { revision, start })
    }

    fn encode(&self) -> String {
        BASE64.encode(json!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": self.start}).to_string())
    }
}

/// Answers a list.
pub async fn list(call: &Call, resource: &'static Resource) -> Result<Response, Status> {
    let selectors = Selectors::read(call, resource)?;
    let limit = usize::try_from(call.query.number("limit")?.unwrap_or(0)).unwrap_or(0);
    let rule = call.query.get("resourceVersionMatch");
    let revision = call.query.get("resourceVersion");
    let prefix = object::list_prefix(resource, &call.info.namespace);
    if let Some(text) = call.query.get("continue") {
        if revision.is_some_and(|r| r != "0") || rule.is_some() {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let from = Continue::parse(text)?;
        let start = from.start.clone();
        return match from_backend(call, resource, &prefix, &selectors, limit, from).await {
            Err(status) if status.code == GONE => Ok(expired(start)),
            other => other,
        };
    }
    check_match(rule, revision)?;
    // A page of a certain revision is of exactly that one, as it was before there were rules.
    let page = rule.is_none() && limit > 0 && !matches!(revision, None | Some("" | "0"));
    let exact = rule == Some("Exact") || page;
    if exact {
        let revision = revision.unwrap_or_default();
        let revision = revision.parse().map_err(|_| read::invalid_revision(revision))?;
        let from = Continue {
            revision,
            start: String::new(),
        };
        return match from_backend(call, resource, &prefix, &selectors, limit, from).await {
            Err(status) if status.code == GONE => Err(Status::expired(
                "The resourceVersion for the provided list is too old.",
            )),
            other => other,
        };
    }
    from_cache(call, resource, &prefix, &selectors, limit).await
}

/// Code of a status that says that a revision is not kept any more.
const GONE: u16 = 410;
/// The revision of a token that goes on with whatever is newest.
const INCONSISTENT: i64 = -1;

/// The revision of a token has been compacted: the rest of the list can be had as it is now.
fn expired(start: String) -> Response {
    let status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of \
         the results. Continuing with the provided token results in an inconsistent list - objects that were \
         created, modified, or deleted between the time the first chunk was returned and now may show up in the \
         list.",
    );
    let token = Continue {
        revision: INCONSISTENT,
        start,
    };
    let mut value = status.to_value();
    value["metadata"]["continue"] = token.encode().into();
    respond::json(status.code, &value)
}

/// The rules for `resourceVersionMatch`.
fn check_match(rule: Option<&str>, revision: Option<&str>) -> Result<(), Status> {
    match (rule, revision) {
        (None, _) | (Some("NotOlderThan"), Some(_)) => Ok(()),
        (Some("Exact"), Some(revision)) if revision != "0" => Ok(()),
        (Some("Exact"), Some(_)) => Err(Status::bad_request(
            "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        )),
        (Some("NotOlderThan" | "Exact"), None) => Err(Status::bad_request(
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        )),
        (Some(other), _) => Err(Status::bad_request(format!(
            "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
        ))),
    }
}

async fn from_cache(
    call: &Call,
    resource: &'static Resource,
    prefix: &str,
    selectors: &Selectors,
    limit: usize,
) -> Result<Response, Status> {
    let store = &call.server.store;
    let freshness = read::freshness(call)?;
    // Read before the list: a change that the list holds already has at most a higher revision than this.
    let reached = store.fresh(freshness).await?;
    let cache = store.cache(resource)?;
    let (mut objects, last) = cache.list(prefix);
    let mut meta = ListMeta {
        revision: reached.max(last),
        ..ListMeta::default()
    };
    if !selectors.is_empty() {
        objects.retain(|object| selectors.matches(object));
    }
    // Any state at all is wanted: upstream ignores the limit then.
    if limit > 0 && objects.len() > limit && freshness != Freshness::Any {
        if selectors.is_empty() {
            meta.remaining = i64::try_from(objects.len() - limit).ok();
        }
        objects.truncate(limit);
        if let Some(last) = objects.last() {
            let start = last.key[prefix.len()..].to_owned() + "\0";
            meta.next = Some(
                Continue {
                    revision: meta.revision,
                    start,
                }
                .encode(),
            );
        }
    }
    respond::list(call, resource, cache.resource, &meta, objects)
}

/// A page as of one revision, which the cache does not keep.
async fn from_backend(
    call: &Call,
    resource: &'static Resource,
    prefix: &str,
    selectors: &Selectors,
    limit: usize,
    mut from: Continue,
) -> Result<Response, Status> {
    if from.revision == INCONSISTENT {
        // The newest state, and the same one for all that is left.
        from.revision = call.server.store.backend().revision().await?;
    }
    let store = &call.server.store;
    let stored = store.cache(resource)?.resource;
    let end = object::prefix_end(prefix);
    let mut start = format!("{prefix}{}", from.start);
    let mut objects: Vec<Arc<Object>> = Vec::new();
    let mut meta = ListMeta {
        revision: from.revision,
        ..ListMeta::default()
    };
    loop {
        // With selectors a page of the store may hold few objects that are wanted.
        let wanted = if limit == 0 {
            0
        } else {
            i64::try_from(limit - objects.len()).unwrap_or(0)
        };
        let range = Range {
            start: &start,
            end: &end,
            limit: wanted,
            revision: from.revision,
        };
        let page = store.backend().range(range).await?;
        let read = page.records.len();
        for record in page.records {
            start = format!("{}\0", record.key);
            let object = store.decode(stored, &record).map_err(Status::internal)?;
            if selectors.matches(&object) {
                objects.push(object);
            }
        }
        if !page.more {
            break;
        }
        if objects.len() >= limit {
            let from = Continue {
                revision: from.revision,
                start: start[prefix.len()..].to_owned(),
            };
            meta.next = Some(from.encode());
            if selectors.is_empty() {
                meta.remaining = Some(page.count - i64::try_from(read).unwrap_or(0));
            }
            break;
        }
    }
    respond::list(call, resource, stored, &meta, objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continue_round_trips_and_is_checked() {
        let text = Continue {
            revision: 5,
            start: "a/b\0".into(),
        }
        .encode();
        let parsed = Continue::parse(&text).unwrap();
        assert_eq!((parsed.revision, parsed.start.as_str()), (5, "a/b\0"));
        assert!(Continue::parse("???").is_err());
        assert!(
            Continue::parse(
                &Continue {
                    revision: 5,
                    start: "../x".into()
                }
                .encode()
            )
            .is_err()
        );
    }

    #[test]
    fn match_needs_a_revision() {
        assert!(check_match(None, None).is_ok());
        assert!(check_match(Some("Exact"), Some("5")).is_ok());
        assert!(check_match(Some("Exact"), Some("0")).is_err());
        assert!(check_match(Some("NotOlderThan"), None).is_err());
        assert!(check_match(Some("x"), Some("5")).is_err());
    }
}
