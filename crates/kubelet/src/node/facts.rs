//! What the machine is and has.

use crate::Config;
use crate::pods::fields::Allocatable;
use k8s_openapi::api::core::v1::NodeSystemInfo;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// The version that the node reports: of the API that this kubelet implements.
pub const KUBELET_VERSION: &str = concat!("v1.36.0-hikube.", env!("CARGO_PKG_VERSION"));

/// What the node offers.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// What pods may ask for.
    pub amounts: Allocatable,
    /// Most pods.
    pub pods: u32,
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// The configured amounts, or the machine's where none are configured.
pub fn capacity(config: &Config) -> Capacity {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cpu = config.cpu_millis.unwrap_or(cpus as u64 * 1000);
    let memory = config.memory_bytes.unwrap_or_else(machine_memory);
    let storage = config
        .ephemeral_storage_bytes
        .or_else(|| filesystem(&config.root_dir).map(|f| f.total))
        .unwrap_or(0);
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    Capacity {
        amounts: Allocatable {
            cpu_millis: number(cpu),
            memory_bytes: number(memory),
            storage_bytes: number(storage),
        },
        pods: config.max_pods,
    }
}

fn machine_memory() -> u64 {
    let text = read("/proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line
        .and_then(|l| l.split_whitespace().next())
        .and_then(|n| n.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Size and use of a filesystem.
#[derive(Clone, Copy, Debug)]
pub struct Filesystem {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that are left.
    pub available: u64,
    /// Inodes in all and left.
    pub inodes: (u64, u64),
}

/// The filesystem that holds `path`.
pub fn filesystem(path: &std::path::Path) -> Option<Filesystem> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(Filesystem {
        total: stat.f_blocks * stat.f_frsize,
        available: stat.f_bavail * stat.f_frsize,
        inodes: (stat.f_files, stat.f_favail),
    })
}

impl Capacity {
    /// As `status.capacity` shows it.
    pub fn quantities(&self) -> BTreeMap<String, Quantity> {
        let amounts = &self.amounts;
        let cpu = if amounts.cpu_millis % 1000 == 0 {
            (amounts.cpu_millis / 1000).to_string()
        } else {
            format!("{}m", amounts.cpu_millis)
        };
        let kibibytes = |bytes: i64| format!("{}Ki", bytes / 1024);
        [
            ("cpu", cpu),
            ("memory", kibibytes(amounts.memory_bytes)),
            ("ephemeral-storage", kibibytes(amounts.storage_bytes)),
            ("hugepages-2Mi", "0".into()),
            ("pods", self.pods.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), Quantity(value)))
        .into()
    }
}

/// `status.nodeInfo`.
pub fn system_info(runtime_version: &str, node: &str) -> NodeSystemInfo {
    let os = read("/etc/os-release");
    let pretty = os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    // Several nodes share one machine: what names a machine must still differ.
    let machine = read("/etc/machine-id");
    let own = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, format!("{machine}/{node}").as_bytes());
    NodeSystemInfo {
        architecture: match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
        .into(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: runtime_version.into(),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: KUBELET_VERSION.into(),
        machine_id: own.simple().to_string(),
        operating_system: "linux".into(),
        os_image: pretty.map_or_else(|| "Linux".into(), |p| p.trim_matches('"').to_owned()),
        swap: None,
        system_uuid: own.to_string(),
    }
}
