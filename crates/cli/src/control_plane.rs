//! API server, scheduler and controllers as one process: the usual way to run them.

use crate::args::ControlPlaneArgs;
use crate::contact;
use anyhow::{Context, Result};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Runs all three. When one of them ends, all end, and the supervisor starts them anew.
pub async fn run(args: ControlPlaneArgs, shutdown: CancellationToken) -> Result<()> {
    let storage = Arc::new(contact::Stores::new(args.storage)?);
    let scheduler = scheduler::Config {
        kubeconfig: args.scheduler_kubeconfig,
        identity: args.identity.clone(),
    };
    let controllers = controllers::Config {
        kubeconfig: args.controllers_kubeconfig,
        identity: args.identity,
        root_ca: args.root_ca,
    };
    let mut tasks = tokio::task::JoinSet::new();
    let token = shutdown.clone();
    tasks.spawn(async move { apiserver::run(args.apiserver, token).await.context("API server") });
    let token = shutdown.clone();
    tasks.spawn(async move { scheduler::run(scheduler, token).await.context("scheduler") });
    let token = shutdown.clone();
    tasks.spawn(async move {
        controllers::run(controllers, storage, token)
            .await
            .context("controllers")
    });
    let first = tasks.join_next().await.context("nothing was started")?;
    // The others finish what they have begun.
    shutdown.cancel();
    while tasks.join_next().await.is_some() {}
    first.context("a part of the control plane panicked")?
}
