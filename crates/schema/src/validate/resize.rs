//! Rules for new resources of a running pod's containers (KEP-1287).

use serde_json::Value;

use super::cause::Causes;
use crate::strategy::qos_class;
use crate::value::ValueExt as _;

/// What can be resized.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// A resize is of the containers that there are, in their order.
pub(super) fn same_containers(c: &mut Causes, old: &Value, new: &Value) {
    let names = |pod: &Value, list: &str| -> Vec<String> {
        let containers = super::spec(pod).items(&[list]).iter();
        containers
            .map(|container| container.text(&["name"]).to_owned())
            .collect()
    };
    c.at("spec", |c| {
        let (before, after) = (names(old, "containers"), names(new, "containers"));
        if before.len() != after.len() {
            c.forbidden("containers may not be added or removed on resize");
        } else if before != after {
            c.forbidden("containers may not be renamed or reordered on resize");
        }
        let (before, after) = (names(old, "initContainers"), names(new, "initContainers"));
        if before.len() != after.len() {
            c.forbidden("initContainers may not be added or removed on resize");
        } else if before != after {
            c.forbidden("initContainers may not be renamed or reordered on resize");
        }
    });
}

/// What a resize may change.
pub(super) fn resize(c: &mut Causes, old: &Value, new: &Value) {
    let (before, after) = (super::spec(old), super::spec(new));
    c.at("spec", |c| {
        if qos_class(before) != qos_class(after) {
            let class = new.text(&["status", "qosClass"]);
            c.invalid(class, "Pod QOS Class may not change as a result of resizing");
        }
        let lists = ["containers", "initContainers"];
        let mut others = false;
        for list in lists {
            let pairs = before.items(&[list]).iter().zip(after.items(&[list]));
            for (index, (before, after)) in pairs.enumerate() {
                others |= beyond(before) != beyond(after);
                c.at(list, |c| {
                    c.index(index, |c| c.at("resources", |c| removed(c, before, after)))
                });
                let sidecar = list == "containers" || before.text(&["restartPolicy"]) == "Always";
                let changed = before.at(&["resources"]) != after.at(&["resources"]);
                if changed && !sidecar {
                    let what = "resources for non-sidecar init containers are immutable";
                    c.at(list, |c| {
                        c.index(index, |c| c.at("resources", |c| c.forbidden(what)))
                    });
                }
            }
        }
        if others {
            c.forbidden("only cpu and memory resources are mutable");
        }
    });
}

/// The resources of a container that are not resized.
fn beyond(container: &Value) -> Value {
    let mut resources = container.at(&["resources"]).cloned().unwrap_or_default();
    for list in ["limits", "requests"] {
        let Some(amounts) = resources.get_mut(list).and_then(Value::as_object_mut) else {
            continue;
        };
        amounts.retain(|name, _| !RESIZABLE.contains(&name.as_str()));
        if amounts.is_empty()
            && let Some(resources) = resources.as_object_mut()
        {
            resources.shift_remove(list);
        }
    }
    if resources.as_object().is_some_and(serde_json::Map::is_empty) {
        return Value::Null;
    }
    resources
}

/// What was requested or limited stays so, by another amount.
fn removed(c: &mut Causes, before: &Value, after: &Value) {
    for (list, problem) in [
        ("limits", "resource limits cannot be removed"),
        ("requests", "resource requests cannot be removed"),
    ] {
        let has = |container: &Value, name| container.at(&["resources", list, name]).is_some();
        if RESIZABLE
            .iter()
            .any(|name| has(before, name) && !has(after, name))
        {
            c.at(list, |c| c.forbidden(problem));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{validate_resize, validate_same_containers};
    use serde_json::{Value, json};

    fn pod(containers: &Value) -> Value {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
            "spec": {"containers": containers}, "status": {"qosClass": "Burstable"}});
        crate::default(crate::registry().find("", "v1", "pods").unwrap(), &mut pod);
        pod
    }

    fn one(resources: &Value) -> Value {
        pod(&json!([{"name": "a", "image": "i", "resources": resources}]))
    }

    fn problems(old: &Value, new: &Value) -> Vec<String> {
        let causes = validate_resize(&one(old), &one(new));
        causes
            .iter()
            .map(|cause| format!("{}: {}", cause.field, cause.message))
            .collect()
    }

    #[test]
    fn amounts_change_and_nothing_else() {
        let old = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}});
        let new = json!({"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"memory": "3Gi", "cpu": "3"}});
        assert_eq!(problems(&old, &new), [""; 0]);
        let without = json!({"requests": {"cpu": "1", "memory": "1Gi"}});
        assert_eq!(
            problems(&old, &without),
            ["spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"]
        );
        let storage = json!({"requests": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"}, "limits": {"memory": "2Gi"}});
        assert_eq!(
            problems(&old, &storage),
            ["spec: Forbidden: only cpu and memory resources are mutable"]
        );
        // A limit below the request is refused as for any pod.
        let less = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Mi"}});
        assert!(!problems(&old, &less).is_empty());
    }

    #[test]
    fn the_class_stays() {
        let old = json!({"requests": {"cpu": "1", "memory": "1Gi"}});
        let new = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}});
        assert_eq!(
            problems(&old, &new),
            ["spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing"]
        );
    }

    #[test]
    fn containers_stay() {
        let (a, b) = (
            json!({"name": "a", "image": "i"}),
            json!({"name": "b", "image": "i"}),
        );
        let old = pod(&json!([a, b]));
        let check = |new: Value| -> Vec<String> {
            let causes = validate_same_containers(&old, &pod(&new));
            causes.iter().map(|cause| cause.message.clone()).collect()
        };
        assert_eq!(check(json!([a, b])), [""; 0]);
        assert_eq!(
            check(json!([a])),
            ["Forbidden: containers may not be added or removed on resize"]
        );
        assert_eq!(
            check(json!([b, a])),
            ["Forbidden: containers may not be renamed or reordered on resize"]
        );
    }
}
