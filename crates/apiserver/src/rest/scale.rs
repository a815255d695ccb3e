//! `scale` of workloads and of custom resources.

use super::managed::{self, Writer};
use super::patch::Patch;
use super::update::{self, Part};
use super::{apply, check_kind_of, meta, read};
use crate::call::{Call, Response};
use crate::http::respond;
use crate::http::status::Status;
use crate::store::Version;
use schema::Resource;
use schema::custom::Scale;
use serde_json::{Value, json};

/// Where a resource keeps what a `Scale` shows.
struct Paths(Option<Scale>);

impl Paths {
    fn of(resource: &Resource) -> Self {
        Self(resource.custom.get().and_then(|custom| custom.scale.clone()))
    }

    fn wanted(&self) -> Vec<&str> {
        match &self.0 {
            Some(scale) => scale.spec_replicas.iter().map(String::as_str).collect(),
            None => vec!["spec", "replicas"],
        }
    }

    fn present(&self) -> Vec<&str> {
        match &self.0 {
            Some(scale) => scale.status_replicas.iter().map(String::as_str).collect(),
            None => vec!["status", "replicas"],
        }
    }

    /// The selector as text.
    fn selector(&self, resource: &Resource, value: &Value) -> String {
        match &self.0 {
            Some(scale) => {
                let path = scale.selector.iter().flatten();
                let found = path.fold(value, |value, name| &value[name.as_str()]);
                found.as_str().unwrap_or_default().to_owned()
            }
            None if resource.is("", "replicationcontrollers") => {
                let labels = value["spec"]["selector"].as_object().into_iter().flatten();
                labels
                    .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
                    .collect::<Vec<_>>()
                    .join(",")
            }
            None => selector_text(&value["spec"]["selector"]),
        }
    }
}

fn number(value: &Value, path: &[&str]) -> i64 {
    let found = path.iter().fold(value, |value, name| &value[*name]);
    found.as_i64().unwrap_or(0)
}

fn set_number(value: &mut Value, path: &[&str], number: i64) {
    let mut place = value;
    for name in path {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[*name];
    }
    *place = number.into();
}

/// The `Scale` of an object.
fn scale_of(resource: &Resource, value: &Value) -> Value {
    let paths = Paths::of(resource);
    let metadata = &value["metadata"];
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {"replicas": number(value, &paths.wanted())},
        "status": {"replicas": number(value, &paths.present())},
    });
    if !resource.namespaced {
        meta::of(&mut scale).remove("namespace");
    }
    let text = paths.selector(resource, value);
    if !text.is_empty() {
        scale["status"]["selector"] = text.into();
    }
    scale
}

/// The string form of a structured label selector.
fn selector_text(selector: &Value) -> String {
    let mut parts = Vec::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        parts.push(format!("{key}={}", value.as_str().unwrap_or_default()));
    }
    for requirement in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = requirement["key"].as_str().unwrap_or_default();
        let values: Vec<&str> = requirement["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        parts.push(match requirement["operator"].as_str() {
            Some("In") => format!("{key} in ({})", values.join(",")),
            Some("NotIn") => format!("{key} notin ({})", values.join(",")),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.sort();
    parts.join(",")
}

/// Answers a request for a scale.
pub async fn answer(call: &Call, resource: &'static Resource, body: &[u8]) -> Result<Response, Status> {
    let store = &call.server.store;
    let stored = store.cache(resource)?.resource;
    let object = if call.info.verb == "get" {
        let (namespace, name) = (&call.info.namespace, &call.info.name);
        let found = store
            .get(resource, namespace, name, read::freshness(call)?)
            .await?;
        found.ok_or_else(|| Status::not_found(resource, name))?
    } else if managed::is_apply(call) {
        applied(call, resource, body).await?.object().clone()
    } else {
        changed(call, resource, body).await?.object().clone()
    };
    let value = Version::new(resource, stored).value(&object);
    respond::value(call.accept, 200, &scale_of(resource, &value))
}

/// PUT and PATCH.
async fn changed(call: &Call, resource: &'static Resource, body: &[u8]) -> Result<update::Outcome, Status> {
    let patch = if call.info.verb == "patch" {
        Some(Patch::decode(call, false, body)?)
    } else {
        None
    };
    let wanted = if patch.is_none() {
        call.decode(body)?.value
    } else {
        Value::Null
    };
    update::update(call, resource, Part::Main, |old| {
        let mut scale = match &patch {
            // Scale has no lists: its strategic merge is a merge.
            Some(Patch::Strategic(patch)) => schema::merge_patch(&scale_of(resource, old), patch),
            Some(patch) => patch.apply(resource, &scale_of(resource, old))?,
            None => wanted.clone(),
        };
        check_kind_of("autoscaling/v1", "Scale", &mut scale)?;
        let replicas = replicas(call, &scale)?;
        let mut new = old.clone();
        set_number(&mut new, &Paths::of(resource).wanted(), replicas);
        for field in ["resourceVersion", "uid"] {
            match scale["metadata"][field].as_str().filter(|text| !text.is_empty()) {
                Some(text) => new["metadata"][field] = text.into(),
                // A scale may leave out what the object itself may not.
                None if !resource.unconditional_update => {}
                None => {
                    meta::of(&mut new).remove(field);
                }
            }
        }
        Ok(new)
    })
    .await
}

/// Server-side apply: the number of replicas belongs to the client.
async fn applied(call: &Call, resource: &'static Resource, body: &[u8]) -> Result<update::Outcome, Status> {
    let mut scale = crate::yaml::decode(body)?.value;
    check_kind_of("autoscaling/v1", "Scale", &mut scale)?;
    let replicas = replicas(call, &scale)?;
    let force = apply::force(call)?;
    let writer = Writer::of(call, resource, Part::Main);
    let mut config = json!({
        "apiVersion": resource.api_version(), "kind": resource.kind, "metadata": {"name": call.info.name},
    });
    set_number(&mut config, &Paths::of(resource).wanted(), replicas);
    update::update(call, resource, Part::Main, |old| {
        schema::apply::apply(resource, old, &config, &writer.manager(), force)
            .map_err(|error| apply::failure(call, resource, error))
    })
    .await
}

fn replicas(call: &Call, scale: &Value) -> Result<i64, Status> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        return Err(negative_replicas(&call.info.name, replicas));
    }
    Ok(replicas)
}

fn negative_replicas(name: &str, replicas: i64) -> Status {
    let why = format!("Invalid value: {replicas}: must be greater than or equal to 0");
    let mut status = Status::new(
        422,
        "Invalid",
        format!("Scale.autoscaling \"{name}\" is invalid: spec.replicas: {why}"),
    );
    status.details = json!({"name": name, "group": "autoscaling", "kind": "Scale", "causes": [
        {"reason": "FieldValueInvalid", "message": why, "field": "spec.replicas"},
    ]})
    .as_object()
    .cloned()
    .unwrap_or_default();
    status
}
