//! What all controllers share: the client, the recorder, and one cache per kind of object.

use client::events::Recorder;
use client::{Informer, Outcome};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController,
    ResourceQuota, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::{CSIDriver, StorageClass, VolumeAttachment};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::Resource;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use tokio::task::JoinSet;

/// The name under which Events are recorded and fields are managed.
pub const COMPONENT: &str = "kube-controller-manager";

/// What an object of any kind must be to go through the helpers here.
pub trait Object:
    Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}
impl<K> Object for K where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

macro_rules! caches {
    ($($(#[$doc:meta])* $field:ident: $kind:ty,)*) => {
        /// The shared state; one per term of leadership.
        pub struct Context {
            /// Client with the controller manager's identity.
            pub client: kube::Client,
            /// Writes Events in the background.
            pub recorder: Recorder,
            $($(#[$doc])* pub $field: Informer<$kind>,)*
        }

        impl Context {
            /// Empty caches.
            pub fn new(client: kube::Client, identity: &str) -> Arc<Self> {
                let recorder = Recorder::new(client.clone(), COMPONENT, identity);
                Arc::new(Self { client, recorder, $($field: Informer::new(),)* })
            }

            /// Starts to fill the caches. Handlers must be registered before.
            pub fn start(self: &Arc<Self>, tasks: &mut JoinSet<()>) {
                $({
                    let context = self.clone();
                    tasks.spawn(async move {
                        let api = Api::all(context.client.clone());
                        context.$field.run(api, watcher::Config::default()).await;
                    });
                })*
            }

            /// Waits until every cache has been filled once.
            pub async fn synced(&self) {
                $(self.$field.synced().await;)*
            }
        }
    };
}

caches! {
    /// All pods.
    pods: Pod,
    /// All nodes.
    nodes: Node,
    /// All namespaces.
    namespaces: Namespace,
    /// All ReplicaSets.
    replica_sets: ReplicaSet,
    /// All Deployments.
    deployments: Deployment,
    /// All StatefulSets.
    stateful_sets: StatefulSet,
    /// All DaemonSets.
    daemon_sets: DaemonSet,
    /// All Jobs.
    jobs: Job,
    /// All CronJobs.
    cron_jobs: CronJob,
    /// All ReplicationControllers.
    replication_controllers: ReplicationController,
    /// All quotas.
    quotas: ResourceQuota,
    /// All autoscalers.
    autoscalers: HorizontalPodAutoscaler,
    /// The histories of StatefulSets and DaemonSets.
    revisions: ControllerRevision,
    /// All Services.
    services: Service,
    /// All EndpointSlices.
    slices: EndpointSlice,
    /// All Endpoints.
    endpoints: Endpoints,
    /// All service accounts.
    service_accounts: ServiceAccount,
    /// All leases; those of nodes tell whether their kubelets live.
    leases: Lease,
    /// All persistent volumes.
    volumes: PersistentVolume,
    /// All claims.
    claims: PersistentVolumeClaim,
    /// All storage classes.
    classes: StorageClass,
    /// Which volumes are, or shall be, attached to which nodes.
    attachments: VolumeAttachment,
    /// What the CSI drivers need.
    drivers: CSIDriver,
    /// All disruption budgets.
    budgets: PodDisruptionBudget,
}

impl Context {
    /// The API of a namespaced kind.
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The API of a cluster-scoped kind.
    pub fn cluster<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope>,
    {
        Api::all(self.client.clone())
    }

    /// Writes the status of an object and takes the answer into its cache. The resource version in `object`
    /// makes the server refuse it when somebody else was faster.
    pub async fn write_status<K: Object>(
        &self,
        api: &Api<K>,
        cache: &Informer<K>,
        object: &K,
    ) -> kube::Result<()> {
        let name = object.meta().name.clone().unwrap_or_default();
        let written = api.replace_status(&name, &PostParams::default(), object).await?;
        cache.observe(written);
        Ok(())
    }

    /// Creates an object and takes the answer into its cache.
    pub async fn create<K: Object>(&self, api: &Api<K>, cache: &Informer<K>, object: &K) -> kube::Result<K> {
        let created = api.create(&PostParams::default(), object).await?;
        cache.observe(created.clone());
        Ok(created)
    }

    /// Patches an object (merge patch) and takes the answer into its cache.
    pub async fn merge<K: Object>(
        &self,
        api: &Api<K>,
        cache: &Informer<K>,
        name: &str,
        patch: serde_json::Value,
    ) -> kube::Result<K> {
        let patched = api
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        cache.observe(patched.clone());
        Ok(patched)
    }

    /// Deletes exactly this object and takes the answer into its cache. That it is gone already is success.
    pub async fn delete<K: Object>(
        &self,
        api: &Api<K>,
        cache: &Informer<K>,
        object: &K,
        params: &DeleteParams,
    ) -> kube::Result<()> {
        let meta = object.meta();
        let params = params.clone().preconditions(kube::api::Preconditions {
            uid: meta.uid.clone(),
            resource_version: None,
        });
        match api
            .delete(meta.name.as_deref().unwrap_or_default(), &params)
            .await
        {
            Ok(either) => {
                match either.left() {
                    // Deletion has begun: finalizers or the kubelet will end it.
                    Some(answer) if answer.meta().deletion_timestamp.is_some() => cache.observe(answer),
                    _ => cache.forget(object),
                }
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.is_not_found() => {
                cache.forget(object);
                Ok(())
            }
            // Another object of that name: the one meant is gone.
            Err(kube::Error::Api(status)) if status.is_conflict() && status.message.contains("UID") => {
                cache.forget(object);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// Turns the result of one reconciliation into what the queue does next. Errors are logged here and only here.
pub fn settle(
    controller: &'static str,
    key: &impl std::fmt::Display,
    result: kube::Result<Outcome>,
) -> Outcome {
    match result {
        Ok(outcome) => outcome,
        Err(kube::Error::Api(status)) if !matches!(status.code, 404 | 409 | 429 | 500..) => {
            tracing::info!(controller, %key, code = status.code, message = status.message, "refused by the server");
            Outcome::Retry
        }
        Err(error) => {
            tracing::debug!(controller, %key, %error, "trying again");
            Outcome::Retry
        }
    }
}

/// True when the server answered with this HTTP status.
pub fn answered(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}
