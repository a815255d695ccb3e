//! What the node does for a single pod: limits, and images that are not there.

use crate::cluster::Cluster;
use crate::shell::{ensure, eventually};
use anyhow::Result;
use serde_json::{Value, json};
use std::time::Duration;

/// Longest wait for a state of a pod.
const PATIENCE: Duration = Duration::from_secs(30);

/// A container above its memory limit is killed and says so; an image that is missing gives `ErrImagePull`, with
/// the command that loads it.
pub fn limits_and_images(cluster: &Cluster) -> Result<()> {
    let hungry = json!({
        "name": "c",
        "image": "hikube.io/toolbox:latest",
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", "head -c 300m /dev/zero | tail | wc -c"],
        "resources": {"limits": {"memory": "48Mi"}},
    });
    cluster.apply(&pod("hungry", &hungry))?;
    let missing = json!({"name": "c", "image": "registry.invalid/none:1"});
    cluster.apply(&pod("missing", &missing))?;
    eventually("OOMKilled", PATIENCE, || {
        let state = state(cluster, "hungry")?;
        ensure(state["terminated"]["reason"] == "OOMKilled", || state.to_string())
    })?;
    eventually("ErrImagePull", PATIENCE, || {
        let state = state(cluster, "missing")?;
        let (reason, message) = (&state["waiting"]["reason"], &state["waiting"]["message"]);
        let known = reason == "ErrImagePull" || reason == "ImagePullBackOff";
        let helps = message.as_str().is_some_and(|m| m.contains("hikube image load"));
        ensure(known && helps, || state.to_string())
    })?;
    cluster.kube(&[
        "delete",
        "pod",
        "hungry",
        "missing",
        "--wait=true",
        "--timeout=60s",
    ])?;
    Ok(())
}

fn pod(name: &str, container: &Value) -> String {
    let spec = json!({"restartPolicy": "Never", "containers": [container]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}).to_string()
}

fn state(cluster: &Cluster, name: &str) -> Result<Value> {
    let pod = cluster.json(&["get", "pod", name])?;
    Ok(pod["status"]["containerStatuses"][0]["state"].clone())
}
