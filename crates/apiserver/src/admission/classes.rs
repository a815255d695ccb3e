//! RuntimeClass, DefaultIngressClass and PersistentVolumeClaimResize: what objects get from, and may do by, a class.

use crate::call::Call;
use crate::http::status::Status;
use crate::json::push;
use crate::rest::meta;
use crate::store::{builtin, object};
use schema::Resource;
use schema::quantity::Quantity;
use serde_json::{Value, json};

const DEFAULT_INGRESS: &str = "ingressclass.kubernetes.io/is-default-class";

/// RuntimeClass: a pod gets the overhead and the scheduling of its class.
pub async fn runtime(call: &Call, resource: &Resource, pod: &mut Value) -> Result<(), Status> {
    let name = pod["spec"]["runtimeClassName"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let refuse = |why: String| Err(Status::forbidden(resource, "", why));
    if name.is_empty() {
        if !pod["spec"]["overhead"].is_null() {
            return refuse(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".into(),
            );
        }
        return Ok(());
    }
    let classes = builtin("node.k8s.io", "runtimeclasses").ok_or_else(Status::no_such_path)?;
    let store = &call.server.store;
    let found = match store.cached(classes, "", &name) {
        Some(found) => Some(found),
        None => store.read(classes, &object::key(classes, "", &name)).await?,
    };
    let Some(class) = found else {
        return refuse(format!("pod rejected: RuntimeClass {name:?} not found"));
    };
    let class = class.value();
    let overhead = &class["overhead"]["podFixed"];
    let given = &pod["spec"]["overhead"];
    if !given.is_null() && given != overhead {
        return refuse("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into());
    }
    if !overhead.is_null() {
        pod["spec"]["overhead"] = overhead.clone();
    }
    for (key, value) in class["scheduling"]["nodeSelector"]
        .as_object()
        .into_iter()
        .flatten()
    {
        let own = &pod["spec"]["nodeSelector"][key.as_str()];
        if !own.is_null() && own != value {
            return refuse(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                value.as_str().unwrap_or_default(),
                own.as_str().unwrap_or_default()
            ));
        }
        pod["spec"]["nodeSelector"][key.as_str()] = value.clone();
    }
    for toleration in class["scheduling"]["tolerations"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let present = crate::json::items(&pod["spec"], "tolerations").contains(toleration);
        if !present {
            push(&mut pod["spec"], "tolerations", toleration.clone());
        }
    }
    Ok(())
}

/// DefaultIngressClass: an Ingress that names no class gets the default one.
pub fn default_ingress(call: &Call, ingress: &mut Value) {
    let annotated = !ingress["metadata"]["annotations"]["kubernetes.io/ingress.class"].is_null();
    if annotated || !ingress["spec"]["ingressClassName"].is_null() {
        return;
    }
    let classes = call
        .server
        .store
        .cached_list("networking.k8s.io", "ingressclasses", "");
    let defaults = classes
        .iter()
        .map(|c| c.value())
        .filter(|class| class["metadata"]["annotations"][DEFAULT_INGRESS] == "true");
    // Of several the newest counts, then the first by name.
    let newest = defaults.max_by(|a, b| {
        let time = |v: &Value| meta::text(v, "creationTimestamp").to_owned();
        time(a)
            .cmp(&time(b))
            .then_with(|| meta::text(b, "name").cmp(meta::text(a, "name")))
    });
    if let Some(class) = newest {
        if !ingress["spec"].is_object() {
            ingress["spec"] = json!({});
        }
        ingress["spec"]["ingressClassName"] = meta::text(&class, "name").into();
    }
}

/// PersistentVolumeClaimResize: only bound claims of classes that allow it grow.
pub fn resize(call: &Call, resource: &Resource, old: &Value, new: &Value) -> Result<(), Status> {
    let size = |claim: &Value| {
        let text = claim["spec"]["resources"]["requests"]["storage"].as_str();
        text.and_then(|t| Quantity::parse(t).ok())
    };
    let grows = matches!((size(old), size(new)), (Some(before), Some(after)) if after > before);
    if !grows || !call.info.subresource.is_empty() {
        return Ok(());
    }
    let refuse = |why: &str| Err(Status::forbidden(resource, meta::text(new, "name"), why));
    if old["status"]["phase"] != "Bound" {
        return refuse("Only bound persistent volume claims can be expanded");
    }
    let class = new["spec"]["storageClassName"].as_str().unwrap_or_default();
    let found = call
        .server
        .store
        .cached_by_name("storage.k8s.io", "storageclasses", "", class);
    let allows = found.is_some_and(|class| class.value()["allowVolumeExpansion"] == true);
    if !allows {
        return refuse(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must \
             support resize",
        );
    }
    Ok(())
}
