//! The kubelet alone: `cargo run --example kubelet -- --kubeconfig ... --node-name ...`, for trying it against
//! any API server and runtime.
#![allow(clippy::unwrap_used)]

use clap::Parser;
use hikube_kubelet as kubelet;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    config: kubelet::Config,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let arguments = Arguments::parse();
    let shutdown = tokio_util::sync::CancellationToken::new();
    let ended = shutdown.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        ended.cancel();
    });
    kubelet::run(arguments.config, shutdown).await?;
    Ok(())
}
