//! Keeps the node's CSINode object and the topology labels in step with the registered drivers.

use crate::context::Context;
use crate::sync::lock;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::PostParams;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;

/// Pause after a failed write: the first one, and the longest.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long one write may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Writes the object whenever drivers come and go or the node registers anew.
pub async fn run(context: &Context, mut changed: watch::Receiver<u64>) {
    let mut uid = context.node.uids();
    let mut pause = RETRY_FIRST;
    loop {
        changed.borrow_and_update();
        let known = uid.borrow_and_update().clone();
        if let Some(known) = known {
            let drivers = drivers(context);
            match tokio::time::timeout(TIMEOUT, write(context, &known, drivers)).await {
                Ok(Ok(())) => pause = RETRY_FIRST,
                other => {
                    if let Ok(Err(error)) = other {
                        tracing::debug!(%error, "CSINode not written");
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                    continue;
                }
            }
        }
        tokio::select! {
            _ = changed.changed() => {}
            _ = uid.changed() => {}
        }
    }
}

fn drivers(context: &Context) -> Vec<CSINodeDriver> {
    let registered = lock(&context.plugins.drivers);
    let mut labels = BTreeMap::new();
    let mut drivers: Vec<CSINodeDriver> = registered
        .values()
        .map(|(_, driver)| {
            let segments = driver
                .info
                .accessible_topology
                .clone()
                .unwrap_or_default()
                .segments;
            let mut keys: Vec<String> = segments.keys().cloned().collect();
            keys.sort();
            labels.extend(segments);
            let limit = i32::try_from(driver.info.max_volumes_per_node)
                .ok()
                .filter(|n| *n > 0);
            CSINodeDriver {
                name: driver.name.clone(),
                node_id: driver.info.node_id.clone(),
                topology_keys: Some(keys).filter(|k| !k.is_empty()),
                allocatable: limit.map(|count| VolumeNodeResources { count: Some(count) }),
            }
        })
        .collect();
    drop(registered);
    drivers.sort_by(|a, b| a.name.cmp(&b.name));
    if !labels.is_empty() {
        context.node.add_labels(labels);
    }
    drivers
}

async fn write(context: &Context, node_uid: &str, drivers: Vec<CSINodeDriver>) -> kube::Result<()> {
    let api: Api<CSINode> = Api::all(context.client.clone());
    let name = &context.config.node_name;
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.clone(),
        uid: node_uid.into(),
        ..OwnerReference::default()
    };
    let wanted = CSINode {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            owner_references: Some(vec![owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: CSINodeSpec { drivers },
    };
    let Some(mut found) = api.get_opt(name).await? else {
        return api.create(&PostParams::default(), &wanted).await.map(drop);
    };
    if found.spec == wanted.spec && found.metadata.owner_references.as_ref() == Some(&vec![owner]) {
        return Ok(());
    }
    found.spec = wanted.spec;
    found.metadata.owner_references = wanted.metadata.owner_references;
    api.replace(name, &PostParams::default(), &found).await.map(drop)
}
