//! The node's Lease: the sign of life that fail-over waits for. It has a thread and a connection of its own, so
//! that nothing else in the kubelet can delay it.

use crate::Config;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Pause between renewals.
const INTERVAL: Duration = Duration::from_secs(2);
/// After so long without renewal the node counts as silent; the fail-over timers build on it.
const DURATION_SECS: i32 = 8;
/// A request that takes longer is given up, so that the next one is not late.
const TIMEOUT: Duration = Duration::from_millis(1500);
const NAMESPACE: &str = "kube-node-lease";

/// Renews until `shutdown`. `node_uid` becomes known with the registration; the Lease is then owned by the Node.
pub fn run(
    config: Config,
    node_uid: Arc<dyn Fn() -> Option<String> + Send + Sync>,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("node-lease".into())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = renew(&config, &*node_uid) => {}
                    () = shutdown.cancelled() => {}
                }
            });
        })?;
    Ok(())
}

async fn renew(config: &Config, node_uid: &(dyn Fn() -> Option<String> + Send + Sync)) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut api: Option<Api<Lease>> = None;
    loop {
        interval.tick().await;
        if api.is_none() {
            match client::connect(&config.kubeconfig).await {
                Ok(connection) => api = Some(Api::namespaced(connection.client, NAMESPACE)),
                Err(error) => tracing::info!(%error, "no connection for the lease"),
            }
        }
        let Some(api) = &api else { continue };
        match tokio::time::timeout(TIMEOUT, attempt(api, &config.node_name, node_uid)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "lease not renewed"),
            Err(_) => tracing::debug!("lease not renewed in time"),
        }
    }
}

async fn attempt(
    api: &Api<Lease>,
    node: &str,
    node_uid: &(dyn Fn() -> Option<String> + Send + Sync),
) -> kube::Result<()> {
    let now = MicroTime(Timestamp::now());
    let patch = json!({"spec": {
        "holderIdentity": node, "leaseDurationSeconds": DURATION_SECS, "renewTime": now}});
    match api
        .patch(node, &PatchParams::default(), &Patch::Merge(patch))
        .await
    {
        Err(kube::Error::Api(error)) if error.code == 404 => {}
        other => return other.map(drop),
    }
    let owner = node_uid().map(|uid| OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.into(),
        uid,
        ..OwnerReference::default()
    });
    // Without its owner it would outlive the Node; the registration takes a moment.
    let Some(owner) = owner else { return Ok(()) };
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(node.into()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.into()),
            lease_duration_seconds: Some(DURATION_SECS),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    api.create(&PostParams::default(), &lease).await.map(drop)
}
