//! Puts the parts together.

use crate::cgroups::Cgroups;
use crate::context::{Context, Paths};
use crate::fence::Fence;
use crate::node;
use crate::objects::Objects;
use crate::pods::manager;
use crate::runtime::{Relist, Runtime};
use crate::volumes;
use crate::{Config, Error, eviction, logs, server};
use client::Informer;
use client::events::Recorder;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Api;
use kube::runtime::watcher;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long to wait for the runtime's name at the start; it is only shown.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs until `shutdown`. Pods go on running when it ends.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let connection = client::connect(&config.kubeconfig).await?;
    let context = Arc::new(context(config, connection.client).await?);
    let capacity = node::capacity(&context.config);
    let pods: Informer<Pod> = Informer::new();
    let (settled, is_settled) = watch::channel(false);
    let node_status = context.node.clone();
    let uid = Arc::new(move || node_status.uid());
    node::renew_lease(context.config.clone(), uid, shutdown.clone()).map_err(|source| Error::Io {
        action: "start the lease's thread",
        path: "node-lease".into(),
        source,
    })?;
    let _ = context.runtime.set_pod_cidr(&context.config.pod_cidr).await;
    let services = async {
        let api: Api<Service> = Api::all(context.client.clone());
        context.services.run(api, watcher::Config::default()).await;
    };
    let work = async {
        tokio::join!(
            context.relist.run(context.runtime.clone(), shutdown.clone()),
            context.fence.run(&context),
            eviction::run(&context, &pods),
            context.plugins.run(&context),
            volumes::csi::reconcile(&context),
            volumes::csi::look_after(&context),
            services,
            manager::run(context.clone(), pods.clone(), settled),
            node::run(context.clone(), capacity, is_settled),
            logs::rotate(&context),
        );
    };
    tokio::select! {
        () = work => {}
        result = server::run(context.clone(), pods.clone(), shutdown.clone()) => result?,
        () = shutdown.cancelled() => {}
    }
    Ok(())
}

async fn context(config: Config, client: kube::Client) -> Result<Context, Error> {
    let paths = Paths {
        root: config.root_dir.clone(),
        logs: config.pod_logs_dir.clone(),
    };
    for dir in [
        paths.pods(),
        paths.plugin_sockets(),
        paths.staged(),
        paths.logs.clone(),
    ] {
        std::fs::create_dir_all(&dir).map_err(|source| Error::Io {
            action: "create",
            path: dir.clone(),
            source,
        })?;
    }
    let runtime = Runtime::new(&config.container_runtime_endpoint);
    let version = tokio::time::timeout(VERSION_TIMEOUT, runtime.version()).await;
    let runtime_name = match version {
        Ok(Ok(version)) => version.runtime_name,
        _ => "containerd".to_owned(),
    };
    let cgroups = Cgroups::discover(&config.cgroup_root);
    let allocatable = node::capacity(&config).amounts;
    Ok(Context {
        recorder: Recorder::new(client.clone(), "kubelet", config.node_name.clone()),
        objects: Objects::new(client.clone()),
        services: Informer::new(),
        relist: Arc::new(Relist::default()),
        node: Arc::new(node::NodeStatus::new(volumes::csi::staged_names(&paths.staged()))),
        tokens: volumes::tokens::Tokens::default(),
        plugins: volumes::plugins::Plugins::default(),
        volumes: volumes::csi::Volumes::default(),
        promised: Default::default(),
        evictions: Default::default(),
        fence: Arc::new(Fence::new(&config)),
        client,
        runtime,
        runtime_name,
        cgroups,
        allocatable,
        paths,
        config,
    })
}
