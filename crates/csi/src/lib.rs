//! The CSI driver `csi.hikube.io`: Identity, Controller and Node services on a Unix socket, and the provisioner
//! and attacher that turn claims and attachments into calls on them (leader-elected, API clients).

mod capability;
mod command;
mod controller;
mod engine;
mod filesystem;
mod identity;
mod locks;
mod mount;
mod mountinfo;
mod node;
mod nodes;
mod publish;
mod registration;
mod sidecar;
mod socket;
mod stage;
mod stats;

use protos::csi::controller_server::ControllerServer;
use protos::csi::identity_server::IdentityServer;
use protos::csi::node_server::NodeServer;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;

/// Name of the driver.
pub const DRIVER: &str = "csi.hikube.io";

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
    /// A socket cannot be bound.
    #[error("listen on {path}: {source}")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Serving a socket failed.
    #[error("serve {path}: {source}")]
    Serve {
        /// The socket.
        path: PathBuf,
        /// Why it ended.
        source: tonic::transport::Error,
    },
}

/// Runs until `shutdown`. Mounted volumes go on working when it ends.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let client = match &config.kubeconfig {
        Some(path) => Some(client::connect(path).await?.client),
        None => None,
    };
    let services = serve(&config, client.clone(), shutdown.clone());
    let registration = async {
        match config.registration.clone() {
            Some(socket) => registration::serve(socket, config.endpoint.clone(), shutdown.clone()).await,
            None => Ok(()),
        }
    };
    let sidecar = async {
        match client {
            Some(client) => sidecar::run(client, &config.endpoint, &config.node_name).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        result = async { tokio::try_join!(services, registration) } => result.map(drop),
        () = sidecar => Ok(()),
    }
}

async fn serve(
    config: &Config,
    client: Option<kube::Client>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let engine = engine::Engine::new(&config.engine_socket);
    let controller = controller::ControllerService {
        engine: engine.clone(),
        nodes: nodes::Nodes {
            own: config.node_name.clone(),
            client,
        },
        region: config.region.clone(),
        locks: locks::Locks::default(),
    };
    let node = node::NodeService {
        host: Arc::new(node::Host {
            engine: engine.clone(),
            node_name: config.node_name.clone(),
            region: config.region.clone(),
            locks: locks::Locks::default(),
            questions: stats::Questions::default(),
        }),
    };
    let incoming = UnixListenerStream::new(socket::listen(&config.endpoint)?);
    tonic::transport::Server::builder()
        .add_service(IdentityServer::new(identity::IdentityService { engine }))
        .add_service(ControllerServer::new(controller))
        .add_service(NodeServer::new(node))
        .serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned())
        .await
        .map_err(|source| Error::Serve {
            path: config.endpoint.clone(),
            source,
        })
}

/// Objects that the driver needs (CSIDriver, StorageClasses `replicated` (default) and `local`, roles and their
/// bindings), as YAML documents. `platform` applies them.
pub const MANIFESTS: &str = include_str!("manifests.yaml");
