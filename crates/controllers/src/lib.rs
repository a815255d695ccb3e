//! The controller manager. Every controller is an ordinary API client; the one thing it cannot learn from the
//! API, whether a silent node still reaches the storage, comes through [`StorageContact`].

mod autoscaler;
mod bootstrap_token;
mod context;
mod cronjob;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
mod gc;
mod hash;
mod job;
mod namespace;
mod node;
mod ownership;
mod pod_control;
mod quota;
mod replicaset;
mod replication_controller;
mod resources;
mod service_account;
mod statefulset;
mod volume;

use context::Context;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Name of the Lease for the leader election.
const LEASE: &str = "kube-controller-manager";

/// How to run the controllers.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Kubeconfig of `system:kube-controller-manager`.
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Name of this candidate in the leader election.
    #[arg(long)]
    pub identity: String,
    /// The cluster's authority, published in each namespace as the ConfigMap `kube-root-ca.crt`.
    #[arg(long)]
    pub root_ca: PathBuf,
}

/// What the stores know about a node's engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// A majority of the stores answered, and each of that majority has not heard from the node's engine for
    /// at least this long. A store that started later counts from its own start.
    SilentFor(std::time::Duration),
    /// A majority answered; not all of a majority find it silent.
    Heard,
    /// Fewer than a majority of the stores answered: nothing is certain, so nothing may be failed over.
    Unknown,
}

/// The storage layer's view of nodes, for the node lifecycle controller.
#[async_trait::async_trait]
pub trait StorageContact: Send + Sync + 'static {
    /// When did a majority of the stores last hear from the engine of `node`? Answers within 2 s.
    async fn contact(&self, node: &str) -> Contact;
}

/// Why the component stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API client cannot be made.
    #[error(transparent)]
    Client(#[from] client::Error),
}

/// Runs until `shutdown`; controls while it leads.
pub async fn run(
    config: Config,
    storage: Arc<dyn StorageContact>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let connection = client::connect(&config.kubeconfig).await?;
    let election = client::Election {
        client: connection.client.clone(),
        name: LEASE.into(),
        identity: config.identity.clone(),
    };
    let work = || control(connection.client.clone(), config.clone(), storage.clone());
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = client::lead(&election, work) => {}
    }
    Ok(())
}

/// One term of leadership: fresh caches, so that nothing observed before it counts.
async fn control(client: kube::Client, config: Config, storage: Arc<dyn StorageContact>) {
    let context = Context::new(client, &config.identity);
    let replica_sets = replicaset::Controller::new(&context);
    let deployments = deployment::Controller::new(&context);
    let stateful_sets = statefulset::Controller::new(&context);
    let daemon_sets = daemonset::Controller::new(&context);
    let jobs = job::Controller::new(&context);
    let budgets = disruption::Controller::new(&context);
    let cron_jobs = cronjob::Controller::new(&context);
    let replication_controllers = replication_controller::Controller::new(&context);
    let autoscalers = autoscaler::Controller::new(&context);
    let tokens = bootstrap_token::Controller::new(&context);
    let endpoints = endpoints::Controller::new(&context);
    let mirror = endpoints::mirror::Controller::new(&context);
    let service_accounts = service_account::Controller::new(&context, config.root_ca);
    let namespaces = namespace::Controller::new(&context);
    let garbage = gc::Controller::new(&context);
    let quotas = quota::Controller::new(&context, garbage.census());
    let nodes = node::Controller::new(&context, storage);
    let evictions = node::eviction::Controller::new(&context);
    let pod_gc = node::pod_gc::Controller::new(&context);
    let binder = volume::binder::Controller::new(&context);
    let protection = volume::protection::Controller::new(&context);
    let ephemeral = volume::ephemeral::Controller::new(&context);
    let attach = volume::attach::Controller::new(&context);
    // Dropped with this future when leadership is lost, which ends all tasks.
    let mut tasks = JoinSet::new();
    context.start(&mut tasks);
    context.synced().await;
    tracing::info!(pods = context.pods.len(), "controllers start");
    tasks.spawn(replica_sets.run());
    tasks.spawn(deployments.run());
    tasks.spawn(stateful_sets.run());
    tasks.spawn(daemon_sets.run());
    tasks.spawn(jobs.run());
    tasks.spawn(budgets.run());
    tasks.spawn(cron_jobs.run());
    tasks.spawn(replication_controllers.run());
    tasks.spawn(autoscalers.run());
    tasks.spawn(tokens.run());
    tasks.spawn(quotas.run());
    tasks.spawn(endpoints.run());
    tasks.spawn(mirror.run());
    tasks.spawn(service_accounts.run());
    tasks.spawn(namespaces.run());
    tasks.spawn(garbage.run());
    tasks.spawn(nodes.run());
    tasks.spawn(evictions.run());
    tasks.spawn(pod_gc.run());
    tasks.spawn(binder.run());
    tasks.spawn(protection.run());
    tasks.spawn(ephemeral.run());
    tasks.spawn(attach.run());
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            // A bug in one controller: a new term starts all of them anew.
            tracing::error!(%error, "a controller failed");
            return;
        }
    }
}
