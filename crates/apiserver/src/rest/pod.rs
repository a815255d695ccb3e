//! Changes of a running pod's containers: ephemeral ones are added, and the others get other resources.

use super::managed::{self, Writer};
use super::patch::Patch;
use super::subresource::show;
use super::update::{self, Part};
use super::{apply, check_kind_of, meta};
use crate::call::{Call, Response};
use crate::http::status::Status;
use crate::json::{items, items_mut};
use schema::{Cause, Resource};
use serde_json::{Map, Value};

/// Lists of containers whose resources can be changed.
const RESIZED: [&str; 2] = ["containers", "initContainers"];
/// What a resize takes from a container.
const OF_CONTAINER: [&str; 2] = ["resources", "resizePolicy"];

/// Answers a change of a pod's ephemeral containers.
pub async fn containers(call: &Call, resource: &'static Resource, body: &[u8]) -> Result<Response, Status> {
    let within = |config: &Value| {
        let containers = config["spec"].get("ephemeralContainers").cloned();
        containers
            .map(|list| ("ephemeralContainers".to_owned(), list))
            .into_iter()
            .collect()
    };
    let take = |_: &Value, wanted: &Value, new: &mut Value| {
        new["spec"]["ephemeralContainers"] = wanted["spec"]["ephemeralContainers"].clone();
        schema::default(resource, new);
        Vec::new()
    };
    change(
        call,
        resource,
        body,
        &within,
        &take,
        schema::validate_ephemeral_containers,
    )
    .await
}

/// Answers new resources of a pod's containers.
pub async fn resize(call: &Call, resource: &'static Resource, body: &[u8]) -> Result<Response, Status> {
    let within = |config: &Value| {
        let lists = RESIZED
            .iter()
            .filter(|list| !items(&config["spec"], list).is_empty());
        lists
            .map(|list| {
                (
                    (*list).to_owned(),
                    items(&config["spec"], list).iter().map(resources_of).collect(),
                )
            })
            .collect()
    };
    let take = |old: &Value, wanted: &Value, new: &mut Value| {
        let causes = schema::validate_same_containers(old, wanted);
        for list in RESIZED {
            for container in items_mut(new, &["spec", list]) {
                let same = items(&wanted["spec"], list)
                    .iter()
                    .find(|c| c["name"] == container["name"]);
                for field in same.iter().flat_map(|_| OF_CONTAINER) {
                    set(container, field, same.and_then(|same| same.get(field)));
                }
            }
        }
        schema::default(resource, new);
        causes
    };
    change(call, resource, body, &within, &take, schema::validate_resize).await
}

/// What of an applied container belongs to a resize.
fn resources_of(container: &Value) -> Value {
    let fields = ["name"].into_iter().chain(OF_CONTAINER);
    let kept = fields.filter_map(|field| Some((field.to_owned(), container.get(field)?.clone())));
    Value::Object(kept.collect())
}

fn set(object: &mut Value, field: &str, value: Option<&Value>) {
    let Some(map) = object.as_object_mut() else { return };
    match value {
        Some(value) => {
            map.insert(field.to_owned(), value.clone());
        }
        None => {
            map.shift_remove(field);
        }
    }
}

/// Changes the part of a pod that `take` takes from the wanted state; `within` is that part of a configuration.
async fn change(
    call: &Call,
    resource: &'static Resource,
    body: &[u8],
    within: &(dyn Fn(&Value) -> Map<String, Value> + Sync),
    take: &(dyn Fn(&Value, &Value, &mut Value) -> Vec<Cause> + Sync),
    check: fn(&Value, &Value) -> Vec<Cause>,
) -> Result<Response, Status> {
    let change = Change::decode(call, resource, body, within)?;
    let outcome = update::update(call, resource, Part::Raw, |old| {
        let wanted = change.apply(call, resource, old)?;
        let mut new = old.clone();
        let mut causes = take(old, &wanted, &mut new);
        for field in ["resourceVersion", "uid"] {
            // The state that the client knows, if it says so.
            let text = meta::text(&wanted, field);
            if !text.is_empty() {
                meta::of(&mut new).insert(field.to_owned(), text.into());
            }
        }
        if let Change::Apply(_) = change {
            set(
                &mut new["metadata"],
                "managedFields",
                wanted["metadata"].get("managedFields"),
            );
        }
        if causes.is_empty() {
            causes = check(old, &new);
        }
        if causes.is_empty() {
            Ok(new)
        } else {
            Err(Status::invalid(resource, &call.info.name, causes))
        }
    })
    .await?;
    show(call, resource, &outcome)
}

/// A PUT, a PATCH or an apply of a pod through a subresource.
enum Change {
    Put(Value),
    Patch(Patch),
    Apply(Value),
}

impl Change {
    fn decode(
        call: &Call,
        resource: &Resource,
        body: &[u8],
        within: &dyn Fn(&Value) -> Map<String, Value>,
    ) -> Result<Self, Status> {
        if managed::is_apply(call) {
            let mut config = apply::configuration(call, resource, body)?;
            // Fields that this path does not write are nobody's through it.
            config["spec"] = Value::Object(within(&config));
            for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
                meta::of(&mut config).shift_remove(field);
            }
            set(&mut config, "status", None);
            return Ok(Self::Apply(config));
        }
        if call.info.verb == "patch" {
            return Ok(Self::Patch(Patch::decode(call, false, body)?));
        }
        let mut value = call.decode(body)?.value;
        check_kind_of("v1", "Pod", &mut value)?;
        Ok(Self::Put(value))
    }

    fn apply(&self, call: &Call, resource: &Resource, old: &Value) -> Result<Value, Status> {
        match self {
            Self::Put(value) => Ok(value.clone()),
            Self::Patch(patch) => patch.apply(resource, old),
            Self::Apply(config) => {
                apply::check_base(resource, old, config)?;
                let writer = Writer::of(call, resource, Part::Raw);
                schema::apply::apply(resource, old, config, &writer.manager(), apply::force(call)?)
                    .map_err(|error| apply::failure(call, resource, error))
            }
        }
    }
}
