//! Making and deleting pods on behalf of a workload, with the Events that tell of it.

use crate::context::{Context, Object};
use crate::ownership::controller_reference;
use client::events::reference;
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kube::api::{Api, DeleteParams, ObjectMeta};

/// Pods made or deleted in one pass at most (upstream's burst), so that one workload cannot starve the others.
pub const BURST_PODS: usize = 500;

/// A pod as the template describes it, owned by `owner`.
pub fn from_template<O: Object>(owner: &O, template: &PodTemplateSpec) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner.meta().name.as_deref().unwrap_or_default())),
            namespace: owner.meta().namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The controller that speaks about a workload.
fn component<O: Object>() -> &'static str {
    match &*O::kind(&()) {
        "ReplicaSet" => "replicaset-controller",
        "ReplicationController" => "replication-controller",
        "DaemonSet" => "daemonset-controller",
        "Job" => "job-controller",
        _ => crate::context::COMPONENT,
    }
}

/// Makes one pod and says so.
pub async fn create<O: Object>(context: &Context, owner: &O, pod: &Pod) -> kube::Result<Pod> {
    let api: Api<Pod> = context.api(owner.meta().namespace.as_deref().unwrap_or_default());
    match context.create(&api, &context.pods, pod).await {
        Ok(created) => {
            let name = created.metadata.name.as_deref().unwrap_or_default();
            context.recorder.of(component::<O>()).event(
                &reference(owner),
                "Normal",
                "SuccessfulCreate",
                format!("Created pod: {name}"),
            );
            Ok(created)
        }
        Err(error) => {
            // A namespace that is being deleted takes nothing new; that is no news.
            if !matches!(&error, kube::Error::Api(status) if status.code == 409 || namespace_ends(status)) {
                context.recorder.of(component::<O>()).event(
                    &reference(owner),
                    "Warning",
                    "FailedCreate",
                    format!("Error creating: {}", message(&error)),
                );
            }
            Err(error)
        }
    }
}

/// Deletes one pod with its own grace period and says so.
pub async fn delete<O: Object>(context: &Context, owner: &O, pod: &Pod) -> kube::Result<()> {
    let api: Api<Pod> = context.api(owner.meta().namespace.as_deref().unwrap_or_default());
    context
        .delete(&api, &context.pods, pod, &DeleteParams::background())
        .await?;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let text = format!("Deleted pod: {name}");
    context
        .recorder
        .of(component::<O>())
        .event(&reference(owner), "Normal", "SuccessfulDelete", text);
    Ok(())
}

/// Makes pods in batches that double as long as all succeed, so that a refusal (quota, for example) costs few
/// requests.
pub async fn create_many<O: Object>(context: &Context, owner: &O, pods: &[Pod]) -> kube::Result<()> {
    let mut rest = pods;
    let mut batch = 1;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(batch.min(rest.len()));
        let mut running: FuturesUnordered<_> = now.iter().map(|pod| create(context, owner, pod)).collect();
        let mut failed = None;
        while let Some(result) = running.next().await {
            failed = failed.or(result.err());
        }
        if let Some(error) = failed {
            return Err(error);
        }
        rest = later;
        batch *= 2;
    }
    Ok(())
}

/// Deletes pods at once; the first error is returned after all were tried.
pub async fn delete_many<O: Object>(context: &Context, owner: &O, pods: &[&Pod]) -> kube::Result<()> {
    let mut running: FuturesUnordered<_> = pods.iter().map(|pod| delete(context, owner, pod)).collect();
    let mut failed = None;
    while let Some(result) = running.next().await {
        failed = failed.or(result.err());
    }
    failed.map_or(Ok(()), Err)
}

/// True when a creation was refused because the namespace is being deleted.
pub fn namespace_ends(status: &kube::core::Status) -> bool {
    status.code == 403 && status.message.contains("being terminated")
}

/// The server's message, without the decoration of the client's error type.
pub fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
