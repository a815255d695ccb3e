//! The kubelet: makes the pods bound to its node run on a CRI runtime, and reports what became of them.
//!
//! - `pods`: a task per pod plans, starts, stops and reports; `runtime` says what the runtime has
//! - `volumes`: what pods mount, CSI included; `objects`: the ConfigMaps and Secrets for it
//! - `probes`, `logs`, `server`: health, container logs, the API on port 10250
//! - `node`: registration, status, lease; `fence`: the end of pods with replicated volumes on a cut-off node
//! - `eviction`: the end of pods on a node that runs out of memory or disk
//!
//! Nothing here keeps state that a restart would lose: containers are recognised by their labels, volumes by
//! their directories and mounts. An API that is away delays reports, and stops nothing.

mod backoff;
mod cgroups;
mod context;
mod eviction;
mod fence;
mod logs;
mod node;
mod objects;
mod pods;
mod probes;
mod quantity;
mod run;
mod runtime;
mod server;
mod sync;
mod volumes;

use std::path::PathBuf;

/// How to run the kubelet.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Kubeconfig of `system:node:<node-name>`.
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Name of the Node object.
    #[arg(long)]
    pub node_name: String,
    /// Address of the node, as other nodes reach it.
    #[arg(long)]
    pub node_ip: std::net::IpAddr,
    /// Labels to register with, `key=value`.
    #[arg(long, value_delimiter = ',')]
    pub node_labels: Vec<String>,
    /// Subnet of the node's pods; becomes `spec.podCIDR`.
    #[arg(long)]
    pub pod_cidr: String,
    /// Directory for pods and plugins; `plugins/` and `plugins_registry/` below it are the CSI seams.
    #[arg(long)]
    pub root_dir: PathBuf,
    /// Directory of the container logs (`<dir>/<namespace>_<pod>_<uid>/<container>/<n>.log`).
    #[arg(long)]
    pub pod_logs_dir: PathBuf,
    /// CRI socket of the runtime.
    #[arg(long)]
    pub container_runtime_endpoint: PathBuf,
    /// Cgroup below which all pods run, relative to each controller's root (cgroup v1), for example
    /// `/hikube/hikube/geneva/node-a/pods`.
    #[arg(long)]
    pub cgroup_root: String,
    /// Serving certificate for port 10250.
    #[arg(long)]
    pub tls_cert: PathBuf,
    /// Key of the serving certificate.
    #[arg(long)]
    pub tls_key: PathBuf,
    /// Authority of the clients (the API server's kubelet client).
    #[arg(long)]
    pub client_ca: PathBuf,
    /// Port of the kubelet's API.
    #[arg(long, default_value_t = 10250)]
    pub port: u16,
    /// Address of cluster DNS.
    #[arg(long)]
    pub cluster_dns: std::net::IpAddr,
    /// Domain of the cluster.
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// CPU capacity in millicores; by default what the machine has.
    #[arg(long)]
    pub cpu_millis: Option<u64>,
    /// Memory capacity in bytes; by default what the machine has.
    #[arg(long)]
    pub memory_bytes: Option<u64>,
    /// Size of the node's local disk in bytes (`ephemeral-storage`); by default what the filesystem has.
    #[arg(long)]
    pub ephemeral_storage_bytes: Option<u64>,
    /// Most pods on this node.
    #[arg(long, default_value_t = 110)]
    pub max_pods: u32,
    /// Socket of the node's engine; its `WatchQuorum` says when pods with replicated volumes must die.
    /// Without it nothing is fenced.
    #[arg(long)]
    pub engine_socket: Option<PathBuf>,
    /// Image pull command to name in ErrImagePull messages.
    #[arg(long, default_value = "hikube image load FILE.tar")]
    pub image_hint: String,
}

/// Why the component stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API client cannot be made.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// A certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The node failed.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
}

pub use run::run;
