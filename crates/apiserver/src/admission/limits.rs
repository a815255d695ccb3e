//! LimitRanger: default requests and limits of containers, and bounds for containers, pods and claims.

use crate::call::Call;
use crate::http::status::Status;
use crate::json::{items, items_mut};
use schema::Resource;
use schema::quantity::Quantity;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Says what was filled in.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

type Amounts = BTreeMap<String, Quantity>;

/// The ranges of the namespace of a request.
fn ranges(call: &Call) -> Vec<Value> {
    let objects = call
        .server
        .store
        .cached_list("", "limitranges", &call.info.namespace);
    let ranges = objects
        .iter()
        .flat_map(|object| items(&object.value()["spec"], "limits").to_vec());
    ranges.collect()
}

fn amounts(value: &Value) -> Amounts {
    let fields = value.as_object().into_iter().flatten();
    fields
        .filter_map(|(name, amount)| Some((name.clone(), Quantity::parse(amount.as_str()?).ok()?)))
        .collect()
}

/// Fills in the defaults for the containers of a new pod.
pub fn default(call: &Call, pod: &mut Value) {
    let ranges = ranges(call);
    let mut said = Vec::new();
    for range in ranges.iter().filter(|r| r["type"] == "Container") {
        for kind in ["containers", "initContainers"] {
            for container in items_mut(pod, &["spec", kind]) {
                let what = if kind == "containers" {
                    "container"
                } else {
                    "init container"
                };
                let name = container["name"].as_str().unwrap_or_default().to_owned();
                for (field, source, word) in [
                    ("requests", "defaultRequest", "request"),
                    ("limits", "default", "limit"),
                ] {
                    let filled = fill(container, field, range[source].as_object());
                    if !filled.is_empty() {
                        said.push(format!("{} {word} for {what} {name}", filled.join(", ")));
                    }
                }
            }
        }
    }
    if !said.is_empty() {
        let text = format!("LimitRanger plugin set: {}", said.join("; "));
        pod["metadata"]["annotations"][ANNOTATION] = text.into();
    }
}

/// Sets amounts that a container does not name. Their names, sorted.
fn fill(container: &mut Value, field: &str, defaults: Option<&Map<String, Value>>) -> Vec<String> {
    let mut filled = Vec::new();
    for (name, amount) in defaults.into_iter().flatten() {
        if container["resources"][field].get(name).is_none_or(Value::is_null) {
            if !container["resources"].is_object() {
                container["resources"] = json!({});
            }
            container["resources"][field][name] = amount.clone();
            filled.push(name.clone());
        }
    }
    filled.sort();
    filled
}

/// Refuses what is out of bounds.
pub fn check(call: &Call, resource: &Resource, object: &Value) -> Result<(), Status> {
    let mut problems = Vec::new();
    for range in ranges(call) {
        match (
            resource.plural.as_ref(),
            range["type"].as_str().unwrap_or_default(),
        ) {
            ("pods", "Container") => {
                let spec = &object["spec"];
                for container in items(spec, "containers")
                    .iter()
                    .chain(items(spec, "initContainers"))
                {
                    let used = Used::of(&container["resources"]);
                    used.check(&range, "Container", &mut problems);
                }
            }
            ("pods", "Pod") => Used::of_pod(object).check(&range, "Pod", &mut problems),
            ("persistentvolumeclaims", "PersistentVolumeClaim") => {
                let requests = amounts(&object["spec"]["resources"]["requests"]);
                let used = Used {
                    limits: requests.clone(),
                    requests,
                };
                used.check(&range, "PersistentVolumeClaim", &mut problems);
            }
            _ => {}
        }
    }
    match problems.as_slice() {
        [] => Ok(()),
        [one] => Err(Status::forbidden(resource, name(object), one)),
        many => Err(Status::forbidden(
            resource,
            name(object),
            format!("[{}]", many.join(", ")),
        )),
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

struct Used {
    requests: Amounts,
    limits: Amounts,
}

impl Used {
    fn of(resources: &Value) -> Self {
        Self {
            requests: amounts(&resources["requests"]),
            limits: amounts(&resources["limits"]),
        }
    }

    /// The sum of the containers, or the largest init container where that is more.
    fn of_pod(pod: &Value) -> Self {
        let (requests, limits) = super::usage::of_pod(pod);
        Self { requests, limits }
    }

    fn check(&self, range: &Value, kind: &str, problems: &mut Vec<String>) {
        let claim = kind == "PersistentVolumeClaim";
        for (name, least) in amounts(&range["min"]) {
            let head = format!("minimum {name} usage per {kind} is {least}");
            match (self.requests.get(&name), self.limits.get(&name)) {
                (None, _) => problems.push(format!("{head}.  No request is specified")),
                (Some(request), _) if *request < least => {
                    problems.push(format!("{head}, but request is {request}"));
                }
                (_, Some(limit)) if *limit < least => problems.push(format!("{head}, but limit is {limit}")),
                _ => {}
            }
        }
        for (name, most) in amounts(&range["max"]) {
            let head = format!("maximum {name} usage per {kind} is {most}");
            match (self.limits.get(&name), self.requests.get(&name)) {
                (_, Some(request)) if claim && *request > most => {
                    problems.push(format!("{head}, but request is {request}"));
                }
                (None, _) if !claim => problems.push(format!("{head}.  No limit is specified")),
                (Some(limit), _) if *limit > most => problems.push(format!("{head}, but limit is {limit}")),
                (_, Some(request)) if *request > most => {
                    problems.push(format!("{head}, but request is {request}"));
                }
                _ => {}
            }
        }
        for (name, most) in amounts(&range["maxLimitRequestRatio"]) {
            let head = format!("{name} max limit to request ratio per {kind} is {most}");
            let (request, limit) = (self.requests.get(&name), self.limits.get(&name));
            let (Some(request), Some(limit)) =
                (request.filter(|q| !q.is_zero()), limit.filter(|q| !q.is_zero()))
            else {
                problems.push(format!("{head}, but no request is specified or request is 0."));
                continue;
            };
            let ratio = limit.nanos() as f64 / request.nanos() as f64;
            if ratio > most.nanos() as f64 / 1e9 {
                problems.push(format!("{head}, but provided ratio is {ratio:.6}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_told_as_upstream_does() {
        let range = json!({"min": {"cpu": "100m"}, "max": {"cpu": "1", "memory": "1Gi"},
            "maxLimitRequestRatio": {"cpu": "2"}});
        let mut problems = Vec::new();
        let resources = json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "2"}});
        Used::of(&resources).check(&range, "Container", &mut problems);
        assert_eq!(
            problems,
            [
                "minimum cpu usage per Container is 100m, but request is 50m",
                "maximum cpu usage per Container is 1, but limit is 2",
                "maximum memory usage per Container is 1Gi.  No limit is specified",
                "cpu max limit to request ratio per Container is 2, but provided ratio is 40.000000",
            ]
        );
    }

    #[test]
    fn defaults_leave_alone_what_is_said() {
        let mut container = json!({"name": "c", "resources": {"limits": {"cpu": "1"}}});
        let defaults = json!({"cpu": "2", "memory": "1Gi"});
        assert_eq!(fill(&mut container, "limits", defaults.as_object()), ["memory"]);
        assert_eq!(
            container["resources"]["limits"],
            json!({"cpu": "1", "memory": "1Gi"})
        );
    }
}
