//! What must be on the machine before processes start: programs, directories, network, certificates, images.

use super::{Cluster, Error, Say, file};
use crate::host::{cgroup, net, programs};
use crate::layout::Layout;
use crate::pki::{self, Signer, identity};
use crate::plan::{API_PORT, Datastore};
use crate::{components, files, images, kubeconfig, node};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Programs that a cluster needs, with the Debian package that has each.
const PROGRAMS: &[(&str, &str)] = &[
    ("etcd", "etcd-server"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("mkfs.ext4", "e2fsprogs"),
    ("fusermount3", "fuse3"),
    ("losetup", "mount"),
    ("busybox", "busybox-static"),
];

/// Whether this machine and this user can run a cluster.
pub(super) fn check_machine(datastore: Datastore) -> Result<(), Error> {
    let missing: Vec<_> = PROGRAMS
        .iter()
        .filter(|(p, _)| *p != "etcd" || datastore == Datastore::Etcd)
        .filter(|(p, _)| programs::find(p).is_none())
        .collect();
    let mut names: Vec<&str> = missing.iter().map(|(program, _)| *program).collect();
    let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    if !["/usr/lib/cni/bridge", "/opt/cni/bin/bridge"]
        .iter()
        .any(|p| Path::new(p).exists())
    {
        names.push("bridge (CNI)");
        packages.push("containernetworking-plugins");
    }
    packages.dedup();
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    if names.is_empty() {
        return Ok(());
    }
    Err(Error::Missing(names.join(", "), packages.join(" ")))
}

/// Socket paths have a limit that a deep `HIKUBE_ROOT` could exceed.
pub(super) fn check_paths(cluster: &Cluster) -> Result<(), Error> {
    const LIMIT: usize = 107;
    for node in &cluster.plan.nodes {
        let socket = cluster
            .layout
            .kubelet(&node.name)
            .join("plugins/csi.hikube.io/csi.sock");
        if socket.as_os_str().len() > LIMIT {
            let path = socket.display();
            return Err(Error::Other(format!(
                "{path} is too long for a socket ({LIMIT} bytes at most): use shorter names"
            )));
        }
    }
    Ok(())
}

/// Copies the binary into the cluster's state, so that the cluster does not depend on where it was built. Each
/// build has its own directory; those that no process uses any more are removed.
pub(super) fn install_binary(layout: &Layout, binary: &Path) -> Result<PathBuf, Error> {
    use sha2::{Digest, Sha256};
    let dir = layout.state().join("bin");
    if binary.starts_with(&dir) {
        return Ok(binary.into());
    }
    let metadata = std::fs::metadata(binary).map_err(file("look at", binary))?;
    let key = format!("{} {:?}", metadata.len(), metadata.modified().ok());
    let key: String = Sha256::digest(key)
        .iter()
        .take(6)
        .map(|b| format!("{b:02x}"))
        .collect();
    let target = dir.join(&key).join("hikube");
    if target.exists() {
        return Ok(target);
    }
    let parent = dir.join(&key);
    files::private_dir(&parent).map_err(file("create", &parent))?;
    let temporary = parent.join("hikube.new");
    std::fs::copy(binary, &temporary).map_err(file("copy", binary))?;
    std::fs::rename(&temporary, &target).map_err(file("write", &target))?;
    remove_unused(&dir, &parent);
    Ok(target)
}

fn remove_unused(dir: &Path, current: &Path) {
    let mut used = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        used.extend(std::fs::read_link(entry.path().join("exe")));
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path != current && !used.iter().any(|exe| exe.starts_with(&path)) {
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

/// Makes everything that processes need. What does not depend on each other is done at the same time.
pub(super) fn prepare(
    cluster: &Cluster,
    binary: &Path,
    certificate_lifetime: Duration,
    say: Say<'_>,
) -> Result<(), Error> {
    let (layout, plan) = (&cluster.layout, &cluster.plan);
    let lifetime = layout.pki().join("lifetime");
    files::ensure(&lifetime, certificate_lifetime.as_secs().to_string().as_bytes())
        .map_err(file("write", &lifetime))?;
    let cut: Vec<String> = plan
        .regions
        .iter()
        .filter(|r| components::cut_mark(layout, &r.name).exists())
        .map(|r| r.name.clone())
        .collect();
    std::thread::scope(|scope| {
        let network = scope.spawn(|| net::ensure(layout, plan, &cut));
        let pictures = scope.spawn(|| images::ensure(layout, binary));
        let issued = pki::ensure(layout, plan, certificate_lifetime)?;
        if issued > 0 {
            say(&format!("certificates: issued {issued}"));
        }
        write_kubeconfigs(cluster)?;
        directories(cluster)?;
        join(network)?;
        say(&format!(
            "network: {} with {} regions and {} nodes",
            plan.infrastructure_cidr(),
            plan.regions.len(),
            plan.nodes.len()
        ));
        join(pictures)
    })?;
    for one in &plan.nodes {
        node::ensure(layout, one)?;
    }
    Ok(())
}

fn join(thread: std::thread::ScopedJoinHandle<'_, Result<(), crate::host::Error>>) -> Result<(), Error> {
    match thread.join() {
        Ok(result) => Ok(result?),
        Err(_) => Err(Error::Other("a step of the preparation panicked".into())),
    }
}

fn directories(cluster: &Cluster) -> Result<(), Error> {
    let (layout, plan_datastore) = (&cluster.layout, cluster.plan.datastore);
    for region in &cluster.plan.regions {
        let state = match plan_datastore {
            Datastore::Etcd => layout.etcd(&region.name),
            Datastore::Embedded => layout.embedded_store(&region.name).with_file_name(""),
        };
        files::private_dir(&state).map_err(file("create", &state))?;
        format_store(cluster, &region.name)?;
        cgroup::ensure(&layout.region_cgroup(&region.name))?;
    }
    let failed = layout.failed("");
    files::private_dir(&failed).map_err(file("create", failed))
}

/// Formats a region's store, once in the cluster's life: a store whose directory was lost later is a lost replica,
/// and making it anew is for a human to decide.
fn format_store(cluster: &Cluster, region: &str) -> Result<(), Error> {
    let dir = cluster.layout.store(region);
    let mark = cluster.layout.store("").join(format!(".{region}.formatted"));
    if mark.exists() {
        return Ok(());
    }
    files::private_dir(&dir).map_err(file("create", &dir))?;
    let is_empty = std::fs::read_dir(&dir).is_ok_and(|mut d| d.next().is_none());
    if is_empty {
        replication::store_format(&dir, &cluster.plan.cluster, region)
            .map_err(|e| Error::Storage(e.to_string()))?;
    }
    files::replace(&mark, b"").map_err(file("write", &mark))
}

/// The lifetime of certificates that the cluster was brought up with.
pub(super) fn certificate_lifetime(layout: &Layout) -> Duration {
    let text = std::fs::read_to_string(layout.pki().join("lifetime")).unwrap_or_default();
    text.trim().parse().map_or(pki::LIFETIME, Duration::from_secs)
}

/// Writes the kubeconfigs of all components and of the administrator.
pub(super) fn write_kubeconfigs(cluster: &Cluster) -> Result<(), Error> {
    let (layout, plan) = (&cluster.layout, &cluster.plan);
    let write = |who: &str, identity_name: &str, port: u16| {
        let files = identity(layout, Signer::Cluster, identity_name);
        let text = kubeconfig::with_files(&format!("https://127.0.0.1:{port}"), who, &files);
        let path = layout.kubeconfig(who);
        files::ensure(&path, text.as_bytes()).map_err(file("write", &path))
    };
    let ports = plan.regions.iter().flat_map(|r| r.control_planes.iter());
    for port in ports {
        // A control plane's own loops use its own API server: when it is cut off from etcd they lose their leases.
        write(&format!("scheduler-{port}"), "scheduler", *port)?;
        write(&format!("controller-manager-{port}"), "controller-manager", *port)?;
    }
    for node in &plan.nodes {
        for kind in ["kubelet", "proxy", "csi"] {
            let name = format!("{kind}-{}", node.name);
            write(&name, &name, API_PORT)?;
        }
    }
    let path = layout.admin_kubeconfig();
    let files = identity(layout, Signer::Cluster, "admin");
    let server = format!("https://{}", plan.endpoint());
    let name = match plan.cluster.as_str() {
        "hikube" => "hikube".to_owned(),
        name => format!("hikube-{name}"),
    };
    let text = kubeconfig::embedded(&name, &server, "admin", &files).map_err(file("read", &files.cert))?;
    files::ensure(&path, text.as_bytes()).map_err(file("write", &path))?;
    Ok(())
}
