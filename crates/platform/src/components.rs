//! Which processes a cluster consists of, with their command lines, and under which supervisor each runs.

use crate::host::netns;
use crate::layout::Layout;
use crate::pki::{self, Signer, identity};
use crate::plan::{CLUSTER_DNS, Datastore, Node, Plan, Region, SERVICE_CIDR, STORE_PORT};
use crate::supervisor::{Component, Prepare, Unit};
use std::path::{Path, PathBuf};

/// Name of the supervisor that runs outside every region.
pub const HOST: &str = "host";

/// Order of stopping: what writes ends before what it writes to.
mod level {
    /// Kubelets, so that nothing starts containers again.
    pub const KUBELET: u8 = 0;
    /// containerd, after the node's containers and mounts.
    pub const RUNTIME: u8 = 1;
    /// Engines and CSI drivers, after the volumes were detached.
    pub const ENGINE: u8 = 2;
    /// Everything that talks to etcd and the API.
    pub const CONTROL: u8 = 3;
    /// etcd and stores.
    pub const STORAGE: u8 = 4;
}

/// The levels up to which all regions stop together, in order. A region's engines need the other regions' stores.
pub const STOP_LEVELS: [u8; 5] = [
    level::KUBELET,
    level::RUNTIME,
    level::ENGINE,
    level::CONTROL,
    level::STORAGE,
];

const GRACE_MS: u64 = 10_000;

/// Makes the specifications of one cluster.
pub struct Builder<'a> {
    /// Where everything lies.
    pub layout: &'a Layout,
    /// What there is.
    pub plan: &'a Plan,
    /// The hikube binary that components run.
    pub binary: &'a Path,
    /// Lifetime of certificates in seconds.
    pub certificate_seconds: u64,
}

impl Builder<'_> {
    /// The supervisor outside the regions: the regions' supervisors and the host's way to the API.
    pub fn host(&self) -> Unit {
        let mut unit = self.unit(HOST);
        for region in &self.plan.regions {
            let name = &region.name;
            let spec = self.layout.spec(name);
            let mut command = self.hikube("supervisor");
            command.extend(["--spec".into(), text(&spec)]);
            unit.components.push(Component {
                command,
                cgroup: format!("{}/supervisor", self.layout.region_cgroup(name)),
                unless_exists: Some(killed_mark(self.layout, name)),
                stop_level: level::CONTROL,
                ..component(format!("supervisor-{name}"))
            });
        }
        unit.components.push(self.forwarder());
        unit.components
            .extend(crate::demo::component(self.layout, self.plan, self.binary));
        unit
    }

    /// The supervisor of a region.
    pub fn region(&self, region: &Region) -> Unit {
        let mut unit = self.unit(&region.name);
        if self.plan.datastore == Datastore::Etcd {
            unit.components.push(self.etcd(region));
        }
        unit.components.push(self.store(region));
        for (i, port) in region.control_planes.iter().enumerate() {
            unit.components.push(self.control_plane(region, i, *port));
        }
        for node in self.plan.nodes_in(&region.name) {
            unit.prepare.push(Prepare {
                unless_alive: format!("engine-{}", node.name),
                command: self.node_command("clean", node),
            });
            unit.components.extend(self.node(node));
        }
        unit
    }

    fn unit(&self, name: &str) -> Unit {
        let log = self.layout.log(&format!("supervisor-{name}"));
        Unit {
            name: name.into(),
            control: self.layout.control(name),
            processes: self.layout.processes(name),
            log_dir: log.parent().map(PathBuf::from).unwrap_or_default(),
            own_log: log,
            prepare: Vec::new(),
            components: Vec::new(),
        }
    }

    fn hikube(&self, subcommand: &str) -> Vec<String> {
        vec![text(self.binary), subcommand.into()]
    }

    /// A command about a node that hooks run.
    fn node_command(&self, what: &str, node: &Node) -> Vec<String> {
        let mut command = self.hikube("node");
        let arguments = [
            what,
            "--name",
            &self.plan.cluster,
            "--region",
            &node.region,
            &node.name,
        ];
        command.extend(arguments.map(str::to_owned));
        command
    }

    fn forwarder(&self) -> Component {
        let mut command = self.hikube("forward");
        let servers = join(&self.plan.api_servers(None));
        flag(&mut command, "api-listen", self.plan.endpoint().to_string());
        flag(&mut command, "api-backends", servers);
        flag(
            &mut command,
            "api-ca",
            text(&pki::authority(self.layout, Signer::Cluster)),
        );
        Component {
            command,
            cgroup: format!("{}/host", self.layout.cgroup()),
            stop_level: level::STORAGE,
            ..component("forward".into())
        }
    }

    fn etcd(&self, region: &Region) -> Component {
        let (name, address) = (&region.name, region.address);
        let peers: Vec<String> = self
            .plan
            .regions
            .iter()
            .map(|r| format!("{}=https://{}:2380", r.name, r.address))
            .collect();
        let member = identity(self.layout, Signer::Etcd, &format!("member-{name}"));
        let peer = identity(self.layout, Signer::Etcd, &format!("peer-{name}"));
        let mut command = vec![program("etcd")];
        for (key, value) in [
            ("name", name.clone()),
            ("data-dir", text(&self.layout.etcd(name))),
            ("listen-client-urls", format!("https://{address}:2379")),
            ("advertise-client-urls", format!("https://{address}:2379")),
            ("listen-peer-urls", format!("https://{address}:2380")),
            ("initial-advertise-peer-urls", format!("https://{address}:2380")),
            ("initial-cluster", peers.join(",")),
            ("initial-cluster-state", "new".into()),
            ("initial-cluster-token", format!("hikube-{}", self.plan.cluster)),
            ("cert-file", text(&member.cert)),
            ("key-file", text(&member.key)),
            ("trusted-ca-file", text(&member.ca)),
            ("client-cert-auth", "true".into()),
            ("peer-cert-file", text(&peer.cert)),
            ("peer-key-file", text(&peer.key)),
            ("peer-trusted-ca-file", text(&peer.ca)),
            ("peer-client-cert-auth", "true".into()),
            ("heartbeat-interval", "100".into()),
            ("election-timeout", "1000".into()),
            // A member that comes back must not depose the leader; before 3.5 this is off by default.
            ("pre-vote", "true".into()),
            ("snapshot-count", "10000".into()),
            ("quota-backend-bytes", (4u64 << 30).to_string()),
            ("logger", "zap".into()),
        ] {
            command.push(format!("--{key}={value}"));
        }
        Component {
            command,
            netns: self.netns(name),
            cgroup: format!("{}/etcd", self.layout.region_cgroup(name)),
            stop_level: level::STORAGE,
            ..component(format!("etcd-{name}"))
        }
    }

    fn store(&self, region: &Region) -> Component {
        let name = &region.name;
        let files = identity(self.layout, Signer::Storage, &format!("store-{name}"));
        let mut command = self.hikube("store");
        flag(&mut command, "region", name.clone());
        flag(&mut command, "cluster", self.plan.cluster.clone());
        flag(&mut command, "data-dir", text(&self.layout.store(name)));
        flag(&mut command, "listen", format!("{}:{STORE_PORT}", region.address));
        storage_files(&mut command, &files);
        Component {
            command,
            netns: self.netns(name),
            cgroup: format!("{}/store", self.layout.region_cgroup(name)),
            stop_level: level::STORAGE,
            ..component(format!("store-{name}"))
        }
    }

    fn control_plane(&self, region: &Region, index: usize, port: u16) -> Component {
        let layout = self.layout;
        let name = control_plane_name(region, index);
        let serving = identity(layout, Signer::Cluster, &format!("apiserver-{}", region.name));
        let kubelets = identity(layout, Signer::Cluster, "kubelet-client");
        let storage = identity(layout, Signer::Storage, "control-plane");
        let mut command = self.hikube("control-plane");
        for (key, value) in [
            ("identity", name.clone()),
            ("bind", format!("0.0.0.0:{port}")),
            ("advertise-address", region.address.to_string()),
            ("tls-cert", text(&serving.cert)),
            ("tls-key", text(&serving.key)),
            ("client-ca", text(&serving.ca)),
            ("service-account-key", text(&pki::service_account_key(layout))),
            ("service-cidr", SERVICE_CIDR.into()),
            ("kubelet-client-cert", text(&kubelets.cert)),
            ("kubelet-client-key", text(&kubelets.key)),
            ("encryption-key", text(&pki::encryption_key(layout))),
            (
                "scheduler-kubeconfig",
                text(&layout.kubeconfig(&format!("scheduler-{port}"))),
            ),
            (
                "controllers-kubeconfig",
                text(&layout.kubeconfig(&format!("controller-manager-{port}"))),
            ),
            ("root-ca", text(&serving.ca)),
            ("stores", self.plan.stores()),
        ] {
            flag(&mut command, key, value);
        }
        self.state_flags(&mut command, region);
        storage_files(&mut command, &storage);
        Component {
            command,
            netns: self.netns(&region.name),
            cgroup: format!("{}/{name}", layout.region_cgroup(&region.name)),
            stop_level: level::CONTROL,
            ..component(name)
        }
    }

    /// Where a region's API server finds the cluster's state.
    fn state_flags(&self, command: &mut Vec<String>, region: &Region) {
        if self.plan.datastore == Datastore::Embedded {
            let file = self.layout.embedded_store(&region.name);
            return flag(command, "embedded-store", text(&file));
        }
        let files = identity(self.layout, Signer::Etcd, &format!("apiserver-{}", region.name));
        for (key, value) in [
            ("etcd-servers", self.plan.etcd_servers(&region.name)),
            ("etcd-cert", text(&files.cert)),
            ("etcd-key", text(&files.key)),
            ("etcd-ca", text(&files.ca)),
        ] {
            flag(command, key, value);
        }
    }

    fn node(&self, node: &Node) -> Vec<Component> {
        vec![
            self.containerd(node),
            self.pause(node),
            self.images(node),
            self.engine(node),
            self.kubelet(node),
            self.proxy(node),
            self.csi(node),
        ]
    }

    fn on_node(&self, what: &str, node: &Node, stop_level: u8) -> Component {
        Component {
            netns: self.netns(&node.name),
            cgroup: format!("{}/{what}", self.layout.node_cgroup(&node.region, &node.name)),
            stop_level,
            ..component(format!("{what}-{}", node.name))
        }
    }

    fn containerd(&self, node: &Node) -> Component {
        let config = crate::node::containerd_config_path(self.layout, &node.name);
        Component {
            command: vec![program("containerd"), "--config".into(), text(&config)],
            before_stop: self.node_command("stop", node),
            kill_cgroup: true,
            sticky: true,
            digest: crate::node::containerd_config(self.layout, &node.name),
            ..self.on_node("containerd", node, level::RUNTIME)
        }
    }

    /// Gives containerd the pause image. The kubelet waits for it: without it no pod could start.
    fn pause(&self, node: &Node) -> Component {
        let mut command = self.node_command("images", node);
        command.push("--pause".into());
        Component {
            command,
            once: true,
            after: vec![format!("containerd-{}", node.name)],
            ..self.on_node("pause", node, level::KUBELET)
        }
    }

    /// Gives containerd all other images that every node has.
    fn images(&self, node: &Node) -> Component {
        Component {
            command: self.node_command("images", node),
            once: true,
            after: vec![format!("pause-{}", node.name)],
            ..self.on_node("images", node, level::KUBELET)
        }
    }

    fn engine(&self, node: &Node) -> Component {
        let layout = self.layout;
        let files = identity(layout, Signer::Storage, &format!("engine-{}", node.name));
        let mut command = self.hikube("engine");
        flag(&mut command, "node-name", node.name.clone());
        flag(&mut command, "region", node.region.clone());
        flag(&mut command, "socket", text(&layout.engine_socket(&node.name)));
        flag(
            &mut command,
            "state-dir",
            text(&layout.node(&node.name).join("engine")),
        );
        flag(&mut command, "stores", self.plan.stores());
        storage_files(&mut command, &files);
        Component {
            command,
            // Where the kernel can, its restart is a pause: it goes on with its devices (FUSE_NOTIFY_RESEND).
            sticky: !crate::host::kernel_is_at_least(6, 9),
            keeps_descriptors: true,
            ..self.on_node("engine", node, level::ENGINE)
        }
    }

    fn kubelet(&self, node: &Node) -> Component {
        let layout = self.layout;
        let name = &node.name;
        let serving = identity(layout, Signer::Cluster, &format!("kubelet-{name}-serving"));
        let mut command = self.hikube("kubelet");
        for (key, value) in [
            ("kubeconfig", text(&layout.kubeconfig(&format!("kubelet-{name}")))),
            ("node-name", name.clone()),
            ("node-ip", node.address.to_string()),
            ("node-labels", node.labels.join(",")),
            ("pod-cidr", node.pod_cidr.clone()),
            ("root-dir", text(&layout.kubelet(name))),
            ("pod-logs-dir", text(&layout.node(name).join("pod-logs"))),
            (
                "container-runtime-endpoint",
                text(&layout.containerd_socket(name)),
            ),
            (
                "cgroup-root",
                format!("{}/pods", layout.node_cgroup(&node.region, name)),
            ),
            ("tls-cert", text(&serving.cert)),
            ("tls-key", text(&serving.key)),
            ("client-ca", text(&serving.ca)),
            ("cluster-dns", CLUSTER_DNS.to_string()),
            ("cpu-millis", node.cpu_millis.to_string()),
            ("memory-bytes", node.memory_bytes.to_string()),
            ("ephemeral-storage-bytes", node.disk_bytes.to_string()),
            ("engine-socket", text(&layout.engine_socket(name))),
            ("image-hint", image_hint(&self.plan.cluster)),
        ] {
            flag(&mut command, key, value);
        }
        Component {
            command,
            after: vec![format!("pause-{name}")],
            ..self.on_node("kubelet", node, level::KUBELET)
        }
    }

    fn proxy(&self, node: &Node) -> Component {
        let layout = self.layout;
        let mut command = self.hikube("proxy");
        for (key, value) in [
            (
                "kubeconfig",
                text(&layout.kubeconfig(&format!("proxy-{}", node.name))),
            ),
            ("node-name", node.name.clone()),
            ("node-ip", node.address.to_string()),
            ("cluster-cidr", self.plan.pod_cidr()),
            ("service-cidr", SERVICE_CIDR.into()),
            ("cluster-dns", CLUSTER_DNS.to_string()),
            ("api-listen", "127.0.0.1:6443".into()),
            ("api-backends", join(&self.plan.api_servers(Some(&node.region)))),
            ("api-ca", text(&pki::authority(layout, Signer::Cluster))),
        ] {
            flag(&mut command, key, value);
        }
        Component {
            command,
            ..self.on_node("proxy", node, level::CONTROL)
        }
    }

    fn csi(&self, node: &Node) -> Component {
        let layout = self.layout;
        let kubelet = layout.kubelet(&node.name);
        let mut command = self.hikube("csi");
        for (key, value) in [
            (
                "kubeconfig",
                text(&layout.kubeconfig(&format!("csi-{}", node.name))),
            ),
            ("node-name", node.name.clone()),
            ("region", node.region.clone()),
            ("endpoint", text(&kubelet.join("plugins/csi.hikube.io/csi.sock"))),
            ("registration", text(&kubelet.join("plugins_registry/reg.sock"))),
            ("engine-socket", text(&layout.engine_socket(&node.name))),
        ] {
            flag(&mut command, key, value);
        }
        Component {
            command,
            ..self.on_node("csi", node, level::ENGINE)
        }
    }

    fn netns(&self, unit: &str) -> Option<PathBuf> {
        Some(netns::path(&self.layout.netns(unit)))
    }
}

/// The mark that keeps a killed region's supervisor from being started.
pub fn killed_mark(layout: &Layout, region: &str) -> PathBuf {
    layout.failed(&format!("{region}.kill"))
}

/// The mark that keeps a region's uplink down.
pub fn cut_mark(layout: &Layout, region: &str) -> PathBuf {
    layout.failed(&format!("{region}.cut"))
}

/// Name of a control plane, as a component and as a candidate in elections.
pub fn control_plane_name(region: &Region, index: usize) -> String {
    match index {
        0 => format!("control-plane-{}", region.name),
        n => format!("control-plane-{}-{}", region.name, n + 1),
    }
}

/// The command that a missing image is fixed with.
fn image_hint(cluster: &str) -> String {
    match cluster {
        "hikube" => "hikube image load FILE.tar".into(),
        name => format!("hikube image load FILE.tar --name {name}"),
    }
}

fn component(name: String) -> Component {
    Component {
        name,
        stop_grace_ms: GRACE_MS,
        ..Component::default()
    }
}

fn storage_files(command: &mut Vec<String>, files: &tls::IdentityFiles) {
    flag(command, "storage-cert", text(&files.cert));
    flag(command, "storage-key", text(&files.key));
    flag(command, "storage-ca", text(&files.ca));
}

fn flag(command: &mut Vec<String>, name: &str, value: String) {
    command.push(format!("--{name}={value}"));
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn join(addresses: &[std::net::SocketAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(",")
}

fn program(name: &str) -> String {
    crate::host::programs::find(name).map_or(name.into(), |p| text(&p))
}
