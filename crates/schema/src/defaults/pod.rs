//! Pods and pod templates.

use serde_json::{Map, Value, json};

use super::{Object, empty, ensure, object, objects, set, set_absent, set_number, text};
use crate::quantity::Quantity;

/// `0644`, the mode of files in volumes made from objects.
const VOLUME_FILE_MODE: i64 = 0o644;

/// A pod: its spec, and what is filled in for pods but not for templates.
pub(super) fn pod(o: &mut Object) {
    let Some(spec) = ensure(o, "spec") else { return };
    pod_spec(spec);
    for list in ["containers", "initContainers"] {
        for container in objects(spec, list) {
            requests_from_limits(container);
        }
    }
    pod_level_requests(spec);
    set_absent(spec, "enableServiceLinks", true);
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        host_network_ports(spec);
    }
    if let Some(status) = object(o, "status") {
        set(status, "phase", "Pending");
    }
}

/// The template of a workload.
pub(super) fn template(o: &mut Object) {
    if let Some(spec) = object(o, "template").and_then(|t| ensure(t, "spec")) {
        pod_spec(spec);
    }
}

/// The spec of a pod or template.
pub(super) fn pod_spec(spec: &mut Object) {
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for c in objects(spec, list) {
            container(c);
        }
    }
    for v in objects(spec, "volumes") {
        volume(v);
    }
    set(spec, "dnsPolicy", "ClusterFirst");
    set(spec, "restartPolicy", "Always");
    set_absent(spec, "terminationGracePeriodSeconds", 30);
    set(spec, "schedulerName", "default-scheduler");
    ensure(spec, "securityContext");
    if let Some(resources) = object(spec, "resources") {
        round_resources(resources);
    }
    if let Some(overhead) = object(spec, "overhead") {
        round_up(overhead);
    }
    // The deprecated name of the field is kept equal to the current one.
    match (
        text(spec, "serviceAccountName").to_owned(),
        text(spec, "serviceAccount").to_owned(),
    ) {
        (name, _) if !name.is_empty() => {
            spec.insert("serviceAccount".to_owned(), name.into());
        }
        (_, deprecated) if !deprecated.is_empty() => {
            spec.insert("serviceAccountName".to_owned(), deprecated.into());
        }
        _ => {}
    }
}

fn container(c: &mut Object) {
    if text(c, "imagePullPolicy").is_empty() {
        let policy = pull_policy(text(c, "image"));
        c.insert("imagePullPolicy".to_owned(), policy.into());
    }
    set(c, "terminationMessagePath", "/dev/termination-log");
    set(c, "terminationMessagePolicy", "File");
    for port in objects(c, "ports") {
        set(port, "protocol", "TCP");
    }
    for variable in objects(c, "env") {
        if let Some(field) = object(variable, "valueFrom").and_then(|from| object(from, "fieldRef")) {
            set(field, "apiVersion", "v1");
        }
    }
    // Upstream's type has no way to leave it out, and clients compare what they read with what they build from it.
    match c.get_mut("resources") {
        Some(Value::Object(resources)) => round_resources(resources),
        Some(other) if !other.is_null() => {}
        _ => drop(c.insert("resources".to_owned(), Value::Object(Object::new()))),
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = object(c, name) {
            set_number(probe, "timeoutSeconds", 1);
            set_number(probe, "periodSeconds", 10);
            set_number(probe, "successThreshold", 1);
            set_number(probe, "failureThreshold", 3);
            if let Some(grpc) = object(probe, "grpc") {
                set_absent(grpc, "service", "");
            }
            http_get(probe);
        }
    }
    for name in ["postStart", "preStop"] {
        if let Some(handler) = object(c, "lifecycle").and_then(|l| object(l, name)) {
            http_get(handler);
        }
    }
}

fn http_get(handler: &mut Object) {
    if let Some(http) = object(handler, "httpGet") {
        set(http, "path", "/");
        set(http, "scheme", "HTTP");
    }
}

/// `Always` for the tag `latest` (also by default), `IfNotPresent` otherwise.
fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or_default();
    let (name, digest) = last
        .split_once('@')
        .map_or((last, false), |(name, _)| (name, true));
    let latest = match name.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => !digest && !name.is_empty(),
    };
    if latest { "Always" } else { "IfNotPresent" }
}

fn volume(v: &mut Object) {
    if v.keys().all(|key| key == "name") {
        v.insert("emptyDir".to_owned(), Value::Object(Map::new()));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = object(v, source) {
            set_absent(source, "defaultMode", VOLUME_FILE_MODE);
            downward_items(source);
        }
    }
    if let Some(projected) = object(v, "projected") {
        for source in objects(projected, "sources") {
            if let Some(token) = object(source, "serviceAccountToken") {
                set_absent(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = object(source, "downwardAPI") {
                downward_items(downward);
            }
            if let Some(certificate) = object(source, "podCertificate") {
                set_absent(certificate, "maxExpirationSeconds", 86_400);
            }
        }
    }
    volume_source(v);
    if let Some(image) = object(v, "image") {
        let policy = pull_policy(text(image, "reference"));
        set(image, "pullPolicy", policy);
    }
    let claim = object(v, "ephemeral").and_then(|e| object(e, "volumeClaimTemplate"));
    if let Some(spec) = claim.and_then(|claim| ensure(claim, "spec")) {
        set(spec, "volumeMode", "Filesystem");
    }
}

/// Sources that pods and persistent volumes share.
pub(super) fn volume_source(v: &mut Object) {
    if let Some(path) = object(v, "hostPath") {
        set_absent(path, "type", "");
    }
    if let Some(iscsi) = object(v, "iscsi") {
        set(iscsi, "iscsiInterface", "default");
    }
    if let Some(rbd) = object(v, "rbd") {
        set(rbd, "pool", "rbd");
        set(rbd, "user", "admin");
        set(rbd, "keyring", "/etc/ceph/keyring");
    }
    if let Some(azure) = object(v, "azureDisk") {
        set(azure, "cachingMode", "ReadWrite");
        set(azure, "kind", "Shared");
        set(azure, "fsType", "ext4");
        set_absent(azure, "readOnly", false);
    }
    if let Some(scale_io) = object(v, "scaleIO") {
        set(scale_io, "storageMode", "ThinProvisioned");
        set(scale_io, "fsType", "xfs");
    }
}

fn downward_items(source: &mut Object) {
    for item in objects(source, "items") {
        if let Some(field) = object(item, "fieldRef") {
            set(field, "apiVersion", "v1");
        }
    }
}

fn round_resources(resources: &mut Object) {
    for list in ["limits", "requests"] {
        if let Some(list) = object(resources, list) {
            round_up(list);
        }
    }
}

/// Resources are not finer than a thousandth.
pub(super) fn round_up(list: &mut Object) {
    for value in list.values_mut() {
        let Some(quantity) = value.as_str().and_then(|text| Quantity::parse(text).ok()) else {
            continue;
        };
        if quantity.nanos() % 1_000_000 != 0 {
            *value = Quantity::from_millis(quantity.millis()).to_string().into();
        }
    }
}

fn requests_from_limits(container: &mut Object) {
    let Some(resources) = object(container, "resources") else {
        return;
    };
    let Some(limits) = resources.get("limits").and_then(Value::as_object) else {
        return;
    };
    let limits = limits.clone();
    if let Some(requests) = ensure(resources, "requests") {
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}

/// Requests of the pod as a whole follow those of its containers, or its own limits.
fn pod_level_requests(spec: &mut Object) {
    let Some(limits) = spec
        .get("resources")
        .and_then(|r| r.get("limits"))
        .and_then(Value::as_object)
    else {
        return;
    };
    let limits = limits.clone();
    let mut found: Vec<(String, String)> = Vec::new();
    for (name, limit) in &limits {
        if !matches!(name.as_str(), "cpu" | "memory") && !name.starts_with("hugepages-") {
            continue;
        }
        let sum = container_requests(spec, name);
        let value = match sum {
            Some(sum) if !name.starts_with("hugepages-") => sum.to_string(),
            _ => limit.as_str().unwrap_or_default().to_owned(),
        };
        found.push((name.clone(), value));
    }
    let Some(requests) = object(spec, "resources").and_then(|r| ensure(r, "requests")) else {
        return;
    };
    for (name, value) in found {
        requests.entry(name).or_insert_with(|| json!(value));
    }
}

/// What the containers of a pod request together: the sum of those that run side by side, or the largest of the
/// init containers with those started before it, whichever is more. None if nobody requests it.
fn container_requests(spec: &Object, name: &str) -> Option<Quantity> {
    let request = |container: &Value| -> Option<Quantity> {
        Quantity::parse(container.get("resources")?.get("requests")?.get(name)?.as_str()?).ok()
    };
    let list = |list: &str| {
        spec.get(list)
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice)
    };
    let mut side_by_side: Option<Quantity> = None;
    let add = |sum: Option<Quantity>, q: Quantity| Some(sum.map_or(q, |sum| sum.plus(&q)));
    for quantity in list("containers").iter().filter_map(request) {
        side_by_side = add(side_by_side, quantity);
    }
    let (mut sidecars, mut highest): (Option<Quantity>, Option<Quantity>) = (None, None);
    for container in list("initContainers") {
        let Some(quantity) = request(container) else {
            continue;
        };
        if container.get("restartPolicy").and_then(Value::as_str) == Some("Always") {
            side_by_side = add(side_by_side, quantity);
            sidecars = add(sidecars, quantity);
            highest = highest.max(sidecars);
        } else {
            highest = highest.max(add(sidecars, quantity));
        }
    }
    side_by_side.max(highest)
}

fn host_network_ports(spec: &mut Object) {
    for list in ["containers", "initContainers"] {
        for container in objects(spec, list) {
            for port in objects(container, "ports") {
                if let Some(number) = port.get("containerPort").and_then(Value::as_i64) {
                    set_number(port, "hostPort", number);
                }
            }
        }
    }
}

/// Labels of a workload without its own, and the selector of one that may leave it out, are its template's.
pub(super) fn template_labels(o: &Object) -> Option<Value> {
    let spec = o.get("spec")?.as_object()?;
    let labels = spec.get("template")?.get("metadata")?.get("labels")?;
    (!crate::value::is_empty(Some(labels))).then(|| labels.clone())
}

/// Sets the labels of a workload that has none.
pub(super) fn adopt_labels(o: &mut Object, labels: &Value) {
    if let Some(metadata) = ensure(o, "metadata")
        && empty(metadata, "labels")
    {
        metadata.insert("labels".to_owned(), labels.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, policy) in [
            ("busybox", "Always"),
            ("busybox:latest", "Always"),
            ("busybox:1.36", "IfNotPresent"),
            ("localhost:5000/a/b", "Always"),
            ("localhost:5000/a/b:v1", "IfNotPresent"),
            ("a@sha256:0123", "IfNotPresent"),
            ("", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
