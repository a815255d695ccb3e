//! HorizontalPodAutoscalers. There is no metrics API in this cluster yet, so nothing is scaled by load, and each
//! autoscaler says so; the bounds are kept, which takes no metrics.

use crate::context::{Context, settle};
use client::events::reference;
use client::{Key, Outcome, Queue};
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec,
    HorizontalPodAutoscalerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use std::sync::Arc;
use std::time::Duration;

/// The name under which Events are recorded.
const COMPONENT: &str = "horizontal-pod-autoscaler";
/// Autoscalers worked on at once.
const CONCURRENCY: usize = 2;
/// Pause between looks at the target, whose size others change (upstream looks each 15 s).
const INTERVAL: Duration = Duration::from_secs(60);

/// The controller.
pub struct Controller {
    context: Arc<Context>,
    queue: Arc<Queue<Key>>,
}

impl Controller {
    /// Registers its handlers.
    pub fn new(context: &Arc<Context>) -> Self {
        let queue = Arc::new(Queue::new());
        let keys = queue.clone();
        context
            .autoscalers
            .on_change(move |change| keys.add(Key::of(&**change.object())));
        Self {
            context: context.clone(),
            queue,
        }
    }

    /// Works until dropped.
    pub async fn run(self) {
        let (context, queue) = (&self.context, &self.queue);
        queue
            .work(CONCURRENCY, |key| async move {
                let result = reconcile(context, &key).await;
                settle("horizontalpodautoscaling", &key, result)
            })
            .await;
    }
}

/// What there is to say and to do.
#[derive(Debug, PartialEq, Eq)]
struct Decision {
    desired: i32,
    /// Type, status, reason, message.
    conditions: Vec<(&'static str, &'static str, &'static str, String)>,
}

fn decide(spec: &HorizontalPodAutoscalerSpec, current: i32) -> Decision {
    let least = spec.min_replicas.unwrap_or(1);
    let able = (
        "AbleToScale",
        "True",
        "SucceededGetScale",
        "the HPA controller was able to get the target's current scale".to_owned(),
    );
    let active = |status, reason, message: &str| ("ScalingActive", status, reason, message.to_owned());
    let limited =
        |reason, message: &str, desired| (("ScalingLimited", "True", reason, message.to_owned()), desired);
    if current == 0 && least != 0 {
        let disabled = active(
            "False",
            "ScalingDisabled",
            "scaling is disabled since the replica count of the target is zero",
        );
        return Decision {
            desired: 0,
            conditions: vec![able, disabled],
        };
    }
    let no_metrics = active(
        "False",
        "FailedGetResourceMetric",
        "the HPA was unable to compute the replica count: this cluster has no metrics API (metrics.k8s.io)",
    );
    let (limit, desired) = if current > spec.max_replicas {
        limited(
            "TooManyReplicas",
            "the desired replica count is more than the maximum replica count",
            spec.max_replicas,
        )
    } else if current < least {
        limited(
            "TooFewReplicas",
            "the desired replica count is less than the minimum replica count",
            least,
        )
    } else {
        return Decision {
            desired: current,
            conditions: vec![able, no_metrics],
        };
    };
    Decision {
        desired,
        conditions: vec![able, no_metrics, limit],
    }
}

async fn reconcile(context: &Context, key: &Key) -> kube::Result<Outcome> {
    let Some(scaler) = context.autoscalers.by_key(key) else {
        return Ok(Outcome::Done);
    };
    let spec = scaler.spec.clone();
    let (current, decision) = match target(context, key, &spec).await {
        Ok((api, current)) => {
            let decision = decide(&spec, current);
            if decision.desired != current {
                scale(context, &scaler, &api, &spec, decision.desired).await?;
            }
            (current, decision)
        }
        Err(kube::Error::Api(status)) => {
            let failed = ("AbleToScale", "False", "FailedGetScale", status.message.clone());
            let event = context.recorder.of(COMPONENT);
            event.event(
                &reference(&*scaler),
                "Warning",
                "FailedGetScale",
                status.message.clone(),
            );
            let known = scaler
                .status
                .as_ref()
                .and_then(|s| s.current_replicas)
                .unwrap_or(0);
            let decision = Decision {
                desired: known,
                conditions: vec![failed],
            };
            (known, decision)
        }
        Err(error) => return Err(error),
    };
    write(context, key, &scaler, current, decision).await?;
    Ok(Outcome::After(INTERVAL))
}

/// The target's API, and how large it is now.
async fn target(
    context: &Context,
    key: &Key,
    spec: &HorizontalPodAutoscalerSpec,
) -> kube::Result<(Api<DynamicObject>, i32)> {
    let wanted = &spec.scale_target_ref;
    let version = wanted.api_version.clone().unwrap_or_else(|| "v1".into());
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let kind = GroupVersionKind::gvk(group, version, &wanted.kind);
    let (resource, _) = kube::discovery::pinned_kind(&context.client, &kind).await?;
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &key.namespace, &resource);
    let scale = api.get_scale(&wanted.name).await?;
    let current = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
    Ok((api, current))
}

async fn scale(
    context: &Context,
    scaler: &HorizontalPodAutoscaler,
    api: &Api<DynamicObject>,
    spec: &HorizontalPodAutoscalerSpec,
    desired: i32,
) -> kube::Result<()> {
    let patch = Patch::Merge(serde_json::json!({"spec": {"replicas": desired}}));
    let name = &spec.scale_target_ref.name;
    api.patch_scale(name, &PatchParams::default(), &patch).await?;
    let text = format!("New size: {desired}; reason: outside of the allowed range");
    context
        .recorder
        .of(COMPONENT)
        .event(&reference(scaler), "Normal", "SuccessfulRescale", text);
    Ok(())
}

async fn write(
    context: &Context,
    key: &Key,
    scaler: &HorizontalPodAutoscaler,
    current: i32,
    decision: Decision,
) -> kube::Result<()> {
    let old = scaler.status.clone().unwrap_or_default();
    let now = Time(Timestamp::now());
    let since = |kind: &str, status: &str| {
        let known = old
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == kind && c.status == status);
        known
            .and_then(|c| c.last_transition_time.clone())
            .unwrap_or_else(|| now.clone())
    };
    let conditions = decision
        .conditions
        .into_iter()
        .map(
            |(kind, status, reason, message)| HorizontalPodAutoscalerCondition {
                last_transition_time: Some(since(kind, status)),
                type_: kind.into(),
                status: status.into(),
                reason: Some(reason.into()),
                message: Some(message),
            },
        )
        .collect();
    let rescaled = decision.desired != current;
    let status = HorizontalPodAutoscalerStatus {
        conditions: Some(conditions),
        current_replicas: Some(current),
        desired_replicas: decision.desired,
        observed_generation: scaler.metadata.generation,
        last_scale_time: if rescaled {
            Some(now)
        } else {
            old.last_scale_time.clone()
        },
        current_metrics: None,
    };
    if status != old {
        let mut changed = scaler.clone();
        changed.status = Some(status);
        let api: Api<HorizontalPodAutoscaler> = context.api(&key.namespace);
        context.write_status(&api, &context.autoscalers, &changed).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(current: i32) -> (i32, &'static str) {
        let spec = HorizontalPodAutoscalerSpec {
            min_replicas: Some(2),
            max_replicas: 4,
            ..HorizontalPodAutoscalerSpec::default()
        };
        let decision = decide(&spec, current);
        (decision.desired, decision.conditions.last().unwrap().2)
    }

    #[test]
    fn bounds_are_kept_without_metrics() {
        assert_eq!(decision(0), (0, "ScalingDisabled"));
        assert_eq!(decision(1), (2, "TooFewReplicas"));
        assert_eq!(decision(3), (3, "FailedGetResourceMetric"));
        assert_eq!(decision(9), (4, "TooManyReplicas"));
    }
}
