//! What all parts of the kubelet share.

use crate::Config;
use crate::cgroups::Cgroups;
use crate::eviction::Evictions;
use crate::fence::Fence;
use crate::node::NodeStatus;
use crate::objects::Objects;
use crate::pods::fields::Allocatable;
use crate::pods::resize::Promised;
use crate::runtime::{Relist, Runtime};
use crate::volumes::csi::Volumes;
use crate::volumes::plugins::Plugins;
use crate::volumes::tokens::Tokens;
use client::Informer;
use client::events::Recorder;
use k8s_openapi::api::core::v1::Service;
use std::path::PathBuf;
use std::sync::Arc;

/// Directories of the kubelet; the layout is upstream's.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The kubelet's directory.
    pub root: PathBuf,
    /// Directory of the container logs.
    pub logs: PathBuf,
}

impl Paths {
    /// All of one pod.
    pub fn pod(&self, uid: &str) -> PathBuf {
        self.root.join("pods").join(uid)
    }

    /// All pods.
    pub fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// Volumes of a pod.
    pub fn volumes(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("volumes")
    }

    /// Sub path mounts of a pod.
    pub fn subpaths(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("volume-subpaths")
    }

    /// The last words of one instance of a container.
    pub fn termination_log(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.pod(uid)
            .join("containers")
            .join(container)
            .join(attempt.to_string())
    }

    /// Logs of a pod.
    pub fn pod_logs(&self, id: &crate::pods::spec::PodId) -> PathBuf {
        self.logs.join(format!("{}_{}_{}", id.namespace, id.name, id.uid))
    }

    /// Where CSI drivers register.
    pub fn plugin_sockets(&self) -> PathBuf {
        self.root.join("plugins_registry")
    }

    /// Staged CSI volumes.
    pub fn staged(&self) -> PathBuf {
        self.root.join("plugins/kubernetes.io/csi")
    }
}

/// The shared parts. One per process.
pub struct Context {
    /// How to run.
    pub config: Config,
    /// Where things are.
    pub paths: Paths,
    /// The API.
    pub client: kube::Client,
    /// The runtime.
    pub runtime: Runtime,
    /// Name of the runtime, in container IDs.
    pub runtime_name: String,
    /// What changes in the runtime.
    pub relist: Arc<Relist>,
    /// Writes Events.
    pub recorder: Recorder,
    /// ConfigMaps and Secrets.
    pub objects: Objects,
    /// Services.
    pub services: Informer<Service>,
    /// Cgroups of pods.
    pub cgroups: Cgroups,
    /// What the node offers to pods.
    pub allocatable: Allocatable,
    /// What the node reports.
    pub node: Arc<NodeStatus>,
    /// Service account tokens.
    pub tokens: Tokens,
    /// CSI drivers.
    pub plugins: Plugins,
    /// CSI volumes.
    pub volumes: Volumes,
    /// What pods were promised of it.
    pub promised: Promised,
    /// Pods that have to go since the node runs short.
    pub evictions: Evictions,
    /// Whether pods with replicated volumes may run.
    pub fence: Arc<Fence>,
}

impl Context {
    /// Addresses of the node.
    pub fn host_ips(&self) -> Vec<String> {
        vec![self.config.node_ip.to_string()]
    }
}
