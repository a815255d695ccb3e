//! A container image of PostgreSQL, assembled from what Debian's package put on this machine.

use crate::shell::output;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Name of the image in the cluster.
pub const POSTGRES: &str = "test.hikube.io/postgres:test";

/// User id of `postgres` inside the image.
pub const POSTGRES_UID: u32 = 70;

const ENTRY: &str = "#!/bin/sh
set -e
if [ ! -s /data/pg/PG_VERSION ]; then
  rm -rf /data/pg.new
  initdb -D /data/pg.new -U postgres --auth=trust --no-locale -E UTF8 >/dev/null
  echo \"host all all all trust\" >> /data/pg.new/pg_hba.conf
  mv /data/pg.new /data/pg
  sync
fi
# A mount with fsGroup gives the group access to everything; PostgreSQL refuses such a directory.
chmod 0700 /data/pg
exec postgres -D /data/pg -c listen_addresses='*' -c unix_socket_directories=/tmp -c shared_buffers=64MB \\
  -c tcp_keepalives_idle=2 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=3
";

/// Directory of the newest PostgreSQL on this machine, for example `/usr/lib/postgresql/15`.
pub fn postgres_dir() -> Result<PathBuf> {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .context("PostgreSQL is not installed")?
        .filter_map(|e| e.ok().map(|e| e.path()))
        .collect();
    versions.sort();
    versions.pop().context("no version of PostgreSQL")
}

/// Builds the archive (docker's format) and returns its path.
pub fn build_postgres(scratch: &Path) -> Result<PathBuf> {
    let home = postgres_dir()?;
    let version = home
        .file_name()
        .and_then(|n| n.to_str())
        .context("version")?
        .to_owned();
    let root = scratch.join("postgres-root");
    let _ = fs::remove_dir_all(&root);
    for dir in ["bin", "etc", "tmp", "data", "usr/bin", "usr/share/postgresql"] {
        fs::create_dir_all(root.join(dir))?;
    }
    let mut libraries = BTreeSet::new();
    for program in ["postgres", "initdb", "pg_isready", "psql"] {
        let path = home.join("bin").join(program);
        copy_into(&root, &path)?;
        symlink(&path, root.join("usr/bin").join(program))?;
        libraries.extend(libraries_of(&path)?);
    }
    let modules = home.join("lib");
    for module in [
        "dict_snowball.so",
        "plpgsql.so",
        "libpqwalreceiver.so",
        "pgoutput.so",
    ] {
        let path = modules.join(module);
        if path.exists() {
            copy_into(&root, &path)?;
            libraries.extend(libraries_of(&path)?);
        }
    }
    for library in libraries {
        copy_into(&root, &library)?;
    }
    let share = Path::new("/usr/share/postgresql").join(&version);
    output(
        Command::new("cp")
            .arg("-aL")
            .arg(&share)
            .arg(root.join("usr/share/postgresql/")),
    )?;
    fs::copy("/bin/busybox", root.join("bin/busybox")).context("busybox-static is not installed")?;
    for applet in ["sh", "rm", "mv", "sync", "sleep", "ls", "cat", "echo", "chmod"] {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(
        root.join("etc/passwd"),
        format!("postgres:x:{POSTGRES_UID}:{POSTGRES_UID}::/data:/bin/sh\n"),
    )?;
    fs::write(root.join("etc/group"), format!("postgres:x:{POSTGRES_UID}:\n"))?;
    fs::write(root.join("bin/entry"), ENTRY)?;
    output(Command::new("chmod").args(["0755"]).arg(root.join("bin/entry")))?;
    output(Command::new("chmod").args(["1777"]).arg(root.join("tmp")))?;
    pack(scratch, &root)
}

fn copy_into(root: &Path, path: &Path) -> Result<()> {
    let target = root.join(path.strip_prefix("/").context("absolute path")?);
    fs::create_dir_all(target.parent().context("parent")?)?;
    fs::copy(path, &target).with_context(|| format!("copy {}", path.display()))?;
    Ok(())
}

fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = output(Command::new("ldd").arg(program))?;
    let words = listed
        .lines()
        .filter_map(|line| line.split_whitespace().find(|w| w.starts_with('/')));
    Ok(words.map(PathBuf::from).collect())
}

/// Packs a root directory as a docker archive of one layer.
fn pack(scratch: &Path, root: &Path) -> Result<PathBuf> {
    let parts = scratch.join("postgres-image");
    let _ = fs::remove_dir_all(&parts);
    fs::create_dir_all(&parts)?;
    output(
        Command::new("tar")
            .args(["--numeric-owner", "--owner=0", "--group=0", "-C"])
            .arg(root)
            .arg("-cf")
            .arg(parts.join("layer.tar"))
            .arg("."),
    )?;
    let sum = output(Command::new("sha256sum").arg(parts.join("layer.tar")))?;
    let digest = sum.split(' ').next().context("sha256sum printed nothing")?;
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/bin:/bin", "TZ=GMT", "HOME=/data"],
            "Entrypoint": ["/bin/entry"],
            "User": format!("{POSTGRES_UID}:{POSTGRES_UID}"),
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    fs::write(parts.join("config.json"), config.to_string())?;
    let manifest =
        serde_json::json!([{"Config": "config.json", "RepoTags": [POSTGRES], "Layers": ["layer.tar"]}]);
    fs::write(parts.join("manifest.json"), manifest.to_string())?;
    let archive = scratch.join("postgres.tar");
    output(
        Command::new("tar")
            .arg("-C")
            .arg(&parts)
            .arg("-cf")
            .arg(&archive)
            .args(["manifest.json", "config.json", "layer.tar"]),
    )?;
    Ok(archive)
}
