//! The configurations that the runtime gets: of a sandbox, and of a container.

use super::env;
use super::expand::expand;
use super::network;
use super::resources;
use super::security::{groups, namespaces, number, privileged, seccomp, security};
use super::spec::{self, PodId, Qos};
use crate::context::Context;
use crate::runtime::labels;
use crate::volumes::{self, Mounted, subpath};
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use protos::cri;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Why a container cannot be configured; shown as `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its environment cannot be made.
    #[error(transparent)]
    Env(#[from] env::Error),
    /// One of its volumes cannot be mounted as asked.
    #[error(transparent)]
    Volume(#[from] volumes::Error),
    /// It names a volume that the pod does not have.
    #[error("cannot find volume {volume:?} to mount into container {container:?}")]
    NoVolume {
        /// Name of the volume.
        volume: String,
        /// Name of the container.
        container: String,
    },
    /// It must not run as root, but would.
    #[error("container has runAsNonRoot and image will run as root (pod: {0:?}, container: {1})")]
    Root(String, String),
    /// It must not run as root, and whether it would cannot be told.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({0}), cannot verify user is non-root"
    )]
    NamedUser(String),
}

fn pod_labels(pod: &Pod, id: &PodId) -> HashMap<String, String> {
    let mut all: HashMap<String, String> = pod
        .metadata
        .labels
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    all.extend(identity(id));
    all
}

fn identity(id: &PodId) -> [(String, String); 3] {
    [
        (labels::POD_NAME.into(), id.name.clone()),
        (labels::POD_NAMESPACE.into(), id.namespace.clone()),
        (labels::POD_UID.into(), id.uid.clone()),
    ]
}

/// The configuration of a pod's sandbox number `attempt`.
pub fn sandbox(context: &Context, pod: &Pod, id: &PodId, attempt: u32, qos: Qos) -> cri::PodSandboxConfig {
    let spec = spec::spec(pod);
    let config = &context.config;
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let dns = network::dns(
        &spec,
        &id.namespace,
        &config.cluster_dns.to_string(),
        &config.cluster_domain,
        network::parse_resolv_conf(&host),
    );
    let host_network = spec.host_network == Some(true);
    let security = spec.security_context.clone().unwrap_or_default();
    let ports = spec
        .containers
        .iter()
        .filter(|_| !host_network)
        .flat_map(|c| c.ports.iter().flatten());
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: id.name.clone(),
            uid: id.uid.clone(),
            namespace: id.namespace.clone(),
            attempt,
        }),
        hostname: if host_network {
            String::new()
        } else {
            network::kernel_hostname(pod, &config.cluster_domain)
        },
        log_directory: context.paths.pod_logs(id).to_string_lossy().into(),
        dns_config: Some(dns),
        port_mappings: ports
            .filter(|p| p.host_port.is_some_and(|h| h > 0))
            .map(port_mapping)
            .collect(),
        labels: pod_labels(pod, id),
        annotations: pod
            .metadata
            .annotations
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: context.cgroups.pod_path(qos, &id.uid),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(&spec)),
                run_as_user: number(security.run_as_user),
                run_as_group: number(security.run_as_group).filter(|_| security.run_as_user.is_some()),
                supplemental_groups: groups(&security),
                privileged: spec::containers(&spec).iter().any(|(_, c)| privileged(c)),
                readonly_rootfs: false,
                seccomp: Some(seccomp(security.seccomp_profile.as_ref(), &context.paths.root)),
            }),
            sysctls: security
                .sysctls
                .iter()
                .flatten()
                .map(|s| (s.name.clone(), s.value.clone()))
                .collect(),
        }),
    }
}

fn port_mapping(port: &k8s_openapi::api::core::v1::ContainerPort) -> cri::PortMapping {
    let protocol = match port.protocol.as_deref() {
        Some("UDP") => cri::Protocol::Udp,
        Some("SCTP") => cri::Protocol::Sctp,
        _ => cri::Protocol::Tcp,
    };
    cri::PortMapping {
        protocol: protocol as i32,
        container_port: port.container_port,
        host_port: port.host_port.unwrap_or(0),
        host_ip: port.host_ip.clone().unwrap_or_default(),
    }
}

/// What a container's configuration is made from.
pub struct Ingredients<'a> {
    /// Shared parts.
    pub context: &'a Context,
    /// The pod.
    pub pod: &'a Pod,
    /// Its identity.
    pub id: &'a PodId,
    /// Its class.
    pub qos: Qos,
    /// Its addresses.
    pub ips: &'a [String],
    /// Its volumes.
    pub volumes: &'a BTreeMap<String, Mounted>,
    /// The container.
    pub container: &'a Container,
    /// How often it was restarted before.
    pub restart_count: u32,
    /// The image to run.
    pub image: &'a cri::Image,
    /// The sandbox's containers, by name: targets of ephemeral containers.
    pub targets: &'a HashMap<String, String>,
}

/// The configuration of a container.
pub async fn container(parts: &Ingredients<'_>) -> Result<cri::ContainerConfig, Error> {
    let (context, container) = (parts.context, parts.container);
    let environment = environment(parts).await?;
    let known: HashMap<&str, &str> = environment
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect();
    let lookup = |name: &str| known.get(name).map(|v| (*v).to_owned());
    let words = |list: Option<&Vec<String>>| {
        list.iter()
            .flat_map(|l| l.iter())
            .map(|w| expand(w, &lookup))
            .collect()
    };
    let spec = spec::spec(parts.pod);
    let security = security(parts, &spec)?;
    let mut mounts = mounts(parts, &lookup)?;
    mounts.extend(own_files(parts)?);
    let log_dir = context.paths.pod_logs(parts.id).join(&container.name);
    std::fs::create_dir_all(&log_dir).map_err(volumes::Error::io("create", &log_dir))?;
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: container.name.clone(),
            attempt: parts.restart_count,
        }),
        image: Some(cri::ImageSpec {
            image: parts.image.id.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..cri::ImageSpec::default()
        }),
        command: words(container.command.as_ref()),
        args: words(container.args.as_ref()),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        mounts,
        devices: devices(parts),
        labels: identity(parts.id)
            .into_iter()
            .chain([(labels::CONTAINER_NAME.to_owned(), container.name.clone())])
            .collect(),
        annotations: annotations(parts),
        log_path: format!("{}/{}.log", container.name, parts.restart_count),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources::linux(container, parts.qos, &context.allocatable)),
            security_context: Some(security),
        }),
        envs: environment
            .into_iter()
            .map(|(key, value)| cri::KeyValue { key, value })
            .collect(),
    })
}

async fn environment(parts: &Ingredients<'_>) -> Result<Vec<(String, String)>, Error> {
    let context = parts.context;
    if !context.services.is_synced() {
        return Err(env::Error::Services.into());
    }
    let mut services = context.services.list_in(&parts.id.namespace);
    if parts.id.namespace != "default" {
        services.extend(context.services.get("default", "kubernetes"));
    }
    let host_ips = context.host_ips();
    let sources = env::Sources {
        pod: parts.pod,
        pod_ips: parts.ips,
        host_ips: &host_ips,
        allocatable: context.allocatable,
        objects: &context.objects,
        services,
    };
    Ok(env::environment(&sources, parts.container).await?)
}

fn annotations(parts: &Ingredients<'_>) -> HashMap<String, String> {
    let container = parts.container;
    let path = container
        .termination_message_path
        .as_deref()
        .unwrap_or("/dev/termination-log");
    let policy = container.termination_message_policy.as_deref().unwrap_or("File");
    [
        (labels::HASH, spec::hash(container)),
        (labels::RESTART_COUNT, parts.restart_count.to_string()),
        (labels::TERMINATION_PATH, path.into()),
        (labels::TERMINATION_POLICY, policy.into()),
        (labels::GRACE_PERIOD, spec::grace_secs(parts.pod).to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

fn mounts(
    parts: &Ingredients<'_>,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<cri::Mount>, Error> {
    let mut mounts = Vec::new();
    for (index, mount) in parts.container.volume_mounts.iter().flatten().enumerate() {
        let volume = parts
            .volumes
            .get(&mount.name)
            .filter(|v| !v.block)
            .ok_or_else(|| Error::NoVolume {
                volume: mount.name.clone(),
                container: parts.container.name.clone(),
            })?;
        mounts.push(cri::Mount {
            container_path: absolute(&mount.mount_path),
            host_path: source(parts, mount, volume, index, lookup)?
                .to_string_lossy()
                .into(),
            readonly: volume.read_only || mount.read_only == Some(true),
            selinux_relabel: false,
            propagation: propagation(parts.context, mount) as i32,
        });
    }
    Ok(mounts)
}

/// How later mounts spread. The runtime wants what is to spread to lie on a shared mount.
fn propagation(context: &Context, mount: &VolumeMount) -> cri::MountPropagation {
    let wanted = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => cri::MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => cri::MountPropagation::PropagationBidirectional,
        _ => return cri::MountPropagation::PropagationPrivate,
    };
    if let Err(error) = volumes::mounts::make_shared(&context.paths.root) {
        tracing::debug!(%error, "mounts of the kubelet's directory are not shared");
    }
    wanted
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

fn source(
    parts: &Ingredients<'_>,
    mount: &VolumeMount,
    volume: &Mounted,
    index: usize,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<PathBuf, Error> {
    let sub_path = match (&mount.sub_path_expr, &mount.sub_path) {
        (Some(expression), _) if !expression.is_empty() => expand(expression, lookup),
        (_, Some(path)) => path.clone(),
        _ => String::new(),
    };
    if sub_path.is_empty() {
        return Ok(volume.path.clone());
    }
    let name = &parts.container.name;
    let paths = &parts.context.paths;
    let uid = &parts.id.uid;
    Ok(subpath::prepare(
        paths,
        uid,
        &mount.name,
        &volume.path,
        &sub_path,
        name,
        index,
    )?)
}

fn devices(parts: &Ingredients<'_>) -> Vec<cri::Device> {
    let wanted = parts.container.volume_devices.iter().flatten();
    wanted
        .filter_map(|device| {
            let volume = parts.volumes.get(&device.name).filter(|v| v.block)?;
            Some(cri::Device {
                container_path: device.device_path.clone(),
                host_path: volume.path.to_string_lossy().into(),
                permissions: if volume.read_only { "r" } else { "mrw" }.into(),
            })
        })
        .collect()
}

/// `/etc/hosts` and the file for last words, unless the container mounts its own.
fn own_files(parts: &Ingredients<'_>) -> Result<Vec<cri::Mount>, Error> {
    let container = parts.container;
    let mounted = |path: &str| {
        container
            .volume_mounts
            .iter()
            .flatten()
            .any(|m| m.mount_path == path)
    };
    let mount = |container_path: &str, host_path: &Path| cri::Mount {
        container_path: container_path.into(),
        host_path: host_path.to_string_lossy().into(),
        ..cri::Mount::default()
    };
    let mut mounts = Vec::new();
    if !mounted("/etc/hosts") {
        let path = parts.context.paths.pod(&parts.id.uid).join("etc-hosts");
        let text = if parts
            .pod
            .spec
            .as_ref()
            .is_some_and(|s| s.host_network == Some(true))
        {
            network::hosts_of_node(
                parts.pod,
                &std::fs::read_to_string("/etc/hosts").unwrap_or_default(),
            )
        } else {
            network::hosts(parts.pod, parts.ips, &parts.context.config.cluster_domain)
        };
        std::fs::write(&path, text).map_err(volumes::Error::io("write", &path))?;
        mounts.push(mount("/etc/hosts", &path));
    }
    let message = container
        .termination_message_path
        .as_deref()
        .unwrap_or("/dev/termination-log");
    if !mounted(message) {
        let path = parts
            .context
            .paths
            .termination_log(&parts.id.uid, &container.name, parts.restart_count);
        termination_file(&path).map_err(volumes::Error::io("create", &path))?;
        mounts.push(mount(message, &path));
    }
    Ok(mounts)
}

fn termination_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(path.parent().unwrap_or(path))?;
    std::fs::write(path, "")?;
    // Whatever user the container runs as writes to it.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
}
