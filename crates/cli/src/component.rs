//! Running a component until it is told to end.

use crate::args::{ComponentCommand, StoreArgs, StoreCommand, SupervisorArgs};
use crate::{contact, control_plane, logging};
use anyhow::{Context, Result};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Stack of each worker thread, bytes. It is only reserved, and used pages stay: small on purpose.
const STACK_BYTES: usize = 1 << 20;

/// Runs a component.
pub fn run(command: ComponentCommand) -> Result<()> {
    if let ComponentCommand::Store(StoreArgs {
        command:
            Some(StoreCommand::Format {
                data_dir,
                cluster,
                region,
            }),
        ..
    }) = &command
    {
        return replication::store_format(data_dir, cluster, region).context("format the store");
    }
    // Both say at WARN what every client meets while servers come and go; their callers retry.
    logging::init("info,kube_client=error,kube_runtime=error");
    end_on_panic();
    let runtime = match &command {
        // These only wait.
        ComponentCommand::Supervisor(_)
        | ComponentCommand::Forward(_)
        | ComponentCommand::DemoClient(_)
        | ComponentCommand::DemoServer(_) => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?,
        _ => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()?,
    };
    let result = runtime.block_on(async {
        let shutdown = shutdown_signal()?;
        start(command, shutdown).await
    });
    // Blocking calls that still run (a read of a log that is followed) must not keep the process.
    runtime.shutdown_background();
    if let Err(error) = &result {
        tracing::error!("{error:#}");
    }
    result
}

async fn start(command: ComponentCommand, shutdown: CancellationToken) -> Result<()> {
    match command {
        ComponentCommand::ControlPlane(args) => control_plane::run(args, shutdown).await,
        ComponentCommand::Apiserver(config) => Ok(apiserver::run(config, shutdown).await?),
        ComponentCommand::Scheduler(config) => Ok(scheduler::run(config, shutdown).await?),
        ComponentCommand::ControllerManager(args) => {
            let storage = Arc::new(contact::Stores::new(args.storage)?);
            Ok(controllers::run(args.config, storage, shutdown).await?)
        }
        ComponentCommand::Kubelet(config) => Ok(kubelet::run(config, shutdown).await?),
        ComponentCommand::Proxy(config) => Ok(network::run(config, shutdown).await?),
        ComponentCommand::Csi(config) => Ok(csi::run(config, shutdown).await?),
        ComponentCommand::Engine(config) => Ok(replication::run_engine(config, shutdown).await?),
        ComponentCommand::Store(args) => {
            let config = args.config.context("the store needs its arguments")?;
            Ok(replication::run_store(config, shutdown).await?)
        }
        ComponentCommand::Supervisor(args) => supervise(args, shutdown).await,
        ComponentCommand::Forward(config) => Ok(network::forward(config, shutdown).await?),
        ComponentCommand::DemoServer(config) => Ok(platform::demo::run_server(config, shutdown).await?),
        ComponentCommand::DemoClient(args) => {
            Ok(platform::demo::run_client(&args.ledger, &args.endpoints, shutdown).await?)
        }
    }
}

async fn supervise(args: SupervisorArgs, shutdown: CancellationToken) -> Result<()> {
    let name = args.name.name;
    let upkeep: Option<platform::supervisor::Upkeep> = args
        .upkeep
        .then(|| Box::new(move || platform::cluster::upkeep(&name)) as _);
    Ok(platform::supervisor::run(&args.spec, upkeep, shutdown).await?)
}

/// Cancelled by SIGTERM and SIGINT.
fn shutdown_signal() -> Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        cancelled.cancel();
    });
    Ok(token)
}

/// A component that lost one of its tasks would go on in a state that nobody tested; its supervisor starts it anew.
fn end_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}
