//! What a node needs on the machine besides its namespace: containerd's configuration, its cgroups, and cleaning up
//! behind it.

use crate::host::{Error, cgroup, io, mounts};
use crate::layout::Layout;
use crate::plan::Node;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long containers get between SIGTERM and SIGKILL when a node is stopped.
const CONTAINER_GRACE: Duration = Duration::from_secs(10);

/// MTU of the pods' links: that of the veths between nodes.
const MTU: u32 = 1500;
/// How long an engine may take to flush and detach all its volumes.
const DETACH_PATIENCE: Duration = Duration::from_secs(30);

/// The configuration file of a node's containerd.
pub(crate) fn containerd_config_path(layout: &Layout, node: &str) -> PathBuf {
    layout.node(node).join("containerd.toml")
}

fn cni_dir(layout: &Layout, node: &str) -> PathBuf {
    layout.node(node).join("cni")
}

/// The configuration of a node's containerd. Everything it keeps lies in the node's own directories, runc's state
/// and the pods' namespaces too, so that nodes on one machine never meet.
pub(crate) fn containerd_config(layout: &Layout, node: &str) -> String {
    let quoted = |path: &Path| format!("{:?}", path.to_string_lossy());
    let run = layout.node_run(node);
    format!(
        r#"version = 2
root = {root}
state = {state}
oom_score = 0
disabled_plugins = ["io.containerd.internal.v1.tracing", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]

[grpc]
  address = {socket}

[ttrpc]
  address = {ttrpc}

[debug]
  level = "warn"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "{snapshotter}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  Root = {runc}
  SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{cni_bin}"
  conf_dir = {cni}

[plugins."io.containerd.internal.v1.opt"]
  path = {opt}
"#,
        root = quoted(&layout.node(node).join("containerd")),
        state = quoted(&run.join("containerd")),
        socket = quoted(&layout.containerd_socket(node)),
        ttrpc = quoted(&run.join("ttrpc.sock")),
        pause = crate::images::PAUSE,
        snapshotter = snapshotter(),
        runc = quoted(&run.join("runc")),
        cni_bin = cni_binaries().display(),
        cni = quoted(&cni_dir(layout, node)),
        opt = quoted(&layout.node(node).join("opt")),
    )
}

/// Debian's directory of CNI plugins, or where everyone else puts them.
fn cni_binaries() -> &'static Path {
    let debian = Path::new("/usr/lib/cni");
    if debian.exists() {
        debian
    } else {
        Path::new("/opt/cni/bin")
    }
}

/// overlayfs where the kernel has it, copies otherwise.
fn snapshotter() -> &'static str {
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let has_overlay = filesystems.lines().any(|l| l.trim() == "nodev\toverlay");
    // A module that is not loaded yet is not listed; a directory of modules means that it can be.
    let modules = Path::new("/lib/modules").exists();
    if has_overlay || modules {
        "overlayfs"
    } else {
        "native"
    }
}

/// Makes the node's directories, configuration and cgroups.
pub(crate) fn ensure(layout: &Layout, node: &Node) -> Result<(), Error> {
    let name = &node.name;
    for dir in [
        layout.node_run(name),
        layout.kubelet(name).join("plugins/csi.hikube.io"),
        layout.kubelet(name).join("plugins_registry"),
        layout.node(name).join("pod-logs"),
        layout.node(name).join("engine"),
    ] {
        crate::files::private_dir(&dir).map_err(io("create", dir.display()))?;
    }
    let config = containerd_config_path(layout, name);
    write(&config, &containerd_config(layout, name))?;
    let addresses = layout.node_run(name).join("ipam");
    let network = network_name(layout, name);
    if let Some(conflist) = crate::cluster::conflist(&network, &node.pod_cidr, MTU, &addresses) {
        write(&cni_dir(layout, name).join("10-hikube.conflist"), &conflist)?;
    }
    let group = layout.node_cgroup(&node.region, name);
    // The pods together get the size of the instance; the daemons beside them are not throttled with them,
    // since a throttled engine would miss its deadlines.
    let pods = format!("{group}/pods");
    cgroup::ensure(&pods)?;
    cgroup::limit(
        &pods,
        cgroup::Limits {
            cpu_millis: node.cpu_millis,
            memory_bytes: node.memory_bytes,
        },
    )
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    crate::files::ensure(path, text.as_bytes())
        .map(drop)
        .map_err(io("write", path.display()))
}

/// Name of the node's CNI network; libcni's cache under `/var/lib/cni` is told apart by it.
fn network_name(layout: &Layout, node: &str) -> String {
    format!("hikube.{}.{node}", layout.cluster())
}

/// Where mounts of a node can lie.
fn mount_dirs(layout: &Layout, node: &str) -> Vec<PathBuf> {
    vec![layout.node(node), layout.node_run(node)]
}

/// Cleans up behind a node whose engine is gone: its containers, whose volumes are dead, its mounts and its loop
/// devices. containerd comes back with nothing running.
pub fn clean(layout: &Layout, region: &str, node: &str) -> Result<(), Error> {
    let group = layout.node_cgroup(region, node);
    for part in ["kubelet", "containerd", "pods"] {
        cgroup::kill(&format!("{group}/{part}"))?;
    }
    clear(layout, node)
}

/// Removes what dead processes of a node left on the machine.
fn clear(layout: &Layout, node: &str) -> Result<(), Error> {
    remove_shim_sockets(layout, node);
    mounts::clear(&mount_dirs(layout, node))?;
    // Addresses and runtime state of containers that no longer exist. After a reboot they are gone anyway.
    for stale in ["ipam", "runc", "containerd"] {
        let path = layout.node_run(node).join(stale);
        match std::fs::remove_dir_all(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(io("remove", path.display())(e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Stops a node's containers and lets go of its volumes in order, for `hikube down`.
pub async fn stop(layout: &Layout, region: &str, node: &str) -> Result<(), Error> {
    let group = layout.node_cgroup(region, node);
    cgroup::terminate(&format!("{group}/pods"), CONTAINER_GRACE)?;
    mounts::unmount_volumes(&layout.kubelet(node))?;
    match tokio::time::timeout(DETACH_PATIENCE, detach_volumes(&layout.engine_socket(node))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(status)) => Err(Error::Program {
            program: "engine",
            reason: format!("of {node} does not detach its volumes: {}", status.message()),
        }),
        Err(_) => Err(Error::Program {
            program: "engine",
            reason: format!("of {node} does not detach its volumes within {DETACH_PATIENCE:?}"),
        }),
    }
}

/// Detaches every volume of an engine. One that does not run has none.
async fn detach_volumes(socket: &Path) -> Result<(), tonic::Status> {
    use protos::engine::engine_client::EngineClient;
    use protos::engine::{DetachVolumeRequest, StatusRequest};
    let Ok(channel) = engine_channel(socket).await else {
        return Ok(());
    };
    let mut engine = EngineClient::new(channel);
    let status = engine.status(StatusRequest {}).await?.into_inner();
    for volume in status.attached {
        // Nothing uses it: its filesystem was unmounted above.
        let request = DetachVolumeRequest {
            id: volume.id,
            force: true,
        };
        engine.detach_volume(request).await?;
    }
    Ok(())
}

/// A connection to an engine's socket.
async fn engine_channel(socket: &Path) -> Result<tonic::transport::Channel, tonic::transport::Error> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(socket).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    // The address is only a name: the connector above decides where it leads.
    tonic::transport::Endpoint::from_static("http://engine")
        .connect_with_connector(connector)
        .await
}

/// After everything of a node ended: no mount and no device may be left.
pub(crate) fn finish(layout: &Layout, region: &str, node: &str) -> Result<(), Error> {
    cgroup::kill(&layout.node_cgroup(region, node))?;
    clear(layout, node)
}

/// Removes what a node kept outside its directories.
pub(crate) fn forget(layout: &Layout, node: &str) {
    let prefix = format!("{}-", network_name(layout, node));
    let cache = Path::new("/var/lib/cni/results");
    for entry in std::fs::read_dir(cache).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Whether the node's containerd accepts connections.
pub(crate) fn containerd_answers(layout: &Layout, node: &str) -> bool {
    std::os::unix::net::UnixStream::connect(layout.containerd_socket(node)).is_ok()
}

/// Imports the node's images, or only the pause image, once its containerd answers.
pub async fn import_images(layout: &Layout, node: &str, only_pause: bool) -> Result<Vec<String>, Error> {
    const PATIENCE: Duration = Duration::from_secs(60);
    const PAUSE: Duration = Duration::from_millis(50);
    let deadline = std::time::Instant::now() + PATIENCE;
    while !containerd_answers(layout, node) && std::time::Instant::now() < deadline {
        tokio::time::sleep(PAUSE).await;
    }
    crate::images::import(layout, node, only_pause)
}

/// Removes the sockets of the node's shims.
pub(crate) fn forget_shims(layout: &Layout, node: &str) {
    remove_shim_sockets(layout, node);
}

/// containerd puts the sockets of its shims into one directory for the whole machine; each container's bundle
/// names its own.
fn remove_shim_sockets(layout: &Layout, node: &str) {
    let tasks = layout
        .node_run(node)
        .join("containerd/io.containerd.runtime.v2.task/k8s.io");
    for entry in std::fs::read_dir(tasks).into_iter().flatten().flatten() {
        let Ok(address) = std::fs::read_to_string(entry.path().join("address")) else {
            continue;
        };
        if let Some(path) = address.trim().strip_prefix("unix://") {
            let _ = std::fs::remove_file(path);
        }
    }
}
