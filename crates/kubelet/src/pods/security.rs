//! Security settings of sandboxes and containers.

use super::build::{Error, Ingredients};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext,
};
use protos::cri::{self, security_profile::ProfileType};
use std::path::Path;

/// Masked by default in `/proc` and `/sys`, as upstream's runtimes do.
const MASKED: [&str; 8] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/sys/firmware",
];
const READ_ONLY: [&str; 6] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/proc/scsi",
];

/// Which namespaces a pod's containers share, with each other and with the node.
pub fn namespaces(spec: &PodSpec) -> cri::NamespaceOption {
    let node = |yes: Option<bool>, otherwise: cri::NamespaceMode| {
        if yes == Some(true) {
            cri::NamespaceMode::Node as i32
        } else {
            otherwise as i32
        }
    };
    let shared = spec.share_process_namespace == Some(true);
    let own = if shared {
        cri::NamespaceMode::Pod
    } else {
        cri::NamespaceMode::Container
    };
    cri::NamespaceOption {
        network: node(spec.host_network, cri::NamespaceMode::Pod),
        pid: node(spec.host_pid, own),
        ipc: node(spec.host_ipc, cri::NamespaceMode::Pod),
        target_id: String::new(),
    }
}

/// A number that may be missing.
pub fn number(value: Option<i64>) -> Option<cri::Int64Value> {
    value.map(|value| cri::Int64Value { value })
}

/// A seccomp profile; files lie below the kubelet's directory.
pub fn seccomp(profile: Option<&SeccompProfile>, root: &Path) -> cri::SecurityProfile {
    match profile.map(|p| (p.type_.as_str(), p.localhost_profile.as_deref())) {
        Some(("RuntimeDefault", _)) => profile_of(ProfileType::RuntimeDefault, String::new()),
        Some(("Localhost", Some(file))) => {
            let path = root.join("seccomp").join(file);
            profile_of(ProfileType::Localhost, path.to_string_lossy().into())
        }
        _ => profile_of(ProfileType::Unconfined, String::new()),
    }
}

fn profile_of(kind: ProfileType, localhost_ref: String) -> cri::SecurityProfile {
    cri::SecurityProfile {
        profile_type: kind as i32,
        localhost_ref,
    }
}

/// Whether a container is privileged.
pub fn privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|c| c.privileged) == Some(true)
}

/// Groups of a pod's processes, besides their first.
pub fn groups(security: &PodSecurityContext) -> Vec<i64> {
    let mut groups = security.supplemental_groups.clone().unwrap_or_default();
    groups.extend(security.fs_group);
    groups
}

/// The security settings of a container.
pub fn security(
    parts: &Ingredients<'_>,
    spec: &PodSpec,
) -> Result<cri::LinuxContainerSecurityContext, Error> {
    let own = parts.container.security_context.clone().unwrap_or_default();
    let pod = spec.security_context.clone().unwrap_or_default();
    let user = own.run_as_user.or(pod.run_as_user);
    if own.run_as_non_root.or(pod.run_as_non_root) == Some(true) {
        check_non_root(parts, user)?;
    }
    let image_user = parts.image.uid.as_ref().map(|u| u.value);
    let privileged = own.privileged == Some(true);
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let list = |items: &[&str]| {
        items
            .iter()
            .filter(|_| !unmasked)
            .map(|i| (*i).to_owned())
            .collect()
    };
    let named = user.is_none() && image_user.is_none();
    Ok(cri::LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(capabilities),
        privileged,
        namespace_options: Some(container_namespaces(parts, spec)),
        run_as_user: number(user.or(image_user)),
        run_as_username: if named {
            parts.image.username.clone()
        } else {
            String::new()
        },
        run_as_group: number(own.run_as_group.or(pod.run_as_group)),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(&pod),
        no_new_privs: no_new_privileges(&own),
        masked_paths: list(&MASKED),
        readonly_paths: list(&READ_ONLY),
        seccomp: Some(seccomp(
            own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref()),
            &parts.context.paths.root,
        )),
        apparmor: None,
    })
}

fn container_namespaces(parts: &Ingredients<'_>, spec: &PodSpec) -> cri::NamespaceOption {
    let mut options = namespaces(spec);
    let ephemeral = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .find(|c| c.name == parts.container.name);
    let target = ephemeral.and_then(|c| c.target_container_name.as_ref());
    if let Some(id) = target.and_then(|t| parts.targets.get(t)) {
        options.pid = cri::NamespaceMode::Target as i32;
        options.target_id.clone_from(id);
    }
    options
}

fn no_new_privileges(own: &SecurityContext) -> bool {
    own.allow_privilege_escalation == Some(false)
}

fn check_non_root(parts: &Ingredients<'_>, user: Option<i64>) -> Result<(), Error> {
    let root = || Error::Root(parts.id.to_string(), parts.container.name.clone());
    match (user, &parts.image.uid) {
        (Some(0), _) => Err(root()),
        (Some(_), _) => Ok(()),
        (None, Some(uid)) if uid.value == 0 => Err(root()),
        (None, Some(_)) => Ok(()),
        (None, None) if parts.image.username.is_empty() => Err(root()),
        (None, None) => Err(Error::NamedUser(parts.image.username.clone())),
    }
}

fn capabilities(given: &Capabilities) -> cri::Capability {
    cri::Capability {
        add_capabilities: given.add.clone().unwrap_or_default(),
        drop_capabilities: given.drop.clone().unwrap_or_default(),
    }
}
