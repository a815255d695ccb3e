//! A docker archive with a pause and a busybox image, made from the static busybox of the machine.

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::path::Path;

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 18] = [
    "sh", "cat", "sleep", "echo", "env", "ls", "kill", "true", "false", "httpd", "wget", "hostname", "mount",
    "touch", "mkdir", "id", "dd", "grep",
];

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn file(archive: &mut tar::Builder<Vec<u8>>, path: &str, data: &[u8]) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_mode(0o755);
    header.set_cksum();
    archive.append_data(&mut header, path, data)
}

fn layer() -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for dir in ["bin/", "tmp/", "etc/"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(0o777);
        header.set_cksum();
        archive.append_data(&mut header, dir, std::io::empty())?;
    }
    let busybox = std::fs::read(BUSYBOX).context("busybox-static is not installed")?;
    file(&mut archive, "bin/busybox", &busybox)?;
    for applet in APPLETS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        archive.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    file(&mut archive, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\n")?;
    Ok(archive.into_inner()?)
}

/// Writes the archive: `test/pause:1` and `test/busybox:1`.
pub fn write(path: &Path) -> Result<()> {
    let layer = layer()?;
    let mut archive = tar::Builder::new(Vec::new());
    file(&mut archive, "layer.tar", &layer)?;
    let mut manifest = Vec::new();
    for (name, command) in [
        ("test/pause:1", ["sleep", "2147483647"]),
        ("test/busybox:1", ["sh", "-i"]),
    ] {
        let config = json!({"architecture": "amd64", "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": command},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))]}, "history": []});
        let config = config.to_string().into_bytes();
        let config_path = format!("{}.json", hex(&config));
        file(&mut archive, &config_path, &config)?;
        manifest.push(json!({"Config": config_path, "RepoTags": [name], "Layers": ["layer.tar"]}));
    }
    file(
        &mut archive,
        "manifest.json",
        json!(manifest).to_string().as_bytes(),
    )?;
    std::fs::write(path, archive.into_inner()?)?;
    Ok(())
}
