//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Kubernetes whose volumes survive the loss of a whole region.
#[derive(Parser)]
#[command(
    name = "hikube",
    version,
    after_help = "\
Examples:
  hikube up                          a cluster of three regions on this machine
  export KUBECONFIG=$PWD/hikube.conf; hikube kubeconfig > hikube.conf
  hikube status
  hikube demo                        write through a volume while you break things
  hikube region fail geneva          lose a region; `hikube region restore geneva` brings it back
  hikube delete                      remove everything"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    #[command(flatten)]
    User(UserCommand),
    #[command(flatten)]
    Component(Box<ComponentCommand>),
    /// Enter a namespace and a cgroup, then become another program.
    #[command(hide = true)]
    Launch(LaunchArgs),
}

/// Which cluster.
#[derive(Args, Clone, Debug)]
pub struct Name {
    /// Name of the cluster.
    #[arg(long, default_value = "hikube", env = "HIKUBE_CLUSTER")]
    pub name: String,
}

/// What people type.
#[derive(Subcommand)]
pub enum UserCommand {
    /// Bring a cluster up, resume it, or apply a changed manifest.
    #[command(after_help = "\
Examples:
  hikube up
  hikube up -f cluster.yaml
  hikube up -f cluster.yaml --name staging --wait 5m
  hikube up --datastore embedded --name small     one control plane, no etcd")]
    Up(UpArgs),
    /// Stop a cluster and keep its data; `hikube up` starts it again.
    #[command(after_help = "Examples:\n  hikube down\n  hikube down --name staging")]
    Down(Name),
    /// Remove a cluster with all its data.
    #[command(after_help = "Examples:\n  hikube delete\n  hikube delete --name staging --yes")]
    Delete(DeleteArgs),
    /// Show etcd members, control planes, nodes, regions and volumes.
    #[command(after_help = "Examples:\n  hikube status\n  hikube status -o json | jq .volumes")]
    Status(StatusArgs),
    /// Fail a region, or bring it back.
    #[command(subcommand)]
    Region(RegionCommand),
    /// Print the administrator's kubeconfig.
    #[command(after_help = "\
Examples:
  hikube kubeconfig > hikube.conf && kubectl --kubeconfig hikube.conf get nodes
  kubectl --kubeconfig <(hikube kubeconfig) get nodes")]
    Kubeconfig(Name),
    /// Print the log of a component.
    #[command(after_help = "\
Examples:
  hikube logs                        list the components
  hikube logs kubelet-general-1
  hikube logs control-plane-geneva --lines 500
  hikube logs etcd-gland -f")]
    Logs(LogsArgs),
    /// Work with volumes, without Kubernetes.
    #[command(
        subcommand,
        after_help = "\
Examples:
  hikube volume list
  hikube volume create scratch --size 1Gi
  hikube volume attach scratch           prints its block device
  hikube volume verify scratch           compares its replicas"
    )]
    Volume(crate::volume::VolumeCommand),
    /// Bring container images into the cluster.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Deploy a workload that must lose nothing, with a client that keeps the books.
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "\
Examples:
  hikube demo
  hikube region fail geneva
  hikube demo check                  what was lost, and the longest pause
  hikube region restore geneva"
    )]
    Demo(DemoArgs),
    /// Get a path of the API with the identity that is at hand: a pod's service account, or a kubeconfig.
    #[command(after_help = "\
Examples:
  hikube api /version
  kubectl exec POD -- hikube api /api/v1/namespaces/default/pods")]
    Api {
        /// The path.
        path: String,
    },
    /// Print a completion script for a shell.
    #[command(after_help = "Examples:\n  hikube completion bash > /etc/bash_completion.d/hikube")]
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Steps that supervisors run for a node.
    #[command(hide = true)]
    Node(NodeArgs),
}

#[derive(Args)]
pub struct UpArgs {
    /// The cluster's manifest (`apps.cozystack.io/v1alpha1`, kind `Kubernetes`). Without it: the last one applied,
    /// or three regions with two control planes and three nodes.
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub name: Name,
    /// How long to wait until everything is Ready, for example `90s` or `5m`.
    #[arg(long, default_value = "2m", value_parser = duration)]
    pub wait: Duration,
    /// What holds the cluster's state, chosen when it is made: etcd, a member in each region, or the embedded store of
    /// a single control plane, which needs no etcd and does not survive the loss of its region.
    #[arg(long, value_enum)]
    pub datastore: Option<Datastore>,
    /// Lifetime of the components' certificates; they are renewed while they run.
    #[arg(long, default_value = "2160h", value_parser = duration, hide = true)]
    pub certificate_lifetime: Duration,
}

/// What holds a cluster's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Datastore {
    /// etcd, a member in each region.
    Etcd,
    /// A file of the only control plane.
    Embedded,
}

#[derive(Args)]
pub struct DeleteArgs {
    #[command(flatten)]
    pub name: Name,
    /// Do not ask, also on a terminal.
    #[arg(long, short)]
    pub yes: bool,
}

#[derive(Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub name: Name,
    /// Format of the output.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// Format of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns, for people.
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

#[derive(Subcommand)]
pub enum RegionCommand {
    /// Lose a region until it is restored: kill all its processes and cut its link.
    #[command(after_help = "\
Examples:
  hikube region fail geneva
  hikube region fail geneva --cut    the region runs on, and nobody hears of it
  hikube region fail geneva --kill   its processes die, its link stays")]
    Fail {
        /// geneva, gland or lucerne.
        region: String,
        /// Only SIGKILL everything that runs there.
        #[arg(long)]
        kill: bool,
        /// Only take its link down.
        #[arg(long)]
        cut: bool,
        #[command(flatten)]
        name: Name,
    },
    /// Bring a failed region back.
    #[command(after_help = "Examples:\n  hikube region restore geneva")]
    Restore {
        /// geneva, gland or lucerne.
        region: String,
        #[command(flatten)]
        name: Name,
    },
}

#[derive(Args)]
pub struct LogsArgs {
    /// The component, as `hikube logs` lists them; without it the list.
    pub component: Option<String>,
    /// So many of the last lines.
    #[arg(long, short = 'n', default_value_t = 100)]
    pub lines: usize,
    /// Go on with new lines.
    #[arg(long, short)]
    pub follow: bool,
    #[command(flatten)]
    pub name: Name,
}

#[derive(Subcommand)]
pub enum ImageCommand {
    /// Load an OCI or docker archive into every node.
    #[command(after_help = "\
Examples:
  docker save app:1 -o app.tar && hikube image load app.tar
  skopeo copy docker://nginx:1 oci-archive:nginx.tar:nginx:1 && hikube image load nginx.tar")]
    Load {
        /// The archive, not compressed.
        file: PathBuf,
        #[command(flatten)]
        name: Name,
    },
}

#[derive(Args)]
pub struct DemoArgs {
    #[command(subcommand)]
    pub command: Option<DemoCommand>,
    #[command(flatten)]
    pub name: Name,
}

#[derive(Subcommand)]
pub enum DemoCommand {
    /// Compare what was acknowledged with what is on the volume.
    #[command(after_help = "Examples:\n  hikube demo check")]
    Check(Name),
}

#[derive(Args)]
pub struct NodeArgs {
    #[command(subcommand)]
    pub step: NodeStep,
}

#[derive(Subcommand)]
pub enum NodeStep {
    /// Clean up behind dead processes.
    Clean(NodeTarget),
    /// Stop containers and let go of volumes.
    Stop(NodeTarget),
    /// Import the images that every node has.
    Images {
        /// Only the pause image.
        #[arg(long)]
        pause: bool,
        #[command(flatten)]
        target: NodeTarget,
    },
}

#[derive(Args)]
pub struct NodeTarget {
    /// The node.
    pub node: String,
    /// Its region.
    #[arg(long)]
    pub region: String,
    #[command(flatten)]
    pub name: Name,
}

#[derive(Args)]
pub struct LaunchArgs {
    /// File of the network namespace.
    #[arg(long)]
    pub netns: Option<PathBuf>,
    /// Cgroup, relative to each hierarchy's root.
    #[arg(long)]
    pub cgroup: Option<String>,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

/// What supervisors start. Each works alone, on any machine.
#[derive(Subcommand)]
#[command(next_help_heading = "Components")]
pub enum ComponentCommand {
    /// API server, scheduler and controllers in one process.
    #[command(
        after_help = "Examples:\n  hikube control-plane --identity cp-1 --advertise-address 10.0.0.1 ..."
    )]
    ControlPlane(ControlPlaneArgs),
    /// The Kubernetes API server.
    #[command(after_help = "Examples:\n  hikube apiserver --etcd-servers https://10.0.0.1:2379 ...")]
    Apiserver(apiserver::Config),
    /// The scheduler.
    #[command(after_help = "Examples:\n  hikube scheduler --kubeconfig scheduler.conf --identity a")]
    Scheduler(scheduler::Config),
    /// The controllers.
    #[command(
        after_help = "Examples:\n  hikube controller-manager --kubeconfig cm.conf --identity a --root-ca ca.crt"
    )]
    ControllerManager(ControllerManagerArgs),
    /// The kubelet of a node.
    #[command(
        after_help = "Examples:\n  hikube kubelet --kubeconfig kubelet.conf --node-name a --node-ip 10.0.0.5 ..."
    )]
    Kubelet(kubelet::Config),
    /// Services, cluster DNS and the way to the API of a node.
    #[command(after_help = "Examples:\n  hikube proxy --kubeconfig proxy.conf --node-name a ...")]
    Proxy(network::Config),
    /// The CSI driver of a node.
    #[command(after_help = "Examples:\n  hikube csi --node-name a --region geneva --endpoint csi.sock ...")]
    Csi(csi::Config),
    /// The writing side of all volumes attached to a node.
    #[command(
        after_help = "Examples:\n  hikube engine --node-name a --region geneva --socket engine.sock ..."
    )]
    Engine(replication::EngineConfig),
    /// The data storage of a region.
    #[command(
        args_conflicts_with_subcommands = true,
        subcommand_negates_reqs = true,
        after_help = "\
Examples:
  hikube store format --data-dir /srv/store --cluster prod --region geneva
  hikube store --data-dir /srv/store --cluster prod --region geneva --listen 0.0.0.0:7400 ..."
    )]
    Store(StoreArgs),
    /// Start and watch the processes of a region.
    #[command(after_help = "Examples:\n  hikube supervisor --spec geneva.json")]
    Supervisor(SupervisorArgs),
    /// Forward connections to whichever API server is ready.
    #[command(
        after_help = "Examples:\n  hikube forward --api-listen 127.0.0.1:6443 --api-backends 10.0.0.1:6443 ..."
    )]
    Forward(network::ForwardConfig),
    /// The demo's server, which runs in its pod.
    #[command(hide = true)]
    DemoServer(platform::demo::ServerConfig),
    /// The demo's client.
    #[command(hide = true)]
    DemoClient(DemoClientArgs),
}

#[derive(Args)]
pub struct ControlPlaneArgs {
    /// Name in leader elections.
    #[arg(long)]
    pub identity: String,
    /// Kubeconfig of the scheduler.
    #[arg(long)]
    pub scheduler_kubeconfig: PathBuf,
    /// Kubeconfig of the controllers.
    #[arg(long)]
    pub controllers_kubeconfig: PathBuf,
    /// The cluster's authority, published to pods.
    #[arg(long)]
    pub root_ca: PathBuf,
    #[command(flatten)]
    pub apiserver: apiserver::Config,
    #[command(flatten)]
    pub storage: Option<replication::StorageConfig>,
}

#[derive(Args)]
pub struct ControllerManagerArgs {
    #[command(flatten)]
    pub config: controllers::Config,
    #[command(flatten)]
    pub storage: Option<replication::StorageConfig>,
}

#[derive(Args)]
pub struct StoreArgs {
    #[command(subcommand)]
    pub command: Option<StoreCommand>,
    #[command(flatten)]
    pub config: Option<replication::StoreConfig>,
}

#[derive(Subcommand)]
pub enum StoreCommand {
    /// Make an empty directory the store of a region.
    Format {
        /// The directory.
        #[arg(long)]
        data_dir: PathBuf,
        /// Name of the cluster.
        #[arg(long)]
        cluster: String,
        /// The region.
        #[arg(long)]
        region: String,
    },
}

#[derive(Args)]
pub struct SupervisorArgs {
    /// What to run.
    #[arg(long)]
    pub spec: PathBuf,
    /// Renew the cluster's certificates.
    #[arg(long)]
    pub upkeep: bool,
    #[command(flatten)]
    pub name: Name,
}

#[derive(Args)]
pub struct DemoClientArgs {
    /// Where acknowledgements are noted.
    #[arg(long)]
    pub ledger: PathBuf,
    /// The Service, on every node.
    #[arg(long, value_delimiter = ',')]
    pub endpoints: Vec<std::net::SocketAddr>,
}

/// `90s`, `5m`, `1h30m`, or a number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration such as 90s, 5m or 1h30m");
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let (mut total, mut number) = (0u64, String::new());
    for c in text.chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            _ => return Err(bad()),
        };
        let value: u64 = number.parse().map_err(|_| bad())?;
        let seconds = value.checked_mul(unit).ok_or_else(bad)?;
        total = total.checked_add(seconds).ok_or_else(bad)?;
        number.clear();
    }
    match number.is_empty() && !text.is_empty() {
        true => Ok(Duration::from_secs(total)),
        false => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("5m", 300), ("1h30m", 5400), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "5x", "m", "1h30", "-1s", "99999999999999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
