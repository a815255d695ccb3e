//! Subresources: status, scale, binding, eviction, token, finalize, approval and the like.

use super::options::DeleteOptions;
use super::update::{self, Part};
use super::{check_kind_of, delete, patch, pod, read};
use crate::call::{Call, Response};
use crate::http::request::RequestInfo;
use crate::http::respond;
use crate::http::status::Status;
use crate::json::push;
use crate::store::builtin;
use schema::Resource;
use serde_json::{Value, json};
use std::sync::Arc;

/// Whether a kubelet answers, or the object itself behind a proxy.
pub fn is_relayed(resource: &Resource, info: &RequestInfo) -> bool {
    let sub = info.subresource.as_str();
    (resource.is("", "pods") && matches!(sub, "log" | "exec" | "attach" | "portforward" | "proxy"))
        || (resource.is("", "nodes") && sub == "proxy")
        || (resource.is("", "services") && sub == "proxy")
}

/// Answers a request for a subresource.
pub async fn answer(call: &Arc<Call>, resource: &'static Resource, body: &[u8]) -> Result<Response, Status> {
    let verb = call.info.verb.as_str();
    match (call.info.subresource.as_str(), verb) {
        ("status", "get") => read::get(call, resource).await,
        ("status", "update") => update::put(call, resource, Part::Status, body).await,
        ("status", "patch") => patch::patch(call, resource, Part::Status, body).await,
        ("scale", "get" | "update" | "patch") => super::scale::answer(call, resource, body).await,
        ("binding", "create") if resource.is("", "pods") => bind(call, resource, &call.info.name, body).await,
        ("eviction", "create") if resource.is("", "pods") => evict(call, resource, body).await,
        ("token", "create") => crate::tokens::request(call, resource, body).await,
        ("finalize", "update") if resource.is("", "namespaces") => finalize(call, resource, body).await,
        ("approval", "get") | ("ephemeralcontainers" | "resize", "get") => read::get(call, resource).await,
        ("approval", "update") => update::put(call, resource, Part::Approval, body).await,
        ("approval", "patch") => patch::patch(call, resource, Part::Approval, body).await,
        ("ephemeralcontainers", "update" | "patch") => pod::containers(call, resource, body).await,
        ("resize", "update" | "patch") => pod::resize(call, resource, body).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// Answers with an object of the resource.
pub(super) fn show(
    call: &Call,
    resource: &'static Resource,
    outcome: &update::Outcome,
) -> Result<Response, Status> {
    respond::object(
        call,
        resource,
        call.server.store.cache(resource)?.resource,
        200,
        outcome.object(),
    )
}

/// Binds a pod to a node.
pub async fn bind(call: &Call, pods: &'static Resource, name: &str, body: &[u8]) -> Result<Response, Status> {
    let mut binding = call.decode(body)?.value;
    check_kind_of("v1", "Binding", &mut binding)?;
    let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
    let kind = binding["target"]["kind"].as_str().unwrap_or_default();
    if node.is_empty() || !matches!(kind, "" | "Node") {
        return Err(Status::bad_request(
            "the target of a binding must be a Node with a name",
        ));
    }
    let metadata = binding["metadata"].clone();
    let namespace = call.info.namespace.clone();
    update::update_named(call, pods, Part::Raw, &namespace, name, |pod| {
        let conflict = |why: String| Status::conflict(pods, name, why);
        if let Some(uid) = metadata["uid"]
            .as_str()
            .filter(|uid| !uid.is_empty() && pod["metadata"]["uid"] != *uid)
        {
            return Err(conflict(format!(
                "Precondition failed: UID in precondition: {uid}"
            )));
        }
        if super::meta::is_terminating(pod) {
            return Err(conflict(format!(
                "pod {name} is being deleted, cannot be assigned to a host"
            )));
        }
        if let Some(present) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
            return Err(conflict(format!(
                "pod {name} is already assigned to node \"{present}\""
            )));
        }
        if pod["spec"]["schedulingGates"]
            .as_array()
            .is_some_and(|gates| !gates.is_empty())
        {
            return Err(conflict(format!(
                "pod {name} has non-empty .spec.schedulingGates"
            )));
        }
        let mut new = pod.clone();
        new["spec"]["nodeName"] = node.as_str().into();
        for (key, value) in metadata["annotations"].as_object().into_iter().flatten() {
            new["metadata"]["annotations"][key.as_str()] = value.clone();
        }
        copy_topology(call, &node, &mut new);
        set_scheduled(&mut new);
        Ok(new)
    })
    .await?;
    let value =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    respond::value(call.accept, 201, &value)
}

/// PodTopologyLabels (KEP-4742): a pod learns the region and zone of its node.
fn copy_topology(call: &Call, node: &str, pod: &mut Value) {
    let Some(node) = call.server.store.cached_by_name("", "nodes", "", node) else {
        return;
    };
    for key in ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"] {
        if let Some(value) = node.label(key) {
            pod["metadata"]["labels"][key] = value.into();
        }
    }
}

fn set_scheduled(pod: &mut Value) {
    let condition = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": crate::time::now(),
    });
    if let Some(conditions) = pod["status"].get_mut("conditions").and_then(Value::as_array_mut) {
        conditions.retain(|c| c["type"] != "PodScheduled");
    }
    push(&mut pod["status"], "conditions", condition);
}

/// Deletes a pod unless a disruption budget forbids it.
async fn evict(call: &Call, pods: &'static Resource, body: &[u8]) -> Result<Response, Status> {
    let mut eviction = call.decode(body)?.value;
    // Clients before 1.22 send the beta version, which is the same.
    if eviction["apiVersion"] == "policy/v1beta1" {
        eviction["apiVersion"] = "policy/v1".into();
    }
    check_kind_of("policy/v1", "Eviction", &mut eviction)?;
    let mut options = DeleteOptions {
        dry_run: call.dry_run()?,
        ..DeleteOptions::default()
    };
    if !eviction["deleteOptions"].is_null() {
        options.read_body(&eviction["deleteOptions"])?;
    }
    let store = &call.server.store;
    let found = store
        .get(
            pods,
            &call.info.namespace,
            &call.info.name,
            crate::store::Freshness::Newest,
        )
        .await?;
    let pod = found.ok_or_else(|| Status::not_found(pods, &call.info.name))?;
    let value = pod.value();
    let ended = matches!(
        value["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed" | "Pending")
    );
    if !ended && !super::meta::is_terminating(&value) {
        crate::eviction::take_from_budget(call, &pod.namespace, &pod.name, &value, options.dry_run).await?;
    }
    if !options.dry_run {
        crate::eviction::note_disruption(call, pods, &mut options).await?;
    }
    delete::remove(call, pods, &call.info.namespace, &call.info.name, &options).await?;
    let value =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    respond::value(call.accept, 201, &value)
}

/// Writes the finalizers of a namespace.
async fn finalize(call: &Call, resource: &'static Resource, body: &[u8]) -> Result<Response, Status> {
    let mut wanted = call.decode(body)?.value;
    check_kind_of("v1", "Namespace", &mut wanted)?;
    let outcome = update::update(call, resource, Part::Raw, |old| {
        let mut new = old.clone();
        new["spec"]["finalizers"] = wanted["spec"]["finalizers"].clone();
        if new["spec"]["finalizers"].is_null() {
            new["spec"]["finalizers"] = json!([]);
        }
        for field in ["resourceVersion", "uid"] {
            if let Some(text) = wanted["metadata"][field].as_str().filter(|t| !t.is_empty()) {
                new["metadata"][field] = text.into();
            }
        }
        Ok(new)
    })
    .await?;
    show(call, resource, &outcome)
}

/// POST of a `Binding` to the namespace instead of the pod.
pub async fn post_binding(call: &Call, body: &[u8]) -> Result<Response, Status> {
    let pods = builtin("", "pods").ok_or_else(Status::no_such_path)?;
    let name = call.decode(body)?.value["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    if name.is_empty() {
        return Err(Status::bad_request("name of the pod is required"));
    }
    bind(call, pods, &name, body).await
}
