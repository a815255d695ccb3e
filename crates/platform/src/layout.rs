//! Where a cluster keeps its files, and what its namespaces, cgroups and interfaces are called.

use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Longest name of a cluster: it becomes part of socket paths, which Linux limits to 107 bytes.
const MAX_CLUSTER_CHARS: usize = 16;

/// The directories and names of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    cluster: String,
    root: PathBuf,
}

/// Why a cluster cannot be called so.
#[derive(Debug, thiserror::Error)]
#[error("cluster name {0:?} must be a DNS label of at most {MAX_CLUSTER_CHARS} characters")]
pub struct BadName(String);

impl Layout {
    /// The layout of the cluster called `cluster`. The environment variable `HIKUBE_ROOT` moves it below
    /// another directory than `/`.
    pub fn new(cluster: &str) -> Result<Self, BadName> {
        let root = std::env::var_os("HIKUBE_ROOT").map_or(PathBuf::from("/"), PathBuf::from);
        Self::below(&root, cluster)
    }

    /// The layout of a cluster below another root directory.
    pub fn below(root: &Path, cluster: &str) -> Result<Self, BadName> {
        if !crate::manifest::is_label(cluster, MAX_CLUSTER_CHARS) {
            return Err(BadName(cluster.into()));
        }
        Ok(Self {
            cluster: cluster.into(),
            root: root.into(),
        })
    }

    /// Name of the cluster.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The directory of all clusters' states.
    pub fn clusters(&self) -> PathBuf {
        self.root.join("var/lib/hikube")
    }

    /// What survives a reboot.
    pub fn state(&self) -> PathBuf {
        self.clusters().join(&self.cluster)
    }

    /// Sockets and what describes running processes.
    pub fn run(&self) -> PathBuf {
        self.root.join("run/hikube").join(&self.cluster)
    }

    /// The manifest that was last applied.
    pub fn manifest(&self) -> PathBuf {
        self.state().join("cluster.yaml")
    }

    /// Certificates and keys, in one directory per authority.
    pub fn pki(&self) -> PathBuf {
        self.state().join("pki")
    }

    /// Kubeconfigs of the components.
    pub fn kubeconfig(&self, who: &str) -> PathBuf {
        self.state().join("kubeconfig").join(who)
    }

    /// The administrator's kubeconfig, with everything embedded.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.state().join("admin.kubeconfig")
    }

    /// Data of a region's etcd member.
    pub fn etcd(&self, region: &str) -> PathBuf {
        self.state().join("etcd").join(region)
    }

    /// The embedded state store of the control plane in a region.
    pub fn embedded_store(&self, region: &str) -> PathBuf {
        self.state().join("datastore").join(region).join("state.db")
    }

    /// Replicas of a region's store.
    pub fn store(&self, region: &str) -> PathBuf {
        self.state().join("store").join(region)
    }

    /// What a node keeps.
    pub fn node(&self, node: &str) -> PathBuf {
        self.state().join("node").join(node)
    }

    /// Sockets of a node.
    pub fn node_run(&self, node: &str) -> PathBuf {
        self.run().join(node)
    }

    /// Root directory of a node's kubelet.
    pub fn kubelet(&self, node: &str) -> PathBuf {
        self.node(node).join("kubelet")
    }

    /// CRI socket of a node.
    pub fn containerd_socket(&self, node: &str) -> PathBuf {
        self.node_run(node).join("containerd.sock")
    }

    /// Socket of a node's engine.
    pub fn engine_socket(&self, node: &str) -> PathBuf {
        self.node_run(node).join("engine.sock")
    }

    /// Log file of a component.
    pub fn log(&self, component: &str) -> PathBuf {
        self.state().join("log").join(format!("{component}.log"))
    }

    /// What the supervisor `unit` (a region, or `host`) is to run.
    pub fn spec(&self, unit: &str) -> PathBuf {
        self.state().join("supervisor").join(format!("{unit}.json"))
    }

    /// Control socket of the supervisor `unit`.
    pub fn control(&self, unit: &str) -> PathBuf {
        self.run().join("supervisor").join(format!("{unit}.sock"))
    }

    /// Processes of the supervisor `unit`, as it last wrote them.
    pub fn processes(&self, unit: &str) -> PathBuf {
        self.run().join("supervisor").join(format!("{unit}.json"))
    }

    /// Present while `region` is failed on purpose.
    pub fn failed(&self, region: &str) -> PathBuf {
        self.state().join("failed").join(region)
    }

    /// Image archives that every node gets.
    pub fn images(&self) -> PathBuf {
        self.state().join("images")
    }

    /// What the demo's client keeps.
    pub fn demo(&self) -> PathBuf {
        self.state().join("demo")
    }

    /// Name of the network namespace of a region's router or of a node.
    pub fn netns(&self, unit: &str) -> String {
        format!("{}{unit}", self.netns_prefix())
    }

    /// What all namespaces of this cluster start with. A dot cannot be part of a cluster's name.
    pub fn netns_prefix(&self) -> String {
        format!("hk.{}.", self.cluster)
    }

    /// Cgroup of the cluster, relative to each hierarchy's root.
    pub fn cgroup(&self) -> String {
        format!("/hikube/{}", self.cluster)
    }

    /// Cgroup of everything in a region.
    pub fn region_cgroup(&self, region: &str) -> String {
        format!("{}/{region}", self.cgroup())
    }

    /// Cgroup of everything on a node.
    pub fn node_cgroup(&self, region: &str, node: &str) -> String {
        format!("{}/{node}", self.region_cgroup(region))
    }

    /// Name of an interface: `hk` and a hash, at most 15 characters.
    pub fn interface(&self, what: &str) -> String {
        let hash = Sha256::digest(format!("{}/{what}", self.cluster));
        let hex: String = hash.iter().take(6).map(|b| format!("{b:02x}")).collect();
        format!("hk{hex}")
    }

    /// Name of the host's nftables table.
    pub fn table(&self) -> String {
        format!("hikube_{}", self.cluster.replace('-', "_"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_their_limits() {
        let layout = Layout::below(Path::new("/"), "a-cluster-of-16c").expect("a good name");
        assert!(layout.interface("geneva").len() <= 15);
        assert_ne!(layout.interface("geneva"), layout.interface("gland"));
        let node = format!("{}-180", "g".repeat(24));
        let deepest = layout.kubelet(&node).join("plugins_registry/reg.sock");
        assert!(deepest.as_os_str().len() <= 107, "{deepest:?}");
        for bad in ["", "A", "a.b", "-a", "a_b", "a/../b", "seventeen-letters"] {
            assert!(Layout::below(Path::new("/"), bad).is_err(), "{bad}");
        }
    }
}
