//! Debian packages: what is missing is installed, and none of their services is started.

use crate::run::{checked, has_program, step};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// A package and the file or program that tells that it is there already, from Debian or from elsewhere.
pub struct Package {
    name: &'static str,
    probe: &'static str,
}

/// A package by its name and probe.
pub const fn package(name: &'static str, probe: &'static str) -> Package {
    Package { name, probe }
}

/// What a cluster and its build need.
pub const CLUSTER: &[Package] = &[
    package("gcc", "cc"),
    package("libc6-dev", "/usr/include/stdio.h"),
    package("etcd-server", "etcd"),
    package("containerd", "containerd"),
    package("runc", "runc"),
    package("containernetworking-plugins", "/usr/lib/cni/bridge"),
    package("nftables", "nft"),
    package("iproute2", "ip"),
    package("e2fsprogs", "mkfs.ext4"),
    package("fuse3", "fusermount3"),
    package("util-linux", "nsenter"),
    package("busybox-static", "/bin/busybox"),
    package("kubernetes-client", "kubectl"),
    package("conntrack", "conntrack"),
];

/// What the tests need beyond [`CLUSTER`].
pub const TESTS: &[Package] = &[
    package("fio", "fio"),
    package("xfsprogs", "mkfs.xfs"),
    package("postgresql", "/usr/lib/postgresql"),
    package("etcd-client", "etcdctl"),
    package("curl", "curl"),
    package("libnbd-bin", "nbdinfo"),
    package("qemu-utils", "qemu-img"),
];

/// Installs those of `packages` that are missing.
pub fn install(packages: &[Package]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().filter(|p| !is_there(p)).map(|p| p.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !is_root() {
        bail!("these Debian packages are missing: {list}. Run this as root, or install them first");
    }
    if !has_program("apt-get") {
        bail!("these packages are missing, and this machine has no apt-get to install them: {list}");
    }
    step(&format!(
        "Installing Debian packages (their services are not started): {list}"
    ));
    let _no_services = NoServices::new()?;
    checked(apt().args(["update", "-q"]))?;
    checked(
        apt()
            .args(["install", "-y", "-q", "--no-install-recommends"])
            .args(&missing),
    )
}

fn is_there(package: &Package) -> bool {
    if package.probe.starts_with('/') {
        Path::new(package.probe).exists()
    } else {
        has_program(package.probe)
    }
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Whether we are root, from the owner of our own entry in /proc.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

/// While it lives, Debian's maintainer scripts may start no service (invoke-rc.d asks `policy-rc.d`, and 101
/// forbids). What was there before is put back.
struct NoServices {
    before: Option<Vec<u8>>,
}

impl NoServices {
    fn new() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let before = std::fs::read(POLICY).ok();
        std::fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("write {POLICY}"))?;
        std::fs::set_permissions(POLICY, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self { before })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        let result = match &self.before {
            Some(bytes) => std::fs::write(POLICY, bytes),
            None => std::fs::remove_file(POLICY),
        };
        if let Err(error) = result {
            eprintln!("xtask: {POLICY} could not be restored: {error}");
        }
    }
}
